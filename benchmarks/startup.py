"""What an AP process costs: seconds and CPU seconds to start, memory once it has learned; forked against plain.

Both ways take turns in the same run; trust the ratios. Memory is the proportional set size (PSS), and CPU time is that
of the AP's process; when forked, its client and its share of the fork server are added to both. Example:
python benchmarks/startup.py --aps 20 --rounds 1
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import statistics
import time
from pathlib import Path

from coordinator.cluster import Cluster
from coordinator.console import Console
from coordinator.presets import load
from coordinator.session import connected

WAYS = ("plain", "fork")
SLOTS = 40  # until every AP has learned a few times
COLUMNS = {"start-up s": "8.1f", "CPU s per AP": "8.2f", "PSS MB per AP": "8.1f"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    rounds = [{way: measured(options.aps, way) for way in WAYS} for _ in range(options.rounds)]
    print(f"M = {options.aps}, learning on, {options.rounds} rounds: medians")
    print(f"{'':16} {'plain':>8} {'fork':>8} {'fork : plain':>13}")
    for column, (name, form) in enumerate(COLUMNS.items()):
        plain, fork = (statistics.median(each[way][column] for each in rounds) for way in WAYS)
        ratio = statistics.median(each["fork"][column] / each["plain"][column] for each in rounds)
        print(f"{name:16} {plain:{form}} {fork:{form}} {ratio:13.2f}")


def measured(aps: int, way: str) -> tuple[float, float, float]:
    """Start a run one way and let every AP learn; returns COLUMNS."""
    settings = [f"radio.num_aps={aps}", "run.blocks_per_slot=1", "run.slots_per_episode=20", f"run.start={way}"]
    config = load("demo", [*settings, f"run.episodes={SLOTS // 20}"])
    console = Console(config.num_slots, quiet=True)
    with connected(None, aps) as fork_folder:
        began = time.monotonic()
        cluster = Cluster(config, "127.0.0.1", fork_folder)
        cluster.start(console, None)
        seconds = time.monotonic() - began
        pids = {process["pid"] for process in cluster.processes} | mentioning(fork_folder)
        cpu = sum(map(cpu_seconds, pids)) / aps
        cluster.launch()
        cluster.follow(console)
        memory = sum(map(pss_mb, pids)) / aps
    return seconds, cpu, memory


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
