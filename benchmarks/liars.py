"""What APs that report false channels cost the others, and whether they are found out.

A tenth of the APs, drawn by the seed, lie in every slot and do all else by the protocol: about their channels or, where
agents share what they learn, about that (`eager`: their networks would ask everybody). Rates are of the UEs that an
honest AP serves, as a share of what they have if the liars cooperate with nobody; precision and recall are of the APs
flagged after the last slot, recall among the liars whose channels an honest AP precoded with: where links are few, some
liars tell nobody anything. Example: python -m benchmarks.liars --preset selective --seeds 1
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from apnode.agent.policies import Ddqn, Fixed, Policy, make_policy
from apnode.config import Config
from apnode.protocol.messages import ChannelBlock, SlotFeedback
from apnode.protocol.node import ap_address
from apnode.radio.trust import Trust
from apnode.runtime.injector import EAGER, LIES, Fault
from cfmimo.presets import load
from cfmimo.runtime.fault_plan import Faults
from cfmimo.runtime.local import LocalNetwork
from channel_server.topology import make_layout
from coordinator.record import Record

SLOTS_PER_EPISODE = 20


class Credulous(Trust):
    """The network without defence: an AP that compares nothing, and so believes everybody."""

    def distrust(self, ap: int, slot: int) -> None:
        """Suspect nobody."""

    def compare(
        self, ues: object, blocks: Mapping[int, ChannelBlock], feedback: SlotFeedback, before_last: int
    ) -> None:
        """Learn nothing."""


@dataclass
class Counts:
    """APs over all seeds."""

    flagged: int = 0
    rightly: int = 0
    heard: int = 0  # liars whose channels an honest AP precoded with
    found: int = 0  # of those, flagged


def liars_of(config: Config) -> list[int]:
    """A tenth of the APs."""
    num_aps = config.radio.num_aps
    return sorted(np.random.default_rng(config.seed).choice(num_aps, num_aps // 10, replace=False).tolist())


def lying(config: Config, kind: str, defended: bool) -> Record:
    """The run in which they lie."""
    lies = (Fault(0, ap_address(ap), "lie", config.num_slots, kind=kind) for ap in liars_of(config))
    network = LocalNetwork(config, faults=Faults(tuple(lies), seed=config.seed))
    if not defended:
        for ap in network.aps:
            ap.trust = Credulous()
            if isinstance(ap.policy, Ddqn):
                ap.policy.reach = np.inf  # it takes in what it is told, as it is
    network.run()
    return network.coordinator.record


def absent(config: Config) -> Record:
    """The run in which they cooperate with nobody."""

    def policy_of(ap: int, known: Config) -> Policy:
        return Fixed(ask=False) if ap in liars_of(config) else make_policy(ap, known)

    network = LocalNetwork(config, policy_of=policy_of)
    network.run()
    return network.coordinator.record


def honest_rate(config: Config, record: Record) -> float:
    """Mean rate of the UEs that an honest AP serves [bit/s/Hz]."""
    rates = []
    for episode in range(config.run.episodes):
        serving = make_layout(config, episode).serving.copy()
        serving[liars_of(config)] = False
        sinr = record.sinr[episode * SLOTS_PER_EPISODE : (episode + 1) * SLOTS_PER_EPISODE]
        rates.append(np.log2(1 + sinr[..., serving.any(axis=0)]).mean())
    return float(np.mean(rates))


def heard(record: Record, liars: Collection[int]) -> set[int]:
    """Those of the liars whose channels an honest AP has precoded with."""
    slot, ap, position = np.nonzero(record.linked)
    partner = record.neighbours[slot, ap, position]
    return set(partner[~np.isin(ap, list(liars))].tolist()) & set(liars)


def count(counts: Counts, record: Record, liars: Collection[int]) -> None:
    """Add a run."""
    flagged, told = set(record.flagged(len(record.closed) - 1)), heard(record, liars)
    counts.flagged += len(flagged)
    counts.rightly += len(flagged & set(liars))
    counts.heard += len(told)
    counts.found += len(flagged & told)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--policy", default="random", help="a preset with mutual agreement takes any")
    parser.add_argument("--slots", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    overrides = (
        f"run.episodes={options.slots // SLOTS_PER_EPISODE}",
        f"run.slots_per_episode={SLOTS_PER_EPISODE}",
        f"cooperation.policy={options.policy}",
    )
    configs = [load(options.preset, overrides, seed) for seed in range(options.seeds)]
    num_aps = configs[0].radio.num_aps
    print(f"{options.preset}, policy {options.policy}, M = {num_aps}, {options.slots} slots, {options.seeds} seeds")
    print(f"{'':10}{'rate kept':>12}{'undefended':>12}{'precision':>12}{'recall':>9}{'liars heard':>14}")
    had = [honest_rate(config, absent(config)) for config in configs]
    shared = configs[0].learning.share and options.policy == "ddqn"
    for kind in (*LIES, *(EAGER,) * shared):
        counts, kept = Counts(), {True: 0.0, False: 0.0}
        for config, before in zip(configs, had, strict=True):
            for defended in kept:
                record = lying(config, kind, defended)
                kept[defended] += honest_rate(config, record) / before / len(configs)
                if defended:
                    count(counts, record, liars_of(config))
        precision = f"{counts.rightly / counts.flagged:.2f}" if counts.flagged else "-"
        recall = f"{counts.found / counts.heard:.2f}" if counts.heard else "-"
        of_all = f"{counts.heard} of {len(configs) * (num_aps // 10)}"
        print(f"{kind:10}{kept[True]:12.1%}{kept[False]:12.1%}{precision:>12}{recall:>9}{of_all:>14}", flush=True)


if __name__ == "__main__":
    main()
