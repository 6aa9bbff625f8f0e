"""What each choice in how agents learn brings: gap closed on layouts they never saw, at equal numbers of links.

Gap closed is (agents - random) / (greedy oracle - random) in sum rate. The forecast is what the agents begin with, so
its row says what learning adds. Every variant is trained anew: minutes each. Example:
python -m benchmarks.ablation --preset selective --links 50 100 --episodes 30
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import time
from typing import Any

from cfmimo.experiments.agents import train
from cfmimo.experiments.compare import compare
from cfmimo.presets import load
from cfmimo.workers import processors

VARIANTS: dict[str, tuple[str, ...]] = {
    "the preset": (),
    "each for itself": ("learning.share=false",),
    "gamma 0.95": ("learning.discount=0.95",),
    "hidden 128, 64, 32": ("learning.hidden=[128,64,32]",),
    "dropout 0.1": ("learning.dropout=0.1",),
    "learning rate 1e-3": ("learning.learning_rate=1e-3",),
    "much exploration": ("learning.epsilon_start=0.8", "learning.epsilon_end=0.3"),
    "a wrong residual": ("cooperation.residual_db=0",),
}


def main() -> None:
    """Train, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="selective")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS], metavar="VARIANT")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--links", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--layouts", type=int, default=8)
    parser.add_argument("--slots", type=int, default=2)
    options = parser.parse_args()
    shown = [f"gap at {links}" for links in options.links]
    print(f"{'variant':20} {'policy':10} {'training':>9} " + " ".join(f"{title:>22}" for title in shown))
    for name in options.variants:
        overrides = (f"run.episodes={options.episodes}", *VARIANTS[name])
        config = load(options.preset, overrides)
        began = time.monotonic()
        agents = train(config)[1]
        seconds = time.monotonic() - began
        rows = compare(
            config,
            ["random", "forecast", "oracle", "ddqn"],
            options.layouts,
            options.links,
            options.slots,
            agents,
            workers=processors(),
        )
        for policy in ("forecast", "ddqn"):
            show(name, policy, seconds, [row for row in rows if row["policy"] == policy])


def show(name: str, policy: str, seconds: float, rows: list[dict[str, Any]]) -> None:
    """A line of the table: mean and 95 % interval at each number of links."""
    cells = [
        f"{row['gap_closed']['mean']:6.2f} ({row['gap_closed']['low']:5.2f}, {row['gap_closed']['high']:5.2f})"
        for row in sorted(rows, key=lambda row: row["aimed_at"])
    ]
    print(f"{name:20} {policy:10} {seconds:7.0f} s " + " ".join(f"{cell:>22}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
