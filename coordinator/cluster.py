"""The Ray runtime: one actor per AP, one for the channel server, one for the coordinator.

The launcher here creates them all, supervises them, and commands none of them slot by slot.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from apnode.actor import ApActor, Network
from apnode.config import Config
from apnode.transport import CurveKeys
from channel_server.actor import ChannelServerActor
from coordinator.actor import CoordinatorActor
from coordinator.record import Record

_TOKEN = secrets.token_hex(32)  # of private sessions; Ray reads it once per process
_START_TIMEOUT_S = 300.0
_POLL_S = 0.25
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ClusterError(RuntimeError):
    """The run cannot go on; the text says why."""


@dataclass
class Process:
    """Where an AP actor lives."""

    ap: int
    pid: int
    node: str  # IP address


@dataclass
class RayRun:
    """A run on Ray, while it lasts and after."""

    config: Config
    processes: list[Process] = field(default_factory=list)
    restarts: list[dict[str, int]] = field(default_factory=list)  # {"ap", "after_slot"}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
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
        "RAY_USAGE_STATS_ENABLED": "0",
        **_ONE_THREAD,
    }
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
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
        shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """The actors of one run."""

    def __init__(self, config: Config, host: str | None) -> None:
        self.run = RayRun(config)
        self._config = config
        self._network = Network(config.run.transport, host, CurveKeys.generate())
        self._id = secrets.token_hex(4)
        self._coordinator = self._actor(CoordinatorActor, "coordinator", concurrency=2)
        self._channel = self._actor(ChannelServerActor, "channel", restarts=0)
        self._aps = [self._actor(ApActor, f"ap-{ap}", ap) for ap in range(config.radio.num_aps)]
        self._incarnation = [0] * config.radio.num_aps

    def start(self, started: Callable[[int], None]) -> None:
        """Start every process; `started` is told how many APs are up."""
        pending = {ap.warm_up.remote(): index for index, ap in enumerate(self._aps)}
        give_up = time.monotonic() + _START_TIMEOUT_S
        while pending:
            ready, _ = ray.wait(list(pending), timeout=1.0)
            for ref in ready:
                self.run.processes.append(Process(pending.pop(ref), *ray.get(ref)))
            started(len(self.run.processes))
            if time.monotonic() > give_up:
                raise ClusterError(f"{len(pending)} of {len(self._aps)} APs did not start in {_START_TIMEOUT_S:.0f} s")
        self.run.processes.sort(key=lambda process: process.ap)

    def finish(self, progress: Callable[[dict[str, Any]], None]) -> Record:
        """Let the nodes run to the end; `progress` is told of the newest slot now and then."""
        channel, coordinator = ray.get(
            [self._channel.open.remote(), self._coordinator.open.remote()], timeout=_START_TIMEOUT_S
        )
        record = self._coordinator.run.remote()
        physics = self._channel.run.remote(coordinator)
        aps = {actor.run.remote(channel, coordinator, 0): ap for ap, actor in enumerate(self._aps)}
        newest: dict[str, Any] = {"slot": -1}
        while not ray.wait([record], timeout=_POLL_S)[0]:
            newest = ray.get(self._coordinator.latest.remote(), timeout=60) or newest
            if newest["slot"] >= 0:
                progress(newest)
            self._check(physics)
            for ref in ray.wait(list(aps), num_returns=len(aps), timeout=0)[0] if aps else []:
                ap = aps.pop(ref)
                if self._died(ref):
                    self.run.restarts.append({"ap": ap, "after_slot": newest["slot"]})
                    self._incarnation[ap] += 1
                    again = self._aps[ap].run.remote(channel, coordinator, self._incarnation[ap])
                    aps[again] = ap
        result: Record = ray.get(record)
        return result

    def _actor(self, kind: type, name: str, *args: Any, restarts: int = -1, concurrency: int = 1) -> Any:
        """Create one actor; with Ray calls as transport, frames need a thread beside the loop."""
        name = f"cfmimo-{self._id}-{name}"
        threads = max(concurrency, 2 if self._network.transport == "ray" else 1)
        options = {
            "name": name,
            "num_cpus": 0,
            "max_restarts": restarts,
            "max_task_retries": 0,
            "max_concurrency": threads,
        }
        return ray.remote(kind).options(**options).remote(name, self._config, self._network, *args)

    @staticmethod
    def _check(physics: Any) -> None:
        if ray.wait([physics], timeout=0)[0]:
            try:
                ray.get(physics)
            except RayActorError as error:
                raise ClusterError(f"the channel server died: {error}") from None

    @staticmethod
    def _died(ref: Any) -> bool:
        try:
            ray.get(ref)
        except RayActorError:
            return True
        return False


def run_on_ray(
    config: Config,
    address: str | None = None,
    started: Callable[[int], None] = lambda count: None,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
) -> tuple[Record, RayRun]:
    """Run an experiment on Ray.

    Args:
        config: the experiment.
        address: of a running cluster; None starts a private one on this machine.
        started: told how many APs are up.
        progress: told of the newest slot now and then.

    Raises:
        ClusterError: if the APs do not start, or the channel server dies.
    """
    with connected(address):
        cluster = Cluster(config, host="127.0.0.1" if address is None else None)
        cluster.start(started)
        return cluster.finish(progress), cluster.run
