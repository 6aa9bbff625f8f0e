"""A ring of the latest transitions."""

import numpy as np
import pytest

from apnode.agent.replay import Replay, Transition
from apnode.protocol.state import StateError


def transition(number: int) -> Transition:
    """One whose fields all tell its number."""
    return Transition(
        observation=np.array([number, -number], float),
        action=number,
        reward=number / 2,
        next_observation=np.array([number + 1, -number - 1], float),
        num_actions=2 * number,
        terminal=number % 2 == 1,
    )


def filled(capacity: int, count: int) -> Replay:
    replay = Replay(capacity, observation_size=2)
    for number in range(1, count + 1):  # not 0: an empty place must not look like a transition
        replay.store(transition(number))
    return replay


@pytest.mark.parametrize(("count", "kept"), [(1, {1}), (3, {1, 2, 3}), (5, {1, 2, 3, 4, 5}), (8, {4, 5, 6, 7, 8})])
def test_only_the_newest_are_sampled_and_each_of_them_is(count: int, kept: set[int]) -> None:
    batch = filled(capacity=5, count=count).sample(400, np.random.default_rng(0))
    assert set(batch.action.tolist()) == kept


@pytest.mark.parametrize("count", [0, 3, 5, 12])
def test_length_is_what_is_stored_up_to_the_capacity(count: int) -> None:
    replay = filled(capacity=5, count=count)
    assert len(replay) == min(count, 5)
    assert replay.stored == count


def test_a_sampled_transition_is_one_that_was_stored_field_by_field() -> None:
    batch = filled(capacity=5, count=9).sample(100, np.random.default_rng(1))
    for n, number in enumerate(batch.action.tolist()):
        stored = transition(number)
        np.testing.assert_array_equal(batch.observation[n], stored.observation)
        np.testing.assert_array_equal(batch.next_observation[n], stored.next_observation)
        assert batch.reward[n] == stored.reward
        assert batch.num_actions[n] == stored.num_actions
        assert batch.terminal[n] == stored.terminal


def test_all_that_is_stored_is_equally_likely() -> None:
    batch = filled(capacity=5, count=7).sample(20_000, np.random.default_rng(2))
    np.testing.assert_allclose(np.bincount(batch.action)[3:] / 20_000, 0.2, atol=0.015)


def test_a_batch_may_be_larger_than_what_is_stored() -> None:
    assert len(filled(capacity=5, count=2).sample(32, np.random.default_rng(3)).action) == 32


def test_equal_generators_sample_alike() -> None:
    replay = filled(capacity=5, count=5)
    one, other = (replay.sample(10, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one.action, other.action)


def test_a_batch_does_not_change_when_its_transitions_are_overwritten() -> None:
    replay = filled(capacity=3, count=3)
    batch = replay.sample(10, np.random.default_rng(5))
    before = batch.observation.copy()
    for number in range(50, 53):
        replay.store(transition(number))
    np.testing.assert_array_equal(batch.observation, before)


def test_sampling_an_empty_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match="empty replay"):
        Replay(5, 2).sample(1, np.random.default_rng(6))


@pytest.mark.parametrize("count", [3, 8])
def test_a_restored_buffer_goes_on_like_the_one_it_was_taken_from(count: int) -> None:
    original, other = filled(capacity=5, count=count), filled(capacity=5, count=1)
    state = original.state()
    original.store(transition(count + 1))
    other.restore(state)
    other.store(transition(count + 1))
    one, two = (replay.sample(50, np.random.default_rng(7)) for replay in (original, other))
    np.testing.assert_array_equal(one.observation, two.observation)
    np.testing.assert_array_equal(one.action, two.action)


def test_the_state_of_a_buffer_of_another_size_is_refused() -> None:
    with pytest.raises(StateError, match="observation is"):
        filled(capacity=5, count=3).restore(filled(capacity=6, count=3).state())
