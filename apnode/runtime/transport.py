"""The data plane: frames straight from process to process. One small interface; ZeroMQ is the first choice.

(The second, Ray actor calls, lives in `actor`, where Ray does.) Sending never blocks and never fails: a frame that
cannot be queued, or whose endpoint cannot be reached at all, is dropped and counted, as a radio would. As a process may
hold several nodes, a frame travels with the address of its receiver before it, and a zero between the two.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import zmq

from apnode.protocol.node import Send

_QUEUED = 1000  # parcels of frames per process
_SLACK = 256  # a node counts what is too long for it; only what is longer by this factor is the socket's to refuse
_LINGER_MS = 10_000  # to flush the last reports at the end of a run, even to a coordinator that is being restarted


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
    """The run's CURVE key pair. Who lacks it reads no frame; who knows its public half can deliver some, as anybody."""

    public: bytes
    secret: bytes

    @classmethod
    def generate(cls) -> CurveKeys:
        """A fresh pair."""
        return cls(*zmq.curve_keypair())


class ZeroMqTransport:
    """PULL to receive on, one PUSH per process, over TCP, encrypted by CURVE: receivers prove who they are."""

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
        self._sockets: dict[str, zmq.Socket[bytes]] = {}  # by the endpoint that they are connected to
        self._at: dict[str, str] = {}  # by address, at which endpoint a node was when it was sent something last
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

    def send(self, endpoint: str, parcel: Sequence[Send]) -> None:
        self._note_moves(endpoint, parcel)
        parts = [send.to.encode() + b"\0" + send.frame for send in parcel]
        try:
            self._socket(endpoint).send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError:  # its queue is full, or what it said is no endpoint, or there are no sockets left
            self.lost += len(parcel)

    def receive(self, timeout_s: float) -> Sequence[Send]:
        self._inbox.rcvtimeo = math.ceil(timeout_s * 1000)  # poll() would cost more
        try:
            parts = self._inbox.recv_multipart()
        except zmq.Again:
            return ()
        cut = [part.partition(b"\0") for part in parts]
        return [Send(to.decode("latin-1"), frame) for to, _, frame in cut]

    def close(self) -> None:
        self._inbox.close(linger=0)
        for socket in self._sockets.values():
            socket.close(linger=_LINGER_MS)
        self._context.term()

    def _note_moves(self, endpoint: str, parcel: Sequence[Send]) -> None:
        """Close the sockets to where nobody is any more."""
        for send in parcel:
            before, self._at[send.to] = self._at.get(send.to, endpoint), endpoint
            if before != endpoint and before in self._sockets and before not in self._at.values():
                self._sockets.pop(before).close(linger=0)

    def _socket(self, endpoint: str) -> zmq.Socket[bytes]:
        """The socket connected to an endpoint."""
        if endpoint in self._sockets:
            return self._sockets[endpoint]
        socket = self._context.socket(zmq.PUSH)
        try:
            socket.curve_serverkey = self._keys.public
            socket.curve_publickey, socket.curve_secretkey = self._keys.public, self._keys.secret
            socket.setsockopt(zmq.SNDHWM, _QUEUED)
            socket.connect(endpoint)
        except zmq.ZMQError:
            socket.close(linger=0)
            raise
        self._sockets[endpoint] = socket
        return socket
