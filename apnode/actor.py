"""Ray actors around pure nodes: shells with no decisions in them.

Ray places, starts and restarts them; frames do not pass through Ray unless the config says so. A constructor
never raises: Ray would not start the actor again.
"""

from __future__ import annotations

import gc
import os
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from apnode.access_point import AccessPoint
from apnode.config import Config
from apnode.messages import Tick
from apnode.node import CHANNEL, COORDINATOR, Node, Send
from apnode.policies import Policy, make_policy
from apnode.transport import CurveKeys, Transport, ZeroMqTransport

LAST_FRAMES_S = 5.0  # frames that are not in so long after the run's end are lost


@dataclass(frozen=True)
class Network:
    """How the actors of one run reach each other; handed out by the launcher."""

    transport: str  # as in config.Run.transport
    host: str | None  # to bind to; None: the address by which Ray knows the machine
    keys: CurveKeys


def run_node(
    node: Node,
    transport: Transport,
    first: Iterable[Send] = (),
    deadline_s: float | None = None,
    phase: Callable[[], object] | None = None,
) -> None:
    """Run a node until it is done: frames in, `receive`, frames out. Never waits for a peer.

    Args:
        node: the state machine.
        transport: carries its frames; closed at the end.
        first: what it sends before anything comes in.
        deadline_s: the node gets a Tick whenever so long has passed within one phase [s].
        phase: names what the node is waiting for; without it, every frame begins a new phase.
    """
    _send_all(node, transport, first)
    waiting_for, since = phase and phase(), time.monotonic()
    while not node.done:
        left = None if deadline_s is None else max(0.0, since + deadline_s - time.monotonic())
        leisure = node.has_leisure
        frames = transport.receive(0 if leisure else left)
        if leisure and not frames:
            node.use_leisure()
            continue
        answers = [send for frame in frames for send in node.receive(frame)] if frames else node.handle(Tick())
        _send_all(node, transport, answers)
        if not frames or phase is None or phase() != waiting_for:
            waiting_for, since = phase and phase(), time.monotonic()
    transport.close()


def _send_all(node: Node, transport: Transport, sends: Iterable[Send]) -> None:
    """Send frames, those to the same peer together."""
    parcels: dict[str, list[bytes]] = {}
    for send in sends:
        endpoint = node.endpoints.get(send.to)
        if endpoint:
            parcels.setdefault(endpoint, []).append(send.frame)
        else:
            transport.lost += 1
    for endpoint, frames in parcels.items():
        transport.send(endpoint, frames)


def _own_address() -> str:
    """The address by which Ray knows this machine."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


class NodeActor:
    """What all actors have in common: a name, a transport, and a way in for frames that come as Ray calls."""

    def __init__(self, name: str, config: Config, network: Network) -> None:
        self.config = config
        self._name = name
        self._network = network
        self._transport: Transport | None = None
        self._inbox: queue.SimpleQueue[Sequence[bytes]] = queue.SimpleQueue()

    def open(self) -> str:
        """Open the transport, if it is not; returns the endpoint."""
        return self.transport().endpoint

    def deliver(self, frames: Sequence[bytes]) -> None:
        """Frames from a peer whose transport is Ray calls."""
        self._inbox.put(frames)

    def process(self) -> tuple[int, str]:
        """Process id and address of the machine."""
        return os.getpid(), _own_address()

    def transport(self) -> Transport:
        """The transport, opened the first time."""
        if self._transport is None and self._network.transport == "ray":
            self._transport = RayCallTransport(self._name, self._inbox)
        elif self._transport is None:
            self._transport = ZeroMqTransport(self._network.host or _own_address(), self._network.keys)
        return self._transport


class ApActor(NodeActor):
    """One AP: its DDQN, replay buffer and CSI live in this process and never leave it."""

    def __init__(self, name: str, config: Config, network: Network, ap: int) -> None:
        super().__init__(name, config, network)
        self._ap = ap
        self._policy: Policy | None = None

    def warm_up(self) -> tuple[int, str]:
        """Import and build the agent ahead of the first slot; returns as `process`."""
        self._policy = make_policy(self._ap, self.config)
        gc.freeze()  # else the garbage collector walks through all of Ray and torch again and again
        return self.process()

    def run(self, channel: str, coordinator: str, incarnation: int) -> dict[str, int]:
        """Take part in the run, to its end; returns how many slots were completed and how many frames lost."""
        policy = self._policy or make_policy(self._ap, self.config)
        node = AccessPoint(self._ap, self.config, policy, incarnation)
        node.endpoints |= {CHANNEL: channel, COORDINATOR: coordinator}
        transport = self.transport()
        run_node(node, transport, node.start(transport.endpoint), deadline_s=LAST_FRAMES_S)
        return {"slots": node.completed, "lost": transport.lost}


class RayCallTransport:
    """Frames as one-way Ray actor calls: slow, but needs no port of its own."""

    def __init__(self, name: str, inbox: queue.SimpleQueue[Sequence[bytes]]) -> None:
        self.endpoint = name
        self.lost = 0
        self._inbox = inbox
        self._peers: dict[str, Any] = {}

    def send(self, endpoint: str, frames: Sequence[bytes]) -> None:
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
