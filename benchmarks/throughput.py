"""Slots/s and messages/s of the runtimes, on the same experiment at some sizes, as ratios to `local`.

Absolute figures drift with the machine; the runtimes therefore take turns, and the ratio is taken turn by turn.
Start-up of the actors is timed apart. Above MOST_ACTORS APs only `local` runs.
Example: python -m benchmarks.throughput --aps 25 100 --rounds 3
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from apnode.config import Config
from cfmimo.cli.console import Console
from cfmimo.experiments.run import run_local, run_on_ray
from cfmimo.presets import load
from cfmimo.runtime.request import Outcome, RunRequest

MOST_ACTORS = 100  # on two cores in a few minutes
DENSITY_AREA_M = 100.0  # sqrt of the area per AP, as in the preset `paper`


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aps", type=int, nargs="+", default=[25, 100, 400])
    parser.add_argument("--slots", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--runtimes", default="local,ray,ray-calls", help="ray-calls: ray, but frames go as Ray calls")
    options = parser.parse_args()
    names = options.runtimes.split(",")
    for aps in options.aps:
        show(aps, options.slots, options.rounds, names if aps <= MOST_ACTORS else ["local"])


def show(aps: int, slots: int, rounds: int, names: list[str]) -> None:
    """Measure one size and print it."""
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    digests = set()
    for _ in range(rounds):
        for name in names:
            began = time.monotonic()
            outcome = runner(name)(experiment(aps, slots, name))
            started_in = time.monotonic() - began - outcome.seconds
            messages = outcome.record.traffic[0].sum()
            measured[name].append((slots / outcome.seconds, messages / outcome.seconds, started_in))
            digests.add(outcome.record.digest())
    print(f"M = {aps}, {slots} slots, learning on, {rounds} rounds: medians")
    print(f"{'runtime':10} {'slots/s':>9} {'messages/s':>11} {'start-up s':>11} {'slots/s : ' + names[0]:>16}")
    for name in names:
        ratios = [row[0] / base[0] for row, base in zip(measured[name], measured[names[0]], strict=True)]
        rate, per_second, start = (statistics.median(column) for column in zip(*measured[name], strict=True))
        print(f"{name:10} {rate:9.1f} {per_second:11.0f} {start:11.1f} {statistics.median(ratios):16.2f}")
    print(f"digests: {'all equal' if len(digests) == 1 else digests}", flush=True)


def experiment(aps: int, slots: int, name: str) -> Config:
    """The paper's densities at another size."""
    settings = [
        f"radio.num_aps={aps}",
        f"radio.num_ues={max(1, aps * 2 // 5)}",
        f"radio.area_m={DENSITY_AREA_M * aps**0.5}",
    ]
    settings += [f"run.episodes={max(1, slots // 20)}", "run.slots_per_episode=20", "run.blocks_per_slot=1"]
    settings += ["run.transport=ray-calls"] if name == "ray-calls" else []
    return load("demo", settings)


def runner(name: str) -> Callable[[Config], Outcome]:
    """How to run an experiment on a runtime."""

    def run(config: Config) -> Outcome:
        console = Console(config.num_slots, quiet=True)
        with tempfile.TemporaryDirectory() as folder:
            request = RunRequest(config, Path(folder), name)
            return run_local(request, console) if name == "local" else run_on_ray(request, console)

    return run


if __name__ == "__main__":
    main()
