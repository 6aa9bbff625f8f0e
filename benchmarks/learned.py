"""What agents have learned is worth, over several networks: each with places and defects of APs of its own.

In each network agents learn for some slots, in one process. Then they, and those who learn nothing, are measured on the
same layouts, which no agent has seen, with at most so many links. Differences are between means over a network's
layouts; their 95 % intervals (Student's t) are over networks. With `cooperation.serving=forecast` the blind forecast is
also measured with all APs serving each user ("fixed sets"). A network takes minutes. Examples:
python -m benchmarks.learned hidden --set cooperation.serving=forecast --networks 4 --layouts 10 --links 50 100
python -m benchmarks.learned hidden --trial liars       # a tenth of the defective APs play innocent
python -m benchmarks.learned hidden --trial permuted    # after the training each AP has the defects of another
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import TextIO

import numpy as np

from apnode.agent.beliefs import Belief
from apnode.config import Config
from apnode.protocol.node import ap_address
from apnode.runtime.injector import INNOCENT, Fault
from cfmimo.experiments.agents import train
from cfmimo.experiments.compare import measured
from cfmimo.experiments.sweep import interval
from cfmimo.presets import load
from cfmimo.records.agents_file import Weights
from cfmimo.runtime.fault_plan import Faults
from cfmimo.runtime.local import LocalNetwork
from cfmimo.workers import processors
from channel_server.impairments import defect_levels

FIXED = "forecast, fixed sets"
Row = tuple[str, int | None]  # a policy, and how many links it was allowed
Means = dict[str, dict[Row, float]]  # over a network's layouts: sum rate and 5 % SINR


def training(options: argparse.Namespace, seed: int) -> Config:
    """The run in which agents learn."""
    config = load(options.preset, [*options.set, "learning.evaluate_every_episodes=0"], seed)
    return config.variant(run={"episodes": -(-options.slots // config.run.slots_per_episode)})


def elsewhere(config: Config) -> Config:
    """The same APs among other users."""
    return config.variant(seed=1000 * (config.seed + 1), radio={"ap_seed": config.seed})


def network(options: argparse.Namespace, seed: int) -> Means:
    """Let the agents of one network learn, and measure them and the others."""
    config = training(options, seed)
    agents, there = train(config)[1], elsewhere(config)
    policies = ["never", "forecast", config.cooperation.policy, *options.told]
    means: Means = {"sum_rate": {}, "sinr_p5": {}}

    def measure(config: Config, policies: list[str], names: dict[str, str]) -> None:
        found = measured(config, policies, options.layouts, options.links, 3, agents, workers=options.workers)
        for contender, result in found:
            for name, values in means.items():
                row = names.get(contender.policy, contender.policy), contender.aimed_at
                values[row] = float(result[name].mean())

    if config.selects_serving:
        fixed = there.variant(cooperation={"serving": "strongest", "policy": "forecast"})
        measure(fixed, ["never", "forecast"], {"never": "never, fixed sets", "forecast": FIXED})
    measure(there, policies, {})
    return means


# --- bad days ---------------------------------------------------------------------------------------------


def liars(options: argparse.Namespace, seed: int) -> list[tuple[str, float]]:
    """What it costs in the second half of the training if a tenth of the defective APs play innocent, and of all."""
    config = training(options, seed)
    defective = np.flatnonzero(defect_levels(config).any(axis=1))
    rng, rates = np.random.default_rng(seed), {}
    for share in (0.0, 0.1, 1.0):
        lying = rng.choice(defective, round(share * len(defective)), replace=False).tolist()
        faults = [Fault(0, ap_address(ap), "lie", config.num_slots, kind=INNOCENT) for ap in lying]
        run = LocalNetwork(config, faults=Faults(tuple(faults), seed=seed))
        run.run()
        sinr = run.coordinator.record.sinr[config.num_slots // 2 :]
        rates[share] = float(np.log2(1 + sinr).sum(axis=-1).mean())
    return [(f"{share:.0%} of them lie", rate - rates[0.0]) for share, rate in rates.items() if share]


def permuted(options: argparse.Namespace, seed: int) -> list[tuple[str, float]]:
    """How far agents are above the blind forecast before and after each AP gets the beliefs of another."""
    config = training(options, seed)
    run = LocalNetwork(config)
    run.run()
    beliefs = [ap.policy for ap in run.aps if isinstance(ap.policy, Belief)]
    order = np.random.default_rng(seed).permutation(len(beliefs))
    found = [("at first", advantage(options, config, beliefs))]
    beliefs = [mistaken(ap, config, beliefs[other]) for ap, other in enumerate(order)]
    found.append(("after 0 slots", advantage(options, config, beliefs)))
    done, per_episode = config.run.episodes, config.run.slots_per_episode
    for slots in (60, 200):
        more = -(-slots // per_episode)
        longer = config.variant(run={"episodes": config.run.episodes + more})
        run = LocalNetwork(longer, policy_of=lambda ap, _: beliefs[ap], first_slot=done * per_episode)
        run.run()
        done = longer.run.episodes
        found.append((f"after {slots} slots", advantage(options, config, beliefs)))
    return found


def mistaken(ap: int, config: Config, other: Belief) -> Belief:
    """An agent that believes of itself what another believes of itself."""
    agent, known = Belief(ap, config), other.state()
    agent.restore({**agent.state(), **{name: known[name] for name in ("own", "weights", "late")}})
    return agent


def advantage(options: argparse.Namespace, config: Config, policies: Sequence[Belief]) -> float:
    """Sum rate over that of the blind forecast with as few links, on layouts that nobody has seen [bit/s/Hz]."""
    agents: Weights = [[policy.learned] for policy in policies]
    links = options.links[:1]
    found = measured(
        elsewhere(config), ["forecast", "belief"], options.layouts, links, 3, agents, workers=options.workers
    )
    rate = {(entrant.policy, entrant.aimed_at): result["sum_rate"].mean() for entrant, result in found}
    return float(rate["belief", links[0]] - rate["forecast", links[0]])


TRIALS = {"liars": liars, "permuted": permuted}


def spread(values: list[float]) -> str:
    """A mean and its 95 % interval."""
    found = interval(np.array(values))
    mean, high = found["mean"], found["high"]
    return f"{mean:+.1f}" if high is None else f"{mean:+.1f} ± {high - mean:.1f}"


def main() -> None:
    """Learn, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--slots", type=int, default=200, help="of learning")
    parser.add_argument("--networks", type=int, default=4)
    parser.add_argument("--layouts", type=int, default=10)
    parser.add_argument("--links", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--told", nargs="*", default=["informed"], help="forecasts that are told defects")
    parser.add_argument("--trial", choices=TRIALS)
    parser.add_argument("--workers", type=int, default=processors())
    options = parser.parse_args()
    if options.trial:
        trials = [TRIALS[options.trial](options, seed) for seed in range(1, options.networks + 1)]
        for results in zip(*trials, strict=True):
            print(f"{results[0][0]:22}{spread([value for _, value in results]):>16}")
        return
    of_all: dict[str, dict[Row, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(1, options.networks + 1):
        began = time.monotonic()
        for name, rows in network(options, seed).items():
            for row, mean in rows.items():
                of_all[name][row].append(mean)
        print(f"network {seed} of {options.networks}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        show(of_all["sum_rate"], of_all["sinr_p5"], sys.stdout if seed == options.networks else sys.stderr)


def show(rates: dict[Row, list[float]], tails: dict[Row, list[float]], file: TextIO) -> None:
    """A line for every policy and number of links."""
    blind = FIXED if any(policy == FIXED for policy, _ in rates) else "forecast"
    print(
        f"{'policy':22}{'links':>6}{'bit/s/Hz':>10}{'over ' + blind:>28}{'over never':>16}{'5 % SINR, dB':>16}",
        file=file,
    )
    for (policy, links), found in rates.items():
        beside, never = rates.get((blind, links)), rates["never", None]
        over = spread([a - b for a, b in zip(found, beside, strict=True)]) if beside else ""
        tail = [a - b for a, b in zip(tails[policy, links], tails[blind, links], strict=True)] if beside else []
        print(
            f"{policy:22}{links or '':>6}{np.mean(found):10.1f}{over:>28}"
            f"{spread([a - b for a, b in zip(found, never, strict=True)]):>16}{spread(tail) if tail else '':>16}",
            file=file,
        )


if __name__ == "__main__":
    main()
