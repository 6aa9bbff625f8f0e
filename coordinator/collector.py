"""The coordinator: it collects reports and commands nothing. No AP waits for it or notices its death."""

from __future__ import annotations

from typing import Any

import numpy as np

from apnode.agent.prospects import LEVELS
from apnode.config import Config
from apnode.protocol.fields import Message
from apnode.protocol.limits import largest_frame
from apnode.protocol.messages import KINDS, ApReport, FaultFired, Hello, Resend, RunOver, SlotReport, Tick
from apnode.protocol.node import (
    ACCEPTED,
    CHANNEL,
    COORDINATOR,
    DROPS,
    REPORTS_KEPT,
    Fate,
    Node,
    Send,
    ap_address,
    refuse_unless,
)
from coordinator import tables
from coordinator.journal import Journal
from coordinator.record import Record

_OVERDUE_SLOTS = 4  # age at which a missing report counts as lost, and interval between two requests for it
_MOST_EVENTS = 10**5  # limit of recorded comebacks and faults; further ones are a flood


class Coordinator(Node):
    """State machine that fills a Record; done when the run is over and every report is in."""

    def __init__(self, config: Config, journal: Journal | None = None) -> None:
        """Read the journal, if there is one: reports that came before this process began."""
        super().__init__(COORDINATOR, largest_frame(config))
        self.record = Record(config)
        self.newest = -1  # slot of the newest SlotReport
        self.config = config
        self._over = False
        self._asked = -1  # newest slot when something was asked for last
        self._journal: Journal | None = None
        self.given_up: set[int] = set()  # APs that are not restarted any more
        self._handlers = {
            SlotReport: self._on_slot,
            ApReport: self._on_ap,
            Hello: self._on_hello,
            FaultFired: self._on_fault,
            RunOver: self._on_run_over,
            Tick: self._on_tick,
        }
        for frame in journal.frames() if journal else ():
            self.receive(frame)
        self._journal = journal

    def receive(
        self, frame: bytes, message: Message | None = None, speakers: frozenset[str] | None = None
    ) -> list[Send]:
        """Handle one frame, and keep it if it is a message; if that cannot be, collect no more."""
        out = super().receive(frame, message, speakers)
        if self._journal is not None and self.took:
            try:
                self._journal.append(frame)
            except OSError as error:
                self.record.cut_short, self._journal, self.done = str(error), None, True
        return out

    def ask_again(self) -> list[Send]:
        """After a restart: ask every node to repeat the reports that may have been lost meanwhile."""
        self._asked = self.newest
        for node in (CHANNEL, *map(ap_address, range(self.config.radio.num_aps))):
            if node in self.endpoints:
                self._send(node, Resend(self.record.first_incomplete))
        return self._take_out()

    def latest(self) -> dict[str, Any] | None:
        """The row of the slot before the newest, whose reports are still coming in; None at the start."""
        at = self.newest - 1
        if at < 0:
            return None
        return {name: column[0].item() for name, column in tables.slots(self.record, np.array([at])).items()}

    def hung(self) -> list[int]:
        """APs that missed the last `watchdog_slots` slots and have sent no hello since."""
        slots = self.config.run.watchdog_slots
        newest = self.newest
        if newest + 1 < slots:
            return []
        silent = self.record.silent[newest + 1 - slots : newest + 1].all(axis=0)
        return [int(ap) for ap in np.flatnonzero(silent & (self.record.back_since <= newest + 1 - slots))]

    def _on_slot(self, report: SlotReport) -> Fate:
        run, radio = self.config.run, self.config.radio
        refuse_unless(report.slot < self.config.num_slots, f"no slot {report.slot} in this run")
        shape = (run.blocks_per_slot, radio.num_ues)
        refuse_unless(report.sinr.shape == shape == report.sinr_alone.shape, "SINR of a wrong shape")
        refuse_unless(report.gain.shape == shape == report.gain_alone.shape, "effective gains of a wrong shape")
        refuse_unless(report.power.shape == (radio.num_aps, 2), "power of a wrong shape")
        refuse_unless(all(ap < radio.num_aps for ap in report.silent), "unknown AP among the silent")
        _refuse_unless_counts(report)
        if self.record.closed[report.slot]:
            return "duplicate"
        self.record.add_slot(report)
        self.newest = self.opened = max(self.newest, report.slot)
        if self.newest >= self._asked + _OVERDUE_SLOTS:
            self._ask_for_overdue()
        self._finish_when_complete()
        return ACCEPTED

    def _ask_for_overdue(self) -> None:
        """Ask for lost reports of past slots again, as long as their senders keep them."""
        first, record = max(0, self.newest + 1 - REPORTS_KEPT), self.record
        slots = slice(first, self.newest + 1 - _OVERDUE_SLOTS)
        lost = record.missing(slots) & ~record.silent[self.newest]  # a dead AP cannot answer
        lost &= np.arange(first, slots.stop)[:, None] >= record.back_since  # nor one that died in between
        overdue = {ap_address(int(ap)): lost[:, ap] for ap in np.flatnonzero(lost.any(axis=0))}
        for node, slots_lost in {CHANNEL: ~record.closed[slots], **overdue}.items():
            if slots_lost.any() and node in self.endpoints:
                self._send(node, Resend(first + int(slots_lost.argmax())))
                self._asked = self.newest

    def _on_ap(self, report: ApReport) -> Fate:
        known = range(self.config.radio.num_aps)
        refuse_unless(report.slot < self.config.num_slots and report.ap in known, "no such AP or slot")
        refuse_unless(len(report.neighbours) <= self.config.cooperation.max_neighbours, "too many neighbours")
        refuse_unless(all(n in known for n in report.neighbours), "unknown AP among the neighbours")
        refuse_unless(all(ap in known for ap in report.suspects), "unknown AP among the suspects")
        refuse_unless(len(report.levels) in {0, 2 * len(LEVELS) * self.config.believes}, "levels of a wrong shape")
        refuse_unless(bool((report.levels >= 0).all()), "levels below 0")
        refuse_unless(report.cluster_size <= len(known), "cluster larger than the network")
        _refuse_unless_counts(report)
        if self.record.reported[report.slot, report.ap]:
            return "duplicate"
        self.record.add_ap(report)
        self._finish_when_complete()
        return ACCEPTED

    def _on_hello(self, hello: Hello) -> Fate:
        """An AP has started or restarted; requests to repeat reports go to the endpoint that it names."""
        refuse_unless(hello.ap < self.config.radio.num_aps, "no such AP")
        refuse_unless(max(hello.slot, hello.restored) <= self.config.num_slots, "slot beyond the run")
        self.endpoints[ap_address(hello.ap)] = hello.endpoint
        if len(self.record.comebacks) >= _MOST_EVENTS:
            return "flood"
        if hello.incarnation:
            self.record.add_comeback(hello, self.newest + 1)
        return ACCEPTED

    def _on_fault(self, fault: FaultFired) -> Fate:
        refuse_unless(fault.slot <= self.config.num_slots, "slot beyond the run")
        if len(self.record.fired) >= _MOST_EVENTS:
            return "flood"
        self.record.add_fault(fault)
        return ACCEPTED

    def _on_run_over(self, over: RunOver) -> Fate:
        self._over = True
        self._finish_when_complete()
        return ACCEPTED

    def _on_tick(self, tick: Tick) -> Fate:
        """Long silence: once the run is over, missing reports are not awaited any more."""
        self.done = self.done or self._over
        return ACCEPTED

    def _finish_when_complete(self) -> None:
        self.done = self.done or (self._over and self.record.complete)


def _refuse_unless_counts(report: ApReport | SlotReport) -> None:
    refuse_unless(report.sent.shape == (2, len(KINDS)), "message counts of a wrong shape")
    refuse_unless(report.dropped.shape == (len(DROPS),), "drop counts of a wrong shape")
