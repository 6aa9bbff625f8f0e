"""Ray actors around pure nodes: shells with no decisions in them.

Ray places, starts and restarts them; frames do not pass through Ray unless the config says so. A constructor
never raises: Ray would not start the actor again.
"""

from __future__ import annotations

import gc
import os
import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from apnode.access_point import AccessPoint
from apnode.agent.policies import Policy, make_policy, put_together, trained_policy
from apnode.config import Config
from apnode.config.own_policy import find_code_in
from apnode.protocol.limits import largest_frame
from apnode.protocol.messages import FloatArray
from apnode.protocol.node import CHANNEL, COORDINATOR, Node, Send
from apnode.runtime.checkpoint import Checkpoints
from apnode.runtime.host import CHECKPOINTS, Host, restore
from apnode.runtime.injector import Injector, NodeFaults
from apnode.runtime.process import Process
from apnode.runtime.transport import CurveKeys, Transport, ZeroMqTransport

SILENCE_S = 5.0  # after which an AP says hello again, and after the run's end waits for no more frames


@dataclass(frozen=True)
class Network:
    """How the actors of one run reach each other; handed out by the launcher."""

    transport: str  # as in config.Run.transport
    host: str | None  # to bind to; None: the address by which Ray knows the machine
    keys: CurveKeys  # of the actor that is told
    folder: str | None = None  # of the run, for checkpoints and the journal: the same name on every machine
    first_slot: int = 0  # to open


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
        self._inbox: queue.SimpleQueue[Sequence[Send]] = queue.SimpleQueue()
        if network.folder is not None:
            find_code_in(Path(network.folder))

    def open(self, endpoint: str | None = None) -> str:
        """Open the transport, if it is not, at an endpoint that peers know already, if any; returns the endpoint."""
        return self.transport(endpoint).endpoint

    def deliver(self, parcel: Sequence[tuple[str, bytes]]) -> None:
        """Frames, each after its receiver's address, from a process whose transport is Ray calls."""
        self._inbox.put([Send(to, frame) for to, frame in parcel])

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
        """A node with its disk and its faults; ends this process if the plan says that it fails to start."""
        if self.faults == NodeFaults():
            return Host(node, checkpoints, late=late)
        injector = Injector(self.faults, node.address, incarnation, self._network.first_slot)
        if injector.failing_starts:
            os._exit(1)
        folder = self.folder()
        return Host(node, checkpoints, injector, None if folder is None else folder / CHECKPOINTS, late)


class ApActor(NodeActor):
    """One AP, or a group of them: the DDQN, replay buffer and CSI of each live in this process and never leave it."""

    def __init__(
        self, name: str, config: Config, network: Network, faults: NodeFaults, late: Mapping[int, int]
    ) -> None:
        """Hold APs.

        Args:
            name: of the actor.
            config: as APs get it.
            network: of the run.
            faults: of these APs.
            late: by AP, coherence blocks by which its estimates come late to others.
        """
        super().__init__(name, config, network, faults)
        self._late = late
        self._policies: dict[int, Policy] = {}

    def warm_up(self, weights: Mapping[int, list[FloatArray]] | None = None) -> tuple[int, str]:
        """Import and build the agents ahead of the first slot, `weights` as for `run`; returns as `process`."""
        self._policies = self._make_policies(weights)
        gc.freeze()  # else the garbage collector walks through all of Ray and torch again and again
        return self.process()

    def run(
        self, channel: str, coordinator: str, incarnation: int, weights: Mapping[int, list[FloatArray]] | None = None
    ) -> tuple[dict[str, int], dict[int, dict[str, int]]]:
        """Take part in the run, to its end.

        Args:
            channel: endpoint of the channel server.
            coordinator: that of the coordinator.
            incarnation: how many processes of these APs have ended.
            weights: by AP, of an agent that has learned and is not to learn; None: the policy is the config's.

        Returns:
            what `Process.run` returns; and by AP `completed`, how many slots, and `unsaved`, how many checkpoints since
            the last report could not be written.
        """
        policies = self._policies or self._make_policies(weights)
        nodes, hosts = list[AccessPoint](), list[Host]()
        for ap, policy in policies.items():
            node = AccessPoint(ap, self.config, policy, incarnation)
            node.endpoints |= {CHANNEL: channel, COORDINATOR: coordinator}
            folder, checkpoints = self.folder(), None
            if folder is not None:
                checkpoints = Checkpoints(folder / CHECKPOINTS, f"ap-{ap}")
                restore(node, checkpoints, self._network.first_slot)
            nodes.append(node)
            hosts.append(self.host(node, incarnation, checkpoints, self._late[ap]))
        transport = self.transport()
        first = {node.address: node.start(transport.endpoint) for node in nodes}
        books = Process(hosts, transport, SILENCE_S).run(first)
        return books, {node.ap: {"completed": node.completed, "unsaved": node.unsaved} for node in nodes}

    def _make_policies(self, weights: Mapping[int, list[FloatArray]] | None) -> dict[int, Policy]:
        """By AP its policy; the agents among them learn together."""
        if weights is None:
            policies = {ap: make_policy(ap, self.config) for ap in self._late}
        else:
            policies = {ap: trained_policy(ap, self.config, weights[ap]) for ap in self._late}
        put_together(policies.values())
        return policies


class RayCallTransport:
    """Frames as one-way Ray actor calls: slow, but needs no port of its own."""

    def __init__(self, name: str, inbox: queue.SimpleQueue[Sequence[Send]]) -> None:
        self.endpoint = name
        self.lost = 0
        self._inbox = inbox
        self._peers: dict[str, Any] = {}

    def send(self, endpoint: str, parcel: Sequence[Send]) -> None:
        try:
            if endpoint not in self._peers:
                self._peers[endpoint] = ray.get_actor(endpoint)
            frames = [(send.to, send.frame) for send in parcel]
            self._peers[endpoint].deliver.options(num_returns=0).remote(frames)
        except (RayError, ValueError):  # the peer is dead, or has not registered its name yet
            self._peers.pop(endpoint, None)
            self.lost += len(parcel)

    def receive(self, timeout_s: float) -> Sequence[Send]:
        try:
            return self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return ()

    def close(self) -> None:
        self._peers.clear()
