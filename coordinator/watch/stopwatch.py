"""How long slots take by the clock on the wall; the nodes have none."""

from __future__ import annotations

import time
from bisect import bisect_left

BOUNDS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Stopwatch:
    """A histogram of the time from slot to slot; of slots that are seen together each has taken its share."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)  # of slots that took at most so many seconds; more
        self.seconds = 0.0  # all of them together
        self._newest = -1
        self._since: float | None = None

    def see(self, newest: int) -> None:
        """Note that the slot `newest` is there, now."""
        if newest <= self._newest:
            return
        now = time.monotonic()
        if self._since is not None:
            slots = newest - self._newest
            self.counts[bisect_left(BOUNDS_S, (now - self._since) / slots)] += slots
            self.seconds += now - self._since
        self._newest, self._since = newest, now
