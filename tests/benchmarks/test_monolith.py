"""The benchmark's monolithic environment against the nodes: same actions, same SINRs, observations and rewards."""

import numpy as np
import pytest

from apnode.agent.policies import Ddqn
from apnode.agent.replay import Transition
from apnode.agent.view import View
from apnode.config import Config
from apnode.protocol.rng import Purpose, generator
from benchmarks.peers.monolith import Monolith
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork

SMALL = ["radio.num_aps=12", "radio.num_ues=5", "radio.area_m=350.0", "run.episodes=2", "run.slots_per_episode=6"]
COMPLEX64 = 3e-6


class Scripted(Ddqn):
    """Asks at random, as `scripted` says, and keeps what came of it."""

    def __init__(self, ap: int, known: Config) -> None:
        super().__init__(ap, known)
        self.ap, self.transitions = ap, list[Transition]()

    def act(self, view: View) -> int:
        return scripted(self.ap, view.slot) % 2 ** len(view.neighbours)

    def learn(self, transition: Transition, slot: int) -> float:
        self.transitions.append(transition)
        return 0.0


def scripted(ap: int, slot: int) -> int:
    return int(generator(7, Purpose.EXPLORATION, ap, slot).integers(2**16))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param([], id="four blocks"),
        pytest.param(["run.blocks_per_slot=1", 'cooperation.neighbour_sets="row"'], id="row neighbours"),
        pytest.param(['reward.interference_sign="-"', 'cooperation.interference="literal"'], id="literal"),
    ],
)
def test_same_actions_give_what_the_nodes_get(settings: list[str]) -> None:
    config = load("demo", [*SMALL, *settings])
    network = LocalNetwork(config, policy_of=Scripted)
    network.run()
    record, env = network.coordinator.record, Monolith(config)
    observed, earned, followed, alone = [], [], [], []
    for slot in range(config.num_slots):
        observed.append(env.observations())
        actions = np.array([scripted(ap, slot) for ap in range(config.radio.num_aps)])
        following, rewards, over = env.step(actions)
        followed.append(following)
        earned.append(rewards)
        np.testing.assert_allclose(env.sinr, [record.sinr[slot], record.sinr_alone[slot]], rtol=COMPLEX64)
        alone.append(env.sinr[0] == env.sinr[1])
        assert over == ((slot + 1) % config.run.slots_per_episode == 0)
        if over and slot + 1 < config.num_slots:
            env.begin_episode()
    np.testing.assert_allclose(earned, record.floats[:, :, 1], rtol=COMPLEX64, atol=1e-6)
    assert not np.all(alone)  # links formed at all
    for ap, node in enumerate(network.aps):
        kept = node.policy.transitions  # type: ignore[attr-defined]  # of episodes in which it had neighbours
        at = np.flatnonzero((record.neighbours[:, ap] != np.iinfo(np.uint16).max).any(axis=1))
        assert len(kept) == len(at)
        for slot, transition in zip(at, kept, strict=True):
            np.testing.assert_allclose(observed[slot][ap], transition.observation, rtol=COMPLEX64, atol=1e-6)
            np.testing.assert_allclose(followed[slot][ap], transition.next_observation, rtol=COMPLEX64, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [['cooperation.cluster="components"'], ['precoding.alone="rzf"'], ['reward.scope="neighbourhood"']],
)
def test_refuses_what_it_does_not_model(settings: list[str]) -> None:
    with pytest.raises(ValueError, match="only"):
        Monolith(load("demo", [*SMALL, *settings]))
