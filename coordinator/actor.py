"""The coordinator as a Ray actor: it collects reports and answers the launcher's questions, nothing else."""

from __future__ import annotations

from typing import Any

from apnode.actor import Network, NodeActor, run_node
from apnode.config import Config
from coordinator.collector import Coordinator
from coordinator.record import Record

_LAST_REPORTS_S = 5.0  # reports that are not in so long after the run's end are lost


class CoordinatorActor(NodeActor):
    """Runs one Coordinator; answers while it runs, so it needs two threads."""

    def __init__(self, name: str, config: Config, network: Network) -> None:
        super().__init__(name, config, network)
        self._node = Coordinator(config)

    def run(self) -> Record:
        """Collect until the run is over; returns what was collected."""
        node = self._node
        run_node(node, self.transport(), deadline_s=_LAST_REPORTS_S, phase=lambda: node.newest)
        return node.record

    def latest(self) -> dict[str, Any] | None:
        """The newest slot's row, for the progress bar; None before the first."""
        return self._node.latest()
