"""What both runtimes are asked to run, whom they tell how it goes, and what they give back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from apnode.config import Config
from cfmimo.records.agents_file import Weights
from cfmimo.runtime.fault_plan import Faults
from coordinator.record import Record
from coordinator.watch import Watch


@dataclass(frozen=True)
class RunRequest:
    """One run: which experiment, where, with which faults and agents, and how it can be watched."""

    config: Config
    folder: Path | None = None  # for checkpoints and the journal; None: nowhere, and a restarted AP begins anew
    runtime: str = "ray"  # or "local"
    address: str | None = None  # of a Ray cluster; None: a private one on this machine
    watch: Watch = Watch()  # noqa: RUF009  frozen
    faults: Faults = Faults()  # noqa: RUF009  frozen
    first_slot: int = 0  # to go on with, from what is in `folder`
    report: bool = True  # to draw figures and write a page at the end
    agents: Weights | None = None  # trained agents that decide and learn no more; None: the config's policy decides


ERRORS = "errors.log"  # in a run's folder: tracebacks of what APs raised


def note_error(folder: Path | None, ap: int, slot: int, error: BaseException, trace: str) -> dict[str, Any]:
    """Write down an exception that an AP raised after a slot; returns what the run's summary says of it."""
    said = f"{type(error).__name__}: {error}"
    if folder is not None:
        try:
            with (folder / ERRORS).open("a") as file:
                file.write(f"AP {ap}, after slot {slot}:\n{trace}\n")
        except OSError as full:
            said += f" (its traceback could not be written: {full})"
    return {"ap": ap, "after_slot": slot, "error": said}


class Progress(Protocol):
    """Whom a run tells how it goes."""

    @property
    def due(self) -> bool:
        """Whether it is time for `progress` again."""

    def say(self, text: str) -> None:
        """A sentence for the user."""

    def starting(self, started: int, total: int) -> None:
        """So many APs have started, of so many."""

    def progress(self, newest: int, row: dict[str, Any] | None) -> None:
        """The newest slot that has closed, and its row of results."""


@dataclass
class Outcome:
    """What a runtime gives back."""

    record: Record
    seconds: float  # from the first hello to the last report, without starting processes
    processes: list[dict[str, Any]] = field(default_factory=list)  # of the APs: {"ap", "pid", "node"}
    restarts: list[dict[str, int]] = field(default_factory=list)  # {"ap", "after_slot"}
    given_up: list[int] = field(default_factory=list)  # APs that died too often
    watchdog: list[dict[str, int]] = field(default_factory=list)  # {"ap", "after_slot"} of hung processes it ended
    errors: list[dict[str, Any]] = field(default_factory=list)  # {"ap", "after_slot", "error"}: exceptions of APs
    # planned: by the fault plan's links; to_nobody: no receiver was known, or it took no more; unaccounted: all others
    # that were sent, but neither accepted nor rejected as far as any node has told: to or from one that died, say
    frames_lost: dict[str, int] = field(default_factory=dict)
