"""The coordinator as a Ray actor: it collects reports and answers the launcher's questions, nothing else."""

from __future__ import annotations

from typing import Any

from apnode.actor import LAST_FRAMES_S, Network, NodeActor, run_node
from apnode.config import Config
from coordinator.collector import Coordinator
from coordinator.record import Record


class CoordinatorActor(NodeActor):
    """Runs one Coordinator; answers while it runs, so it needs two threads."""

    def __init__(self, name: str, config: Config, network: Network) -> None:
        super().__init__(name, config, network)
        self._node = Coordinator(config)

    def run(self) -> Record:
        """Collect until the run is over; returns what was collected."""
        node = self._node
        run_node(node, self.transport(), deadline_s=LAST_FRAMES_S)
        return node.record

    def latest(self) -> tuple[int, dict[str, Any] | None]:
        """The newest slot, and the row of the one before it, for the progress bar."""
        return self._node.newest, self._node.latest()

    def serve_metrics(self, port: int) -> None:
        """Serve Prometheus metrics on this machine's loopback."""
        from coordinator.metrics import serve

        serve(self._node, port)
