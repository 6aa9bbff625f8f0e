"""Who is compared: policies, each tuned to a number of links, and references beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.config import Config
from apnode.observation import shares
from channel_server.topology import long_term_interference, make_layout, neighbour_lists
from coordinator.oracle import candidate_links, check_oracle
from coordinator.presets import ConfigError
from coordinator.reference import REFERENCES

POLICIES = ("never", "random", "threshold", "master", "oracle", "ddqn", "always")  # what APs run
LOCAL: dict[str, dict[str, Any]] = {
    "mrt": {"alone": "mrt"},
    "local-rzf": {"alone": "rzf", "rzf_alpha": 0.1},  # within 2 % of the best alpha, at either power rule
    "local-mmse": {"alone": "mmse"},
}
NAMES = (*POLICIES, *LOCAL, *REFERENCES)
_TUNABLE = ("random", "threshold", "oracle")  # reach any number of links
COUNTED = ("master", "ddqn")  # form as many as they do; others are tuned to that number


@dataclass(frozen=True)
class Contender:
    """A policy, tuned to a number of links if it can be."""

    policy: str
    aimed_at: int | None = None  # links
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # by section of the config

    def setting(self, config: Config) -> float | None:
        """What it is tuned by: the rate or the share at which an AP asks."""
        cooperation = self.config(config).cooperation
        by = {"random": cooperation.request_rate, "threshold": cooperation.request_share}
        return by.get(self.policy)

    def config(self, config: Config) -> Config:
        """The experiment with this policy."""
        settings = {"cooperation": {"policy": "never"}, **self.settings}  # oracle and agents bring their own
        sections = {name: getattr(config, name).model_copy(update=update) for name, update in settings.items()}
        return config.model_copy(update=sections)


def default_policies(config: Config) -> list[str]:
    """All that can be compared without training."""
    names = [name for name in NAMES if name != "ddqn"]
    try:
        check_oracle(config)
    except ConfigError:
        names.remove("oracle")
    return names


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


def contenders(configs: Sequence[Config], policies: Iterable[str], links: Iterable[int]) -> Iterator[Contender]:
    """Every policy, those that can be tuned once for each number of links.

    Args:
        configs: an experiment per layout.
        policies: of NAMES.
        links: numbers to tune to, on average over the layouts; those out of reach, for `pairs` all, are left out.
    """
    pairs = configs[0].cooperation.cluster == "pairs"  # more requests do not make more of them
    tunable = set(policies) & set(_TUNABLE) and not pairs
    candidates = [_shares_at_ends(config) for config in configs] if tunable else []
    in_reach = np.mean([_expected_links("random", 1.0, ends, configs[0]) for ends in candidates]) if candidates else 0
    for policy in policies:
        if policy in LOCAL:
            yield Contender(policy, None, {"precoding": LOCAL[policy], "cooperation": {"policy": "never"}})
        elif policy in REFERENCES:
            yield Contender(policy)
        elif policy not in _TUNABLE:
            yield Contender(policy, None, {"cooperation": {"policy": policy}})
        else:
            if policy == "random" or pairs:
                yield Contender(policy, None, {"cooperation": {"policy": policy}})  # as often as the config says
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
