"""A Ray session for one run: somebody's cluster, or a private one on this machine that ends without a trace."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray

from apnode.config import Config
from cfmimo.errors import ClusterError, ConfigError
from cfmimo.interrupts import uninterrupted
from cfmimo.runtime.groups import num_groups

_TOKEN = secrets.token_hex(32)  # of private sessions; Ray reads it once per process
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_QUICK_NEWS = {  # of a death, and that a process is there again: a call to who has died fails as soon as this [ms]
    "RAY_timeout_ms_task_wait_for_death_info": "50",  # 1000 by default
    "RAY_core_worker_internal_heartbeat_ms": "200",  # 1000 by default
}
_SWEEP_S = 5.0
_LONGEST_PATH = 4096
_SESSION = "session"  # in a run's folder: which session it has
_RUN = "run"  # in a session's folder: whose it is
_NAME = re.compile(r"cfmimo-\w{8}")  # of a session's folder, as mkdtemp makes it
_MEMORY_MIB = {  # by start and whether APs learn: what all processes share and what each has for itself, with one AP,
    ("fork", True): (500, 52),  # as benchmarks/startup.py measures it, a little rounded up
    ("fork", False): (100, 50),
    ("plain", True): (0, 200),  # a Ray worker with torch
    ("plain", False): (0, 80),
}
_FURTHER_AP_MIB = 3  # for each further AP of a process, as benchmarks/groups.py measures it


@contextmanager
def connected(address: str | None, num_aps: int, run_folder: Path | None = None) -> Iterator[str]:
    """A Ray session: the cluster at `address`, or a private one if that is None.

    The private one asks for a token, kept in a file of mode 0600, and starts no dashboard. While it lives, its folder
    is named in the run's, should this process be killed.

    Yields:
        where the fork server of each machine may have its socket: a folder of the same name on all.

    Raises:
        ClusterError: if there is no cluster at `address`.
    """
    if address is None:
        with _private_session(num_aps) as folder:
            if run_folder is not None:
                (folder / _RUN).write_text(str(run_folder.resolve()))
                (run_folder / _SESSION).write_text(str(folder))
            yield str(folder / "fork")
        with suppress(OSError):  # a folder that is gone or read-only: what is written next tells
            if run_folder is not None:
                (run_folder / _SESSION).unlink(missing_ok=True)
        return
    try:
        with uninterrupted():
            ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": _ONE_THREAD})
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {error}") from None
    try:
        yield f"/tmp/cfmimo-{secrets.token_hex(8)}"
    finally:
        with uninterrupted():
            ray.shutdown()


@contextmanager
def _private_session(num_aps: int) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cfmimo-", dir="/tmp"))  # short: it holds Unix sockets
    token = _token_of(folder)
    settings = {
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_worker_niceness": "0",  # at Ray's default of 15 any other process starves the actors
        "RAY_worker_maximum_startup_concurrency": str(
            max(os.cpu_count() or 1, num_aps // 3)
        ),  # it warns at 4 times this
        **_QUICK_NEWS,
        "RAY_USAGE_STATS_ENABLED": "0",
        **_ONE_THREAD,
    }
    before = {name: os.environ.get(name) for name in (*settings, "RAY_AUTH_MODE")}
    try:
        with uninterrupted():  # half started, Ray can neither go on nor end
            token.touch(mode=0o600)
            token.write_text(_TOKEN)
            os.environ.pop("RAY_AUTH_MODE", None)  # unset, ray.init turns tokens on, in this process too
            os.environ.update(settings)
            _init(folder)
        yield folder
    finally:
        with uninterrupted():
            ray.shutdown()
            _sweep(folder)
            for name, value in before.items():
                os.environ.pop(name, None)
                os.environ.update({} if value is None else {name: value})
            shutil.rmtree(folder, ignore_errors=True)


def _init(folder: Path) -> None:
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100 * 2**20,
            _temp_dir=str(folder / "ray"),
        )
    except SystemExit:  # its own handler of SIGTERM, meanwhile
        raise KeyboardInterrupt from None


def sweep_earlier(run_folder: Path) -> None:
    """End what is left of a run's private session whose driver was killed.

    The folder of a run may come from elsewhere: a session that does not say that it is of this run is left alone.
    """
    named = run_folder / _SESSION
    if not named.is_file():
        return
    folder = Path(named.read_text(errors="replace")[:_LONGEST_PATH])
    whose = folder / _RUN
    in_place = folder.parent == Path("/tmp") and _NAME.fullmatch(folder.name) and not folder.is_symlink()
    if in_place and whose.is_file() and whose.read_text() == str(run_folder.resolve()):
        _sweep(folder)
        shutil.rmtree(folder, ignore_errors=True)
    named.unlink()


def _sweep(folder: Path) -> None:
    """Kill what Ray left behind, and what that may still have started: processes with this session's token."""
    give_up = time.monotonic() + _SWEEP_S
    while (left := processes_of(folder)) and time.monotonic() < give_up:
        for pid in left:
            with suppress(ProcessLookupError):  # ended by itself
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def processes_of(folder: Path) -> list[int]:
    """Processes of the session in a folder, but for this one: started with its token, or Ray's and writing there.

    A process that gives itself a name, as Ray's agents do, may write it over what it was started with.
    """
    return sorted({*processes_with("RAY_AUTH_TOKEN_PATH", str(_token_of(folder))), *_ray_writing_to(folder)})


def _ray_writing_to(folder: Path) -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended by itself, or somebody else's
            if (process / "cmdline").read_bytes().startswith(b"ray::"):
                files = [os.readlink(file) for file in (process / "fd").iterdir()]
                if any(Path(file).is_relative_to(folder) for file in files):
                    yield int(process.name)


def processes_with(name: str, value: str) -> list[int]:
    """Other processes that were started with an environment variable of this value."""
    found, entry = [], f"{name}={value}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        pid = int(environ.parent.name)
        with suppress(OSError):  # ended by itself, or somebody else's
            if pid != os.getpid() and entry in environ.read_bytes().split(b"\0"):
                found.append(pid)
    return found


def _token_of(folder: Path) -> Path:
    return folder / "token"


def memory_needed(config: Config) -> int:
    """What the AP processes of a run take on one machine, as measured [B]."""
    shared, each = _MEMORY_MIB[config.run.start, config.cooperation.policy == "ddqn"]
    processes = num_groups(config)
    return (shared + processes * each + (config.radio.num_aps - processes) * _FURTHER_AP_MIB) * 2**20


def check_memory(config: Config) -> None:
    """Refuse a run whose AP processes would not fit this machine, before anything starts.

    Raises:
        ConfigError: if it would not.
    """
    needed = memory_needed(config)
    meminfo = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in meminfo if "MemAvailable" in line)
    if needed > free:
        raise ConfigError(
            f"{num_groups(config)} AP processes need about {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are "
            f"free; put more APs into each (--set run.aps_per_actor=..., now {config.run.aps_per_actor}), or use "
            "--runtime local, --address of a cluster, or fewer APs (--set radio.num_aps=...)"
        )
