"""The command `cfmimo`: parses, calls one function, prints one result. Misuse exits 2 with a sentence."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from apnode.config import Config
from coordinator.faults import plan_names
from coordinator.presets import ConfigError, load, preset_names, to_toml
from coordinator.rundir import Interrupted, RunDirError
from coordinator.watch import SCALARS, Watch

if TYPE_CHECKING:
    from coordinator.console import Console

_EPILOG = """\
examples:
  cfmimo run demo                                20 APs as 20 Ray actors, learning; a few minutes
  cfmimo run paper --runtime local               the seed paper's network in one process
  cfmimo run demo --set radio.num_aps=36 cooperation.policy=random --seed 7
  cfmimo run demo --faults churn                 the same, while APs are killed as a plan says
  cfmimo resume runs/demo-seed0-...              go on with a run that was interrupted
  cfmimo run demo --policy runs/demo-seed0-...   with the agents that it trained, who learn no more
  cfmimo config paper > my.toml                  a commented config to edit, then: cfmimo run my.toml
  cfmimo compare paper --layouts 20              policies at equal numbers of links, with intervals
  cfmimo reproduce --quick                       what the seed paper says, beside what comes out
  cfmimo snapshot paper --seed 1 --out x.npz     one slot, every array, for checking elsewhere
"""


def run_command(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        status: int = options.command(options)
    except (ConfigError, RunDirError) as error:
        return _complain(str(error), 2)
    except Interrupted as error:
        return _complain(f"interrupted; `cfmimo resume {error}` goes on with it", 130)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    return status


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _complain(sentence: str, status: int) -> int:
    print(f"cfmimo: {sentence}", file=sys.stderr)
    return status


# --- commands ---------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from coordinator.console import Console
    from coordinator.run import run
    from coordinator.session import ClusterError

    if options.runtime == "local" and options.address:
        raise ConfigError("--address names a Ray cluster; it goes with --runtime ray")

    config = load(options.experiment, options.set, options.seed)
    console = Console(config.num_slots, quiet=options.quiet or options.json)
    out = options.out or _default_out(options.experiment, config)
    try:
        result = run(
            config,
            out,
            runtime=options.runtime,
            address=options.address,
            watch=_watch(options, out),
            console=console,
            command=["cfmimo", *sys.argv[1:]],
            plan=options.faults,
            policy=options.policy,
        )
    except ClusterError as error:
        return _complain(str(error), 1)
    return _conclude(result, console, options)


def _resume(options: argparse.Namespace) -> int:
    from coordinator.console import Console
    from coordinator.run import resume
    from coordinator.session import ClusterError

    console = Console(None, quiet=options.quiet or options.json)
    try:
        result = resume(options.run_dir, options.address, _watch(options, options.run_dir), console)
    except ClusterError as error:
        return _complain(str(error), 1)
    return _conclude(result, console, options)


def _watch(options: argparse.Namespace, run_dir: str) -> Watch:
    """How a run is to be watched; one that is resumed with its scalars goes on with them, asked or not."""
    scalars = Path(run_dir).absolute() / SCALARS
    if not options.tensorboard and not scalars.is_dir():
        return Watch(options.metrics_port, options.metrics_host)
    try:
        import coordinator.scalars  # noqa: F401  to know now that it can be
    except ModuleNotFoundError:
        raise ConfigError("--tensorboard needs TensorBoard: pip install tensorboard") from None
    return Watch(options.metrics_port, options.metrics_host, scalars)


def _conclude(result: dict[str, Any], console: Console, options: argparse.Namespace) -> int:
    """Print what came of a run; one whose faults were not those planned has failed."""
    if options.json:
        _print_json(result)
    else:
        console.closing_table(result)
    if result["not_as_planned"]:
        return _complain("the faults that fired are not those planned: " + "; ".join(result["not_as_planned"]), 1)
    return 0


def _report(options: argparse.Namespace) -> int:
    from coordinator.report import write_report

    print(write_report(Path(options.run_dir), options.slots))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from coordinator.agents import load_agents, where_they_learned
    from coordinator.compare import compare, notes_of
    from coordinator.console import Console
    from coordinator.contenders import check_policies, default_policies
    from coordinator.report import write_comparison
    from coordinator.rundir import RunDir, new_folder
    from coordinator.training import train
    from coordinator.workers import processors

    config = load(options.experiment, options.set, options.seed)
    console = Console(None, quiet=options.quiet or options.json)
    policies = options.policies.split(",") if options.policies else default_policies(config)
    if options.policy and not options.policies:
        policies.append("ddqn")
    check_policies(policies, config)
    if options.policy and "ddqn" not in policies:
        raise ConfigError("--policy names agents for policy ddqn, which --policies leaves out; add it there")
    agents = load_agents(options.policy, config) if options.policy else None
    if agents is not None:
        config = where_they_learned(config, agents, options.layouts)
    path = new_folder(options.out or _default_out(f"compare-{options.experiment}", config))
    with console:
        weights = None if agents is None else agents.weights
        if "ddqn" in policies and weights is None:
            weights = train(config, console.stage("training: slots"))[1]
        rows = compare(
            config,
            policies,
            options.layouts,
            options.links,
            options.slots,
            weights,
            console.stage("comparing: slots"),
            processors(),
        )
    notes = notes_of(config, rows)
    told = None if agents is None else agents.told(options.policy)
    write_comparison(RunDir.create(path, config, ["cfmimo", *sys.argv[1:]], "local", told).path, rows, notes)
    result = {"run_dir": str(path), "layouts": options.layouts, "rows": rows, "notes": notes}
    if options.json:
        _print_json(result)
    else:
        console.comparison_table(result)
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    from coordinator.console import Console
    from coordinator.report import write_reproduction
    from coordinator.reproduce import FULL, QUICK, expected_minutes, figures_of, reproduce
    from coordinator.rundir import started_folder
    from coordinator.workers import processors

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
    if options.json:
        _print_json(result)
    else:
        console.reproduction_table(result)
    return 0


def _snapshot(options: argparse.Namespace) -> int:
    from coordinator.snapshot import write_snapshot

    config = load(options.experiment, options.set, options.seed)
    arrays = write_snapshot(config, options.slot, Path(options.out))
    summary = {name: [str(array.dtype), list(array.shape)] for name, array in arrays.items()}
    if options.json:
        _print_json({"file": options.out, "arrays": summary})
    else:
        print(f"slot {options.slot} of {options.experiment}, seed {config.seed} -> {options.out}")
        for name, (dtype, shape) in summary.items():
            print(f"  {name:15} {dtype:12} {tuple(shape)}")
    return 0


def _presets(options: argparse.Namespace) -> int:
    if options.json:
        _print_json({name: load(name).model_dump(mode="json") for name in preset_names()})
        return 0
    for name in preset_names():
        config = load(name)
        radio, run = config.radio, config.run
        print(
            f"{name:15} M = {radio.num_aps}, K = {radio.num_ues}, L = {radio.antennas}, {config.num_slots} slots "
            f"of {run.blocks_per_slot}, {config.cooperation.cluster} clusters, {config.cooperation.policy}"
        )
    return 0


def _config(options: argparse.Namespace) -> int:
    print(to_toml(load(options.experiment, options.set, options.seed)), end="")
    return 0


def _schema(options: argparse.Namespace) -> int:
    _print_json(Config.model_json_schema())
    return 0


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))


def _default_out(experiment: str, config: Config) -> str:
    from datetime import datetime

    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return f"runs/{Path(experiment).stem}-seed{config.seed}-{stamp}"


# --- options ----------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cfmimo",
        description="Autonomous access points in cell-free massive MIMO, emulated: each decides by itself, "
        "with its own Double DQN, which neighbours to cooperate with.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _command(commands, "run", _run, "run an experiment, leave a run directory, print what it brought and cost")
    _experiment(run)
    run.add_argument(
        "--runtime",
        choices=("ray", "local"),
        default="ray",
        help="ray: every AP an actor, a process of its own (default); local: all in this process, the same result",
    )
    run.add_argument("--address", help="of a running Ray cluster; default: a private one on this machine")
    run.add_argument("--out", help="the run directory, new or empty; default: runs/<name>-seed<seed>-<time>")
    run.add_argument(
        "--faults",
        metavar="PLAN|FILE.toml",
        help=f"what goes wrong: {', '.join(plan_names())}, or a file (see README)",
    )
    _policy(run, "decide, and learn and explore no more: AP m uses agent m modulo their number")
    _followed(run)

    resumed = _command(
        commands, "resume", _resume, "go on with a run that was interrupted: the result equals the uninterrupted one"
    )
    resumed.add_argument("run_dir", metavar="RUN_DIR")
    resumed.add_argument("--address", help="of a running Ray cluster; default: a private one on this machine")
    _followed(resumed)

    report = _command(commands, "report", _report, "draw figures and report.html again from a run directory")
    report.add_argument("run_dir", metavar="RUN_DIR")
    report.add_argument(
        "--slots", type=_slots, metavar="N,N,...", help="to draw maps of (default: the first and the last)"
    )

    comparison = _command(
        commands, "compare", _compare, "policies side by side on the same layouts and fading, at equal numbers of links"
    )
    _experiment(comparison)
    comparison.add_argument(
        "--policies",
        metavar="A,B,...",
        help="run by the APs: never, random, threshold, master (the links of each user's strongest AP), forecast (what "
        "APs expect to pay), oracle (greedy, knows every channel), always, ddqn (--policy's agents, or the config's, "
        "trained first); without links: mrt, local-rzf, local-mmse; by a central processor: centralised (the paper's "
        "RZF), p-mmse, full-mmse "
        "(default: all but ddqn; with --policy, all)",
    )
    _policy(comparison, "are ddqn, and none are trained: in their places, if there are as many APs")
    comparison.add_argument(
        "--layouts",
        type=_count,
        default=20,
        help="APs and users anew on each; with ddqn, whose agents belong to their places, just the users (default: 20)",
    )
    comparison.add_argument("--slots", type=_count, default=5, help="that count on each layout (default: 5)")
    comparison.add_argument(
        "--links",
        type=_counts,
        default=[20, 50, 100, 150, 194],
        metavar="N,N,...",
        help="to tune random, threshold, forecast, oracle and agents that forecast to: links formed, or requests if "
        "clusters are directed (default: 20,50,100,150,194; numbers out of reach are left out)",
    )
    comparison.add_argument("--out", help="the folder for the results, new or empty")
    comparison.add_argument("--quiet", action="store_true", help="no progress bar")
    _json(comparison)

    reproduction = _command(
        commands,
        "reproduce",
        _reproduce,
        "the seed paper's figures 3 to 7, and a table of what it says and what comes out",
    )
    reproduction.add_argument(
        "--quick", action="store_true", help="a small version: one short training of each reading"
    )
    reproduction.add_argument("--seed", type=_seed, default=0, help="of the first training (default: 0)")
    reproduction.add_argument(
        "--out", help="the folder for the results; parts that are finished there are not done again"
    )
    reproduction.add_argument("--quiet", action="store_true", help="no progress bar")
    _json(reproduction)

    snapshot = _command(commands, "snapshot", _snapshot, "write every array of one slot, for checking elsewhere")
    _experiment(snapshot)
    snapshot.add_argument("--slot", type=int, default=0, help="which one (default: 0)")
    snapshot.add_argument("--out", required=True, help="a .npz file")
    _json(snapshot)

    _json(_command(commands, "presets", _presets, "list the presets"))
    _experiment(_command(commands, "config", _config, "print a config, complete and commented, as TOML"))
    _command(commands, "schema", _schema, "print the JSON schema of the config")
    return parser


def _followed(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--metrics-port", type=_port, metavar="PORT", help="serve a live map (/) and Prometheus metrics (/metrics)"
    )
    command.add_argument(
        "--metrics-host",
        default=Watch.host,
        metavar="ADDRESS",
        help=f"of this machine, to serve them on: 0.0.0.0 lets everybody who reaches it read (default: {Watch.host})",
    )
    command.add_argument(
        "--tensorboard",
        action="store_true",
        help=f"write scalars to RUN_DIR/{SCALARS} while it goes on (a run that is resumed goes on with them)",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    _json(command)


def _policy(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument(
        "--policy", metavar="RUN_DIR", help=f"the agents that this run with policy ddqn has trained {what}"
    )


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(command=function)
    return command


def _experiment(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "experiment", metavar="PRESET|FILE.toml", help=f"one of {', '.join(preset_names())}, or a file"
    )
    command.add_argument("--seed", type=int, help="of everything random (default: what the config says)")
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change settings; `cfmimo config PRESET` lists them",
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} should be 1 or more")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**62:
        raise argparse.ArgumentTypeError(f"{text} should lie in 0..2^62")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 2**16:
        raise argparse.ArgumentTypeError(f"{text} should lie in 1..65535")
    return number


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _slots(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} should read like 0,40,399") from None


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else, on stdout")
