"""The coordinator: collects reports, commands nothing. Nobody waits for it, and it may die unnoticed."""

from __future__ import annotations

from typing import Any

import numpy as np

from apnode.config import Config
from apnode.messages import KINDS, ApReport, RunOver, SlotReport, Tick
from apnode.node import COORDINATOR, DROPS, Node, refuse_unless
from coordinator.record import Record


class Coordinator(Node):
    """Pure state machine that fills a Record; done when the run is over and every report is in."""

    def __init__(self, config: Config) -> None:
        super().__init__(COORDINATOR, config.run.max_frame_bytes)
        self.record = Record(config)
        self.newest = -1  # slot of the newest SlotReport
        self._config = config
        self._over = False
        self._handlers = {
            SlotReport: self._on_slot,
            ApReport: self._on_ap,
            RunOver: self._on_run_over,
            Tick: self._on_tick,
        }

    def latest(self) -> dict[str, Any] | None:
        """The row of the newest slot before the one whose reports are still coming in; None before there is one."""
        at = self.newest - 1
        if at < 0:
            return None
        return {name: column[0].item() for name, column in self.record.slots(np.array([at])).items()}

    def _on_slot(self, report: SlotReport) -> None:
        run, radio = self._config.run, self._config.radio
        refuse_unless(report.slot < self._config.num_slots, f"no slot {report.slot} in this run")
        shape = (run.blocks_per_slot, radio.num_ues)
        refuse_unless(report.sinr.shape == shape == report.sinr_alone.shape, "SINR of a wrong shape")
        refuse_unless(report.gain.shape == shape == report.gain_alone.shape, "effective gains of a wrong shape")
        refuse_unless(report.power.shape == (radio.num_aps, 2), "powers of another number of APs")
        refuse_unless(all(ap < radio.num_aps for ap in report.silent), "silence of an AP that there is not")
        _refuse_unless_counts(report)
        if self.record.closed[report.slot]:
            self._drop("duplicate")
            return
        self.record.add_slot(report)
        self.newest = max(self.newest, report.slot)
        self._finish_when_complete()

    def _on_ap(self, report: ApReport) -> None:
        known = range(self._config.radio.num_aps)
        refuse_unless(report.slot < self._config.num_slots and report.ap in known, "no such AP or slot")
        refuse_unless(len(report.neighbours) <= self._config.cooperation.max_neighbours, "too many neighbours")
        refuse_unless(all(n in known for n in report.neighbours), "a neighbour that there is not")
        refuse_unless(report.cluster_size <= len(known), "a cluster of more APs than there are")
        _refuse_unless_counts(report)
        if self.record.reported[report.slot, report.ap]:
            self._drop("duplicate")
            return
        self.record.add_ap(report)
        self._finish_when_complete()

    def _on_run_over(self, over: RunOver) -> None:
        self._over = True
        self._finish_when_complete()

    def _on_tick(self, tick: Tick) -> None:
        """Long silence: reports that have not come by the end of the run are not waited for."""
        self.done = self.done or self._over

    def _finish_when_complete(self) -> None:
        self.done = self._over and self.record.complete


def _refuse_unless_counts(report: ApReport | SlotReport) -> None:
    refuse_unless(report.sent.shape == (2, len(KINDS)), "counts of other kinds of messages")
    refuse_unless(report.dropped.shape == (len(DROPS),), "counts of other reasons")
