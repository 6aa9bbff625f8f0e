"""The channel server as a Ray actor. Its shell holds the only timer of the protocol: the slot deadline."""

from __future__ import annotations

import math

from apnode.protocol.node import COORDINATOR
from apnode.runtime.actor import SILENCE_S, NodeActor
from apnode.runtime.process import Process
from channel_server.server import ChannelServer

_UNDER_WAY_S = 1.0  # that a hello of a live AP may take to a server that has just been restarted


class ChannelServerActor(NodeActor):
    """Runs one ChannelServer."""

    def run(self, own: str, coordinator: str, incarnation: int, first_slot: int) -> dict[str, int]:
        """Run all slots from the first that is not known to be over; returns as `Process.run`."""
        deadline_s = self.config.run.slot_deadline_s / 2
        patience = math.ceil((SILENCE_S + _UNDER_WAY_S) / deadline_s) if incarnation else None
        node = ChannelServer(self.config, first_slot, patience)
        node.endpoints[COORDINATOR] = coordinator
        transport = self.transport(own)
        process = Process(
            [self.host(node, incarnation)],
            transport,
            deadline_s,
            phase=lambda: node.air and (node.air.index, node.air.reminded),
            slot_s=self.config.run.slot_s,
        )
        return process.run({node.address: []})
