"""The seed paper's results, as far as they can be had: trains, evaluates, and says what agrees and what cannot."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.protocol.messages import FloatArray
from apnode.runtime.whole_file import write_whole
from cfmimo.experiments.agents import train
from cfmimo.experiments.compare import interval, measured
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork
from cfmimo.workers import advance, spread
from coordinator import tables
from coordinator.record import Record

READINGS = {"mutual": "paper", "directed": "paper-directed"}  # of what the paper leaves open, and their presets
POLICIES = ("never", "centralised", "random", "threshold", "oracle", "ddqn", "always")
RATE = "random at 56.5 %"  # asks so often as the paper's agents; the other baselines form as many links as ours
_ASSUMED_CENTRAL_LINKS = 500.0  # the paper's constant


@dataclass(frozen=True)
class Plan:
    """How much to compute."""

    seeds: int  # trainings of each reading
    layouts: int  # never seen, to evaluate each on
    slots: int  # on each layout
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        settings = f", with {' '.join(self.overrides)}" if self.overrides else ""
        return (
            f"{self.seeds} trainings of each reading, judged on {self.layouts} layouts of {self.slots} slots{settings}"
        )


FULL = Plan(seeds=3, layouts=20, slots=5)
QUICK = Plan(
    seeds=1,
    layouts=10,
    slots=3,
    overrides=("run.episodes=40", "learning.epsilon_decay=0.025", "learning.target_update_episodes=2"),
)
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Part:
    """One training and its evaluation."""

    curves: Arrays = field(default_factory=dict)  # by quantity, a value per episode
    reached: Arrays = field(default_factory=dict)  # by "policy/quantity", a value per layout


def expected_minutes(plan: Plan, folder: Path, workers: int) -> float:
    """How long what is not in the folder yet will take, from what some slots take now."""
    config = load(READINGS["directed"], (*plan.overrides, "run.episodes=3"), seed=0)
    began = time.perf_counter()
    LocalNetwork(config).run()
    missing = 1 - len(list(folder.glob("*.npz"))) / (plan.seeds * len(READINGS))
    return missing * total_steps(plan) / config.num_slots * (time.perf_counter() - began) / workers / 60


def total_steps(plan: Plan) -> int:
    """Slots to simulate; references count as if they were simulated too."""
    contenders = len(POLICIES) + 1
    trained = sum(load(preset, plan.overrides).num_slots for preset in READINGS.values())
    return plan.seeds * (trained + len(READINGS) * contenders * plan.layouts * plan.slots)


def reproduce(
    plan: Plan, seed: int, folder: Path, workers: int, progress: Callable[[int, int], None]
) -> tuple[list[dict[str, Any]], dict[str, list[Part]]]:
    """Train and evaluate both readings.

    Args:
        plan: how much.
        seed: of the first training; the others have the next ones.
        folder: where finished parts are kept, so that an interrupted call can go on.
        workers: processes that share the parts.
        progress: told how many slots are done, of how many.

    Returns:
        the rows of the table paper / ours / verdict, and the parts of each reading.
    """
    keys = [(reading, seed + index) for reading in READINGS for index in range(plan.seeds)]
    total = total_steps(plan)
    parts = spread(_part, [(*key, plan, folder) for key in keys], workers, lambda done: progress(done, total))
    by_reading = {name: [part for key, part in zip(keys, parts, strict=True) if key[0] == name] for name in READINGS}
    rows = table({name: _pooled(parts) for name, parts in by_reading.items()})
    return [*rows, _reciprocal_union_rate(plan, seed)], by_reading


def _reciprocal_union_rate(plan: Plan, seed: int) -> dict[str, Any]:
    """Phase 1 of Fig. 3 over reciprocal neighbour sets, where either of two may ask: before anybody has learned."""
    rates = []
    for index in range(plan.seeds + 1):  # one more: a single one has no interval
        overrides = (*plan.overrides, "run.episodes=1", "cooperation.neighbour_sets=symmetric")
        record, _ = train(load(READINGS["mutual"], overrides, seed + index))
        rates.append(_curves(record)["union_rate"][0])
    how = "reciprocal neighbour sets: pairs of which either end asks, in the first episode"
    return _row("Fig. 3, phase 1: union rate", 0.70, np.array(rates), how, within=0.05)


def figures_of(by_reading: dict[str, list[Part]]) -> dict[str, Any]:
    """What the figures 3 to 7 show: `rates` over the episodes, and by figure the arguments of `beside_the_paper`."""
    of = {reading: _pooled(parts) for reading, parts in by_reading.items()}
    rates = {
        reading: {
            label: np.array([part.curves[name] for part in parts])
            for name, label in (("request_rate", "request rate"), ("union_rate", "union rate: either end asks"))
        }
        for reading, parts in by_reading.items()
    }

    def shown(values_of: Callable[[Arrays, str], FloatArray | None], policies: Sequence[str]) -> dict[str, Any]:
        return {
            reading: {
                policy: None if (values := values_of(pooled, policy)) is None else interval(values)
                for policy in policies
            }
            for reading, pooled in of.items()
        }

    def per_link(name: str) -> Callable[[Arrays, str], FloatArray]:
        return lambda pooled, policy: _gain(pooled, policy, name) / pooled[f"{policy}/requests"]

    asking = ("random", "threshold", "oracle", "ddqn", "always")
    return {
        "rates": rates,
        "fig4-sinr": (
            "mean SINR [dB]",
            shown(lambda pooled, policy: pooled[f"{policy}/sinr_mean"], POLICIES),
            {"never": 8.48, "centralised": 9.43, "ddqn": 9.48},
            False,
        ),
        "fig5-rate": (
            "sum rate [bit/s/Hz]",
            shown(lambda pooled, policy: pooled[f"{policy}/sum_rate"], POLICIES),
            {"never": 122.0, "centralised": 133.7, "ddqn": 134.6},
            False,
        ),
        "fig6-links": (
            "directed requests in a slot",
            shown(lambda pooled, policy: pooled[f"{policy}/requests"], asking),
            {"ddqn": 194.0, "always": _ASSUMED_CENTRAL_LINKS},
            True,
        ),
        "fig7-rate-per-link": (
            "gain per directed request [bit/s/Hz]",
            shown(per_link("sum_rate"), asking),
            {"ddqn": (134.6 - 122.0) / 194},
            True,
        ),
        "fig7-db-per-link": (
            "gain per directed request [dB]",
            shown(per_link("sinr_mean"), asking),
            {"ddqn": (9.48 - 8.48) / 194},
            True,
        ),
    }


# --- one training -----------------------------------------------------------------------------------------


def _part(reading: str, seed: int, plan: Plan, folder: Path) -> Part:
    """One training and its evaluation; read back if it is there already."""
    config = load(READINGS[reading], plan.overrides, seed)
    path, wanted = folder / f"{reading}-seed{seed}.npz", f"{plan!r} {config.model_dump_json()}"
    if path.is_file():
        with np.load(path, allow_pickle=False) as file:
            if str(file["of"]) == wanted:
                advance(total_steps(plan) // plan.seeds // len(READINGS))
                return Part(*({k[1:]: file[k] for k in file.files if k[0] == kind} for kind in ("<", ">")))
    done = 0

    def trained(slots: int, total: int) -> None:
        nonlocal done
        advance(slots - done)
        done = slots

    record, agents = train(config, trained)
    results = measured(config, POLICIES, plan.layouts, [], plan.slots, agents)
    reached = {
        f"{RATE if c.policy == 'random' and c.aimed_at is None else c.policy}/{name}": values
        for c, values_of in results
        for name, values in values_of.items()
    }
    part = Part(_curves(record), reached)
    arrays = {**{f"<{k}": v for k, v in part.curves.items()}, **{f">{k}": v for k, v in part.reached.items()}}
    content = io.BytesIO()
    np.savez_compressed(content, of=np.array(wanted), **arrays)  # type: ignore[arg-type]
    write_whole(path, [content.getvalue()])
    return part


def _curves(record: Record) -> Arrays:
    """Means over each episode of the training."""
    slots = tables.slots(record)
    episode, count = slots["episode"], np.bincount(slots["episode"])

    def mean(values: NDArray[Any]) -> NDArray[Any]:
        return np.bincount(episode, weights=values) / count

    deciding = np.maximum((record.neighbours != record.neighbours.max()).any(axis=2).sum(axis=1), 1)
    return {
        "request_rate": mean(slots["requests"]) / np.maximum(mean(slots["candidates"]), 1),
        "union_rate": mean(slots["union_asked"]) / np.maximum(mean(slots["union_candidates"]), 1),
        "sinr_mean_db": mean(slots["sinr_mean_db"]),
        "sum_rate_bps_hz": mean(slots["sum_rate_bps_hz"]),
        "reward": mean(record.floats[..., 1].sum(axis=1) / deciding),
        "requests": mean(slots["requests"]),
    }


def _pooled(parts: Sequence[Part]) -> Arrays:
    """The layouts of all trainings; of the curves, the last and the first tenth of the episodes of each."""
    pooled = {name: np.concatenate([part.reached[name] for part in parts]) for name in parts[0].reached}
    for name in parts[0].curves:
        tenth = max(1, len(parts[0].curves[name]) // 10)
        pooled[f"start/{name}"] = np.array([part.curves[name][:tenth].mean() for part in parts])
        pooled[f"end/{name}"] = np.array([part.curves[name][-tenth:].mean() for part in parts])
    return pooled


# --- the table --------------------------------------------------------------------------------------------

_HOW = {
    "mutual": "mutual agreement over neighbour sets as printed, ego clusters",
    "directed": "an AP uses the channels of whom it asked, interference counts from non-serving APs",
}
_NO_NUMBER = "the paper has no such baseline"


def table(of: dict[str, Arrays]) -> list[dict[str, Any]]:
    """Rows of quantity, paper, ours with its 95 % interval over layouts, difference, verdict and reading.

    Args:
        of: pooled results by reading.
    """
    rows = []
    either, how = of["mutual"], "either reading"
    for policy, name, sinr_db, rate in (
        ("never", "no cooperation", 8.48, 122.0),
        ("centralised", "centralised RZF", 9.43, 133.7),
    ):
        rows.append(_row(f"{name}: mean SINR [dB]", sinr_db, either[f"{policy}/sinr_mean"], how))
        rows.append(_row(f"{name}: sum rate [bit/s/Hz]", rate, either[f"{policy}/sum_rate"], how))
    gain = _gain(either, "centralised", "sinr_mean")
    rows.append(_row("centralised RZF: gain [dB]", 0.95, gain, f"{how}; paired, layout by layout"))
    for reading, pooled in of.items():
        rows += _rows_of(reading, pooled)
    return rows


def _rows_of(reading: str, of: Arrays) -> list[dict[str, Any]]:
    how = f"{reading}: {_HOW[reading]}"
    requests, central = of["ddqn/requests"], _ASSUMED_CENTRAL_LINKS
    rows = [
        _row("DDQN: mean SINR [dB]", 9.48, of["ddqn/sinr_mean"], how),
        _row("DDQN: sum rate [bit/s/Hz]", 134.6, of["ddqn/sum_rate"], how),
        _row("DDQN: gain [dB]", 1.00, _gain(of, "ddqn", "sinr_mean"), how),
        _row("random, as many links: gain [dB]", None, _gain(of, "random", "sinr_mean"), how, _NO_NUMBER),
        _row("threshold, as many links: gain [dB]", None, _gain(of, "threshold", "sinr_mean"), how, _NO_NUMBER),
        _row("greedy oracle, as many links: gain [dB]", None, _gain(of, "oracle", "sinr_mean"), how, _NO_NUMBER),
        _row(f"{RATE}: gain [dB]", None, _gain(of, RATE, "sinr_mean"), how, _NO_NUMBER),
        _row("DDQN: directed requests", 194.0, requests, how),
        _row(
            "Fig. 3, request rate at the end",
            0.565,
            of["end/request_rate"],
            f"{how}; set by alpha_2 / alpha_3, an input",
            within=0.015,
        ),
        _row(
            "Fig. 3, phase 1: request rate",
            0.70,
            of["start/request_rate"],
            how,
            "cannot be one: epsilon = 0.8 with uniform actions caps it near 60 %",
        ),
        _row(
            "Fig. 3, phase 1: union rate",
            0.70,
            of["start/union_rate"],
            f"{how}; pairs of which either end asks",
            within=0.05,
        ),
        _row(
            "links of the central controller",
            central,
            of["always/requests"],
            f"{how}; ours: every request that there can be",
            "cannot be: 4 neighbours of 100 APs are 400 at most; the paper's 500 is a constant",
        ),
    ]
    for unit, name, paper in (("sum_rate", "sum rate", 2.8), ("sinr_mean", "dB", 2.73)):
        learned, known = _gain(of, "ddqn", unit) / requests, _gain(of, "centralised", unit) / central
        why = f"{how}; over the centralised gain per link at the paper's constant of 500"
        rows.append(_row(f"{name} gain per link, DDQN : centralised", paper, learned, why, of=known))
    return rows


def _gain(of: Arrays, policy: str, name: str) -> FloatArray:
    gain: FloatArray = of[f"{policy}/{name}"] - of[f"never/{name}"]
    return gain


def _row(
    quantity: str,
    paper: float | None,
    ours: FloatArray,
    reading: str,
    verdict: str = "",
    of: FloatArray | None = None,
    within: float = 0.0,
) -> dict[str, Any]:
    """One row of the table.

    Args:
        quantity: with its unit.
        paper: what the paper says, None if nothing.
        ours: a value per layout, or per training.
        reading: of what the paper leaves open.
        verdict: why the two cannot be compared, if so.
        of: ours is the ratio of its mean to that of these.
        within: half the width of a band that the paper gives.
    """
    found = interval(ours, of)
    assert found is not None
    difference = None if paper is None else found["mean"] - paper
    spread_of_layouts = float(np.std(ours if of is None else ours / of.mean(), ddof=1)) if len(ours) > 1 else 0.0
    return {
        "quantity": quantity,
        "paper": paper,
        "ours": found,
        "difference": difference,
        "verdict": verdict or _verdict(difference, found, spread_of_layouts, within),
        "reading": reading,
    }


def _verdict(difference: float | None, found: dict[str, float], spread_of_layouts: float, within: float) -> str:
    """Whether the paper's number, which is that of one layout, can be ours."""
    assert difference is not None
    if abs(difference) <= within:
        return "reproduced: in the paper's band"
    if found["low"] <= found["mean"] - difference <= found["high"]:
        return "reproduced: in the interval of the mean"
    if abs(difference) <= 2 * spread_of_layouts:
        return "reproduced: one layout may differ so much"
    return "differs"
