"""Where an interrupted run goes on: after deaths, without checkpoints, and with faults that last."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from cfmimo.cli.main import run_cfmimo
from cfmimo.errors import Interrupted
from cfmimo.experiments.resume import go_back, newest_boundary
from cfmimo.experiments.run import run
from cfmimo.presets import load
from cfmimo.records.rundir import RunDir
from cfmimo.runtime.fault_plan import FaultPlan, resolve
from cfmimo.runtime.local import LocalNetwork
from cfmimo.runtime.request import RunRequest
from coordinator.record import Record
from tests.cfmimo.interrupting import Interrupting

SMALL = (
    "radio.num_aps=6",
    "radio.num_ues=4",
    "radio.area_m=250",
    "run.blocks_per_slot=1",
    "run.slots_per_episode=20",
    "run.episodes=3",
    "run.checkpoint_every_slots=10",
    "cooperation.policy=random",
)
LOST = {"senders": "ap/2", "receivers": "coordinator", "first": 42, "last": 43, "loss": 1.0}  # reports, before a death


def abandoned(folder: Path, slot: int, down: int) -> None:
    """What is left of a run whose AP 2 died, with reports that nobody had got, and that ended in a slot."""
    (folder / "checkpoints").mkdir()
    config = load("demo", SMALL)
    kill = {"slot": 44, "action": "kill", "target": "ap/2", "args": {"slots": down}}
    faults = resolve(FaultPlan.model_validate({"faults": [kill], "links": [LOST]}), config)
    network = LocalNetwork(config, faults=faults, folder=folder)
    for _ in network.frames():
        if network.coordinator.newest == slot:
            break
    assert network.coordinator.record.missing(slice(50)).sum(axis=0).tolist() == [0, 0, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("down", "on_ray", "in_local"),
    [(3, 50, 50), (100, 50, 40)],
    ids=["an AP that is back", "an AP that is down"],
)
def test_reports_that_died_with_their_ap_keep_nobody_from_a_later_boundary(
    down: int, on_ray: int, in_local: int, tmp_path: Path
) -> None:
    abandoned(tmp_path, 53, down)
    assert newest_boundary(tmp_path, load("demo", SMALL), replays=False) == on_ray
    assert newest_boundary(tmp_path, load("demo", SMALL), replays=True) == in_local


def interrupted(out: Path, slot: int) -> str:
    """A run in a folder, interrupted in a slot; what it said."""
    with pytest.raises(Interrupted) as interruption:
        run(RunRequest(load("demo", SMALL), out, "local"), Interrupting(slot), [])
    return str(interruption.value)


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_a_common_boundary_resume_changes_nothing_and_says_how_to_begin_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert f"`cfmimo resume {out}` goes on" in interrupted(out, 35)
    for lost in (out / "checkpoints").glob("ap-1.*"):
        lost.unlink()
    before = content(out)
    assert run_cfmimo(["resume", str(out)]) == 2
    assert f"`cfmimo resume {out} --from-start`" in capsys.readouterr().err
    assert content(out) == before
    assert run_cfmimo(["resume", str(out), "--from-start", "--quiet"]) == 0
    uninterrupted = LocalNetwork(load("demo", SMALL))
    uninterrupted.run()
    assert RunDir.open(out).summary()["digest"] == uninterrupted.coordinator.record.digest()


def test_a_run_that_ends_before_its_first_checkpoint_keeps_its_folder_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    said = interrupted(out, 5)
    assert said == f"it had no checkpoint yet; `cfmimo resume {out} --from-start` begins it again with slot 0"
    before = content(out)
    assert {"config.toml", "manifest.json", "journal"} <= {path.name for path in before}
    assert run_cfmimo(["resume", str(out)]) == 2
    assert content(out) == before


ALWAYS = (*SMALL, "run.checkpoint_every_slots=5", "cooperation.policy=always")
LATE = (
    *("cooperation.neighbour_sets=common-ue", "cooperation.cluster=serving", "precoding.joint=selective"),
    *("propagation.block_ms=4", "cooperation.history_blocks=6", "impairments.fronthaul_blocks=[[0.4, 0], [0.6, 5]]"),
)
FAULTY = {  # an AP may be down where an episode begins
    "faults": [
        {"slot": 4, "action": "lie", "target": "ap/0", "args": {"slots": 56}},
        {"slot": 17, "action": "disk_full", "target": "ap/1", "args": {"slots": 12}},
        {"slot": 22, "action": "partition", "target": "ap/0-2", "args": {"slots": 9, "others": ["ap/3-5"]}},
        {"slot": 15, "action": "kill", "target": "ap/*", "share": 0.3, "every": 8, "until": 55, "args": {"slots": 4}},
    ],
    "links": [{"loss": 0.1}],
}
CUTS = tuple(np.random.default_rng(17).choice(np.arange(5, 60), 10, replace=False).tolist())


def faulty(folder: Path, first_slot: int = 0, until: int | None = None, setting: tuple[str, ...] = ALWAYS) -> Record:
    """A run under all these faults, from a slot on, and until another has closed if it does not end."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    config = load("demo", setting)
    faults = resolve(FaultPlan.model_validate(FAULTY), config)
    network = LocalNetwork(config, faults=faults, folder=folder, first_slot=first_slot)
    for _ in network.frames():
        if network.coordinator.newest == until:
            break
    return network.coordinator.record


@cache
def uninterrupted() -> Record:
    with TemporaryDirectory() as folder:
        return faulty(Path(folder))


@pytest.mark.parametrize("cut", CUTS)
def test_a_faulty_run_that_is_resumed_is_the_one_that_was_never_stopped(cut: int, tmp_path: Path) -> None:
    faulty(tmp_path, until=cut)
    slot = newest_boundary(tmp_path, load("demo", ALWAYS), replays=True)
    go_back(tmp_path, load("demo", ALWAYS), slot)
    assert faulty(tmp_path, slot).digest() == uninterrupted().digest()
    if cut == max(CUTS):
        assert slot > cut - 10
        assert len(uninterrupted().suspects) > 50
        assert uninterrupted().silent.sum() > 10


BELIEF = (
    *("cooperation.policy=belief", "cooperation.neighbour_sets=common-ue", "cooperation.cluster=serving"),
    *("precoding.joint=selective", "cooperation.link_price=-1", "run.checkpoint_every_slots=5"),
    "impairments.calibration_error=[[0.5, 0.0], [0.5, 0.9]]",
)


def test_so_is_one_in_which_aps_find_out_about_themselves(tmp_path: Path) -> None:
    setting = (*SMALL, *BELIEF)
    with TemporaryDirectory() as folder:
        uncut = faulty(Path(folder), setting=setting)
    faulty(tmp_path, until=57, setting=setting)
    slot = newest_boundary(tmp_path, load("demo", setting), replays=True)
    assert slot % 20
    go_back(tmp_path, load("demo", setting), slot)
    assert faulty(tmp_path, slot, setting=setting).digest() == uncut.digest()


def test_so_is_one_that_would_go_on_when_the_channel_server_waits_for_fewer_aps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All APs have a checkpoint of slot 30, but one of them was not heard in the two slots before."""
    cut_off = {"senders": "ap/5", "receivers": "channel", "first": 28, "last": 29, "loss": 1.0}
    monkeypatch.setitem(FAULTY, "faults", [])
    monkeypatch.setitem(FAULTY, "links", [cut_off])
    with TemporaryDirectory() as folder:
        uncut = faulty(Path(folder))
    assert uncut.reported.all()
    faulty(tmp_path, until=31)
    assert newest_boundary(tmp_path, load("demo", ALWAYS), replays=False) == 30
    slot = newest_boundary(tmp_path, load("demo", ALWAYS), replays=True)
    assert slot == 25
    go_back(tmp_path, load("demo", ALWAYS), slot)
    assert faulty(tmp_path, slot).digest() == uncut.digest()


@pytest.mark.parametrize("cut", [33, 57])
def test_so_is_one_in_which_aps_remember_estimates_of_earlier_slots(cut: int, tmp_path: Path) -> None:
    """Those that survive a kill as those of a boundary in the middle of an episode."""
    setting = (*ALWAYS, *LATE)
    with TemporaryDirectory() as folder:
        uncut = faulty(Path(folder), setting=setting)
    faulty(tmp_path, until=cut, setting=setting)
    slot = newest_boundary(tmp_path, load("demo", setting), replays=True)
    assert slot % 20
    go_back(tmp_path, load("demo", setting), slot)
    assert faulty(tmp_path, slot, setting=setting).digest() == uncut.digest()
