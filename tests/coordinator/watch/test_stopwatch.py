"""Time from slot to slot, by the real clock."""

import time

import pytest

from coordinator.watch.stopwatch import BOUNDS_S, Stopwatch


def test_slots_are_counted_by_the_time_since_the_one_before() -> None:
    stopwatch = Stopwatch()
    began = time.monotonic()
    stopwatch.see(7)  # since when is not known
    time.sleep(0.06)
    stopwatch.see(8)
    stopwatch.see(8)
    time.sleep(0.06)
    stopwatch.see(11)  # three together
    assert sum(stopwatch.counts) == 4
    assert stopwatch.seconds == pytest.approx(time.monotonic() - began, abs=0.01)
    assert sum(stopwatch.counts[: BOUNDS_S.index(0.05) + 1]) in {0, 3}  # 20 ms each, if the machine was in time
