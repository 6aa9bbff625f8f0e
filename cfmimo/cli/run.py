"""The commands `run` and `resume`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfmimo.cli.arguments import (
    add_command,
    add_experiment,
    add_policy,
    add_watching,
    complain,
    default_out,
    print_json,
)
from cfmimo.errors import ClusterError, ConfigError, UnwrittenError
from cfmimo.interrupts import leave, on_interrupt
from cfmimo.presets import load
from cfmimo.runtime.fault_plan import plan_names
from cfmimo.runtime.request import RunRequest
from coordinator.watch import SCALARS, Watch

if TYPE_CHECKING:
    from cfmimo.cli.console import Console


def add_run(commands: Any) -> None:
    """Add the command `run`."""
    run = add_command(commands, "run", run_command, "run an experiment, write a run directory, print gain and cost")
    add_experiment(run)
    run.add_argument(
        "--runtime",
        choices=("ray", "local"),
        default="ray",
        help="ray: every AP is a Ray actor in its own process (default); local: all APs in this process, same result",
    )
    run.add_argument("--address", help="of a running Ray cluster; default: a private one on this machine")
    run.add_argument("--out", help="the run directory, new or empty; default: runs/<name>-seed<seed>-<time>")
    run.add_argument(
        "--faults",
        metavar="PLAN|FILE.toml",
        help=f"fault plan: {', '.join(plan_names())}, or a file (see docs/faults.md)",
    )
    run.add_argument(
        "--no-report", action="store_true", help="draw no figures and write no page; `cfmimo report` does it later"
    )
    add_policy(run, "they decide without learning or exploring; AP m uses agent m modulo their number")
    add_watching(run)


def run_command(options: argparse.Namespace) -> int:
    """Run an experiment; returns the exit status."""
    with on_interrupt(leave):
        from cfmimo.cli.console import Console
        from cfmimo.experiments.run import run

        if options.runtime == "ray":
            import cfmimo.runtime.cluster  # noqa: F401  a second, before there is anything to clean up
    if options.runtime == "local" and options.address:
        raise ConfigError("--address names a Ray cluster; it goes with --runtime ray")

    config = load(options.experiment, options.set, options.seed)
    console = Console(config.num_slots, quiet=options.quiet or options.json)
    out = options.out or default_out(options.experiment, config)
    watch = _watch(options, out)
    request = RunRequest(config, Path(out), options.runtime, options.address, watch, report=not options.no_report)
    command = ["cfmimo", *sys.argv[1:]]
    started = partial(run, request, console, command, options.faults, options.policy)
    return _conclude(started, console, options)


def add_resume(commands: Any) -> None:
    """Add the command `resume`."""
    resumed = add_command(
        commands,
        "resume",
        resume_command,
        "continue an interrupted run; the result equals that of an uninterrupted one",
    )
    resumed.add_argument("run_dir", metavar="RUN_DIR")
    resumed.add_argument("--address", help="of a running Ray cluster; default: a private one on this machine")
    resumed.add_argument("--from-start", action="store_true", help="begin again with slot 0, and forget what there is")
    add_watching(resumed)


def resume_command(options: argparse.Namespace) -> int:
    """Go on with a run; returns the exit status."""
    with on_interrupt(leave):
        from cfmimo.cli.console import Console
        from cfmimo.experiments.resume import resume

    console = Console(None, quiet=options.quiet or options.json)
    watch = _watch(options, options.run_dir)
    resumed = partial(resume, options.run_dir, options.address, watch, console, options.from_start)
    return _conclude(resumed, console, options)


def _watch(options: argparse.Namespace, run_dir: str) -> Watch:
    """How to watch the run; a resumed run continues its scalars, asked or not."""
    scalars = Path(run_dir).absolute() / SCALARS
    if not options.tensorboard and not scalars.is_dir():
        return Watch(options.metrics_port, options.metrics_host)
    try:
        import coordinator.watch.tensorboard  # noqa: F401  to know now that it can be
    except ModuleNotFoundError:
        raise ConfigError("--tensorboard needs TensorBoard: pip install tensorboard") from None
    return Watch(options.metrics_port, options.metrics_host, scalars)


def _conclude(run: Callable[[], dict[str, Any]], console: Console, options: argparse.Namespace) -> int:
    """Run, and print the result; a run that is not written, or whose faults differ from its plan, has failed."""
    trouble, result = "", None
    try:
        result = run()
        if result["not_as_planned"]:
            trouble = "faults differ from the plan: " + "; ".join(result["not_as_planned"])
    except UnwrittenError as error:
        trouble, result = str(error), error.summary
    except ClusterError as error:
        trouble = str(error)
    if result is not None:
        (print_json if options.json else console.closing_table)(result)
    return complain(trouble, 1) if trouble else 0
