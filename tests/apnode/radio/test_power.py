"""Laws of power: how it is split, how precoders are scaled to it, and that nobody exceeds it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apnode.config.network import Radio
from apnode.protocol.messages import ComplexArray, FloatArray
from apnode.radio.power import AveragePower, power_split, scaled
from channel_server.fading import complex_normal


def gaussian(seed: int, *shape: int) -> ComplexArray:
    return complex_normal(np.random.default_rng(seed), shape)


def norms(w: ComplexArray) -> FloatArray:
    """(B, C, n) of (B, C, L, n)."""
    return np.asarray((np.abs(w) ** 2).sum(axis=2))


@pytest.mark.parametrize("num_ues", [1, 2, 7])
def test_an_equal_split_is_all_power_in_equal_parts(num_ues: int) -> None:
    rho = power_split(np.arange(num_ues), Radio(ap_power_w=2.5))
    assert len(set(rho.tolist())) == 1
    assert rho.sum() == pytest.approx(2.5)


@pytest.mark.parametrize("num_ues", [1, 2, 9])
def test_a_sqrt_beta_split_is_all_power_in_proportion_to_the_roots(num_ues: int) -> None:
    beta = 10 ** np.random.default_rng(num_ues).uniform(-14, -7, num_ues)
    rho = power_split(beta, Radio(ap_power_w=2.5, power_split="sqrt-beta"))
    assert rho.sum() == pytest.approx(2.5)
    np.testing.assert_allclose(rho**2 / beta, rho[0] ** 2 / beta[0])


@pytest.mark.parametrize("split", ["equal", "sqrt-beta"])
def test_ues_without_any_channel_share_equally_and_no_ue_costs_nothing(split: str) -> None:
    radio = Radio.model_validate({"power_split": split})
    np.testing.assert_array_equal(power_split(np.zeros(4), radio), 0.25)
    assert power_split(np.zeros(0), radio).shape == (0,)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.integers(0, 6)),
    silent=st.lists(st.booleans(), min_size=6, max_size=6),
    exponent=st.integers(-9, 9),
    power=st.floats(1e-3, 1e3),
)
def test_the_busiest_ap_has_its_power_none_has_more_and_rounding_adds_nothing(
    seed: int, shape: tuple[int, int, int, int], silent: list[bool], exponent: int, power: float
) -> None:
    blocks, aps, antennas, num_ues = shape
    w = gaussian(seed, blocks, aps, antennas, num_ues) * 10.0**exponent
    w[..., np.array(silent)[:num_ues]] = 0
    rho = np.tile(power_split(np.ones(num_ues), Radio(ap_power_w=power)), (aps, 1))
    rows = [scaled(w[:, ap], rho, norms(w)) for ap in range(aps)]
    rounded = np.stack(rows, axis=1).astype(np.complex64).astype(complex)  # as it travels

    busiest = norms(rounded).max(axis=1)  # (B, n)
    expected = np.where(np.array(silent)[:num_ues], 0, rho[0]) * np.ones((blocks, 1))
    np.testing.assert_allclose(busiest, expected, rtol=1e-6)
    assert (norms(rounded).sum(axis=2) <= power).all()


def test_one_factor_for_all_rows_keeps_a_precoder_as_it_is() -> None:
    w, rho = gaussian(1, 2, 3, 4, 5), np.random.default_rng(0).uniform(0.1, 1, (3, 5))
    rows = np.stack([scaled(w[:, ap], rho, norms(w)) for ap in range(3)], axis=1)
    ratio = rows / w
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-12)
    assert (ratio.real > 0).all()


def test_an_ap_that_does_not_serve_a_ue_does_not_limit_it() -> None:
    w = gaussian(2, 1, 2, 3, 1)
    rho = np.array([[0.5], [0.0]])
    alone = scaled(w[:, 0], rho[:1], norms(w)[:, :1])
    np.testing.assert_array_equal(scaled(w[:, 0], rho, norms(w)), alone)


def test_scaling_own_rows_alone_gives_each_its_power() -> None:
    w, rho = gaussian(3, 4, 1, 3, 2), np.array([[0.2, 0.3]])
    once = scaled(w[:, 0], rho, norms(w))
    np.testing.assert_allclose((np.abs(once) ** 2).sum(axis=1), np.tile(rho, (4, 1)), rtol=1e-6)


def test_the_average_is_over_all_blocks_so_far_apart_for_each_ue_and_group() -> None:
    average, rng = AveragePower(), np.random.default_rng(0)
    slots = rng.uniform(1, 2, (5, 4, 3, 2))  # slots, B, C, n
    for index, power in enumerate(slots):
        mean = average.add((7, 9), (1, 4), power)
        np.testing.assert_allclose(mean[0], slots[: index + 1].mean(axis=(0, 1)))
    np.testing.assert_allclose(
        average.add((9,), (1, 4), slots[0, :, :, 1:])[0, :, 0],
        np.concatenate([slots, slots[:1]])[..., 1].mean(axis=(0, 1)),
    )
    np.testing.assert_allclose(average.add((7,), (4,), slots[0, :, :2, :1])[0], slots[0, :, :2, :1].mean(axis=0))
