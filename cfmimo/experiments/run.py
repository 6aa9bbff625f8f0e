"""One run from config to run directory, on either runtime."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self

from apnode.agent.policies import make_policy
from apnode.config import Config
from apnode.protocol.limits import MOST_BYTES, largest_frame
from apnode.runtime.host import CHECKPOINTS
from apnode.runtime.whole_file import write_whole
from cfmimo.errors import ConfigError, Interrupted, RunDirError, UnwrittenError
from cfmimo.experiments.agents import load_agents, trained
from cfmimo.experiments.evaluation import HeldOut
from cfmimo.interrupts import uninterrupted
from cfmimo.records.agents_file import AGENTS, read_agents, write_agents
from cfmimo.records.held_out import HELD_OUT, read_rows
from cfmimo.records.own_code import check_own_code, keep_code
from cfmimo.records.rundir import SUMMARY, RunDir, new_folder, writing
from cfmimo.report.outages import fault_costs, is_afflicted, status_of
from cfmimo.runtime.fault_plan import Faults, load_plan, plan_text, resolve
from cfmimo.runtime.local import LocalNetwork
from cfmimo.runtime.request import Outcome, Progress, RunRequest
from coordinator import tables
from coordinator.journal import JOURNAL
from coordinator.record import Record
from coordinator.summary import summarise
from coordinator.watch import Watch, Watcher

# Ray reads this when it is imported. It would say so at length, and on standard output; our closing table says it, too.
_RAY_SAYS = ("A worker died or was killed", "The node with node id", "worker processes have been started on node")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "|".join(_RAY_SAYS))

PLAN = "faults.toml"  # the fault plan, in the run's folder
_MAX_RECORDS = 2 * 10**7  # slots x APs, or x UEs and blocks: about 1.5 GB


class Console(Progress, Protocol):
    """Whom a run tells how it goes, from its start to its folder."""

    num_slots: int | None

    def __enter__(self) -> Self:
        """Begin to show progress."""

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Show no more."""


def run(
    request: RunRequest, console: Console, command: list[str], plan: str | None = None, policy: str | None = None
) -> dict[str, Any]:
    """Run an experiment and write its run directory; returns what `cfmimo run --json` prints.

    Args:
        request: the run; its folder is new or empty, its faults and agents are those of `plan` and `policy`.
        console: shows progress.
        command: as typed, for the manifest.
        plan: a fault plan that ships, or a file.
        policy: the directory of a run whose agents are to decide, and to learn no more.
    """
    config, runtime = request.config, request.runtime
    check_own_code(config)
    path = new_folder(str(request.folder))
    _refuse_if_too_long(config)
    faults = Faults() if plan is None else resolve(load_plan(plan), config)
    agents = None
    if policy is not None:
        agents = load_agents(policy, config)
        config = config.variant(learning={"evaluate_every_episodes": 0})  # they do not change
    if runtime == "ray" and request.address is None:
        from cfmimo.runtime.session import check_memory

        check_memory(config)
    with _leaving_nothing_unbegun(path):
        folder = RunDir.create(path, config, command, runtime, None if agents is None else agents.told(str(policy)))
        with writing(path):
            if agents is not None:
                write_agents(path / AGENTS, agents)
            keep_code(config, path)
            if plan is not None:
                write_whole(path / PLAN, [plan_text(plan).encode()])
        with folder.held():
            return carry_out(folder, replace(request, config=config, folder=path, faults=faults), console, is_new=True)


@contextmanager
def _leaving_nothing_unbegun(path: Path) -> Iterator[None]:
    """A new run's folder goes again if it fails or is interrupted before any node had begun."""
    try:
        yield
    except RunDirError:
        raise  # it may be another run's
    except BaseException:
        if not _has_begun(path):
            shutil.rmtree(path, ignore_errors=True)  # as far as it is there
        raise


def _has_begun(path: Path) -> bool:
    journal = path / JOURNAL
    return journal.is_file() and journal.stat().st_size > 0


def carry_out(folder: RunDir, request: RunRequest, console: Console, is_new: bool = False) -> dict[str, Any]:
    """Run what is requested and write what came of it into the folder, which keeps enough to go on from a failure.

    Raises:
        UnwrittenError: if the folder vanishes, fills or becomes read-only.
    """
    agents = folder.manifest().get("agents")
    if agents:
        request = replace(request, agents=read_agents(folder.path / AGENTS).weights)
    try:
        with console:
            outcome = run_local(request, console) if request.runtime == "local" else run_on_ray(request, console)
            console.say(f"writing {folder.path}")
            if request.watch.scalars is not None:
                _write_scalars(request.watch.scalars, outcome.record, console)
            return _finish(folder, request, outcome, agents)
    except BaseException as error:
        if not is_new or _has_begun(folder.path):
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(_advice(folder)) from None
            console.say(_advice(folder))
        if isinstance(error, OSError):
            raise UnwrittenError(f"the run cannot go on: {error}", None) from None
        raise


def _advice(folder: RunDir) -> str:
    """What can be done with the folder of a run that has not come to its end."""
    if (folder.path / SUMMARY).is_file():
        return f"`cfmimo report {folder.path}` draws its figures"
    if not (folder.path / "config.toml").is_file():
        return f"nothing is left of {folder.path} to go on from"
    if any((folder.path / CHECKPOINTS).glob("*.ckpt")):
        return f"`cfmimo resume {folder.path}` goes on with it"
    return f"it had no checkpoint yet; {begins_again(folder)}"


def begins_again(folder: RunDir) -> str:
    """How to begin a run anew, in words."""
    return f"`cfmimo resume {folder.path} --from-start` begins it again with slot 0"


def _write_scalars(folder: Path, record: Record, console: Progress) -> None:
    from coordinator.watch.tensorboard import write_scalars  # tensorboard: only if wanted

    try:
        write_scalars(folder, record)
    except Exception as error:  # noqa: BLE001  whatever it is: the run itself is complete
        console.say(f"writing for TensorBoard failed ({type(error).__name__}: {error})")


def _finish(folder: RunDir, request: RunRequest, outcome: Outcome, agents: dict[str, Any] | None) -> dict[str, Any]:
    """Write tables, summary, figures and the page, to which the journal has nothing to add; returns the summary."""
    record, struck = outcome.record, _struck(outcome, request.faults)
    told = {"run_dir": str(folder.path), "agents": agents}
    try:
        if record.cut_short:
            raise OSError(record.cut_short)
        summary = {**told, **_summary(request, outcome), "faults": _fault_costs(record, struck)}
        folder.write_results(record, summary, struck)
        if request.report:
            from cfmimo.report.pages import write_report  # matplotlib: a second, wanted at the end only

            write_report(folder.path)
        folder.forget_journal()
    except OSError as error:
        collected = {**told, **_summary(request, outcome), "faults": None} if record.closed.any() else None
        raise UnwrittenError(f"cannot write to {folder.path}: {error}", collected) from None
    return summary


def _summary(request: RunRequest, outcome: Outcome) -> dict[str, Any]:
    return {
        **summarise(outcome.record),
        "slots_per_second": (request.config.num_slots - request.first_slot) / outcome.seconds,
        "ap_processes": len({(process["node"], process["pid"]) for process in outcome.processes}),
        "processes": outcome.processes,
        "restarts": outcome.restarts,
        "errors": outcome.errors,
        "frames_lost": outcome.frames_lost,
        "held_out": [] if request.folder is None else read_rows(request.folder / HELD_OUT),
        "not_as_planned": request.faults.not_as_planned(outcome.record.fired),
    }


def _struck(outcome: Outcome, faults: Faults) -> dict[str, Any]:
    """What `faults.json` holds."""
    return {
        "planned": faults.planned,
        "fired": outcome.record.fired,
        "restarts": outcome.restarts,
        "comebacks": outcome.record.comebacks,
        "given_up": outcome.given_up,
        "watchdog": outcome.watchdog,
    }


def _fault_costs(record: Record, struck: dict[str, Any]) -> dict[str, Any] | None:
    ok = status_of(tables.aps(record)) == "ok"
    return fault_costs(tables.slots(record), ok, struck) if is_afflicted(struck, ok) else None


def _refuse_if_too_long(config: Config) -> None:
    if (needed := largest_frame(config)) > MOST_BYTES:
        raise ConfigError(
            f"run.blocks_per_slot = {config.run.blocks_per_slot}, with radio.antennas, radio.max_serving_aps and "
            f"learning.hidden as they are, makes frames of {needed} B; a frame holds at most {MOST_BYTES} B: lower them"
        )
    if config.num_slots * max(config.radio.num_aps, config.radio.num_ues * config.run.blocks_per_slot) > _MAX_RECORDS:
        raise ConfigError(
            f"{config.num_slots} slots of {config.radio.num_aps} APs and {config.radio.num_ues} UEs are more than is "
            "kept of a run; lower run.episodes or run.slots_per_episode"
        )


def run_local(request: RunRequest, progress: Progress) -> Outcome:
    """All nodes in this process.

    Raises:
        ConfigError: if the plan has faults of machines, or the port is taken.
    """
    config, faults, first_slot = request.config, request.faults, request.first_slot
    if faults.nodes:
        raise ConfigError("kill_node needs machines to kill: --runtime ray with --address of a cluster")
    policy_of = make_policy if request.agents is None else trained(request.agents)
    network = LocalNetwork(config, policy_of=policy_of, faults=faults, folder=request.folder, first_slot=first_slot)
    watcher = _watcher(network, request.watch, progress) if request.watch.wanted else None
    held_out = HeldOut(request, progress.say)
    began = time.monotonic()
    try:
        for _ in network.frames():
            if network.coordinator.record.cut_short:
                break
            held_out.look(network.coordinator.newest)
            if watcher is not None:
                watcher.look()
            if progress.due:
                progress.progress(network.coordinator.newest, network.coordinator.latest())
        else:
            held_out.finish()
    except OSError as error:  # of the run's folder
        network.coordinator.record.cut_short = str(error)
    seconds = time.monotonic() - began
    return Outcome(
        network.coordinator.record,
        seconds,
        restarts=network.restarts,
        given_up=network.given_up,
        errors=network.errors,
        frames_lost=network.ledger.frames_lost,
    )


def run_on_ray(request: RunRequest, progress: Progress) -> Outcome:
    """Every node an actor, on the Ray cluster at the request's address, or on a private one if that is None.

    Raises:
        ClusterError: if the APs do not start, or the channel server or the coordinator dies.
    """
    from cfmimo.runtime.cluster import Cluster  # Ray: a second that the local runtime need not pay
    from cfmimo.runtime.session import connected

    held_out = HeldOut(request, progress.say)
    aps = request.config.radio.num_aps
    with connected(request.address, aps, request.folder) as fork_folder, ThreadPoolExecutor(1) as beside:
        with uninterrupted():
            cluster = Cluster(request, "127.0.0.1" if request.address is None else None, fork_folder)
        cluster.start(progress, request.watch)
        began = time.monotonic()
        cluster.launch()
        record = cluster.follow(progress, lambda newest: held_out.look_beside(newest, beside))
        seconds = time.monotonic() - began
        if not record.cut_short:
            held_out.finish()
        return Outcome(
            record,
            seconds,
            cluster.processes,
            cluster.restarts,
            frames_lost=cluster.settle(record),
            given_up=cluster.given_up,
            watchdog=cluster.watchdog,
            errors=cluster.errors,
        )


def _watcher(network: LocalNetwork, watch: Watch, progress: Progress) -> Watcher:
    try:
        watcher = Watcher(watch, lambda: network.coordinator, progress.say)
    except OSError as error:
        raise ConfigError(f"{watch.complaint}: {error}") from None
    progress.say(watch.where)
    return watcher
