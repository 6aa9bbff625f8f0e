"""What `import cfmimo` offers: run, resume and compare experiments, and read what they left.

    import cfmimo

    run = cfmimo.run(cfmimo.load("demo", seed=1))
    print(run.summary["sum_rate_bps_hz"], run.path)
    table = run.slots.to_pandas()

The commands do the same. Nothing is printed unless `progress` is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from apnode.config import Config
from cfmimo.presets import load
from cfmimo.records.rundir import ArrowTable, RunDir

if TYPE_CHECKING:
    from numpy.typing import NDArray

Runtime = Literal["local", "ray"]


class Run:
    """A finished run, as its folder holds it."""

    def __init__(self, path: str | Path) -> None:
        """Open a run's folder.

        Raises:
            RunDirError: if it holds no finished run.
        """
        self._folder = RunDir.open(Path(path))

    @property
    def path(self) -> Path:
        """Its folder; `report.html` in it is for people."""
        return self._folder.path

    @cached_property
    def config(self) -> Config:
        """The experiment."""
        return load(self.path / "config.toml")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `cfmimo run --json` prints: means, digest, processes, faults."""
        return self._folder.summary()

    @property
    def digest(self) -> str:
        """Of all results: the same config and seed give the same on every runtime."""
        return str(self.summary["digest"])

    @cached_property
    def slots(self) -> ArrowTable:
        """A row for each slot; docs/running.md says what the columns are."""
        return self._folder.arrow("slots")

    @cached_property
    def aps(self) -> ArrowTable:
        """A row for each AP and slot."""
        return self._folder.arrow("aps")

    @cached_property
    def ues(self) -> ArrowTable:
        """A row for each UE and slot."""
        return self._folder.arrow("ues")

    @cached_property
    def links(self) -> ArrowTable:
        """A row for each AP, neighbour and slot."""
        return self._folder.arrow("links")

    def __repr__(self) -> str:
        """What it brought, in a line."""
        return f"<Run {self.path}: {self.summary['sum_rate_bps_hz']:.1f} bit/s/Hz, digest {self.digest[:16]}>"


class Comparison:
    """Policies side by side, as the folder of a comparison holds them."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.path = Path(result["run_dir"])
        self.layouts: int = result["layouts"]
        self.rows: list[dict[str, Any]] = result["rows"]  # as `cfmimo compare --json` prints them
        self.notes: list[str] = result["notes"]  # what one should know of them

    @cached_property
    def table(self) -> ArrowTable:
        """A row for each policy and number of links; an interval is three columns, `..._mean`, `_low` and `_high`."""
        return RunDir(self.path).arrow("comparison")

    def __repr__(self) -> str:
        """How much there is of it."""
        return f"<Comparison {self.path}: {len(self.rows)} rows over {self.layouts} layouts>"


def run(
    config: Config | str,
    runtime: Runtime = "local",
    *,
    out: str | Path | None = None,
    faults: str | None = None,
    policy: str | Path | None = None,
    address: str | None = None,
    progress: bool = False,
) -> Run:
    """Run an experiment to its end, and open what it left.

    Args:
        config: as `load` gives it, or the name of a preset or file.
        runtime: `local`: all APs in this process; `ray`: every AP in a process of its own. The results are equal.
        out: the run's folder, new or empty; by default a new one below `runs`.
        faults: a fault plan that ships, or a file.
        policy: the folder of a run whose agents decide, and learn no more.
        address: of a running Ray cluster; by default a private one on this machine.
        progress: show how far it is on standard error.

    Raises:
        ConfigError: says in a sentence what is wrong with the config.
        RunDirError: if the folder cannot be used.
        UnwrittenError: if the run could not be written; its `summary` holds what there is.
    """
    from cfmimo.cli.console import Console
    from cfmimo.experiments.run import run as carry_out
    from cfmimo.runtime.request import RunRequest

    of = load(config)
    request = RunRequest(of, _folder(out, config, of), runtime, address)
    console = Console(of.num_slots, quiet=not progress)
    summary = carry_out(request, console, ["cfmimo.run"], faults, None if policy is None else str(policy))
    return Run(summary["run_dir"])


def resume(path: str | Path, *, address: str | None = None, progress: bool = False) -> Run:
    """Go on with a run that was interrupted; what it leaves equals that of an uninterrupted one.

    Raises:
        RunDirError: if there is no such run, or it is still going on.
    """
    from cfmimo.cli.console import Console
    from cfmimo.experiments.resume import resume as go_on
    from coordinator.watch import Watch

    return Run(go_on(str(path), address, Watch(), Console(None, quiet=not progress))["run_dir"])


def open_run(path: str | Path) -> Run:
    """Open the folder of a finished run.

    Raises:
        RunDirError: if it holds none.
    """
    return Run(path)


def compare(
    config: Config | str,
    policies: Sequence[str] | None = None,
    *,
    layouts: int = 20,
    links: Sequence[int] = (20, 50, 100, 150, 194),
    slots: int = 5,
    policy: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> Comparison:
    """Policies side by side on the same layouts and fading, at equal numbers of links.

    Args:
        config: as for `run`.
        policies: of those that `cfmimo compare --help` names; by default all that need no training.
        layouts: number of layouts, each with new users, and new APs where no agents have learned.
        links: numbers of links formed to which policies are tuned that can be.
        slots: measured on each layout.
        policy: the folder of a run whose agents are a contender.
        out: the folder for the results, new or empty; by default a new one below `runs`.
        progress: show how far it is on standard error.

    Raises:
        ConfigError: if a policy is unknown or cannot be compared.
        RunDirError: if the folder cannot be used.
    """
    from cfmimo.cli.console import Console
    from cfmimo.experiments.compare import written_comparison

    of = load(config)
    folder = str(_folder(out, f"compare-{config}" if isinstance(config, str) else "compare", of))
    agents, console = None if policy is None else str(policy), Console(None, quiet=not progress)
    command = ["cfmimo.compare"]
    return Comparison(written_comparison(of, policies, layouts, links, slots, agents, folder, console, command))


def snapshot(config: Config | str, slot: int) -> dict[str, NDArray[Any]]:
    """Every array of one slot: channels, estimates, precoders, links and SINRs, as `cfmimo snapshot` writes them.

    Raises:
        ConfigError: if there is no such slot.
    """
    from cfmimo.experiments.snapshot import snapshot as arrays_of

    return arrays_of(load(config), slot)


def _folder(out: str | Path | None, name: Config | str, config: Config) -> Path:
    from cfmimo.cli.arguments import default_out

    return Path(out or default_out(name if isinstance(name, str) else "run", config))
