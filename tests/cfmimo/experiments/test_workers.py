"""Tasks give the same wherever they run, say how far they are, and end when they are told to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cfmimo.workers import advance, spread


def square(number: int) -> tuple[int, int]:
    advance(number)
    return number * number, os.getpid()


def fail(number: int) -> int:
    raise ValueError(f"no {number}")


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_steps_add_up(workers: int) -> None:
    told: list[int] = []
    results = spread(square, [(n,) for n in range(6)], workers, told.append)
    assert [value for value, _ in results] == [0, 1, 4, 9, 16, 25]
    assert told == sorted(told)
    assert workers > 1 or told[-1] == 15
    assert ({pid for _, pid in results} == {os.getpid()}) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_task_raises_is_raised(workers: int) -> None:
    with pytest.raises(ValueError, match="no 3"):
        spread(fail, [(3,), (3,)], workers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_an_interrupted_comparison_ends_at_once_and_leaves_nothing(number: int, processes: int, tmp_path: Path) -> None:
    """However far it is in starting: itself, the tracker of its resources, and its two workers."""
    command = [sys.executable, "-m", "cfmimo", "compare", "paper", "--out", str(tmp_path / "c")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    time.sleep(0.5)
    deadline = time.monotonic() + 60
    while len(session_of(process.pid)) < processes and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(20) == 130
    assert process.stderr is not None
    said = process.stderr.read().decode()
    assert said.endswith("cfmimo: interrupted\n")
    assert "Traceback" not in said
    assert not (tmp_path / "c").exists()
    deadline = time.monotonic() + 5
    while session_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert session_of(process.pid) == []


def session_of(leader: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
