"""The agents of all APs as so many RLlib modules, over the monolithic environment.

The library's own way, on its new API stack: DQN with a module, an optimiser and a target network for each agent, one
local env runner, one local learner, a uniform `MultiAgentEpisodeReplayBuffer`. With a fragment of one step and
`training_intensity` left alone, `DQN.training_step` samples one step and does one update; each module gets 32
transitions of its own in it. Both are counted, by Adam and by the learner.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from apnode.config import Config
from apnode.protocol.messages import FloatArray
from benchmarks.peers.monolith import Monolith
from cfmimo.runtime.session import connected

_Told = dict[str, Any]  # by agent


class Environment(MultiAgentEnv):
    """Monolith in RLlib's terms: dictionaries by the name of the agent."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self._monolith = monolith = Monolith(settings["experiment"])
        self.agents = self.possible_agents = names(monolith.num_agents)
        sees = gymnasium.spaces.Box(-np.inf, np.inf, (monolith.observation_size,), np.float32)
        self.observation_spaces = dict.fromkeys(self.agents, sees)
        self.action_spaces = dict.fromkeys(self.agents, gymnasium.spaces.Discrete(monolith.num_actions))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[_Told, _Told]:
        return self._told(self._monolith.begin_episode()), {}

    def step(self, actions: _Told) -> tuple[_Told, _Told, _Told, _Told, _Told]:
        observations, rewards, over = self._monolith.step(np.array([actions[name] for name in self.agents]))
        rewarded = dict(zip(self.agents, rewards.tolist(), strict=True))
        return self._told(observations), rewarded, {"__all__": over}, {"__all__": False}, {}

    def _told(self, observations: FloatArray) -> _Told:
        return dict(zip(self.agents, observations.astype(np.float32), strict=True))


def names(agents: int) -> list[str]:
    """Of the agents, which are those of their modules too."""
    return [f"ap{agent}" for agent in range(agents)]


def run(config: Config, annealing_slots: int, synced_every: int) -> tuple[float, list[int]]:
    """Learn through all slots of an experiment, as `benchmarks.peers.marl.library` says.

    Raises:
        RuntimeError: if a module has not learned from `batch_size` transitions in each of its updates.
    """
    torch.set_num_threads(1)
    with connected(None, 0):  # RLlib needs a Ray session, even if all is in this process
        algorithm = _settings(config, annealing_slots, synced_every).build_algo()
        began = time.monotonic()
        result = algorithm.train()  # one "iteration" of all slots
        seconds = time.monotonic() - began
        learner = algorithm.learner_group._learner
        updates = []
        for name in names(config.radio.num_aps):
            ((_, adam),) = learner.get_optimizers_for_module(name)
            (steps,) = {int(state["step"]) for state in adam.state.values()}
            trained = int(result["learners"][name]["num_module_steps_trained_lifetime"])
            if trained != steps * config.learning.batch_size:
                raise RuntimeError(f"{name} learned from {trained} transitions in {steps} updates")
            updates.append(steps)
        algorithm.stop()
        shutil.rmtree(algorithm.logdir)  # it makes one in ~/ray_results, and nothing can be set against that
    return seconds, updates


def _settings(config: Config, annealing_slots: int, synced_every: int) -> DQNConfig:
    learning = config.learning
    *encoder, head = learning.hidden
    network = DefaultModelConfig(
        fcnet_hiddens=encoder, fcnet_activation="relu", head_fcnet_hiddens=[head], head_fcnet_activation="relu"
    )
    settings = DQNConfig().environment(Environment, env_config={"experiment": config}, disable_env_checking=True)
    settings.framework("torch").debugging(seed=config.seed % 2**32, log_level="ERROR")
    settings.env_runners(num_env_runners=0, rollout_fragment_length=1).learners(num_learners=0)
    settings.multi_agent(policies=set(names(config.radio.num_aps)), policy_mapping_fn=lambda agent, *_, **__: agent)
    settings.rl_module(model_config=network)
    settings.reporting(min_sample_timesteps_per_iteration=config.num_slots)
    return settings.training(
        lr=learning.learning_rate,
        gamma=learning.discount,
        train_batch_size_per_learner=learning.batch_size,
        num_steps_sampled_before_learning_starts=learning.batch_size,
        target_network_update_freq=synced_every,
        epsilon=[(0, learning.epsilon_start), (annealing_slots, learning.epsilon_end)],
        double_q=True,
        dueling=False,
        num_atoms=1,
        n_step=1,
        td_error_loss_fn="mse",
        grad_clip=None,
        replay_buffer_config={"type": "MultiAgentEpisodeReplayBuffer", "capacity": learning.replay_capacity},
    )
