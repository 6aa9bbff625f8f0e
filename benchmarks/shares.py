"""Where the CPU time of a slot goes: learning, precoding, physics, and what running as a hundred processes adds.

The same experiment in `local` and in `ray`, with learning on, from slot 40 on, in CPU milliseconds per slot over all
nodes. Every part counts what is spent in its functions less what is spent in those of other parts that they call;
`protocol` is the rest of what nodes do. In `ray` the threads that ZeroMQ and Ray have beside a node's own count as
transport and Ray. Taking the times costs about a twentieth of a slot.
Example: python -m benchmarks.shares --aps 100 --figure shares.png
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

import matplotlib.pyplot as plt
import ray

import apnode.agent.policies
import apnode.protocol.node
import apnode.radio.csi
import apnode.radio.precoding
import apnode.runtime.process
import apnode.runtime.transport
import cfmimo.runtime.cluster
import cfmimo.runtime.local
from apnode.access_point import AccessPoint
from apnode.config import Config
from benchmarks.throughput import experiment
from cfmimo.cli.console import Console
from cfmimo.runtime.local import LocalNetwork
from cfmimo.runtime.request import RunRequest
from cfmimo.runtime.session import connected, processes_of
from channel_server.server import ChannelServer
from coordinator.collector import Coordinator

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
        ("learning", apnode.agent.policies.Ddqn, ("act", "learn")),
        ("learning", cfmimo.runtime.local, ("use_leisure_together",)),
        ("learning", apnode.runtime.process, ("use_leisure_together",)),
        ("precoding", apnode.radio.csi, ("despread", "estimate")),
        ("precoding", apnode.radio.precoding.Precoder, ("__init__", "alone", "joint", "block")),
        ("wire", apnode.protocol.node, ("encode", "decode")),
        ("transport", apnode.runtime.transport.ZeroMqTransport, ("send", "receive")),
        ("physics", ChannelServer, ("receive", "handle")),
        ("metrics", Coordinator, ("receive", "handle")),
        ("protocol", AccessPoint, ("receive", "handle", "use_leisure")),
    ):
        for name in names:
            setattr(owner, name, clock.timed(part, getattr(owner, name)))
    for node in (ChannelServer, AccessPoint):
        setattr(node, "_open", beginning(clock, node._open))  # noqa: B010  two kinds of nodes
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

    class Timed(kind):  # type: ignore[misc]
        def run(self, *args: Any) -> Any:
            clock = watched()
            result = clock.timed("transport", super().run)(*args)
            Path(folder, f"{kind.__name__}-{os.getpid()}.json").write_text(json.dumps(clock.result()))
            return result

    return Timed


def in_local(config: Config) -> Counter[str]:
    """CPU time by part in `local` [ns]."""
    clock = watched()
    clock.timed("transport", LocalNetwork(config).run)()
    return clock.spent


def in_ray(config: Config) -> tuple[Counter[str], Counter[str]]:
    """CPU time by part in `ray`, and of that what the channel server takes [ns]."""
    console = Console(config.num_slots, quiet=True)
    with tempfile.TemporaryDirectory() as folder, connected(None, config.radio.num_aps) as fork_folder:
        for name in ("ApActor", "ChannelServerActor", "CoordinatorActor"):
            setattr(cfmimo.runtime.cluster, name, timed_actor(getattr(cfmimo.runtime.cluster, name), folder))
        cluster = cfmimo.runtime.cluster.Cluster(RunRequest(config), "127.0.0.1", fork_folder)
        cluster.start(console)
        cluster.launch()
        while ray.get(cluster.coordinator.latest.remote())[0] < FIRST_SLOT:
            time.sleep(0.1)
        before = of_ray(fork_folder)
        cluster.follow(console)
        spent = Counter({"Ray": of_ray(fork_folder) - before})
        left = {path.name: Counter(json.loads(path.read_text())) for path in Path(folder).glob("*.json")}
    (server,) = (times for name, times in left.items() if name.startswith("ChannelServer"))
    return sum(left.values(), spent), server


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
    parser.add_argument("--figure", type=Path, help="draw it, too")
    options = parser.parse_args()
    config = experiment(options.aps, options.slots, "ray")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        local = apart.submit(in_local, config).result()
    in_processes, of_server = in_ray(config)
    slots = options.slots - FIRST_SLOT
    ms = {name: per_slot(times, slots) for name, times in (("local", local), ("ray", in_processes))}
    print(f"M = {options.aps}, learning on, slots {FIRST_SLOT} to {options.slots}: CPU ms per slot and share")
    print(f"{'':12}" + "".join(f"{runtime:>18}" for runtime in ms))
    rows = {**{part: (part,) for part in (*USEFUL, *OVERHEAD)}, "overhead": OVERHEAD, "all": (*USEFUL, *OVERHEAD)}
    for row, parts in rows.items():
        figures = [(sum(of[part] for part in parts), sum(of.values())) for of in ms.values()]
        print(f"{row:12}" + "".join(f"{figure:11.1f} {figure / whole:6.0%}" for figure, whole in figures))
    server = per_slot(of_server, slots)
    frames = server["wire"] + server["transport"]
    print(f"channel server: physics {server['physics']:.1f}, frames {frames:.1f}, Ray {server['Ray']:.1f} ms per slot")
    if options.figure:
        draw(ms, options.aps, options.figure)


def per_slot(times: Counter[str], slots: int) -> dict[str, float]:
    """CPU time of each part [ms per slot], of [ns]."""
    return {part: times[part] / 1e6 / slots for part in (*USEFUL, *OVERHEAD)}


def draw(ms: dict[str, dict[str, float]], aps: int, path: Path) -> None:
    """A bar for each runtime, useful parts first."""
    figure, axes = plt.subplots(figsize=(7, 2.2), layout="constrained")
    ends = dict.fromkeys(ms, 0.0)
    for index, part in enumerate((*USEFUL, *OVERHEAD)):
        shades = plt.get_cmap("Blues" if part in USEFUL else "Oranges")
        colour = shades(0.9 - 0.15 * (index if part in USEFUL else index - len(USEFUL)))
        axes.barh(list(ms), [of[part] for of in ms.values()], left=list(ends.values()), color=colour, label=part)
        ends = {name: end + ms[name][part] for name, end in ends.items()}
    axes.invert_yaxis()
    axes.set_xlabel(f"CPU time [ms per slot], M = {aps}")
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
