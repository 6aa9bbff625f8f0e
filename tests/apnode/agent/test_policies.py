"""How APs choose: rates, schedules and bounds that hold whatever was learnt."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from apnode.agent.ddqn import td_target
from apnode.agent.observation import observe
from apnode.agent.policies import Ddqn, Fixed, Given, Learner, Master, Random, Trained, epsilon_at, make_policy
from apnode.agent.replay import Batch, Transition
from apnode.agent.view import View
from apnode.config import Config
from apnode.config.cooperation import Cooperation
from apnode.config.learning import Learning
from apnode.config.network import Run
from apnode.protocol.messages import Association, FloatArray
from apnode.protocol.rng import config_for_aps
from cfmimo.presets import load, preset_names
from cfmimo.runtime.local import LocalNetwork


def config(policy: str = "ddqn", epsilon: float = 0.8, **learning: object) -> Config:
    sections = {
        "run": {"slots_per_episode": 2},
        "cooperation": {"policy": policy, "max_neighbours": 3},
        "learning": {
            "hidden": (8,),
            "batch_size": 4,
            "learning_rate": 0.05,
            "target_update_episodes": 3,
            "epsilon_start": epsilon,
            "epsilon_end": min(epsilon, 0.01),
            "epsilon_decay": 0.0,
        }
        | learning,
    }
    return Config.model_validate(sections)


def observed(seed: int, of: Config) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(of.observed)


def transition(seed: int, of: Config) -> Transition:
    rng = np.random.default_rng(seed)
    return Transition(
        observation=observed(seed, of),
        action=int(rng.integers(8)),
        reward=float(rng.standard_normal()),
        next_observation=observed(seed + 10_000, of),
        num_actions=8,
        terminal=False,
    )


def following(of: Config) -> Batch:
    """Transitions into new states with all actions open, worth nothing by themselves."""
    states = np.stack([observed(seed, of) for seed in range(500, 520)])
    none = np.zeros(len(states))
    return Batch(states, none.astype(np.int64), none, states, np.full(len(states), 8), none)


def told(neighbours: int) -> Association:
    """What an AP of so many neighbours is told, as far as it matters to policies here."""
    return Association(0, (), [], [], tuple(range(1, neighbours + 1)), ("",) * neighbours, np.zeros(neighbours))


def target_is_online(policy: Ddqn, of: Config) -> bool:
    batch, network = following(of), policy.network
    best = np.array([policy.network.values(state).max() for state in batch.next_observation])
    return bool(
        np.allclose(
            td_target(network, network.networks, Batch.stacked([batch]))[0], of.learning.discount * best, atol=1e-5
        )
    )


@pytest.mark.parametrize("neighbours", [0, 1, 4])
def test_never_asks_nobody_and_always_asks_everybody(neighbours: int) -> None:
    nothing = np.zeros(0)
    assert Fixed(ask=False).act(View(nothing, told(neighbours), slot=0)) == 0
    assert Fixed(ask=True).act(View(nothing, told(neighbours), slot=0)).bit_count() == neighbours


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.565, 1.0])
def test_random_asks_each_neighbour_at_its_rate(rate: float) -> None:
    run = Run(slots_per_episode=1)
    policy = Random(5, Config(run=run, cooperation=Cooperation(policy="random", request_rate=rate)))
    actions = np.array([policy.act(View(np.zeros(0), told(4), slot)) for slot in range(4000)])
    asked = actions[:, None] >> np.arange(4) & 1
    assert actions.max() < 2**4
    np.testing.assert_allclose(asked.mean(axis=0), rate, atol=0.03)


def test_random_asks_its_neighbours_independently_of_each_other_and_of_other_aps() -> None:
    of = Config(run=Run(slots_per_episode=1), cooperation=Cooperation(policy="random", request_rate=0.5))
    one, other = ([Random(ap, of).act(View(np.zeros(0), told(4), slot)) for slot in range(4000)] for ap in (0, 1))
    columns = np.concatenate([np.array(actions)[:, None] >> np.arange(4) & 1 for actions in (one, other)], axis=1)
    assert np.abs(np.corrcoef(columns.T) - np.eye(8)).max() < 0.06


def test_random_keeps_to_its_choice_for_an_episode() -> None:
    policy = Random(3, Config(run=Run(slots_per_episode=5), cooperation=Cooperation(policy="random")))
    actions = np.array([policy.act(View(np.zeros(0), told(8), slot)) for slot in range(500)]).reshape(100, 5)
    assert (actions == actions[:, :1]).all()
    assert len(set(actions[:, 0])) > 50


def test_random_without_neighbours_asks_nobody() -> None:
    assert Random(0, config("random")).act(View(np.zeros(0), told(0), slot=3)) == 0


def test_only_agents_are_learners() -> None:
    learners = {
        name for name in ("never", "always", "random", "ddqn") if isinstance(make_policy(0, config(name)), Learner)
    }
    assert learners == {"ddqn"}


def test_epsilon_starts_at_four_fifths_and_falls_by_a_200th_an_episode() -> None:
    schedule = [epsilon_at(Learning(), episode) for episode in range(158)]
    assert schedule[0] == 0.8
    np.testing.assert_allclose(np.diff(schedule), -0.005)


@pytest.mark.parametrize("episode", [158, 159, 160, 1000, 10**6])
def test_epsilon_is_a_hundredth_from_episode_158_on(episode: int) -> None:
    assert epsilon_at(Learning(), episode) == pytest.approx(0.01)


def test_epsilon_stays_within_an_episode_and_falls_with_the_next() -> None:
    policy = Ddqn(0, Config(run=Run(slots_per_episode=20), learning=Learning(hidden=(4,))))
    by_slot = np.array([policy.epsilon(slot) for slot in range(100)]).reshape(5, 20)
    assert (by_slot == by_slot[:, :1]).all()
    assert (np.diff(by_slot[:, 0]) < 0).all()


@pytest.mark.parametrize("neighbours", [0, 1, 2, 3])
def test_ddqn_explores_all_open_actions_and_no_other(neighbours: int) -> None:
    of = config(epsilon=1.0, epsilon_end=1.0)
    policy = Ddqn(2, of)
    actions = [policy.act(View(observed(0, of), told(neighbours), slot)) for slot in range(600)]
    counts = np.bincount(actions, minlength=2**neighbours)
    np.testing.assert_allclose(counts / len(actions), 2.0**-neighbours, atol=0.06)


@pytest.mark.parametrize("neighbours", [0, 1, 2, 3])
def test_ddqn_without_exploration_takes_the_best_open_action(neighbours: int) -> None:
    of = config(epsilon=0.0)
    policy = Ddqn(2, of)
    for seed in range(50):
        values = policy.network.values(observed(seed, of))[: 2**neighbours]
        assert values[policy.act(View(observed(seed, of), told(neighbours), slot=seed))] == values.max()


def test_ddqn_explores_as_often_as_epsilon_says() -> None:
    of = config(epsilon=0.4)
    policy = Ddqn(3, of)
    greedy = int(policy.network.values(observed(0, of)).argmax())
    other = np.mean([policy.act(View(observed(0, of), told(3), slot)) != greedy for slot in range(4000)])
    assert other == pytest.approx(0.4 * 7 / 8, abs=0.03)  # an exploring AP may hit the greedy action too


def test_what_is_drawn_in_a_slot_does_not_depend_on_the_slots_before() -> None:
    for name in ("random", "ddqn"):
        of = config(name)
        forwards, backwards = make_policy(4, of), make_policy(4, of)
        slots = range(50)
        there = [forwards.act(View(observed(0, of), told(3), slot)) for slot in slots]
        back = [backwards.act(View(observed(0, of), told(3), slot)) for slot in reversed(slots)]
        assert there == back[::-1]


def test_aps_begin_with_weights_of_their_own() -> None:
    of = config()
    one, other = (Ddqn(ap, of).network.values(observed(0, of)) for ap in (0, 1))
    assert not np.array_equal(one, other)


def test_learning_begins_with_the_first_full_batch() -> None:
    of = config()
    policy = Ddqn(0, of)
    losses = [policy.learn(transition(slot, of), slot) for slot in range(6)]
    assert losses[:3] == [0, 0, 0]
    assert min(losses[3:]) > 0


def test_target_network_is_synced_when_the_last_of_its_episodes_ends() -> None:
    of = config()  # 3 episodes of 2 slots
    policy = Ddqn(0, of)
    synced = []
    for slot in range(13):
        policy.learn(transition(slot, of), slot)
        if slot >= 3:  # the first update
            synced.append((slot, target_is_online(policy, of)))
    assert [slot for slot, same in synced if same] == [5, 11]


def test_equal_experience_makes_equal_learners() -> None:
    of = config()
    one, other = Ddqn(6, of), Ddqn(6, of)
    for policy in (one, other):
        for slot in range(20):
            policy.learn(transition(slot, of), slot)
    np.testing.assert_array_equal(one.network.values(observed(0, of)), other.network.values(observed(0, of)))


def test_a_learner_finds_the_action_that_pays() -> None:
    of = config(epsilon=0.0, dropout=0.0, discount=0.0)
    policy = Ddqn(1, of)
    state, rng = observed(0, of), np.random.default_rng(0)
    for slot in range(300):
        action = int(rng.integers(8))
        policy.learn(Transition(state, action, float(action == 5), state, 8, terminal=False), slot)
    assert policy.act(View(state, told(3), slot=300)) == 5


@pytest.mark.parametrize(
    ("name", "kind"), [("never", Fixed), ("always", Fixed), ("random", Random), ("master", Master), ("ddqn", Ddqn)]
)
def test_every_policy_that_can_be_configured_can_be_made(name: str, kind: type) -> None:
    assert type(make_policy(0, config(name))) is kind


def test_threshold_asks_exactly_who_causes_a_large_share() -> None:
    of = load("demo", ("cooperation.policy=threshold", "cooperation.request_share=0.3"))
    state = observe(of, np.array([1e-9]), np.array([5.0, 3.0, 1.0, 1.0]), [False] * 4, np.zeros(4))
    assert make_policy(0, of).act(View(state, told(4), slot=0)) == 0b0011
    everybody = load("demo", ("cooperation.policy=threshold", "cooperation.request_share=0.0"))
    assert make_policy(0, everybody).act(View(state, told(4), slot=0)) == 0b1111


def test_master_asks_whom_it_shares_a_mastered_ue_with_in_each_layout_anew() -> None:
    of = load("demo", ("cooperation.policy=master",))
    policy = make_policy(0, of)
    for mastered, action in (([0, 2, 0, 1], 0b1010), ([1, 0], 0b01), ([], 0)):
        layout = replace(told(len(mastered)), mastered=np.array(mastered, int))
        assert policy.act(View(observed(0, of), layout, slot=0)) == action


def test_a_trained_agent_takes_the_best_action_its_weights_know_and_changes_no_more() -> None:
    of = config()
    learner = Ddqn(0, of)
    agent = Trained(of, learner.network.weights())
    for seed in range(20):
        state = observed(seed, of)
        assert agent.act(View(state, told(2), slot=seed)) == learner.network.values(state)[:4].argmax()
    assert not isinstance(agent, Learner)
    assert isinstance(learner, Learner)
    assert Given(0, 5).act(View(observed(0, of), told(3), slot=9)) == 5


def sharing(ap: int = 3, seed: int = 0, **learning: Any) -> Ddqn:
    settings: dict[str, Any] = {"values": "neighbours", "share": True, "hidden": (8,), **learning}
    return Ddqn(ap, Config(seed=seed, learning=Learning(**settings), run=Run(slots_per_episode=5)))


def test_agents_that_share_begin_alike_and_tell_their_weights_in_the_last_slot_of_an_episode() -> None:
    one, other = sharing(ap=1), sharing(ap=2)
    assert [len(one.shared(slot)) > 0 for slot in range(12)] == [slot % 5 == 4 for slot in range(12)]
    np.testing.assert_array_equal(one.shared(4), other.shared(9))
    assert len(sharing(share=False).shared(4)) == 0
    assert not np.array_equal(*(sharing(ap, share=False).network.flat() for ap in (1, 2)))


def test_an_agents_weights_become_the_mean_of_its_own_and_its_partners() -> None:
    agent = sharing()
    own, told = (
        agent.network.flat(),
        {ap: agent.network.flat() + np.float32(step) for ap, step in ((1, 1e-3), (9, -4e-3))},
    )
    assert agent.take_in(told) == []
    np.testing.assert_allclose(agent.network.flat(), own - 1e-3, atol=1e-6)
    assert agent.take_in({}) == []
    np.testing.assert_allclose(agent.network.flat(), own - 1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("distance", "counts_as", "liars"), [(0.9, 0.9, []), (1.9, 1, []), (2.1, 1, [7]), (1e4, 1, [7])]
)
def test_no_partner_moves_an_agent_far(distance: float, counts_as: float, liars: list[int]) -> None:
    """One of three others is further away than learning goes: it counts as one that is not, and is named if absurd."""
    agent = sharing()
    own, direction = agent.network.flat(), np.random.default_rng(0).standard_normal(agent.network.size)
    step = (direction / np.linalg.norm(direction) * agent.reach).astype(np.float32)
    assert agent.take_in({1: own, 7: own + distance * step, 8: own}) == liars
    np.testing.assert_allclose(agent.network.flat() - own, counts_as * step / 4, rtol=1e-3, atol=1e-6)


def test_learning_does_not_go_beyond_the_reach_of_an_agent() -> None:
    """Adam moves a weight by about its rate in an update; two agents that learn the opposite are half as far apart."""
    agent = sharing(learning_rate=1e-2)
    assert agent.reach == pytest.approx(2 * 2 * 5 * 1e-2 * math.sqrt(agent.network.size))


def test_weights_of_another_network_or_without_measure_are_not_understood() -> None:
    agent, size = sharing(), sharing().network.size
    assert agent.understands(np.zeros(0))
    assert agent.understands(np.ones(size))
    assert not agent.understands(np.ones(size - 1))
    assert not agent.understands(np.full(size, 1e6))
    assert not sharing(share=False).understands(np.ones(size))


def test_an_agent_that_values_neighbours_tries_links_when_the_other_end_does() -> None:
    """In each slot both ends of a link explore, or neither, and both ask or neither does."""
    aps, tried = (2, 9), dict[int, list[int]]()
    for ap in aps:
        settings: dict[str, Any] = {"values": "neighbours", "epsilon_start": 0.5, "epsilon_decay": 0.0}
        of = Config(learning=Learning(**settings))
        agent = Ddqn(ap, of)
        others = tuple(n for n in (2, 5, 9) if n != ap)
        layout = Association(0, (), [], [], others, ("",) * 2, np.zeros(2))
        at = others.index(next(n for n in aps if n != ap))
        observation = np.zeros(of.observed)  # worth nothing: greedily asks nobody
        tried[ap] = [agent.act(View(observation, layout, slot)) >> at & 1 for slot in range(400)]
    assert tried[2] == tried[9]
    assert 0.15 < np.mean(tried[2]) < 0.35  # epsilon / 2


@pytest.mark.parametrize("preset", [name for name in preset_names() if load(name).cooperation.policy == "ddqn"])
def test_first_weights_and_exploration_of_every_preset_depend_on_the_seed(preset: str) -> None:
    weights, explored = set(), set()
    for seed in range(3):
        of = config_for_aps(load(preset, seed=seed))
        agent = Ddqn(2, of)
        layout = Association(0, (), [], [], (5, 9), ("",) * 2, np.zeros(2))
        weights.add(agent.network.flat().tobytes())
        agent.network.set_flat(np.zeros(agent.network.size, np.float32))  # what is asked is explored
        observation = np.zeros(of.observed)
        explored.add(tuple(agent.act(View(observation, layout, slot)) for slot in range(of.run.slots_per_episode)))
    assert len(weights) == len(explored) == 3


def test_agents_that_share_differ_less_than_others_after_an_episode() -> None:
    apart = {}
    for share in (False, True):
        overrides = ("learning.values=neighbours", f"learning.share={str(share).lower()}", "reward.gain=absolute")
        alike = ("run.episodes=4", "run.slots_per_episode=6", "learning.batch_size=4", "learning.hidden=[4]")
        forming = ("cooperation.link_price=-1", "precoding.joint=selective", "cooperation.neighbour_sets=common-ue")
        network = LocalNetwork(load("demo", (*overrides, *alike, *forming, "cooperation.cluster=serving")))
        network.run()
        policies = [ap.policy for ap in network.aps]
        weights = np.stack([policy.network.flat() for policy in policies if isinstance(policy, Ddqn)])
        apart[share] = np.std(weights[:, -10:], axis=0).mean()  # of the last layer, which all begin with at 0
    assert apart[True] < 0.7 * apart[False]
