"""Laws of precoders: nulls, limits, invariances; and what one AP makes of what it and its partners know."""

import math
from typing import Any

import numpy as np
import pytest

from apnode.config import Config
from apnode.config.cooperation import Precoding
from apnode.config.network import Radio
from apnode.protocol.messages import Association, ChannelBlock, ComplexArray, FloatArray, in_time
from apnode.radio.csi import error_variance
from apnode.radio.precoding import Precoder, mmse, mrt, positive, rzf, stack_cluster
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


# --- MMSE --------------------------------------------------------------------------------------------------


def test_mmse_tends_to_mrt_as_what_is_unknown_grows_and_to_zero_forcing_as_it_vanishes() -> None:
    h = gaussian(20, 8, 5)
    np.testing.assert_allclose(unit_columns(mmse(h, h, 1e9 * np.eye(8))), unit_columns(mrt(h)), atol=1e-7)
    received = h.conj().T @ mmse(h, h, 1e-10 * np.eye(8))
    np.testing.assert_allclose(received, np.eye(5), atol=1e-7)


def test_mmse_goes_along_the_estimate_where_no_matrix_can_be_inverted() -> None:
    h = np.full((8, 3), 1e9 + 0j)
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.inv(h @ h.conj().T + np.eye(8))
    np.testing.assert_allclose(unit_columns(mmse(h, h, np.eye(8))), unit_columns(mrt(h)), atol=1e-3)


def test_mmse_maximises_the_ratio_of_wanted_power_to_all_other() -> None:
    """As a combiner of the dual uplink: no other beam has a better SINR."""
    h, unknown = gaussian(21, 6, 9), np.diag(np.random.default_rng(0).uniform(0.1, 2, 6)).astype(complex)

    def ratio(beam: ComplexArray) -> FloatArray:
        wanted = np.abs(h[:, :1].conj().T @ beam) ** 2
        heard = (np.abs(h.conj().T @ beam) ** 2).sum(axis=0) + np.einsum("in,ij,jn->n", beam.conj(), unknown, beam).real
        return np.asarray((wanted / (heard - wanted))[0])

    best = ratio(mmse(h, h[:, :1], unknown))
    assert (ratio(gaussian(22, 6, 1000)) < best).all()
    assert (ratio(mmse(h, h[:, :1], unknown) + 1e-3 * gaussian(23, 6, 200)) <= best * (1 + 1e-9)).all()


def test_the_nearest_positive_covariance_leaves_one_that_is_positive_and_mends_any_other() -> None:
    root = gaussian(24, 5, 4, 4)
    covariance = root @ root.conj().swapaxes(1, 2)
    np.testing.assert_allclose(positive(covariance, 1e-9), covariance, atol=1e-12)
    mended = positive(1e3 * gaussian(25, 50, 4, 4), 0.5)
    np.testing.assert_allclose(mended, mended.conj().swapaxes(1, 2))
    assert np.linalg.eigvalsh(mended).min() > 0.5 - 1e-9


# --- stacking ----------------------------------------------------------------------------------------------


def test_a_cluster_stacks_own_rows_first_and_what_was_not_told_is_zero() -> None:
    own, second, third = (gaussian(seed, 1, 2, 40) for seed in (12, 13, 14))
    blocks = [([32, 17], second[..., [32, 17]]), ([3, 17], third[..., [3, 17]])]
    stacked, ues = stack_cluster((range(40), own), [17], blocks)
    assert ues == [3, 17, 32]
    nothing = np.zeros((1, 2))
    np.testing.assert_array_equal(stacked[:, :2], own[..., [3, 17, 32]])
    np.testing.assert_array_equal(stacked[:, 2:4], np.stack([nothing, second[..., 17], second[..., 32]], axis=-1))
    np.testing.assert_array_equal(stacked[:, 4:], np.stack([third[..., 3], third[..., 17], nothing], axis=-1))


def test_a_cluster_of_one_is_the_ap_itself() -> None:
    own = gaussian(15, 2, 3, 4)
    stacked, ues = stack_cluster((range(4), own), [2, 0], [])
    assert ues == [0, 2]
    np.testing.assert_array_equal(stacked, own[..., [0, 2]])


def test_partners_that_tell_each_other_everything_find_the_same_precoders() -> None:
    first, second = gaussian(16, 1, 3, 4), gaussian(17, 1, 3, 4)
    ues = [0, 1, 2, 3]
    mine = rzf(stack_cluster((ues, first), [0, 1], [(ues, second)])[0], 2.1)
    yours = rzf(stack_cluster((ues, second), [2, 3], [(ues, first)])[0], 2.1)
    np.testing.assert_allclose(mine[:, :3], yours[:, 3:], rtol=1e-9)
    np.testing.assert_allclose(mine[:, 3:], yours[:, :3], rtol=1e-9)


# --- one AP ------------------------------------------------------------------------------------------------

NUM_UES, BLOCKS, ANTENNAS = 6, 3, 4
BETA = np.array([3e-10, 2e-10, 5e-11, 3e-11, 1e-11, 1e-12])


EVERYBODY = tuple(range(NUM_UES))


def precoder(
    ap: int, ues: tuple[int, ...], reach: tuple[int, ...] = EVERYBODY, beta: FloatArray = BETA, **settings: object
) -> Precoder:
    config = Config(radio=Radio(num_ues=NUM_UES, antennas=ANTENNAS), precoding=Precoding.model_validate(settings))
    return Precoder(ap, config, Association(0, ues, beta[list(reach)], reach, (), (), [], reach=reach))


def estimates(seed: int) -> ComplexArray:
    return gaussian(seed, BLOCKS, ANTENNAS, NUM_UES) * np.sqrt(BETA)


SELECTIVE = {"alone": "mmse", "joint": "selective", "told_ues": NUM_UES}


@pytest.mark.parametrize("alone", ["mrt", "rzf", "mmse"])
def test_without_partners_an_ap_precodes_alone(alone: str) -> None:
    one = precoder(0, (1, 4), alone=alone)
    h_hat = estimates(30)
    w = one.alone(h_hat)
    assert w.shape == (BLOCKS, ANTENNAS, 2)
    assert one.joint(h_hat, w, {}) is w


def test_local_mmse_is_the_formula_over_all_ues() -> None:
    h_hat, radio = estimates(31), Radio(num_ues=NUM_UES)
    w = precoder(0, (1, 4), alone="mmse").alone(h_hat)
    error = error_variance(BETA, np.arange(NUM_UES), radio.pilot_power_w, radio.pilot_length, radio.noise_power_w)
    unknown = (error.sum() + radio.noise_power_w / radio.ap_power_w) * np.eye(ANTENNAS)
    heard = h_hat @ h_hat.conj().swapaxes(1, 2) + unknown
    expected = unit_columns(np.linalg.inv(heard) @ h_hat[..., [1, 4]]) * np.sqrt(0.5)
    np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_selective_precodes_jointly_for_common_ues_and_alone_for_the_others() -> None:
    one, other = precoder(0, (1, 4), **SELECTIVE), precoder(1, (1, 2), **SELECTIVE)
    h_hat, theirs = estimates(32), estimates(33)
    alone = one.alone(h_hat)
    joint = one.joint(h_hat, alone, {1: other.block(0, one.matters, theirs)})
    np.testing.assert_array_equal(joint[..., 1], alone[..., 1])  # UE 4 is not the other's
    assert np.abs(joint[..., 0] - alone[..., 0]).max() > 1e-3


def test_a_partner_without_a_common_ue_changes_nothing() -> None:
    one, other = precoder(0, (1, 4), **SELECTIVE), precoder(1, (0, 2), **SELECTIVE)
    h_hat = estimates(34)
    alone = one.alone(h_hat)
    np.testing.assert_array_equal(one.joint(h_hat, alone, {1: other.block(0, one.matters, estimates(35))}), alone)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("power", ["peak", "average"])
def test_aps_that_tell_each_other_everything_transmit_one_precoder_with_its_nulls(power: str, count: int) -> None:
    """One real factor for all: their rows together are the MMSE solution over the antennas of all."""
    aps = [precoder(ap, (1,), **SELECTIVE, power=power) for ap in range(count)]
    h_hat = [estimates(36 + ap) for ap in range(count)]
    blocks = {index: ap.block(0, (), h_hat[index]) for index, ap in enumerate(aps)}
    rows = []
    for index, (ap, h) in enumerate(zip(aps, h_hat, strict=True)):
        rows.append(ap.joint(h, ap.alone(h), {n: block for n, block in blocks.items() if n != index}))
    stacked = np.concatenate(h_hat, axis=1)
    unknown = aps[0].block(0, (), h_hat[0]).untold[0, 0, 0].real
    ideal = mmse(stacked, stacked[..., [1]], unknown * np.eye(count * ANTENNAS))
    ratio = np.concatenate(rows, axis=1) / ideal
    if power == "peak":
        np.testing.assert_allclose(
            ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-3
        )  # one factor in each block
    else:
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1, :1], ratio.shape), rtol=1e-3)  # one for all


def test_with_groups_a_ue_gets_the_precoder_of_its_group_and_no_one_elses() -> None:
    """Whose channels are known as well, for another UE, does not count, though it serves this one."""
    h_hat, groups = estimates(45), {1: {7}, 4: {7, 8}}

    def joint(partners: dict[int, ChannelBlock], groups: dict[int, set[int]] | None = None) -> ComplexArray:
        one = precoder(0, (1, 3, 4), **SELECTIVE)
        return one.joint(h_hat, one.alone(h_hat), partners, groups)

    blocks = {ap: precoder(ap, (1, 3, 4), **SELECTIVE).block(0, (), estimates(40 + ap)) for ap in (7, 8)}
    both, chosen, alone = joint(blocks), joint(blocks, groups), precoder(0, (1, 3, 4), **SELECTIVE).alone(h_hat)
    np.testing.assert_allclose(chosen[..., 0], joint({7: blocks[7]})[..., 0], rtol=1e-12)
    np.testing.assert_array_equal(chosen[..., 1], alone[..., 1])
    np.testing.assert_allclose(chosen[..., 2], both[..., 2], rtol=1e-12)
    assert np.abs(both[..., :2] - chosen[..., :2]).min() > 0


@pytest.mark.parametrize("late", [(0, 1), (2, 0), (2, 1)])
def test_a_group_precodes_each_block_with_the_newest_estimates_that_all_have(late: tuple[int, int]) -> None:
    """Both ends alike: as if these, of earlier blocks, were those of the block."""
    aps = [precoder(ap, (1, 4), **SELECTIVE) for ap in (0, 1)]
    known = [np.concatenate([estimates(80 + ap), estimates(90 + ap)]) for ap in (0, 1)]  # as many blocks before
    told = [in_time(aps[ap].block(0, EVERYBODY, known[ap]), late[ap]) for ap in (0, 1)]
    then = [h_hat[BLOCKS - max(late) : 2 * BLOCKS - max(late)] for h_hat in known]
    expected = {ap: aps[ap].block(0, EVERYBODY, then[ap]) for ap in (0, 1)}
    for ap, other in ((0, 1), (1, 0)):
        w = aps[ap].joint(known[ap], aps[ap].alone(known[ap][BLOCKS:]), {other: told[other]}, own_age=late[ap])
        alike = aps[ap].joint(then[ap], aps[ap].alone(then[ap]), {other: expected[other]})
        np.testing.assert_allclose(w, alike, rtol=1e-6)


def test_where_not_all_of_a_group_have_estimates_they_precode_alone() -> None:
    """As in the first slot of an episode, or when one of them was restarted, and remembers nothing."""
    one, other = precoder(0, (1, 4), **SELECTIVE), precoder(1, (1, 4), **SELECTIVE)
    known = np.concatenate([estimates(84), estimates(85)])
    alone = one.alone(known[BLOCKS:])
    for late in (2, BLOCKS):
        told = in_time(other.block(0, EVERYBODY, estimates(86)), late)  # of this slot only
        np.testing.assert_array_equal(one.joint(known, alone, {1: told}), alone)
    assert np.abs(one.joint(known, alone, {1: other.block(0, EVERYBODY, estimates(86))}) - alone).min() > 0


def test_what_is_not_told_counts_as_covariance() -> None:
    """Own rows of the partner's matrix: told UEs, plus the covariance of the rest, is all that it hears."""
    h_hat = estimates(38)
    some, everything = (precoder(0, (1,), **{**SELECTIVE, "told_ues": n}) for n in (2, NUM_UES))

    def heard(block: ChannelBlock) -> ComplexArray:
        told = block.h_hat.astype(complex)
        return np.asarray(told @ told.conj().swapaxes(1, 2) + block.untold)

    few, all_of_them = some.block(0, (), h_hat), everything.block(0, (), h_hat)
    assert few.ues == (0, 1)  # its own UE, and the strongest two
    assert all_of_them.ues == tuple(range(NUM_UES))
    np.testing.assert_allclose(heard(few), heard(all_of_them), rtol=1e-5, atol=1e-18)


def pair(**settings: object) -> tuple[list[Precoder], list[ComplexArray]]:
    """Two APs that serve UEs 1 and 4, hear all, and know what the other hears; and their estimates."""
    around: dict[str, Any] = {"around": EVERYBODY, "around_pilots": EVERYBODY, "neighbour_beta": BETA[None]}
    around["neighbour_serves"] = np.ones((1, NUM_UES), int)
    config = Config(radio=Radio(num_ues=NUM_UES, antennas=ANTENNAS), precoding=Precoding.model_validate(settings))
    told = [Association(0, (1, 4), BETA, EVERYBODY, (1 - ap,), ("x",), [1.0], **around) for ap in (0, 1)]
    return [Precoder(ap, config, told[ap]) for ap in (0, 1)], [estimates(70 + ap) for ap in (0, 1)]


def precoded(
    settings: dict[str, object], wrongness: dict[int, float] | None = None
) -> tuple[ComplexArray, ComplexArray]:
    """(B, L, 2) alone and (B, 2 L, 2) jointly, by two APs that believe this."""
    aps, h_hat = pair(**settings)
    for ap in aps if wrongness is not None else ():
        ap.believe(wrongness)
    blocks = [ap.block(0, (), h) for ap, h in zip(aps, h_hat, strict=True)]
    alone = [ap.alone(h) for ap, h in zip(aps, h_hat, strict=True)]
    joint = [aps[ap].joint(h_hat[ap], alone[ap], {1 - ap: blocks[1 - ap]}) for ap in (0, 1)]
    return alone[0], np.concatenate(joint, axis=1)


@pytest.mark.parametrize("told_ues", [1, NUM_UES])
def test_who_believes_that_nobody_is_wrong_precodes_as_ever_to_the_last_bit(told_ues: int) -> None:
    settings = {**SELECTIVE, "told_ues": told_ues}
    for believing, ever in zip(precoded(settings, {0: 0.0, 1: 0.0}), precoded(settings), strict=True):
        np.testing.assert_array_equal(believing, ever)


@pytest.mark.parametrize("wrongness", [{0: 0.5, 1: 0.0}, {0: 0.2, 1: 0.6}, {0: 0.0, 1: 1.0}])
def test_with_wrong_channels_precoders_are_the_mmse_ones_of_mean_and_variance(wrongness: dict[int, float]) -> None:
    """The channel from antenna i to UE j has the mean sqrt(1 - b) h_hat and the variance beta - (1 - b) (beta - c)."""
    radio, (_, h_hat) = Radio(num_ues=NUM_UES), pair(**SELECTIVE)
    error = error_variance(BETA, np.arange(NUM_UES), radio.pilot_power_w, radio.pilot_length, radio.noise_power_w)
    mean = [math.sqrt(1 - wrongness[ap]) * h_hat[ap] for ap in (0, 1)]
    variance = [(BETA - (1 - wrongness[ap]) * (BETA - error)).sum() for ap in (0, 1)]
    loading = np.repeat(variance, ANTENNAS) + radio.noise_power_w / radio.ap_power_w

    def ideal(mean: ComplexArray, loading: FloatArray) -> ComplexArray:
        heard = mean @ mean.conj().swapaxes(1, 2) + np.diag(loading)
        return np.asarray(np.linalg.inv(heard) @ mean[..., [1, 4]])

    alone, joint = precoded({**SELECTIVE, "power": "average"}, wrongness)
    for w, expected in (
        (alone, ideal(mean[0], loading[:ANTENNAS])),
        (joint, ideal(np.concatenate(mean, axis=1), loading)),
    ):
        assert np.abs(w).max() > 1e-3
        across = (w * np.abs(expected) ** 2).sum(axis=(0, 1)) / (expected * np.abs(expected) ** 2).sum(axis=(0, 1))
        np.testing.assert_allclose(w, across * expected, rtol=2e-3, atol=1e-5)  # one factor for all blocks and rows


@pytest.mark.parametrize("settings", [{}, {"alone": "mmse"}, SELECTIVE, {**SELECTIVE, "power": "peak"}])
def test_an_ap_precodes_as_one_that_hears_of_the_ues_out_of_its_reach_nothing(settings: dict[str, object]) -> None:
    """Which is one that takes their channels for 0, whatever partners tell of them."""
    reach = (1, 3, 4)
    heard = np.isin(EVERYBODY, reach)
    one, other = precoder(0, (1, 4), reach, **settings), precoder(0, (1, 4), beta=BETA * heard, **settings)
    h_hat = estimates(60) * heard
    partner = precoder(1, (1, 2), **settings).block(0, EVERYBODY, estimates(61))
    alone, expected = one.alone(h_hat[..., reach]), other.alone(h_hat)
    np.testing.assert_allclose(alone, expected, rtol=1e-9)
    joint = one.joint(h_hat[..., reach], alone, {1: partner})
    np.testing.assert_allclose(joint, other.joint(h_hat, expected, {1: partner}), rtol=1e-9)
    assert np.abs(joint - alone).max() > 1e-3


@pytest.mark.parametrize("settings", [{}, SELECTIVE])
def test_a_block_tells_nothing_of_ues_out_of_reach_whoever_asks(settings: dict[str, object]) -> None:
    h_hat = estimates(62)[..., :3]
    block = precoder(0, (1, 4), (1, 3, 4), **settings).block(0, EVERYBODY, h_hat)
    assert block.ues == (1, 3, 4)
    np.testing.assert_array_equal(block.h_hat, h_hat.astype("<c8"))
    np.testing.assert_array_equal(block.rho, [0.5, 0, 0.5])


def test_a_hostile_covariance_breaks_nothing() -> None:
    one, other = precoder(0, (1, 4), **SELECTIVE), precoder(1, (1, 2), **SELECTIVE)
    h_hat, block = estimates(39), other.block(0, one.matters, estimates(40))
    alone = one.alone(h_hat)
    for untold in (-1e17 * np.ones((BLOCKS, 4, 4)), np.zeros((BLOCKS, 4, 4)), 1j * np.ones((BLOCKS, 4, 4))):
        lie = ChannelBlock(0, 1, block.ues, block.h_hat, block.rho, untold)
        w = one.joint(h_hat, alone, {1: lie})
        assert np.isfinite(w).all()
        assert (np.abs(w) ** 2).sum(axis=(1, 2)).max() <= 1


def test_the_average_rule_hardens_and_the_others_do_not() -> None:
    """The factor of a long run is one number: it no longer follows the fading of a block."""

    def spread(power: str) -> float:
        one = precoder(0, (1,), alone="mmse", power=power)
        for seed in range(100):
            one.alone(estimates(seed))
        h_hat = estimates(200)
        gain = np.einsum("bl,bl->b", h_hat[..., 1].conj(), one.alone(h_hat)[..., 0])
        return float(np.std(np.abs(gain)) / np.mean(np.abs(gain)))

    assert spread("average") < 0.2 * spread("peak")


def received_alone(power: str) -> tuple[ComplexArray, float, float]:
    """Gain of UE 1 from an AP that serves it by MRT at 1 W, over many blocks; gamma and c of its channel."""
    blocks, ue, radio = 40_000, 1, Radio(num_ues=NUM_UES)
    error = error_variance(BETA, np.arange(NUM_UES), radio.pilot_power_w, radio.pilot_length, radio.noise_power_w)
    gamma = BETA - error
    h_hat = gaussian(50, blocks, ANTENNAS, NUM_UES) * np.sqrt(gamma)
    h = h_hat + gaussian(51, blocks, ANTENNAS, NUM_UES) * np.sqrt(error)
    w = precoder(0, (ue,), power=power).alone(h_hat)
    return np.einsum("bl,bl->b", h[..., ue].conj(), w[..., 0]), float(gamma[ue]), float(error[ue])


def test_mrt_has_the_expected_gain_of_the_book() -> None:
    """At a power met in every block: E|h^H w|^2 = L gamma + c, E h^H w = sqrt(gamma) Gamma(L + 1/2) / Gamma(L)."""
    gain, gamma, error = received_alone("peak")
    assert np.mean(np.abs(gain) ** 2) == pytest.approx(ANTENNAS * gamma + error, rel=0.02)
    mean = np.sqrt(gamma) * math.gamma(ANTENNAS + 0.5) / math.gamma(ANTENNAS)
    assert np.mean(gain) == pytest.approx(mean, rel=0.02)


def test_mrt_at_an_average_power_has_the_gain_of_its_hardening_bound() -> None:
    """w = h_hat / sqrt(L gamma): (E h^H w)^2 = L gamma, and the whole power is L gamma + beta."""
    gain, gamma, error = received_alone("average")
    assert np.abs(np.mean(gain)) ** 2 == pytest.approx(ANTENNAS * gamma, rel=0.02)
    assert np.mean(np.abs(gain) ** 2) == pytest.approx(ANTENNAS * gamma + gamma + error, rel=0.02)
