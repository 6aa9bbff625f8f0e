"""Policies are compared on the same layouts and fading, and at the links they were tuned to."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apnode.config import Config
from apnode.radio.precoding import Precoder
from cfmimo.cli.main import run_cfmimo
from cfmimo.errors import ConfigError
from cfmimo.experiments.agents import train
from cfmimo.experiments.compare import compare, measured, notes_of
from cfmimo.experiments.contenders import LOCAL, TOLD, default_policies
from cfmimo.presets import load
from channel_server.topology import make_layout

TUNABLE = ("random", "threshold", "forecast", "oracle")
WITHOUT_LEARNING = default_policies(load("paper"))
Rows = dict[tuple[str, int | None], dict[str, Any]]


def rows_at(policies: list[str], layouts: int, links: list[int]) -> Rows:
    rows = compare(load("paper"), policies, layouts, links, slots=2, workers=2)
    return {(row["policy"], row["aimed_at"]): row for row in rows}


@pytest.fixture(scope="module")
def paper() -> Rows:
    """Every policy that does not learn, tuned."""
    return rows_at(WITHOUT_LEARNING, 8, [20, 40, 500])


@pytest.fixture(scope="module")
def simulated() -> Rows:
    """What an independent simulator gave figures for, over as many drops as there."""
    return rows_at(["never", "random", "centralised", "p-mmse"], 20, [])


def test_every_policy_has_a_row_and_links_out_of_reach_have_none(paper: dict[Any, Any]) -> None:
    tuned = {(policy, links) for policy in TUNABLE for links in (20, 40)}
    (of_masters,) = (links for policy, links in paper if policy == "master")
    assert of_masters == round(paper["master", of_masters]["links"]["formed"])
    tuned |= {(policy, of_masters) for policy in (*TUNABLE, "master")}
    assert set(paper) == tuned | {("random", None)} | {
        (name, None) for name in WITHOUT_LEARNING if name not in {p for p, _ in tuned}
    }


def test_no_cooperation_gains_nothing_and_costs_nothing(paper: dict[Any, Any]) -> None:
    never = paper["never", None]
    assert never["gain_db"] == never["gain_bps_hz"] == {"mean": 0, "low": 0, "high": 0}
    assert never["links"]["requests"] == never["links"]["formed"] == never["bytes_per_slot"] == 0


@pytest.mark.parametrize(("policy", "tolerance"), [("random", 0.15), ("threshold", 0.08), ("forecast", 0.01)])
@pytest.mark.parametrize("links", [20, 40])
def test_policies_are_compared_at_the_links_they_are_tuned_to(
    paper: dict[Any, Any], policy: str, tolerance: float, links: int
) -> None:
    assert paper[policy, links]["links"]["formed"] == pytest.approx(links, rel=tolerance)


def test_the_oracle_stops_where_no_link_adds_to_those_it_has(paper: dict[Any, Any]) -> None:
    assert paper["oracle", 20]["links"]["formed"] == 20
    assert 25 < paper["oracle", 40]["links"]["formed"] < 38
    assert paper["oracle", 40]["gain_bps_hz"]["mean"] > paper["oracle", 20]["gain_bps_hz"]["mean"]


def test_the_centralised_gain_is_what_an_independent_simulator_found(simulated: Rows) -> None:
    """0.97 dB over no cooperation, paired over 20 drops."""
    assert simulated["centralised", None]["gain_db"]["mean"] == pytest.approx(0.97, abs=0.1)
    assert simulated["never", None]["sinr_mean_db"]["mean"] == pytest.approx(8.82, abs=0.3)
    assert simulated["never", None]["sum_rate_bps_hz"]["mean"] == pytest.approx(126.5, abs=3)


def test_intervals_hold_their_mean_and_more_links_cost_more(paper: dict[Any, Any]) -> None:
    for row in paper.values():
        for name in ("sum_rate_bps_hz", "sinr_mean_db", "sinr_p5_db", "gain_db"):
            assert row[name]["low"] <= row[name]["mean"] <= row[name]["high"]
    assert paper["random", 20]["bytes_per_slot"] < paper["random", 40]["bytes_per_slot"]
    assert paper["random", 40]["over_random_bps_hz"]["mean"] == 0


def test_requests_at_the_papers_rate_gain_what_an_independent_simulator_found(simulated: Rows) -> None:
    """0.98 dB with random requests at 56.5 %, paired over 20 drops: as much as the paper's learned ones."""
    row = simulated["random", None]
    assert row["setting"] == 0.565
    assert row["gain_db"]["mean"] == pytest.approx(0.98, abs=0.1)


def test_who_knows_more_gets_more(paper: dict[Any, Any]) -> None:
    """At equal links the oracle is ahead; alone MMSE beats RZF beats MRT, and all antennas together beat some."""
    rate = {key: row["sum_rate_bps_hz"]["mean"] for key, row in paper.items()}
    for links in (20, 40):
        assert paper["oracle", links]["over_random_bps_hz"]["low"] > 0
        assert rate["oracle", links] > rate["threshold", links]
        assert paper["oracle", links]["gap_closed"] == {"mean": 1, "low": 1, "high": 1}
    assert rate["never", None] == rate["mrt", None] < rate["local-rzf", None] < rate["local-mmse", None]
    assert rate["local-mmse", None] < rate["p-mmse", None] < rate["full-mmse", None]


def test_p_mmse_is_what_an_independent_simulator_found(simulated: Rows) -> None:
    row = simulated["p-mmse", None]
    assert row["sum_rate_bps_hz"]["mean"] == pytest.approx(226, abs=8)
    assert row["sinr_mean_db"]["mean"] == pytest.approx(16.9, abs=0.5)
    assert row["sinr_p5_db"]["mean"] == pytest.approx(9.5, abs=1)


def test_knowing_the_mean_gain_only_is_worth_less(paper: dict[Any, Any]) -> None:
    for row in paper.values():
        assert row["sum_rate_hardening_bps_hz"]["mean"] < row["sum_rate_bps_hz"]["mean"]
        assert row["sum_rate_net_bps_hz"]["mean"] == pytest.approx(0.95 * row["sum_rate_bps_hz"]["mean"])


def test_the_fronthaul_is_counted_as_encoded_and_as_in_the_book(paper: dict[Any, Any]) -> None:
    symbols = 190 * 200  # payload symbols, and 40 UEs served by 5 APs each
    assert paper["never", None]["fronthaul_scalars_per_block"] == symbols
    assert paper["p-mmse", None]["fronthaul_scalars_per_block"] == 100 * 4 * 200
    row = paper["oracle", 40]
    assert row["fronthaul_bits_per_block"] == pytest.approx(8 * row["bytes_per_slot"])  # one block in a slot
    told = row["fronthaul_scalars_per_block"] - symbols  # by 40 links both ways: 4 estimates of about 4 UEs each
    assert 80 * 4 * 3 < told < 80 * 4 * 8
    assert 64 * told < row["fronthaul_bits_per_block"] < 3 * 64 * told


def test_a_forecast_that_is_told_the_defects_of_all_aps_chooses_better_links_at_the_same_number() -> None:
    size = ("radio.num_aps=20", "radio.num_ues=10", "radio.area_m=450", "run.blocks_per_slot=2")
    config = load("selective", (*size, "impairments.oscillator_deg=[[0.7, 0.0], [0.3, 90.0]]"))
    assert "informed" in default_policies(config)
    blind, informed = compare(config, ["forecast", "informed"], 4, [15], slots=2)
    assert (blind["policy"], informed["policy"]) == ("forecast", "informed")
    for row in (blind, informed):
        assert row["links"]["formed"] == pytest.approx(15, rel=0.1)
    assert informed["sum_rate_bps_hz"]["mean"] > blind["sum_rate_bps_hz"]["mean"] + 0.3


def test_at_n_links_who_expects_harm_of_more_forms_fewer() -> None:
    """The price of a link is never below 0, and the greedy oracle stops where nothing adds to what it has."""
    config = load("selective", ("radio.num_aps=20", "radio.num_ues=10", "radio.area_m=450", "run.blocks_per_slot=2"))
    rows = {(row["policy"], row["aimed_at"]): row for row in compare(config, ["forecast", "oracle"], 3, [20, 70], 2)}
    assert rows["forecast", 20]["links"]["formed"] == pytest.approx(20, rel=0.05)
    assert rows["forecast", 70]["setting"] == 0
    for policy in ("forecast", "oracle"):
        assert 21 < rows[policy, 70]["links"]["formed"] < 60
        assert rows[policy, 70]["gain_bps_hz"]["mean"] > rows[policy, 20]["gain_bps_hz"]["mean"]
    notes = notes_of(config, [*rows.values()], layouts=3)
    assert [re.sub(r"\d+ links", "N links", note) for note in notes] == [
        "forecast 70: N links; no more promise a gain.",
        "oracle 70: N links; no more promise a gain.",
    ]


@pytest.mark.parametrize(
    ("impaired", "rules"),
    [
        ((), []),
        (("oscillator_deg=[[0.7, 0.0], [0.3, 90.0]]",), ["informed"]),
        (("fronthaul_blocks=[[0.7, 0], [0.3, 1]]",), ["informed"]),
        (
            ("oscillator_deg=[[0.7, 0], [0.3, 90]]", "calibration_error=[[0.5, 0], [0.5, 0.5]]"),
            ["phases-and-ages", "informed"],
        ),
        (("oscillator_deg=[[0.7, 0], [0.3, 90]]", "fronthaul_blocks=[[0.7, 0], [0.3, 1]]"), ["ages", "informed"]),
        (
            (
                "oscillator_deg=[[0.7, 0], [0.3, 90]]",
                "calibration_error=[[0.5, 0], [0.5, 0.5]]",
                "fronthaul_blocks=[[0.7, 0], [0.3, 1]]",
            ),
            ["ages", "phases-and-ages", "informed"],
        ),
    ],
)
def test_forecasts_that_are_told_defects_are_compared_where_they_differ(impaired: Any, rules: list[str]) -> None:
    late = ("propagation.block_ms=4", "cooperation.history_blocks=1")
    config = load("selective", (*late, *(f"impairments.{setting}" for setting in impaired)))
    policies = default_policies(config)
    assert [policy for policy in policies if policy in TOLD] == rules


def test_who_is_told_ages_and_speeds_chooses_better_links_among_late_aps_and_needs_no_more_there() -> None:
    size = ("radio.num_aps=20", "radio.num_ues=10", "radio.area_m=450", "run.blocks_per_slot=2")
    late = ("propagation.block_ms=4", "cooperation.history_blocks=1", "radio.ue_speeds_kmh=[[0.6, 3.0], [0.4, 30.0]]")
    config = load("selective", (*size, *late, "impairments.fronthaul_blocks=[[0.7, 0], [0.3, 1]]"))
    blind, ages, informed = compare(config, ["forecast", "ages", "informed"], 4, [15], slots=2)
    assert [row["policy"] for row in (blind, ages, informed)] == ["forecast", "ages", "informed"]
    assert ages["sum_rate_bps_hz"]["mean"] > blind["sum_rate_bps_hz"]["mean"] + 0.5
    assert {**informed, "policy": "ages"} == ages


def test_who_is_told_of_wrong_channels_precodes_better_with_the_same_links(monkeypatch: pytest.MonkeyPatch) -> None:
    size = ("radio.num_aps=20", "radio.num_ues=10", "radio.area_m=450", "run.blocks_per_slot=2")
    config = load("selective", (*size, "impairments.calibration_error=[[0.7, 0.0], [0.3, 0.5]]"))
    believing = measured(config, ["informed"], 4, [15], slots=3)[-1][1]
    monkeypatch.setattr(Precoder, "believe", lambda self, wrongness: None)
    blind = measured(config, ["informed"], 4, [15], slots=3)[-1][1]
    np.testing.assert_array_equal(believing["formed"], blind["formed"])
    assert (believing["sum_rate"] - blind["sum_rate"]).mean() > 0.5  # bit/s/Hz


def test_what_an_informed_forecast_cannot_know_gets_a_sentence() -> None:
    with pytest.raises(ConfigError, match="a forecast knows what defects do"):
        compare(load("paper"), ["informed"], 1, [5], slots=1)


def test_the_gain_is_paired_layout_by_layout() -> None:
    """Were it not, its interval would be as wide as that of the rate, of which layouts differ by +-6 bit/s/Hz."""
    (row,) = compare(load("paper"), ["always"], 8, [], slots=1)
    rate, gain = row["sum_rate_bps_hz"], row["gain_bps_hz"]
    assert gain["high"] - gain["low"] < 0.7 * (rate["high"] - rate["low"])


def test_the_same_comparison_comes_out_the_same_in_however_many_processes() -> None:
    config = load("demo", ("run.blocks_per_slot=1",))
    one, other = (compare(config, ["random", "oracle"], 2, [5], slots=2, workers=workers) for workers in (1, 2))
    assert one == other


def test_with_average_power_as_many_slots_go_before_so_that_its_means_settle() -> None:
    config = load("demo", ("precoding.power=average", "precoding.alone=mmse"))
    (row,) = compare(config, ["never"], 4, [], slots=4)
    assert row["peak_power_w"] > 1
    assert row["sum_rate_hardening_bps_hz"]["mean"] > 0.8 * row["sum_rate_bps_hz"]["mean"]


def test_trained_agents_are_compared_where_they_learned_on_layouts_they_never_saw() -> None:
    config = load("demo", ("run.episodes=4", "run.blocks_per_slot=1", "run.slots_per_episode=10"))
    record, agents = train(config)
    assert record.complete
    rows = compare(config, ["random", "oracle", "ddqn"], 3, [], slots=3, agents=agents)
    by_policy = {row["policy"]: row for row in rows}
    reached = by_policy["ddqn"]["aimed_at"]
    assert reached == round(by_policy["ddqn"]["links"]["formed"])
    assert [row["aimed_at"] for row in rows] == [None, reached, reached, reached]  # random also at its own rate
    assert by_policy["ddqn"]["gap_closed"] is not None
    assert by_policy["ddqn"]["messages_per_slot"] > 0


def test_agents_that_do_not_learn_are_not_trained() -> None:
    with pytest.raises(ConfigError, match='policy "always" does not learn'):
        train(load("paper", ("cooperation.policy=always",)))


def test_a_policy_that_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot compare 'magic'; there are never"):
        compare(load("demo"), ["magic"], 1, [5], slots=1)


def test_the_command_leaves_rows_and_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "demo", "--layouts", "2", "--slots", "1", "--links", "5,8", "--out", str(tmp_path / "c")]
    assert run_cfmimo([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "c/comparison.json").read_text()) == result["rows"]
    assert {row["policy"] for row in result["rows"]} == set(WITHOUT_LEARNING)
    assert (tmp_path / "c/figures/pareto.svg").exists()
    assert np.isfinite([row["sum_rate_bps_hz"]["mean"] for row in result["rows"]]).all()


def test_the_terminal_shows_what_each_policy_brings_and_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", "demo", "--layouts", "2", "--slots", "1", "--links", "5", "--out", str(tmp_path / "c")]
    assert run_cfmimo([*arguments, "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "what it costs" in shown
    assert "…" not in shown  # nothing is cut off
    for name in (*LOCAL, "oracle 5", "p-mmse"):
        assert sum(line.strip().startswith(name) for line in shown.splitlines()) == 2


def test_components_that_percolate_are_refused_in_a_sentence_that_names_their_size() -> None:
    overrides = ("cooperation.cluster=components", "cooperation.neighbour_sets=symmetric", "run.blocks_per_slot=1")
    config = load("paper", (*overrides, "cooperation.max_cluster_aps=20"))
    rows = compare(config, ["random"], 2, [20, 120], slots=1)
    _, few, many = rows  # the first asks at its own rate
    assert few["largest_cluster"] <= 20
    assert many["largest_cluster"] > 50
    assert many["gain_db"]["mean"] < few["gain_db"]["mean"]  # hardly anybody precodes jointly any more
    (note,) = notes_of(config, [few, many], layouts=2)
    assert f"random 120: components of up to {many['largest_cluster']:.0f} APs exceed" in note


@pytest.mark.parametrize("power", ["paper", "average"])
def test_the_layouts_of_a_channel_file_are_compared_each_once(power: str, tmp_path: Path) -> None:
    """Two scenes, of which the second has but a thousandth of the gain; MRT with equal power in both."""
    given, beta = (f"precoding.power={power}", "radio.power_split=equal"), make_layout(load("demo"), 0).beta

    def config(name: str, scenes: Any) -> Config:
        np.savez(tmp_path / name, beta=scenes)
        return load("demo", (*given, f"propagation.channel_file={tmp_path / name}"))

    def rates(of: Config, layouts: int) -> list[float]:
        results = measured(of, ["mrt", "forecast"], layouts, [8], slots=4)
        return [float(rate) for rate in next(r for c, r in results if c.policy == "mrt")["sum_rate"]]

    scenes = beta, beta / 1000
    (loud,), (faint,) = (rates(config(f"{index}.npz", scene), 4) for index, scene in enumerate(scenes))
    both = config("both.npz", np.stack(scenes))
    assert rates(both, 4) == pytest.approx([loud, faint], rel=0.05)
    assert faint < 0.8 * loud
    assert rates(both, 1) == pytest.approx([loud], rel=0.05)
    (note,) = notes_of(both, [], layouts=4)
    assert "both.npz holds 2 of the 4 layouts wanted" in note
    assert notes_of(both, [], layouts=2) == []


def test_a_policy_whose_config_is_refused_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The config itself is accepted, as policy random needs no action for each subset of 12 neighbours."""
    settings = ("cooperation.policy=random", "cooperation.max_neighbours=12")
    arguments = ["compare", "demo", "--set", *settings, "--policies", "ddqn", "--out", str(tmp_path / "c")]
    assert run_cfmimo(arguments) == 2
    assert "cannot compare 'ddqn' here: policy \"ddqn\" would need 2^12 actions" in capsys.readouterr().err


def test_a_bad_policy_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cfmimo(["compare", "demo", "--policies", "magic", "--out", str(tmp_path / "c")]) == 2
    assert "cannot compare 'magic'" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
