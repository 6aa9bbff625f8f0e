"""Policies side by side on the same layouts and fading, at equal numbers of links, with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, Self

import numpy as np

from apnode.config import Config
from apnode.config.cooperation import LEARNERS
from apnode.protocol.messages import FloatArray
from apnode.protocol.rng import Purpose, generator
from cfmimo.errors import ConfigError
from cfmimo.experiments.agents import learner_of, load_agents, train, where_they_learned
from cfmimo.experiments.contenders import (
    Contender,
    check_policies,
    contender,
    contenders,
    counted,
    default_policies,
)
from cfmimo.experiments.measure import Drop, measure
from cfmimo.records.agents_file import Weights
from cfmimo.records.rundir import RunDir, new_folder
from cfmimo.report.pages import write_comparison
from cfmimo.workers import processors, spread
from channel_server.recorded import recorded

_RESAMPLES = 2000  # of the bootstrap
_FEW = 0.9  # of the links aimed at
_OTHERS = ("random", "oracle")  # beside whom others are judged
Results = list[tuple[Contender, dict[str, FloatArray]]]  # by quantity, a value per layout


def compare(
    config: Config,
    policies: Sequence[str],
    layouts: int,
    links: Sequence[int],
    slots: int,
    agents: Weights | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 1,
) -> list[dict[str, Any]]:
    """Run every policy on the same layouts and fading.

    On each layout APs and UEs are anew; but agents that have learned belong to their places, so with a policy that
    learns the APs stay where the agents have learned, and the UEs are where the agents have never seen any. Agents of
    another number of APs have no places here.

    Args:
        config: the experiment; its seed is the one before the first layout's, and each layout has the next one.
        policies: of NAMES.
        layouts: number of layouts; a channel file's are taken in turn, each once, so there may be fewer.
        links: numbers of links to tune the tunable policies to: formed ones, or requests for directed clusters. The
            oracle, and with joint precoding `selective` those that forecast, form fewer if no more promise a gain.
        slots: that count on each layout. With power rule `average` as many go before, in which its means settle.
        agents: for policies that learn, what the APs' agents have learned.
        progress: told how many slots are done, of how many.
        workers: processes that share the layouts.

    Returns:
        a row per policy and number of links; each {mean, low, high} is over layouts, with a 95 % interval. `gain_db`
        and `gain_bps_hz` are paired with `never`, `over_random_bps_hz` and `gap_closed` with `random` and `oracle`
        aimed at the same links.

    Raises:
        ConfigError: if a policy is unknown or cannot be compared.
    """
    results = measured(config, policies, layouts, links, slots, agents, progress, workers)
    rows = rows_of(config, results)
    return [row for policy in policies for row in rows if row["policy"] == policy]


def written_comparison(
    config: Config,
    policies: Sequence[str] | None,
    layouts: int,
    links: Sequence[int],
    slots: int,
    policy: str | None,
    folder: str,
    console: Stages,
    command: list[str],
) -> dict[str, Any]:
    """Compare, train agents before if need be, and write table, figure and page; returns what `--json` prints.

    Args:
        config: as for `compare`.
        policies: as for `compare`; None: all that need no training, and the agents of `policy`.
        layouts: as for `compare`.
        links: as for `compare`.
        slots: as for `compare`.
        policy: the directory of a run whose agents are a contender.
        folder: for the results, new or empty.
        console: shows progress.
        command: as typed, for the manifest.

    Raises:
        ConfigError: if a policy is unknown or cannot be compared.
        RunDirError: if the folder cannot be used.
    """
    learner = learner_of(policy) if policy else None
    chosen = list(policies) if policies else default_policies(config)
    if learner and not policies:
        chosen.append(learner)
    check_policies(chosen, config)
    if learner and learner not in chosen:
        raise ConfigError(f"--policy names agents for policy {learner}, which --policies leaves out; add it there")
    learning = [name for name in chosen if name in LEARNERS]
    if len(learning) > 1:
        raise ConfigError(f"cannot compare agents of {len(learning)} kinds at once: choose {' or '.join(learning)}")
    if learning:
        config = config.variant(cooperation={"policy": learning[0]})
    count = layouts_of(config, layouts)
    agents = load_agents(policy, config) if policy else None
    if agents is not None:
        config = where_they_learned(config, agents, count)
    path = new_folder(folder)
    with console:
        weights = None if agents is None else agents.weights
        if learning and weights is None:
            weights = train(config, console.stage("training: slots"))[1]
        progress = console.stage("comparing: slots")
        rows = compare(config, chosen, count, links, slots, weights, progress, processors())
    notes = notes_of(config, rows, layouts)
    told = None if agents is None else agents.told(str(policy))
    write_comparison(RunDir.create(path, config, command, "local", told).path, rows, notes)
    return {"run_dir": str(path), "layouts": count, "rows": rows, "notes": notes}


class Stages(Protocol):
    """Whom long work tells how far it is."""

    def __enter__(self) -> Self:
        """Begin to show progress."""

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Show no more."""

    def stage(self, what: str) -> Callable[[int, int], None]:
        """Begin a stage; the function returned is told how much of it is done, of how much."""


def measured(
    config: Config,
    policies: Sequence[str],
    layouts: int,
    links: Sequence[int],
    slots: int,
    agents: Weights | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 1,
) -> Results:
    """What `compare` makes rows of, layout by layout; `never` comes first, whether asked for or not."""
    check_policies(policies, config)
    in_place = agents is not None and len(agents) == config.radio.num_aps
    of_file = config.propagation.channel_file != ""
    drops = [
        drop_of(config, config.seed + 1 + index, slots, in_place, episode=index if of_file else 0)
        for index in range(layouts_of(config, layouts))
    ]
    configs, steps = [d.config for d in drops], len(drops) * drops[0].config.run.slots_per_episode
    numbers = counted(policies, config)
    others = [policy for policy in policies if policy not in {"never", *numbers}]
    first = [contender(name) for name in ("never", *numbers)]
    expected = steps * (len(first) + len(others) * max(1, len(links)))  # about
    results = _measured(first, drops, agents, lambda done: progress(done, expected), workers)
    for index, (entrant, result) in enumerate(results[1:], start=1):
        reached = round(result[unit(config)].mean())
        if reached:  # links, for which others are tuned as well
            results[index], links = (replace(entrant, aimed_at=reached), result), sorted({*links, reached})
    entered, done_before = list(contenders(configs, others, links, agents)), steps * len(first)
    total = done_before + steps * len(entered)
    return results + _measured(entered, drops, agents, lambda done: progress(done_before + done, total), workers)


def _measured(
    entered: Sequence[Contender],
    drops: Sequence[Drop],
    agents: Weights | None,
    progress: Callable[[int], None],
    workers: int,
) -> Results:
    by_drop = spread(measure, [(drop, entered, agents) for drop in drops], workers, progress)
    of_all = [[on_drop[index] for on_drop in by_drop] for index in range(len(entered))]
    arrays = [{name: np.array([row[name] for row in rows]) for name in rows[0]} for rows in of_all]
    return list(zip(entered, arrays, strict=True))


def layouts_of(config: Config, wanted: int) -> int:
    """How many layouts there are to compare on: as many as wanted, or as the channel file holds."""
    file = recorded(config)
    return wanted if file is None else min(wanted, len(file.beta))


def drop_of(config: Config, seed: int, slots: int, same_aps: bool, episode: int = 0) -> Drop:
    """A layout of an experiment, as `compare` measures on it.

    Args:
        config: the experiment.
        seed: of the layout, and of fading.
        slots: that count.
        same_aps: APs are where the experiment has them, not anew.
        episode: whose layout in the channel file it is.
    """
    warm_up = slots if config.precoding.power == "average" else 0
    known = config.variant(
        seed=seed,
        run={"episodes": episode + 1, "slots_per_episode": warm_up + slots},
        radio={"ap_seed": config.seed} if same_aps and config.radio.ap_seed < 0 else {},
        reward={"scope": "own"},  # who learns nothing tells no gain
    )
    return Drop(known, warm_up)


def unit(config: Config) -> str:
    """What counts as a link."""
    return "requests" if config.cooperation.cluster == "directed" else "formed"


# --- rows -------------------------------------------------------------------------------------------------


def rows_of(config: Config, results: Results) -> list[dict[str, Any]]:
    """A row for every contender, `never` among them."""
    at = {(c.policy, c.aimed_at): result for c, result in results}
    never = at["never", None]
    return [
        {
            **_row(config, result, never),
            "policy": contender.policy,
            "aimed_at": contender.aimed_at,
            "setting": contender.setting(config),
            **(_beside(result, *(at.get((o, contender.aimed_at)) for o in _OTHERS)) if contender.aimed_at else {}),
        }
        for contender, result in results
    ]


def _row(config: Config, result: dict[str, FloatArray], never: dict[str, FloatArray]) -> dict[str, Any]:
    gain_rate, gain_db = result["sum_rate"] - never["sum_rate"], result["sinr_mean"] - never["sinr_mean"]
    links, radio = float(result[unit(config)].mean()), config.radio
    per_block = 8 / config.run.blocks_per_slot
    return {
        "policy": "",
        "aimed_at": None,
        "setting": None,
        "links": {unit: _none_if_nan(result[unit].mean()) for unit in ("requests", "formed", "pairs")},
        "sum_rate_bps_hz": interval(result["sum_rate"]),
        "sum_rate_hardening_bps_hz": interval(result["hardening"]),
        "sum_rate_net_bps_hz": interval(result["sum_rate"] * (1 - radio.pilot_length / radio.coherence_symbols)),
        "sinr_mean_db": interval(result["sinr_mean"]),
        "sinr_p5_db": interval(result["sinr_p5"]),
        "sinr_p5_hardening_db": interval(result["sinr_p5_hardening"]),
        "jain": float(result["jain"].mean()),
        "gain_bps_hz": interval(gain_rate),
        "gain_db": interval(gain_db),
        "gain_per_link_bps_hz": float(gain_rate.mean()) / links if links > 0 else None,
        "gain_per_link_db": float(gain_db.mean()) / links if links > 0 else None,
        "over_random_bps_hz": None,
        "gap_closed": None,
        "messages_per_slot": _none_if_nan(result["messages"].mean()),
        "bytes_per_slot": _none_if_nan(result["bytes"].mean()),
        "fronthaul_bits_per_block": _none_if_nan(result["bytes"].mean() * per_block),
        "fronthaul_scalars_per_block": _none_if_nan(result["scalars"].mean()),
        "largest_cluster": _none_if_nan(result["largest_cluster"].max()),
        "clusters_refused": _none_if_nan(result["clusters_refused"].mean()),
        "peak_power_w": float(result["peak_w"].max()),
    }


def _beside(
    result: dict[str, FloatArray], random: dict[str, FloatArray] | None, oracle: dict[str, FloatArray] | None
) -> dict[str, Any]:
    """What a policy makes of the same number of links."""
    if random is None:
        return {}
    over = result["sum_rate"] - random["sum_rate"]
    if oracle is None:
        return {"over_random_bps_hz": interval(over)}
    return {
        "over_random_bps_hz": interval(over),
        "gap_closed": interval(over, oracle["sum_rate"] - random["sum_rate"]),
    }


def interval(values: FloatArray, of: FloatArray | None = None) -> dict[str, float] | None:
    """Mean over layouts, or ratio of two means, and its 95 % bootstrap interval; None if it is not a number."""
    draws = generator(0, Purpose.BOOTSTRAP).integers(len(values), size=(_RESAMPLES, len(values)))
    means, mean = values[draws].mean(axis=1), values.mean()
    if of is not None:
        if not of.mean():
            return None
        means, mean = means / of[draws].mean(axis=1), mean / of.mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(mean), "low": float(low), "high": float(high)} if np.isfinite(mean) else None


def notes_of(config: Config, rows: Sequence[dict[str, Any]], layouts: int) -> list[str]:
    """What a person should know, in a sentence each: of fewer layouts or links than wanted, of clusters too large."""
    limit, kind, held = config.cooperation.max_cluster_aps, config.cooperation.cluster, layouts_of(config, layouts)
    file = config.propagation.channel_file
    of_file = f"{file} holds {held} of the {layouts} layouts wanted: every policy is compared on each of them, once."
    few = [
        f"{row['policy']} {row['aimed_at']}: {row['links'][unit(config)]:.0f} links; no more promise a gain."
        for row in rows
        if row["aimed_at"] and row["policy"] not in {"random", "threshold"}
        if row["links"][unit(config)] < _FEW * row["aimed_at"]
    ]
    return [*[of_file] * (held < layouts), *few] + [
        f"{row['policy']} {row['aimed_at'] or ''}: {kind} of up to {row['largest_cluster']:.0f} APs exceed "
        f"cooperation.max_cluster_aps = {limit} ({row['clusters_refused']:.1f} in a slot); their APs precoded alone. "
        "Links percolate: use ego clusters, or fewer links."
        for row in rows
        if row["clusters_refused"]
    ]


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
