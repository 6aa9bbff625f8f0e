"""A config that cannot be used is refused with a sentence that names the key."""

import math
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from apnode.config import Config
from apnode.config.learning import Reward
from apnode.config.network import Radio
from cfmimo.errors import ConfigError
from cfmimo.presets import load, preset_names

SECTIONS: dict[str, type[BaseModel]] = {
    name: type(getattr(Config(), name)) for name in Config.model_fields if name != "seed"
}
KEYS = ["seed", *(f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields)]


def test_a_variant_is_checked_as_a_whole() -> None:
    config = load("demo")
    variant = config.variant(seed=3, radio={"num_aps": 9}, reward=Reward(gain="absolute"))
    assert (variant.seed, variant.radio.num_aps, variant.radio.num_ues, variant.reward.gain) == (3, 9, 8, "absolute")
    for wrong in ({"seed": -1}, {"radio": {"num_aps": "many"}}, {"radio": {"aps": 3}}, {"rodeo": {}}):
        with pytest.raises(ValidationError):
            config.variant(**wrong)
    with pytest.raises(ValidationError, match=r"2\^12 actions"):
        config.variant(cooperation={"max_neighbours": 12})


def default(key: str) -> object:
    value: object = Config()
    for part in key.split("."):
        value = getattr(value, part)
    return value


NUMBERS = [key for key in KEYS if type(default(key)) in (int, float)]


def refusal(*overrides: str, source: str = "demo") -> str:
    """The sentence with which a config is refused: one line, nothing of Python's in it."""
    with pytest.raises(ConfigError) as caught:
        load(source, overrides)
    sentence = str(caught.value)
    assert sentence
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert "pydantic" not in sentence
    return sentence


def test_a_file_may_change_values_of_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'seed = 3\npreset = "selective"\n[radio]\nnum_aps = 50\n[impairments]\ncalibration_error = [[1, 0.5]]\n'
    )
    changes = ("radio.num_aps=50", "impairments.calibration_error=[[1, 0.5]]")
    assert load(str(path)) == load("selective", changes, seed=3)
    assert load("calibration") == load("selective", ["impairments.calibration_error=[[0.75, 0], [0.25, 0.5]]"])


@pytest.mark.parametrize("named", ['"selectiv"', '"mine.toml"', "3", "[]"])
def test_a_file_that_names_no_preset_is_refused(named: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"preset = {named}\n")
    with pytest.raises(ConfigError, match=r"is not one of .*selective"):
        load(str(path))


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_used(name: str) -> None:
    assert load(name).radio.num_aps >= 1


def test_the_paper_preset_is_the_papers_tables() -> None:
    radio, learning = load("paper").radio, load("paper").learning
    assert (radio.num_aps, radio.num_ues, radio.antennas, radio.area_m) == (100, 40, 4, 1000)
    assert (radio.coherence_symbols, radio.pilot_length, radio.ap_power_w, radio.noise_figure_db) == (200, 10, 1, 7)
    assert (learning.hidden, learning.discount, learning.epsilon_start) == ((128, 64, 32), 0.95, 0.8)


def test_overrides_and_seed_win_over_the_preset() -> None:
    config = load("demo", ["radio.num_aps=7", "cooperation.policy=random", "learning.hidden=[3, 2]"], seed=11)
    assert (config.radio.num_aps, config.cooperation.policy, config.learning.hidden) == (7, "random", (3, 2))
    assert config.seed == 11
    assert config.radio.num_ues == load("demo").radio.num_ues


def test_a_later_override_wins() -> None:
    assert load("demo", ["radio.num_aps=7", "radio.num_aps=9"]).radio.num_aps == 9


def test_a_file_is_read_like_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = 4\n[radio]\nnum_aps = 3\n")
    config = load(str(path), ["radio.antennas=2"])
    assert (config.seed, config.radio.num_aps, config.radio.antennas) == (4, 3, 2)


def test_a_config_cannot_be_changed_once_made() -> None:
    with pytest.raises(ValidationError):
        Config().radio.num_aps = 3  # type: ignore[misc]


@pytest.mark.parametrize("key", KEYS)
def test_a_table_in_place_of_a_value_is_refused_by_the_keys_name(key: str) -> None:
    assert key in refusal(f"{key}={{ a = 1 }}")


@pytest.mark.parametrize("key", KEYS)
def test_a_word_that_means_nothing_is_refused_by_the_keys_name(key: str) -> None:
    sentence = refusal(f"{key}=gibberish")
    assert key in sentence
    assert "gibberish" in sentence or key == "learning.hidden"


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_not_a_finite_number_is_refused_by_the_keys_name(key: str, value: str) -> None:
    assert key in refusal(f"{key}={value}")


@pytest.mark.parametrize(
    "key", [key for key in NUMBERS if key not in {"reward.gain_weight", "radio.ap_seed", "cooperation.link_price"}]
)
def test_a_negative_number_is_refused_by_the_keys_name_and_shown(key: str) -> None:
    sentence = refusal(f"{key}=-1")
    assert key in sentence
    assert "-1" in sentence


@pytest.mark.parametrize(
    "key",
    [
        "radio.num_aps",
        "radio.num_ues",
        "radio.antennas",
        "radio.area_m",
        "radio.max_serving_aps",
        "radio.ap_power_w",
        "radio.pilot_power_w",
        "radio.pilot_length",
        "radio.bandwidth_hz",
        "run.episodes",
        "run.slots_per_episode",
        "run.blocks_per_slot",
        "run.aps_per_actor",
        "run.slot_deadline_s",
        "run.checkpoint_every_slots",
        "propagation.d0_m",
        "cooperation.max_neighbours",
        "cooperation.max_cluster_aps",
        "cooperation.reported_interferers",
        "cooperation.interference_window",
        "precoding.rzf_alpha",
        "learning.learning_rate",
        "learning.batch_size",
        "learning.replay_capacity",
        "learning.target_update_episodes",
        "learning.observed_ues",
    ],
)
def test_none_at_all_is_refused_where_there_must_be_some(key: str) -> None:
    assert key in refusal(f"{key}=0")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("radio.serving_threshold", "1.5"),
        ("cooperation.request_rate", "1.01"),
        ("cooperation.neighbour_threshold", "2"),
        ("cooperation.interference_window", "1.1"),
        ("cooperation.max_neighbours", "33"),
        ("cooperation.reported_interferers", "65"),
        ("learning.dropout", "1"),
        ("learning.discount", "1"),
        ("learning.epsilon_start", "1.2"),
        ("learning.epsilon_end", "1.2"),
        ("learning.observed_ues", "65"),
        ("learning.hidden", "[]"),
        ("learning.hidden", "[16, 0]"),
        ("seed", "9223372036854775808"),
        ("radio.num_aps", "2.5"),
    ],
)
def test_too_much_is_refused_by_the_keys_name(key: str, value: str) -> None:
    assert key in refusal(f"{key}={value}")


@pytest.mark.parametrize(
    "key", ["radio.num_app", "bogus", "bogus.num_aps", "radio.num_aps2", "learning.radio.num_aps", "radio.wrap-around"]
)
def test_a_key_that_is_no_setting_is_refused_by_its_name(key: str) -> None:
    sentence = refusal(f"{key}=3")
    assert "is not a setting" in sentence
    assert any(sentence.startswith(".".join(key.split(".")[:parts])) for parts in (1, 2, 3))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("radio.pilot_length=200",), ("pilot_length", "coherence_symbols")),
        (("propagation.d0_m=60",), ("d0_m", "d1_m")),
        (("propagation.d1_m=10",), ("d0_m", "d1_m")),
        (("cooperation.cluster=directed",), ("cluster", "acceptance")),
        (("cooperation.acceptance=all",), ("cluster", "acceptance")),
        (("cooperation.cluster=components", "cooperation.acceptance=all"), ("cluster", "acceptance")),
        (("cooperation.cluster=serving", "cooperation.acceptance=all"), ("cluster", "acceptance")),
        (("cooperation.cluster=serving",), ("cluster", "precoding.joint")),
        (("cooperation.serving=forecast",), ("serving", "cluster")),
        (
            (
                "cooperation.serving=forecast",
                "cooperation.cluster=serving",
                "precoding.joint=selective",
                "radio.max_serving_aps=9",
            ),
            ("serving", "max_serving_aps", "2^9"),
        ),
        (("cooperation.max_neighbours=9",), ("ddqn", "max_neighbours", "2^9")),
        (("learning.replay_capacity=16",), ("replay_capacity",)),
        (("learning.batch_size=1001",), ("replay_capacity", "batch")),
        (("radio.num_aps=65535",), ("num_aps",)),
        (("radio.num_ues=70000",), ("num_ues",)),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused_naming_both(
    overrides: tuple[str, ...], named: tuple[str, ...]
) -> None:
    sentence = refusal(*overrides)
    assert all(key in sentence for key in named)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    sentence = refusal("radio.num_aps=0", "run.episodes=-3", "radio.bogus=1")
    assert all(key in sentence for key in ("radio.num_aps", "run.episodes", "radio.bogus"))


@pytest.mark.parametrize(
    "override", ["radio.num_aps", "radio=3", "radio.num_aps.x=3", "seed.x=3", "=3", "", "radio.=3", ".=3"]
)
def test_an_override_that_cannot_be_meant_is_refused(override: str) -> None:
    refusal(override)


def test_an_unknown_preset_is_refused_with_those_that_exist() -> None:
    sentence = refusal(source="papper")
    assert all(name in sentence for name in ("papper", *preset_names()))


def test_a_file_that_is_not_there_or_not_toml_or_not_text_is_refused(tmp_path: Path) -> None:
    broken, binary = tmp_path / "broken.toml", tmp_path / "binary.toml"
    broken.write_text("[radio\nnum_aps = 3")
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.toml", broken, binary, tmp_path):
        assert str(path) in refusal(source=str(path))


@pytest.mark.parametrize("source", ["x" * 5000, "nul\0byte", ""])
def test_a_name_that_no_file_can_have_is_refused(source: str) -> None:
    refusal(source=source)


def test_a_yes_is_not_a_number() -> None:
    assert "radio.num_aps" in refusal("radio.num_aps=true")


def test_a_number_of_more_digits_than_python_reads_is_refused() -> None:
    refusal(f"seed={'9' * 5000}")


def test_noise_is_minus_94_dbm_in_the_papers_band() -> None:
    noise_dbm = 10 * math.log10(Radio().noise_power_w / 1e-3)
    assert noise_dbm == pytest.approx(-94, abs=0.05)


def test_noise_grows_with_bandwidth_and_noise_figure() -> None:
    narrow, wide, bad = Radio(), Radio(bandwidth_hz=40e6), Radio(noise_figure_db=17)
    assert wide.noise_power_w == pytest.approx(2 * narrow.noise_power_w)
    assert bad.noise_power_w == pytest.approx(10 * narrow.noise_power_w)
