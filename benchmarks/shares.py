"""Where the CPU time of a slot goes: learning, precoding, physics, and what running as a hundred processes adds.

The same experiment in `local` and in `ray`, with learning on, from slot 40 on, in CPU milliseconds per slot over all
nodes. Every part counts what is spent in its functions less what is spent in those of other parts that they call;
`protocol` is the rest of what nodes do. In `ray` the threads that ZeroMQ and Ray have beside a node's own count as
transport and Ray. Taking the times costs about a twentieth of a slot. Example: python benchmarks/shares.py --aps 100
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import functools
import json
import multiprocessing
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import ray
from throughput import experiment

import apnode.csi
import apnode.node
import apnode.policies
import apnode.precoding
import apnode.transport
import coordinator.cluster
from apnode.access_point import AccessPoint
from apnode.config import Config
from channel_server.server import ChannelServer
from coordinator.collector import Coordinator
from coordinator.console import Console
from coordinator.local import LocalNetwork
from coordinator.session import connected, processes_of

FIRST_SLOT = 40  # learning has begun everywhere
USEFUL = ("learning", "precoding", "physics")
OVERHEAD = ("protocol", "wire", "transport", "metrics", "Ray")


class Clock:
    """CPU time of this thread by part, since slot FIRST_SLOT opened."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()  # part -> [ns]
        self._stack: list[str] = []
        self._since = time.thread_time_ns()
        self._before: Counter[str] = Counter()

    def begin(self) -> None:
        """Forget what was spent until now."""
        self.spent.clear()
        self._before = beside_the_node()

    def result(self) -> Counter[str]:
        """What was spent since then, other threads of this process included [ns]."""
        return self.spent + (beside_the_node() - self._before)

    def timed(self, part: str, function: Any) -> Any:
        """The same function, whose time counts for a part."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._book()
            self._stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._book()
                self._stack.pop()

        return wrapper

    def _book(self) -> None:
        """Book what was spent since the last time on the innermost part."""
        now = time.thread_time_ns()
        if self._stack:
            self.spent[self._stack[-1]] += now - self._since
        self._since = now


def watched() -> Clock:
    """A clock on the functions of this process."""
    clock = Clock()
    for part, owner, names in (
        ("learning", apnode.policies.Ddqn, ("act", "learn")),
        ("precoding", apnode.csi, ("despread", "estimate")),
        ("precoding", apnode.precoding.Precoder, ("__init__", "alone", "joint", "block")),
        ("wire", apnode.node, ("encode", "decode")),
        ("transport", apnode.transport.ZeroMqTransport, ("send", "receive")),
        ("physics", ChannelServer, ("handle",)),
        ("metrics", Coordinator, ("handle",)),
        ("protocol", AccessPoint, ("handle", "use_leisure")),
    ):
        for name in names:
            setattr(owner, name, clock.timed(part, getattr(owner, name)))
    for node in (ChannelServer, AccessPoint):
        node._open = beginning(clock, node._open)  # type: ignore[attr-defined]
    return clock


def beginning(clock: Clock, opened: Any) -> Any:
    """The same method, which starts the clock when it opens slot FIRST_SLOT."""

    def wrapper(node: Any, slot: Any, *args: Any) -> None:
        if getattr(slot, "slot", slot) == FIRST_SLOT:
            clock.begin()
        opened(node, slot, *args)

    return wrapper


def beside_the_node() -> Counter[str]:
    """CPU time so far of this process's other threads [ns]: ZeroMQ's as transport, the rest as Ray."""
    spent: Counter[str] = Counter()
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != threading.get_native_id():
            name, nanoseconds = thread(task)
            spent["transport" if name.startswith("ZMQ") else "Ray"] += nanoseconds
    return spent


def thread(folder: Path) -> tuple[str, int]:
    """Name and CPU time so far of a thread or process [ns]."""
    name, _, fields = (folder / "stat").read_text().partition("(")[2].rpartition(")")
    user, system = fields.split()[11:13]
    return name, (int(user) + int(system)) * 10**9 // os.sysconf("SC_CLK_TCK")


def timed_actor(kind: type, folder: str) -> type:
    """An actor that leaves the times of its process in a folder."""

    class Timed(kind):  # type: ignore[misc,valid-type]
        def run(self, *args: Any) -> Any:
            clock = watched()
            result = clock.timed("transport", super().run)(*args)
            Path(folder, f"{os.getpid()}.json").write_text(json.dumps(clock.result()))
            return result

    return Timed


def in_local(config: Config) -> Counter[str]:
    """CPU time by part in `local` [ns]."""
    clock = watched()
    clock.timed("transport", LocalNetwork(config).run)()
    return clock.spent


def in_ray(config: Config) -> Counter[str]:
    """CPU time by part in `ray` [ns]."""
    console = Console(config.num_slots, quiet=True)
    with tempfile.TemporaryDirectory() as folder, connected(None, config.radio.num_aps) as fork_folder:
        for name in ("ApActor", "ChannelServerActor", "CoordinatorActor"):
            setattr(coordinator.cluster, name, timed_actor(getattr(coordinator.cluster, name), folder))
        cluster = coordinator.cluster.Cluster(config, "127.0.0.1", fork_folder)
        cluster.start(console, None)
        cluster.launch()
        while ray.get(cluster.coordinator.latest.remote())[0] < FIRST_SLOT:
            time.sleep(0.1)
        before = of_ray(fork_folder)
        cluster.follow(console)
        spent = Counter({"Ray": of_ray(fork_folder) - before})
        for left in Path(folder).glob("*.json"):
            spent.update(json.loads(left.read_text()))
    return spent


def of_ray(fork_folder: str) -> int:
    """CPU time so far of Ray's own processes and of this one, which asks for progress [ns]."""
    processes = [Path("/proc", str(pid)) for pid in processes_of(Path(fork_folder).parent)]
    own = [process for process in processes if not (process / "comm").read_text().startswith("ray::")]
    return sum(thread(process)[1] for process in [*own, Path("/proc/self")])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aps", type=int, default=100)
    parser.add_argument("--slots", type=int, default=120)
    options = parser.parse_args()
    config = experiment(options.aps, options.slots, "zeromq")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        local = apart.submit(in_local, config).result()
    spent = {"local": local, "ray": in_ray(config)}
    print(f"M = {options.aps}, learning on, slots {FIRST_SLOT} to {options.slots}: CPU ms per slot and share")
    print(f"{'':12}" + "".join(f"{runtime:>18}" for runtime in spent))
    for part in (*USEFUL, *OVERHEAD):
        print(f"{part:12}" + "".join(column(times, part, options.slots) for times in spent.values()))
    print(f"{'overhead':12}" + "".join(column(times, "", options.slots, *OVERHEAD) for times in spent.values()))
    print(f"{'all':12}" + "".join(column(times, "", options.slots, *times) for times in spent.values()))


def column(times: Counter[str], part: str, slots: int, *parts: str) -> str:
    """A figure of the table."""
    spent = sum(times[name] for name in (parts or (part,)))
    return f"{spent / 1e6 / (slots - FIRST_SLOT):10.1f} {spent / times.total():6.0%} "


if __name__ == "__main__":
    main()
