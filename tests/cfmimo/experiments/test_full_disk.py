"""A run's folder that fills, vanishes or becomes read-only: the run ends with a sentence, and prints what it has."""

import gc
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cfmimo.cli.console
from benchmarks.checkpoints import fill, small_disk
from cfmimo.cli.main import run_cfmimo
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork

OPTIONS = ("radio.num_aps=5", "radio.num_ues=3", "run.slots_per_episode=10", "run.checkpoint_every_slots=5")
SETTINGS = (*OPTIONS, "run.episodes=3", "cooperation.policy=random")
COMMAND = ["run", "demo", "--runtime", "local", "--json", "--set", *SETTINGS, "--out"]


@pytest.fixture(scope="module")
def digest() -> str:
    network = LocalNetwork(load("demo", SETTINGS))
    network.run()
    return network.coordinator.record.digest()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file system of its own, on which a run just fits."""
    with small_disk(tmp_path, 2**24) as mounted:
        if not mounted:
            pytest.skip("no file system may be mounted here")
        yield tmp_path
        gc.collect()  # closes the journal, which keeps the disk busy


def meanwhile(monkeypatch: pytest.MonkeyPatch, frames: int, act: Callable[[], object]) -> None:
    """Do something when a run has delivered so many frames: its console is asked before each."""
    asked = 0

    class Console(cfmimo.cli.console.Console):
        @property
        def due(self) -> bool:
            nonlocal asked
            asked += 1
            if asked == frames:
                act()
            return False

    monkeypatch.setattr(cfmimo.cli.console, "Console", Console)


def test_a_disk_that_fills_ends_the_run_which_can_go_on_once_there_is_room(
    disk: Path, digest: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    meanwhile(monkeypatch, 1000, lambda: fill(disk / "other", room=4096))
    assert run_cfmimo([*COMMAND, str(disk)]) == 1
    said = capsys.readouterr()
    assert f"cannot write to {disk}: [Errno 28] No space left on device" in said.err
    assert 0 < json.loads(said.out)["slots"] < 30
    (disk / "other").unlink()
    assert run_cfmimo(["resume", str(disk), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == digest


def test_of_a_run_whose_folder_vanishes_the_results_are_printed(
    tmp_path: Path, digest: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    meanwhile(monkeypatch, 1000, lambda: shutil.rmtree(tmp_path / "r"))
    assert run_cfmimo([*COMMAND, str(tmp_path / "r")]) == 1
    said = capsys.readouterr()
    assert f"cannot write to {tmp_path / 'r'}: [Errno 2] No such file" in said.err
    assert json.loads(said.out)["digest"] == digest


def test_of_a_run_whose_folder_becomes_read_only_the_results_are_printed_and_failed_checkpoints_counted(
    disk: Path, digest: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def protect() -> None:
        subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)  # noqa: S607
        subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)  # noqa: S607

    meanwhile(monkeypatch, 1000, protect)
    try:
        assert run_cfmimo([*COMMAND, str(disk)]) == 1
        said = capsys.readouterr()
        assert f"cannot write to {disk}: [Errno 30] Read-only file system" in said.err
        result = json.loads(said.out)
        assert result["digest"] == digest
        assert result["checkpoints_unsaved"] > 5
        assert run_cfmimo(["resume", str(disk)]) == 2
        assert "Read-only file system" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", str(disk)], check=True)  # noqa: S607
