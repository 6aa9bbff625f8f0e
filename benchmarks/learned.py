"""What agents have learned is worth, over several networks: each with places and defects of APs of its own.

In each network agents learn for some slots, in one process. Then they, and those who learn nothing, are measured on the
same layouts, which no agent has seen, with at most so many links. Differences are between means over a network's
layouts; their 95 % intervals (Student's t) are over networks. With `cooperation.serving=forecast` the blind forecast is
also measured with all APs serving each user ("fixed sets"). A network takes minutes. Example:
python -m benchmarks.learned hidden --set cooperation.serving=forecast --networks 4 --layouts 10 --links 50 100
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import time
from collections import defaultdict

import numpy as np

from apnode.config import Config
from cfmimo.experiments.compare import measured
from cfmimo.experiments.training import train
from cfmimo.experiments.workers import processors
from cfmimo.presets import load

# 97.5 % quantiles of Student's t, by degrees of freedom from 1
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
FIXED = "forecast, fixed sets"
Row = tuple[str, int | None]  # a policy, and how many links it was allowed
Means = dict[str, dict[Row, float]]  # over a network's layouts: sum rate and 5 % SINR


def network(options: argparse.Namespace, seed: int) -> Means:
    """Let the agents of one network learn, and measure them and the others."""
    config = load(options.preset, [*options.set, "learning.evaluate_every_episodes=0"], seed)
    episodes = -(-options.slots // config.run.slots_per_episode)
    agents = train(config.variant(run={"episodes": episodes}))[1]
    there = config.variant(seed=1000 * (seed + 1), radio={"ap_seed": config.seed})  # other users, the same APs
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


def spread(values: list[float]) -> str:
    """A mean and its 95 % interval."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return f"{mean:+.1f}"
    half = _STUDENT[count - 2] * np.std(values, ddof=1) / np.sqrt(count)
    return f"{mean:+.1f} ± {half:.1f}"


def main() -> None:
    """Learn, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--slots", type=int, default=200, help="of learning")
    parser.add_argument("--networks", type=int, default=4, choices=range(1, len(_STUDENT) + 2))
    parser.add_argument("--layouts", type=int, default=10)
    parser.add_argument("--links", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--told", nargs="*", default=["informed"], help="forecasts that are told defects")
    parser.add_argument("--workers", type=int, default=processors())
    options = parser.parse_args()
    of_all: dict[str, dict[Row, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(1, options.networks + 1):
        began = time.monotonic()
        for name, rows in network(options, seed).items():
            for row, mean in rows.items():
                of_all[name][row].append(mean)
        print(f"network {seed} of {options.networks}: {time.monotonic() - began:.0f} s", flush=True)
    show(of_all["sum_rate"], of_all["sinr_p5"])


def show(rates: dict[Row, list[float]], tails: dict[Row, list[float]]) -> None:
    """A line for every policy and number of links."""
    blind = FIXED if any(policy == FIXED for policy, _ in rates) else "forecast"
    print(f"{'policy':22}{'links':>6}{'bit/s/Hz':>10}{'over ' + blind:>28}{'over never':>16}{'5 % SINR, dB':>16}")
    for (policy, links), found in rates.items():
        beside, never = rates.get((blind, links)), rates["never", None]
        over = spread([a - b for a, b in zip(found, beside, strict=True)]) if beside else ""
        tail = [a - b for a, b in zip(tails[policy, links], tails[blind, links], strict=True)] if beside else []
        print(
            f"{policy:22}{links or '':>6}{np.mean(found):10.1f}{over:>28}"
            f"{spread([a - b for a, b in zip(found, never, strict=True)]):>16}{spread(tail) if tail else '':>16}"
        )


if __name__ == "__main__":
    main()
