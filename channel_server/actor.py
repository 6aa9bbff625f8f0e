"""The channel server as a Ray actor. Its shell holds the only timer of the protocol: the slot deadline."""

from __future__ import annotations

from apnode.actor import NodeActor, run_node
from apnode.node import COORDINATOR
from channel_server.server import ChannelServer


class ChannelServerActor(NodeActor):
    """Runs one ChannelServer."""

    def run(self, coordinator: str) -> dict[str, int]:
        """Run all slots; returns how many frames could not be sent."""
        node = ChannelServer(self.config)
        node.endpoints[COORDINATOR] = coordinator
        transport = self.transport()
        run_node(
            node,
            transport,
            deadline_s=self.config.run.slot_deadline_s,
            phase=lambda: node.air and (node.air.index, node.air.reminded),
        )
        return {"lost": transport.lost}
