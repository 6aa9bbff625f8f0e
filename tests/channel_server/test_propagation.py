"""Laws of the three-slope model and of shadowing."""

import numpy as np
import pytest

from apnode.config import Propagation
from channel_server.propagation import large_scale_fading, three_slope_db

MODEL = Propagation()


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
    beta = large_scale_fading(np.zeros((1, 1)), flat, np.random.default_rng(0))
    assert 10 * np.log10(beta[0, 0]) == pytest.approx(three_slope_db(np.array([flat.d0_m]), flat)[0])


def test_without_shadowing_beta_is_the_path_gain_at_the_slant_distance() -> None:
    model = Propagation(shadowing_db=0, height_m=30)
    beta = large_scale_fading(np.array([[40.0]]), model, np.random.default_rng(0))  # 3-4-5: 50 m
    assert 10 * np.log10(beta[0, 0]) == pytest.approx(three_slope_db(np.array([50.0]), model)[0])


@pytest.mark.parametrize("shadowing_db", [4.0, 8.0])
def test_shadowing_is_log_normal_of_its_standard_deviation(shadowing_db: float) -> None:
    model = Propagation(shadowing_db=shadowing_db)
    distance = np.random.default_rng(1).uniform(0, 700, (300, 300))
    path_db = three_slope_db(np.hypot(distance, model.height_m), model)
    shadow_db = 10 * np.log10(large_scale_fading(distance, model, np.random.default_rng(2))) - path_db
    assert shadow_db.mean() == pytest.approx(0, abs=0.1)
    assert shadow_db.std() == pytest.approx(shadowing_db, rel=0.01)
    assert (np.abs(shadow_db) < shadowing_db).mean() == pytest.approx(0.6827, abs=0.01)


def test_shadowing_is_independent_over_links() -> None:
    shadow_db = 10 * np.log10(large_scale_fading(np.full((2000, 4), 100.0), MODEL, np.random.default_rng(3)))
    assert np.abs(np.corrcoef(shadow_db.T) - np.eye(4)).max() < 0.08
    assert np.abs(np.corrcoef(shadow_db[1:].ravel(), shadow_db[:-1].ravel())[0, 1]) < 0.05
