"""Independent tasks, here or in as many processes as there are processors, with progress; same results either way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_POLL_S = 0.2
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_report: Callable[[int], None] = lambda steps: None  # noqa: E731  # replaced where somebody wants to know


def processors() -> int:
    """How many processes this one may keep busy."""
    return len(os.sched_getaffinity(0))


def advance(steps: int = 1) -> None:
    """To be called by a task: so many more of its steps are done."""
    _report(steps)


def spread(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    workers: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Any]:
    """Apply a function of a module to each tuple of arguments.

    Args:
        function: importable, since other processes have to find it.
        arguments: of each task.
        workers: processes; 1 stays in this one.
        progress: told how many steps the tasks have reported by `advance`, all together.

    Returns:
        the results, in the order of the arguments.
    """
    if workers > 1 and len(arguments) > 1:
        return _elsewhere(function, arguments, min(workers, len(arguments)), progress)
    with _reporting(progress):
        return [function(*these) for these in arguments]


@contextmanager
def _reporting(progress: Callable[[int], None]) -> Iterator[None]:
    """While this is entered, steps of this process are counted and told."""
    global _report
    done, before = 0, _report

    def count(steps: int) -> None:
        nonlocal done
        done += steps
        progress(done)

    _report = count
    try:
        yield
    finally:
        _report = before


def _elsewhere(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    workers: int,
    progress: Callable[[int], None],
) -> list[Any]:
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks, but not the threads
    counter = context.Value("q", 0)
    with ProcessPoolExecutor(workers, context, _count_into, (counter,)) as pool:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # half started, a process could not be ended
        try:
            with _nothing_to_import():
                futures = [pool.submit(function, *these) for these in arguments]
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            while wait(futures, timeout=_POLL_S).not_done:
                progress(counter.value)
                if any(future.done() and future.exception() for future in futures):
                    break
            return [future.result() for future in futures]
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()  # it would otherwise end its task first
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _nothing_to_import() -> Iterator[None]:
    """Processes that start now do not run the user's script, which would do all its work again in each of them."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _count_into(counter: Any) -> None:
    """Set up a worker process."""
    global _report
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one hears it, and ends this one
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def count(steps: int) -> None:
        with counter.get_lock():
            counter.value += steps

    _report = count
