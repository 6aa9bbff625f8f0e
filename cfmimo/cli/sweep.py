"""The command `sweep`."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from cfmimo.cli.arguments import add_command, add_experiment, add_json, count, default_out, print_json


def add_sweep(commands: Any) -> None:
    """Add the command `sweep`."""
    swept = add_command(
        commands,
        "sweep",
        sweep_command,
        "run an experiment with every combination of some settings, and several seeds; one table and one figure of all",
    )
    add_experiment(swept)
    swept.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        required=True,
        metavar="SECTION.KEY=A,B,...",
        help="settings and their values; the figure has the last one along its axis",
    )
    swept.add_argument("--seeds", type=count, default=3, help="runs at each point, from --seed on (default: 3)")
    swept.add_argument("--workers", type=count, help="processes that share the runs (default: one per processor)")
    swept.add_argument("--out", help="folder for runs and results; runs that are in it already are not run again")
    swept.add_argument("--quiet", action="store_true", help="no progress bar")
    add_json(swept)


def sweep_command(options: argparse.Namespace) -> int:
    """Run an experiment at every point of a grid; returns the exit status."""
    from cfmimo.cli.console import Console
    from cfmimo.experiments.sweep import RUNS, configs_of, grid_of, sweep
    from cfmimo.presets import load
    from cfmimo.records.own_code import check_own_code
    from cfmimo.records.rundir import started_folder
    from cfmimo.report.pages import write_sweep
    from cfmimo.workers import processors

    first = load(options.experiment, options.set, options.seed)
    grid = grid_of(options.grid)
    configs = configs_of(options.experiment, options.set, grid, range(first.seed, first.seed + options.seeds))
    for config in configs[:: options.seeds]:
        check_own_code(config)
    path = started_folder(options.out or default_out(f"sweep-{options.experiment}", first), RUNS)
    workers, command = options.workers or processors(), ["cfmimo", *sys.argv[1:]]
    console = Console(None, quiet=options.quiet or options.json)
    with console:
        console.say(f"{len(configs)} runs of {first.num_slots} slots; to go on after an interruption, add --out {path}")
        rows = sweep(configs, grid, path, workers, command, console.stage("running: slots"))
    write_sweep(path, rows, list(grid[0]), shlex.join(command))
    result = {"run_dir": str(path), "axes": list(grid[0]), "rows": rows}
    (print_json if options.json else console.sweep_table)(result)
    return 0
