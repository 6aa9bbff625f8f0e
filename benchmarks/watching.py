"""What it costs to watch a run: a scrape of /metrics, and a slot of the live map.

python -m benchmarks.watching
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork
from coordinator.watch.live import LiveMap, Seen
from coordinator.watch.metrics import RunMetrics
from coordinator.watch.stopwatch import Stopwatch

_UPDATES_PER_S = 5  # the server looks so often for something new


def milliseconds(act: Callable[[], object]) -> float:
    """CPU time of an act, median of ten."""
    times = []
    for _ in range(10):
        began = time.process_time()
        act()
        times.append(time.process_time() - began)
    return 1000 * float(np.median(times))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=2000, help="of the run that is watched (default: 2000)")
    options = parser.parse_args()
    show(100, 40, options.slots, options.slots)
    show(400, 160, options.slots, options.slots // 4)


def show(aps: int, ues: int, slots: int, until: int) -> None:
    """Watch a run of so many slots until one of them, and print what that takes."""
    size = (f"radio.num_aps={aps}", f"radio.num_ues={ues}", f"run.episodes={slots // 20}")
    network = LocalNetwork(load("hundred", (*size, "cooperation.policy=random")))
    watched = network.coordinator
    for _ in network.frames():
        if watched.newest >= until - 1:
            break
    metrics, live = RunMetrics(lambda: watched, Stopwatch()), LiveMap(lambda: watched)
    text = metrics.text()
    series = sum(not line.startswith(b"#") for line in text.splitlines())
    scrape = milliseconds(metrics.text)
    slot = milliseconds(lambda: live._work_out(watched, watched.newest - 1))
    told = sum(len(news) for news in live.news(Seen(episode=0)))
    print(f"M = {aps}, after {until} slots: scrape {scrape:.1f} ms, {len(text) / 1000:.0f} kB, {series} series;")
    share = _UPDATES_PER_S * slot / 10
    print(f"  a slot of the live map {slot:.2f} ms, {told / 1000:.0f} kB: {share:.1f} % of a core at 5 a second")


if __name__ == "__main__":
    main()
