"""Laws of Double Q-learning, and of randomness that is the learner's own."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from apnode.agent.ddqn import SKIPPED, DoubleDqn, NeighbourDqn, SubsetDqn, make_network, put_together, td_target, update
from apnode.agent.mlp import Mlp
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
    for step in range(updates):
        updated(learner, batch(step), draws(step))
    return learner


def updated(learner: DoubleDqn, transitions: Batch, rng: np.random.Generator) -> float:
    return update([learner], [transitions], [rng])[0]


def target_of(learner: DoubleDqn, transitions: Batch) -> FloatArray:
    """Y of one learner's transitions."""
    return np.asarray(td_target(learner, learner.networks, Batch.stacked([transitions]))[0], float)


def values_by_hand(network: Mlp, x: FloatArray) -> FloatArray:
    """Q in numpy: linear layers with rectifiers between them."""
    parameters = [array.astype(float) for array in network.arrays()]
    *hidden, last = zip(parameters[0::2], parameters[1::2], strict=True)
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
    np.testing.assert_allclose(all_values(learner, x), values_by_hand(learner.online, x), atol=1e-4)


def test_values_are_the_same_each_time_they_are_asked_for() -> None:
    learner, x = trained(with_dropout(0.9)), np.ones(SIZE)
    np.testing.assert_array_equal(learner.values(x), learner.values(x))


@pytest.mark.parametrize("synced", [False, True])
def test_target_is_that_of_double_q_learning_on_the_networks_own_weights(synced: bool) -> None:
    learner, transitions = trained(), batch(100, size=200)
    if synced:
        learner.sync_target()
    online = values_by_hand(learner.online, transitions.next_observation)
    target = values_by_hand(learner.target, transitions.next_observation)
    expected = targets_by_hand(transitions, online, target, LEARNING.discount)
    np.testing.assert_allclose(target_of(learner, transitions), expected, atol=1e-3)


def test_until_it_is_synced_the_target_network_is_the_one_it_began_with() -> None:
    learner, untrained, transitions = trained(), network(), batch(100, size=200)
    online, target = (all_values(n, transitions.next_observation) for n in (learner, untrained))
    expected = targets_by_hand(transitions, online, target, LEARNING.discount)
    np.testing.assert_allclose(target_of(learner, transitions), expected, atol=1e-3)
    assert (online.argmax(1) != target.argmax(1)).any()  # else the law says little


def test_syncing_makes_the_target_the_best_online_value() -> None:
    learner, transitions = trained(), batch(100, terminal=0, num_actions=ACTIONS)
    before = target_of(learner, transitions)
    learner.sync_target()
    best = all_values(learner, transitions.next_observation).max(axis=1)
    after = target_of(learner, transitions)
    np.testing.assert_allclose(after, transitions.reward + LEARNING.discount * best, atol=1e-3)
    assert not np.allclose(before, after, atol=1e-3)


def test_a_synced_target_does_not_follow_later_updates() -> None:
    learner, transitions = trained(), batch(100, terminal=0, num_actions=1)  # one action: argmax cannot move
    learner.sync_target()
    before = target_of(learner, transitions)
    updated(learner, batch(101), draws(0))
    np.testing.assert_array_equal(target_of(learner, transitions), before)


def test_nothing_follows_a_terminal_transition() -> None:
    transitions = batch(4, terminal=1)
    np.testing.assert_allclose(target_of(trained(), transitions), transitions.reward, rtol=1e-6)


def test_closed_actions_never_count() -> None:
    learner, transitions = trained(), batch(5, size=200, terminal=0, num_actions=2)
    learner.sync_target()
    best_open = all_values(learner, transitions.next_observation)[:, :2].max(axis=1)
    expected = transitions.reward + LEARNING.discount * best_open
    np.testing.assert_allclose(target_of(learner, transitions), expected, atol=1e-3)


@pytest.mark.parametrize("reward", [np.nan, np.inf, 1e30, 1e10])  # the last brings an error that no report may tell
def test_an_update_that_is_not_finite_is_skipped_and_changes_nothing(reward: float) -> None:
    learner = trained()
    before, harmed = learner.state(), batch(7)
    harmed.reward[3] = reward
    assert updated(learner, harmed, draws(0)) == SKIPPED
    for name, array in learner.state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert updated(learner, batch(7), draws(0)) > 0  # it goes on


def test_an_update_whose_gradient_alone_is_not_finite_is_skipped() -> None:
    learner, small = trained(with_dropout(0)), batch(7)
    observation = np.full_like(small.observation, 1e38)  # times a gradient, more than a float32 holds
    weights = [np.zeros_like(w) for w in learner.weights()]
    weights[1] += 1  # rectifiers are open, whatever comes in
    weights[2] += 1e2
    weights[4] += 1e2
    learner.load(weights)
    assert np.isfinite(learner.values(observation[0])).all()
    assert updated(learner, replace(small, observation=observation), draws(0)) == SKIPPED
    assert all(np.isfinite(w).all() for w in learner.weights())


def test_updates_fit_a_fixed_batch() -> None:
    learner, transitions = network(), batch(6, terminal=1)
    losses = [updated(learner, transitions, draws(step)) for step in range(400)]
    chosen = all_values(learner, transitions.observation)[np.arange(32), transitions.action]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) / 2
    assert np.mean((chosen - transitions.reward) ** 2) < np.mean(losses[:20]) / 10


def test_the_loss_is_the_mean_squared_error_before_the_step() -> None:
    learner, transitions = trained(with_dropout(0)), batch(7)
    chosen = all_values(learner, transitions.observation)[np.arange(32), transitions.action]
    expected = np.mean((chosen - target_of(learner, transitions)) ** 2)
    assert updated(learner, transitions, draws(0)) == pytest.approx(expected, rel=1e-4)


def test_only_the_values_of_actions_taken_are_pulled() -> None:
    """The output layer's biases of other actions get no gradient."""
    learner, transitions = network(), batch(8, num_actions=2)
    before = learner.weights()[-1]
    updated(learner, transitions, draws(0))
    moved = learner.weights()[-1] != before
    assert moved[:2].all()
    assert not moved[2:].any()


def test_dropout_is_drawn_from_the_updates_generator() -> None:
    losses = {updated(trained(), batch(9), draws(seed)) for seed in (1, 1, 2)}
    assert len(losses) == 2


def test_same_seed_same_weights_after_updates() -> None:
    np.testing.assert_array_equal(trained().flat(), trained().flat())


def test_other_seed_other_weights() -> None:
    assert not np.array_equal(network(seed=1).values(np.ones(SIZE)), network(seed=2).values(np.ones(SIZE)))


def test_learners_in_one_process_do_not_disturb_each_other() -> None:
    alone = trained()
    beside, other = network(), network(seed=7)
    for step in range(30):
        updated(other, batch(1000 + step), draws(1000 + step))
        updated(beside, batch(step), draws(step))
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
    np.testing.assert_allclose(target_of(learner, shuffled), target_of(learner, transitions)[order], rtol=1e-5)


@pytest.mark.parametrize("hidden", [(3,), (7, 5, 3, 2)])
def test_any_number_of_hidden_layers_will_do(hidden: tuple[int, ...]) -> None:
    learner = network(LEARNING.model_copy(update={"hidden": hidden}))
    assert learner.values(np.zeros(SIZE)).shape == (ACTIONS,)
    assert updated(learner, batch(11), draws(0)) > 0


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
    updated(original, batch(40), draws(40))
    state = original.state()
    other.restore(state)
    for step in range(50, 60):  # needs the moments and steps of Adam, and both networks
        assert updated(original, batch(step), draws(step)) == updated(other, batch(step), draws(step))
    np.testing.assert_array_equal(original.flat(), other.flat())


@pytest.mark.parametrize("hidden", [(16,), (16, 9), (16, 8, 8)])
def test_the_state_of_another_network_is_refused_and_changes_nothing(hidden: tuple[int, ...]) -> None:
    learner, before = trained(), trained().state()
    with pytest.raises(StateError):
        learner.restore(network(LEARNING.model_copy(update={"hidden": hidden})).state())
    assert all(np.array_equal(array, before[name]) for name, array in learner.state().items())


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


def about_neighbours(seed: int = 0, size: int = 32, terminal: float = 0, most: int = 12) -> Batch:
    """Random transitions of APs with 1 to `most` neighbours; each pays as much as its second trait says."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, most + 1, size)
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
    for step in range(updates):
        updated(learner, about_neighbours(step), draws(step))
    return learner


def test_the_value_of_asking_several_is_the_sum_of_the_values_less_a_price_for_each() -> None:
    """And the target is that of Double Q-learning with it, whatever the number of neighbours."""
    learner, transitions = trained_on_neighbours(), about_neighbours(100)
    expected = []
    for n, reward in enumerate(transitions.reward):
        count = int(np.log2(transitions.num_actions[n]))
        traits = transitions.next_observation[n].reshape(12, TRAITS)[:count]
        expected_of_links = np.stack([np.zeros(count), traits[:, 0]], axis=1)
        online, target = (values_by_hand(of, traits) + expected_of_links for of in (learner.online, learner.target))
        ask = online[:, 1] - online[:, 0] > PRICE
        value = np.where(ask, target[:, 1] - PRICE, target[:, 0]).sum()
        expected.append(reward + PER_NEIGHBOUR.discount * value)
        assert learner.best_action(transitions.next_observation[n], count) == ask @ 2 ** np.arange(count)
    np.testing.assert_allclose(target_of(learner, transitions), expected, atol=1e-3)


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
    updated(other, about_neighbours(1), draws(1))  # and goes on from there
    assert not np.array_equal(other.flat(), learner.flat())


# --- many at once -----------------------------------------------------------------------------------------

KINDS = {
    "subsets": LEARNING,
    "subsets, no dropout": with_dropout(0),
    "subsets, the paper's layers": Learning(),
    "subsets, an only unit": LEARNING.model_copy(update={"hidden": (33, 1)}),
    "subsets, few transitions": LEARNING.model_copy(update={"batch_size": 3}),
    "neighbours": PER_NEIGHBOUR,
    "neighbours, few transitions": PER_NEIGHBOUR.model_copy(update={"batch_size": 3}),
    "neighbours, wide layers": PER_NEIGHBOUR.model_copy(update={"hidden": (128, 64, 32)}),
    "neighbours, dropout": PER_NEIGHBOUR.model_copy(update={"dropout": 0.2}),
    "neighbours, nothing follows": PER_NEIGHBOUR.model_copy(update={"discount": 0.0, "hidden": (16,)}),
}


def learners(learning: Learning, count: int, together: bool) -> list[DoubleDqn]:
    config = experiment(learning, max_neighbours=12 if learning.values == "neighbours" else 3, link_price=PRICE)
    made = [make_network(config, seed) for seed in range(count)]
    if together:
        put_together(made)
    return made


def lessons(learning: Learning, count: int, step: int) -> list[Batch]:
    """A batch for each of several agents, whose numbers of neighbours differ."""
    seeds = range(1000 * step, 1000 * step + count)
    if learning.values == "neighbours":
        return [about_neighbours(seed, learning.batch_size, most=1 + seed % 12) for seed in seeds]
    return [batch(seed, learning.batch_size) for seed in seeds]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_among_others_a_network_learns_what_it_would_alone_to_the_last_bit(kind: str, count: int) -> None:
    learning = KINDS[kind]
    alone, among = (learners(learning, count, together) for together in (False, True))
    for step in range(4):
        told = lessons(learning, count, step)
        losses = [updated(of, told[n], draws(n)) for n, of in enumerate(alone)]
        assert update(among, told, [draws(n) for n in range(count)]) == losses
        for of in (*alone, *among) if step == 2 else ():
            of.sync_target()
    for one, other in zip(alone, among, strict=True):
        assert {name: array.tobytes() for name, array in one.state().items()} == {
            name: array.tobytes() for name, array in other.state().items()
        }


def test_networks_that_lie_together_may_learn_in_any_company() -> None:
    """Where some have no lesson, or one that is no good, or a place of their own since a restart."""
    alone, among = (learners(LEARNING, 20, together) for together in (False, True))
    among[3] = learners(LEARNING, 20, together=False)[3]
    for step, company in enumerate(([0, 1, 2, 3], [19], [*range(0, 20, 3)], [*range(20)], [19, 18, 17, 16])):
        told = [batch(50 * step + n) for n in company]
        told[-1].reward[0] = np.nan
        losses = update([among[n] for n in company], told, [draws(n) for n in company])
        assert losses == [updated(alone[n], of, draws(n)) for n, of in zip(company, told, strict=True)]
        assert [n for n, loss in enumerate(losses) if loss == SKIPPED] == [len(company) - 1]
    for one, other in zip(alone, among, strict=True):
        np.testing.assert_array_equal(one.flat(), other.flat())
        np.testing.assert_array_equal(one.values(np.ones(SIZE)), other.values(np.ones(SIZE)))


def test_an_agent_keeps_what_it_knows_when_it_is_put_among_others_and_stays_itself() -> None:
    made = learners(LEARNING, 3, together=False)
    updated(made[1], batch(1), draws(1))
    before = [of.state() for of in made]
    put_together(made)
    for of, kept in zip(made, before, strict=True):
        assert all(np.array_equal(array, kept[name]) for name, array in of.state().items())
    made[0].set_flat(np.zeros(made[0].size, np.float32))
    made[2].restore(before[1])
    made[2].sync_target()
    assert all(np.array_equal(array, before[1][name]) for name, array in made[1].state().items())
    assert not made[0].flat().any()
    np.testing.assert_array_equal(made[2].flat(), made[1].flat())
