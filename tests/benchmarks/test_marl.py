"""The benchmark against multi-agent libraries, as far as it goes without them."""

import pytest

from apnode.agent.policies import epsilon_at
from benchmarks.peers.marl import schedules
from benchmarks.throughput import experiment


def test_libraries_explore_and_sync_as_the_nodes_do() -> None:
    config = experiment(aps=10, slots=40, name="ray")
    annealed, synced = schedules(config)
    learning, per_episode = config.learning, config.run.slots_per_episode
    assert epsilon_at(learning, annealed // per_episode) > learning.epsilon_end
    assert epsilon_at(learning, annealed // per_episode + 1) == learning.epsilon_end
    half_way = annealed // 2 // per_episode
    linear = (
        learning.epsilon_start + (learning.epsilon_end - learning.epsilon_start) * half_way * per_episode / annealed
    )
    assert epsilon_at(learning, half_way) == pytest.approx(linear, abs=1e-3)
    assert synced == learning.target_update_episodes * per_episode
