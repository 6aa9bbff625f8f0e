"""A run on Ray that is interrupted, or whose driver is killed, can be resumed and ends as if nothing had been."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cfmimo.presets import load
from cfmimo.records.rundir import RunDir
from cfmimo.runtime.session import processes_of
from tests.ray.running import SMALL, local_record

pytestmark = pytest.mark.ray

PACED = (*SMALL, "run.slot_s=0.1", "run.checkpoint_every_slots=5", "run.episodes=4")


def cfmimo(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cfmimo", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def interrupted(folder: Path, by: signal.Signals, *settings: str) -> tuple[subprocess.Popen[str], Path]:
    """A run that got a signal in its middle; its private session's folder."""
    run = cfmimo("run", "demo", "--quiet", "--seed", "3", "--set", *PACED, *settings, "--out", str(folder))
    give_up = time.monotonic() + 60
    while len(list((folder / "checkpoints").glob("ap-*.b.ckpt"))) < 6:  # each has written two
        assert time.monotonic() < give_up
        assert run.poll() is None
        time.sleep(0.1)
    session = Path((folder / "session").read_text())
    refused = cfmimo("resume", str(folder))
    assert "is still going on, in another process" in refused.communicate()[1]
    assert refused.returncode == 2
    run.send_signal(by)
    return run, session


def assert_resumed_as_if_never_stopped(folder: Path) -> None:
    resumed = cfmimo("resume", str(folder), "--quiet")
    assert resumed.wait(timeout=90) == 0, resumed.communicate()[1]
    uninterrupted = local_record(load("demo", PACED, seed=3))
    assert RunDir.open(folder).summary()["digest"] == uninterrupted.digest()
    assert not (folder / "session").exists()


def test_an_interrupted_run_says_how_to_resume_it_and_leaves_nothing_running(tmp_path: Path) -> None:
    run, session = interrupted(tmp_path / "run", signal.SIGINT)
    began = time.monotonic()
    assert f"cfmimo resume {tmp_path / 'run'}" in run.communicate(timeout=20)[1]
    assert time.monotonic() - began < 5
    assert run.returncode == 130
    assert not session.exists()
    assert processes_of(session) == []
    assert_resumed_as_if_never_stopped(tmp_path / "run")


def test_a_run_whose_driver_was_killed_can_be_resumed(tmp_path: Path) -> None:
    run, session = interrupted(tmp_path / "run", signal.SIGKILL)
    run.wait(timeout=20)
    assert_resumed_as_if_never_stopped(tmp_path / "run")
    assert not session.exists()
    assert processes_of(session) == []
