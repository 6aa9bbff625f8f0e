"""The paper beside ours, as a whole: small here, but nothing left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cfmimo.cli import main as cli
from cfmimo.experiments import reproduce
from cfmimo.experiments.reproduce import READINGS, Plan, figures_of, total_steps
from cfmimo.report.pages import write_reproduction

TINY = Plan(
    seeds=2,
    layouts=3,
    slots=1,
    overrides=(
        "run.episodes=3",
        "run.slots_per_episode=4",
        "radio.num_aps=16",
        "radio.num_ues=6",
        "radio.area_m=400",
        "learning.batch_size=4",
    ),
)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], Any]:
    folder = tmp_path_factory.mktemp("parts")
    rows, parts = reproduce.reproduce(TINY, 5, folder, 1, lambda done, total: None)
    return folder, rows, parts


def test_every_row_says_paper_ours_verdict_and_reading(reproduced: tuple[Path, list[dict[str, Any]], Any]) -> None:
    _, rows, _ = reproduced
    for row in rows:
        assert set(row) == {"quantity", "paper", "ours", "difference", "verdict", "reading"}
        assert row["ours"]["low"] <= row["ours"]["mean"] <= row["ours"]["high"]
        assert row["verdict"]
        assert row["reading"]
        assert (row["difference"] is None) == (row["paper"] is None)
    quantities = [row["quantity"] for row in rows]
    for wanted in ("no cooperation: mean SINR [dB]", "centralised RZF: gain [dB]"):
        assert quantities.count(wanted) == 1
    for wanted in ("DDQN: gain [dB]", "random, as many links: gain [dB]", "DDQN: directed requests"):
        assert quantities.count(wanted) == len(READINGS)


def test_what_cannot_be_reproduced_says_why(reproduced: tuple[Path, list[dict[str, Any]], Any]) -> None:
    _, rows, _ = reproduced
    for start in ("links of the central controller", "Fig. 3, phase 1: request rate"):
        assert all(row["verdict"].startswith("cannot be") for row in rows if row["quantity"] == start)


def test_a_finished_part_is_read_back_and_not_done_again(reproduced: tuple[Path, list[dict[str, Any]], Any]) -> None:
    folder, rows, _ = reproduced
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(before) == {f"{reading}-seed{seed}.npz" for reading in READINGS for seed in (5, 6)}
    told: list[int] = []
    again, _ = reproduce.reproduce(TINY, 5, folder, 1, lambda done, total: told.append(done))
    assert again == rows
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert told[-1] == total_steps(TINY)


def test_a_part_of_another_plan_is_done_again(
    reproduced: tuple[Path, list[dict[str, Any]], Any], tmp_path: Path
) -> None:
    folder, _, _ = reproduced
    name = "mutual-seed5.npz"
    (tmp_path / name).write_bytes((folder / name).read_bytes())
    other = Plan(TINY.seeds, TINY.layouts, TINY.slots + 1, TINY.overrides)
    part = reproduce._part("mutual", 5, other, tmp_path)
    assert (tmp_path / name).read_bytes() != (folder / name).read_bytes()
    assert len(part.reached["never/sum_rate"]) == TINY.layouts


def test_the_page_holds_the_table_and_all_figures(
    reproduced: tuple[Path, list[dict[str, Any]], Any], tmp_path: Path
) -> None:
    _, rows, parts = reproduced
    write_reproduction(tmp_path, rows, figures_of(parts), "so")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 6
    assert "500 links of the central controller" in page
    for figure in (
        "fig3-cooperation",
        "fig4-sinr",
        "fig5-rate",
        "fig6-links",
        "fig7-rate-per-link",
        "fig7-db-per-link",
    ):
        assert (tmp_path / f"figures/{figure}.pdf").exists()
    assert json.loads((tmp_path / "reproduction.json").read_text()) == rows


def layouts_of(value: float, spread: float) -> np.ndarray:
    return value + spread * np.tile([-1.0, 1.0], 10)


@pytest.mark.parametrize(
    ("value", "spread", "verdict"),
    [
        (8.5, 0.5, "reproduced: in the interval of the mean"),
        (9.2, 0.5, "reproduced: one layout may differ so much"),
        (9.9, 0.5, "differs"),
    ],
)
def test_a_verdict_weighs_the_difference_against_intervals_and_layouts(
    value: float, spread: float, verdict: str
) -> None:
    assert reproduce._row("q", 8.48, layouts_of(value, spread), "r")["verdict"] == verdict
    assert reproduce._row("q", 8.48, layouts_of(value, spread), "r", within=2.0)["verdict"].endswith("the paper's band")


def test_the_command_goes_on_where_it_was_and_prints_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce, "QUICK", TINY)
    command = ["reproduce", "--quick", "--seed", "5", "--out", str(tmp_path / "r"), "--json"]
    assert cli.run_cfmimo(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert cli.run_cfmimo(command) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert cli.run_cfmimo([*command[:-2], str(tmp_path), "--json"]) == 2  # holds other files
    assert "already holds" in capsys.readouterr().err
