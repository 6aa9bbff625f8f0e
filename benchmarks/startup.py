"""What an AP process costs: seconds and CPU seconds to start and to restart, memory; forked against plain.

Ways take turns in the same run; trust the ratios. Memory is the proportional set size (PSS) once all have learned: per
AP with its client and its share of the fork server, and in all with Ray's own processes and this one. CPU time is that
of the same processes per AP. One AP is killed (SIGKILL): the time until Ray says so, and until the AP's next slot.
Example: python -m benchmarks.startup --aps 100 --ways fork
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import signal
import statistics
import threading
import time
from pathlib import Path

import numpy as np
import ray

from benchmarks.throughput import experiment
from cfmimo.cli.console import Console
from cfmimo.runtime.cluster import Cluster
from cfmimo.runtime.request import RunRequest
from cfmimo.runtime.session import connected, processes_of

SLOTS = 300
KILLED, KILLED_IN = 0, 40  # AP, slot: all have learned by then
ROWS = ("start-up s", "CPU s per AP", "PSS MB per AP", "PSS GB in all", "death seen s", "restart s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", default="plain,fork")
    options = parser.parse_args()
    ways = options.ways.split(",")
    rounds = [{way: measured(options.aps, way) for way in ways} for _ in range(options.rounds)]
    print(f"M = {options.aps}, learning on, {options.rounds} rounds: medians")
    compared = f"{f'{ways[-1]} : {ways[0]}':>15}" if len(ways) > 1 else ""
    print(f"{'':14}" + "".join(f"{way:>10}" for way in ways) + compared)
    for row, name in enumerate(ROWS):
        of = [statistics.median(each[way][row] for each in rounds) for way in ways]
        ratio = statistics.median(each[ways[-1]][row] / each[ways[0]][row] for each in rounds)
        print(f"{name:14}" + "".join(f"{figure:10.2f}" for figure in of) + (f"{ratio:15.2f}" if compared else ""))


def measured(aps: int, way: str) -> tuple[float, ...]:
    """Start a run one way, let every AP learn, and kill one; returns ROWS."""
    config = experiment(aps, SLOTS, "ray").variant(run={"start": way})
    console = Console(config.num_slots, quiet=True)
    with connected(None, aps) as fork_folder:
        began = time.monotonic()
        cluster = Cluster(RunRequest(config), "127.0.0.1", fork_folder)
        cluster.start(console)
        seconds = time.monotonic() - began
        pids = {process["pid"] for process in cluster.processes} | mentioning(fork_folder)
        cpu = sum(map(cpu_seconds, pids)) / aps
        cluster.launch()
        murder = Murder(cluster, pids, {*processes_of(Path(fork_folder).parent), *pids, os.getpid()})
        murder.start()
        record = cluster.follow(console)
        murder.join()
    back = int(np.flatnonzero(~record.reported[:, KILLED]).max()) + 1
    of_aps, in_all = murder.memory
    return seconds, cpu, of_aps / aps, in_all / 1000, murder.seen, murder.slot_at[back] - murder.at


class Murder(threading.Thread):
    """Kills an AP in a slot, and notes when which slot was the newest."""

    def __init__(self, cluster: Cluster, of_aps: set[int], of_all: set[int]) -> None:
        super().__init__()
        self.memory = (0.0, 0.0)  # of these processes, just before [MB]
        self.at = self.seen = 0.0  # when; so long after it Ray says so [s]
        self.slot_at: dict[int, float] = {}  # when a slot's report was in
        self._cluster, self._pids = cluster, (of_aps, of_all)

    def run(self) -> None:
        newest = -1
        while newest < SLOTS - 1:
            latest = ray.get(self._cluster.coordinator.latest.remote())[0]
            self.slot_at |= dict.fromkeys(range(newest + 1, latest + 1), time.monotonic())
            newest = latest
            if newest >= KILLED_IN and not self.at:
                self.memory = tuple(sum(map(pss_mb, pids)) for pids in self._pids)  # type: ignore[assignment]
                self.at = time.monotonic()
                os.kill(self._cluster.processes[KILLED]["pid"], signal.SIGKILL)
            if self._cluster.restarts and not self.seen:
                self.seen = time.monotonic() - self.at
            time.sleep(0.02)


def mentioning(folder: str) -> set[int]:
    """The processes that have a folder among their arguments: the fork server on it and its clients."""
    found = set()
    for arguments in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if folder.encode() in arguments.read_bytes().split(b"\0"):
                found.add(int(arguments.parent.name))
        except OSError:  # ended meanwhile
            continue
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far [s]."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int) -> float:
    """Proportional set size of a process [MB]."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
