"""The nodes of one process: what they send each other stays inside, the rest leaves, and each waits for itself."""

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from apnode.protocol.messages import TAGS, CoopDecline, Tick
from apnode.protocol.node import ACCEPTED, Fate, Node, Send
from apnode.protocol.wire import decode, encode
from apnode.runtime.host import Host
from apnode.runtime.process import Process
from apnode.runtime.transport import CurveKeys, ZeroMqTransport

HERE, BESIDE, AWAY = "ap/0", "ap/1", "ap/2"
KEYS, OUTSIDE = CurveKeys.of_processes([[HERE, BESIDE, "ap/99"], [AWAY, "ap/7"]])


class Relay(Node):
    """Passes on what it gets, a slot later, and is done after so many; or at its first tick."""

    def __init__(self, address: str, to: str | None, frames: int) -> None:
        super().__init__(address)
        self.heard, self.ticks = list[CoopDecline](), 0
        self._to, self._frames = to, frames
        self._handlers = {CoopDecline: self._on_decline, Tick: self._on_tick}

    def _on_decline(self, message: CoopDecline) -> Fate:
        self.heard.append(message)
        self.done = len(self.heard) >= self._frames
        if self._to is not None:
            self._send(self._to, CoopDecline(message.slot + 1, message.ap))
        return ACCEPTED

    def _on_tick(self, tick: Tick) -> Fate:
        self.ticks += 1
        self.done = True
        return ACCEPTED


class Noted(ZeroMqTransport):
    """Notes what leaves the process."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", KEYS)
        self.left = list[Sequence[Send]]()

    def send(self, endpoint: str, parcel: Sequence[Send]) -> None:
        self.left.append(parcel)
        super().send(endpoint, parcel)


@pytest.fixture
def outside() -> Iterator[ZeroMqTransport]:
    transport = ZeroMqTransport("127.0.0.1", OUTSIDE)
    yield transport
    transport.close()


def frame(slot: int) -> bytes:
    return encode(CoopDecline(slot, 7))


def test_frames_between_nodes_of_a_process_are_counted_but_do_not_leave_it(outside: ZeroMqTransport) -> None:
    here, beside, transport = Relay(HERE, BESIDE, 2), Relay(BESIDE, AWAY, 2), Noted()
    for node in (here, beside):
        node.endpoints = {HERE: transport.endpoint, BESIDE: transport.endpoint, AWAY: outside.endpoint}
    outside.send(transport.endpoint, [Send(HERE, frame(3)), Send(HERE, frame(4))])
    books = Process([Host(here), Host(beside)], transport, 60).run({HERE: [], BESIDE: []})
    assert [message.slot for message in beside.heard] == [4, 5]
    assert transport.left == [[Send(AWAY, frame(5)), Send(AWAY, frame(6))]]  # both in one parcel
    assert outside.receive(10) == [Send(AWAY, frame(5)), Send(AWAY, frame(6))]
    assert here.sent[:, TAGS[CoopDecline]].tolist() == [2, 2 * len(frame(4))]
    assert books == {"sent": 4, "received": 4, "planned": 0, "doubled": 0, "to_nobody": 0}


def test_what_is_handed_over_is_not_decoded_again() -> None:
    here, beside, transport = Relay(HERE, BESIDE, 1), Relay(BESIDE, None, 1), Noted()
    here.endpoints = {BESIDE: transport.endpoint}
    sent = here.receive(frame(3))
    Process([Host(here), Host(beside)], transport, 60).run({HERE: sent, BESIDE: []})
    assert beside.heard[0] is sent[0].message
    assert isinstance(read := decode(sent[0].frame), CoopDecline)
    assert (beside.heard[0].slot, beside.heard[0].ap) == (read.slot, read.ap) == (4, 7)


def test_a_frame_that_is_for_no_node_of_a_process_reaches_nobody(outside: ZeroMqTransport) -> None:
    here, transport = Relay(HERE, BESIDE, 1), Noted()
    outside.send(transport.endpoint, [Send("ap/99", frame(3)), Send(HERE, frame(3))])
    books = Process([Host(here)], transport, 60).run({HERE: []})
    assert (books["received"], books["to_nobody"]) == (1, 2)  # nor does what it sends to whom it does not know
    assert not transport.left


def test_a_node_that_hears_nothing_is_told_that_time_passes_however_busy_the_others_are(
    outside: ZeroMqTransport,
) -> None:
    busy, idle, transport = Relay(HERE, None, 40), Relay(BESIDE, None, 1), Noted()

    def keep_busy() -> None:
        for _ in range(40):
            outside.send(transport.endpoint, [Send(HERE, frame(3))])
            time.sleep(0.02)

    thread = threading.Thread(target=keep_busy)
    thread.start()
    Process([Host(busy), Host(idle)], transport, 0.3).run({HERE: [], BESIDE: []})
    thread.join()
    assert (busy.ticks, idle.ticks) == (0, 1)
