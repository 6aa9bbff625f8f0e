"""Policies side by side on the same layouts and fading, at equal numbers of links, with paired intervals."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.config import Config
from apnode.messages import FloatArray
from apnode.observation import shares
from apnode.policies import Given, Policy, Trained, make_policy
from apnode.rng import Purpose, generator
from channel_server.sinr import hardening_sinr, spectral_efficiency
from channel_server.topology import Layout, long_term_interference, make_layout, neighbour_lists
from coordinator.local import LocalNetwork
from coordinator.oracle import candidate_links, check_oracle, greedy_links, requests
from coordinator.presets import ConfigError
from coordinator.record import Record
from coordinator.reference import REFERENCES, Sample, fronthaul_scalars, reference, sample
from coordinator.training import Weights

POLICIES = ("never", "random", "threshold", "oracle", "ddqn", "always")  # what APs run
LOCAL: dict[str, dict[str, Any]] = {
    "mrt": {"alone": "mrt"},
    "local-rzf": {"alone": "rzf", "rzf_alpha": 0.1},
    "local-mmse": {"alone": "mmse"},
}
NAMES = (*POLICIES, *LOCAL, *REFERENCES)
_TUNABLE = ("random", "threshold", "oracle")  # reach any number of links
_RESAMPLES = 2000  # of the bootstrap
Measured = dict[str, float]


@dataclass(frozen=True)
class Contender:
    """A policy, tuned to a number of links if it can be."""

    policy: str
    aimed_at: int | None = None  # links
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # by section of the config


@dataclass(frozen=True)
class Drop:
    """One layout, and the slots on it that count."""

    config: Config
    warm_up: int  # slots before those that count


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

    On each layout APs and UEs are anew; but agents that have learned belong to their places, so with `ddqn` among the
    policies the APs stay where the agents have learned, and the UEs are where the agents have never seen any.

    Args:
        config: the experiment; its seed is the one before the first layout's, and each layout has the next one.
        policies: of NAMES.
        layouts: number of layouts.
        links: numbers of links to tune the tunable policies to: formed ones, or requests for directed clusters.
        slots: that count on each layout. With power rule `average` as many go before, in which its means settle.
        agents: for policy `ddqn`, what the APs' agents have learned.
        progress: told how many layouts are done, of how many.
        workers: processes that share the layouts.

    Returns:
        a row per policy and number of links; each {mean, low, high} is over layouts, with a 95 % interval. `gain_db`
        and `gain_bps_hz` are paired with `never`, `over_random_bps_hz` and `gap_closed` with `random` and `oracle`
        aimed at the same links.

    Raises:
        ConfigError: if a policy is unknown or cannot be compared.
    """
    check_policies(policies, config)
    drops = [_drop(config, config.seed + 1 + index, slots, agents is not None) for index in range(layouts)]
    with _mapping(workers) as mapped:
        tasks = layouts * (2 if agents else 1)

        def measure(contenders: Sequence[Contender], done: int) -> list[dict[str, FloatArray]]:
            arguments = [(drop, contenders, agents) for drop in drops]
            by_drop = mapped(_measure, arguments, lambda count: progress(done + count, tasks))
            return [{n: np.array([m[i][n] for m in by_drop]) for n in by_drop[0][i]} for i in range(len(contenders))]

        contenders, results = [Contender("never")], []
        if agents:
            contenders.append(Contender("ddqn", settings={"cooperation": {"policy": "ddqn"}}))
            results = measure(contenders, 0)
            reached = round(results[1][_unit(config)].mean())
            contenders[1] = Contender("ddqn", reached, contenders[1].settings)
            links = sorted({*links, reached})
        contenders += _contenders(drops, [p for p in policies if p not in {"never", "ddqn"}], links)
        results += measure(contenders[len(results) :], layouts if agents else 0)
    rows = _rows(config, contenders, results)
    return [row for policy in policies for row in rows if row["policy"] == policy]


def check_policies(policies: Iterable[str], config: Config) -> None:
    """Refuse a policy that cannot be compared.

    Raises:
        ConfigError: naming it.
    """
    unknown = [name for name in policies if name not in NAMES]
    if unknown:
        raise ConfigError(f"cannot compare {', '.join(map(repr, unknown))}; there are {', '.join(NAMES)}")
    if "oracle" in policies:
        check_oracle(config)


def _drop(config: Config, seed: int, slots: int, same_aps: bool) -> Drop:
    warm_up = slots if config.precoding.power == "average" else 0
    run = config.run.model_copy(update={"episodes": 1, "slots_per_episode": warm_up + slots})
    radio, reward = config.radio, config.reward.model_copy(update={"scope": "own"})  # who learns nothing tells no gain
    if same_aps and radio.ap_seed < 0:
        radio = radio.model_copy(update={"ap_seed": config.seed})
    sections = {"seed": seed, "run": run, "radio": radio, "reward": reward}
    return Drop(config.model_copy(update=sections), warm_up)


def _unit(config: Config) -> str:
    """What counts as a link."""
    return "requests" if config.cooperation.cluster == "directed" else "formed"


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., list[Any]]]:
    """A way to apply a function to lists of arguments, here or in other processes, with the same results."""

    def here(function: Callable[..., Any], arguments: Sequence[Any], done: Callable[[int], None]) -> list[Any]:
        results = []
        for these in arguments:
            results.append(function(*these))
            done(len(results))
        return results

    if workers == 1:
        yield here
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:

        def there(function: Callable[..., Any], arguments: Sequence[Any], done: Callable[[int], None]) -> list[Any]:
            futures = [pool.submit(function, *these) for these in arguments]
            try:
                for count, _ in enumerate(as_completed(futures), start=1):
                    done(count)
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

        yield there


def processors() -> int:
    """How many processes this one may keep busy."""
    return len(os.sched_getaffinity(0))


# --- equal links ------------------------------------------------------------------------------------------


def _contenders(drops: Sequence[Drop], policies: Iterable[str], links: Iterable[int]) -> Iterator[Contender]:
    configs = [drop.config for drop in drops]
    candidates = [_shares_at_ends(config) for config in configs] if set(policies) & set(_TUNABLE) else []
    in_reach = np.mean([_expected_links("random", 1.0, ends, configs[0]) for ends in candidates]) if candidates else 0
    for policy in policies:
        if policy in LOCAL:
            yield Contender(policy, None, {"precoding": LOCAL[policy], "cooperation": {"policy": "never"}})
        elif policy in REFERENCES:
            yield Contender(policy)
        elif policy not in _TUNABLE:
            yield Contender(policy, None, {"cooperation": {"policy": policy}})
        else:
            for aim in (aim for aim in links if aim <= in_reach):
                yield Contender(policy, aim, {"cooperation": _tuned(policy, aim, candidates, configs[0])})


def _shares_at_ends(config: Config) -> NDArray[Any]:
    """(links, 2) shares of the interference at both ends of every link that can form; 0 where only one end may ask."""
    layout = make_layout(config, 0)
    interference = long_term_interference(config, layout)
    share = np.zeros_like(interference)
    for ap, neighbours in enumerate(neighbour_lists(config, interference, layout.serving)):
        share[ap, list(neighbours)] = shares(interference[ap, list(neighbours)])
    ends = np.array(candidate_links(config, layout)).reshape(-1, 2)
    asking, asked = share[ends[:, 0], ends[:, 1]], share[ends[:, 1], ends[:, 0]]
    return np.stack([asking, np.zeros_like(asked) if config.cooperation.cluster == "directed" else asked], axis=1)


def _tuned(policy: str, aim: int, candidates: Sequence[NDArray[Any]], config: Config) -> dict[str, Any]:
    """Settings that give `aim` links on average, by bisection on the expected number."""
    if policy == "oracle":
        return {}  # its links are chosen on each layout
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        expected = np.mean([_expected_links(policy, middle, ends, config) for ends in candidates])
        if (expected > aim) == (policy == "random"):  # more rate, more links; more share asked for, fewer
            high = middle
        else:
            low = middle
    return {"policy": policy, "request_rate" if policy == "random" else "request_share": (low + high) / 2}


def _expected_links(policy: str, setting: float, ends: NDArray[Any], config: Config) -> float:
    asks = np.full(ends.shape, setting) if policy == "random" else (ends >= setting).astype(float)
    match config.cooperation.acceptance:
        case "all":
            return float(asks[:, 0].sum())
        case "mutual":
            return float(asks.prod(axis=1).sum())
        case "grant":  # while there is room
            return float((1 - (1 - asks).prod(axis=1)).sum())


# --- one layout -------------------------------------------------------------------------------------------


def _measure(drop: Drop, contenders: Sequence[Contender], agents: Weights | None) -> list[Measured]:
    """Every contender on one layout."""
    config = drop.config
    layout, counted = make_layout(config, 0), range(drop.warm_up, config.num_slots)
    observed = sample(config, layout, counted)
    aims = [c.aimed_at or 0 for c in contenders if c.policy == "oracle"]
    links = greedy_links(config, layout, observed.h, observed.h_hat, max(aims)) if aims else []
    measured = []
    for contender in contenders:
        if contender.policy in REFERENCES:
            measured.append(_measured_reference(config, observed, contender.policy))
            continue
        policy_of: Callable[[int, Config], Policy] = make_policy
        if contender.policy == "oracle":
            policy_of = _given(requests(links[: contender.aimed_at], config, layout))
        elif contender.policy == "ddqn":
            assert agents is not None
            policy_of = _trained(agents)
        measured.append(_measured_run(_with(config, contender), layout, counted, policy_of))
    return measured


def _with(config: Config, contender: Contender) -> Config:
    settings = {"cooperation": {"policy": "never"}, **contender.settings}  # what an agent is, the run is told apart
    sections = {name: getattr(config, name).model_copy(update=update) for name, update in settings.items()}
    return config.model_copy(update=sections)


def _given(actions: Sequence[int]) -> Callable[[int, Config], Policy]:
    return lambda ap, _: Given(actions[ap])


def _trained(agents: Weights) -> Callable[[int, Config], Policy]:
    return lambda ap, config: Trained(config, agents[ap])


def _measured_run(
    config: Config, layout: Layout, counted: range, policy_of: Callable[[int, Config], Policy]
) -> Measured:
    network = LocalNetwork(config, policy_of=policy_of)
    network.run()
    record, index = network.coordinator.record, np.array(counted)
    table = {name: float(column.mean()) for name, column in record.slots(index).items()}
    return {
        **_figures(record.sinr[index], record.gain[index]),
        **{unit: table[unit] for unit in ("requests", "formed", "pairs", "messages", "bytes")},
        "scalars": fronthaul_scalars(config, layout, _links(record, counted)),
        "peak_w": float(record.power[index, :, 1].max()),
    }


def _links(record: Record, counted: range) -> FloatArray:
    """(M, M) in what part of the slots AP m precoded with the channels of AP n."""
    table, num_aps = record.links(), record.reported.shape[1]
    linked = table["linked"] & (table["slot"] >= counted.start)
    times = np.zeros((num_aps, num_aps))
    np.add.at(times, (table["ap"][linked], table["neighbour"][linked]), 1)
    return times / len(counted)


def _measured_reference(config: Config, observed: Sample, name: str) -> Measured:
    nothing = dict.fromkeys(("requests", "formed", "pairs", "messages", "bytes"), np.nan)
    ratio, gain, peak = reference(name, config, observed)
    radio = config.radio
    scalars = radio.num_aps * radio.antennas * radio.coherence_symbols  # all that antennas hear and send
    return {**_figures(ratio, gain), **nothing, "scalars": float(scalars), "peak_w": peak}


def _figures(ratio: FloatArray, gain: NDArray[Any]) -> Measured:
    """Of SINRs and effective gains (..., K) of one layout."""
    ratio, gain = ratio.reshape(-1, ratio.shape[-1]), gain.reshape(-1, gain.shape[-1])
    level, of_ue = _db(ratio), spectral_efficiency(ratio).mean(axis=0)  # (N, K), (K,)
    bound = hardening_sinr(gain, ratio)
    return {
        "sum_rate": float(of_ue.sum()),
        "hardening": float(spectral_efficiency(bound).sum()),
        "sinr_mean": float(level.mean()),
        "sinr_p5": float(np.percentile(level, 5)),
        "sinr_p5_hardening": float(np.percentile(_db(bound), 5)),
        "jain": float(of_ue.sum() ** 2 / (len(of_ue) * (of_ue**2).sum())),
    }


def _db(ratio: FloatArray) -> FloatArray:
    level: FloatArray = 10 * np.log10(np.maximum(ratio, 1e-12))
    return level


# --- rows -------------------------------------------------------------------------------------------------


def _rows(
    config: Config, contenders: Sequence[Contender], results: Sequence[dict[str, FloatArray]]
) -> list[dict[str, Any]]:
    at = {(c.policy, c.aimed_at): result for c, result in zip(contenders, results, strict=True)}
    never = at["never", None]
    return [
        {
            **_row(config, result, never),
            "policy": contender.policy,
            "aimed_at": contender.aimed_at,
            **_beside(result, at.get(("random", contender.aimed_at)), at.get(("oracle", contender.aimed_at))),
        }
        for contender, result in zip(contenders, results, strict=True)
    ]


def _row(config: Config, result: dict[str, FloatArray], never: dict[str, FloatArray]) -> dict[str, Any]:
    gain_rate, gain_db = result["sum_rate"] - never["sum_rate"], result["sinr_mean"] - never["sinr_mean"]
    links, radio = float(result[_unit(config)].mean()), config.radio
    per_block = 8 / config.run.blocks_per_slot
    return {
        "policy": "",
        "aimed_at": None,
        "links": {unit: _none_if_nan(result[unit].mean()) for unit in ("requests", "formed", "pairs")},
        "sum_rate_bps_hz": _interval(result["sum_rate"]),
        "sum_rate_hardening_bps_hz": _interval(result["hardening"]),
        "sum_rate_net_bps_hz": _interval(result["sum_rate"] * (1 - radio.pilot_length / radio.coherence_symbols)),
        "sinr_mean_db": _interval(result["sinr_mean"]),
        "sinr_p5_db": _interval(result["sinr_p5"]),
        "sinr_p5_hardening_db": _interval(result["sinr_p5_hardening"]),
        "jain": float(result["jain"].mean()),
        "gain_bps_hz": _interval(gain_rate),
        "gain_db": _interval(gain_db),
        "gain_per_link_bps_hz": float(gain_rate.mean()) / links if links > 0 else None,
        "gain_per_link_db": float(gain_db.mean()) / links if links > 0 else None,
        "over_random_bps_hz": None,
        "gap_closed": None,
        "messages_per_slot": _none_if_nan(result["messages"].mean()),
        "bytes_per_slot": _none_if_nan(result["bytes"].mean()),
        "fronthaul_bits_per_block": _none_if_nan(result["bytes"].mean() * per_block),
        "fronthaul_scalars_per_block": _none_if_nan(result["scalars"].mean()),
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
        return {"over_random_bps_hz": _interval(over)}
    return {
        "over_random_bps_hz": _interval(over),
        "gap_closed": _interval(over, oracle["sum_rate"] - random["sum_rate"]),
    }


def _interval(values: FloatArray, of: FloatArray | None = None) -> dict[str, float] | None:
    """Mean over layouts, or ratio of two means, and its 95 % bootstrap interval; None if it is not a number."""
    draws = generator(0, Purpose.BOOTSTRAP).integers(len(values), size=(_RESAMPLES, len(values)))
    means, mean = values[draws].mean(axis=1), values.mean()
    if of is not None:
        if not of.mean():
            return None
        means, mean = means / of[draws].mean(axis=1), mean / of.mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(mean), "low": float(low), "high": float(high)} if np.isfinite(mean) else None


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
