"""Ray-traced scenes: what `cfmimo scene` writes, goes on with, and refuses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cfmimo.cli.main import run_cfmimo
from cfmimo.errors import ConfigError
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork
from cfmimo.scene import CELL_M, HEARD, LEAST, Scene, Tracer, draw_users, rounded, trace
from channel_server.recorded import ROOF_M, SCENES, recorded

CANYON = Scene("simple_street_canyon", aps=5, ues=4, layouts=3, side_m=80, rays=10**5)


def missing() -> str:
    """Why nothing can be traced here."""
    try:
        Tracer(CANYON)
    except ConfigError as error:
        return str(error)
    return ""


traced = pytest.mark.skipif(bool(missing()), reason=missing())


# --- what needs no tracer ----------------------------------------------------------------------------------


def test_users_stand_where_an_ap_is_heard_and_who_is_not_heard_is_drawn_again() -> None:
    gains = np.where(np.arange(100) < 30, 2 * HEARD, 0.5 * HEARD) * np.array([[0.1], [1.0]])
    users, redrawn = draw_users(gains, layouts=50, ues=8, rng=np.random.default_rng(0))
    assert users.shape == (50, 8)
    assert users.max() < 30
    assert {len(set(row)) for row in users.tolist()} == {8}
    assert redrawn / 50 == pytest.approx(8 * 70 / 31, rel=0.2)  # misses before the 8th hit
    assert len(np.unique(users)) == 30
    with pytest.raises(ConfigError, match="only 30 places outdoors hear an AP, fewer than 31 users"):
        draw_users(gains, 1, 31, np.random.default_rng(0))


def test_gains_are_steps_of_a_hundredth_of_a_decibel_and_0_below_the_least() -> None:
    exact = np.array([1e-7, 1.00001e-7, 3.3333e-12, 1.01 * LEAST, 0.99 * LEAST, 0.0])
    told = rounded(exact)
    assert told[0] == told[1]
    np.testing.assert_allclose(10 * np.log10(told[:4].astype(float) / exact[:4]), 0, atol=0.005)
    assert not told[4:].any()


@pytest.mark.parametrize("absent", ["sionna", "mitsuba"])
def test_without_sionna_a_sentence_says_what_to_install(absent: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{absent!r}] = None; from cfmimo.cli.main import run_cfmimo; "
    code += f"sys.exit(run_cfmimo(['scene', 'munich', '--out', {str(tmp_path / 'x.npz')!r}]))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "cfmimo: tracing scenes needs Sionna RT: pip install 'cfmimo[scenes]'\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--out", "x.txt"], ["--out", "x.npz", "--side", "5"]])
def test_a_scene_that_cannot_be_is_refused(arguments: list[str], capsys: Any) -> None:
    assert run_cfmimo(["scene", "munich", *arguments]) == 2
    assert capsys.readouterr().err.startswith("cfmimo: --")


# --- what is traced ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def canyon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scene") / "canyon.npz"
    trace(CANYON, out)
    return out


def using(path: Path, *overrides: str) -> Any:
    sizes = (f"radio.num_aps={CANYON.aps}", f"radio.num_ues={CANYON.ues}", f"radio.area_m={CANYON.side_m}")
    at = ("radio.wrap_around=false", "run.episodes=3", "run.slots_per_episode=2", f"propagation.channel_file={path}")
    return load("demo", (*sizes, *at, *overrides))


@traced
def test_a_scene_is_a_channel_file_that_runs_and_says_what_it_is(canyon: Path) -> None:
    config = using(canyon)
    file = recorded(config)
    assert file is not None
    assert file.beta.shape == (CANYON.layouts, CANYON.aps, CANYON.ues)
    assert (file.beta.max(axis=1) >= 0.99 * HEARD).all()
    assert ((file.beta == 0) | (file.beta >= 0.99 * LEAST)).all()
    network = LocalNetwork(config)
    network.run()
    assert network.coordinator.record.closed.all()
    with np.load(canyon) as arrays:
        about = json.loads(str(arrays["about"]))
    assert about["name"] == "simple_street_canyon"
    assert about["tracer"].startswith("Sionna RT 2")
    assert {"seed", "carrier_hz", "height_m", "depth", "rays", "attribution"} < about.keys()
    assert list(canyon.parent.iterdir()) == [canyon]  # no parts are left


@traced
def test_the_same_seed_gives_the_same_file_also_after_an_interruption(canyon: Path, tmp_path: Path) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop(done: int, of: int) -> None:
        if done == 3:
            raise Stop

    out = tmp_path / "again.npz"
    with pytest.raises(Stop):
        trace(CANYON, out, stop)
    assert not out.exists()
    parts = tmp_path / "again.npz.parts"
    written = {part: part.stat().st_mtime_ns for part in parts.glob("*.npy")}
    assert len(written) == 3
    seen = []
    trace(CANYON, out, lambda done, of: seen.append({part: part.stat().st_mtime_ns for part in parts.glob("*.npy")}))
    assert seen[-1].items() > written.items()  # what was there was not traced again
    assert out.read_bytes() == canyon.read_bytes()


@traced
def test_parts_of_another_scene_are_not_mixed_in(tmp_path: Path) -> None:
    parts = tmp_path / "x.npz.parts"
    parts.mkdir()
    (parts / "scene.json").write_text("{}")
    with pytest.raises(ConfigError, match="has parts of another scene; delete it, or name another --out"):
        trace(CANYON, tmp_path / "x.npz")


@traced
def test_nobody_is_inside_a_building(canyon: Path) -> None:
    """Found by rays from above, and by the file's own map of roofs."""
    tracer = Tracer(CANYON)
    with np.load(canyon) as file:
        for places in (file["ap_xy"], file["ue_xy"].reshape(-1, 2)):
            assert tracer.outdoors(places.astype(float)).all()
            assert (places >= 0).all()
            assert (places <= CANYON.side_m).all()
        roofs = file["roofs"]
    assert roofs.shape == (CANYON.side_m / ROOF_M,) * 2
    assert 0.1 < roofs.mean() < 0.9
    middles = (np.argwhere(roofs)[:, ::-1] + 0.5) * ROOF_M
    assert not tracer.outdoors(middles).any()


@traced
def test_gains_are_those_of_the_tracers_paths_at_the_same_places() -> None:
    """A radio map against rays from point to point: Sionna RT's other way to come to the same."""
    import sionna.rt

    scene = Scene("simple_street_canyon", aps=1, ues=1, layouts=1, side_m=80, rays=10**6)
    tracer = Tracer(scene)
    cells = tracer.cells()
    outside = tracer.outdoors(cells.reshape(-1, 2)).reshape(cells.shape[:2])
    gains = tracer.gains(0, np.array([38.0, 42.0]))
    places = np.argwhere(outside & (gains > HEARD))
    places = places[np.random.default_rng(0).permutation(len(places))[:100]]
    loaded, (dx, dy) = tracer._loaded, tracer._origin
    loaded.add(sionna.rt.Transmitter("t", position=[float(38 + dx), float(42 + dy), tracer.ground_m + scene.height_m]))
    for number, (row, column) in enumerate(places):
        x, y = cells[row, column]
        loaded.add(sionna.rt.Receiver(f"r{number}", position=[float(x + dx), float(y + dy), tracer.ground_m + 1.5]))
    paths = sionna.rt.PathSolver()(loaded, max_depth=scene.depth, refraction=False, diffraction=True)
    real, imaginary = (np.array(part) for part in paths.a)
    exact = (real**2 + imaginary**2).reshape(len(places), -1).sum(axis=1)
    traced_db, exact_db = 10 * np.log10(gains[tuple(places.T)]), 10 * np.log10(np.maximum(exact, 1e-30))
    assert len(places) == 100
    assert np.median(np.abs(traced_db - exact_db)) < 1


@traced
@pytest.mark.parametrize("name", ["atlantis", "no.xml", "broken.xml", "empty.xml"])
def test_what_is_no_scene_gets_a_sentence(name: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.xml").write_text("<scene version='3.0.0'><shape")
    (tmp_path / "empty.xml").write_text("<scene version='3.0.0'></scene>")
    assert run_cfmimo(["scene", name, "--out", "x.npz", "--aps", "2"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("cfmimo: ")
    assert name in said
    assert not list(tmp_path.glob("x.npz*"))


# --- files that come with the package ----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in SCENES.glob("*.npz")))
def test_a_file_that_comes_with_the_package_says_where_it_is_from(name: str) -> None:
    with np.load(SCENES / f"{name}.npz") as file:
        about = json.loads(str(file["about"]))
        assert about["attribution"]
        assert file["ue_xy"].shape == (about["layouts"], about["ues"], 2)
        roofs, places = file["roofs"], np.concatenate([file["ap_xy"], file["ue_xy"].reshape(-1, 2)])
    assert CELL_M % ROOF_M == 0
    column, row = (places // ROOF_M).astype(int).T
    assert not roofs[row, column].any()
    assert about["name"].replace("simple_street_", "") == name
    assert f"{name}.npz" in (SCENES / "LICENCE.md").read_text()


def test_all_files_of_the_package_are_small() -> None:
    assert 0 < sum(path.stat().st_size for path in SCENES.iterdir()) < 2 * 10**6
