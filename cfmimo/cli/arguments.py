"""Options and kinds of values that several commands share, and how a command prints a result or a complaint."""

from __future__ import annotations

import argparse
import json
import sys
from itertools import count as count_from
from pathlib import Path
from typing import Any

from apnode.config import Config
from cfmimo.presets import preset_names
from coordinator.watch import SCALARS, Watch


def add_command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    """Add a command that calls `function` with its options."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(command=function)
    return command


def add_experiment(command: argparse.ArgumentParser) -> None:
    """Add what names an experiment: preset or file, seed, settings."""
    command.add_argument(
        "experiment", metavar="PRESET|FILE.toml", help=f"one of {', '.join(preset_names())}, or a file"
    )
    command.add_argument("--seed", type=int, help="seed of everything random (default: the config's)")
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change settings; `cfmimo config PRESET` lists them",
    )


def add_policy(command: argparse.ArgumentParser, what: str) -> None:
    """Add the option that names trained agents; `what` continues its help."""
    command.add_argument("--policy", metavar="RUN_DIR", help=f"use the agents trained by this run: {what}")


def add_watching(command: argparse.ArgumentParser) -> None:
    """Add the options for watching a run."""
    command.add_argument(
        "--metrics-port", type=port, metavar="PORT", help="serve a live map (/) and Prometheus metrics (/metrics)"
    )
    command.add_argument(
        "--metrics-host",
        default=Watch.host,
        metavar="ADDRESS",
        help=f"address of this machine to serve them at; 0.0.0.0: readable by every host (default: {Watch.host})",
    )
    command.add_argument(
        "--tensorboard",
        action="store_true",
        help=f"write scalars to RUN_DIR/{SCALARS} during the run (a resumed run continues them)",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    add_json(command)


def add_json(command: argparse.ArgumentParser) -> None:
    """Add the option `--json`."""
    command.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else, on stdout")


def count(text: str) -> int:
    """A number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} should be 1 or more")
    return number


def seed(text: str) -> int:
    """A number that seeds randomness."""
    number = int(text)
    if not 0 <= number < 2**62:
        raise argparse.ArgumentTypeError(f"{text} should lie in 0..2^62")
    return number


def port(text: str) -> int:
    """A port number."""
    number = int(text)
    if not 0 < number < 2**16:
        raise argparse.ArgumentTypeError(f"{text} should lie in 1..65535")
    return number


def counts(text: str) -> list[int]:
    """Numbers from 1 on, separated by commas."""
    return [count(part) for part in text.split(",")]


def slots(text: str) -> list[int]:
    """Numbers of slots, separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} should read like 0,40,399") from None


def print_json(value: dict[str, Any]) -> None:
    """Print a result as JSON."""
    print(json.dumps(value, indent=2))


def complain(sentence: str, status: int) -> int:
    """Print why a command failed; returns its exit status."""
    print(f"cfmimo: {sentence}", file=sys.stderr)
    return status


def default_out(experiment: str, config: Config) -> str:
    """Name a new folder for results."""
    from datetime import datetime

    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    name = f"runs/{Path(experiment).stem}-seed{config.seed}-{stamp}"
    others = (f"{name}-{number}" for number in count_from(2))
    return name if not Path(name).exists() else next(other for other in others if not Path(other).exists())
