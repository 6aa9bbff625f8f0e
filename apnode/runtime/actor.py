"""Ray actors around pure nodes: shells with no decisions in them.

Ray places, starts and restarts them; frames do not pass through Ray unless the config says so. A constructor
never raises: Ray would not start the actor again.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from apnode.access_point import AccessPoint
from apnode.agent.policies import Policy, make_policy, trained_policy
from apnode.config import Config
from apnode.protocol.limits import largest_frame
from apnode.protocol.messages import FloatArray
from apnode.protocol.node import CHANNEL, COORDINATOR, Node, Send
from apnode.runtime.checkpoint import Checkpoints
from apnode.runtime.host import CHECKPOINTS, Host, restore
from apnode.runtime.injector import Fault, Injector, NodeFaults, Struck
from apnode.runtime.transport import CurveKeys, Transport, ZeroMqTransport

LAST_FRAMES_S = 5.0  # frames that are not in so long after the run's end are lost
_LAST_WORDS_S = 0.1  # for a transport to send what a node says before a planned death


@dataclass(frozen=True)
class Network:
    """How the actors of one run reach each other; handed out by the launcher."""

    transport: str  # as in config.Run.transport
    host: str | None  # to bind to; None: the address by which Ray knows the machine
    keys: CurveKeys
    folder: str | None = None  # of the run, for checkpoints and the journal: the same name on every machine
    first_slot: int = 0  # to open


def run_node(
    host: Host,
    transport: Transport,
    first: Iterable[Send] = (),
    deadline_s: float | None = None,
    phase: Callable[[], object] | None = None,
    slot_s: float = 0.0,
) -> dict[str, int]:
    """Run a node until it is done: frames in, `receive`, frames out. Never waits for a peer.

    Args:
        host: holds the state machine.
        transport: carries its frames; closed at the end.
        first: what it sends before anything comes in.
        deadline_s: the node gets a Tick whenever so long has passed within one phase [s].
        phase: names what the node is waiting for; without it, every frame begins a new phase.
        slot_s: what is sent when the node opens a slot is held back until so long after it opened the one before [s].

    Returns:
        frames that no report tells of: the host's books, and those `to_nobody`.
    """
    node = host.node
    _send_all(node, transport, host.begin(list(first)))
    waiting_for, since = phase and phase(), time.monotonic()
    opens = time.monotonic()
    while not node.done:
        left = None if deadline_s is None else max(0.0, since + deadline_s - time.monotonic())
        leisure = node.has_leisure
        frames = transport.receive(0 if leisure else left)
        if leisure and not frames:
            node.use_leisure()
            continue
        before = node.opened
        answers = list[Send]()
        try:
            for frame in frames:
                answers += host.receive(frame)
            if not frames:
                answers = host.tick()
        except Struck as struck:
            _send_all(node, transport, answers + struck.last_words)
            _suffer(struck.fault)
            continue
        if slot_s and node.opened > before:
            time.sleep(max(0.0, opens - time.monotonic()))
            opens = time.monotonic() + slot_s
        _send_all(node, transport, answers)
        if not frames or phase is None or phase() != waiting_for:
            waiting_for, since = phase and phase(), time.monotonic()
    transport.close()
    return {**host.books(), "to_nobody": transport.lost}


def _suffer(fault: Fault) -> None:
    """End this process, or freeze it, as the fault plan says: for real."""
    time.sleep(_LAST_WORDS_S)
    if fault.action == "restart":
        os._exit(1)
    os.kill(os.getpid(), signal.SIGSTOP if fault.action == "hang" else signal.SIGKILL)


def _send_all(node: Node, transport: Transport, sends: Iterable[Send]) -> None:
    """Send frames, those to the same peer together."""
    parcels: dict[str, list[bytes]] = {}
    for send in sends:
        parcels.setdefault(send.to, []).append(send.frame)
    for peer, frames in parcels.items():
        if endpoint := node.endpoints.get(peer):
            transport.send(peer, endpoint, frames)
        else:
            transport.lost += len(frames)


def own_address() -> str:
    """The address by which Ray knows this machine."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


class NodeActor:
    """What all actors have in common: a name, a transport, and a way in for frames that come as Ray calls."""

    def __init__(self, name: str, config: Config, network: Network, faults: NodeFaults) -> None:
        self.config = config
        self.faults = faults
        self._name = name
        self._network = network
        self._transport: Transport | None = None
        self._inbox: queue.SimpleQueue[Sequence[bytes]] = queue.SimpleQueue()

    def open(self, endpoint: str | None = None) -> str:
        """Open the transport, if it is not, at an endpoint that peers know already, if any; returns the endpoint."""
        return self.transport(endpoint).endpoint

    def deliver(self, frames: Sequence[bytes]) -> None:
        """Frames from a peer whose transport is Ray calls."""
        self._inbox.put(frames)

    def process(self) -> tuple[int, str]:
        """Process id and address of the machine."""
        return os.getpid(), own_address()

    def transport(self, endpoint: str | None = None) -> Transport:
        """The transport, opened the first time."""
        if self._transport is None and self._network.transport == "ray-calls":
            self._transport = RayCallTransport(self._name, self._inbox)
        elif self._transport is None:
            host = self._network.host or own_address()
            self._transport = ZeroMqTransport(
                host, self._network.keys, endpoint, self.config.radio.num_aps + 1, largest_frame(self.config)
            )
        return self._transport

    def folder(self) -> Path | None:
        """Where the run keeps its files, on this machine."""
        return None if self._network.folder is None else Path(self._network.folder)

    def host(self, node: Node, incarnation: int, checkpoints: Checkpoints | None = None, late: int = 0) -> Host:
        """The node with its disk and its faults; ends this process if the plan says that it fails to start."""
        if self.faults == NodeFaults():
            return Host(node, checkpoints, late=late)
        injector = Injector(self.faults, node.address, incarnation, self._network.first_slot)
        if injector.failing_starts:
            os._exit(1)
        folder = self.folder()
        return Host(node, checkpoints, injector, None if folder is None else folder / CHECKPOINTS, late)


class ApActor(NodeActor):
    """One AP: its DDQN, replay buffer and CSI live in this process and never leave it."""

    def __init__(self, name: str, config: Config, network: Network, faults: NodeFaults, ap: int, late: int) -> None:
        super().__init__(name, config, network, faults)
        self._ap = ap
        self._late = late  # coherence blocks by which its estimates come late to others
        self._policy: Policy | None = None

    def warm_up(self, weights: list[FloatArray] | None = None) -> tuple[int, str]:
        """Import and build the agent ahead of the first slot, `weights` as for `run`; returns as `process`."""
        self._policy = self._make_policy(weights)
        gc.freeze()  # else the garbage collector walks through all of Ray and torch again and again
        return self.process()

    def run(
        self, channel: str, coordinator: str, incarnation: int, weights: list[FloatArray] | None = None
    ) -> dict[str, int]:
        """Take part in the run, to its end.

        Args:
            channel: endpoint of the channel server.
            coordinator: that of the coordinator.
            incarnation: how many processes of this AP have ended.
            weights: of an agent that has learned and is not to learn; None: the policy is the config's.

        Returns:
            `completed`, how many slots, `unsaved`, how many checkpoints since the last report could not be written, and
            what `run_node` returns.
        """
        policy = self._policy or self._make_policy(weights)
        node = AccessPoint(self._ap, self.config, policy, incarnation)
        node.endpoints |= {CHANNEL: channel, COORDINATOR: coordinator}
        folder, checkpoints = self.folder(), None
        if folder is not None:
            checkpoints = Checkpoints(folder / CHECKPOINTS, f"ap-{self._ap}")
            restore(node, checkpoints, self._network.first_slot)
        transport = self.transport()
        host = self.host(node, incarnation, checkpoints, self._late)
        books = run_node(host, transport, node.start(transport.endpoint), deadline_s=LAST_FRAMES_S)
        return {"completed": node.completed, "unsaved": node.unsaved, **books}

    def _make_policy(self, weights: list[FloatArray] | None) -> Policy:
        if weights is None:
            return make_policy(self._ap, self.config)
        return trained_policy(self._ap, self.config, weights)


class RayCallTransport:
    """Frames as one-way Ray actor calls: slow, but needs no port of its own."""

    def __init__(self, name: str, inbox: queue.SimpleQueue[Sequence[bytes]]) -> None:
        self.endpoint = name
        self.lost = 0
        self._inbox = inbox
        self._peers: dict[str, Any] = {}

    def send(self, peer: str, endpoint: str, frames: Sequence[bytes]) -> None:
        try:
            if endpoint not in self._peers:
                self._peers[endpoint] = ray.get_actor(endpoint)
            self._peers[endpoint].deliver.options(num_returns=0).remote(frames)
        except (RayError, ValueError):  # the peer is dead, or has not registered its name yet
            self._peers.pop(endpoint, None)
            self.lost += len(frames)

    def receive(self, timeout_s: float | None) -> Sequence[bytes]:
        try:
            return self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return ()

    def close(self) -> None:
        self._peers.clear()
