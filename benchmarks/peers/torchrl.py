"""The agents of all APs as one TorchRL multi-agent learner, over the monolithic environment.

The library's own way: `MultiAgentMLP` with a set of parameters for each agent (stacked, run by vmap), `DQNLoss` with
Double DQN, `Collector`, replay buffer, target network. A batch holds the same 32 slots for every agent.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import Categorical, Composite, LazyTensorStorage, TensorDictReplayBuffer, Unbounded
from torchrl.envs import EnvBase
from torchrl.modules import EGreedyModule, MultiAgentMLP, QValueModule
from torchrl.objectives import DQNLoss, HardUpdate, ValueEstimators

from apnode.config import Config
from benchmarks.peers.monolith import Monolith

_ACTION, _VALUE, _CHOSEN = ("agents", "action"), ("agents", "action_value"), ("agents", "chosen_action_value")
_OBSERVATION, _REWARD = ("agents", "observation"), ("agents", "reward")


class Environment(EnvBase):
    """Monolith in TorchRL's terms: what belongs to an agent is under `agents`, of shape (M, ...)."""

    def __init__(self, monolith: Monolith) -> None:
        super().__init__()
        self._monolith = monolith
        agents, size = monolith.num_agents, monolith.observation_size
        self.observation_spec = _of_agents(agents, observation=Unbounded((agents, size)))
        self.action_spec = _of_agents(agents, action=Categorical(monolith.num_actions, shape=(agents,)))
        self.reward_spec = _of_agents(agents, reward=Unbounded((agents, 1)))
        flags = {name: Categorical(2, shape=(1,), dtype=torch.bool) for name in ("done", "terminated")}
        self.done_spec = Composite(**flags)

    def _reset(self, tensordict: TensorDictBase | None = None, **options: Any) -> TensorDict:
        return TensorDict({"agents": self._told(observation=torch.from_numpy(self._monolith.begin_episode()))})

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        observations, rewards, over = self._monolith.step(tensordict[_ACTION].numpy())
        told = self._told(observation=torch.from_numpy(observations), reward=torch.from_numpy(rewards)[:, None])
        return TensorDict({"agents": told, "done": torch.tensor([over]), "terminated": torch.tensor([over])})

    def _set_seed(self, seed: int | None) -> None:
        """The config's seed decides."""

    def _told(self, **values: torch.Tensor) -> TensorDict:
        floats = {name: value.float() for name, value in values.items()}
        return TensorDict(floats, [self._monolith.num_agents])


def _of_agents(agents: int, **specs: Any) -> Composite:
    return Composite(agents=Composite(**specs, shape=(agents,)))


def run(config: Config, annealing_slots: int, synced_every: int) -> tuple[float, list[int]]:
    """Learn through all slots of an experiment, as `benchmarks.peers.marl.library` says."""
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    learning, monolith = config.learning, Monolith(config)
    environment = Environment(monolith)
    greedy = _q_network(monolith, list(learning.hidden))
    explore = EGreedyModule(
        spec=environment.action_spec,
        eps_init=learning.epsilon_start,
        eps_end=learning.epsilon_end,
        annealing_num_steps=annealing_slots,
        action_key=_ACTION,
    )
    loss = _double_dqn(greedy, learning.discount)
    target = HardUpdate(loss, value_network_update_interval=synced_every)
    adam = torch.optim.Adam(loss.parameters(), lr=learning.learning_rate, fused=True)
    replay = TensorDictReplayBuffer(storage=LazyTensorStorage(learning.replay_capacity), batch_size=learning.batch_size)
    policy = TensorDictSequential(greedy, explore)
    collector = Collector(
        environment,
        policy,
        frames_per_batch=1,
        total_frames=config.num_slots,
        auto_register_policy_transforms=False,  # no policy here needs one
    )
    began = time.monotonic()
    for slot in collector:
        explore.step()
        replay.extend(_with_flags_of_agents(slot))
        if len(replay) >= learning.batch_size:
            _update(loss, replay.sample(), adam)
            target.step()
    seconds = time.monotonic() - began
    collector.shutdown()
    (steps,) = {int(state["step"]) for state in adam.state.values()}
    return seconds, [steps] * monolith.num_agents  # the parameters of all agents are stacked in each tensor


def _q_network(monolith: Monolith, hidden: list[int]) -> TensorDictSequential:
    """From the observations of all agents to the best action of each."""
    network = MultiAgentMLP(
        n_agent_inputs=monolith.observation_size,
        n_agent_outputs=monolith.num_actions,
        n_agents=monolith.num_agents,
        centralized=False,
        share_params=False,
        num_cells=hidden,
        activation_class=torch.nn.ReLU,
    )
    best = QValueModule(
        action_value_key=_VALUE, out_keys=[_ACTION, _VALUE, _CHOSEN], action_space="categorical", spec=None
    )
    return TensorDictSequential(TensorDictModule(network, [_OBSERVATION], [_VALUE]), best)


def _double_dqn(network: TensorDictSequential, discount: float) -> DQNLoss:
    loss = DQNLoss(network, delay_value=True, double_dqn=True, action_space="categorical", reduction="none")
    loss.set_keys(
        action_value=_VALUE,
        action=_ACTION,
        value=_CHOSEN,
        reward=_REWARD,
        done=("agents", "done"),
        terminated=("agents", "terminated"),
    )
    loss.make_value_estimator(ValueEstimators.TD0, gamma=discount)
    return loss


def _with_flags_of_agents(slot: TensorDictBase) -> TensorDictBase:
    """The loss wants `done` and `terminated` in the shape of the rewards."""
    following = slot["next"]
    for name in ("done", "terminated"):
        following["agents", name] = following[name].unsqueeze(-1).expand(following[_REWARD].shape)
    return slot


def _update(loss: DQNLoss, batch: TensorDictBase, adam: torch.optim.Adam) -> None:
    """One step of every agent on its own mean over the batch: of independent parameters, so losses may be added."""
    adam.zero_grad()
    loss(batch)["loss"].mean(dim=0).sum().backward()
    adam.step()
