"""A sweep: every point and seed once, also if it is killed in between; and what is refused."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import cfmimo
from cfmimo.errors import ConfigError
from cfmimo.experiments.sweep import RUNS, grid_of, interval

SMALL = ["radio.num_aps=6", "radio.num_ues=3", "radio.area_m=250.0", "run.episodes=2", "run.slots_per_episode=20"]
GRID = ["--grid", "cooperation.policy=random,threshold", "cooperation.max_neighbours=2,3"]


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "cfmimo", "sweep", "demo", *options, "--out", "swept", "--set", *SMALL]


def test_a_sweep_that_is_killed_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    whole = [*command(*GRID, "--seeds", "2", "--json")]
    process = subprocess.Popen(whole, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    runs, give_up = tmp_path / "swept" / RUNS, time.monotonic() + 100
    while len([*runs.glob("*/summary.json")]) < 3:
        assert time.monotonic() < give_up
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    done = {path: path.stat().st_mtime_ns for path in runs.glob("*/summary.json")}
    assert 3 <= len(done) < 8
    printed = subprocess.run(whole, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=200).stdout
    assert {path: path.stat().st_mtime_ns for path in done} == done
    rows = json.loads(printed)["rows"]
    assert [(row["cooperation.policy"], row["cooperation.max_neighbours"]) for row in rows] == [
        ("random", 2.0), ("random", 3.0), ("threshold", 2.0), ("threshold", 3.0)
    ]  # fmt: skip
    assert len(pq.read_table(tmp_path / "swept/sweep.parquet")) == 4
    assert {path.name for path in (tmp_path / "swept").iterdir()} == {
        RUNS, "figures", "report.html", "sweep.json", "sweep.parquet"
    }  # fmt: skip
    for row in rows:
        chosen = {"policy": row["cooperation.policy"], "max_neighbours": int(row["cooperation.max_neighbours"])}
        alone = [
            cfmimo.run(cfmimo.load("demo", SMALL, seed, cooperation=chosen), out=tmp_path / f"{chosen}{seed}").summary
            for seed in (0, 1)
        ]
        assert row["runs"] == 2
        assert row["sum_rate_bps_hz"]["mean"] == pytest.approx(np.mean([run["sum_rate_bps_hz"] for run in alone]))
    more = [*command(*GRID, "--seeds", "3", "--quiet")]
    subprocess.run(more, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    assert len([*runs.iterdir()]) == 12  # one more seed at each point, and no run again
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grid", "cooperation.policy"], "should read section.key=value,value"),
        (["--grid", "cooperation.max_neighbours=2,none"], "cooperation.max_neighbours=none: "),
        (["--grid", "cooperation.polcy=random"], "did you mean cooperation.policy?"),
        (["--grid", "cooperation.policy=random,nowhere:Policy"], "policy nowhere:Policy cannot be imported"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(options: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(command(*options), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "swept").exists()


def test_runs_of_another_experiment_are_not_taken_for_those_of_this_one(tmp_path: Path) -> None:
    options = ["--grid", "cooperation.policy=random", "--seeds", "1", "--quiet"]
    done = subprocess.run(command(*options), cwd=tmp_path, check=True, capture_output=True, text=True, timeout=100)
    assert "random" in done.stdout
    assert "±" not in done.stdout.split("interval")[1]  # of one run there is none
    assert "±" not in (tmp_path / "swept/report.html").read_text("utf-8")
    other = [*command(*options), "radio.serving_threshold=0.5"]
    done = subprocess.run(other, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "is a run of another experiment" in done.stderr


def test_a_grid_is_every_combination_and_brackets_keep_together() -> None:
    assert grid_of(["a.b=1,2", "c.d=x"]) == [{"a.b": "1", "c.d": "x"}, {"a.b": "2", "c.d": "x"}]
    assert grid_of(["a.b=[1, 2],[3]"]) == [{"a.b": "[1, 2]"}, {"a.b": "[3]"}]
    with pytest.raises(ConfigError, match="each setting once"):
        grid_of(["a.b=1", "a.b=2"])


def test_intervals_are_those_of_student() -> None:
    found = interval(np.array([1.0, 2.0, 3.0]))
    assert found["mean"] == 2
    assert found["high"] - 2 == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert interval(np.array([5.0])) == {"mean": 5.0, "low": None, "high": None}
    rng = np.random.default_rng(0)
    covered = [(r := interval(rng.normal(size=4)))["low"] <= 0 <= r["high"] for _ in range(2000)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
