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
from cfmimo.errors import ConfigError
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
    from apnode.config.cooperation import LEARNERS
    from cfmimo.cli.console import Console
    from cfmimo.experiments.agents import learner_of, load_agents, where_they_learned
    from cfmimo.experiments.compare import compare, layouts_of, notes_of
    from cfmimo.experiments.contenders import check_policies, default_policies
    from cfmimo.experiments.training import train
    from cfmimo.experiments.workers import processors
    from cfmimo.records.rundir import RunDir, new_folder
    from cfmimo.report.pages import write_comparison

    config = load(options.experiment, options.set, options.seed)
    console = Console(None, quiet=options.quiet or options.json)
    policies = options.policies.split(",") if options.policies else default_policies(config)
    learner = learner_of(options.policy) if options.policy else None
    if learner and not options.policies:
        policies.append(learner)
    check_policies(policies, config)
    if learner and learner not in policies:
        raise ConfigError(f"--policy names agents for policy {learner}, which --policies leaves out; add it there")
    learning = [name for name in policies if name in LEARNERS]
    if len(learning) > 1:
        raise ConfigError(f"cannot compare agents of {len(learning)} kinds at once: choose {' or '.join(learning)}")
    if learning:
        config = config.variant(cooperation={"policy": learning[0]})
    layouts = layouts_of(config, options.layouts)
    agents = load_agents(options.policy, config) if options.policy else None
    if agents is not None:
        config = where_they_learned(config, agents, layouts)
    path = new_folder(options.out or default_out(f"compare-{options.experiment}", config))
    with console:
        weights = None if agents is None else agents.weights
        if learning and weights is None:
            weights = train(config, console.stage("training: slots"))[1]
        rows = compare(
            config,
            policies,
            layouts,
            options.links,
            options.slots,
            weights,
            console.stage("comparing: slots"),
            processors(),
        )
    notes = notes_of(config, rows, options.layouts)
    told = None if agents is None else agents.told(options.policy)
    write_comparison(RunDir.create(path, config, ["cfmimo", *sys.argv[1:]], "local", told).path, rows, notes)
    result = {"run_dir": str(path), "layouts": layouts, "rows": rows, "notes": notes}
    (print_json if options.json else console.comparison_table)(result)
    return 0
