"""The coordinator as a Ray actor: it collects reports and answers the launcher's questions, nothing else."""

from __future__ import annotations

from typing import Any

from apnode.config import Config
from apnode.protocol.fields import Message
from apnode.protocol.node import CHANNEL, Send
from apnode.runtime.actor import SILENCE_S, Network, NodeActor
from apnode.runtime.injector import NodeFaults
from apnode.runtime.process import Process
from coordinator.collector import Coordinator
from coordinator.journal import JOURNAL, Journal
from coordinator.record import Record
from coordinator.watch import Watch, Watcher


class WatchedCoordinator(Coordinator):
    """A coordinator that lets a watcher look after every frame."""

    watcher: Watcher | None = None

    def receive(
        self, frame: bytes, message: Message | None = None, speakers: frozenset[str] | None = None
    ) -> list[Send]:
        out = super().receive(frame, message, speakers)
        if self.watcher is not None:
            self.watcher.look()
        return out


class CoordinatorActor(NodeActor):
    """Runs one Coordinator; answers while it runs, so it needs two threads."""

    def __init__(self, name: str, config: Config, network: Network, faults: NodeFaults) -> None:
        super().__init__(name, config, network, faults)
        folder = self.folder()
        self._node = WatchedCoordinator(config, None if folder is None else Journal(folder / JOURNAL))
        self._said = list[str]()  # by the watcher, for the launcher to pass on

    def run(self, channel: str, own: str, incarnation: int) -> tuple[Record, dict[str, int]]:
        """Collect until the run is over; returns what was collected, and what `Process.run` returns."""
        node = self._node
        node.endpoints[CHANNEL] = channel
        transport = self.transport(own)
        first = node.ask_again() if incarnation else []
        books = Process([self.host(node, incarnation)], transport, SILENCE_S).run({node.address: first})
        return node.record, books

    def latest(self) -> tuple[int, dict[str, Any] | None, list[int], list[str]]:
        """The newest slot, the row of the one before it, the APs that may be hung, and what a person is to be told."""
        said, self._said = self._said, []
        return self._node.newest, self._node.latest(), self._node.hung(), said

    def give_up(self, ap: int) -> None:
        """An AP is not restarted any more."""
        self._node.given_up.add(ap)

    def watch(self, watch: Watch) -> None:
        """Let the run be watched, on this machine."""
        self._node.watcher = Watcher(watch, lambda: self._node, lambda text: self._said.append(text))
