"""Laws of local scattering: the antennas of an AP fade alike when the scatterers are few degrees apart."""

import numpy as np
import pytest

from apnode.config import Config
from apnode.config.network import Propagation, Radio, Run
from apnode.protocol.messages import ComplexArray, FloatArray
from cfmimo.errors import ConfigError
from cfmimo.presets import load
from channel_server.fading import channels
from channel_server.geometry import distances, offsets
from channel_server.scattering import array_correlation, roots
from channel_server.topology import make_layout

L = 4
ANGLES = np.deg2rad([-170.0, -60, -20, 0, 30, 45, 90])
FAR = 1000 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=-1)[None]  # (1, 7, 2)


def correlation(spread: float, offset: FloatArray = FAR, height: float = 0.0) -> ComplexArray:
    return array_correlation(offset, height, spread, L)


@pytest.mark.parametrize("spread", [0.1, 5.0, 20.0, 60.0, 90.0])
def test_a_correlation_is_one_hermitian_toeplitz_and_semidefinite(spread: float) -> None:
    r = correlation(spread)[0]
    np.testing.assert_allclose(np.trace(r, axis1=-2, axis2=-1) / L, 1)
    np.testing.assert_allclose(r, r.conj().swapaxes(-1, -2), atol=1e-14)
    np.testing.assert_allclose(r[:, 1:, 1:], r[:, :-1, :-1], atol=1e-14)
    assert np.linalg.eigvalsh(r).min() > -1e-12


def test_one_direction_gives_one_eigenvalue_and_many_give_all() -> None:
    """Rank one for next to no spread, nearly white for a spread in all directions at broadside."""
    broadside = 3
    point, narrow, wide = (np.linalg.eigvalsh(correlation(spread)[0, broadside])[::-1] for spread in (0.001, 5, 60))
    np.testing.assert_allclose(point, [L, 0, 0, 0], atol=1e-6)
    assert narrow[0] / L > 0.9
    assert 0 < narrow[2] < 0.01
    assert wide[-1] > 0.2


def test_a_point_source_is_the_steering_vector_of_its_angle() -> None:
    phase = np.pi * np.arange(L)[:, None] * np.sin(ANGLES)
    steering = np.exp(1j * phase).T  # (7, L)
    expected = steering[:, :, None] * steering[:, None, :].conj()
    np.testing.assert_allclose(correlation(1e-6)[0], expected, atol=1e-6)


@pytest.mark.parametrize("spread", [2.0, 5.0, 10.0])
def test_a_small_spread_is_the_published_closed_form(spread: float) -> None:
    """Massive MIMO networks (2.24), which holds below some 15 degrees."""
    lag = np.subtract.outer(np.arange(L), np.arange(L))
    sine, cosine, sigma = np.sin(ANGLES)[:, None, None], np.cos(ANGLES)[:, None, None], np.deg2rad(spread)
    closed = np.exp(1j * np.pi * lag * sine - (sigma * np.pi * lag * cosine) ** 2 / 2)
    np.testing.assert_allclose(correlation(spread)[0], closed, atol=5 * sigma**2)  # pi (L - 1) / 2, and more


@pytest.mark.parametrize("antennas", [2, 4, 16])
@pytest.mark.parametrize("spread", [0.5, 10.0, 90.0])
def test_the_sum_over_scatterers_is_the_mean_over_them(spread: float, antennas: int) -> None:
    delta = np.linspace(-8, 8, 20_001)
    density = np.exp(-(delta**2) / 2)
    sine = np.sin(ANGLES[:, None] + np.deg2rad(spread) * delta)
    seen = np.exp(1j * np.pi * np.arange(antennas)[:, None, None] * sine) @ density / density.sum()  # (L, 7)
    np.testing.assert_allclose(array_correlation(FAR, 0.0, spread, antennas)[0, :, :, 0].T, seen, atol=1e-6)


def test_under_the_mast_all_antennas_are_alike() -> None:
    overhead = correlation(10, np.zeros((1, 1, 2)), height=10.0)[0, 0]
    np.testing.assert_allclose(overhead, np.ones((L, L)))
    assert np.isfinite(correlation(10, np.zeros((1, 1, 2)), height=0.0)).all()


@pytest.mark.parametrize("spread", [0.01, 5.0, 60.0])
def test_a_root_squared_is_what_it_is_the_root_of(spread: float) -> None:
    r = correlation(spread)
    root = roots(r)
    np.testing.assert_allclose(root @ root, r, atol=1e-7)


@pytest.mark.parametrize("period", [500.0, None])
def test_offsets_are_as_long_as_distances_and_lead_to_the_ue(period: float | None) -> None:
    rng = np.random.default_rng(1)
    ap_xy, ue_xy = rng.uniform(0, 500, (20, 2)), rng.uniform(0, 500, (30, 2))
    offset = offsets(ap_xy, ue_xy, period)
    np.testing.assert_allclose(np.hypot(offset[..., 0], offset[..., 1]), distances(ap_xy, ue_xy, period))
    gap = ap_xy[:, None] + offset - ue_xy
    np.testing.assert_allclose(gap - np.round(gap / (period or 1e9)) * (period or 0), 0, atol=1e-9)


# --- in the channels ---


def scattered(spread: float) -> Config:
    return Config(
        seed=2,
        run=Run(blocks_per_slot=20_000),
        radio=Radio(num_aps=2, num_ues=3, antennas=L, pilot_length=3, area_m=300),
        propagation=Propagation(angular_spread_deg=spread),
    )


@pytest.mark.parametrize("spread", [1.0, 15.0])
def test_channels_have_power_beta_and_the_correlation_of_their_angle(spread: float) -> None:
    config = scattered(spread)
    layout = make_layout(config, 0)
    h = channels(config, layout, 0)
    np.testing.assert_allclose((np.abs(h) ** 2).mean(axis=(0, 3)), layout.beta, rtol=0.04)
    measured = np.einsum("bmkl,bmkn->mkln", h, h.conj()) / len(h) / layout.beta[..., None, None]
    expected = array_correlation(offsets(layout.ap_xy, layout.ue_xy, 300), 10, spread, L)
    np.testing.assert_allclose(measured, expected, atol=0.04)


def test_links_still_fade_independently() -> None:
    config = scattered(5)
    layout = make_layout(config, 0)
    first = channels(config, layout, 0)[..., 0].reshape(20_000, -1) / np.sqrt(layout.beta.ravel())
    np.testing.assert_allclose(first.conj().T @ first / 20_000, np.eye(6), atol=0.03)


def test_scattering_moves_no_gain_and_no_ue() -> None:
    iid, scattered_ = load("demo"), load("demo", ["propagation.angular_spread_deg=15"])
    np.testing.assert_array_equal(make_layout(iid, 1).beta, make_layout(scattered_, 1).beta)
    assert make_layout(iid, 1).array_root is None


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["radio.antennas=1", "propagation.angular_spread_deg=5"], "no effect with antennas = 1"),
        (["propagation.channel_file=x.npz", "propagation.angular_spread_deg=5"], "no effect with a channel_file"),
        (["propagation.angular_spread_deg=91"], "angular_spread_deg"),
    ],
)
def test_an_angle_that_nothing_would_see_is_refused(overrides: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load("demo", overrides)
