"""The loop of a process: frames in, `receive`, frames out, for one node or several; and how a fault plan ends it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from apnode.access_point import AccessPoint, use_leisure_together
from apnode.protocol.node import Node, Send
from apnode.runtime.host import Host
from apnode.runtime.injector import Fault, Struck
from apnode.runtime.transport import Transport

_LAST_WORDS_S = 0.1  # for a transport to send what a node says before a planned death


class Process:
    """The nodes of one process. What they send each other does not leave it: it is handed over, frame and message."""

    def __init__(
        self,
        hosts: Iterable[Host],
        transport: Transport,
        deadline_s: float,
        phase: Callable[[], object] | None = None,
        slot_s: float = 0.0,
    ) -> None:
        """Bring nodes together.

        Args:
            hosts: hold the state machines.
            transport: carries frames from and to other processes.
            deadline_s: a node gets a Tick whenever so long has passed within one phase [s].
            phase: names what the node, if it is the only one, is waiting for; without it, every frame that a node gets
                begins a new phase for it.
            slot_s: what is sent when a node opens a slot is held back until so long after the one before [s].
        """
        self._hosts = {host.node.address: host for host in hosts}
        self._transport, self._deadline_s, self._phase, self._slot_s = transport, deadline_s, phase, slot_s
        self._inside: list[Send] = []  # for nodes of this process
        self._opens = time.monotonic()  # the next slot, at the earliest
        self._waiting_for = phase and phase()
        self._since = dict.fromkeys(self._hosts, time.monotonic())  # by address, when the phase began

    def run(self, first: Mapping[str, Sequence[Send]]) -> dict[str, int]:
        """Run all nodes until the last is done, then close the transport. Never waits for a peer.

        Args:
            first: by address, what a node sends before anything comes in.

        Returns:
            frames that no report tells of: the hosts' books together, and those `to_nobody`.
        """
        self._pass_on([(host.node, host.begin(list(first[address]))) for address, host in self._hosts.items()])
        while self._inside or (waiting := [host.node for host in self._hosts.values() if not host.node.done]):
            if self._inside:
                frames, self._inside = self._inside, []
                self._take_in(frames)
                continue
            leisure = [node for node in waiting if isinstance(node, AccessPoint) and node.has_leisure]
            left = min(self._since[node.address] for node in waiting) + self._deadline_s - time.monotonic()
            received = self._transport.receive(0 if leisure else max(0.0, left))
            if received:
                self._take_in(received)
            elif leisure:
                use_leisure_together(leisure)
                for node in leisure:
                    node.use_leisure()  # with an agent that learns by itself
            else:
                self._let_time_pass(waiting)
        self._transport.close()
        books = Counter[str]()
        for host in self._hosts.values():
            books.update(host.books())
        return {**books, "to_nobody": self._transport.lost}

    def _take_in(self, frames: Sequence[Send]) -> None:
        """Let nodes receive frames; one for a node that is not here is lost: its process had this endpoint before."""
        here = [(self._hosts[send.to], send) for send in frames if send.to in self._hosts]
        self._transport.lost += len(frames) - len(here)
        self._let([(host, partial(host.receive, send.frame, send.message, send.speakers)) for host, send in here])
        if self._phase is None:
            self._since.update(dict.fromkeys((send.to for _, send in here), time.monotonic()))
        elif self._phase() != self._waiting_for:
            self._begin_phase()

    def _let_time_pass(self, nodes: Iterable[Node]) -> None:
        """Tell nodes whose deadline is past."""
        now = time.monotonic()
        late = [node.address for node in nodes if self._since[node.address] + self._deadline_s <= now]
        self._let([(self._hosts[address], self._hosts[address].tick) for address in late])
        self._since.update(dict.fromkeys(late, time.monotonic()))
        self._waiting_for = self._phase and self._phase()

    def _begin_phase(self) -> None:
        self._waiting_for = self._phase and self._phase()
        self._since = dict.fromkeys(self._hosts, time.monotonic())

    def _let(self, acts: Iterable[tuple[Host, Callable[[], list[Send]]]]) -> None:
        """Let nodes act, then send what they want sent. Who raises is noted on the exception: it ends the process."""
        out, before = list[tuple[Node, Sequence[Send]]](), self._newest
        for host, act in acts:
            try:
                out.append((host.node, act()))
            except Struck as struck:
                self._pass_on([*out, (host.node, struck.last_words), *self._last_words(host, struck.fault)])
                _suffer(struck.fault)
                return
            except Exception as error:
                error.add_note(host.node.address)
                raise
        if self._slot_s and self._newest > before:
            time.sleep(max(0.0, self._opens - time.monotonic()))
            self._opens = time.monotonic() + self._slot_s
        self._pass_on(out)

    @property
    def _newest(self) -> int:
        """The newest slot that a node has opened."""
        return max(host.node.opened for host in self._hosts.values()) if self._slot_s else 0

    def _last_words(self, struck: Host, fault: Fault) -> list[tuple[Node, Sequence[Send]]]:
        """What the other nodes of a process say of the faults that strike them, as they end with it."""
        others = [host for host in self._hosts.values() if host is not struck]
        return [(host.node, host.strike(fault.slot)[0]) for host in others]

    def _pass_on(self, out: Iterable[tuple[Node, Sequence[Send]]]) -> None:
        """Hand over what is for nodes of this process, and send the rest, all that is for one process together."""
        parcels: dict[str, list[Send]] = {}
        for node, sends in out:
            for send in sends:
                if not (endpoint := node.endpoints.get(send.to)):
                    self._transport.lost += 1
                elif send.to in self._hosts:
                    self._inside.append(send)
                else:
                    parcels.setdefault(endpoint, []).append(send)
        for endpoint, parcel in parcels.items():
            self._transport.send(endpoint, parcel)


def _suffer(fault: Fault) -> None:
    """End this process, or freeze it, as the fault plan says: for real."""
    time.sleep(_LAST_WORDS_S)
    if fault.action == "restart":
        os._exit(1)
    os.kill(os.getpid(), signal.SIGSTOP if fault.action == "hang" else signal.SIGKILL)
