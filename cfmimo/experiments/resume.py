"""A run that was interrupted goes on: how far back its nodes have to go, and that they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from apnode.config import Config
from apnode.protocol.limits import largest_frame
from apnode.protocol.messages import ApReport, FaultFired, Hello, SlotReport
from apnode.protocol.wire import decode
from apnode.runtime.checkpoint import Checkpoints
from apnode.runtime.host import CHECKPOINTS
from cfmimo.errors import RunDirError
from cfmimo.experiments.run import PLAN, Console, begins_again, carry_out
from cfmimo.presets import load
from cfmimo.records.own_code import check_own_code
from cfmimo.records.rundir import RunDir
from cfmimo.runtime.fault_plan import Faults, load_plan, resolve
from cfmimo.runtime.request import RunRequest
from coordinator.collector import Coordinator
from coordinator.journal import JOURNAL, Journal
from coordinator.watch import Watch


def resume(
    run_dir: str,
    address: str | None,
    watch: Watch,
    console: Console,
    from_start: bool = False,
    report: bool = True,
) -> dict[str, Any]:
    """Go on with a run that was interrupted; returns what `run` would have, had it not been.

    All APs go back to a slot, as `newest_boundary` finds it. As everything random is keyed by the slot, what was
    computed after it is computed again, the same.

    Args:
        run_dir: its directory.
        address: as for `run`.
        watch: as for `run`.
        console: shows progress.
        from_start: begin again with slot 0.
        report: draw figures and write a page at the end.

    Raises:
        RunDirError: if there is no such run, it is still going on, or only its start is left to go back to.
    """
    folder = RunDir.open_unfinished(Path(run_dir))
    config = load(str(folder.path / "config.toml"))
    check_own_code(config, folder.path)
    plan = folder.path / PLAN
    faults = resolve(load_plan(str(plan)), config) if plan.is_file() else Faults()
    console.num_slots = config.num_slots
    with folder.held():
        if folder.manifest()["runtime"] == "ray":
            from cfmimo.runtime.session import sweep_earlier

            sweep_earlier(folder.path)
        runtime = folder.manifest()["runtime"]
        first_slot = 0 if from_start else newest_boundary(folder.path, config, replays=runtime == "local")
        if not first_slot and not from_start:
            raise RunDirError(
                f"the APs of {folder.path} have no checkpoints of one and the same slot to go back to; nothing was "
                f"changed. {begins_again(folder)}"
            )
        go_back(folder.path, config, first_slot)
        console.say(f"going on with slot {first_slot} of {config.num_slots}")
        request = RunRequest(config, folder.path, runtime, address, watch, faults, first_slot, report)
        return carry_out(folder, request, console)


def newest_boundary(folder: Path, config: Config, replays: bool) -> int:
    """The newest slot that the APs of a run can go back to, before it opens; 0 if there is none but the first.

    All reports of earlier slots are there, but for those that died with their AP: it has said hello since, or is down.

    Args:
        folder: of the run.
        config: of the run.
        replays: faults strike again just as they did. Then every AP needs a checkpoint of that slot, and has taken part
            in the slot before: which APs the channel server waits for is in no checkpoint. Else those that took part
            need one, and an AP that was down comes back with what it has.
    """
    journal = Journal(folder / JOURNAL)
    coordinator = Coordinator(config, journal)
    journal.close()
    record = coordinator.record
    known = [set(of.boundaries()) for of in _checkpoints(folder, config)]
    settled = record.reported | record.silent | (np.arange(config.num_slots)[:, None] <= record.back_since)
    if not replays:
        settled |= record.silent[coordinator.newest]

    def is_one(slot: int) -> bool:
        alive = np.flatnonzero(record.reported[slot - 1] | replays)
        there = record.closed[:slot].all() and settled[:slot].all() and not (replays and record.silent[slot - 1].any())
        return bool(there) and all(slot in known[ap] for ap in alive)

    return max(filter(is_one, set().union(*known)), default=0)


def go_back(folder: Path, config: Config, slot: int) -> None:
    """Make a run's folder hold what it held before a slot opened."""
    for of in _checkpoints(folder, config):
        of.forget_after(slot)
    journal = Journal(folder / JOURNAL)
    journal.keep(_is_before(slot, largest_frame(config)))
    journal.close()


def _checkpoints(folder: Path, config: Config) -> list[Checkpoints]:
    return [Checkpoints(folder / CHECKPOINTS, f"ap-{ap}") for ap in range(config.radio.num_aps)]


def _is_before(slot: int, max_bytes: int) -> Callable[[bytes], bool]:
    """Whether a frame of the journal, asked one after the other, tells of what was before a slot.

    A first hello will be said again.
    """
    newest = -1

    def is_before(frame: bytes) -> bool:
        nonlocal newest
        message = decode(frame, max_bytes)
        if isinstance(message, SlotReport):
            newest = max(newest, message.slot)
        if isinstance(message, Hello):
            return message.incarnation > 0 and newest + 1 < slot
        return isinstance(message, (ApReport, SlotReport, FaultFired)) and message.slot < slot

    return is_before
