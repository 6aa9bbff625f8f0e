"""One run from config to run directory, on either runtime, and its second half after it was interrupted."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from apnode.checkpoint import Checkpoints
from apnode.config import Config
from apnode.fields import Message
from apnode.host import CHECKPOINTS
from apnode.messages import ApReport, FaultFired, Hello, SlotReport
from apnode.policies import make_policy
from apnode.wire import decode
from coordinator.agents import AGENTS, load_agents, read_agents, trained, write_agents
from coordinator.collector import Coordinator
from coordinator.console import Console
from coordinator.faults import Faults, load_plan, plan_text, resolve
from coordinator.heldout import HeldOut
from coordinator.journal import JOURNAL, Journal
from coordinator.local import LocalNetwork
from coordinator.outages import fault_costs, is_afflicted, status_of
from coordinator.presets import ConfigError, load
from coordinator.record import Outcome, Record
from coordinator.rundir import Interrupted, RunDir, new_folder
from coordinator.training import Weights
from coordinator.watch import Watch, Watcher

# Ray reads this when it is imported. It would say so at length, and on standard output; our closing table says it, too.
_RAY_SAYS = ("A worker died or was killed", "The node with node id", "worker processes have been started on node")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "|".join(_RAY_SAYS))

PLAN = "faults.toml"  # the fault plan, in the run's folder
_MAX_RECORDS = 2 * 10**7  # slots x APs, or x UEs and blocks: about 1.5 GB


def run(
    config: Config,
    out: str,
    runtime: str,
    address: str | None,
    watch: Watch,
    console: Console,
    command: list[str],
    plan: str | None = None,
    policy: str | None = None,
) -> dict[str, Any]:
    """Run an experiment and write its run directory; returns what `cfmimo run --json` prints.

    Args:
        config: the experiment.
        out: the run directory.
        runtime: `ray` or `local`.
        address: of a Ray cluster; None: a private one.
        watch: how it can be watched meanwhile.
        console: shows progress.
        command: as typed, for the manifest.
        plan: a fault plan that ships, or a file.
        policy: the directory of a run whose agents are to decide, and to learn no more.
    """
    path = new_folder(out)
    _refuse_if_too_long(config)
    faults = Faults() if plan is None else resolve(load_plan(plan), config)
    agents = None
    if policy is not None:
        agents = load_agents(policy, config)
        learning = config.learning.model_copy(update={"evaluate_every_episodes": 0})  # they do not change
        config = config.model_copy(update={"learning": learning})
    if runtime == "ray" and address is None:
        from coordinator.session import check_memory

        check_memory(config)
    folder = RunDir.create(path, config, command, runtime, None if agents is None else agents.told(str(policy)))
    if agents is not None:
        write_agents(path / AGENTS, agents)
    if plan is not None:
        (path / PLAN).write_text(plan_text(plan))
    with folder.held():
        return _go(folder, config, faults, 0, runtime, address, watch, console)


def resume(run_dir: str, address: str | None, watch: Watch, console: Console) -> dict[str, Any]:
    """Go on with a run that was interrupted; returns what `run` would have, had it not been.

    All APs go back to the newest slot that each of them has a checkpoint of, and to which all reports are there. As
    everything random is keyed by the slot, what was computed after it is computed again, the same.

    Args:
        run_dir: its directory.
        address: as for `run`.
        watch: as for `run`.
        console: shows progress.

    Raises:
        RunDirError: if there is no such run, or it is still going on.
    """
    folder = RunDir.open_unfinished(Path(run_dir))
    config = load(str(folder.path / "config.toml"))
    plan = folder.path / PLAN
    faults = resolve(load_plan(str(plan)), config) if plan.is_file() else Faults()
    console.num_slots = config.num_slots
    with folder.held():
        if folder.manifest()["runtime"] == "ray":
            from coordinator.session import sweep_earlier

            sweep_earlier(folder.path)
        first_slot = go_back(folder.path, config)
        console.say(f"going on with slot {first_slot} of {config.num_slots}")
        return _go(folder, config, faults, first_slot, folder.manifest()["runtime"], address, watch, console)


def _go(
    folder: RunDir,
    config: Config,
    faults: Faults,
    first_slot: int,
    runtime: str,
    address: str | None,
    watch: Watch,
    console: Console,
) -> dict[str, Any]:
    try:
        with console:
            outcome = _outcome(folder.path, config, faults, first_slot, runtime, address, watch, console)
            console.say(f"writing {folder.path}")
            if watch.scalars is not None:
                from coordinator.scalars import write_scalars  # tensorboard: only if wanted

                write_scalars(watch.scalars, outcome.record)
            struck = _struck(outcome, faults)
            summary = _summary(outcome, folder.path, config, faults, first_slot)
            summary["faults"] = _fault_costs(outcome.record, struck)
            folder.finish(outcome.record, summary, struck)
    except BaseException as error:
        if not any((folder.path / CHECKPOINTS).iterdir()):
            shutil.rmtree(folder.path)  # nothing to go on from
        elif isinstance(error, KeyboardInterrupt):
            raise Interrupted(str(folder.path)) from None
        else:
            console.say(f"`cfmimo resume {folder.path}` goes on with it")
        raise
    return summary


def _outcome(
    folder: Path,
    config: Config,
    faults: Faults,
    first_slot: int,
    runtime: str,
    address: str | None,
    watch: Watch,
    console: Console,
) -> Outcome:
    agents = read_agents(folder / AGENTS).weights if RunDir(folder).manifest().get("agents") else None
    if runtime == "local":
        return run_local(config, watch, console, faults, folder, first_slot, agents)
    from coordinator.cluster import run_on_ray  # Ray: a second that the local runtime need not pay

    return run_on_ray(config, address, watch, console, faults, folder, first_slot, agents)


def _summary(outcome: Outcome, folder: Path, config: Config, faults: Faults, first_slot: int) -> dict[str, Any]:
    return {
        "run_dir": str(folder),
        "agents": RunDir(folder).manifest().get("agents"),
        **outcome.record.summary(),
        "slots_per_second": (config.num_slots - first_slot) / outcome.seconds,
        "ap_processes": len({(process["node"], process["pid"]) for process in outcome.processes}),
        "processes": outcome.processes,
        "restarts": outcome.restarts,
        "frames_lost": outcome.frames_lost,
        "not_as_planned": faults.not_as_planned(outcome.record.fired),
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
    ok = status_of(record.aps()) == "ok"
    return fault_costs(record.slots(), ok, struck) if is_afflicted(struck, ok) else None


def go_back(folder: Path, config: Config) -> int:
    """Make a run's folder hold what it held before a slot opened, the newest that can be; returns the slot."""
    journal = Journal(folder / JOURNAL)
    record = Coordinator(config, journal).record
    checkpoints = [Checkpoints(folder / CHECKPOINTS, f"ap-{ap}") for ap in range(config.radio.num_aps)]
    known = [set(of.boundaries()) for of in checkpoints]
    slot = max(at for at in {0}.union(*known) if at == 0 or _is_known(record, known, at))
    for of in checkpoints:
        of.forget_after(slot)
    journal.keep(lambda frame: _is_before(decode(frame, config.run.max_frame_bytes), slot))
    journal.close()
    return slot


def _is_known(record: Any, known: list[set[int]], slot: int) -> bool:
    """Whether all reports of earlier slots are there, and the checkpoint of every AP that was alive in the last one."""
    there = record.closed[:slot].all() and (record.reported | record.silent)[:slot].all()
    alive = np.flatnonzero(record.reported[slot - 1])
    return bool(there) and all(slot in known[ap] for ap in alive)


def _is_before(message: Message, slot: int) -> bool:
    """Whether a message in the journal tells of a slot before this one; a first hello will be said again."""
    if isinstance(message, Hello):
        return message.incarnation > 0 and message.slot < slot
    return isinstance(message, (ApReport, SlotReport, FaultFired)) and message.slot < slot


def _refuse_if_too_long(config: Config) -> None:
    if config.num_slots * max(config.radio.num_aps, config.radio.num_ues * config.run.blocks_per_slot) > _MAX_RECORDS:
        raise ConfigError(
            f"{config.num_slots} slots of {config.radio.num_aps} APs and {config.radio.num_ues} UEs are more than is "
            "kept of a run; lower run.episodes or run.slots_per_episode"
        )


def run_local(
    config: Config,
    watch: Watch,
    console: Console,
    faults: Faults,
    folder: Path,
    first_slot: int,
    agents: Weights | None,
) -> Outcome:
    """All nodes in this process.

    Raises:
        ConfigError: if the plan has faults of machines, or the port is taken.
    """
    if faults.nodes:
        raise ConfigError("kill_node needs machines to kill: --runtime ray with --address of a cluster")
    policy_of = make_policy if agents is None else trained(agents)
    network = LocalNetwork(config, policy_of=policy_of, faults=faults, folder=folder, first_slot=first_slot)
    watcher = _watcher(network, watch, console) if watch.wanted else None
    held_out = HeldOut(config, folder, first_slot, console.say)
    began = time.monotonic()
    for _ in network.frames():
        held_out.look(network.coordinator.newest)
        if watcher is not None:
            watcher.look()
        if console.due:
            console.progress(network.coordinator.newest, network.coordinator.latest())
    held_out.finish()
    seconds = time.monotonic() - began
    return Outcome(network.coordinator.record, seconds, restarts=network.restarts, frames_lost=network.lost)


def _watcher(network: LocalNetwork, watch: Watch, console: Console) -> Watcher:
    try:
        watcher = Watcher(watch, lambda: network.coordinator)
    except OSError as error:
        raise ConfigError(f"{watch.complaint}: {error}") from None
    console.say(watch.where)
    return watcher
