"""What stops a command: each text is a sentence for the person who typed it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

_ALIKE = 0.6  # likeness of two names, from 0 to 1, from which on one may be meant for the other


class ConfigError(Exception):
    """The configuration cannot be used; the text is meant for the person who typed it."""


class RunDirError(Exception):
    """The folder cannot hold, or does not hold, a run; the text is meant for the person who named it."""


class UnwrittenError(Exception):
    """The run's folder does not take what was collected; the text says why."""

    def __init__(self, text: str, summary: dict[str, Any] | None) -> None:
        super().__init__(text)
        self.summary = summary  # of what was collected; None if that was nothing


class Interrupted(KeyboardInterrupt):
    """A run was interrupted that can be resumed; the text says how."""


class ClusterError(RuntimeError):
    """The run cannot go on; the text says why."""


def did_you_mean(typed: str, known: Iterable[str]) -> str:
    """What to append to a complaint about a name, dotted or not: the known name that is most like it, if one is."""

    def likeness(name: str) -> float:
        parts = ((typed, name), (typed.rpartition(".")[2], name.rpartition(".")[2]))
        return max(SequenceMatcher(None, *pair).ratio() for pair in parts)

    best = max(known, key=likeness)
    return f"; did you mean {best}?" if likeness(best) >= _ALIKE else ""
