"""The data plane: frames straight from process to process. One small interface; ZeroMQ is the first choice.

(The second, Ray actor calls, lives in `actor`, where Ray does.) Sending never blocks and never fails: a frame that
cannot be queued, or whose endpoint cannot be reached at all, is dropped and counted, as a radio would. As a process may
hold several nodes, a frame travels with the address of its receiver before it, and a zero between the two.

Every process has a key pair of its own from the launcher. It lets in nobody else, and the key with which a frame came
says which nodes can have sent it.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import zmq
from zmq.auth.thread import ThreadAuthenticator

from apnode.protocol.node import Send

_QUEUED = 1000  # parcels of frames per process
_SLACK = 256  # a node counts what is too long for it; only what is longer by this factor is the socket's to refuse
_HANDSHAKE_MS = 10_000  # after which a connection is closed that has not shown a key of the run
_DOMAIN = "run"  # of ZAP, by which ZeroMQ asks whose key it is (RFC 27)
_LINGER_MS = 10_000  # to flush the last reports at the end of a run, even to a coordinator that is being restarted

_Peer = tuple[str, bytes]  # a process: its endpoint, its public key


class Transport(Protocol):
    """What the loop of a process needs of the network."""

    endpoint: str  # where others find the nodes of this process
    lost: int  # frames that could not be queued

    def send(self, endpoint: str, parcel: Sequence[Send]) -> None:
        """Queue frames for the process where their receivers are now, to arrive together, or drop them."""

    def receive(self, timeout_s: float) -> Sequence[Send]:
        """The next frames from a process; none after `timeout_s` without any."""

    def close(self) -> None:
        """Flush what is queued, then give everything back."""


@dataclass(frozen=True)
class CurveKeys:
    """The CURVE key pair of one process, and the public keys of all processes of the run."""

    public: bytes
    secret: bytes
    of_nodes: Mapping[str, bytes]  # by logical address, the public key of the node's process

    @classmethod
    def of_processes(cls, processes: Iterable[Sequence[str]]) -> list[CurveKeys]:
        """Fresh keys for processes, each given by the logical addresses of its nodes."""
        nodes = [*processes]
        pairs = [zmq.curve_keypair() for _ in nodes]
        of_nodes = {node: public for of_one, (public, _) in zip(nodes, pairs, strict=True) for node in of_one}
        return [cls(public, secret, of_nodes) for public, secret in pairs]

    def speakers(self) -> dict[str, frozenset[str]]:
        """By public key, as ZeroMQ has it with a frame, the nodes of its process."""
        nodes: dict[str, list[str]] = {}
        for node, public in self.of_nodes.items():
            nodes.setdefault(public.decode(), []).append(node)
        return {public: frozenset(of_one) for public, of_one in nodes.items()}


class ZeroMqTransport:
    """PULL to receive on, one PUSH per process, over TCP, encrypted by CURVE: both ends prove who they are."""

    def __init__(
        self, host: str, keys: CurveKeys, endpoint: str | None = None, most_peers: int = 500, most_bytes: int = 2**16
    ) -> None:
        """Bind a socket.

        Args:
            host: to bind to, at any port.
            keys: of this process.
            endpoint: the one that a process before this one had; None: a new one.
            most_peers: nodes to send to.
            most_bytes: of a frame; far larger ones are not even received.
        """
        self._keys = keys
        self._context = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, 64 + 2 * most_peers)  # twice: all may move at once
        most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # a socket takes up to three
        self._speakers = keys.speakers()
        self._zap = ThreadAuthenticator(self._context)
        self._zap.start()
        self._zap.configure_curve_callback(_DOMAIN, credentials_provider=self)
        self._sockets: dict[_Peer, zmq.Socket[bytes]] = {}
        self._at: dict[str, _Peer] = {}  # by address, where a node was when it was sent something last
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.curve_secretkey, self._inbox.curve_publickey = keys.secret, keys.public
        self._inbox.curve_server = True
        self._inbox.zap_domain = _DOMAIN.encode()
        self._inbox.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        self._inbox.setsockopt(zmq.MAXMSGSIZE, _SLACK * most_bytes)
        if endpoint is None:
            endpoint = f"tcp://{host}:{self._inbox.bind_to_random_port(f'tcp://{host}')}"
        else:
            self._inbox.bind(endpoint)
        self.endpoint = endpoint
        self.lost = 0

    def send(self, endpoint: str, parcel: Sequence[Send]) -> None:
        peer = endpoint, self._keys.of_nodes[parcel[0].to]
        self._note_moves(peer, parcel)
        parts = [send.to.encode() + b"\0" + send.frame for send in parcel]
        try:
            self._socket(peer).send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError:  # its queue is full, or what it said is no endpoint, or there are no sockets left
            self.lost += len(parcel)

    def receive(self, timeout_s: float) -> Sequence[Send]:
        self._inbox.rcvtimeo = math.ceil(timeout_s * 1000)  # poll() would cost more
        try:
            parts = self._inbox.recv_multipart(copy=False)
        except zmq.Again:
            return ()
        speakers = self._speakers[str(parts[0].get("User-Id"))]
        cut = [part.bytes.partition(b"\0") for part in parts]
        return [Send(to.decode("latin-1"), frame, speakers=speakers) for to, _, frame in cut]

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a public key is of this run; asked by ZeroMQ, of whoever connects."""
        return key.decode() in self._speakers

    def close(self) -> None:
        self._inbox.close(linger=0)
        self._zap.stop()
        for socket in self._sockets.values():
            socket.close(linger=_LINGER_MS)
        self._context.term()

    def _note_moves(self, peer: _Peer, parcel: Sequence[Send]) -> None:
        """Close the sockets to where nobody is any more."""
        for send in parcel:
            before, self._at[send.to] = self._at.get(send.to, peer), peer
            if before != peer and before in self._sockets and before not in self._at.values():
                self._sockets.pop(before).close(linger=0)

    def _socket(self, peer: _Peer) -> zmq.Socket[bytes]:
        """The socket connected to a process; whoever else is there gets nothing."""
        if peer in self._sockets:
            return self._sockets[peer]
        socket = self._context.socket(zmq.PUSH)
        try:
            socket.curve_serverkey = peer[1]
            socket.curve_publickey, socket.curve_secretkey = self._keys.public, self._keys.secret
            socket.setsockopt(zmq.SNDHWM, _QUEUED)
            socket.connect(peer[0])
        except zmq.ZMQError:
            socket.close(linger=0)
            raise
        self._sockets[peer] = socket
        return socket
