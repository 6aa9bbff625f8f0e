"""How long APs are away whose machine is stopped gracefully, on Ray; exits 1 if one is not back within 30 s.

A run over four Ray nodes on this machine. Again and again a node with APs is stopped: its raylet gets SIGTERM; it is
drained, and then gets SIGTERM; the cluster is scaled down by it; or the `ray start --block` that made it gets SIGTERM,
and drains it for as long as Ray finds good before all its processes end. Time counts from the first death of an AP
until all that were there run elsewhere. A new node comes in place of the one that went.
Example: python -m benchmarks.stops --tries 12
"""

from __future__ import annotations

import os

os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "."  # Ray says of everybody that is killed that he died

import argparse
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray._private.state import actors
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.cluster_utils import Cluster as Machines
from ray.core.generated import autoscaler_pb2

from apnode.protocol.node import ap_address
from cfmimo.cli.console import Console
from cfmimo.presets import load
from cfmimo.runtime.cluster import Cluster
from cfmimo.runtime.request import RunRequest
from cfmimo.runtime.session import connected

APS, BACK_S, PATIENCE_S = 8, 30.0, 120.0
WORKERS = 3
SETTINGS = (
    *(f"radio.num_aps={APS}", "radio.num_ues=4", "radio.area_m=250", "run.blocks_per_slot=1", "run.episodes=5000"),
    *("run.slot_s=0.2", "run.slot_deadline_s=2", "run.checkpoint_every_slots=5", "run.watchdog_slots=1000"),
)


class Over(Exception):  # noqa: N818  no error: that was all
    """As many nodes have been stopped as wanted."""


class Stopping:
    """Stops one node after the other, and takes the time."""

    def __init__(self, machines: Machines, tries: int) -> None:
        self._machines = machines
        self._stops = itertools.cycle([self._terminate, self._drain, self._scale_down, self._terminate_block])
        self._workers = [self._add(stop) for stop in itertools.islice(self._stops, WORKERS)]
        self._left = tries
        self.good: list[bool] = []
        self._stopped: tuple[str, str, set[int], float] | None = None  # how, the node, the APs on it, when
        self._died: float | None = None  # the first of its APs
        self._deaths = 0  # in the run, before
        self._rest_until = 0.0

    def look(self, cluster: Cluster, newest: int) -> None:
        """Stop a node if all is well, or see whether the APs of the one that was stopped are back."""
        now = time.monotonic()
        if self._stopped is None:
            if newest >= 10 and now >= self._rest_until:
                self._stop_next(cluster)
            return
        how, node, victims, since = self._stopped
        died = {restart["ap"] for restart in cluster.restarts[self._deaths :]}
        if died and self._died is None:
            self._died = now
        back = died >= victims and {ap_address(ap) for ap in range(APS)} <= {*cluster.running.values()}
        if not (back and not aps_on(node)) and now - since < PATIENCE_S:
            return
        away = now - (self._died or since)
        self.good.append(back and away <= BACK_S and not cluster.given_up)
        came = f"{'all back' if back else 'NOT BACK'} {away:.1f} s after the first death"
        print(
            f"{how}: {len(victims)} APs, the first dead after {(self._died or now) - since:.1f} s, {came}", flush=True
        )
        self._stopped = self._died = None
        self._rest_until = now + 3
        self._workers.append(self._add(next(self._stops)))

    def end(self) -> None:
        """End what is not the cluster's own."""
        for _, worker, _ in self._workers:
            if isinstance(worker, subprocess.Popen):
                worker.kill()

    def _stop_next(self, cluster: Cluster) -> None:
        if not self._left:
            raise Over
        chosen = next((at for at, (_, _, node) in enumerate(self._workers) if aps_on(node)), None)
        if chosen is None:
            raise RuntimeError("no AP is on a node that could be stopped")
        self._left -= 1
        stop, worker, node = self._workers.pop(chosen)
        self._stopped = stop.__name__.strip("_"), node, aps_on(node), time.monotonic()
        self._deaths = len(cluster.restarts)
        stop(worker, node)

    def _add(self, stop: Callable[[Any, str], None]) -> tuple[Callable[[Any, str], None], Any, str]:
        """A node to be stopped in a certain way."""
        before = alive()
        if stop == self._terminate_block:
            script = Path(sys.executable).parent / "ray"
            command = [str(script), "start", "--address", self._machines.address, "--num-cpus=1", "--block"]
            worker: Any = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        else:
            worker = self._machines.add_node(num_cpus=1)
        while not (new := alive() - before):
            time.sleep(0.1)
        return stop, worker, new.pop()

    def _terminate(self, worker: Any, node: str) -> None:
        worker.all_processes["raylet"][0].process.send_signal(signal.SIGTERM)

    def _drain(self, worker: Any, node: str) -> None:
        preempted = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # type: ignore[attr-defined]
        soon = int(time.time() * 1000) + 1000
        client = GcsClient(self._machines.address)
        if not client.drain_node(node, preempted, "benchmark", soon)[0]:
            raise RuntimeError("Ray refuses to drain the node")
        time.sleep(1)  # then whoever drains it stops it
        self._terminate(worker, node)

    def _scale_down(self, worker: Any, node: str) -> None:
        self._machines.remove_node(worker, allow_graceful=True)

    def _terminate_block(self, worker: Any, node: str) -> None:
        worker.send_signal(signal.SIGTERM)


def alive() -> set[str]:
    """Ray's ids of the nodes."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


def aps_on(node: str) -> set[int]:
    """The APs of which a process runs on a node."""
    here = (actor for actor in actors().values() if actor["Address"]["NodeID"] == node and actor["State"] == "ALIVE")
    return {int(actor["Name"].split("-")[-2]) for actor in here if "-ap-" in actor["Name"]}


def main() -> None:
    """Try, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=12, help="(default: 12)")
    tries = parser.parse_args().tries
    Path("/tmp/ray").mkdir(exist_ok=True)  # noqa: S108  Ray's cluster writes its address there, whatever temp_dir is
    quiet = Console(None, quiet=True)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        machines = Machines(initialize_head=True, head_node_args={"num_cpus": 1, "temp_dir": folder})
        try:
            with connected(machines.address, APS) as fork_folder:
                stopping = Stopping(machines, tries)
                try:
                    cluster = Cluster(RunRequest(load("demo", SETTINGS), Path(folder)), None, fork_folder)
                    cluster.start(quiet)
                    cluster.launch()
                    cluster.follow(quiet, lambda newest: stopping.look(cluster, newest))
                except Over:
                    pass
                finally:
                    stopping.end()
        finally:
            machines.shutdown()  # type: ignore[no-untyped-call]
    print(f"of {len(stopping.good)} nodes that were stopped, {sum(stopping.good)} had all their APs back in time")
    sys.exit(not all(stopping.good))


if __name__ == "__main__":
    main()
