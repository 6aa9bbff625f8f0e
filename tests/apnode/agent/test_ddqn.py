"""Laws of Double Q-learning, and of randomness that is the learner's own."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from apnode.agent.ddqn import SKIPPED, NeighbourDqn, SubsetDqn, _Adam
from apnode.agent.observation import TRAITS
from apnode.agent.replay import Batch
from apnode.config import Config
from apnode.config.cooperation import Cooperation
from apnode.config.learning import Learning
from apnode.protocol.messages import FloatArray
from apnode.protocol.state import StateError

LEARNING = Learning(hidden=(16, 8), dropout=0.1, learning_rate=1e-2, discount=0.9)


def experiment(learning: Learning = LEARNING, max_neighbours: int = 3, **cooperation: float) -> Config:
    return Config(cooperation=Cooperation(max_neighbours=max_neighbours, **cooperation), learning=learning)


SIZE, ACTIONS = experiment().observed, 8


def with_dropout(dropout: float) -> Learning:
    return LEARNING.model_copy(update={"dropout": dropout})


def network(learning: Learning = LEARNING, seed: int = 1) -> SubsetDqn:
    return SubsetDqn(experiment(learning), seed)


def batch(seed: int = 0, size: int = 32, terminal: float | None = None, num_actions: int | None = None) -> Batch:
    """Random transitions; some end an episode and some have fewer actions, unless told."""
    rng = np.random.default_rng(seed)
    open_actions = rng.choice([2, 4, ACTIONS], size) if num_actions is None else np.full(size, num_actions)
    return Batch(
        observation=rng.standard_normal((size, SIZE)),
        action=rng.integers(open_actions),
        reward=rng.standard_normal(size),
        next_observation=rng.standard_normal((size, SIZE)),
        num_actions=open_actions,
        terminal=rng.integers(2, size=size).astype(float) if terminal is None else np.full(size, terminal),
    )


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def trained(learning: Learning = LEARNING, updates: int = 30) -> SubsetDqn:
    """A network whose online weights have moved away from its target's."""
    learner = network(learning)
    for update in range(updates):
        learner.update(batch(update), draws(update))
    return learner


def values_by_hand(parameters: list[torch.Tensor], x: FloatArray) -> FloatArray:
    """Q in numpy: linear layers with rectifiers between them."""
    *hidden, last = [
        (w.detach().double().numpy(), b.detach().double().numpy())
        for w, b in zip(parameters[0::2], parameters[1::2], strict=True)
    ]
    for w, b in hidden:
        x = np.maximum(x @ w.T + b, 0)
    return np.asarray(x @ last[0].T + last[1])


def all_values(learner: SubsetDqn, observations: FloatArray) -> FloatArray:
    return np.stack([learner.values(observation) for observation in observations])


def targets_by_hand(of: Batch, online: FloatArray, target: FloatArray, discount: float) -> FloatArray:
    """Y, transition by transition: the online network chooses, the target network says what it is worth."""
    expected = []
    for n, reward in enumerate(of.reward):
        best = int(np.argmax(online[n, : of.num_actions[n]]))
        expected.append(reward + (0 if of.terminal[n] else discount * target[n, best]))
    return np.array(expected)


def test_values_are_a_rectifier_network_of_the_weights_without_dropout() -> None:
    learner = trained()
    x = np.random.default_rng(3).standard_normal((20, SIZE))
    np.testing.assert_allclose(all_values(learner, x), values_by_hand(learner._online, x), atol=1e-4)


def test_values_are_the_same_each_time_they_are_asked_for() -> None:
    learner, x = trained(with_dropout(0.9)), np.ones(SIZE)
    np.testing.assert_array_equal(learner.values(x), learner.values(x))


@pytest.mark.parametrize("synced", [False, True])
def test_target_is_that_of_double_q_learning_on_the_networks_own_weights(synced: bool) -> None:
    learner, transitions = trained(), batch(100, size=200)
    if synced:
        learner.sync_target()
    online = values_by_hand(learner._online, transitions.next_observation)
    target = values_by_hand(learner._target, transitions.next_observation)
    expected = targets_by_hand(transitions, online, target, LEARNING.discount)
    np.testing.assert_allclose(learner.td_target(transitions).numpy(), expected, atol=1e-3)


def test_until_it_is_synced_the_target_network_is_the_one_it_began_with() -> None:
    learner, untrained, transitions = trained(), network(), batch(100, size=200)
    online, target = (all_values(n, transitions.next_observation) for n in (learner, untrained))
    expected = targets_by_hand(transitions, online, target, LEARNING.discount)
    np.testing.assert_allclose(learner.td_target(transitions).numpy(), expected, atol=1e-3)
    assert (online.argmax(1) != target.argmax(1)).any()  # else the law says little


def test_syncing_makes_the_target_the_best_online_value() -> None:
    learner, transitions = trained(), batch(100, terminal=0, num_actions=ACTIONS)
    before = learner.td_target(transitions).numpy()
    learner.sync_target()
    best = all_values(learner, transitions.next_observation).max(axis=1)
    after = learner.td_target(transitions).numpy()
    np.testing.assert_allclose(after, transitions.reward + LEARNING.discount * best, atol=1e-3)
    assert not np.allclose(before, after, atol=1e-3)


def test_a_synced_target_does_not_follow_later_updates() -> None:
    learner, transitions = trained(), batch(100, terminal=0, num_actions=1)  # one action: argmax cannot move
    learner.sync_target()
    before = learner.td_target(transitions).numpy()
    learner.update(batch(101), draws(0))
    np.testing.assert_array_equal(learner.td_target(transitions).numpy(), before)


def test_nothing_follows_a_terminal_transition() -> None:
    transitions = batch(4, terminal=1)
    np.testing.assert_allclose(trained().td_target(transitions).numpy(), transitions.reward, rtol=1e-6)


def test_closed_actions_never_count() -> None:
    learner, transitions = trained(), batch(5, size=200, terminal=0, num_actions=2)
    learner.sync_target()
    best_open = all_values(learner, transitions.next_observation)[:, :2].max(axis=1)
    expected = transitions.reward + LEARNING.discount * best_open
    np.testing.assert_allclose(learner.td_target(transitions).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("reward", [np.nan, np.inf, 1e30, 1e10])  # the last brings an error that no report may tell
def test_an_update_that_is_not_finite_is_skipped_and_changes_nothing(reward: float) -> None:
    learner = trained()
    before, harmed = learner.state(), batch(7)
    harmed.reward[3] = reward
    assert learner.update(harmed, draws(0)) == SKIPPED
    for name, array in learner.state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert learner.update(batch(7), draws(0)) > 0  # it goes on


def test_an_update_whose_gradient_alone_is_not_finite_is_skipped() -> None:
    learner, small = trained(with_dropout(0)), batch(7)
    observation = np.full_like(small.observation, 1e38)  # times a gradient, more than a float32 holds
    weights = [np.zeros_like(w) for w in learner.weights()]
    weights[1] += 1  # rectifiers are open, whatever comes in
    weights[2] += 1e2
    weights[4] += 1e2
    learner.load(weights)
    assert np.isfinite(learner.values(observation[0])).all()
    assert learner.update(replace(small, observation=observation), draws(0)) == SKIPPED
    assert all(np.isfinite(w).all() for w in learner.weights())


def test_updates_fit_a_fixed_batch() -> None:
    learner, transitions = network(), batch(6, terminal=1)
    losses = [learner.update(transitions, draws(update)) for update in range(400)]
    chosen = all_values(learner, transitions.observation)[np.arange(32), transitions.action]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) / 2
    assert np.mean((chosen - transitions.reward) ** 2) < np.mean(losses[:20]) / 10


def test_the_loss_is_the_mean_squared_error_before_the_step() -> None:
    learner, transitions = trained(with_dropout(0)), batch(7)
    chosen = all_values(learner, transitions.observation)[np.arange(32), transitions.action]
    expected = np.mean((chosen - learner.td_target(transitions).numpy()) ** 2)
    assert learner.update(transitions, draws(0)) == pytest.approx(expected, rel=1e-4)


def test_only_the_values_of_actions_taken_are_pulled() -> None:
    """The output layer's biases of other actions get no gradient."""
    learner, transitions = network(), batch(8, num_actions=2)
    before = learner._online[-1].detach().clone()
    learner.update(transitions, draws(0))
    moved = (learner._online[-1].detach() != before).numpy()
    assert moved[:2].all()
    assert not moved[2:].any()


def test_dropout_is_drawn_from_the_updates_generator() -> None:
    losses = {trained().update(batch(9), draws(seed)) for seed in (1, 1, 2)}
    assert len(losses) == 2


def test_dropout_keeps_the_mean_of_what_it_drops() -> None:
    masks = network(with_dropout(0.5))._dropout_masks(10_000, draws(0))
    assert [mask.shape for mask in masks] == [(10_000, width) for width in LEARNING.hidden]
    assert all(float(mask.mean()) == pytest.approx(1, abs=0.02) for mask in masks)
    assert all(set(mask.unique().tolist()) == {0, 2} for mask in masks)


def test_same_seed_same_weights_after_updates() -> None:
    for one, other in zip(trained()._online, trained()._online, strict=True):
        assert torch.equal(one, other)


def test_other_seed_other_weights() -> None:
    assert not np.array_equal(network(seed=1).values(np.ones(SIZE)), network(seed=2).values(np.ones(SIZE)))


def test_learners_in_one_process_do_not_disturb_each_other() -> None:
    alone = trained()
    beside, other = network(), network(seed=7)
    for update in range(30):
        other.update(batch(1000 + update), draws(1000 + update))
        beside.update(batch(update), draws(update))
        other.values(np.ones(SIZE))
    np.testing.assert_array_equal(alone.values(np.ones(SIZE)), beside.values(np.ones(SIZE)))


def test_the_global_generator_of_torch_is_neither_read_nor_moved() -> None:
    before = torch.get_rng_state()
    learner = trained()
    learner.sync_target()
    learner.values(np.ones(SIZE))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12345)
    np.testing.assert_array_equal(trained().values(np.ones(SIZE)), learner.values(np.ones(SIZE)))


def test_the_order_of_transitions_in_a_batch_does_not_change_its_target() -> None:
    learner, transitions = trained(), batch(10)
    order = np.random.default_rng(0).permutation(32)
    shuffled = replace(transitions, **{name: getattr(transitions, name)[order] for name in Batch.__dataclass_fields__})
    np.testing.assert_allclose(
        learner.td_target(shuffled).numpy(), learner.td_target(transitions).numpy()[order], rtol=1e-5
    )


@pytest.mark.parametrize("hidden", [(3,), (7, 5, 3, 2)])
def test_any_number_of_hidden_layers_will_do(hidden: tuple[int, ...]) -> None:
    learner = network(LEARNING.model_copy(update={"hidden": hidden}))
    assert learner.values(np.zeros(SIZE)).shape == (ACTIONS,)
    assert learner.update(batch(11), draws(0)) > 0


def test_what_one_network_has_learned_another_can_take_over() -> None:
    learned, fresh = (network(seed=seed) for seed in (1, 2))
    state = np.random.default_rng(0).standard_normal(SIZE)
    assert not np.allclose(fresh.values(state), learned.values(state))
    fresh.load(learned.weights())
    np.testing.assert_array_equal(fresh.values(state), learned.values(state))


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="other layers"):
        network().load(SubsetDqn(experiment(max_neighbours=4), seed=1).weights())


def test_a_restored_network_learns_on_to_the_last_bit() -> None:
    original, other = trained(), network(seed=9)
    original.sync_target()
    original.update(batch(40), draws(40))
    state = original.state()
    other.restore(state)
    for update in range(50, 60):  # needs the moments and steps of Adam, and both networks
        assert original.update(batch(update), draws(update)) == other.update(batch(update), draws(update))
    for one, two in zip(original._online, other._online, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("hidden", [(16,), (16, 9), (16, 8, 8)])
def test_the_state_of_another_network_is_refused_and_changes_nothing(hidden: tuple[int, ...]) -> None:
    learner, before = trained(), trained().state()
    with pytest.raises(StateError):
        learner.restore(network(LEARNING.model_copy(update={"hidden": hidden})).state())
    assert all(np.array_equal(array, before[name]) for name, array in learner.state().items())


def test_a_step_is_that_of_torchs_own_optimiser() -> None:
    parameters = [torch.tensor([1.0, -2.0]), torch.tensor([[0.5]])]
    reference = [p.clone().requires_grad_() for p in parameters]
    own, optimiser = _Adam(parameters, 0.01), torch.optim.Adam(reference, lr=0.01)
    for step in range(5):
        gradients = [torch.full_like(p, step - 1.5) for p in parameters]
        own.step(gradients)
        for parameter, gradient in zip(reference, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
    for one, other in zip(parameters, reference, strict=True):
        torch.testing.assert_close(one, other.detach())


def test_learning_does_not_import_a_compiler() -> None:
    """70 MB and a second for every AP process, otherwise."""
    code = "import tests.apnode.agent.test_ddqn as t, sys; t.trained(updates=1); print('torch._dynamo' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


# --- a network for every neighbour alike ------------------------------------------------------------------

PER_NEIGHBOUR = Learning(values="neighbours", hidden=(16, 8), dropout=0, learning_rate=1e-2, discount=0.9)
PRICE = 0.3


def of_neighbours(learning: Learning = PER_NEIGHBOUR, seed: int = 1) -> NeighbourDqn:
    return NeighbourDqn(experiment(learning, max_neighbours=12, link_price=PRICE), seed)


def about_neighbours(seed: int = 0, size: int = 32, terminal: float = 0) -> Batch:
    """Random transitions of APs with 1 to 12 neighbours; each pays as much as its second trait says."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 13, size)
    traits, following = rng.standard_normal((2, size, 12, TRAITS))
    action = rng.integers(2**count)
    asked = action[:, None] >> np.arange(12) & 1
    return Batch(
        observation=traits.reshape(size, -1),
        action=action,
        reward=(traits[..., 1] * asked).sum(1),
        next_observation=following.reshape(size, -1),
        num_actions=2**count,
        terminal=np.full(size, terminal),
    )


def trained_on_neighbours(learning: Learning = PER_NEIGHBOUR, updates: int = 30) -> NeighbourDqn:
    learner = of_neighbours(learning)
    for update in range(updates):
        learner.update(about_neighbours(update), draws(update))
    return learner


def test_the_value_of_asking_several_is_the_sum_of_the_values_less_a_price_for_each() -> None:
    """And the target is that of Double Q-learning with it, whatever the number of neighbours."""
    learner, transitions = trained_on_neighbours(), about_neighbours(100)
    expected = []
    for n, reward in enumerate(transitions.reward):
        count = int(np.log2(transitions.num_actions[n]))
        traits = transitions.next_observation[n].reshape(12, TRAITS)[:count]
        expected_of_links = np.stack([np.zeros(count), traits[:, 0]], axis=1)
        online, target = (values_by_hand(of, traits) + expected_of_links for of in (learner._online, learner._target))
        ask = online[:, 1] - online[:, 0] > PRICE
        value = np.where(ask, target[:, 1] - PRICE, target[:, 0]).sum()
        expected.append(reward + PER_NEIGHBOUR.discount * value)
        assert learner.best_action(transitions.next_observation[n], count) == ask @ 2 ** np.arange(count)
    np.testing.assert_allclose(learner.td_target(transitions).numpy(), expected, atol=1e-3)


def test_it_learns_from_sums_what_each_neighbour_is_worth() -> None:
    learner = trained_on_neighbours(PER_NEIGHBOUR.model_copy(update={"discount": 0.0}), updates=1500)
    traits = np.random.default_rng(5).standard_normal((40, TRAITS))
    np.testing.assert_allclose(learner.advantages(traits), traits[:, 1], atol=0.3)  # the price is none of it


def test_before_it_has_learned_a_link_is_worth_what_the_ap_expects_of_it() -> None:
    traits = np.random.default_rng(5).standard_normal((40, TRAITS))
    np.testing.assert_allclose(of_neighbours().advantages(traits), traits[:, 0], rtol=1e-6)


def test_an_ap_without_neighbours_asks_nobody() -> None:
    assert of_neighbours().best_action(np.zeros(12 * TRAITS), 0) == 0


def test_thirty_two_neighbours_have_an_action_for_each_subset() -> None:
    learner = NeighbourDqn(experiment(PER_NEIGHBOUR, max_neighbours=32, link_price=-1e3), seed=1)
    assert learner.best_action(np.zeros(32 * TRAITS), 32) == 2**32 - 1


def test_weights_in_a_row_are_all_of_them_and_another_network_takes_them_over() -> None:
    learner, other = trained_on_neighbours(), of_neighbours(seed=2)
    assert learner.flat().shape == (learner.size,) == (sum(w.size for w in learner.weights()),)
    other.set_flat(learner.flat())
    for mine, its in zip(learner.weights(), other.weights(), strict=True):
        np.testing.assert_array_equal(mine, its)
    other.update(about_neighbours(1), draws(1))  # and goes on from there
    assert not np.array_equal(other.flat(), learner.flat())
