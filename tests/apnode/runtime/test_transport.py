"""ZeroMQ as nodes use it: real sockets, many peers, and peers that move."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from apnode.protocol.node import Send
from apnode.runtime.transport import CurveKeys, ZeroMqTransport

KEYS = CurveKeys.generate()


@pytest.fixture
def few_files() -> Iterator[None]:
    """A shell's usual limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def node(most_peers: int = 500) -> ZeroMqTransport:
    return ZeroMqTransport("127.0.0.1", KEYS, most_peers=most_peers)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_node_reaches_1100_peers(few_files: None) -> None:
    sender, context = node(1100), zmq.Context()
    context.set(zmq.MAX_SOCKETS, 2000)
    peers = []
    for peer in range(1100):
        inbox = context.socket(zmq.PULL)
        inbox.curve_secretkey, inbox.curve_publickey, inbox.curve_server = KEYS.secret, KEYS.public, True
        inbox.rcvtimeo = 60_000
        port = inbox.bind_to_random_port("tcp://127.0.0.1")
        sender.send(f"tcp://127.0.0.1:{port}", [Send(f"ap/{peer}", b"%d" % peer)])
        peers.append(inbox)
    assert sender.lost == 0
    assert [inbox.recv() for inbox in peers] == [b"ap/%d\0%d" % (peer, peer) for peer in range(1100)]
    context.destroy(linger=0)
    sender.close()


def test_sockets_to_where_a_peer_was_are_closed() -> None:
    """10,000 restarts of twenty peers, each elsewhere: as an AP of a long run sees them."""
    sender = node(20)
    held, until = [], time.monotonic() + 60
    for restart in range(10_000):
        before = sender.lost
        sender.send(f"tcp://127.0.0.1:{20_000 + restart}", [Send(f"ap/{restart % 20}", b"hello")])
        while sender.lost > before and time.monotonic() < until:  # ZeroMQ closes in a thread of its own
            before, _ = sender.lost, time.sleep(0.001)
            sender.send(f"tcp://127.0.0.1:{20_000 + restart}", [Send(f"ap/{restart % 20}", b"hello")])
        assert sender.lost == before
        held.append(open_files() if restart % 1000 == 999 else 0)
    assert max(held) < 400
    sender.close()


def test_a_peer_that_moved_is_found_where_it_is() -> None:
    sender, first, second = node(), node(), node()
    sender.send(first.endpoint, [Send("ap/1", b"here")])
    assert first.receive(10) == [Send("ap/1", b"here")]
    sender.send(second.endpoint, [Send("ap/1", b"there")])
    assert second.receive(10) == [Send("ap/1", b"there")]
    assert not first.receive(0.1)
    for each in (sender, first, second):
        each.close()


@pytest.mark.parametrize("endpoint", ["nowhere", "tcp://", "tcp://no.such.host.invalid:x"])
def test_an_endpoint_that_is_none_costs_its_frames_and_no_more(endpoint: str) -> None:
    sender, peer = node(), node()
    sender.send(endpoint, [Send("ap/1", b"a"), Send("ap/2", b"b")])
    assert sender.lost == 2
    sender.send(peer.endpoint, [Send("ap/1", b"c")])
    assert peer.receive(10) == [Send("ap/1", b"c")]
    sender.close()
    peer.close()
