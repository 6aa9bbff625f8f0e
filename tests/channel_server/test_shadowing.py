"""Laws of shadowing that is correlated over the UEs."""

import numpy as np
import pytest

from apnode.config import Config
from apnode.config.network import Propagation, Radio
from apnode.protocol.messages import FloatArray
from cfmimo.errors import ConfigError
from cfmimo.presets import load
from channel_server.geometry import distances
from channel_server.propagation import path_gain_db
from channel_server.shadowing import correlate, correlation
from channel_server.topology import make_layout

AREA = 100.0
MANY = 40_000  # APs: independent draws


def shadowed(ue_xy: FloatArray, halving: float, period: float | None = AREA) -> FloatArray:
    independent = np.random.default_rng(0).standard_normal((MANY, len(ue_xy)))
    return correlate(independent, distances(ue_xy, ue_xy, period), halving)


def test_correlation_halves_with_every_distance_of_correlation() -> None:
    np.testing.assert_allclose(correlation(np.array([0.0, 9, 18, 90]), 9), [1, 0.5, 0.25, 2**-10])


def test_shadowing_of_ues_is_correlated_as_their_distance_says() -> None:
    ue_xy = np.array([[0.0, 0], [3, 0], [9, 0], [0, 27], [50, 50]])
    field = shadowed(ue_xy, halving=9)
    separation = distances(ue_xy, ue_xy, AREA)
    np.testing.assert_allclose(field.T @ field / MANY, correlation(separation, 9), atol=0.02)


def test_correlation_reaches_over_the_border_of_the_torus_and_not_of_the_plane() -> None:
    ue_xy = np.array([[1.0, 50], [99, 50]])
    wrapped, plane = (np.corrcoef(shadowed(ue_xy, 9, period).T)[0, 1] for period in (AREA, None))
    assert wrapped == pytest.approx(2 ** (-2 / 9), abs=0.01)
    assert plane == pytest.approx(2 ** (-98 / 9), abs=0.02)


@pytest.mark.parametrize("halving", [1.0, 9.0, 70.0, 1e6])
def test_every_ue_keeps_unit_variance_even_if_all_coincide_or_the_torus_is_small(halving: float) -> None:
    spread = np.random.default_rng(3).uniform(0, AREA, (12, 2))
    for ue_xy in (spread, np.repeat(spread[:3], 4, axis=0), np.zeros((5, 2))):
        field = shadowed(ue_xy, halving)
        np.testing.assert_allclose(field.std(axis=0), 1, atol=0.02)


def test_coinciding_ues_share_their_shadowing() -> None:
    field = shadowed(np.array([[5.0, 5], [5, 5], [55, 55]]), 9)
    np.testing.assert_allclose(field[:, 0], field[:, 1], atol=1e-6)
    assert abs(np.corrcoef(field[:, 0], field[:, 2])[0, 1]) < 0.02


def test_aps_shadow_independently() -> None:
    field = shadowed(np.random.default_rng(1).uniform(0, AREA, (20, 2)), 30)
    assert abs((field[1:] * field[:-1]).mean()) < 0.01


def test_without_correlation_nothing_is_changed() -> None:
    independent = np.random.default_rng(0).standard_normal((3, 4))
    assert correlate(independent, np.zeros((4, 4)), 0) is independent


@pytest.mark.parametrize("model", ["umi", "3gpp-umi"])
def test_a_layout_with_correlated_shadowing_has_neighbouring_ues_alike(model: str) -> None:
    def likeness(halving: float) -> float:
        propagation = Propagation.model_validate({"model": model, "shadowing_correlation_m": halving})
        config = Config(propagation=propagation, radio=Radio(num_aps=200, num_ues=60, area_m=60.0, wrap_around=False))
        layout = make_layout(config, 0)
        ground = distances(layout.ap_xy, layout.ue_xy, None)
        shadow = 10 * np.log10(layout.beta) - path_gain_db(ground, propagation, np.ones(ground.shape, bool))
        near = distances(layout.ue_xy, layout.ue_xy, None) < 4
        np.fill_diagonal(near, False)
        return float(np.corrcoef(shadow.T)[near].mean())

    assert abs(likeness(0)) < 0.1 + 0.2 * (model == "3gpp-umi")  # hidden links are alike by their distance
    assert likeness(40) > 0.8


def test_correlation_of_no_shadowing_is_refused() -> None:
    with pytest.raises(ConfigError, match="shadowing_correlation_m has no effect with shadowing_db = 0"):
        load("demo", ["propagation.shadowing_db=0", "propagation.shadowing_correlation_m=9"])
