"""Laws of precoders: nulls, limits, invariances, and power that is never exceeded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apnode.config import Radio
from apnode.messages import ComplexArray
from apnode.precoding import mrt, normalised_blocks, power_split, rzf, stack_cluster
from channel_server.fading import complex_normal

UNLOADED = 1e-12


def gaussian(seed: int, *shape: int) -> ComplexArray:
    return complex_normal(np.random.default_rng(seed), shape)


def unit_columns(w: ComplexArray) -> ComplexArray:
    return np.asarray(w / np.linalg.norm(w, axis=-2, keepdims=True))


def test_unloaded_rzf_diagonalises_the_channel() -> None:
    h = gaussian(0, 8, 5)
    np.testing.assert_allclose(h.conj().T @ rzf(h, UNLOADED), np.eye(5), atol=1e-8)


def test_two_aps_null_jointly_what_neither_can_null_alone() -> None:
    h = gaussian(1, 2 * 3, 5)  # five UEs: too many for an AP of three antennas
    received = h.conj().T @ rzf(h, UNLOADED)
    by_first = h[:3].conj().T @ rzf(h, UNLOADED)[:3]
    elsewhere = ~np.eye(5, dtype=bool)
    assert np.abs(received[elsewhere]).max() < 1e-8
    assert np.abs(by_first[elsewhere]).min() > 1e-3


@pytest.mark.parametrize("shape", [(8, 5), (4, 7)])
def test_rzf_tends_to_mrt_as_alpha_grows(shape: tuple[int, int]) -> None:
    h = gaussian(2, *shape)
    np.testing.assert_allclose(unit_columns(rzf(h, 1e9)), unit_columns(mrt(h)), atol=1e-7)


def test_loading_trades_wanted_signal_against_interference() -> None:
    h = gaussian(3, 6, 4)

    def leakage(alpha: float) -> float:
        received = np.abs(h.conj().T @ unit_columns(rzf(h, alpha))) ** 2
        return float(received.sum() / np.trace(received))

    leaks = [leakage(alpha) for alpha in (1e-9, 0.01, 0.1, 1.0, 10.0, 1000.0)]
    assert leaks == sorted(leaks)


def test_rzf_is_the_regularised_pseudo_inverse_in_either_order() -> None:
    h = gaussian(4, 5, 3)
    load = 0.7 * (np.abs(h) ** 2).sum() / 3  # alpha counts in mean ||h_k||^2
    on_antennas = np.linalg.inv(h @ h.conj().T + load * np.eye(5)) @ h
    np.testing.assert_allclose(rzf(h, 0.7), on_antennas, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-8, 3.0, 2e4])
def test_rzf_steers_alike_whatever_the_units_of_the_channel(scale: float) -> None:
    h = gaussian(5, 6, 4)
    np.testing.assert_allclose(unit_columns(rzf(scale * h, 2.1)), unit_columns(rzf(h, 2.1)), rtol=1e-9)


def test_rzf_of_many_blocks_is_the_rzf_of_each() -> None:
    h = gaussian(6, 4, 6, 3)
    np.testing.assert_allclose(rzf(h, 2.1), np.stack([rzf(block, 2.1) for block in h]), rtol=1e-12)


def test_rzf_does_not_care_in_which_order_ues_and_antennas_are_stacked() -> None:
    h, rng = gaussian(7, 6, 4), np.random.default_rng(0)
    rows, columns = rng.permutation(6), rng.permutation(4)
    np.testing.assert_allclose(rzf(h[rows][:, columns], 2.1), rzf(h, 2.1)[rows][:, columns], rtol=1e-9)


def test_rzf_steers_away_from_a_ue_in_its_way() -> None:
    h = gaussian(8, 4, 2)
    kept = np.abs(np.vdot(h[:, 1], unit_columns(mrt(h))[:, 0]))
    assert np.abs(np.vdot(h[:, 1], unit_columns(rzf(h, 0.1))[:, 0])) < kept


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_rzf_refuses_to_do_without_loading(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be positive"):
        rzf(gaussian(9, 4, 2), alpha)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(0, 6)),
    silent=st.lists(st.booleans(), min_size=6, max_size=6),
    exponent=st.integers(-9, 9),
    power=st.floats(1e-3, 1e3),
)
def test_a_rounded_block_has_its_power_and_never_more(
    seed: int, shape: tuple[int, int, int], silent: list[bool], exponent: int, power: float
) -> None:
    blocks, antennas, num_ues = shape
    w = gaussian(seed, blocks, antennas, num_ues) * 10.0**exponent
    w[..., np.array(silent)[:num_ues]] = 0
    rho = power_split(np.ones(num_ues), Radio(ap_power_w=power))
    rounded = normalised_blocks(w, rho).astype(np.complex64).astype(complex)  # as it travels

    radiated = (np.abs(rounded) ** 2).sum(axis=-2)
    expected = np.where(np.array(silent)[:num_ues], 0, rho) * np.ones((blocks, 1))
    np.testing.assert_allclose(radiated, expected, rtol=1e-6)
    assert (radiated.sum(axis=-1) <= power).all()


@settings(derandomize=True, deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), num_ues=st.integers(1, 6), antennas=st.integers(1, 6))
def test_no_ap_of_a_joint_precoder_exceeds_one_watt(seed: int, num_ues: int, antennas: int) -> None:
    w = rzf(gaussian(seed, 2, 3 * antennas, num_ues), 2.1)
    for ap in range(3):
        own_rows = w[:, ap * antennas : (ap + 1) * antennas]
        rounded = (
            normalised_blocks(own_rows, power_split(np.ones(num_ues), Radio())).astype(np.complex64).astype(complex)
        )
        assert ((np.abs(rounded) ** 2).sum(axis=(1, 2)) <= 1.0).all()


def test_normalising_a_block_keeps_each_direction() -> None:
    w = gaussian(10, 4, 3)
    directions = unit_columns(normalised_blocks(w, np.array([0.2, 0.3, 0.5])))
    np.testing.assert_allclose(directions, unit_columns(w), rtol=1e-12)


def test_normalising_twice_changes_nothing() -> None:
    rho = np.array([0.2, 0.3, 0.5])
    once = normalised_blocks(gaussian(11, 4, 3), rho)
    np.testing.assert_allclose(normalised_blocks(once, rho), once, rtol=1e-12)


@pytest.mark.parametrize("num_ues", [1, 2, 7])
def test_an_equal_split_is_all_power_in_equal_parts(num_ues: int) -> None:
    rho = power_split(np.arange(num_ues), Radio(ap_power_w=2.5))
    assert len(set(rho.tolist())) == 1
    assert rho.sum() == pytest.approx(2.5)


def test_an_ap_without_ues_splits_no_power() -> None:
    assert power_split(np.zeros(0), Radio()).shape == (0,)


def test_a_cluster_stacks_own_rows_first_and_what_was_not_told_is_zero() -> None:
    own, second, third = (gaussian(seed, 1, 2, 40) for seed in (12, 13, 14))
    blocks = [([32, 17], second[..., [32, 17]]), ([3, 17], third[..., [3, 17]])]
    stacked, ues = stack_cluster(own, [17], blocks)
    assert ues == [3, 17, 32]
    nothing = np.zeros((1, 2))
    np.testing.assert_array_equal(stacked[:, :2], own[..., [3, 17, 32]])
    np.testing.assert_array_equal(stacked[:, 2:4], np.stack([nothing, second[..., 17], second[..., 32]], axis=-1))
    np.testing.assert_array_equal(stacked[:, 4:], np.stack([third[..., 3], third[..., 17], nothing], axis=-1))


def test_a_cluster_of_one_is_the_ap_itself() -> None:
    own = gaussian(15, 2, 3, 4)
    stacked, ues = stack_cluster(own, [2, 0], [])
    assert ues == [0, 2]
    np.testing.assert_array_equal(stacked, own[..., [0, 2]])


def test_partners_that_tell_each_other_everything_find_the_same_precoders() -> None:
    first, second = gaussian(16, 1, 3, 4), gaussian(17, 1, 3, 4)
    ues = [0, 1, 2, 3]
    mine = rzf(stack_cluster(first, [0, 1], [(ues, second)])[0], 2.1)
    yours = rzf(stack_cluster(second, [2, 3], [(ues, first)])[0], 2.1)
    np.testing.assert_allclose(mine[:, :3], yours[:, 3:], rtol=1e-9)
    np.testing.assert_allclose(mine[:, 3:], yours[:, :3], rtol=1e-9)


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
