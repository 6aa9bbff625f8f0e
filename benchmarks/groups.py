"""What several APs in one process on Ray bring, against `local`: start, memory, slots/s and CPU time per slot.

The same experiment each time, with learning on; times are from slot FIRST_SLOT on, when every AP learns. Memory is the
proportional set size (PSS) of all processes, Ray's own and this one included; CPU time is that of the same processes.
Example: python -m benchmarks.groups --aps 100 --ways local 1 10 50
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from apnode.config import Config
from benchmarks.startup import cpu_seconds, mentioning, pss_mb
from benchmarks.throughput import experiment
from cfmimo.cli.console import Console
from cfmimo.runtime.cluster import Cluster
from cfmimo.runtime.local import LocalNetwork
from cfmimo.runtime.request import RunRequest
from cfmimo.runtime.session import connected, processes_of

FIRST_SLOT = 40
Found = tuple[tuple[float, float, float, float], str]  # start [s], PSS [GB], slots/s, CPU [ms per slot]; digest


class Moment:
    """What processes have taken when a slot opens."""

    def __init__(self, slot: int, pids: set[int]) -> None:
        self.gb = sum(map(pss_mb, pids)) / 1000
        self.slot, self.at, self.cpu = slot, time.monotonic(), cpu(pids)

    def until_now(self, num_slots: int, pids: set[int]) -> tuple[float, float, float]:
        """Memory [GB] then; slots/s and CPU time per slot [ms] since, as all slots are over now."""
        slots = num_slots - self.slot
        return self.gb, slots / (time.monotonic() - self.at), 1000 * (cpu(pids) - self.cpu) / slots


def in_local(config: Config) -> Found:
    """All nodes in this process."""
    began, pids, since = time.monotonic(), {os.getpid()}, list[Moment]()
    network = LocalNetwork(config)
    start = time.monotonic() - began
    for _ in network.frames():
        if not since and network.channel.opened == FIRST_SLOT:
            since.append(Moment(FIRST_SLOT, pids))
    return (start, *since[0].until_now(config.num_slots, pids)), network.coordinator.record.digest()


def on_ray(config: Config) -> Found:
    """A process for every group of APs."""
    console, since = Console(config.num_slots, quiet=True), list[Moment]()
    with connected(None, config.radio.num_aps) as fork_folder:
        began = time.monotonic()
        cluster = Cluster(RunRequest(config), "127.0.0.1", fork_folder)
        cluster.start(console)
        start = time.monotonic() - began
        pids = {process["pid"] for process in cluster.processes} | mentioning(fork_folder)
        pids |= {*processes_of(Path(fork_folder).parent), os.getpid()}

        def look(newest: int) -> None:
            if newest >= FIRST_SLOT and not since:
                since.append(Moment(newest + 1, pids))

        cluster.launch()
        record = cluster.follow(console, look)
        return (start, *since[0].until_now(config.num_slots, pids)), record.digest()


def cpu(pids: set[int]) -> float:
    """User and system time of processes so far [s]."""
    return sum(map(cpu_seconds, pids))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aps", type=int, default=100)
    parser.add_argument("--slots", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=["local", "1", "10", "50"], help="local, or APs per actor")
    options = parser.parse_args()
    found = {way: list[tuple[float, float, float, float]]() for way in options.ways}
    digests = set()
    config = experiment(options.aps, options.slots, "ray")
    for _ in range(options.rounds):
        for way, of_way in found.items():
            figures, digest = measured(config, way)
            of_way.append(figures)
            print(way, *(f"{figure:.2f}" for figure in figures), file=sys.stderr)
            digests.add(digest)
    first = options.ways[0]
    print(f"M = {options.aps}, {options.slots} slots, learning on, {options.rounds} rounds: medians")
    print(f"{'':12}{'start s':>9}{'PSS GB':>9}{'slots/s':>9}{': ' + first:>9}{'CPU ms/slot':>13}{': ' + first:>9}")
    for way, of_way in found.items():
        start, gb, rate, ms = (statistics.median(column) for column in zip(*of_way, strict=True))
        faster, dearer = (
            statistics.median(one[at] / other[at] for one, other in zip(of_way, found[first], strict=True))
            for at in (2, 3)
        )
        name = way if way == "local" else f"ray, {way}"
        print(f"{name:12}{start:9.1f}{gb:9.2f}{rate:9.2f}{faster:9.2f}{ms:13.1f}{dearer:9.2f}")
    print(f"digests: {'all equal' if len(digests) == 1 else digests}")


def measured(config: Config, way: str) -> Found:
    """In a process of its own, so that no way finds what another left."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        if way == "local":
            return apart.submit(in_local, config).result()
        return apart.submit(on_ray, config.variant(run={"aps_per_actor": int(way)})).result()


if __name__ == "__main__":
    main()
