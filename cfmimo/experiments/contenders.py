"""Who is compared: policies, each tuned to a number of links, and references beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from pydantic import ValidationError

from apnode.agent.forecast import Outlook, link_gains
from apnode.agent.observation import describe, shares, traits_of
from apnode.agent.policies import finding_out
from apnode.agent.prospects import INCOHERENCE, LEVELS, STALENESS
from apnode.config import Config
from apnode.config.cooperation import FINDING_OUT, LEARNERS, Cooperation
from apnode.config.own_policy import full_name
from apnode.protocol.messages import Association, FloatArray
from apnode.protocol.rng import config_for_aps
from apnode.radio.csi import sensed_change
from cfmimo.errors import ConfigError, did_you_mean
from cfmimo.experiments.central import REFERENCES
from cfmimo.experiments.oracle import Link, candidate_links, check_oracle
from cfmimo.presets import sentences
from cfmimo.records.agents_file import Weights
from cfmimo.records.own_code import check_own_code
from channel_server.fading import channels, late_change, received_pilots
from channel_server.impairments import defect_levels
from channel_server.topology import Layout, associations, make_layout

TOLD = {  # forecasts that are told defects of all APs, as no AP is: which of their levels
    "ages": (STALENESS,),  # and how fast every UE moves
    "phases-and-ages": (INCOHERENCE, STALENESS),
    "informed": LEVELS,
}
POLICIES = ("never", "random", "threshold", "master", "forecast", *TOLD, "oracle", *LEARNERS, "always")
LOCAL: dict[str, dict[str, Any]] = {
    "mrt": {"alone": "mrt"},
    "local-rzf": {"alone": "rzf", "rzf_alpha": 0.1},  # within 2 % of the best alpha, at either power rule
    "local-mmse": {"alone": "mmse"},
}
NAMES = (*POLICIES, *LOCAL, *REFERENCES)
_TUNABLE = ("random", "threshold", "forecast", *TOLD, "oracle", *FINDING_OUT)  # to any number of links
_COUNTED = ("master", "ddqn")  # form as many as they do; others are tuned to that number


@dataclass(frozen=True)
class Contender:
    """A policy, tuned to a number of links if it can be."""

    policy: str
    aimed_at: int | None = None  # links
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # by section of the config

    def setting(self, config: Config) -> float | None:
        """What it is tuned by: the rate or the share at which an AP asks."""
        cooperation = self.config(config).cooperation
        price = dict.fromkeys(
            ("forecast", *TOLD, *FINDING_OUT, *(("ddqn",) if self.aimed_at else ())), cooperation.link_price
        )
        by = {"random": cooperation.request_rate, "threshold": cooperation.request_share, **price}
        return by.get(self.policy)

    def config(self, config: Config) -> Config:
        """The experiment with this policy."""
        settings = {"cooperation": {"policy": "never"}, **self.settings}  # oracle and agents bring their own
        return config.variant(**settings)


def contender(policy: str) -> Contender:
    """A policy as the config has it."""
    if policy in LOCAL:
        return Contender(policy, None, {"precoding": LOCAL[policy]})
    if policy in REFERENCES or policy == "oracle":
        return Contender(policy)
    return Contender(policy, None, {"cooperation": {"policy": "forecast" if policy in TOLD else policy}})


def default_policies(config: Config) -> list[str]:
    """All that can be compared without training."""
    different, known = _told_differently(config), {*TOLD, *LEARNERS}
    names = [name for name in NAMES if name not in known or name in different]
    for name, check in _CHECKS.items():
        try:
            check(config)
        except ConfigError:
            names = [other for other in names if other != name]
    return names


def rivals_of_agents(config: Config) -> dict[str, Contender]:
    """Beside whom agents that learn are judged: no links, links by chance, the forecast, and that told all defects.

    Where a forecast chooses who serves a UE, also the forecast of links if all APs serve that could.
    """
    told = config.precoding.joint == "selective" and "informed" in _told_differently(config)
    rivals = {
        name: contender(name) for name in ("never", "random", *["forecast"] * config.forecasts, *["informed"] * told)
    }
    if config.selects_serving:
        rivals["fixed-sets"] = Contender(
            "forecast", None, {"cooperation": {"policy": "forecast", "serving": "strongest"}}
        )
    return rivals


def _told_differently(config: Config) -> list[str]:
    """Of the forecasts that are told defects, those that differ here: from the blind one, and from each other."""
    there = np.flatnonzero(defect_levels(config).any(axis=0))
    of_told: dict[tuple[int, ...], str] = {(): "forecast"}
    for name in ("informed", "ages", "phases-and-ages"):
        of_told.setdefault(tuple(kind for kind in TOLD[name] if kind in there), name)
    return [name for name in TOLD if name in of_told.values()]


def check_policies(policies: Sequence[str], config: Config) -> None:
    """Refuse a policy that cannot be compared.

    Raises:
        ConfigError: naming it.
    """
    unknown = [name for name in policies if name not in NAMES and full_name(name) is None]
    if unknown:
        guess = did_you_mean(unknown[0], NAMES)
        known = f"{', '.join(NAMES)}, or a class of your own as module:Class"
        raise ConfigError(f"cannot compare {', '.join(map(repr, unknown))}; there are {known}{guess}")
    for name in {*policies} & {*_CHECKS}:
        _CHECKS[name](config)
    for name in policies:
        try:
            check_own_code(contender(name).config(config))
        except ValidationError as error:
            raise ConfigError(f"cannot compare {name!r} here: {sentences(error)}") from None


def _check_told(config: Config) -> None:
    if config.precoding.joint != "selective":
        raise ConfigError('a forecast knows what defects do to precoding.joint = "selective" only')


_CHECKS: dict[str, Callable[[Config], None]] = {"oracle": check_oracle, **dict.fromkeys(TOLD, _check_told)}


def counted(policies: Iterable[str], config: Config) -> list[str]:
    """Those of the policies that form as many links as they do."""
    tunable = tunable_policies(config)
    return [name for name in policies if name not in tunable and (name in _COUNTED or name not in NAMES)]


def tunable_policies(config: Config) -> tuple[str, ...]:
    """Policies that reach any number of links."""
    return (*_TUNABLE, "ddqn") if config.learning.values == "neighbours" else _TUNABLE


def contenders(
    configs: Sequence[Config], policies: Iterable[str], links: Iterable[int], agents: Weights | None = None
) -> Iterator[Contender]:
    """Every policy, those that can be tuned once for each number of links.

    Args:
        configs: an experiment per layout.
        policies: of NAMES.
        links: numbers to tune to, on average over the layouts; those out of reach are left out.
        agents: for policies that learn, what the APs' agents have learned.
    """
    tunable = tunable_policies(configs[0])
    worlds = [_World.of(config) for config in configs] if {*policies} & {*tunable} else []
    for policy in policies:
        if policy not in tunable:
            yield contender(policy)
        else:
            if policy == "random":
                yield contender(policy)  # as often as the config says
            for aim, settings in _tuned(policy, links, worlds, configs[0], agents):
                yield Contender(policy, aim, {"cooperation": settings})


@dataclass(frozen=True)
class _World:
    """A layout, as far as policies can be tuned to it."""

    config: Config
    links: list[Link]  # that can form
    associations: list[Association]  # what each AP is told
    outlooks: list[Outlook]  # of each AP; while they are kept, all rules think with the same draws

    @classmethod
    def of(cls, config: Config) -> _World:
        episode = config.run.episodes - 1
        layout, forecasting = make_layout(config, episode), contender("forecast").config(config)
        told, known = associations(forecasting, layout, episode), config_for_aps(config)
        outlooks = [Outlook(known, ap, of_ap) for ap, of_ap in enumerate(told)]
        return cls(config, candidate_links(config, layout), told, outlooks)

    @cached_property
    def change(self) -> list[FloatArray]:
        """Of every AP (R,) how fast it sees channels change in the first slot on the layout."""
        run, layout = self.config.run, make_layout(self.config, self.config.run.episodes - 1)
        slot = self.config.num_slots - run.slots_per_episode
        heard = received_pilots(self.config, layout, channels(self.config, layout, slot), slot)
        return [
            sensed_change(heard[:, ap], told.beta, told.pilots, self.config.radio)
            for ap, told in enumerate(self.associations)
        ]

    def at_ends(self, of_neighbours: Callable[[Config, int, Association], FloatArray]) -> FloatArray:
        """(links, 2) what an AP thinks of a neighbour, at both ends of every link that can form.

        In directed clusters only one end thinks; the other agrees.

        Args:
            of_neighbours: gives (N,) of an AP, from its config, its number and what it has been told.
        """
        known = config_for_aps(self.config)
        thought = [
            dict(zip(told.neighbours, of_neighbours(known, ap, told).tolist(), strict=True))
            for ap, told in enumerate(self.associations)
        ]
        directed = self.config.cooperation.cluster == "directed"
        ends = [(thought[m][n], np.inf if directed else thought[n][m]) for m, n in self.links]
        return np.array(ends, float).reshape(-1, 2)


def _tuned(
    policy: str, links: Iterable[int], worlds: Sequence[_World], config: Config, agents: Weights | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers of links within reach, and the settings that give so many on average; or fewer, if no more are worth it.

    A price below 0 would force links upon APs that expect harm of them: both ends, where they forecast the same.
    """
    most = sum(len(world.links) for world in worlds) / max(len(worlds), 1)
    aims = [aim for aim in links if aim <= most]
    match policy:
        case "oracle":  # its links are chosen on each layout
            yield from ((aim, {}) for aim in aims)
            return
        case "random":
            for aim in aims:
                yield aim, {"policy": policy, "request_rate": _request_rate(aim / most, config.cooperation)}
            return
        case "threshold":
            key = "request_share"
            thoughts = [world.at_ends(lambda _config, _ap, told: shares(told.interference)) for world in worlds]
        case "forecast":
            key = "link_price"
            thoughts = [world.at_ends(link_gains) for world in worlds]
        case name if name in TOLD:
            policy, key = "forecast", "link_price"
            thoughts = [world.at_ends(_told(name, world.config)) for world in worlds]
        case name if name in FINDING_OUT:
            assert agents is not None
            key = "link_price"
            thoughts = [world.at_ends(partial(_gains_found_out, agents, world.change)) for world in worlds]
        case _:
            assert agents is not None
            key = "link_price"
            thoughts = [world.at_ends(partial(_advantages, agents)) for world in worlds]
    worth = np.sort(np.concatenate([ends.min(axis=1) for ends in thoughts]))[::-1]
    least = 0.0 if config.precoding.joint == "selective" else -np.inf
    for aim in aims:
        last = min(aim * len(worlds), len(worth) - 1)
        yield aim, {"policy": policy, key: max(float(worth[last - 1 : last + 1].mean()), least)}


def _request_rate(part: float, cooperation: Cooperation) -> float:
    """How often to ask for a part of the links that can form."""
    return part if cooperation.acceptance == "all" else math.sqrt(part)


def told_requests(rule: str, config: Config, layout: Layout) -> list[int]:
    """The action of every AP if all were told what a rule of TOLD is: a bit mask over its neighbours, as `requests`."""
    price, actions, known, gains_of = config.cooperation.link_price, [], config_for_aps(config), _told(rule, config)
    for ap, told in enumerate(associations(config, layout, 0)):
        gains = gains_of(known, ap, told)
        actions.append(int((gains > price) @ 2 ** np.arange(len(gains))))
    return actions


def told_levels(rule: str, config: Config) -> FloatArray:
    """(M, 3) defects of all APs, of those kinds that a rule of TOLD is told; 0 elsewhere."""
    levels, kinds = np.zeros((config.radio.num_aps, len(LEVELS))), list(TOLD[rule])
    levels[:, kinds] = defect_levels(config)[:, kinds]
    return levels


def _told(rule: str, config: Config) -> Callable[[Config, int, Association], FloatArray]:
    """(N,) what an AP expects of links on the last layout, if it is told what a rule is."""
    levels = told_levels(rule, config)
    change = late_change(config, config.run.episodes - 1)

    def gains(known: Config, ap: int, told: Association) -> FloatArray:
        around = np.union1d(told.reach, told.around).astype(int)
        return link_gains(known, ap, told, levels[[ap, *told.neighbours]], change[around])

    return gains


def _gains_found_out(
    agents: Weights, change: Sequence[FloatArray], config: Config, ap: int, told: Association
) -> FloatArray:
    """(N,) what an AP's agent thinks that each link is worth when all have told of themselves."""
    policies = {peer: finding_out(peer, config, agents[peer % len(agents)]) for peer in (ap, *told.neighbours)}
    policies[ap].hear({peer: of_peer for peer, policy in policies.items() if len(of_peer := policy.tells(0))})
    return policies[ap].gains(change[ap], told)


def _advantages(agents: Weights, config: Config, ap: int, told: Association) -> FloatArray:
    """(N,) what an AP's agent thinks that each link is worth to it."""
    from apnode.agent.ddqn import NeighbourDqn

    network = NeighbourDqn(config, seed=0)
    network.load(agents[ap % len(agents)])
    return network.advantages(traits_of(describe(config, told, link_gains(config, ap, told)), len(told.neighbours)))
