"""What an AP knows of its channels: laws of pilots and of linear MMSE estimation."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apnode.config import Config
from apnode.config.network import Radio, Run
from apnode.protocol.messages import ComplexArray, FloatArray
from apnode.radio.csi import changed_power, despread, error_variance, estimate, pilot_book
from cfmimo.presets import load
from channel_server.fading import SPEED_OF_LIGHT_M_S, channels, complex_normal, received_pilots
from channel_server.geometry import ue_speeds
from channel_server.topology import Layout, make_layout

PILOTS = np.array([0, 1, 0])  # UEs 0 and 2 share one
SNR = np.array([3.0, 0.5, 1.0])  # of each UE's despread pilot


@dataclass(frozen=True)
class Draws:
    """Many channels of one AP, what it heard and what it made of it."""

    beta: FloatArray  # (K,)
    h: ComplexArray  # (B, L, K)
    h_hat: ComplexArray  # (B, L, K)
    variance: FloatArray  # (K,) as `error_variance` has it

    @property
    def error(self) -> ComplexArray:
        return self.h - self.h_hat


@pytest.fixture(scope="module")
def draws() -> Draws:
    config = Config(
        seed=3,
        run=Run(blocks_per_slot=20_000),
        radio=Radio(num_aps=1, num_ues=3, antennas=2, pilot_length=4),
    )
    radio = config.radio
    beta = SNR * radio.noise_power_w / (radio.pilot_power_w * radio.pilot_length)
    layout = Layout(np.zeros((1, 2)), np.zeros((3, 2)), beta[None], *2 * (np.ones((1, 3), bool),), PILOTS)
    h = channels(config, layout, slot=0)
    projections = despread(received_pilots(config, layout, h, slot=0)[:, 0])
    h_hat = estimate(projections, beta, PILOTS, radio.pilot_power_w, radio.noise_power_w)
    variance = error_variance(beta, PILOTS, radio.pilot_power_w, radio.pilot_length, radio.noise_power_w)
    return Draws(beta, h[:, 0].swapaxes(-1, -2), h_hat, variance)


def correlation(a: ComplexArray, b: ComplexArray) -> float:
    """Modulus of the correlation coefficient of two zero-mean samples."""
    return float(abs(np.vdot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("length", [1, 2, 3, 10, 16])
def test_pilots_are_orthogonal_with_squared_norm_tau(length: int) -> None:
    book = pilot_book(length)
    np.testing.assert_allclose(book @ book.conj().T, length * np.eye(length), atol=1e-9 * length)


def test_every_pilot_symbol_has_the_same_power() -> None:
    np.testing.assert_allclose(np.abs(pilot_book(7)), 1)


def test_despreading_puts_a_pilot_in_its_own_column_and_nowhere_else() -> None:
    h = complex_normal(np.random.default_rng(0), (3,))
    y = np.outer(h, pilot_book(5)[2])
    expected = np.zeros((3, 5), complex)
    expected[:, 2] = np.sqrt(5) * h
    np.testing.assert_allclose(despread(y), expected, atol=1e-12)


def test_despreading_keeps_the_energy_heard() -> None:
    y = complex_normal(np.random.default_rng(1), (6, 4, 9))
    np.testing.assert_allclose(np.linalg.norm(despread(y), axis=-1), np.linalg.norm(y, axis=-1))


def test_error_variance_is_the_empirical_error_of_the_estimate(draws: Draws) -> None:
    np.testing.assert_allclose((np.abs(draws.error) ** 2).mean(axis=(0, 1)), draws.variance, rtol=0.03)


def test_estimate_carries_what_the_error_leaves_of_the_prior(draws: Draws) -> None:
    np.testing.assert_allclose((np.abs(draws.h_hat) ** 2).mean(axis=(0, 1)), draws.beta - draws.variance, rtol=0.03)


def test_estimate_and_error_are_uncorrelated(draws: Draws) -> None:
    for ue in range(3):
        for other in range(3):
            assert correlation(draws.h_hat[..., ue], draws.error[..., other]) < 0.02 or PILOTS[ue] != PILOTS[other]
        assert correlation(draws.h_hat[..., ue], draws.error[..., ue]) < 0.02


@pytest.mark.parametrize("factor", [0.9, 1.1, 0.97 + 0.1j])
def test_no_rescaling_of_the_estimate_lowers_its_error(draws: Draws, factor: complex) -> None:
    mse = (np.abs(draws.error) ** 2).mean(axis=(0, 1))
    rescaled = (np.abs(draws.h - factor * draws.h_hat) ** 2).mean(axis=(0, 1))
    assert (rescaled > mse).all()


def test_orthogonal_pilots_give_independent_estimates(draws: Draws) -> None:
    assert correlation(draws.h_hat[..., 0], draws.h_hat[..., 1]) < 0.02
    assert correlation(draws.h_hat[..., 2], draws.h_hat[..., 1]) < 0.02


def test_a_shared_pilot_gives_parallel_estimates(draws: Draws) -> None:
    np.testing.assert_allclose(draws.h_hat[..., 0] / draws.beta[0], draws.h_hat[..., 2] / draws.beta[2])


def test_antennas_are_estimated_independently(draws: Draws) -> None:
    for ue in range(3):
        assert correlation(draws.h_hat[:, 0, ue], draws.h_hat[:, 1, ue]) < 0.03


def test_estimate_tends_to_the_channel_as_the_noise_vanishes() -> None:
    rng = np.random.default_rng(2)
    h, beta, pilots = complex_normal(rng, (1, 2, 3)), np.ones(3), np.arange(3)
    projections = np.sqrt(0.1 * 3) * h
    np.testing.assert_allclose(estimate(projections, beta, pilots, 0.1, 1e-12), h, rtol=1e-9)
    np.testing.assert_allclose(error_variance(beta, pilots, 0.1, 3, 1e-12), 0, atol=1e-9)


def test_a_pilot_heard_by_nobody_else_is_better_known() -> None:
    alone = error_variance(np.ones(3), np.array([0, 1, 2]), 0.1, 3, 0.01)
    shared = error_variance(np.ones(3), np.array([0, 1, 0]), 0.1, 3, 0.01)
    assert shared[0] > alone[0]
    assert shared[1] == alone[1]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    snr_db=st.lists(st.floats(-60, 80), min_size=1, max_size=8),
    length=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_error_variance_lies_between_zero_and_the_prior(snr_db: list[float], length: int, seed: int) -> None:
    noise, power = 4e-13, 0.1
    beta = 10 ** (np.array(snr_db) / 10) * noise / (power * length)
    pilots = np.random.default_rng(seed).integers(length, size=len(beta))
    variance = error_variance(beta, pilots, power, length, noise)
    assert (variance > 0).all()
    assert (variance < beta).all()


@pytest.fixture(scope="module")
def changes() -> dict[float, tuple[FloatArray, FloatArray]]:
    """By speed what APs make of a slot's four blocks, 4 ms apart, of their UEs; and of the others in reach."""
    found: dict[tuple[float, bool], list[float]] = {(v, own): [] for v in (3.0, 30.0) for own in (True, False)}
    for seed in range(4):
        speeds = ("propagation.block_ms=4", "radio.ue_speeds_kmh=[[0.6, 3.0], [0.4, 30.0]]")
        config = load("selective", ("radio.num_aps=40", "radio.num_ues=16", "radio.area_m=630", *speeds), seed)
        layout, radio, of_ue = make_layout(config, 0), config.radio, ue_speeds(config, 0)
        heard = despread(received_pilots(config, layout, channels(config, layout, 0), 0))  # (B, M, L, tau_p)
        for ap, reach in enumerate(layout.reach):
            known = layout.beta[ap, reach], layout.pilots[reach]
            h_hat = estimate(heard[:, ap], *known, radio.pilot_power_w, radio.noise_power_w)
            variance = error_variance(*known, radio.pilot_power_w, radio.pilot_length, radio.noise_power_w)
            changed = changed_power(h_hat, known[0], variance)
            for speed, own, value in zip(of_ue[reach], layout.serving[ap, reach], changed, strict=True):
                found[float(speed), bool(own)].append(float(value))
    return {speed: (np.array(found[speed, True]), np.array(found[speed, False])) for speed in (3.0, 30.0)}


@pytest.mark.parametrize("speed", [3.0, 30.0])
def test_an_ap_sees_in_the_blocks_of_one_slot_how_fast_a_users_channel_changes(
    speed: float, changes: dict[float, tuple[FloatArray, FloatArray]]
) -> None:
    """By Clarke's model 0.9 % and 63 % of the power."""
    turn = 2 * np.pi * speed / 3.6 * 1.9e9 / SPEED_OF_LIGHT_M_S * 4e-3
    j0 = np.cos(turn * np.sin(np.linspace(0, np.pi, 1001))).mean()
    own, _ = changes[speed]
    assert len(own) > 100
    assert np.median(own) == pytest.approx(1 - j0**2, abs=0.06)
    assert np.mean(np.abs(own - (1 - j0**2)) < 0.3) > 0.8


def test_of_users_heard_weakly_an_ap_takes_the_mean_of_the_others(
    changes: dict[float, tuple[FloatArray, FloatArray]],
) -> None:
    for _, others in changes.values():
        assert 0.1 < np.median(others) < 0.45


def test_of_one_block_an_ap_takes_it_that_everything_changes() -> None:
    h_hat = complex_normal(np.random.default_rng(0), (1, 4, 3))
    assert changed_power(h_hat, np.ones(3), np.full(3, 0.01)).tolist() == [1, 1, 1]
    still = np.repeat(h_hat, 4, axis=0)
    assert changed_power(still, np.ones(3), np.full(3, 0.01)).tolist() == [0, 0, 0]
    assert changed_power(still, np.ones(3), np.full(3, 0.5)).tolist() == [1, 1, 1]  # nobody is well heard
