"""Training the APs' own agents in one process, for comparisons with what they have learned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from apnode.agent.policies import Ddqn, Policy
from apnode.agent.streams import Watcher
from apnode.config import Config
from apnode.config.cooperation import LEARNERS
from apnode.protocol.messages import FloatArray
from cfmimo.errors import ConfigError
from cfmimo.records.agents_file import Weights
from cfmimo.runtime.local import LocalNetwork
from coordinator.record import Record


def train(config: Config, progress: Callable[[int, int], None] = lambda done, total: None) -> tuple[Record, Weights]:
    """Run an experiment in which every AP learns.

    Args:
        config: the experiment, with policy `ddqn` or one that finds out about APs.
        progress: told how many slots are done, of how many.

    Returns:
        what the run left, and what each AP has learned.

    Raises:
        ConfigError: if the config names another policy.
    """
    if config.cooperation.policy not in LEARNERS:
        raise ConfigError(f'policy "{config.cooperation.policy}" does not learn; set cooperation.policy=ddqn to train')
    network = LocalNetwork(config)
    newest = -1
    for _ in network.frames():
        if network.coordinator.newest > newest:
            newest = network.coordinator.newest
            progress(newest + 1, config.num_slots)
    return network.coordinator.record, [_learned(ap.policy) for ap in network.aps]


def _learned(policy: Policy) -> list[FloatArray]:
    assert isinstance(policy, (Ddqn, Watcher))
    return policy.network.weights() if isinstance(policy, Ddqn) else [policy.learned.astype(np.float32).astype(float)]
