"""The data plane: frames straight from node to node. One small interface; ZeroMQ is the first choice.

(The second, Ray actor calls, lives in `actor`, where Ray does.) Sending never blocks and never fails: a frame that
cannot be queued, or whose endpoint cannot be reached at all, is dropped and counted, as a radio would.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import zmq

_QUEUED = 1000  # parcels of frames per peer
_SLACK = 256  # a node counts what is too long for it; only what is longer by this factor is the socket's to refuse
_LINGER_MS = 10_000  # to flush the last reports at the end of a run, even to a coordinator that is being restarted


class Transport(Protocol):
    """What a node's loop needs of the network."""

    endpoint: str  # where peers find this node
    lost: int  # frames that could not be queued

    def send(self, peer: str, endpoint: str, frames: Sequence[bytes]) -> None:
        """Queue frames for a peer, to arrive together at the endpoint where it is now, or drop them."""

    def receive(self, timeout_s: float | None) -> Sequence[bytes]:
        """The next frames from a peer; none after `timeout_s` without any."""

    def close(self) -> None:
        """Flush what is queued, then give everything back."""


@dataclass(frozen=True)
class CurveKeys:
    """The run's CURVE key pair. Who does not hold it can neither read frames nor deliver any."""

    public: bytes
    secret: bytes

    @classmethod
    def generate(cls) -> CurveKeys:
        """A fresh pair."""
        return cls(*zmq.curve_keypair())


class ZeroMqTransport:
    """PULL to receive on, one PUSH per peer, over TCP, encrypted and authenticated by CURVE."""

    def __init__(
        self, host: str, keys: CurveKeys, endpoint: str | None = None, most_peers: int = 500, most_bytes: int = 2**16
    ) -> None:
        """Bind a socket.

        Args:
            host: to bind to, at any port.
            keys: of the run.
            endpoint: the one that a process before this one had; None: a new one.
            most_peers: nodes to send to.
            most_bytes: of a frame; far larger ones are not even received.
        """
        self._keys = keys
        self._context = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, 64 + 2 * most_peers)  # twice: all may move at once
        most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # a socket takes up to three
        self._peers: dict[str, tuple[str, zmq.Socket[bytes]]] = {}  # with the endpoint that it is connected to
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.curve_secretkey, self._inbox.curve_publickey = keys.secret, keys.public
        self._inbox.curve_server = True
        self._inbox.setsockopt(zmq.MAXMSGSIZE, _SLACK * most_bytes)
        if endpoint is None:
            endpoint = f"tcp://{host}:{self._inbox.bind_to_random_port(f'tcp://{host}')}"
        else:
            self._inbox.bind(endpoint)
        self.endpoint = endpoint
        self.lost = 0

    def send(self, peer: str, endpoint: str, frames: Sequence[bytes]) -> None:
        try:
            self._socket(peer, endpoint).send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError:  # its queue is full, or what it said is no endpoint, or there are no sockets left
            self.lost += len(frames)

    def receive(self, timeout_s: float | None) -> Sequence[bytes]:
        self._inbox.rcvtimeo = -1 if timeout_s is None else math.ceil(timeout_s * 1000)  # poll() would cost more
        try:
            return self._inbox.recv_multipart()
        except zmq.Again:
            return ()

    def close(self) -> None:
        self._inbox.close(linger=0)
        for _, socket in self._peers.values():
            socket.close(linger=_LINGER_MS)
        self._context.term()

    def _socket(self, peer: str, endpoint: str) -> zmq.Socket[bytes]:
        """The socket connected to a peer; if the peer has moved, the one to where it was is closed."""
        known, socket = self._peers.get(peer, ("", None))
        if socket is not None and known == endpoint:
            return socket
        if socket is not None:
            del self._peers[peer]
            socket.close(linger=0)
        socket = self._context.socket(zmq.PUSH)
        try:
            socket.curve_serverkey = self._keys.public
            socket.curve_publickey, socket.curve_secretkey = self._keys.public, self._keys.secret
            socket.setsockopt(zmq.SNDHWM, _QUEUED)
            socket.connect(endpoint)
        except zmq.ZMQError:
            socket.close(linger=0)
            raise
        self._peers[peer] = endpoint, socket
        return socket
