"""Wall-clock duration of slots; the nodes themselves have no clock."""

from __future__ import annotations

import time
from bisect import bisect_left

BOUNDS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Stopwatch:
    """A histogram of the time between slots; slots seen together share the time equally."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)  # slots up to each bound, then above the last
        self.seconds = 0.0  # total time of all counted slots [s]
        self._newest = -1
        self._since: float | None = None

    def see(self, newest: int) -> None:
        """Note that the slot `newest` has just been reported."""
        if newest <= self._newest:
            return
        now = time.monotonic()
        if self._since is not None:
            slots = newest - self._newest
            self.counts[bisect_left(BOUNDS_S, (now - self._since) / slots)] += slots
            self.seconds += now - self._since
        self._newest, self._since = newest, now
