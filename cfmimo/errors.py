"""What stops a command: each text is a sentence for the person who typed it; and how a signal stops it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from typing import Any, NoReturn

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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


_ALIKE = 0.6  # from 0 to 1


def leave(number: int, frame: object) -> NoReturn:
    """As long as a command has begun nothing: end at once. An exception might be lost, or break what is imported."""
    os.write(2, b"cfmimo: interrupted\n")
    os._exit(130)


def interrupt(number: int, frame: object) -> NoReturn:
    """Unwind what a command has begun."""
    raise KeyboardInterrupt


@contextmanager
def on_interrupt(handler: Callable[[int, object], object]) -> Iterator[None]:
    """Handle interrupts so, for a while; in a thread, where none arrive, nothing changes."""
    before = (
        []
        if threading.current_thread() is not threading.main_thread()
        else [(number, signal.signal(number, handler)) for number in INTERRUPTS]
    )
    try:
        yield
    finally:
        for number, earlier in before:
            signal.signal(number, earlier)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold interrupts back while what is begun would not survive one; one that came is raised afterwards."""
    came = list[int]()
    with on_interrupt(lambda number, frame: came.append(number)):
        yield
    if came:
        raise KeyboardInterrupt
