"""One seed, one result: whatever the order of delivery."""

import numpy as np
import pytest

from apnode.agent.policies import Ddqn
from apnode.agent.replay import Transition
from apnode.config import Config
from apnode.protocol.messages import SlotFeedback
from apnode.protocol.wire import decode
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork

SMALL = ("radio.num_aps=10", "radio.num_ues=5", "radio.area_m=320", "learning.batch_size=8")
SHORT = (*SMALL, "run.episodes=3", "run.slots_per_episode=8")
FINDING_OUT = (
    "cooperation.neighbour_sets=common-ue",
    "cooperation.cluster=serving",
    "cooperation.max_neighbours=12",
    "cooperation.link_price=-0.2",
    "cooperation.residual_db=20",
    "precoding.alone=mmse",
    "precoding.joint=selective",
    "precoding.power=average",
    "impairments.oscillator_deg=[[0.7,5.0],[0.3,90.0]]",
)
VARIANTS = {
    "mutual": (),
    "directed": ("cooperation.cluster=directed", "cooperation.acceptance=all", "cooperation.neighbour_sets=row"),
    "components, neighbourhood": (
        "cooperation.cluster=components",
        "cooperation.policy=random",
        "reward.scope=neighbourhood",
    ),
    "components": ("cooperation.cluster=components", "cooperation.max_cluster_aps=20"),
    "components refused": ("cooperation.cluster=components", "cooperation.policy=always"),
    "neighbourhood": ("reward.scope=neighbourhood", "reward.interference_sign='-'"),
    "selective": (
        "cooperation.neighbour_sets=common-ue",
        "precoding.alone=mmse",
        "precoding.joint=selective",
        "precoding.power=average",
    ),
    "serving": (
        "cooperation.neighbour_sets=common-ue",
        "cooperation.cluster=serving",
        "cooperation.policy=random",
        "precoding.alone=mmse",
        "precoding.joint=selective",
        "precoding.power=average",
        "reward.scope=neighbourhood",
    ),
    "agents that forecast": (
        "cooperation.neighbour_sets=common-ue",
        "cooperation.cluster=serving",
        "cooperation.max_neighbours=12",
        "learning.values=neighbours",
        "learning.share=true",
        "precoding.joint=selective",
        "reward.gain=absolute",
    ),
    "belief, serving sets": (
        "cooperation.policy=belief",
        "cooperation.neighbour_sets=common-ue",
        "cooperation.cluster=serving",
        "cooperation.serving=forecast",
        "cooperation.residual_db=20",
        "precoding.alone=mmse",
        "precoding.joint=selective",
    ),
    "serving sets": (
        "cooperation.neighbour_sets=common-ue",
        "cooperation.cluster=serving",
        "cooperation.serving=forecast",
        "cooperation.residual_db=20",
        "cooperation.policy=random",
        "precoding.joint=selective",
    ),
    "belief": ("cooperation.policy=belief", *FINDING_OUT),
    "ratio": ("cooperation.policy=ratio", *FINDING_OUT),
    "factor": ("cooperation.policy=factor", *FINDING_OUT),
    "slow fading": ("propagation.block_ms=1", "propagation.angular_spread_deg=15"),
    "drive": ("radio.ue_mobility=drive", "propagation.block_ms=20", "propagation.shadowing_correlation_m=9"),
    "walk": ("radio.ue_mobility=walk", "propagation.shadowing_correlation_m=9"),
}


def digest(config: Config, order_seed: int | None = None) -> str:
    network = LocalNetwork(config, order_seed)
    network.run()
    return network.coordinator.record.digest()


@pytest.fixture(scope="module")
def demo() -> Config:
    return load("demo", SHORT)


@pytest.fixture(scope="module")
def demo_digest(demo: Config) -> str:
    return digest(demo)


@pytest.mark.parametrize("order_seed", range(20))
def test_delivery_order_does_not_change_the_run(demo: Config, demo_digest: str, order_seed: int) -> None:
    assert digest(demo, order_seed) == demo_digest


def test_when_an_ap_finds_time_to_learn_does_not_change_the_run(demo: Config, demo_digest: str) -> None:
    """On Ray it learns while it waits for others, if it waits; here, at the latest that it may."""
    network, taken = LocalNetwork(demo, order_seed=3), 0
    for _ in network.frames():
        for ap in network.aps[::2]:  # the others have none
            taken += ap.has_leisure
            if ap.has_leisure:
                ap.use_leisure()
    assert taken > demo.num_slots
    assert network.coordinator.record.digest() == demo_digest


class Apart(Ddqn):
    """Learns as an agent does that has a process of its own, and counts."""

    lessons = 0

    def learn(self, transition: Transition, slot: int) -> float:
        self.lessons += 1
        return super().learn(transition, slot)


@pytest.mark.parametrize("variant", ["mutual", "agents that forecast"])
def test_agents_that_learn_in_one_pass_learn_what_they_would_each_by_itself(variant: str) -> None:
    config = load("demo", (*SMALL, "run.episodes=3", "run.slots_per_episode=8", *VARIANTS[variant]))
    together, apart = LocalNetwork(config), LocalNetwork(config, policy_of=Apart)
    together.run()
    apart.run()
    assert together.coordinator.record.digest() == apart.coordinator.record.digest()
    for one, other in zip(together.aps, apart.aps, strict=True):
        assert isinstance(one.policy, Ddqn)
        assert isinstance(other.policy, Apart)
        assert other.policy.lessons > 8
        np.testing.assert_array_equal(one.policy.network.flat(), other.policy.network.flat())


def test_all_agents_of_a_process_have_learnt_when_the_first_of_their_slots_closes(demo: Config) -> None:
    network, closed = LocalNetwork(demo), set[int]()
    for send in network.frames():
        message = decode(send.frame)
        if isinstance(message, SlotFeedback) and message.slot not in closed:
            closed.add(message.slot)
            waiting = [ap for ap in network.aps if ap.has_leisure]
        elif isinstance(message, SlotFeedback):
            assert not any(ap.has_leisure for ap in network.aps)
    assert len(closed) == demo.num_slots
    assert len(waiting) == 10


@pytest.mark.parametrize("variant", VARIANTS)
def test_delivery_order_changes_no_kind_of_agreement(variant: str) -> None:
    config = load("demo", (*SMALL, "run.episodes=2", "run.slots_per_episode=9", *VARIANTS[variant]))
    assert len({digest(config, order_seed) for order_seed in (None, 1, 2)}) == 1


def test_another_seed_gives_another_run(demo: Config, demo_digest: str) -> None:
    assert digest(demo.model_copy(update={"seed": 1})) != demo_digest
