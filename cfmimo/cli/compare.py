"""The command `compare`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from cfmimo.cli.arguments import (
    add_command,
    add_experiment,
    add_json,
    add_policy,
    count,
    counts,
    default_out,
    print_json,
)
from cfmimo.presets import load


def add_compare(commands: Any) -> None:
    """Add the command `compare`."""
    comparison = add_command(
        commands,
        "compare",
        compare_command,
        "compare policies on the same layouts and fading, at equal numbers of links",
    )
    add_experiment(comparison)
    comparison.add_argument(
        "--policies",
        metavar="A,B,...",
        help="policies of APs: never, random, threshold, master (links of each user's strongest AP), forecast (links "
        "that promise a gain), forecasts that are told of all APs how late their estimates are and how fast users move "
        "(ages), phase errors as well (phases-and-ages), all defects (informed), oracle (greedy, knows every channel), "
        "always; ddqn, belief, ratio or factor (agents of --policy, or of the config, trained first); no links: mrt, "
        "local-rzf, local-mmse; a central processor: centralised (the paper's RZF), p-mmse, full-mmse (default: all "
        "but agents, and of those told defects those that differ; with --policy, its agents as well)",
    )
    add_policy(comparison, "they are a contender; in a network of their size they keep their places")
    comparison.add_argument(
        "--layouts",
        type=count,
        default=20,
        help="number of layouts; each has new users and, without agents (these keep places), new APs (default: 20)",
    )
    comparison.add_argument("--slots", type=count, default=5, help="slots measured on each layout (default: 5)")
    comparison.add_argument(
        "--links",
        type=counts,
        default=[20, 50, 100, 150, 194],
        metavar="N,N,...",
        help="numbers of links formed (directed clusters: requests) to which random, threshold, forecasts, oracle and "
        "agents that forecast are tuned; forecasts and oracle form fewer where no more promise a gain (default: "
        "20,50,100,150,194; unreachable numbers are left out)",
    )
    comparison.add_argument("--out", help="folder for the results, new or empty")
    comparison.add_argument("--quiet", action="store_true", help="no progress bar")
    add_json(comparison)


def compare_command(options: argparse.Namespace) -> int:
    """Compare policies; returns the exit status."""
    from cfmimo.cli.console import Console
    from cfmimo.experiments.compare import written_comparison

    config = load(options.experiment, options.set, options.seed)
    console = Console(None, quiet=options.quiet or options.json)
    result = written_comparison(
        config,
        options.policies.split(",") if options.policies else None,
        options.layouts,
        options.links,
        options.slots,
        options.policy,
        options.out or default_out(f"compare-{options.experiment}", config),
        console,
        ["cfmimo", *sys.argv[1:]],
    )
    (print_json if options.json else console.comparison_table)(result)
    return 0
