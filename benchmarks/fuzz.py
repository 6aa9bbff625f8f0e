"""Random fault plans over whole runs in virtual time, and what must hold after each.

    python -m benchmarks.fuzz --seeds 20000

A seed that breaks something is printed, and `--first SEED --seeds 1` replays it. With --keep its plan is written to
tests/fuzz_corpus/, so that the tests try it ever after.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from apnode.config import Config
from apnode.protocol.node import CHANNEL, COORDINATOR, ap_address
from apnode.runtime.injector import DEADLY
from cfmimo.presets import load
from cfmimo.runtime.fault_plan import FaultArgs, FaultPlan, Faults, PlannedFault, PlannedLinks, resolve
from cfmimo.runtime.groups import groups_of
from cfmimo.runtime.local import LocalNetwork
from cfmimo.workers import processors
from coordinator import tables
from coordinator.record import Record

SIZE = ("radio.num_aps=5", "radio.num_ues=4", "radio.area_m=250", "run.blocks_per_slot=1", "run.slots_per_episode=8")
LENGTH = ("run.episodes=4", "run.checkpoint_every_slots=4", "run.watchdog_slots=4", "cooperation.policy=random")
VARIANTS = (
    (),
    ("reward.scope=neighbourhood",),
    ("cooperation.cluster=directed", "cooperation.acceptance=all"),
    ("cooperation.cluster=components", "cooperation.max_cluster_aps=3", "reward.scope=neighbourhood"),
    ("cooperation.cluster=serving", "precoding.joint=selective", "precoding.power=average"),
    ("cooperation.neighbour_sets=row", "radio.ue_mobility=walk"),
)
ACTIONS = ("kill", "hang", "restart", "crash_on_start", "lie", "disk_full", "corrupt_checkpoint")
CORPUS = Path(__file__).parent.parent / "tests/fuzz_corpus"
QUIET_SLOTS = 14  # at the end: time for everybody to be back
MAX_FRAMES = 60_000  # a run takes a few thousand


@cache
def config(overrides: tuple[str, ...]) -> Config:
    """A network small enough to run hundreds of times."""
    return load("demo", overrides)


def random_plan(seed: int) -> tuple[tuple[str, ...], FaultPlan]:
    """What the network has other than preset demo, and a fault plan, both drawn from the seed."""
    rng = np.random.default_rng(seed)
    overrides = (*SIZE, *LENGTH, *VARIANTS[rng.integers(len(VARIANTS))], f"run.aps_per_actor={1 + seed % 3}")
    network = config(overrides)
    last = network.num_slots - QUIET_SLOTS
    faults = [_fault(rng, last, network.radio.num_aps) for _ in range(rng.integers(0, 6))]
    for action in ("kill_channel_server", "kill_coordinator"):
        if rng.random() < 0.3:
            faults.append(PlannedFault(slot=int(rng.integers(last)), action=action))
    if rng.random() < 0.15:  # many at once
        share = float(rng.choice([0.5, 1.0]))
        faults.append(PlannedFault(slot=int(rng.integers(last)), target="ap/*", action="kill", share=share))
    links = [_links(rng, last) for _ in range(rng.integers(0, 3))]
    everything = FaultPlan(seed=seed, faults=tuple(faults), links=tuple(links))
    struck = resolve(everything, network)
    hopeless = {ap_address(ap) for group in groups_of(network) if not _has_time(group, struck) for ap in group}
    return overrides, everything.model_copy(update={"faults": tuple(f for f in faults if f.target not in hopeless)})


def _fault(rng: np.random.Generator, last: int, num_aps: int) -> PlannedFault:
    action = str(rng.choice([*ACTIONS, "kill", "kill", "partition"]))
    args = FaultArgs(slots=int(rng.integers(1, 6)), times=int(rng.integers(1, 4)))
    slot, target = int(rng.integers(last)), f"ap/{rng.integers(num_aps)}"
    return PlannedFault(slot=slot, target=target, action=action, args=args)  # type: ignore[arg-type]


def _links(rng: np.random.Generator, last: int) -> PlannedLinks:
    ends = ("ap/*", "channel", "coordinator", f"ap/{rng.integers(5)}")
    first, second = sorted(int(slot) for slot in rng.integers(0, last, 2))
    rates = rng.random(5) * rng.choice([0, 0, 0.1, 0.4, 1.0], 5)
    return PlannedLinks(
        senders=str(rng.choice(ends, p=[0.7, 0.1, 0.1, 0.1])),
        receivers=str(rng.choice(ends, p=[0.7, 0.1, 0.1, 0.1])),
        first=first,
        last=second,
        loss=rates[0],
        duplication=rates[1],
        reordering=rates[2],
        corruption=rates[3],
        delay=rates[4],
        delay_slots=int(rng.integers(1, 4)),
    )


@dataclass
class Finding:
    """What a seed breaks."""

    seed: int
    broken: list[str]


def try_seed(seed: int, folder: Path) -> Finding:
    """Run the seed's plan."""
    return try_plan(seed, *random_plan(seed), folder)


def try_plan(seed: int, overrides: tuple[str, ...], plan: FaultPlan, folder: Path) -> Finding:
    """Run one plan and check every invariant; anything that is raised is a finding too."""
    network, where = config(overrides), folder / f"seed-{seed}"
    (where / "checkpoints").mkdir(parents=True)
    try:
        faults = resolve(plan, network)
        run = LocalNetwork(network, order_seed=seed if seed % 2 else None, faults=faults, folder=where)
        frames = sum(1 for _ in islice(run.frames(), MAX_FRAMES))
        return Finding(seed, [f"no end after {frames} frames"] if frames == MAX_FRAMES else broken(run, faults, where))
    except Exception as error:  # noqa: BLE001  whatever it is, it must not be
        return Finding(seed, [f"{type(error).__name__}: {error}"])
    finally:
        shutil.rmtree(where)


def kept_text(finding: Finding) -> str:
    """A finding's network and plan, as the corpus has it."""
    overrides, plan = random_plan(finding.seed)
    content = {
        "seed": finding.seed,
        "overrides": overrides,
        "plan": plan.model_dump(mode="json", exclude_defaults=True),
    }
    return json.dumps({"broke": finding.broken, **content}, indent=1) + "\n"


def try_kept(file: Path, folder: Path) -> Finding:
    """Run a plan of the corpus."""
    kept = json.loads(file.read_text())
    return try_plan(kept["seed"], tuple(kept["overrides"]), FaultPlan.model_validate(kept["plan"]), folder)


def broken(run: LocalNetwork, faults: Faults, folder: Path) -> list[str]:
    """The invariants that do not hold after a run."""
    record = run.coordinator.record
    slots, aps = record.reported.shape
    groups = groups_of(run.coordinator.config)
    survivors = [ap for group in groups for ap in group if _is_spared(ap, group, faults)]
    returning = [ap for group in groups if _has_time(group, faults) for ap in group]
    found = {
        "a slot that never closed": not record.closed.all() and not _reports_are_lost(faults),
        f"survivors {survivors} missed slots": not record.reported[record.closed][:, survivors].all(),
        "rows that are not APs x slots": len(tables.aps(record)["status"]) != slots * aps,
        "numbers that are not finite": not _all_finite(record),
        f"links whose frames do not add up: {run.ledger.wrong}": bool(run.ledger.wrong),
        f"faults not as planned: {faults.not_as_planned(record.fired)}": bool(faults.not_as_planned(record.fired)),
        "an AP that is not back": not record.reported[-1, returning].all(),
        "temporary files left": any((folder / "checkpoints").glob("*.tmp")),
    }
    return [what for what, holds in found.items() if holds]


def _is_spared(ap: int, group: tuple[int, ...], faults: Faults) -> bool:
    """Whether nothing of the plan can keep an AP from a slot: no fault of its own or its process, none of vital links.

    Reports that are lost are asked for again.
    """
    address = ap_address(ap)
    cut = any(
        (address in link.senders and CHANNEL in link.receivers)
        or (CHANNEL in link.senders and address in link.receivers)
        for link in faults.links
    )
    return not cut and not any(
        fault.action in DEADLY or (fault.node == address and fault.action not in {"lie", "disk_full"})
        for fault in faults.of(*map(ap_address, group)).own
    )


def _reports_are_lost(faults: Faults) -> bool:
    """Whether a slot's report can be lost for good: the channel server dies before the coordinator could have it."""
    server, coordinator = (
        [fault.slot for fault in faults.faults if fault.node == node] for node in (CHANNEL, COORDINATOR)
    )
    together = any(abs(one - other) <= QUIET_SLOTS for one in server for other in coordinator)
    ends = {CHANNEL, COORDINATOR}
    return together or (bool(server) and any(link.senders & ends and link.receivers & ends for link in faults.links))


def _has_time(group: tuple[int, ...], faults: Faults) -> bool:
    """Whether the APs of a process can be back from all its deaths before the end."""
    own = [fault for fault in faults.of(*map(ap_address, group)).own if fault.action in DEADLY]
    down = sum(fault.slots * (1 + fault.times * (fault.action == "crash_on_start")) for fault in own)
    return down + 4 * len(own) < QUIET_SLOTS


def _all_finite(record: Record) -> bool:
    parts = (record.sinr[record.closed], record.sinr_alone[record.closed], record.floats, record.power)
    return all(np.isfinite(part).all() for part in parts)


def _try_many(first: int, count: int) -> list[Finding]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        return [finding for seed in range(first, first + count) if (finding := try_seed(seed, Path(folder))).broken]


def main() -> None:
    """Try many seeds on all processors; exit 1 if one breaks anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="seed to begin with (default: 0)")
    parser.add_argument("--seeds", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--keep", action="store_true", help="write plans that break something to tests/fuzz_corpus/")
    options = parser.parse_args()
    chunk, began, findings = 50, time.monotonic(), []
    starts = range(options.first, options.first + options.seeds, chunk)
    counts = [min(chunk, options.first + options.seeds - start) for start in starts]
    with ProcessPoolExecutor(processors()) as pool:
        for done, found in enumerate(pool.map(_try_many, starts, counts), start=1):
            for finding in found:
                print(f"seed {finding.seed}: {'; '.join(finding.broken)}", flush=True)
                if options.keep:
                    (CORPUS / f"seed-{finding.seed}.json").write_text(kept_text(finding))
            findings += found
            if done % 20 == 0:
                print(f"{sum(counts[:done])} of {options.seeds} seeds, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{options.seeds} plans in {time.monotonic() - began:.0f} s: {len(findings)} broke an invariant")
    raise SystemExit(bool(findings))


if __name__ == "__main__":
    main()
