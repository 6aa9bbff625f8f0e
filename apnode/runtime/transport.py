"""The data plane: frames straight from node to node. One small interface; ZeroMQ is the first choice.

(The second, Ray actor calls, lives in `actor`, where Ray does.) Sending never blocks: what cannot be queued
is dropped and counted, as a radio or a network would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import zmq

_QUEUED = 1000  # parcels of frames per peer
_LINGER_MS = 10_000  # to flush the last reports at the end of a run, even to a coordinator that is being restarted
_MAX_RECEIVED = 2**24  # [B] hard bound of the socket; the wire's own limit is lower


class Transport(Protocol):
    """What a node's loop needs of the network."""

    endpoint: str  # where peers find this node
    lost: int  # frames that could not be queued

    def send(self, endpoint: str, frames: Sequence[bytes]) -> None:
        """Queue frames for a peer, to arrive together, or drop them."""

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

    def __init__(self, host: str, keys: CurveKeys, endpoint: str | None = None) -> None:
        """Bind to any port of a host, or to the endpoint that a process before this one had."""
        self._keys = keys
        self._context = zmq.Context(io_threads=1)
        self._peers: dict[str, zmq.Socket[bytes]] = {}
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.curve_secretkey, self._inbox.curve_publickey = keys.secret, keys.public
        self._inbox.curve_server = True
        self._inbox.setsockopt(zmq.MAXMSGSIZE, _MAX_RECEIVED)
        if endpoint is None:
            endpoint = f"tcp://{host}:{self._inbox.bind_to_random_port(f'tcp://{host}')}"
        else:
            self._inbox.bind(endpoint)
        self.endpoint = endpoint
        self.lost = 0

    def send(self, endpoint: str, frames: Sequence[bytes]) -> None:
        try:
            self._peer(endpoint).send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            self.lost += len(frames)

    def receive(self, timeout_s: float | None) -> Sequence[bytes]:
        self._inbox.rcvtimeo = -1 if timeout_s is None else math.ceil(timeout_s * 1000)  # poll() would cost more
        try:
            return self._inbox.recv_multipart()
        except zmq.Again:
            return ()

    def close(self) -> None:
        self._inbox.close(linger=0)
        for peer in self._peers.values():
            peer.close(linger=_LINGER_MS)
        self._context.term()

    def _peer(self, endpoint: str) -> zmq.Socket[bytes]:
        if endpoint not in self._peers:
            peer = self._context.socket(zmq.PUSH)
            peer.curve_serverkey = self._keys.public
            peer.curve_publickey, peer.curve_secretkey = self._keys.public, self._keys.secret
            peer.setsockopt(zmq.SNDHWM, _QUEUED)
            peer.connect(endpoint)
            self._peers[endpoint] = peer
        return self._peers[endpoint]
