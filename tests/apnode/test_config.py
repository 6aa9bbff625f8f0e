"""A config that cannot be used is refused with a sentence that names the key."""

import math
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from apnode.config import Config
from apnode.config.cooperation import Cooperation, Precoding
from apnode.config.learning import Reward
from apnode.config.network import Radio, Run
from apnode.protocol.fields import MAX_TEXT, Message
from apnode.protocol.messages import (
    KINDS,
    ApReport,
    Association,
    ChannelBlock,
    ClusterBlock,
    CommonLinks,
    CoopRequest,
    LinkState,
    PilotBlock,
    SlotFeedback,
    SlotReport,
    Transmission,
)
from apnode.protocol.wire import decode, encode
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
        ("run.max_frame_bytes", "1023"),
        ("run.max_frame_bytes", "16777217"),
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


def largest_messages(config: Config) -> list[Message]:
    """The messages whose size grows with the config, as long as they can be: one AP serves all UEs."""
    blocks, radio, cooperation = config.run.blocks_per_slot, config.radio, config.cooperation
    partners = tuple(range(min(cooperation.max_cluster_aps, radio.num_aps)))
    ues, aps = tuple(range(radio.num_ues)), tuple(range(radio.num_aps))
    others = tuple(range(60_000, 60_000 + cooperation.max_neighbours))
    per_ue = np.ones(radio.num_ues)
    w = np.ones((blocks, radio.num_ues, radio.antennas), complex)
    interferers = np.ones((radio.num_ues, min(cooperation.reported_interferers, radio.num_aps)), int)
    gains = np.ones((*interferers.shape, radio.antennas))
    far, sent, dropped = 2**40, np.full((2, len(KINDS)), 2**32 - 1), np.full(16, 2**32 - 1)
    endpoints = ("x" * MAX_TEXT,) * len(others)
    shape = (blocks, radio.antennas)
    estimates = np.ones((*shape, radio.num_ues), complex), per_ue, np.ones((*shape, radio.antennas), complex)
    return [
        Association(far, ues, per_ue, np.zeros(len(ues), int), others, endpoints, np.ones(len(others)), reach=ues),
        PilotBlock(far, far, np.ones((blocks, radio.antennas, radio.pilot_length), complex)),
        CoopRequest(far, 0, ues),
        ChannelBlock(far, 0, ues, *estimates),
        ClusterBlock(far, 0, 0, ues, *estimates),
        Transmission(far, 0, ues, w, w, partners),
        SlotFeedback(far, per_ue, per_ue, interferers, interferers.astype(float), interferers, gains),
        ApReport(far, 0, others, others, partners, *4 * (0.1,), sent, dropped, 65534, far, far, far, others, far),
        SlotReport(
            far,
            far,
            *4 * (np.ones((blocks, len(ues))),),
            np.ones((len(aps), 2)),
            far,
            aps,
            sent,
            dropped,
            far,
        ),
    ]


def is_read(message: Message, max_bytes: int) -> bool:
    """Whether a frame of the message is, where none may be longer than that."""
    return type(decode(encode(message, 2**24), max_bytes)) is type(message)


@pytest.mark.parametrize(
    "radio",
    [
        Radio(),
        Radio(num_aps=1, num_ues=1, antennas=1, pilot_length=1),
        Radio(num_aps=5000, num_ues=2, antennas=1),
        Radio(num_aps=3, num_ues=3000, antennas=1),
        Radio(num_aps=70, num_ues=60, antennas=16, pilot_length=150),
    ],
)
@pytest.mark.parametrize("reported", [1, 64])
def test_no_frame_is_longer_than_the_config_foresees(radio: Radio, reported: int) -> None:
    config = Config(
        radio=radio,
        run=Run(max_frame_bytes=2**24),
        cooperation=Cooperation(max_neighbours=8, reported_interferers=reported, max_cluster_aps=2000),
    )
    for message in largest_messages(config):
        assert is_read(message, config.largest_frame_bytes)


@pytest.mark.parametrize(
    "radio",
    [
        Radio(num_aps=1, num_ues=1, antennas=1, pilot_length=1),
        Radio(num_aps=2000, num_ues=2, antennas=1),
        Radio(num_aps=3, num_ues=3000, antennas=1, max_serving_aps=3),
    ],
)
def test_the_whole_graph_of_links_fits_a_frame_where_it_is_told(radio: Radio) -> None:
    """Every AP has all the partners that it may have, and every UE all the APs that may serve it."""
    aps, ues = np.arange(radio.num_aps), np.arange(radio.num_ues)
    links = np.stack([np.repeat(aps, 8), np.zeros(8 * len(aps), int)], axis=1)
    served = min(radio.max_serving_aps, radio.num_aps)
    serves = np.stack([np.tile(aps[:served], len(ues)), np.repeat(ues, served)], axis=1)
    state = LinkState(2**40, 0, 2**40, tuple(aps.tolist()), links, np.ones(len(links)), serves)
    cooperation = Cooperation(max_neighbours=8, reported_interferers=1, cluster="components")
    config = Config(radio=radio, run=Run(max_frame_bytes=2**24, blocks_per_slot=1), cooperation=cooperation)
    assert is_read(state, config.largest_frame_bytes)


@pytest.mark.parametrize(
    "radio",
    [
        Radio(num_aps=1, num_ues=1, antennas=1, pilot_length=1),
        Radio(num_aps=3, num_ues=2000, antennas=1, max_serving_aps=2),
        Radio(num_aps=300, num_ues=20, antennas=1, max_serving_aps=30),
    ],
)
def test_all_links_between_aps_that_serve_a_ue_fit_a_frame_where_they_are_told(radio: Radio) -> None:
    """One neighbour is told of all links of all UEs at once, and whoever precodes names all other APs."""
    ues, most = range(radio.num_ues), range(radio.most_serving_aps)
    links = [(ue, ap, partner) for ue in ues for ap in most for partner in most if partner != ap]
    messages = [CommonLinks(2**40, 0, 2**40, np.array(links, int).reshape(-1, 3))]
    partners, w = tuple(range(radio.num_aps)), np.ones((1, radio.num_ues, 1), complex)
    messages.append(Transmission(2**40, 0, tuple(ues), w, w, partners))
    config = Config(
        radio=radio,
        run=Run(max_frame_bytes=2**24, blocks_per_slot=1),
        cooperation=Cooperation(cluster="serving", reported_interferers=1),
        precoding=Precoding(joint="selective"),
    )
    assert all(is_read(message, config.largest_frame_bytes) for message in messages)


def test_a_config_whose_frames_would_be_refused_is_refused_itself() -> None:
    sentence = refusal("run.max_frame_bytes=1024")
    assert "max_frame_bytes" in sentence
    assert load("demo", [f"run.max_frame_bytes={load('demo').largest_frame_bytes}"])
