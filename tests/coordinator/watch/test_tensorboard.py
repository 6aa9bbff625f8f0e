"""What TensorBoard reads of a run, while it goes on and in the end: each slot once, with the values of the tables."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cfmimo.cli.console import Console
from cfmimo.cli.main import run_cfmimo
from cfmimo.errors import Interrupted
from cfmimo.experiments.run import run
from cfmimo.presets import load
from cfmimo.records.rundir import RunDir
from cfmimo.runtime.fault_plan import FaultPlan, PlannedFault, resolve
from cfmimo.runtime.local import LocalNetwork
from cfmimo.runtime.request import RunRequest
from coordinator.watch import SCALARS, Watch, Watcher
from coordinator.watch import tensorboard as scalars
from tests.cfmimo.interrupting import Interrupting

SHORT = (
    "radio.num_aps=5",
    "radio.num_ues=3",
    "run.episodes=3",
    "run.slots_per_episode=12",
    "run.checkpoint_every_slots=6",
    "learning.batch_size=4",
)
OF_SLOTS = {
    "rate/sum_rate_bps_hz", "rate/sum_rate_alone_bps_hz",
    "sinr/sinr_mean_db", "sinr/sinr_mean_alone_db", "sinr/sinr_p5_db", "sinr/sinr_p5_alone_db",
    "links/requests", "links/formed", "links/pairs", "fronthaul/messages", "fronthaul/bytes",
}  # fmt: skip
OF_APS = {"learning/reward", "learning/loss", "learning/epsilon"}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that take less than seconds are watched, too."""
    monkeypatch.setattr(scalars, "_EVERY_S", 0.0)


def reader(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0})


def steps(read: EventAccumulator) -> list[int]:
    """Of all scalars, which have the same."""
    read.Reload()
    ((of_all),) = {tuple(event.step for event in read.Scalars(tag)) for tag in read.Tags()["scalars"]}
    return list(of_all)


def values(read: EventAccumulator, tag: str) -> NDArray[np.float64]:
    return np.array([event.value for event in read.Scalars(tag)])


def assert_as_in_the_tables(run_dir: Path) -> None:
    read, folder = reader(run_dir / SCALARS), RunDir.open(run_dir)
    slots, aps = folder.table("slots"), folder.table("aps")
    assert steps(read) == slots["slot"].tolist()
    assert set(read.Tags()["scalars"]) == OF_SLOTS | OF_APS | {"links/request_rate"}
    for tag in OF_SLOTS:
        assert values(read, tag) == pytest.approx(slots[tag.partition("/")[2]], rel=1e-6), tag
    assert values(read, "links/request_rate") == pytest.approx(slots["requests"] / slots["candidates"], rel=1e-6)
    reported = (aps["status"] != "down").reshape(len(slots["slot"]), -1)
    for tag in OF_APS:
        of_ap = aps[tag.partition("/")[2]].reshape(reported.shape)
        assert values(read, tag) == pytest.approx(of_ap.sum(axis=1) / reported.sum(axis=1), rel=1e-5, abs=1e-7), tag
    assert values(read, "learning/loss").any()


def test_a_finished_run_has_every_slot_once_though_aps_died(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[[faults]]\nslot = 20\ntarget = "ap/1-2"\naction = "kill"\n')
    arguments = ("run", "demo", "--runtime", "local", "--json", "--tensorboard", "--faults", str(plan))
    assert run_cfmimo([*arguments, "--out", str(tmp_path / "run"), "--set", *SHORT]) == 0
    assert_as_in_the_tables(tmp_path / "run")
    assert sum(path.stat().st_size > 0 for path in (tmp_path / "run" / SCALARS).iterdir()) == 1


def test_slots_can_be_read_while_the_run_goes_on_also_after_the_coordinator_died(tmp_path: Path, at_once: None) -> None:
    config = load("demo", SHORT)
    faults = resolve(FaultPlan(faults=(PlannedFault(slot=20, action="kill_coordinator"),)), config)
    (tmp_path / "checkpoints").mkdir()
    network = LocalNetwork(config, faults=faults, folder=tmp_path)
    watcher = Watcher(Watch(scalars=tmp_path / SCALARS), lambda: network.coordinator, print)
    read, seen = reader(tmp_path / SCALARS), dict[int, int]()  # by the newest slot, those that could be read
    for _ in network.frames():
        watcher.look()
        newest = network.coordinator.newest
        if newest not in seen and newest > 1:
            could_be_read = steps(read)
            assert could_be_read == list(range(len(could_be_read)))
            seen[newest] = len(could_be_read)
    assert all(newest - 2 <= count <= newest + 1 for newest, count in seen.items()), seen
    assert [fault["action"] for fault in network.coordinator.record.fired] == ["kill_coordinator"]


def test_what_cannot_be_written_is_said_once_and_ends_no_run(
    tmp_path: Path, at_once: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def put_a_file_there(self: Console, newest: int, row: object) -> None:
        if newest == 10 and (out / SCALARS).is_dir():
            shutil.rmtree(out / SCALARS)
            (out / SCALARS).touch()

    monkeypatch.setattr(Console, "due", True)
    monkeypatch.setattr(Console, "progress", put_a_file_there)
    assert run_cfmimo(["run", "demo", "--runtime", "local", "--tensorboard", "--out", str(out), "--set", *SHORT]) == 0
    assert RunDir.open(out).summary()["slots"] == 36
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("writing for TensorBoard failed (") == 2  # while it went on, and at its end
    assert "Traceback" not in said


def test_who_reads_while_the_folder_is_started_anew_forgets_what_was_in_it(tmp_path: Path) -> None:
    network = LocalNetwork(load("demo", SHORT))
    network.run()
    record, folder = network.coordinator.record, tmp_path / SCALARS
    scalars.write_scalars(folder, record)
    read = reader(folder)
    assert steps(read) == list(range(36))
    written = [event.wall_time for event in read.Scalars("links/formed")]
    record.closed[30:] = record.reported[30:] = False
    scalars.write_scalars(folder, record)
    assert steps(read) == list(range(30))
    assert [event.wall_time for event in read.Scalars("links/formed")] == written[:30]


def test_a_resumed_run_goes_on_with_its_scalars_and_doubles_none(tmp_path: Path, at_once: None) -> None:
    config, out = load("demo", SHORT), tmp_path / "run"
    with pytest.raises(Interrupted):
        run(RunRequest(config, out, "local", watch=Watch(scalars=out / SCALARS)), Interrupting(22), [])
    before = steps(reader(out / SCALARS))
    assert before == list(range(len(before)))
    assert 18 < len(before) <= 23  # more than the checkpoints: some are computed again
    assert run_cfmimo(["resume", str(out), "--json"]) == 0
    assert_as_in_the_tables(out)


def test_without_the_option_nothing_is_written_and_tensorboard_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    for name in [name for name in sys.modules if name.startswith(("tensorboard.", "coordinator.watch.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    arguments = ("run", "demo", "--runtime", "local", "--json", "--set", *SHORT, "run.episodes=1", "--out")
    assert run_cfmimo([*arguments, str(tmp_path / "without")]) == 0
    assert not (tmp_path / "without" / SCALARS).exists()
    capsys.readouterr()
    assert run_cfmimo([*arguments, str(tmp_path / "with"), "--tensorboard"]) == 2
    assert capsys.readouterr().err == "cfmimo: --tensorboard needs TensorBoard: pip install tensorboard\n"
    assert not (tmp_path / "with").exists()
