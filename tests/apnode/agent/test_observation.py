"""What an agent sees (10) and earns (12)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apnode.agent.observation import (
    observe,
    relative_gain,
    reported_interference,
    reward,
    row_normalised,
    shares,
)
from apnode.config import Config
from apnode.config.cooperation import Cooperation
from apnode.config.learning import Learning, Reward
from apnode.protocol.messages import NOBODY, FloatArray, SlotFeedback

CONFIG = Config(learning=Learning(observed_ues=3), cooperation=Cooperation(max_neighbours=2))
OWN_UES, INTERFERENCE, LINKED, GAIN = slice(0, 3), slice(3, 5), slice(5, 7), slice(7, 9)
TWO_SHARES = np.array([3.0, 1.0])  # 3/4 and 1/4


def feedback(
    rate: list[float],
    rate_alone: list[float],
    interferers: list[list[int]] | None = None,
    interference: list[list[float]] | None = None,
) -> SlotFeedback:
    empty = np.zeros((len(rate), 0))
    return SlotFeedback(
        slot=0,
        rate=np.array(rate),
        rate_alone=np.array(rate_alone),
        interferers=np.array(interferers, np.uint16) if interferers else empty.astype(np.uint16),
        interference=np.array(interference) if interference else empty,
    )


def seen(beta: FloatArray, neighbours: int = 2) -> FloatArray:
    return observe(CONFIG, beta, np.ones(neighbours), [True] * neighbours, np.full(neighbours, 0.1))


@pytest.mark.parametrize("num_ues", [0, 1, 3, 7])
@pytest.mark.parametrize("neighbours", [0, 1, 2])
def test_observation_has_one_length_whatever_the_ap_serves(num_ues: int, neighbours: int) -> None:
    assert seen(np.full(num_ues, 1e-9), neighbours).shape == (CONFIG.observed,)


def test_what_is_not_there_is_padded_with_zeros_in_its_own_place() -> None:
    observation = observe(CONFIG, np.array([1e-9]), np.array([2.0]), [True], np.array([0.3]))
    assert observation[OWN_UES][0] != 0
    np.testing.assert_array_equal(observation[OWN_UES][1:], 0)
    np.testing.assert_array_equal(observation[INTERFERENCE], [1, 0])
    np.testing.assert_array_equal(observation[LINKED], [1, 0])
    np.testing.assert_array_equal(observation[GAIN], [0.3, 0])


def test_an_ap_that_serves_and_hears_nobody_sees_zeros() -> None:
    nothing = np.zeros(0)
    np.testing.assert_array_equal(observe(CONFIG, nothing, nothing, [], nothing), 0)


def test_only_the_strongest_own_ues_are_seen_in_whatever_order_they_come() -> None:
    beta = np.array([1e-9, 1e-11, 1e-8, 1e-12, 1e-10])
    np.testing.assert_array_equal(seen(beta), seen(beta[::-1]))
    np.testing.assert_array_equal(seen(beta), seen(np.sort(beta)[-3:]))
    assert (np.diff(seen(beta)[OWN_UES]) < 0).all()


def test_strength_is_seen_in_decibels() -> None:
    steps = np.diff(seen(np.array([1e-8, 1e-9, 1e-10]))[OWN_UES])
    assert steps[0] == pytest.approx(steps[1])
    assert steps[0] < 0


def test_interference_is_seen_relative_to_the_worst_whatever_its_unit() -> None:
    nothing = np.zeros(0)
    one, other = (observe(CONFIG, nothing, scale * TWO_SHARES, [False] * 2, np.zeros(2)) for scale in (1, 1e-12))
    np.testing.assert_allclose(one, other)
    np.testing.assert_allclose(one[INTERFERENCE], [1, 1 / 3])


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 1e-3), max_size=8))
def test_row_normalised_interference_is_one_at_the_worst_or_all_zero(powers: list[float]) -> None:
    relative = row_normalised(np.array(powers))
    assert ((relative >= 0) & (relative <= 1)).all()
    assert relative.max(initial=0) == (1 if any(powers) else 0)
    assert shares(np.array(powers)).sum() == pytest.approx(1 if any(powers) else 0)


def test_reports_of_all_own_ues_add_up_and_strangers_do_not_count() -> None:
    reports = feedback([1, 1], [1, 1], [[4, 7, NOBODY], [7, 2, 4]], [[1.0, 2.0, 0.0], [8.0, 16.0, 32.0]])
    np.testing.assert_allclose(reported_interference(reports, [7, 4, 9]), [10, 33, 0])


def test_an_ap_without_ues_has_reports_of_nothing() -> None:
    np.testing.assert_array_equal(reported_interference(feedback([], []), [3, 1]), [0, 0])


def test_relative_gain_compares_sums_over_own_ues() -> None:
    assert relative_gain(feedback([3, 3], [1, 4])) == pytest.approx(1 / 5)
    assert relative_gain(feedback([1, 3], [1, 4])) == pytest.approx(-1 / 5)


@pytest.mark.parametrize("rate", [[], [0.0], [2.0]])
def test_gain_over_no_rate_at_all_is_no_gain(rate: list[float]) -> None:
    assert relative_gain(feedback(rate, [0.0] * len(rate))) == 0


def test_reward_of_a_slot_worked_by_hand() -> None:
    weights = Reward(gain_weight=2, link_cost=0.1, interference_weight=0.4, interference_sign="+")
    # 2 * 0.3 - 0.1 * 2 requests + 0.4 * (1 + 1/3)
    assert reward(weights, [0.3], TWO_SHARES, {0, 1}) == pytest.approx(0.4 + 0.4 * 4 / 3)


def test_the_sign_decides_whether_asking_a_strong_interferer_pays() -> None:
    plus, minus = (Reward(link_cost=0, interference_weight=0.4, interference_sign=sign) for sign in ("+", "-"))
    assert reward(plus, [0.0], TWO_SHARES, {0}) == pytest.approx(0.4)
    assert reward(minus, [0.0], TWO_SHARES, {0}) == pytest.approx(-0.4)


def test_neighbourhood_reward_is_the_mean_of_own_and_partners_gains() -> None:
    weights = Reward(link_cost=0, interference_weight=0)
    assert reward(weights, [0.3, -0.1, 0.1], TWO_SHARES, {0}) == pytest.approx(0.1)


def test_asking_nobody_earns_the_gain_alone() -> None:
    assert reward(Reward(), [0.25], TWO_SHARES, set()) == pytest.approx(0.25)


def test_an_ap_without_neighbours_earns_its_gain() -> None:
    assert reward(Reward(), [0.0], np.zeros(0), set()) == 0
