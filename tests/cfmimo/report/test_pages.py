"""Pages: parsed, since a page is XML too; all that they show comes from the files beside them."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

from apnode.config.cooperation import POLICIES
from cfmimo.cli.main import run_cfmimo
from cfmimo.experiments.contenders import NAMES
from cfmimo.report import comparison_figures
from coordinator.collector import Coordinator
from coordinator.watch.live import LiveMap, Seen
from coordinator.watch.looks import GLYPHS, LOOKS
from tests.coordinator.examples import config, slot_report

SVG = "{http://www.w3.org/2000/svg}"
SMALL = ("--set", "radio.num_aps=5", "radio.num_ues=3", "run.episodes=2", "run.slots_per_episode=3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "r"
    assert run_cfmimo(["run", "demo", "--runtime", "local", "--json", *SMALL, "--out", str(path)]) == 0
    return path


PLAN = """
seed = 1
[[faults]]
slot = 4
target = "ap/2"
action = "kill"
[[faults]]
slot = 9
target = "ap/0-4"
action = "kill"
share = 0.4
args = { slots = 2 }
[[faults]]
slot = 6
action = "kill_channel_server"
[[faults]]
slot = 8
target = "ap/1"
action = "lie"
"""


@pytest.fixture(scope="module")
def afflicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("afflicted")
    (path / "plan.toml").write_text(PLAN)
    settings = (*SMALL[:-2], "run.episodes=2", "run.slots_per_episode=7", "run.checkpoint_every_slots=3")
    run = ["run", "demo", "--runtime", "local", "--json", *settings, "--faults", str(path / "plan.toml")]
    assert run_cfmimo([*run, "--out", str(path / "r")]) == 0
    return path / "r"


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "r"))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("comparisons") / "c"
    arguments = ["compare", "demo", "--layouts", "3", "--slots", "1", "--links", "5,8", "--out", str(path), "--json"]
    assert run_cfmimo(arguments) == 0
    return path


def page_of(path: Path) -> ElementTree.Element:
    return ElementTree.parse(path / "report.html").getroot()  # noqa: S314  # ours


def text_of(element: ElementTree.Element) -> str:
    return "".join(element.itertext())


def assert_self_contained(path: Path) -> None:
    markup = (path / "report.html").read_text()
    assert set(re.findall(r"\w+://[^\s\"'<]*", markup)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    page = page_of(path)
    names = [value for element in page.iter() for name, value in element.attrib.items() if name == "id"]
    assert max(Counter(names).values()) == 1
    for element in page.iter():
        assert element.tag not in {"link", "script", "img", "iframe"}
        for name, value in element.attrib.items():
            if name.endswith(("href", "src")):
                assert value.startswith("data:") or value.removeprefix("#") in names
            assert set(re.findall(r"url\(#([^)]*)\)", value)) <= set(names)


# --- of a run ---------------------------------------------------------------------------------------------


def test_a_page_needs_no_other_file(finished: Path, comparison: Path) -> None:
    assert_self_contained(finished)
    assert_self_contained(comparison)


def test_a_page_with_faults_needs_no_other_file(afflicted: Path) -> None:
    assert_self_contained(afflicted)


def test_the_page_shows_every_figure_and_maps_of_the_first_and_the_last_slot(finished: Path) -> None:
    names = {path.stem for path in (finished / "figures").iterdir()}
    assert names == {"rate", "sinr", "links", "learning", "map-slot0", "map-slot5"}
    figures = page_of(finished).findall(".//figure")
    assert len(figures) == len(page_of(finished).findall(f".//figure/{SVG}svg")) == 6
    slots = pq.read_table(finished / "slots.parquet").to_pylist()
    captions = [text_of(figure) for figure in figures]
    for slot in (0, 5):
        said = f"{slots[slot]['requests']} requests, {slots[slot]['formed']} links formed"
        assert any(f"Slot {slot}: " in caption and said in caption for caption in captions)


def test_axes_have_units(finished: Path) -> None:
    for name, labels in {
        "map-slot0": {"x [m]", "y [m]", "SINR of the UE in this slot [dB]"},
        "rate": {"slot", "sum rate [bit/s/Hz]"},
        "sinr": {"slot", "SINR over UEs and blocks [dB]"},
    }.items():
        drawing = ElementTree.parse(finished / f"figures/{name}.svg")  # noqa: S314  # ours
        assert labels <= {text.text for text in drawing.iter(f"{SVG}text")}


def test_everything_is_drawn_again_from_the_tables_and_the_config(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in (run_dir / "figures").iterdir()}
    page = (run_dir / "report.html").read_bytes()
    shutil.rmtree(run_dir / "figures")
    (run_dir / "report.html").unlink()
    assert run_cfmimo(["report", str(run_dir)]) == 0
    assert capsys.readouterr().out == f"{run_dir / 'report.html'}\n"
    assert {path.name: path.read_bytes() for path in (run_dir / "figures").iterdir()} == before
    assert (run_dir / "report.html").read_bytes() == page


def test_maps_are_of_the_slots_one_asks_for(run_dir: Path) -> None:
    assert run_cfmimo(["report", str(run_dir), "--slots", "4,1,4"]) == 0
    captions = [text_of(caption) for caption in page_of(run_dir).iter("figcaption")]
    assert [caption.split(":")[0] for caption in captions[4:]] == ["Slot 4", "Slot 1"]
    assert {f"map-slot{slot}.{form}" for slot in (1, 4) for form in ("svg", "pdf", "png")} <= {
        path.name for path in (run_dir / "figures").iterdir()
    }


@pytest.mark.parametrize("option", ["--slots=6", "--slots=0,6", "--slots=-1"])
def test_a_slot_that_there_is_not_is_refused_and_nothing_is_written(
    option: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert run_cfmimo(["report", str(run_dir), option]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "there is no slot" in shown.err
    assert "holds slots 0 to 5" in shown.err
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_what_is_no_slot_is_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_cfmimo(["report", str(run_dir), "--slots", "first"])
    assert exit_.value.code == 2
    assert "'first' should read like 0,40,399" in capsys.readouterr().err


def test_without_its_channel_file_a_run_has_a_page_but_no_map(tmp_path: Path) -> None:
    scene, path = tmp_path / "scene.npz", tmp_path / "r"
    assert run_cfmimo(["snapshot", "demo", "--out", str(scene), "--json", *SMALL]) == 0
    run = ["run", "demo", "--runtime", "local", "--json", *SMALL, f"propagation.channel_file={scene}"]
    assert run_cfmimo([*run, "--out", str(path)]) == 0
    assert len(page_of(path).findall(f".//{SVG}svg")) == 6  # it says where everybody is
    scene.unlink()
    assert run_cfmimo(["report", str(path)]) == 0
    page = page_of(path)
    assert len(page.findall(f".//{SVG}svg")) == 4
    assert any(f"No map: propagation.channel_file: cannot read {scene}" in text_of(p) for p in page.iter("p"))


def test_a_table_that_is_gone_is_missed_in_a_sentence(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "links.parquet").unlink()
    assert run_cfmimo(["report", str(run_dir)]) == 0
    assert any(f"No map: {run_dir} holds no links.parquet" in text_of(p) for p in page_of(run_dir).iter("p"))
    (run_dir / "slots.parquet").unlink()
    assert run_cfmimo(["report", str(run_dir)]) == 2
    assert f"{run_dir} holds no slots.parquet" in capsys.readouterr().err


def test_the_page_of_a_hundred_aps_stays_small(tmp_path: Path) -> None:
    settings = ["--set", "run.episodes=1", "run.slots_per_episode=2", "cooperation.policy=always"]
    run = ["run", "paper-directed", "--runtime", "local", "--json", *settings, "--out", str(tmp_path / "r")]
    assert run_cfmimo(run) == 0
    assert (tmp_path / "r/report.html").stat().st_size < 5e5


# --- of a run with faults ---------------------------------------------------------------------------------


def tables_of(path: Path) -> dict[str, list[list[str]]]:
    """Rows of each table of a page, by the first word of its header."""
    tables = {}
    for table in page_of(path).iter("table"):
        header, *rows = [[text_of(cell) for cell in line] for line in table.iter("tr")]
        tables[header[0]] = rows
    return tables


def test_the_page_of_a_run_without_faults_does_not_speak_of_any(finished: Path) -> None:
    assert "Faults" not in {text_of(heading) for heading in page_of(finished).iter("h2")}
    assert json.loads((finished / "summary.json").read_text())["faults"] is None


def test_the_page_tells_of_every_fault_and_every_death(afflicted: Path) -> None:
    faults = json.loads((afflicted / "faults.json").read_text())
    tables = tables_of(afflicted)
    assert {row[0]: row[1:] for row in tables["fault"]} == {
        "kill": ["3", "3"],
        "lie": ["1", "1"],
        "kill channel server": ["1", "1"],
    }
    killed = [[fired["node"], str(fired["slot"])] for fired in faults["fired"] if fired["action"] == "kill"]
    assert [[f"ap/{row[0]}", row[1]] for row in tables["AP"]] == killed
    restored = {str(back["ap"]): back["restored"] for back in faults["comebacks"]}
    assert {row[0]: row[4] for row in tables["AP"]} == {ap: f"before slot {slot}" for ap, slot in restored.items()}
    for ap, died, _, lost, _, _, back in tables["AP"]:
        assert missed_slots(afflicted, int(ap)) >= set(range(int(died), int(died) + int(lost)))
        assert int(back) == int(died) + int(lost)


def missed_slots(path: Path, ap: int) -> set[int]:
    rows = pq.read_table(path / "aps.parquet").to_pylist()
    return {row["slot"] for row in rows if row["ap"] == ap and row["status"] != "ok"}


def test_figures_mark_the_faults_that_fired(afflicted: Path) -> None:
    for name, marked in {
        "rate": {"kill", "lie", "kill channel server"},
        "sinr": {"kill", "lie", "kill channel server"},
        "states": {"kill", "lie", "kill channel server", "in time", "down", "back from a checkpoint", "slot", "AP"},
    }.items():
        drawing = ElementTree.parse(afflicted / f"figures/{name}.svg")  # noqa: S314  # ours
        assert marked <= {text.text for text in drawing.iter(f"{SVG}text")}
    for name in ("links", "learning"):
        assert "kill" not in (afflicted / f"figures/{name}.svg").read_text()


def test_faults_are_drawn_again_from_the_files(afflicted: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(afflicted, tmp_path / "r"))
    shutil.rmtree(again / "figures")
    (again / "report.html").unlink()
    assert run_cfmimo(["report", str(again)]) == 0
    for path in (*(afflicted / "figures").iterdir(), afflicted / "report.html"):
        assert (again / path.relative_to(afflicted)).read_bytes() == path.read_bytes()


def test_who_was_given_up_is_named(afflicted: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(afflicted, tmp_path / "r"))
    faults = json.loads((again / "faults.json").read_text())
    (again / "faults.json").write_text(json.dumps({**faults, "given_up": [3]}))
    assert run_cfmimo(["report", str(again)]) == 0
    assert any("silent from then on: AP 3." in text_of(p) for p in page_of(again).iter("p"))


# --- of a comparison --------------------------------------------------------------------------------------


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name.removeprefix("_"): value}
    return {key: leaf for part, inner in value.items() for key, leaf in leaves(inner, f"{name}_{part}").items()}


def test_the_table_of_a_comparison_holds_every_value(comparison: Path) -> None:
    rows = json.loads((comparison / "comparison.json").read_text())
    stored = pq.read_table(comparison / "comparison.parquet").to_pylist()
    assert len(stored) == len(rows) > 5
    for row, kept in zip(rows, stored, strict=True):
        present = {name: value for name, value in leaves(row).items() if value is not None}
        assert {name: value for name, value in kept.items() if value is not None} == present
    assert {"sum_rate_bps_hz_mean", "sum_rate_bps_hz_low", "sum_rate_bps_hz_high", "links_formed"} <= stored[0].keys()


def test_the_page_of_a_comparison_has_a_row_for_every_row(comparison: Path) -> None:
    rows = json.loads((comparison / "comparison.json").read_text())
    page = page_of(comparison)
    (table,) = page.iter("table")
    header, *shown = [[text_of(cell) for cell in line] for line in table.iter("tr")]
    assert [cells[0] for cells in shown] == [row["policy"] for row in rows]
    assert {len(cells) for cells in shown} == {len(header)}
    for row, cells in zip(rows, shown, strict=True):
        cell = dict(zip(header, cells, strict=True))
        mean, half = cell["sum rate [bit/s/Hz]"].split(" ± ")
        rate = row["sum_rate_bps_hz"]
        assert float(mean) == pytest.approx(rate["mean"], abs=0.06)
        assert float(half) == pytest.approx((rate["high"] - rate["low"]) / 2, abs=0.06)
        assert cell["aimed at"] == ("" if row["aimed_at"] is None else str(row["aimed_at"]))
        assert bool(cell["over random [bit/s/Hz]"]) == (row["over_random_bps_hz"] is not None)
        formed = row["links"]["formed"]
        assert (cell["links formed"] == "") == (formed is None)
        assert float(cell["links formed"] or 0) == pytest.approx(formed or 0, abs=0.06)
    assert text_of(page).count("num_aps = 20") == 1
    assert len(page.findall(f".//{SVG}svg")) == 1


def test_a_policy_looks_the_same_in_figures_and_on_the_live_page_and_like_no_other(comparison: Path) -> None:
    assert LOOKS.keys() == {*NAMES}
    for of_all in zip(*LOOKS.values(), strict=True):
        assert len({*of_all}) == len(LOOKS)
    drawn = comparison_figures.pareto(json.loads((comparison / "comparison.json").read_text()))
    handles, labels = drawn.axes[0].get_legend_handles_labels()
    lines = [handle[0] if isinstance(handle, tuple) else handle for handle in handles]
    shown = dict(zip(labels, lines, strict=True))
    assert {"never", "random", "oracle"} <= shown.keys()
    assert {policy: (line.get_color(), line.get_marker()) for policy, line in shown.items()} == {
        policy: LOOKS[policy] for policy in shown
    }
    policies = POLICIES
    for policy in policies:
        serving = "cooperation.cluster=serving", "precoding.joint=selective"  # belief needs it
        coordinator = Coordinator(config(f"cooperation.policy={policy}", *serving))
        for slot in range(2):
            coordinator.handle(slot_report(slot))
        episode, _ = LiveMap(lambda: coordinator).news(Seen())  # noqa: B023  used at once
        told = json.loads(episode)["episode"]
        assert (told["colour"], told["colour_alone"]) == (LOOKS[policy].colour, LOOKS["never"].colour)
    assert len({GLYPHS[LOOKS[policy].marker] for policy in policies}) == len(policies)


def test_a_picture_has_all_its_colours(finished: Path, comparison: Path) -> None:
    pictures = [path for folder in (finished, comparison) for path in (folder / "figures").glob("*.png")]
    assert len(pictures) > 6
    assert {path.read_bytes()[25] for path in pictures} <= {2, 6}  # RGB, RGBA; 3 would be a palette
