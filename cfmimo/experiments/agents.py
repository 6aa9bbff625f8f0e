"""Agents that learn or have learned: trained in one process, or found in the directory of a run, and put to work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apnode.agent.policies import Ddqn, Policy, trained_policy
from apnode.agent.streams import Watcher
from apnode.config import Config
from apnode.config.cooperation import FINDING_OUT, LEARNERS
from apnode.protocol.messages import FloatArray
from apnode.protocol.state import Checkpoint, part
from apnode.runtime.checkpoint import Checkpoints
from apnode.runtime.host import CHECKPOINTS
from cfmimo.errors import ConfigError
from cfmimo.presets import load
from cfmimo.records.agents_file import AGENTS, Agents, Origin, Weights, read_agents
from cfmimo.runtime.local import LocalNetwork
from coordinator.record import Record

_LARGEST = 1e6  # that a network's weights or beliefs may be
# what an agent observes, what its actions mean and how large its network is follows from these
_FITTING = {
    "ddqn": ("cooperation.max_neighbours", *(f"learning.{key}" for key in ("values", "observed_ues", "hidden"))),
    **dict.fromkeys(FINDING_OUT, ()),
}


def trained(weights: Weights) -> Callable[[int, Config], Policy]:
    """Makes the policy of an AP: AP m has agent m modulo their number, so that networks of other sizes can use them."""
    return lambda ap, config: trained_policy(ap, config, weights[ap % len(weights)])


def learner_of(run_dir: str) -> str:
    """The policy of the agents that a run has trained.

    Raises:
        ConfigError: if there are none.
    """
    folder = Path(run_dir)
    if not (folder / "config.toml").is_file():
        raise ConfigError(f"{folder} holds no run; name the directory of one that has trained agents")
    policy = load(str(folder / "config.toml")).cooperation.policy
    if policy not in _FITTING:
        raise ConfigError(f'the run in {folder} has trained nobody: its policy is "{policy}"')
    return policy


def load_agents(run_dir: str, config: Config) -> Agents:
    """The agents that a run has trained: those in its `agents.npz`, if there are any, or in its newest checkpoints.

    Args:
        run_dir: its directory.
        config: the experiment that is to use them.

    Raises:
        ConfigError: if there are none, or they do not fit the config.
    """
    folder, policy = Path(run_dir), learner_of(run_dir)
    theirs = load(str(folder / "config.toml"))
    fitting = ("cooperation.policy", *_FITTING[policy])
    differing = [key for key in fitting if _setting(theirs, key) != _setting(config, key)]
    if differing:
        needed = ", ".join(f"{key} = {_setting(theirs, key)} (here {_setting(config, key)})" for key in differing)
        raise ConfigError(f"the agents in {folder} do not fit this experiment; they need {needed}")
    found = read_agents(folder / AGENTS) if (folder / AGENTS).is_file() else _newest(folder, theirs)
    for agent, layers in enumerate(found.weights):
        if not all(np.abs(layer).max(initial=0) <= _LARGEST for layer in layers):  # nor is NaN
            raise ConfigError(f"agent {agent} in {folder} holds what none has learned: NaN, or above {_LARGEST:g}")
        try:
            trained(found.weights)(agent, config)
        except ValueError as error:
            raise ConfigError(f"agent {agent} in {folder} does not fit this experiment: {error}") from None
    return found


def where_they_learned(config: Config, agents: Agents, layouts: int) -> Config:
    """The experiment of a comparison with its APs where the agents have learned, if they are as many.

    Raises:
        ConfigError: if one of its layouts is of the seed that the agents have learned with.
    """
    first, origin = config.seed + 1, agents.origin
    if origin.seed in range(first, first + layouts):
        raise ConfigError(
            f"the agents have learned with seed {origin.seed}, and the layouts have the seeds from {first} to "
            f"{config.seed + layouts}; set --seed so that they have not seen any"
        )
    if len(agents.weights) != config.radio.num_aps:
        return config
    return config.variant(radio={"ap_seed": origin.ap_seed})


def _setting(config: Config, key: str) -> Any:
    section, name = key.split(".")
    value = getattr(getattr(config, section), name)
    return list(value) if isinstance(value, tuple) else value


def _newest(folder: Path, config: Config) -> Agents:
    """From the newest checkpoint of every AP."""
    saved = [Checkpoints(folder / CHECKPOINTS, f"ap-{ap}").load() for ap in range(config.radio.num_aps)]
    return agents_of(saved, config, folder)


def agents_of(saved: Sequence[Checkpoint | None], config: Config, folder: Path) -> Agents:
    """The agents in a checkpoint of every AP of a run.

    Raises:
        ConfigError: if an AP has none.
    """
    weights = [[] if checkpoint is None else _weights_of(checkpoint) for checkpoint in saved]
    missing = [ap for ap, layers in enumerate(weights) if not layers]
    if missing:
        aps = f"AP {missing[0]}" + f" and {len(missing) - 1} others" * (len(missing) > 1)
        raise ConfigError(f"{folder} holds no good checkpoint of an agent of {aps}; let the run go on to its first one")
    return Agents(weights, Origin.of(config, min(checkpoint.completed for checkpoint in saved if checkpoint)))


def _weights_of(checkpoint: Checkpoint) -> list[FloatArray]:
    """What an agent has found out, or its online network, layer by layer; nothing if there is none."""
    if "policy.own" in checkpoint.state:
        return [checkpoint.state["policy.own"].astype(np.float32).astype(float)]  # as told, and as a file keeps it
    layers = part(checkpoint.state, "policy.network.online")
    return [layers[number].astype(float) for number in sorted(layers, key=int)]


# --- one file ---------------------------------------------------------------------------------------------


# --- trained in one process --------------------------------------------------------------------------------


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
