"""Policies side by side on the same layouts and fading, at equal numbers of links, with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.config import Config
from apnode.messages import FloatArray
from apnode.observation import shares
from apnode.rng import Purpose, generator
from channel_server.sinr import sinr, spectral_efficiency
from channel_server.topology import long_term_interference, make_layout, neighbour_lists
from coordinator.local import LocalNetwork
from coordinator.presets import ConfigError
from coordinator.reference import centralised_rzf
from coordinator.snapshot import snapshot

POLICIES = ("never", "random", "threshold", "always", "centralised")
_TUNABLE = ("random", "threshold")  # reach any number of links
_RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Contender:
    """A policy, tuned to a number of links if it can be."""

    policy: str
    aimed_at: int | None  # links
    settings: dict[str, Any]  # of `config.cooperation`


def compare(
    config: Config,
    policies: Sequence[str],
    layouts: int,
    links: Sequence[int],
    slots: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Run every policy on the same layouts (APs and users anew) and fading.

    Args:
        config: the experiment; its seed is the first layout's, and each further layout has the next one.
        policies: of POLICIES.
        layouts: number of layouts.
        links: numbers of links to tune the tunable policies to: formed ones, or requests for directed clusters.
        slots: on each layout.
        progress: told how many runs are done, of how many.

    Returns:
        a row per policy and number of links; each {mean, low, high} is over layouts, with a 95 % interval. `gain_db`
        and `gain_bps_hz` are paired with `never`, `over_random_bps_hz` with `random` aimed at the same links.

    Raises:
        ConfigError: if a policy is unknown or cannot be compared.
    """
    check_policies(policies)
    drops = [_drop(config, config.seed + index, slots) for index in range(layouts)]
    contenders = list(_contenders(drops, policies, links))
    results: list[dict[str, FloatArray]] = []
    for number, contender in enumerate(contenders):
        measured = []
        for index, drop in enumerate(drops):
            measured.append(_measure(drop, contender))
            progress(number * layouts + index + 1, len(contenders) * layouts)
        results.append({name: np.array([row[name] for row in measured]) for name in measured[0]})
    random_at = {c.aimed_at: r for c, r in zip(contenders, results, strict=True) if c.policy == "random"}
    return [
        _row(contender, result, random_at.get(contender.aimed_at))
        for contender, result in zip(contenders, results, strict=True)
    ]


def check_policies(policies: Iterable[str]) -> None:
    """Refuse a policy that cannot be compared.

    Raises:
        ConfigError: naming it.
    """
    unknown = [name for name in policies if name not in POLICIES]
    if unknown:
        raise ConfigError(f"cannot compare {', '.join(map(repr, unknown))}; there are {', '.join(POLICIES)}")


def _drop(config: Config, seed: int, slots: int) -> Config:
    run = config.run.model_copy(update={"episodes": 1, "slots_per_episode": slots})
    return config.model_copy(update={"seed": seed, "run": run})


def _contenders(drops: Sequence[Config], policies: Iterable[str], links: Iterable[int]) -> Iterable[Contender]:
    candidates = [_candidate_links(drop) for drop in drops] if set(policies) & set(_TUNABLE) else []
    for policy in policies:
        if policy not in _TUNABLE:
            yield Contender(policy, None, {"policy": "never" if policy == "centralised" else policy})
            continue
        in_reach = np.mean([_expected_links("random", 1.0, links_, drops[0]) for links_ in candidates])
        for aim in (aim for aim in links if aim <= in_reach):
            setting = "request_rate" if policy == "random" else "request_share"
            yield Contender(policy, aim, {"policy": policy, setting: _tuned(policy, aim, candidates, drops[0])})


# --- equal links ------------------------------------------------------------------------------------------


def _candidate_links(drop: Config) -> NDArray[Any]:
    """(links, 2) shares of the interference at both ends of every link that can form; 0 where only one end may ask."""
    layout = make_layout(drop, 0)
    interference = long_term_interference(drop, layout)
    share = np.zeros_like(interference)
    may_ask = np.zeros(interference.shape, bool)
    for ap, neighbours in enumerate(neighbour_lists(drop, interference, layout.serving)):
        share[ap, list(neighbours)] = shares(interference[ap, list(neighbours)])
        may_ask[ap, list(neighbours)] = True
    if drop.cooperation.cluster == "directed":
        return np.stack([share[may_ask], np.zeros(may_ask.sum())], axis=1)
    ends = np.argwhere(np.triu(may_ask & may_ask.T, 1))
    return np.stack([share[ends[:, 0], ends[:, 1]], share[ends[:, 1], ends[:, 0]]], axis=1)


def _tuned(policy: str, aim: int, candidates: Sequence[NDArray[Any]], config: Config) -> float:
    """The policy's setting that gives `aim` links on average, by bisection on the expected number."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        expected = np.mean([_expected_links(policy, middle, links, config) for links in candidates])
        too_many = expected > aim
        if too_many == (policy == "random"):  # more rate, more links; more share asked for, fewer
            high = middle
        else:
            low = middle
    return (low + high) / 2


def _expected_links(policy: str, setting: float, links: NDArray[Any], config: Config) -> float:
    asks = np.full(links.shape, setting) if policy == "random" else (links >= setting).astype(float)
    match config.cooperation.acceptance:
        case "all":
            return float(asks[:, 0].sum())
        case "mutual":
            return float(asks.prod(axis=1).sum())
        case "grant":  # while there is room
            return float((1 - (1 - asks).prod(axis=1)).sum())


# --- one policy on one layout -----------------------------------------------------------------------------


def _measure(drop: Config, contender: Contender) -> dict[str, float]:
    cooperation = drop.cooperation.model_copy(update=contender.settings)
    config = drop.model_copy(update={"cooperation": cooperation})
    if contender.policy == "centralised":
        return _measure_centralised(config)
    network = LocalNetwork(config)
    network.run()
    record, table = network.coordinator.record, network.coordinator.record.slots()
    means = {name: float(column.mean()) for name, column in table.items()}
    return {
        **_figures(record.sinr),
        "sum_rate_alone": means["sum_rate_alone_bps_hz"],
        "sinr_mean_alone": means["sinr_mean_alone_db"],
        "requests": means["requests"],
        "formed": means["formed"],
        "pairs": means["pairs"],
        "messages": means["messages"],
        "bytes": means["bytes"],
    }


def _measure_centralised(config: Config) -> dict[str, float]:
    slots = [snapshot(config, slot) for slot in range(config.num_slots)]
    alpha, noise = config.precoding.rzf_alpha, config.radio.noise_power_w
    joint = np.stack([sinr(s["h"], centralised_rzf(s["h_hat"], s["rho"], alpha), noise) for s in slots])
    alone = _figures(np.stack([s["sinr_alone"] for s in slots]))
    nothing = dict.fromkeys(("requests", "formed", "pairs", "messages", "bytes"), float("nan"))
    return {
        **_figures(joint),
        "sum_rate_alone": alone["sum_rate"],
        "sinr_mean_alone": alone["sinr_mean"],
        **nothing,
    }


def _figures(ratio: FloatArray) -> dict[str, float]:
    """Of SINRs (slots, B, K)."""
    level = 10 * np.log10(np.maximum(ratio, 1e-12))
    rate = spectral_efficiency(ratio)
    of_ue = rate.mean(axis=(0, 1))  # (K,)
    return {
        "sum_rate": float(of_ue.sum()),
        "sinr_mean": float(level.mean()),
        "sinr_p5": float(np.percentile(level, 5)),
        "jain": float(of_ue.sum() ** 2 / (len(of_ue) * (of_ue**2).sum())),
    }


# --- rows -------------------------------------------------------------------------------------------------


def _row(contender: Contender, result: dict[str, FloatArray], random: dict[str, FloatArray] | None) -> dict[str, Any]:
    gain_rate = result["sum_rate"] - result["sum_rate_alone"]
    gain_db = result["sinr_mean"] - result["sinr_mean_alone"]
    formed = float(result["formed"].mean())
    return {
        "policy": contender.policy,
        "aimed_at": contender.aimed_at,
        "links": {unit: _none_if_nan(result[unit].mean()) for unit in ("requests", "formed", "pairs")},
        "sum_rate_bps_hz": _interval(result["sum_rate"]),
        "sinr_mean_db": _interval(result["sinr_mean"]),
        "sinr_p5_db": _interval(result["sinr_p5"]),
        "jain": float(result["jain"].mean()),
        "gain_bps_hz": _interval(gain_rate),
        "gain_db": _interval(gain_db),
        "gain_per_link_bps_hz": float(gain_rate.mean()) / formed if formed > 0 else None,
        "gain_per_link_db": float(gain_db.mean()) / formed if formed > 0 else None,
        "over_random_bps_hz": _interval(result["sum_rate"] - random["sum_rate"]) if random else None,
        "messages_per_slot": _none_if_nan(result["messages"].mean()),
        "bytes_per_slot": _none_if_nan(result["bytes"].mean()),
    }


def _interval(values: FloatArray) -> dict[str, float]:
    """Mean over layouts and its 95 % bootstrap interval."""
    draws = generator(0, Purpose.BOOTSTRAP).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
