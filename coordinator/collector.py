"""The coordinator: collects reports, commands nothing. Nobody waits for it, and it may die unnoticed."""

from __future__ import annotations

from typing import Any

import numpy as np

from apnode.config import Config
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

_OVERDUE_SLOTS = 4  # a report that others have overtaken by so many slots was lost; as often it is asked for
_MOST_EVENTS = 10**5  # comebacks and faults that are kept; more are a flood


class Coordinator(Node):
    """State machine that fills a Record; done when the run is over and every report is in."""

    def __init__(self, config: Config, journal: Journal | None = None) -> None:
        """Know what is in the journal, if there is one: what was reported before this process began."""
        super().__init__(COORDINATOR, config.run.max_frame_bytes)
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

    def receive(self, frame: bytes) -> list[Send]:
        """Handle one frame off the wire, and keep it if it is a message; if that cannot be, collect no more."""
        out = super().receive(frame)
        if self._journal is not None and self.took:
            try:
                self._journal.append(frame)
            except OSError as error:
                self.record.cut_short, self._journal, self.done = str(error), None, True
        return out

    def ask_again(self) -> list[Send]:
        """After this coordinator was away: ask everybody to report again what may have been lost meanwhile."""
        self._asked = self.newest
        for node in (CHANNEL, *map(ap_address, range(self.config.radio.num_aps))):
            if node in self.endpoints:
                self._send(node, Resend(self.record.first_incomplete))
        return self._take_out()

    def latest(self) -> dict[str, Any] | None:
        """The row of the newest slot before the one whose reports are still coming in; None before there is one."""
        at = self.newest - 1
        if at < 0:
            return None
        return {name: column[0].item() for name, column in tables.slots(self.record, np.array([at])).items()}

    def hung(self) -> list[int]:
        """APs that missed all slots for as long as the watchdog waits, and have said nothing since."""
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
        refuse_unless(report.power.shape == (radio.num_aps, 2), "powers of another number of APs")
        refuse_unless(all(ap < radio.num_aps for ap in report.silent), "silence of an AP that there is not")
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
        """Ask again for reports lost on the way, of slots long past, as long as they are kept by who sent them."""
        first, record = max(0, self.newest + 1 - REPORTS_KEPT), self.record
        slots = slice(first, self.newest + 1 - _OVERDUE_SLOTS)
        lost = record.missing(slots) & ~record.silent[self.newest]  # who is dead now cannot answer
        lost &= np.arange(first, slots.stop)[:, None] >= record.back_since  # nor who died in between
        overdue = {ap_address(int(ap)): lost[:, ap] for ap in np.flatnonzero(lost.any(axis=0))}
        for node, slots_lost in {CHANNEL: ~record.closed[slots], **overdue}.items():
            if slots_lost.any() and node in self.endpoints:
                self._send(node, Resend(first + int(slots_lost.argmax())))
                self._asked = self.newest

    def _on_ap(self, report: ApReport) -> Fate:
        known = range(self.config.radio.num_aps)
        refuse_unless(report.slot < self.config.num_slots and report.ap in known, "no such AP or slot")
        refuse_unless(len(report.neighbours) <= self.config.cooperation.max_neighbours, "too many neighbours")
        refuse_unless(all(n in known for n in report.neighbours), "a neighbour that there is not")
        refuse_unless(all(ap in known for ap in report.suspects), "a suspect that there is not")
        refuse_unless(report.cluster_size <= len(known), "a cluster of more APs than there are")
        _refuse_unless_counts(report)
        if self.record.reported[report.slot, report.ap]:
            return "duplicate"
        self.record.add_ap(report)
        self._finish_when_complete()
        return ACCEPTED

    def _on_hello(self, hello: Hello) -> Fate:
        """An AP is there, or there again; that is where it is asked for what it has reported already."""
        refuse_unless(hello.ap < self.config.radio.num_aps, "no such AP")
        refuse_unless(max(hello.slot, hello.restored) <= self.config.num_slots, "a slot that there is not")
        self.endpoints[ap_address(hello.ap)] = hello.endpoint
        if len(self.record.comebacks) >= _MOST_EVENTS:
            return "flood"
        if hello.incarnation:
            self.record.add_comeback(hello, self.newest + 1)
        return ACCEPTED

    def _on_fault(self, fault: FaultFired) -> Fate:
        refuse_unless(fault.slot <= self.config.num_slots, "a slot that there is not")
        if len(self.record.fired) >= _MOST_EVENTS:
            return "flood"
        self.record.add_fault(fault)
        return ACCEPTED

    def _on_run_over(self, over: RunOver) -> Fate:
        self._over = True
        self._finish_when_complete()
        return ACCEPTED

    def _on_tick(self, tick: Tick) -> Fate:
        """Long silence: reports that have not come by the end of the run are not waited for."""
        self.done = self.done or self._over
        return ACCEPTED

    def _finish_when_complete(self) -> None:
        self.done = self.done or (self._over and self.record.complete)


def _refuse_unless_counts(report: ApReport | SlotReport) -> None:
    refuse_unless(report.sent.shape == (2, len(KINDS)), "counts of other kinds of messages")
    refuse_unless(report.dropped.shape == (len(DROPS),), "counts of other reasons")
