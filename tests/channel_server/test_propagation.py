"""Laws of the path loss models, of line of sight and of shadowing."""

from collections.abc import Callable

import numpy as np
import pytest

from apnode.config import Config
from apnode.config.network import Propagation, Radio
from apnode.protocol.messages import FloatArray
from cfmimo.errors import ConfigError
from cfmimo.presets import load
from channel_server.geometry import distances
from channel_server.propagation import (
    breakpoint_3gpp,
    large_scale_fading,
    line_of_sight,
    path_gain_db,
    scalable_db,
    sight_probability,
    three_slope_db,
    umi_db,
)
from channel_server.topology import make_layout

MODEL = Propagation()
MODELS = ("three-slope", "umi", "scalable", "3gpp-umi", "3gpp-uma")
STREET = Propagation(model="3gpp-umi", height_m=8.5, carrier_hz=2e9)
MACRO = Propagation(model="3gpp-uma", height_m=23.5, carrier_hz=2e9)


def normal(seed: int, shape: tuple[int, ...]) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape)


def gain_db(distance: float, propagation: Propagation, sight: bool = True) -> float:
    return float(path_gain_db(np.array([distance]), propagation, np.array([sight]))[0])


def per_decade(start: float) -> float:
    """dB that the path loses from `start` to a point just beyond, scaled to a decade."""
    near, far = three_slope_db(np.array([start, 1.001 * start]), MODEL)
    return float((near - far) / np.log10(1.001))


@pytest.mark.parametrize(
    ("distance", "slope"), [(0.1, 0), (5, 0), (9.9, 0), (10.1, 20), (30, 20), (49.9, 20), (50.1, 35), (1e3, 35)]
)
def test_path_loses_0_then_20_then_35_db_per_decade(distance: float, slope: float) -> None:
    assert per_decade(distance) == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("corner", [MODEL.d0_m, MODEL.d1_m])
def test_path_gain_is_continuous_at_its_corners(corner: float) -> None:
    below, above = three_slope_db(np.array([corner * (1 - 1e-9), corner * (1 + 1e-9)]), MODEL)
    assert below == pytest.approx(above, abs=1e-6)


def test_path_gain_never_rises_with_distance() -> None:
    assert (np.diff(three_slope_db(np.linspace(0, 2000, 20_001), MODEL)) <= 0).all()


def test_the_reference_loss_is_that_at_one_kilometre() -> None:
    assert three_slope_db(np.array([1000.0]), MODEL)[0] == pytest.approx(-140.7)


def test_path_gain_is_finite_under_the_very_ap() -> None:
    flat = Propagation(height_m=0, shadowing_db=0)
    beta = large_scale_fading(np.zeros((1, 1)), flat, np.zeros((1, 1)))
    assert 10 * np.log10(beta[0, 0]) == pytest.approx(three_slope_db(np.array([flat.d0_m]), flat)[0])


def test_without_shadowing_beta_is_the_path_gain_at_the_slant_distance() -> None:
    model = Propagation(shadowing_db=0, height_m=30)
    beta = large_scale_fading(np.array([[40.0]]), model, np.zeros((1, 1)))  # 3-4-5: 50 m
    assert 10 * np.log10(beta[0, 0]) == pytest.approx(three_slope_db(np.array([50.0]), model)[0])


@pytest.mark.parametrize("shadowing_db", [4.0, 8.0])
def test_shadowing_is_log_normal_of_its_standard_deviation(shadowing_db: float) -> None:
    model = Propagation(shadowing_db=shadowing_db)
    distance = np.random.default_rng(1).uniform(0, 700, (300, 300))
    path_db = three_slope_db(np.hypot(distance, model.height_m), model)
    shadow_db = 10 * np.log10(large_scale_fading(distance, model, normal(2, (300, 300)))) - path_db
    assert shadow_db.mean() == pytest.approx(0, abs=0.1)
    assert shadow_db.std() == pytest.approx(shadowing_db, rel=0.01)
    assert (np.abs(shadow_db) < shadowing_db).mean() == pytest.approx(0.6827, abs=0.01)


@pytest.mark.parametrize(
    "model", [Propagation(reference_loss_db=0.37), Propagation(shadowing_db=30)], ids=["path", "shadow"]
)
def test_no_link_amplifies(model: Propagation) -> None:
    beta = large_scale_fading(np.full((300, 300), 20.0), model, normal(2, (300, 300)))
    assert beta.max() == 1


# --- the other models ---


@pytest.mark.parametrize(
    ("model", "one_metre", "per_decade"), [(umi_db, -30.5, 36.7), (scalable_db, -35.3, 37.6)], ids=["umi", "scalable"]
)
def test_one_slope_models_are_their_published_lines(
    model: Callable[..., FloatArray], one_metre: float, per_decade: float
) -> None:
    expected = [one_metre, one_metre - 2 * per_decade, one_metre - 3 * per_decade]
    np.testing.assert_allclose(model(np.array([1.0, 100.0, 1000.0])), expected)
    assert model(np.array([0.0]))[0] == one_metre  # finite at the antenna itself


def test_the_book_and_the_massive_mimo_book_at_one_kilometre() -> None:
    assert umi_db(np.array([1000.0]))[0] == pytest.approx(-140.6)
    assert scalable_db(np.array([1000.0]))[0] == pytest.approx(-148.1)


@pytest.mark.parametrize("model", MODELS)
def test_no_model_gains_with_distance_or_much_exceeds_free_space(model: str) -> None:
    propagation = Propagation.model_validate({"model": model})
    ground = np.linspace(0, 3000, 3001)
    for sight in (True, False):
        gain = path_gain_db(ground, propagation, np.full(ground.shape, sight))
        assert np.isfinite(gain).all()
        assert (np.diff(gain) <= 1e-9).all()
        slant = np.hypot(np.maximum(ground, 10), propagation.height_m)
        assert (gain < -20 * np.log10(4 * np.pi * slant * 1.9e9 / 3e8) + 2.5).all()


@pytest.mark.parametrize("propagation", [STREET, MACRO], ids=["umi", "uma"])
def test_3gpp_loses_40_db_a_decade_beyond_the_breakpoint_where_it_is_continuous(propagation: Propagation) -> None:
    corner = breakpoint_3gpp(propagation)
    near, far = gain_db(corner * (1 - 1e-9), propagation), gain_db(corner * (1 + 1e-9), propagation)
    assert near == pytest.approx(far, abs=1e-6)
    assert gain_db(1e4, propagation) - gain_db(1e5, propagation) == pytest.approx(40, abs=0.01)


def test_the_breakpoint_is_that_of_effective_heights() -> None:
    assert breakpoint_3gpp(STREET) == pytest.approx(4 * 9 * 0.5 * 2e9 / 3e8)  # 120 m
    assert breakpoint_3gpp(MACRO) == pytest.approx(4 * 24 * 0.5 * 2e9 / 3e8)  # 320 m


@pytest.mark.parametrize(
    ("propagation", "sight", "intercept", "exponent", "carrier", "height"),
    [
        (STREET, True, 32.4, 21, 20, 8.5),
        (STREET, False, 22.4, 35.3, 21.3, 8.5),
        (MACRO, True, 28.0, 22, 20, 23.5),
        (MACRO, False, 13.54, 39.08, 20, 23.5),
    ],
)
def test_3gpp_within_the_breakpoint_is_table_7_4_1_1(
    propagation: Propagation, sight: bool, intercept: float, exponent: float, carrier: float, height: float
) -> None:
    slant = np.hypot(100, height)
    expected = -intercept - exponent * np.log10(slant) - carrier * np.log10(2)
    assert gain_db(100, propagation, sight) == pytest.approx(expected)


@pytest.mark.parametrize(("propagation", "factor"), [(STREET, 9.5), (MACRO, 9.0)], ids=["umi", "uma"])
def test_3gpp_beyond_the_breakpoint_is_table_7_4_1_1(propagation: Propagation, factor: float) -> None:
    slant, corner = np.hypot(1000, propagation.height_m), breakpoint_3gpp(propagation)
    intercept = 32.4 if propagation is STREET else 28.0
    far = factor * np.log10(corner**2 + propagation.height_m**2)
    expected = -intercept - 40 * np.log10(slant) - 20 * np.log10(2) + far
    assert gain_db(1000, propagation) == pytest.approx(expected)


@pytest.mark.parametrize("propagation", [STREET, MACRO], ids=["umi", "uma"])
def test_a_hidden_link_is_never_better_than_a_seen_one(propagation: Propagation) -> None:
    assert all(gain_db(d, propagation, False) <= gain_db(d, propagation) for d in (0.0, 10.0, 18.0, 50.0, 500.0, 5e3))


@pytest.mark.parametrize(("model", "decay"), [("3gpp-umi", 36), ("3gpp-uma", 63)])
def test_line_of_sight_is_certain_up_to_18_m_and_then_fades_as_published(model: str, decay: float) -> None:
    distance = np.array([0.0, 10.0, 18.0, decay, 1e5])
    expected = [1, 1, 1, 18 / decay + np.exp(-1) * (1 - 18 / decay), 18 / 1e5]
    np.testing.assert_allclose(sight_probability(distance, model), expected)
    assert (np.diff(sight_probability(np.linspace(0, 2000, 2001), model)) <= 0).all()


def test_links_have_line_of_sight_as_often_as_their_probability_says() -> None:
    ground = np.full(100_000, 60.0)
    seen = line_of_sight(ground, STREET, normal(1, ground.shape)).mean()
    assert seen == pytest.approx(sight_probability(ground, "3gpp-umi")[0], abs=0.005)


@pytest.mark.parametrize(
    ("model", "seen", "hidden"), [("3gpp-umi", 4, 7.82), ("3gpp-uma", 4, 6), ("umi", 8, 8), ("three-slope", 8, 8)]
)
def test_shadowing_has_the_models_standard_deviation_with_and_without_line_of_sight(
    model: str, seen: float, hidden: float
) -> None:
    propagation = Propagation.model_validate({"model": model})
    shape = (400, 100)
    for sight, std in ((np.ones(shape, bool), seen), (np.zeros(shape, bool), hidden)):
        beta_db = 10 * np.log10(large_scale_fading(np.full(shape, 80.0), propagation, normal(3, shape), sight))
        assert beta_db.std() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_gives_a_layout_that_depends_on_seed_and_episode_alone(model: str) -> None:
    config = load("demo", [f"propagation.model={model}"])
    first = make_layout(config, 1).beta
    make_layout(config, 2)
    np.testing.assert_array_equal(make_layout(config, 1).beta, first)
    assert first.max() < 1
    others = [make_layout(load("demo", [f"propagation.model={other}"]), 1).beta for other in MODELS if other != model]
    assert all((other != first).all() for other in others)


def test_a_layout_of_3gpp_mixes_seen_and_hidden_links_by_their_probability() -> None:
    config = Config(propagation=STREET, radio=Radio(num_aps=100, num_ues=100))
    layout = make_layout(config, 0)
    ground = distances(layout.ap_xy, layout.ue_xy, config.radio.area_m)
    seen, hidden = (path_gain_db(ground, STREET, np.full(ground.shape, sight)) for sight in (True, False))
    probability = sight_probability(ground, STREET.model)
    expected = probability * seen + (1 - probability) * hidden
    assert (10 * np.log10(layout.beta) - expected).mean() == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize(
    ("model", "override"),
    [
        ("umi", "reference_loss_db=130"),
        ("scalable", "d1_m=60"),
        ("3gpp-umi", "d0_m=5"),
        ("3gpp-uma", "shadowing_db=4"),
        ("three-slope", "carrier_hz=3.5e9"),
        ("umi", "ue_height_m=2"),
    ],
)
def test_a_setting_that_the_model_does_not_look_at_is_refused(model: str, override: str) -> None:
    with pytest.raises(ConfigError, match=f'{override.split("=")[0]} = .* has no effect with model = "{model}"'):
        load("demo", [f"propagation.model={model}", f"propagation.{override}"])
