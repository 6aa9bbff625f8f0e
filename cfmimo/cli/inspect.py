"""Commands that show runs and settings: `report`, `explain`, `snapshot`, `presets`, `config`, `schema`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from apnode.config import Config
from cfmimo.cli.arguments import add_command, add_experiment, add_json, print_json, slots
from cfmimo.presets import load, preset_names, summary, to_toml


def add_report(commands: Any) -> None:
    """Add the command `report`."""
    report = add_command(commands, "report", report_command, "draw figures and report.html of a run directory again")
    report.add_argument("run_dir", metavar="RUN_DIR")
    report.add_argument(
        "--slots", type=slots, metavar="N,N,...", help="slots to draw maps of (default: the first and the last)"
    )


def report_command(options: argparse.Namespace) -> int:
    """Draw a run again; returns the exit status."""
    from cfmimo.report.pages import write_report

    print(write_report(Path(options.run_dir), options.slots))
    return 0


def add_explain(commands: Any) -> None:
    """Add the command `explain`."""
    explained = add_command(
        commands,
        "explain",
        explain_command,
        "say why an AP asked whom it asked in a slot, and what came of it",
    )
    explained.add_argument("run_dir", metavar="RUN_DIR")
    explained.add_argument("--ap", type=int, required=True, help="number of the AP")
    explained.add_argument("--slot", type=int, required=True, help="number of the slot; the run is replayed up to it")
    add_json(explained)


def explain_command(options: argparse.Namespace) -> int:
    """Explain one decision; returns the exit status."""
    from cfmimo.cli.console import Console
    from cfmimo.experiments.explain import explain

    result = explain(options.run_dir, options.ap, options.slot)
    (print_json if options.json else Console(None, quiet=options.json).explanation)(result)
    return 0


def add_snapshot(commands: Any) -> None:
    """Add the command `snapshot`."""
    snapshot = add_command(
        commands, "snapshot", snapshot_command, "write all arrays of one slot, to check them elsewhere"
    )
    add_experiment(snapshot)
    snapshot.add_argument("--slot", type=int, default=0, help="number of the slot (default: 0)")
    snapshot.add_argument("--out", required=True, help="file to write (.npz)")
    add_json(snapshot)


def snapshot_command(options: argparse.Namespace) -> int:
    """Write the arrays of a slot; returns the exit status."""
    from cfmimo.experiments.snapshot import write_snapshot

    config = load(options.experiment, options.set, options.seed)
    arrays = write_snapshot(config, options.slot, Path(options.out))
    summary = {name: [str(array.dtype), list(array.shape)] for name, array in arrays.items()}
    if options.json:
        print_json({"file": options.out, "arrays": summary})
    else:
        print(f"slot {options.slot} of {options.experiment}, seed {config.seed} -> {options.out}")
        for name, (dtype, shape) in summary.items():
            print(f"  {name:15} {dtype:12} {tuple(shape)}")
    return 0


def add_listings(commands: Any) -> None:
    """Add the commands `presets`, `config` and `schema`."""
    add_json(add_command(commands, "presets", presets_command, "list the presets"))
    add_experiment(add_command(commands, "config", config_command, "print a complete, commented config as TOML"))
    add_command(commands, "schema", schema_command, "print the JSON schema of the config")


def presets_command(options: argparse.Namespace) -> int:
    """List the presets; returns the exit status."""
    if options.json:
        print_json({name: load(name).model_dump(mode="json") for name in preset_names()})
        return 0
    for name in preset_names():
        config = load(name)
        radio, run = config.radio, config.run
        print(
            f"{name:15} M = {radio.num_aps}, K = {radio.num_ues}, L = {radio.antennas}, {config.num_slots} slots "
            f"of {run.blocks_per_slot}, {config.cooperation.cluster} clusters, {config.cooperation.policy}\n"
            f"    {summary(name)}"
        )
    return 0


def config_command(options: argparse.Namespace) -> int:
    """Print a config; returns the exit status."""
    print(to_toml(load(options.experiment, options.set, options.seed)), end="")
    return 0


def schema_command(options: argparse.Namespace) -> int:
    """Print the schema; returns the exit status."""
    print_json(Config.model_json_schema())
    return 0
