"""Scalars of a run over its slots, for TensorBoard: in its event files, without TensorFlow and without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from coordinator import tables
from coordinator.collector import Coordinator
from coordinator.record import Record
from coordinator.tables import Table

_EVERY_S = 2.0  # interval between writes; a closed slot's reports have at least this long to arrive
_COLUMNS = {  # of slots.parquet, by the group they are shown in
    "rate": ("sum_rate_bps_hz", "sum_rate_alone_bps_hz"),
    "sinr": ("sinr_mean_db", "sinr_mean_alone_db", "sinr_p5_db", "sinr_p5_alone_db"),
    "links": ("requests", "formed", "pairs"),
    "fronthaul": ("messages", "bytes"),
}
_PER_AP = ("reward", "loss", "epsilon")


class Scalars:
    """Writes one event file; any others in its folder are empty. A report that comes too late is in the next one."""

    def __init__(self, folder: Path, record: Record) -> None:
        """Start the folder anew from what is recorded; the slots in it keep the time at which they were written.

        Raises:
            OSError: if it cannot be written.
        """
        folder.mkdir(exist_ok=True)
        self._times = {slot: at for slot, at in _times(folder).items() if record.closed[slot]}
        for earlier in folder.glob("*tfevents*"):
            os.truncate(earlier, 0)  # not removed: TensorBoard, if it reads it, would wait for it to come back
        self._path = folder / f"events.out.tfevents.{time.time_ns()}"
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # who has read the earlier file forgets it
        self._append(Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START)))
        self._next = 0  # slot to be written
        self.write(record, record.first_incomplete)
        self._looked, self._newest = time.monotonic(), -1  # time of the last look, and the newest slot then

    def look(self, coordinator: Coordinator) -> None:
        """Write new slots, if the interval has passed; cheap otherwise."""
        now = time.monotonic()
        if now - self._looked >= _EVERY_S:
            closed = coordinator.record.closed[: self._newest + 1]
            self.write(coordinator.record, len(closed) if closed.all() else int(closed.argmin()))
            self._looked, self._newest = now, coordinator.newest

    def write(self, record: Record, end: int) -> None:
        """Add the slots before `end` that closed and are not written yet."""
        slots = np.flatnonzero(record.closed[self._next : end]) + self._next
        self._next = max(self._next, end)
        if len(slots):
            table = scalars(record, slots)
            rows = zip(*(column.tolist() for column in table.values()), strict=True)
            self._append(*(self._event(slot, table, row) for slot, row in zip(slots.tolist(), rows, strict=True)))

    def _event(self, slot: int, tags: Iterable[str], row: Iterable[float]) -> Event:
        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=value) for tag, value in zip(tags, row, strict=True)]
        )
        return Event(wall_time=self._times.get(slot, time.time()), step=slot, summary=summary)

    def _append(self, *events: Event) -> None:
        with self._path.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())


def write_scalars(folder: Path, record: Record) -> None:
    """Start a folder anew with all slots of a finished run."""
    Scalars(folder, record).write(record, len(record.closed))


def scalars(record: Record, slots: NDArray[np.intp]) -> Table:
    """By tag, a value per slot of `slots`: columns of slots.parquet, the request rate, and means over the APs."""
    rows = tables.slots(record, slots)
    table = {f"{group}/{name}": rows[name] for group, names in _COLUMNS.items() for name in names}
    table["links/request_rate"] = rows["requests"] / np.maximum(rows["candidates"], 1)
    for index, name in enumerate(_PER_AP, start=1):
        values, counted = record.floats[slots, :, index], record.reported[slots]
        if name == "loss":
            counted = counted & (values >= 0)  # not that of an update that was skipped
        table[f"learning/{name}"] = (values * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    return table


def _times(folder: Path) -> dict[int, float]:
    """Time at which each slot in a folder was written [s since 1970]."""
    return {
        event.step: event.wall_time
        for path in folder.glob("*tfevents*")
        for event in LegacyEventFileLoader(str(path)).Load()
        if event.HasField("summary")
    }
