"""The coordinator: collects reports, commands nothing. Nobody waits for it, and it may die unnoticed."""

from __future__ import annotations

from typing import Any

from apnode.config import Config
from apnode.messages import ApReport, RunOver, SlotReport, Tick, expect
from apnode.node import COORDINATOR, Node
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
        return {name: column[0].item() for name, column in self.record.slots(slice(at, at + 1)).items()}

    def _on_slot(self, report: SlotReport) -> None:
        run, radio = self._config.run, self._config.radio
        expect(report.slot < self._config.num_slots, f"no slot {report.slot} in this run")
        expect(report.sinr.shape == (run.blocks_per_slot, radio.num_ues), "SINR of a wrong shape")
        if self.record.closed[report.slot]:
            self._drop("duplicate")
            return
        self.record.add_slot(report)
        self.newest = max(self.newest, report.slot)
        self._finish_when_complete()

    def _on_ap(self, report: ApReport) -> None:
        expect(report.slot < self._config.num_slots and report.ap < self._config.radio.num_aps, "no such AP or slot")
        expect(len(report.neighbours) <= self._config.cooperation.max_neighbours, "too many neighbours")
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
