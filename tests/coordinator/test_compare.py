"""Policies are compared on the same layouts and fading, and at the links they were tuned to."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.cli import run_command
from coordinator.compare import POLICIES, compare
from coordinator.presets import ConfigError, load

LAYOUTS = 20


@pytest.fixture(scope="module")
def paper() -> dict[tuple[str, int | None], dict[str, Any]]:
    rows = compare(load("paper"), POLICIES, LAYOUTS, [20, 40, 500], slots=1)
    return {(row["policy"], row["aimed_at"]): row for row in rows}


def test_every_policy_has_a_row_and_links_out_of_reach_have_none(paper: dict[Any, Any]) -> None:
    tuned = {(policy, links) for policy in ("random", "threshold") for links in (20, 40)}
    assert set(paper) == tuned | {("never", None), ("always", None), ("centralised", None)}


def test_no_cooperation_gains_nothing_and_costs_nothing(paper: dict[Any, Any]) -> None:
    never = paper["never", None]
    assert never["gain_db"] == never["gain_bps_hz"] == {"mean": 0, "low": 0, "high": 0}
    assert never["links"]["requests"] == never["links"]["formed"] == never["bytes_per_slot"] == 0


@pytest.mark.parametrize("policy", ["random", "threshold"])
@pytest.mark.parametrize("links", [20, 40])
def test_policies_are_compared_at_the_links_they_are_tuned_to(paper: dict[Any, Any], policy: str, links: int) -> None:
    assert paper[policy, links]["links"]["formed"] == pytest.approx(links, rel=0.08)


def test_the_centralised_gain_is_what_an_independent_simulator_found(paper: dict[Any, Any]) -> None:
    """0.97 dB over no cooperation, paired over 20 drops."""
    assert paper["centralised", None]["gain_db"]["mean"] == pytest.approx(0.97, abs=0.15)
    assert paper["never", None]["sinr_mean_db"]["mean"] == pytest.approx(8.82, abs=0.3)
    assert paper["never", None]["sum_rate_bps_hz"]["mean"] == pytest.approx(126.5, abs=3)


def test_intervals_hold_their_mean_and_more_links_cost_more(paper: dict[Any, Any]) -> None:
    for row in paper.values():
        for name in ("sum_rate_bps_hz", "sinr_mean_db", "sinr_p5_db", "gain_db"):
            assert row[name]["low"] <= row[name]["mean"] <= row[name]["high"]
    assert paper["random", 20]["bytes_per_slot"] < paper["random", 40]["bytes_per_slot"]
    assert paper["random", 40]["over_random_bps_hz"]["mean"] == 0


def test_the_gain_is_paired_layout_by_layout() -> None:
    """Were it not, its interval would be as wide as that of the rate, of which layouts differ by +-6 bit/s/Hz."""
    (row,) = compare(load("paper"), ["always"], 8, [], slots=1)
    rate, gain = row["sum_rate_bps_hz"], row["gain_bps_hz"]
    assert gain["high"] - gain["low"] < 0.7 * (rate["high"] - rate["low"])


def test_the_same_comparison_comes_out_the_same() -> None:
    config = load("demo", ("run.blocks_per_slot=1",))
    one, other = (compare(config, ["random", "threshold"], 2, [5], slots=2) for _ in range(2))
    assert one == other


def test_a_policy_that_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot compare 'ddqn'; there are never"):
        compare(load("demo"), ["ddqn"], 1, [5], slots=1)


def test_the_command_leaves_rows_and_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "demo", "--layouts", "2", "--slots", "1", "--links", "5,8", "--out", str(tmp_path / "c")]
    assert run_command([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "c/comparison.json").read_text()) == result["rows"]
    assert {row["policy"] for row in result["rows"]} == set(POLICIES)
    assert (tmp_path / "c/figures/pareto.svg").exists()
    assert np.isfinite([row["sum_rate_bps_hz"]["mean"] for row in result["rows"]]).all()


def test_a_bad_policy_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["compare", "demo", "--policies", "magic", "--out", str(tmp_path / "c")]) == 2
    assert "cannot compare 'magic'" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
