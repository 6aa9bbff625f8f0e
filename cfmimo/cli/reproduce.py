"""The command `reproduce`."""

from __future__ import annotations

import argparse
from typing import Any

from cfmimo.cli.arguments import add_command, add_json, print_json, seed


def add_reproduce(commands: Any) -> None:
    """Add the command `reproduce`."""
    reproduction = add_command(
        commands,
        "reproduce",
        reproduce_command,
        "reproduce the seed paper's figures 3 to 7, with a table of its numbers and ours",
    )
    reproduction.add_argument("--quick", action="store_true", help="small version: one short training per reading")
    reproduction.add_argument("--seed", type=seed, default=0, help="seed of the first training (default: 0)")
    reproduction.add_argument("--out", help="folder for the results; finished parts in it are reused")
    reproduction.add_argument("--quiet", action="store_true", help="no progress bar")
    add_json(reproduction)


def reproduce_command(options: argparse.Namespace) -> int:
    """Reproduce the seed paper's figures; returns the exit status."""
    from cfmimo.cli.console import Console
    from cfmimo.experiments.reproduce import FULL, QUICK, expected_minutes, figures_of, reproduce
    from cfmimo.records.rundir import started_folder
    from cfmimo.report.pages import write_reproduction
    from cfmimo.workers import processors

    plan, workers = QUICK if options.quick else FULL, processors()
    path = started_folder(options.out or f"runs/reproduce{'-quick' * options.quick}-seed{options.seed}", "parts")
    console = Console(None, quiet=options.quiet or options.json)
    with console:
        minutes = expected_minutes(plan, path / "parts", workers)
        console.say(f"about {minutes:.0f} minutes on {workers} processors; if interrupted, the same command goes on")
        progress = console.stage("training and evaluating: slots")
        rows, parts = reproduce(plan, options.seed, path / "parts", workers, progress)
    how = f"cfmimo reproduce{' --quick' * options.quick} --seed {options.seed}: {plan}"
    write_reproduction(path, rows, figures_of(parts), how)
    result = {"run_dir": str(path), "rows": rows}
    (print_json if options.json else console.reproduction_table)(result)
    return 0
