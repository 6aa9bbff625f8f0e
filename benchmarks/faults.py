"""What faults do to a run, against a run of the same seed without any; exits 1 if a bar is broken.

kills    10 % of the APs are killed every 10 slots for 200 slots: who misses which slots, how old the weights are that
         come back, and the sum rate meanwhile (mean over the slots) and from 50 slots after the last kill on
many     half of the APs are killed at once, then all
links    30 % of the frames between APs are lost, 10 % come twice and 10 % up to three slots late
loss     sum rate and links over the share of frames lost; with --figure, drawn, too
nodes    the coordinator is killed, and the channel server
hang     an AP is frozen until the watchdog ends it

In `local` (100 APs) a killed AP is down for three slots. In `ray` (24 APs) it is as long as its machine takes; there a
slot lasts 0.3 s at least, so that a restart's seconds are few slots, and the runs without faults are in `local`, whose
results are the same. A checkpoint is written every 10 slots. Figures are medians over the seeds where one run is as
good as another, and the worst of all seeds where a bar must hold always.
Example: python -m benchmarks.faults --parts kills,many --runtimes local --seeds 5
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "A worker died or was killed"  # which Ray would say at length

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import cfmimo.runtime.cluster
from apnode.config import Config
from apnode.protocol.messages import FloatArray
from benchmarks.throughput import DENSITY_AREA_M
from cfmimo.cli.console import Console
from cfmimo.presets import load
from cfmimo.report.figures import ALONE, BLUE, Figure, save, styled
from cfmimo.runtime.fault_plan import FaultPlan, Faults, PlannedFault, PlannedLinks, resolve
from cfmimo.runtime.local import LocalNetwork
from cfmimo.runtime.request import RunRequest
from cfmimo.runtime.session import connected
from channel_server.actor import ChannelServerActor
from channel_server.server import ChannelServer
from coordinator import tables
from coordinator.record import Record

APS = {"local": 100, "ray": 24}
CHECKPOINT_EVERY = 10  # slots
SLOT_S = 0.3
PACED = (f"run.slot_s={SLOT_S}", "run.slot_deadline_s=1")
STAMPS = "opened.json"
EPISODE = 20  # slots
LOSSES = tuple(tenth / 10 for tenth in range(10))


@dataclass
class Run:
    """What came of a run."""

    record: Record
    seconds: float
    opened: FloatArray = field(default_factory=lambda: np.zeros(0))  # in ray: when each slot opened [s]
    watchdog: list[dict[str, int]] = field(default_factory=list)


@dataclass
class Row:
    """One figure of the table."""

    what: str
    value: float
    bar: float | None = None
    at_least: bool = False

    @property
    def broken(self) -> bool:
        return self.bar is not None and (self.value < self.bar if self.at_least else self.value > self.bar)

    def __str__(self) -> str:
        if self.bar is None:
            return f"{self.what:58} {self.value:9.4g}"
        bar = f"{'>=' if self.at_least else '<='} {self.bar:g}{'  BROKEN' * self.broken}"
        return f"{self.what:58} {self.value:9.4g}  {bar}"


Rows = Iterator[Row]
Runtime = Callable[[Config, Faults], Run]


# --- runs -------------------------------------------------------------------------------------------------


def network(runtime: str, slots: int, seed: int, *settings: str) -> Config:
    """The paper's densities at the size that a runtime is measured at."""
    aps = APS[runtime]
    size = (f"radio.num_aps={aps}", f"radio.num_ues={aps * 2 // 5}", f"radio.area_m={DENSITY_AREA_M * aps**0.5}")
    length = (f"run.episodes={slots // EPISODE}", f"run.slots_per_episode={EPISODE}", "run.blocks_per_slot=1")
    pace = PACED if runtime == "ray" else ()
    return load("demo", (*size, *length, f"run.checkpoint_every_slots={CHECKPOINT_EVERY}", *pace, *settings), seed)


def in_local(config: Config, faults: Faults) -> Run:
    """A run in one process."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "checkpoints").mkdir()
        one = LocalNetwork(config, faults=faults, folder=Path(folder))
        began = time.monotonic()
        one.run()
        return Run(one.coordinator.record, time.monotonic() - began)


@cache
def twin(config_json: str) -> Record:
    """The same run without faults."""
    one = LocalNetwork(Config.model_validate_json(config_json))
    one.run()
    return one.coordinator.record


class Stamped(ChannelServerActor):
    """Leaves in the run's folder when each slot opened."""

    def run(self, *args: Any) -> Any:
        stamps: dict[int, float] = {}

        def opening(node: ChannelServer, slot: int) -> None:
            stamps[slot] = time.monotonic()
            opens(node, slot)

        opens = ChannelServer._open
        ChannelServer._open = opening  # type: ignore[method-assign,assignment]
        result = super().run(*args)
        (Path(str(self.folder())) / STAMPS).write_text(json.dumps(list(stamps.values())))
        return result


def on_ray(fork_folder: str) -> Runtime:
    """Runs in one Ray session."""
    cfmimo.runtime.cluster.ChannelServerActor = Stamped  # type: ignore[attr-defined]

    def run(config: Config, faults: Faults) -> Run:
        console = Console(config.num_slots, quiet=True)
        with tempfile.TemporaryDirectory() as folder:
            cluster = cfmimo.runtime.cluster.Cluster(
                RunRequest(config, Path(folder), faults=faults), "127.0.0.1", fork_folder
            )
            cluster.start(console)
            cluster.launch()
            began = time.monotonic()
            record = cluster.follow(console)
            seconds = time.monotonic() - began
            cluster.settle(record)  # waits for the channel server's end
            opened = np.array(json.loads((Path(folder) / STAMPS).read_text()))
        if wrong := faults.not_as_planned(record.fired):
            raise RuntimeError("; ".join(wrong))
        return Run(record, seconds, opened, cluster.watchdog)

    return run


# --- what is measured -------------------------------------------------------------------------------------


@dataclass
class Death:
    """One of an AP."""

    ap: int
    slot: int
    restored: int  # slots completed by the checkpoint it came back with
    down: int  # slots missed


def deaths(record: Record, faults: Faults) -> Iterator[Death]:
    """Of all APs, in order; an AP that did not come back is down to the end, with nothing."""
    for ap in range(record.reported.shape[1]):
        struck = [fault.slot for fault in faults.faults if fault.node == f"ap/{ap}"]
        back = {comeback["incarnation"]: comeback["restored"] for comeback in record.comebacks if comeback["ap"] == ap}
        for life, slot in enumerate(struck, start=1):
            there = record.reported[slot:, ap]
            down = int(there.argmax()) if there.any() else len(there)
            yield Death(ap, slot, back.get(life, 0), down)


def missed_otherwise(record: Record, struck: Iterable[Death]) -> int:
    """Slots missed by APs that were not down: what an AP says of a slot may die with it in the next."""
    missed = ~record.reported
    for death in struck:
        missed[max(0, death.slot - 1) : death.slot + death.down, death.ap] = False
    return int(missed.sum())


def sum_rate(record: Record, slots: slice) -> float:
    """Mean over slots [bit/s/Hz]."""
    return float(np.log2(1 + record.sinr[slots]).mean(axis=1).sum(axis=1).mean())


def ratio(run: Run, config: Config, slots: slice) -> float:
    """Of the sum rate to that without faults."""
    return sum_rate(run.record, slots) / sum_rate(twin(config.model_dump_json()), slots)


def kills(runtime: str, run: Runtime, seeds: int) -> Rows:
    """10 % of the APs every 10 slots, for 200 slots."""
    slots, first, last = 280, 10, 200
    line = PlannedFault(slot=first, target="ap/*", action="kill", share=0.1, every=10, until=last + 10)
    during, after, struck, otherwise = list[float](), list[float](), list[Death](), 0
    for seed in range(seeds):
        config = network(runtime, slots, seed)
        faults = resolve(FaultPlan(seed=seed, faults=(line,)), config)
        one = run(config, faults)
        now = list(deaths(one.record, faults))
        otherwise += missed_otherwise(one.record, now)
        during.append(ratio(one, config, slice(first, last + 10)))
        after.append(ratio(one, config, slice(last + 50, slots)))
        struck += now
        print(f"  seed {seed}: {len(now)} kills, {one.seconds:.0f} s, {during[-1]:.3f} {after[-1]:.3f}", flush=True)
    yield Row("kills", len(struck))
    yield Row("slots missed by who was not down", otherwise, 0)
    yield Row("age of the weights that came back, largest [slots]", max(d.slot - d.restored for d in struck), 11)
    downtime = [d.down for d in struck]
    yield Row("downtime, median [slots]", float(np.median(downtime)))
    yield Row("downtime, 95 % below [slots]", float(np.percentile(downtime, 95)), 10)
    yield Row("downtime, largest [slots]", max(downtime))
    yield Row("sum rate during, of that without faults, median", float(np.median(during)), 0.85, at_least=True)
    yield Row("sum rate from 50 slots after, median", float(np.median(after)), 0.95, at_least=True)


def many(runtime: str, run: Runtime, seeds: int) -> Rows:
    """Many APs at once."""
    for share in (0.5, 1.0):
        config = network(runtime, 100, 0)
        line = PlannedFault(slot=20, target="ap/*", action="kill", share=share)
        faults = resolve(FaultPlan(faults=(line,)), config)
        one = run(config, faults)
        struck = list(deaths(one.record, faults))
        name = f"{share:.0%} at once:"
        yield Row(f"{name} killed", len(struck))
        yield Row(f"{name} APs that are not back", int((~one.record.reported[-1]).sum()), 0)
        longest = max(death.down for death in struck)
        yield Row(f"{name} until the last is back [slots]", longest)
        if len(one.opened):
            yield Row(f"{name} until the last is back [s]", float(one.opened[20 + longest] - one.opened[20]))
        yield Row(f"{name} the whole run [s]", one.seconds)


def links(runtime: str, run: Runtime, seeds: int) -> Rows:
    """Bad links between APs."""
    settings = ("cooperation.policy=random", *(("run.slot_s=0", "run.slot_deadline_s=0.4") if runtime == "ray" else ()))
    config = network(runtime, 100 if runtime == "ray" else 500, 0, *settings)
    line = PlannedLinks(loss=0.3, duplication=0.1, delay=0.1, delay_slots=3)
    one = run(config, resolve(FaultPlan(links=(line,)), config))
    yield Row("slots", config.num_slots)
    yield Row("slots missed by an AP", int((~one.record.reported).sum()), 0)
    yield Row("slots not closed", int((~one.record.closed).sum()), 0)
    yield Row("sum rate, of that without faults", ratio(one, config, slice(None)))


def loss(figure: Path | None) -> Rows:
    """The curve; APs that always ask."""
    rates, formed = list[float](), list[float]()
    config = network("local", 60, 0, "cooperation.policy=always")
    for share in LOSSES:
        one = in_local(config, resolve(FaultPlan(links=(PlannedLinks(loss=share),)), config))
        table = tables.slots(one.record)
        rates.append(float(table["sum_rate_bps_hz"].mean()))
        formed.append(float(table["formed"].mean()))
        yield Row(f"loss {share:.0%}: sum rate [bit/s/Hz]", rates[-1])
        yield Row(f"loss {share:.0%}: links formed", formed[-1])
        alone = float(table["sum_rate_alone_bps_hz"].mean())
    yield Row("without cooperation: sum rate [bit/s/Hz]", alone)
    if figure is not None:
        save(against_loss(np.array(LOSSES), np.array(rates), alone, np.array(formed)), figure)


@styled
def against_loss(share: FloatArray, sum_rate: FloatArray, alone: float, formed: FloatArray) -> Figure:
    """What is left of cooperation when frames between APs are lost.

    Args:
        share: (N,) of frames lost.
        sum_rate: (N,) [bit/s/Hz].
        alone: sum rate without cooperation [bit/s/Hz].
        formed: (N,) undirected links, mean over slots.
    """
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    rates, links = figure.subplots(1, 2)
    rates.plot(share, sum_rate, "o-", color=BLUE, label="cooperation")
    rates.axhline(alone, color=ALONE, label="no cooperation")
    rates.set_ylabel("sum rate [bit/s/Hz]")
    rates.legend()
    links.plot(share, formed, "o-", color=BLUE)
    links.set_ylabel("undirected links formed")
    links.set_ylim(bottom=0)
    for axes in (rates, links):
        axes.set_xlabel("share of frames lost between APs")
    return figure


def nodes(runtime: str, run: Runtime, seeds: int) -> Rows:
    """The two nodes that there is one of."""
    for action in ("kill_coordinator", "kill_channel_server"):
        config = network(runtime, 60, 0)
        one = run(config, resolve(FaultPlan(faults=(PlannedFault(slot=25, action=action),)), config))
        missing = int((~one.record.reported).sum() + (~one.record.closed).sum())
        yield Row(f"{action}: rows missing", missing, 0)
        same = one.record.digest() == twin(config.model_dump_json()).digest()
        yield Row(f"{action}: digest is that without faults", same, 1, at_least=True)
        if len(one.opened) == config.num_slots:
            yield Row(f"{action}: slowest slot [s]", float(np.diff(one.opened).max()))


def hang(runtime: str, run: Runtime, seeds: int) -> Rows:
    """One frozen AP."""
    config = network(runtime, 120, 0, "run.watchdog_slots=50")
    faults = resolve(FaultPlan(faults=(PlannedFault(slot=25, target="ap/3", action="hang"),)), config)
    one = run(config, faults)
    (death,) = deaths(one.record, faults)
    yield Row("slots missed by the others", missed_otherwise(one.record, [death]), 0)
    yield Row("slots missed by the frozen AP", death.down)
    if one.watchdog:
        ended = one.watchdog[0]["after_slot"]
        yield Row("watchdog: ended after slot", ended)
        yield Row("back so many slots after the watchdog", death.slot + death.down - ended, 15)
        late = np.diff(one.opened) - SLOT_S
        frozen = late[25 : death.slot + death.down]
        yield Row("slots later than half a deadline while it was frozen", int((frozen > 0.5).sum()), 1)
        yield Row("latest slot meanwhile [s]", float(frozen.max()))
        yield Row("all other slots late by, median [s]", float(np.median(late)))


PARTS: dict[str, tuple[Callable[[str, Runtime, int], Rows], tuple[str, ...]]] = {
    "kills": (kills, ("local", "ray")),
    "many": (many, ("local", "ray")),
    "links": (links, ("local", "ray")),
    "nodes": (nodes, ("ray",)),
    "hang": (hang, ("ray",)),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="kills,many,links,loss,nodes,hang", help="(default: all)")
    parser.add_argument("--runtimes", default="local,ray", help="(default: local,ray)")
    parser.add_argument("--seeds", type=int, default=5, help="of part kills (default: 5)")
    parser.add_argument("--figure", type=Path, help="part loss: draw it, too")
    options = parser.parse_args()
    parts, broken = options.parts.split(","), False
    with ExitStack() as stack:
        for runtime in options.runtimes.split(","):
            wanted = [part for part in parts if part in PARTS and runtime in PARTS[part][1]]
            run: Runtime = in_local
            if runtime == "ray" and wanted:
                run = on_ray(stack.enter_context(connected(None, APS["ray"])))
            for part in wanted:
                broken |= printed(f"{part}, {runtime}, M = {APS[runtime]}", PARTS[part][0](runtime, run, options.seeds))
            if runtime == "local" and "loss" in parts:
                broken |= printed(f"loss, local, M = {APS['local']}", loss(options.figure))
    sys.exit(broken)


def printed(title: str, rows: Rows) -> bool:
    """Print figures as they come; whether a bar is broken."""
    print(title, flush=True)
    broken = False
    for row in rows:
        print(f"  {row}", flush=True)
        broken |= row.broken
    return broken


if __name__ == "__main__":
    main()
