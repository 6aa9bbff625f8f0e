"""Laws of superposition: what adds in amplitude, what adds in power, and what does not matter."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from apnode.protocol.messages import ComplexArray
from channel_server.fading import complex_normal
from channel_server.sinr import hardening_sinr, received, received_interference, sinr, spectral_efficiency

B, M, K, L = 3, 5, 4, 2
NOISE = 0.3


def gaussian(seed: int, *shape: int) -> ComplexArray:
    return complex_normal(np.random.default_rng(seed), shape)


@pytest.fixture
def h() -> ComplexArray:
    return gaussian(1, B, M, K, L)


@pytest.fixture
def serving() -> NDArray[np.bool_]:
    """Who serves whom: AP 3 nobody, AP 4 everybody."""
    served = np.random.default_rng(2).random((M, K)) < 0.5
    served[3], served[4] = False, True
    return served


@pytest.fixture
def w(serving: NDArray[np.bool_]) -> ComplexArray:
    return gaussian(3, B, M, K, L) * serving[None, :, :, None]


def test_sinr_of_a_single_link_is_its_snr() -> None:
    h = np.array([3 + 4j, 0]).reshape(1, 1, 1, 2)
    w = np.array([0.5, 1.0]).reshape(1, 1, 1, 2)
    # |conj(3 + 4j) * 0.5|^2 = 25/4 over 2 W
    assert sinr(h, w, noise_power=2.0)[0, 0] == pytest.approx(25 / 8)


def test_sinr_of_two_links_worked_by_hand() -> None:
    h = np.array([[1j, 2.0]]).reshape(1, 1, 2, 1)
    w = np.array([[3.0, 1.0]]).reshape(1, 1, 2, 1)
    # UE 0: |1j * 3|^2 = 9 of its own, 1 of the other; UE 1: 4 of its own, 36 of the other
    np.testing.assert_allclose(sinr(h, w, noise_power=0.5)[0], [9 / 1.5, 4 / 36.5])


def test_sinr_is_equation_9_stream_by_stream(h: ComplexArray, w: ComplexArray) -> None:
    expected = np.zeros((B, K))
    for b in range(B):
        for k in range(K):
            streams = [abs(sum(np.vdot(h[b, m, k], w[b, m, j]) for m in range(M))) ** 2 for j in range(K)]
            expected[b, k] = streams[k] / (sum(streams) - streams[k] + NOISE)
    np.testing.assert_allclose(sinr(h, w, NOISE), expected)


def test_what_is_received_of_a_stream_is_what_its_aps_send_added_in_amplitude(h: ComplexArray, w: ComplexArray) -> None:
    np.testing.assert_allclose(received(h, w), np.einsum("bmkl,bmjl->bkj", h.conj(), w))


def test_two_aligned_aps_bring_four_times_the_power_of_one() -> None:
    h = np.repeat(gaussian(4, 1, 1, 1, L), 2, axis=1)
    both = h / np.linalg.norm(h[0, 0, 0])
    one = both * np.array([1, 0])[None, :, None, None]
    assert sinr(h, both, NOISE)[0, 0] == pytest.approx(4 * sinr(h, one, NOISE)[0, 0])


def test_two_opposed_aps_cancel() -> None:
    h = np.repeat(gaussian(5, 1, 1, 1, L), 2, axis=1)
    w = h * np.array([1, -1])[None, :, None, None]
    assert sinr(h, w, NOISE)[0, 0] == pytest.approx(0, abs=1e-20)


def test_unaligned_aps_add_in_power_on_average() -> None:
    h = gaussian(6, 20_000, 2, 1, 1)
    w = np.ones_like(h)
    both, first, second = (
        sinr(h, w * np.array(mask)[None, :, None, None], NOISE).mean() for mask in ([1, 1], [1, 0], [0, 1])
    )
    assert both == pytest.approx(first + second, rel=0.05)


def test_a_common_phase_of_a_stream_over_all_its_aps_changes_nothing(h: ComplexArray, w: ComplexArray) -> None:
    turned = w * np.exp(1j * np.array([0.3, 2.0, -1.0, 3.0]))[None, None, :, None]
    np.testing.assert_allclose(sinr(h, turned, NOISE), sinr(h, w, NOISE))


def test_a_phase_at_one_of_its_aps_alone_matters(h: ComplexArray, w: ComplexArray) -> None:
    turned = w.copy()
    turned[:, 4] *= 1j
    assert not np.isclose(sinr(h, turned, NOISE), sinr(h, w, NOISE)).any()


def test_sinr_falls_when_an_interferer_joins(h: ComplexArray, w: ComplexArray) -> None:
    without = w.copy()
    without[:, :, 3] = 0
    before, after = sinr(h, without, NOISE), sinr(h, w, NOISE)
    assert (after[:, :3] < before[:, :3]).all()
    assert (before[:, 3] == 0).all()


def test_sinr_is_scale_free(h: ComplexArray, w: ComplexArray) -> None:
    np.testing.assert_allclose(sinr(1e-6 * h, 3 * w, 9e-12 * NOISE), sinr(h, w, NOISE))


def test_more_noise_lowers_and_more_power_raises_sinr_up_to_a_ceiling(h: ComplexArray, w: ComplexArray) -> None:
    ceiling = sinr(h, w, 1e-30)
    assert (sinr(h, w, 2 * NOISE) < sinr(h, w, NOISE)).all()
    assert (sinr(h, 2 * w, NOISE) > sinr(h, w, NOISE)).all()
    assert (sinr(h, 2 * w, NOISE) < ceiling).all()


def test_sets_of_precoders_side_by_side_are_scored_as_each_alone(h: ComplexArray, w: ComplexArray) -> None:
    sets = np.stack([[w, 2 * w, 1j * w], [w.conj(), 0 * w, -w]])
    scored = sinr(h, sets, NOISE)
    assert scored.shape == (2, 3, B, K)
    for index in np.ndindex(2, 3):
        np.testing.assert_allclose(scored[index], sinr(h, sets[index], NOISE))


def test_knowing_who_serves_whom_saves_looking_but_changes_nothing(
    h: ComplexArray, w: ComplexArray, serving: NDArray[np.bool_]
) -> None:
    np.testing.assert_array_equal(sinr(h, w, NOISE, serving), sinr(h, w, NOISE))


def test_a_ue_that_nobody_serves_has_no_sinr_and_disturbs_nobody(h: ComplexArray, w: ComplexArray) -> None:
    served = np.array([0, 2, 3])
    without = w.copy()
    without[:, :, 1] = 0
    scored = sinr(h, without, NOISE)
    np.testing.assert_array_equal(scored[:, 1], 0)
    np.testing.assert_allclose(scored[:, served], sinr(h[:, :, served], w[:, :, served], NOISE))


def test_silence_has_no_sinr(h: ComplexArray) -> None:
    np.testing.assert_array_equal(sinr(h, np.zeros_like(h), NOISE), 0)


def test_rate_is_one_bit_at_0_db_and_none_without_signal() -> None:
    np.testing.assert_allclose(spectral_efficiency(np.array([0.0, 1.0, 3.0, 1023.0])), [0, 1, 2, 10])


@pytest.mark.parametrize("counts", ["other-streams", "literal", "non-serving"])
def test_received_interference_is_the_sum_of_equation_7_stream_by_stream(
    h: ComplexArray, w: ComplexArray, serving: NDArray[np.bool_], counts: str
) -> None:
    expected = np.zeros((M, K))
    for n in range(M):
        for k in range(K):
            for j in range(K):
                counted = {"other-streams": j != k, "literal": True, "non-serving": not serving[n, k]}[counts]
                if serving[n, j] and counted:
                    expected[n, k] += np.mean([abs(np.vdot(h[b, n, k], w[b, n, j])) ** 2 for b in range(B)])
    np.testing.assert_allclose(received_interference(h, w, serving, counts), expected)


def test_the_literal_reading_exceeds_the_default_by_the_wanted_signals_power(
    h: ComplexArray, w: ComplexArray, serving: NDArray[np.bool_]
) -> None:
    literal, default = (received_interference(h, w, serving, counts) for counts in ("literal", "other-streams"))
    own: NDArray[Any] = (np.abs(np.einsum("bmkl,bmkl->bmk", h.conj(), w)) ** 2).mean(axis=0)
    np.testing.assert_allclose(literal - default, own, atol=1e-12)


def test_who_serves_nobody_disturbs_nobody(h: ComplexArray, w: ComplexArray, serving: NDArray[np.bool_]) -> None:
    for counts in ("other-streams", "literal", "non-serving"):
        np.testing.assert_array_equal(received_interference(h, w, serving, counts)[3], 0)


def test_a_network_that_serves_nobody_is_silent(h: ComplexArray) -> None:
    nobody = np.zeros((M, K), bool)
    np.testing.assert_array_equal(received_interference(h, np.zeros_like(h), nobody, "literal"), 0)


def test_a_lone_interferer_is_what_lowers_the_sinr() -> None:
    """With one AP per UE the interference of (7) is the very interference in (9)."""
    h, w = gaussian(7, 1, 2, 2, L), gaussian(8, 1, 2, 2, L)
    serving = np.eye(2, dtype=bool)
    w *= serving[None, :, :, None]
    suffered = received_interference(h, w, serving, "other-streams").sum(axis=0)
    wanted = np.array([abs(np.vdot(h[0, k, k], w[0, k, k])) ** 2 for k in range(2)])
    np.testing.assert_allclose(sinr(h, w, NOISE)[0], wanted / (suffered + NOISE))


# --- the hardening bound -----------------------------------------------------------------------------------


def over_blocks(blocks: int, mean: float, seed: int = 5) -> tuple[ComplexArray, Any]:
    """Gain and SINR of 4 UEs in many blocks whose own stream has a mean and spread 1."""
    effective = gaussian(seed, blocks, K, K)
    effective[:, range(K), range(K)] += mean
    power = np.abs(effective) ** 2
    wanted = np.diagonal(power, axis1=1, axis2=2)
    return np.diagonal(effective, axis1=1, axis2=2), wanted / (power.sum(axis=2) - wanted + NOISE)


def test_the_hardening_bound_is_its_closed_form() -> None:
    """Mean m and unit variance of the own gain, three interferers of power 1: m^2 / (1 + 3 + noise)."""
    np.testing.assert_allclose(hardening_sinr(*over_blocks(200_000, 3.0)), 9 / (4 + NOISE), rtol=0.02)


@pytest.mark.parametrize("mean", [0.5, 2.0, 10.0])
def test_the_hardening_bound_lies_below_the_rate_of_who_knows_the_gain(mean: float) -> None:
    gain, ratio = over_blocks(20_000, mean)
    genie = spectral_efficiency(ratio).mean(axis=0)
    assert (spectral_efficiency(hardening_sinr(gain, ratio)) < genie).all()


def test_a_gain_that_does_not_vary_is_known() -> None:
    gain, ratio = np.full((5, K), 2.0 + 1j), np.full((5, K), 7.0)
    np.testing.assert_allclose(hardening_sinr(gain, ratio), 7.0)


def test_few_blocks_do_not_flatter_the_bound() -> None:
    """Without a mean there is nothing to know; the plain square of the mean over 8 blocks would see 1/8 of it."""
    few = [hardening_sinr(*over_blocks(8, 0.0, seed)).mean() for seed in range(400)]
    plain = 1 / 8 / (4 + NOISE)
    assert np.mean(few) < 0.6 * plain


def test_one_block_tells_no_bound_and_a_silent_network_gives_nothing() -> None:
    gain, ratio = over_blocks(1, 1.0)
    assert np.isnan(hardening_sinr(gain, ratio)).all()
    np.testing.assert_array_equal(hardening_sinr(np.zeros((4, K)), np.zeros((4, K))), 0)


def test_effective_channels_superpose_over_the_aps(h: ComplexArray, w: ComplexArray) -> None:
    expected = np.einsum("bmkl,bmjl->bkj", h.conj(), w)
    np.testing.assert_allclose(received(h, w), expected, rtol=1e-12)
