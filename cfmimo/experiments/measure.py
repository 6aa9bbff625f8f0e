"""What contenders reach on one layout, and what it costs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from apnode.agent.policies import Given, Policy, make_policy
from apnode.config import Config
from apnode.config.cooperation import LEARNERS
from apnode.protocol.messages import ComplexArray, FloatArray
from cfmimo.experiments.agents import trained
from cfmimo.experiments.central import REFERENCES, Sample, fronthaul_scalars, reference, sample
from cfmimo.experiments.contenders import TOLD, Contender, told_levels, told_requests
from cfmimo.experiments.oracle import greedy_links, requests
from cfmimo.records.agents_file import Weights
from cfmimo.runtime.local import LocalNetwork
from cfmimo.workers import advance
from channel_server.sinr import hardening_sinr, spectral_efficiency
from channel_server.topology import Layout, make_layout
from coordinator import tables
from coordinator.record import Record

Measured = dict[str, float]
_COUNTED = ("requests", "formed", "pairs", "messages", "bytes", "largest_cluster", "clusters_refused")


@dataclass(frozen=True)
class Drop:
    """One layout, that of the last episode, and the slots on it that count."""

    config: Config
    warm_up: int  # slots before those that count

    @property
    def first_slot(self) -> int:
        return self.config.num_slots - self.config.run.slots_per_episode

    @property
    def counted(self) -> range:
        return range(self.first_slot + self.warm_up, self.config.num_slots)


def measure(drop: Drop, contenders: Sequence[Contender], agents: Weights | None) -> list[Measured]:
    """Every contender on one layout."""
    config = drop.config
    layout = make_layout(config, config.run.episodes - 1)
    observed = sample(config, layout, drop.counted)
    aims = [c.aimed_at or 0 for c in contenders if c.policy == "oracle"]
    links = greedy_links(config, layout, observed.h, observed.h_hat_in_reach, max(aims)) if aims else []
    measured = []
    for contender in contenders:
        advance(config.run.slots_per_episode)
        if contender.policy in REFERENCES:
            measured.append(_measured_reference(config, observed, contender.policy))
            continue
        policy_of: Callable[[int, Config], Policy] = make_policy
        if contender.policy == "oracle":
            policy_of = _given(requests(links[: contender.aimed_at], config, layout))
        elif contender.policy in TOLD:
            actions = told_requests(contender.policy, contender.config(config), layout)
            policy_of = _given(actions, told_levels(contender.policy, config))
        elif contender.policy in LEARNERS:
            assert agents is not None
            policy_of = trained(agents)
        measured.append(_measured_run(replace(drop, config=contender.config(config)), layout, policy_of))
    return measured


def _given(actions: Sequence[int], levels: FloatArray | None = None) -> Callable[[int, Config], Policy]:
    return lambda ap, _: Given(ap, actions[ap], levels)


def _measured_run(drop: Drop, layout: Layout, policy_of: Callable[[int, Config], Policy]) -> Measured:
    network = LocalNetwork(drop.config, policy_of=policy_of, first_slot=drop.first_slot)
    network.run()
    record, index = network.coordinator.record, np.array(drop.counted)
    table = {name: float(column.mean()) for name, column in tables.slots(record, index).items()}
    return {
        **_figures(record.sinr[index], record.gain[index]),
        **{unit: table[unit] for unit in _COUNTED},
        "scalars": fronthaul_scalars(drop.config, layout, _links(record, drop.counted)),
        "peak_w": float(record.power[index, :, 1].max()),
    }


def _links(record: Record, counted: range) -> FloatArray:
    """(M, M) in what part of the slots AP m precoded with the channels of AP n."""
    table, num_aps = tables.links(record), record.reported.shape[1]
    linked = table["linked"] & (table["slot"] >= counted.start)
    times = np.zeros((num_aps, num_aps))
    np.add.at(times, (table["ap"][linked], table["neighbour"][linked]), 1)
    return times / len(counted)


def _measured_reference(config: Config, observed: Sample, name: str) -> Measured:
    nothing = dict.fromkeys(_COUNTED, np.nan)
    ratio, gain, peak = reference(name, config, observed)
    radio = config.radio
    scalars = radio.num_aps * radio.antennas * radio.coherence_symbols  # all that antennas hear and send
    return {**_figures(ratio, gain), **nothing, "scalars": float(scalars), "peak_w": peak}


def _figures(ratio: FloatArray, gain: ComplexArray) -> Measured:
    """Of SINRs and effective gains (..., K) of one layout."""
    ratio, gain = ratio.reshape(-1, ratio.shape[-1]), gain.reshape(-1, gain.shape[-1])
    level, of_ue = tables.decibels(ratio), spectral_efficiency(ratio).mean(axis=0)  # (N, K), (K,)
    bound = hardening_sinr(gain, ratio)
    return {
        "sum_rate": float(of_ue.sum()),
        "hardening": float(spectral_efficiency(bound).sum()),
        "sinr_mean": float(level.mean()),
        "sinr_p5": float(np.percentile(level, 5)),
        "sinr_p5_hardening": float(np.percentile(tables.decibels(bound), 5)),
        "jain": float(of_ue.sum() ** 2 / (len(of_ue) * (of_ue**2).sum())),
    }
