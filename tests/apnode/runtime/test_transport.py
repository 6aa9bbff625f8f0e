"""ZeroMQ as nodes use it: real sockets, many peers, and peers that move."""

import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq

from apnode.protocol.node import Send
from apnode.runtime.transport import CurveKeys, ZeroMqTransport

PEERS = [f"ap/{peer}" for peer in range(2000)]
KEYS = CurveKeys.of_processes([["channel"], PEERS[:1], PEERS[1:]])
Opening = Callable[..., ZeroMqTransport]
SENDER, PEER = KEYS[0], KEYS[2]  # of processes that send and receive here


@pytest.fixture
def few_files() -> Iterator[None]:
    """A shell's usual limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def open_node() -> Iterator[Callable[..., ZeroMqTransport]]:
    """Opens transports, and closes them when the test ends."""
    opened = []

    def opening(keys: CurveKeys = PEER, most_peers: int = 500, host: str = "127.0.0.1") -> ZeroMqTransport:
        opened.append(ZeroMqTransport(host, keys, most_peers=most_peers))
        return opened[-1]

    yield opening
    for each in opened:
        each.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_node_reaches_1100_peers(few_files: None, open_node: Opening) -> None:
    sender, context = open_node(SENDER, 1100), zmq.Context()
    context.set(zmq.MAX_SOCKETS, 2000)
    peers = []
    for peer in range(1100):
        inbox = context.socket(zmq.PULL)
        inbox.curve_secretkey, inbox.curve_publickey, inbox.curve_server = PEER.secret, PEER.public, True
        inbox.rcvtimeo = 60_000
        port = inbox.bind_to_random_port("tcp://127.0.0.1")
        sender.send(f"tcp://127.0.0.1:{port}", [Send(PEERS[1 + peer], b"%d" % peer)])
        peers.append(inbox)
    assert sender.lost == 0
    assert [inbox.recv() for inbox in peers] == [b"ap/%d\0%d" % (1 + peer, peer) for peer in range(1100)]
    context.destroy(linger=0)


def test_sockets_to_where_a_peer_was_are_closed(open_node: Opening) -> None:
    """10,000 restarts of twenty peers, each elsewhere: as an AP of a long run sees them."""
    sender = open_node(SENDER, 20)
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


def test_a_peer_that_moved_is_found_where_it_is(open_node: Opening) -> None:
    sender, first, second = open_node(SENDER), open_node(), open_node()
    sender.send(first.endpoint, [Send("ap/1", b"here")])
    assert first.receive(10) == [Send("ap/1", b"here")]
    sender.send(second.endpoint, [Send("ap/1", b"there")])
    assert second.receive(10) == [Send("ap/1", b"there")]
    assert not first.receive(0.1)


@pytest.mark.parametrize("endpoint", ["nowhere", "tcp://", "tcp://no.such.host.invalid:x"])
def test_an_endpoint_that_is_none_costs_its_frames_and_no_more(endpoint: str, open_node: Opening) -> None:
    sender, peer = open_node(SENDER), open_node()
    sender.send(endpoint, [Send("ap/1", b"a"), Send("ap/2", b"b")])
    assert sender.lost == 2
    sender.send(peer.endpoint, [Send("ap/1", b"c")])
    assert peer.receive(10) == [Send("ap/1", b"c")]


# --- who is let in, and who speaks -------------------------------------------------------------------------


def test_a_frame_comes_with_the_nodes_whose_key_it_came_with(open_node: Opening) -> None:
    peer = open_node()
    for keys, speakers in ((SENDER, {"channel"}), (KEYS[1], {"ap/0"}), (PEER, {*PEERS[1:]})):
        open_node(keys).send(peer.endpoint, [Send("ap/1", b"a"), Send("ap/2", b"b")])
        assert [send.speakers for send in peer.receive(10)] == [speakers, speakers]


def test_a_stranger_is_not_let_in_though_it_knows_all_public_keys(open_node: Opening) -> None:
    (own,) = CurveKeys.of_processes([["channel"]])
    stranger = open_node(CurveKeys(own.public, own.secret, PEER.of_nodes))
    peer, sender = open_node(), open_node(SENDER)
    stranger.send(peer.endpoint, [Send("ap/1", b"forged")])
    assert not peer.receive(1)
    sender.send(peer.endpoint, [Send("ap/1", b"true")])
    assert peer.receive(10) == [Send("ap/1", b"true")]
    assert not peer.receive(0.5)


def test_what_is_for_a_node_reaches_no_other_process_that_claims_to_be_where_it_is(open_node: Opening) -> None:
    sender, thief, peer = open_node(SENDER), open_node(KEYS[1]), open_node()
    sender.send(thief.endpoint, [Send("ap/1", b"secret")])
    assert not thief.receive(1)
    sender.send(thief.endpoint, [Send("ap/0", b"its own")])
    assert thief.receive(10) == [Send("ap/0", b"its own")]
    sender.send(peer.endpoint, [Send("ap/1", b"later")])
    assert peer.receive(10) == [Send("ap/1", b"later")]


RECEIVER = """
import sys
from apnode.runtime.transport import CurveKeys, ZeroMqTransport
public, secret, other = (text.encode() for text in sys.argv[1:])
transport = ZeroMqTransport("127.0.0.1", CurveKeys(public, secret, {"ap/1": public, "channel": other}))
print(transport.endpoint, flush=True)
print(transport.receive(60)[0].frame.decode(), flush=True)
"""


def test_connections_that_say_nothing_keep_a_peer_out_for_seconds_only(open_node: Opening) -> None:
    """They hold all files that a process may open, and come again and again; their time is up after 10 s."""
    keys = (PEER.public, PEER.secret, SENDER.public)
    command = ["sh", "-c", 'ulimit -n 300; exec "$0" "$@"', sys.executable, "-c", RECEIVER, *map(bytes.decode, keys)]
    silent, ended = list[socket.socket](), threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        endpoint = receiver.stdout.readline().strip()
        host, _, port = endpoint.removeprefix("tcp://").partition(":")

        def attack() -> None:
            while not ended.is_set():
                with suppress(OSError):
                    silent.append(socket.create_connection((host, int(port)), timeout=1))
                time.sleep(0.01)

        attacker = threading.Thread(target=attack)
        attacker.start()
        time.sleep(5)
        assert len(list(Path(f"/proc/{receiver.pid}/fd").iterdir())) == 300  # it has none left
        open_node(SENDER).send(endpoint, [Send("ap/1", b"here")])
        heard = receiver.stdout.readline()
        ended.set()
        attacker.join()
    for each in silent:
        each.close()
    assert heard == "here\n"
