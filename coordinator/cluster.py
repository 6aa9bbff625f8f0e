"""The Ray runtime: one actor per AP, one for the channel server, one for the coordinator.

The launcher here creates them all, supervises them, and commands none of them slot by slot.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from apnode.actor import ApActor, Network
from apnode.config import Config
from apnode.rng import own_config
from apnode.transport import CurveKeys
from channel_server.actor import ChannelServerActor
from coordinator.actor import CoordinatorActor
from coordinator.console import Console
from coordinator.forkserver import py_executable
from coordinator.record import Outcome, Record
from coordinator.session import ClusterError, connected

_START_TIMEOUT_S = 300.0
_END_TIMEOUT_S = 15.0
_POLL_S = 0.25


class Cluster:
    """The actors of one run, and their supervision."""

    def __init__(self, config: Config, host: str | None, fork_folder: str) -> None:
        """Create all actors.

        Args:
            config: the experiment.
            host: as in Network.
            fork_folder: where the fork server of each machine has its socket.
        """
        self.processes: list[dict[str, Any]] = []  # of the APs, once started
        self.restarts: list[dict[str, int]] = []
        self._config = config
        self._network = Network(config.run.transport, host, CurveKeys.generate())
        self._id = secrets.token_hex(4)
        self.coordinator = self._actor(CoordinatorActor, "coordinator", config, max_restarts=0, threads=2)
        self.channel = self._actor(ChannelServerActor, "channel", config, max_restarts=0)
        by_fork = {"py_executable": py_executable(fork_folder, config.cooperation.policy)}
        placed: dict[str, Any] = {
            "scheduling_strategy": "SPREAD",
            "runtime_env": by_fork if config.run.start == "fork" else None,
        }
        self._aps = [
            self._actor(ApActor, f"ap-{ap}", own_config(config, ap), ap, **placed) for ap in range(config.radio.num_aps)
        ]
        self._incarnation = [0] * config.radio.num_aps
        self._asked: Any = None  # the coordinator's answer under way
        self._newest = -1

    def start(self, console: Console, metrics_port: int | None) -> None:
        """Start every process and wait until all are up; an AP whose process dies meanwhile gets a second chance.

        Raises:
            ClusterError: if they do not come up, or the port is taken.
        """
        pending = {ap.warm_up.remote(): index for index, ap in enumerate(self._aps)}
        if metrics_port is not None:
            self._serve_metrics(metrics_port)
        again: set[int] = set()
        give_up = time.monotonic() + _START_TIMEOUT_S
        while pending:
            for ref in ray.wait(list(pending), timeout=1.0)[0]:
                ap = pending.pop(ref)
                if not _died(ref):
                    pid, node = ray.get(ref)
                    self.processes.append({"ap": ap, "pid": pid, "node": node})
                elif ap in again:
                    raise ClusterError(f"the process of AP {ap} died twice while starting")
                else:
                    again.add(ap)
                    pending[self._aps[ap].warm_up.remote()] = ap
            console.starting(len(self.processes), len(self._aps))
            if time.monotonic() > give_up:
                raise ClusterError(f"{len(pending)} of {len(self._aps)} APs did not start in {_START_TIMEOUT_S:.0f} s")
        self.processes.sort(key=lambda process: process["ap"])

    def launch(self) -> None:
        """Set every node going. From here on they run by themselves."""
        opened = [self.channel.open.remote(), self.coordinator.open.remote()]
        self._endpoints = ray.get(opened, timeout=_START_TIMEOUT_S)
        self._record = self.coordinator.run.remote()
        self._physics = self.channel.run.remote(self._endpoints[1])
        self.running = {self._run_ap(ap): ap for ap in range(len(self._aps))}
        self._launched = time.monotonic()

    def follow(self, console: Console) -> Record:
        """Wait for the end, restarting the loop of every AP whose process Ray has replaced.

        Raises:
            ClusterError: if the channel server or the coordinator dies, or the first slot never opens.
        """
        while not ray.wait([self._record], timeout=_POLL_S)[0]:
            self._show_progress(console)
            if ray.wait([self._physics], timeout=0)[0] and _died(self._physics):
                raise ClusterError("the channel server died; the run is stopped")
            if self._newest < 0 and time.monotonic() - self._launched > _START_TIMEOUT_S:
                raise ClusterError(f"no slot was completed in {_START_TIMEOUT_S:.0f} s; not every AP can be reached")
            self._restart_dead()
        if _died(self._record):
            raise ClusterError("the coordinator died, and all reports with it; the run is stopped")
        result: Record = ray.get(self._record)
        return result

    def frames_lost(self) -> int:
        """How many frames the nodes could not send; waits a moment for those still at work."""
        ended, _ = ray.wait([self._physics, *self.running], num_returns=1 + len(self.running), timeout=_END_TIMEOUT_S)
        return sum(ray.get(ref)["lost"] for ref in ended if not _died(ref))

    def _restart_dead(self) -> None:
        for ref in [
            ref for ref in ray.wait(list(self.running), num_returns=len(self.running), timeout=0)[0] if _died(ref)
        ]:
            ap = self.running.pop(ref)
            self.restarts.append({"ap": ap, "after_slot": self._newest})
            self._incarnation[ap] += 1
            self.running[self._run_ap(ap)] = ap

    def _show_progress(self, console: Console) -> None:
        """Ask the coordinator how far the nodes are, and take its answer when it comes; nobody waits for it."""
        if self._asked is None:
            self._asked = self.coordinator.latest.remote()
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            answer, self._asked = self._asked, None
            if not _died(answer):
                self._newest, row = ray.get(answer)
                console.progress(self._newest, row)

    def _serve_metrics(self, port: int) -> None:
        try:
            ray.get(self.coordinator.serve_metrics.remote(port), timeout=_START_TIMEOUT_S)
        except RayTaskError as error:
            raise ClusterError(f"cannot serve metrics on port {port}: {error.cause}") from None

    def _run_ap(self, ap: int) -> Any:
        """Start an AP's loop; after its process has died, Ray runs this in a new one."""
        return self._aps[ap].run.remote(*self._endpoints, self._incarnation[ap])

    def _actor(self, kind: type, name: str, config: Config, *args: Any, threads: int = 1, **options: Any) -> Any:
        """Create one actor, with Ray's options; one that dies is started again unless they say otherwise.

        With Ray calls as transport, frames need a thread beside the loop.
        """
        name = f"cfmimo-{self._id}-{name}"
        options = {
            "name": name,
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": 0,
            "max_concurrency": max(threads, 2 if self._network.transport == "ray" else 1),
            **options,
        }
        return ray.remote(kind).options(**options).remote(name, config, self._network, *args)


def _died(ref: Any) -> bool:
    """Whether a call that has ended did so because its actor's process ended; any other failure is raised."""
    try:
        ray.get(ref)
    except RayActorError:
        return True
    return False


def run_on_ray(config: Config, address: str | None, metrics_port: int | None, console: Console) -> Outcome:
    """Run an experiment on the Ray cluster at `address`, or on a private one if that is None.

    Raises:
        ClusterError: if the APs do not start, or the channel server or the coordinator dies.
    """
    with connected(address, config.radio.num_aps) as fork_folder:
        cluster = Cluster(config, "127.0.0.1" if address is None else None, fork_folder)
        cluster.start(console, metrics_port)
        began = time.monotonic()
        cluster.launch()
        record = cluster.follow(console)
        seconds = time.monotonic() - began
        return Outcome(record, seconds, cluster.processes, cluster.restarts, cluster.frames_lost())
