"""The Ray runtime: one actor per AP, one for the channel server, one for the coordinator.

The launcher here creates them all, supervises them, and commands none of them slot by slot.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from apnode.actor import ApActor, Network
from apnode.config import Config
from apnode.transport import CurveKeys
from channel_server.actor import ChannelServerActor
from coordinator.actor import CoordinatorActor
from coordinator.console import Console
from coordinator.presets import ConfigError
from coordinator.record import Outcome, Record

_TOKEN = secrets.token_hex(32)  # of private sessions; Ray reads it once per process
_START_TIMEOUT_S = 300.0
_POLL_S = 0.25
_ANSWER_TIMEOUT_S = 60.0
_AP_BYTES = 250 * 2**20  # a Ray worker with torch and its optimiser, measured
_AP_BYTES_WITHOUT_TORCH = 80 * 2**20
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ClusterError(RuntimeError):
    """The run cannot go on; the text says why."""


@contextmanager
def connected(address: str | None, num_aps: int) -> Iterator[None]:
    """A Ray session: the cluster at `address`, or a private one on this machine that ends with the block.

    The private one asks for a token, kept in a file of mode 0600, and binds no dashboard.
    """
    if address is not None:
        ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": _ONE_THREAD})
        try:
            yield
        finally:
            ray.shutdown()
        return
    folder = Path(tempfile.mkdtemp(prefix="cfmimo-", dir="/tmp"))  # short: it holds Unix sockets
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(_TOKEN)
    settings = {
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_worker_niceness": "0",  # at Ray's default of 15 any other process starves the actors
        "RAY_worker_maximum_startup_concurrency": str(
            max(os.cpu_count() or 1, num_aps // 3)
        ),  # warns from 4 times this
        "RAY_USAGE_STATS_ENABLED": "0",
        **_ONE_THREAD,
    }
    on_sigterm = signal.getsignal(signal.SIGTERM)
    before = {name: os.environ.get(name) for name in (*settings, "RAY_AUTH_MODE")}
    os.environ.pop("RAY_AUTH_MODE", None)  # unset, ray.init turns tokens on, in this process too
    os.environ.update(settings)
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100 * 2**20,
            _temp_dir=str(folder / "ray"),
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which ends without cleaning up
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
        shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """The actors of one run, and their supervision."""

    def __init__(self, config: Config, host: str | None) -> None:
        self.processes: list[dict[str, Any]] = []  # of the APs, once started
        self.restarts: list[dict[str, int]] = []
        self._config = config
        self._network = Network(config.run.transport, host, CurveKeys.generate())
        self._id = secrets.token_hex(4)
        self.coordinator = self._actor(CoordinatorActor, "coordinator", max_restarts=0, threads=2)
        self.channel = self._actor(ChannelServerActor, "channel", max_restarts=0)
        self._aps = [self._actor(ApActor, f"ap-{ap}", ap) for ap in range(config.radio.num_aps)]
        self._incarnation = [0] * config.radio.num_aps

    def start(self, console: Console, metrics_port: int | None) -> None:
        """Start every process and wait until all are up."""
        pending = {ap.warm_up.remote(): index for index, ap in enumerate(self._aps)}
        if metrics_port is not None:
            ray.get(self.coordinator.serve_metrics.remote(metrics_port), timeout=_START_TIMEOUT_S)
        give_up = time.monotonic() + _START_TIMEOUT_S
        while pending:
            for ref in ray.wait(list(pending), timeout=1.0)[0]:
                pid, node = ray.get(ref)
                self.processes.append({"ap": pending.pop(ref), "pid": pid, "node": node})
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

    def follow(self, console: Console) -> Record:
        """Wait for the end, restarting the loop of every AP whose process Ray has replaced.

        Raises:
            ClusterError: if the channel server or the coordinator dies.
        """
        while not ray.wait([self._record], timeout=_POLL_S)[0]:
            newest = self._show_progress(console)
            if ray.wait([self._physics], timeout=0)[0] and _died(self._physics):
                raise ClusterError("the channel server died; the run cannot go on")
            for ref in (
                ray.wait(list(self.running), num_returns=len(self.running), timeout=0)[0] if self.running else []
            ):
                ap = self.running.pop(ref)
                if _died(ref):
                    self.restarts.append({"ap": ap, "after_slot": newest})
                    self._incarnation[ap] += 1
                    self.running[self._run_ap(ap)] = ap
        if _died(self._record):
            raise ClusterError("the coordinator died; the APs run on, but what they reported is lost")
        result: Record = ray.get(self._record)
        return result

    def _show_progress(self, console: Console) -> int:
        """Ask the coordinator how far the nodes are; nobody but the person at the terminal waits for it."""
        try:
            newest, row = ray.get(self.coordinator.latest.remote(), timeout=_ANSWER_TIMEOUT_S)
        except RayActorError:
            return -1
        console.progress(newest, row)
        return int(newest)

    def _run_ap(self, ap: int) -> Any:
        """Start an AP's loop; after its process has died, Ray runs this in a new one."""
        return self._aps[ap].run.remote(*self._endpoints, self._incarnation[ap])

    def _actor(self, kind: type, name: str, *args: Any, max_restarts: int = -1, threads: int = 1) -> Any:
        """Create one actor; with Ray calls as transport, frames need a thread beside the loop."""
        name = f"cfmimo-{self._id}-{name}"
        options = {
            "name": name,
            "num_cpus": 0,
            "max_restarts": max_restarts,
            "max_task_retries": 0,
            "max_concurrency": max(threads, 2 if self._network.transport == "ray" else 1),
        }
        return ray.remote(kind).options(**options).remote(name, self._config, self._network, *args)

    @staticmethod
    def _raise_if_dead(physics: Any) -> None:
        if ray.wait([physics], timeout=0)[0] and _died(physics):
            raise ClusterError("the channel server died; the run cannot go on")


def _died(ref: Any) -> bool:
    """Whether a call failed because its actor's process ended; any other failure is raised."""
    try:
        ray.get(ref)
    except RayActorError:
        return True
    return False


def run_on_ray(config: Config, address: str | None, metrics_port: int | None, console: Console) -> Outcome:
    """Run an experiment on the Ray cluster at `address`, or on a private one if that is None.

    Raises:
        ClusterError: if the APs do not start, or the channel server dies.
    """
    with connected(address, config.radio.num_aps):
        cluster = Cluster(config, host="127.0.0.1" if address is None else None)
        cluster.start(console, metrics_port)
        began = time.monotonic()
        cluster.launch()
        record = cluster.follow(console)
        return Outcome(record, time.monotonic() - began, cluster.processes, cluster.restarts)


def check_memory(config: Config) -> None:
    """Refuse a run whose AP processes would not fit this machine, before anything starts.

    Raises:
        ConfigError: if it would not.
    """
    each = _AP_BYTES if config.cooperation.policy == "ddqn" else _AP_BYTES_WITHOUT_TORCH
    needed = config.radio.num_aps * each
    free = next(
        int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line
    )
    if needed > free:
        raise ConfigError(
            f"{config.radio.num_aps} AP processes need about {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are "
            "free; use --runtime local, --address of a cluster, or fewer APs (--set radio.num_aps=...)"
        )
