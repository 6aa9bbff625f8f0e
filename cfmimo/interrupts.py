"""How a signal stops a command: at once, by unwinding, or once what is begun can end.

What is imported here is imported before the first signal can be handled: no more than must be.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def leave(number: int, frame: object) -> None:
    """As long as a command has begun nothing: end at once. An exception might be lost, or break what is imported."""
    os.write(2, b"cfmimo: interrupted\n")
    os._exit(130)


def interrupt(number: int, frame: object) -> None:
    """Unwind what a command has begun."""
    raise KeyboardInterrupt


@contextmanager
def on_interrupt(handler: Callable[[int, object], object]) -> Iterator[None]:
    """Handle interrupts so, for a while; in a thread, where none arrive, nothing changes."""
    import threading

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
