"""The Double DQN of one AP (van Hasselt et al. 2016, on the network of the seed paper's table II).

`SubsetDqn` has a value for every subset of the neighbours, as the paper. `NeighbourDqn` has one network for all of an
AP's neighbours, whose values add up to that of a subset (value decomposition, Sunehag et al. 2018, within an AP).

Agents of one process that are due to learn do so in one pass: `update`. Everything random comes from generators keyed
by (seed, AP, slot), never from torch's global one. So an AP learns the same, bit for bit, alone in its process as
beside a hundred others in one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apnode.agent.mlp import ALIGNMENT, Adam, Mlp, adam_step, aligned, dropout_masks, initialised
from apnode.agent.replay import Batch, Floats
from apnode.config import Config
from apnode.config.learning import TRAITS
from apnode.protocol.fields import MAX_MAGNITUDE
from apnode.protocol.messages import FloatArray, IntArray
from apnode.protocol.state import State, joined, layout_of, refuse_other

Float32Array = NDArray[np.float32]
SKIPPED = -1.0  # in place of a loss, none of which is negative
_MOST_TOGETHER = 16  # what an update of more networks touches does not stay in a core's cache


def update(agents: Sequence[DoubleDqn], batches: Sequence[Batch], rngs: Sequence[np.random.Generator]) -> list[float]:
    """One Adam step of each agent's network on the mean squared temporal-difference error of its own batch.

    Args:
        agents: of one run, so of the same kind and layers.
        batches: n transitions for each.
        rngs: draw the dropout masks, one for each.

    Returns:
        these errors; SKIPPED for an agent whose error or gradient is not finite, or too large to report: it stays as it
        was.
    """
    losses = [SKIPPED] * len(agents)
    together: dict[tuple[Networks, int], list[int]] = {}
    for n, (agent, batch) in enumerate(zip(agents, batches, strict=True)):
        together.setdefault((agent.networks, agent.num_rows(batch)), []).append(n)
    for group in together.values():
        of_group, at_once = [agents[n] for n in group], Batch.stacked([batches[n] for n in group])
        for n, loss in zip(group, _update(of_group, at_once, [rngs[n] for n in group]), strict=True):
            losses[n] = loss
    return losses


@np.errstate(over="ignore", invalid="ignore")  # what comes of it is skipped
def _update(agents: Sequence[DoubleDqn], batch: Batch, rngs: Sequence[np.random.Generator]) -> list[float]:
    """`update` of G agents whose networks lie together; the batch is (G, n)."""
    kind, networks = agents[0], agents[0].networks.of([agent.row for agent in agents])
    target = td_target(kind, networks, batch)

    seen, learning = kind.rows(batch.observation, batch.num_actions), kind.learning
    masks = dropout_masks(rngs, seen.counts, seen.x.shape[1], learning.hidden, learning.dropout)
    passed = networks.online.forward(seen.x, masks)
    error = seen.value(passed[-1].numpy(), batch.action) - target
    losses: list[float] = torch.from_numpy(error * error).mean(1).tolist()

    slope = seen.slope(2 / error.shape[1] * error, batch.action)
    gradient = networks.online.back(passed, slope, masks, seen.counts)
    totals: list[float] = gradient.sum(1).tolist()
    sound = [n for n, loss in enumerate(losses) if loss <= MAX_MAGNITUDE and math.isfinite(totals[n])]
    adam_step([agents[n].adam for n in sound], [gradient[n] for n in sound], learning.learning_rate)
    return [loss if n in sound else SKIPPED for n, loss in enumerate(losses)]


def td_target(kind: DoubleDqn, networks: Networks, batch: Batch) -> Float32Array:
    """(G, n) Y = r + gamma (1 - terminal) Q_target(s', argmax_a Q_online(s', a)), over the actions open to the AP."""
    reward = batch.reward.astype(np.float32, copy=False)
    if not kind.learning.discount:
        return reward
    following = kind.rows(batch.next_observation, batch.num_actions)
    online, target = networks.both(following.x)
    best = following.best(online)
    value = following.value(target, best) - kind.paid(best)
    return reward + kind.learning.discount * (1 - batch.terminal.astype(np.float32, copy=False)) * value


class Networks:
    """Online and target networks of G agents together."""

    def __init__(self, sizes: Sequence[int], parameters: Tensor) -> None:
        """Take parameters (2, G, P): of the online networks, of the target networks."""
        self.parameters = parameters
        self.online = Mlp(sizes, parameters[0])
        self._both = Mlp(sizes, parameters.view(-1, parameters.shape[2]))

    def both(self, x: Tensor) -> tuple[Float32Array, Float32Array]:
        """(G, rows, outputs) of the online and of the target networks for (G, rows, inputs)."""
        outputs = self._both.forward(torch.cat([x, x]))[-1].numpy()
        return outputs[: len(x)], outputs[len(x) :]

    def of(self, rows: list[int]) -> Networks:
        """Those of some agents; copies, unless it is all of them."""
        if rows == list(range(self.parameters.shape[1])):
            return self
        return Networks(self.online.sizes, self.parameters[:, rows])


def put_together(agents: Sequence[DoubleDqn]) -> None:
    """Let networks of agents of one run lie together, so that updates of them are one pass and copy nothing."""
    most = 1 if 1 in agents[0].online.sizes else _MOST_TOGETHER
    for begin in range(0, len(agents), most):
        group = agents[begin : begin + most]
        networks = Networks(group[0].online.sizes, torch.cat([agent.parameters for agent in group], dim=1))
        for row, agent in enumerate(group):
            agent.move(networks, row)


class DoubleDqn(ABC):
    """One AP's online and target network; bit n of an action says whether to ask neighbour n."""

    def __init__(self, config: Config, seed: int) -> None:
        self.learning, first = config.learning, initialised(config.layers, seed)
        self.size, self.adam = len(first), Adam(first)
        parameters = torch.zeros(2, 1, aligned(self.size))
        parameters[..., : self.size] = first
        self.move(Networks(config.layers, parameters), 0)

    def move(self, networks: Networks, row: int) -> None:
        """Have the parameters where they already lie with those of others."""
        self.networks, self.row = networks, row
        self.parameters = networks.parameters[:, row : row + 1]  # (2, 1, P)
        self.online, self.target = (Mlp(networks.online.sizes, own) for own in self.parameters[:, 0])
        self.adam.parameters = self.online.parameters[: self.size]

    @abstractmethod
    def best_action(self, observation: FloatArray, num_neighbours: int) -> int:
        """The action of most value, without dropout.

        Args:
            observation: (D,)
            num_neighbours: of the AP.
        """

    @abstractmethod
    def worth(self, observation: FloatArray, num_neighbours: int) -> FloatArray:
        """(N,) by how much the best action that asks a neighbour is better than the best one that does not."""

    @abstractmethod
    def rows(self, observation: Floats, num_actions: IntArray) -> Rows:
        """What stacked networks are given for observations (G, n, D) in which (G, n) actions are open."""

    @abstractmethod
    def num_rows(self, batch: Batch) -> int:
        """How many rows the network is given for a batch of this agent's."""

    def paid(self, action: IntArray) -> Float32Array | float:
        """What actions cost beside what the reward charges, in the shape of the actions; or 0."""
        return 0.0

    def weights(self) -> list[FloatArray]:
        """Copies of the online network's weights and biases, layer by layer."""
        return [array.astype(float) for array in self.online.arrays()]

    def flat(self) -> FloatArray:
        """(size,) copies of them in a row."""
        return np.array(self.adam.parameters.numpy())

    def set_flat(self, values: FloatArray) -> None:
        """Take over what `flat` gave, in the online network."""
        self.adam.parameters.copy_(_tensor(values))

    def load(self, weights: list[FloatArray]) -> None:
        """Take over weights and biases, as `weights` gave them, in both networks.

        Raises:
            ValueError: if they are those of another network.
        """
        own = self.online.arrays()
        if [w.shape for w in weights] != [array.shape for array in own]:
            raise ValueError("weights of a network of other layers")
        for array, given in zip(own, weights, strict=True):
            array[:] = given
        self.sync_target()

    def sync_target(self) -> None:
        """Copy the online weights into the target network."""
        self.target.parameters.copy_(self.online.parameters)

    def state(self) -> State:
        """Copies of both networks' weights and of what Adam remembers of the gradients."""
        return {name: array.copy() for name, array in self._arrays().items()}

    def restore(self, state: State) -> None:
        """Take over what `state` gave.

        Raises:
            StateError: if it is that of another network.
        """
        own = self._arrays()
        refuse_other(state, layout_of(own))
        for name, array in own.items():
            array[...] = state[name]

    def _arrays(self) -> State:
        rows = {"online": self.online.parameters, "target": self.target.parameters}
        rows |= {"mean": self.adam.mean, "mean_square": self.adam.mean_square}
        by_layer = {name: Mlp(self.online.sizes, row).arrays() for name, row in rows.items()}
        numbered = {name: {str(n): array for n, array in enumerate(arrays)} for name, arrays in by_layer.items()}
        return {**joined(**numbered), "steps": self.adam.steps.numpy()}


class Rows(ABC):
    """What G stacked networks are given for n observations each, and what their outputs mean for actions (G, n)."""

    x: Tensor  # (G, rows, inputs)
    counts: Sequence[int]  # (G,) how many rows are a network's own; 0 follows

    @abstractmethod
    def best(self, outputs: Float32Array) -> IntArray:
        """(G, n) actions of most value, of outputs (G, rows, outputs)."""

    @abstractmethod
    def value(self, outputs: Float32Array, action: IntArray) -> Float32Array:
        """(G, n) values of actions."""

    @abstractmethod
    def slope(self, of_value: Float32Array, action: IntArray) -> Tensor:
        """(G, rows, outputs) gradient with respect to the outputs, of that with respect to the values of actions."""


# --- a value for every subset of the neighbours -----------------------------------------------------------


class SubsetDqn(DoubleDqn):
    """A value for every subset of the neighbours."""

    def values(self, observation: FloatArray) -> FloatArray:
        """(actions,) of every action, without dropout, of an observation (D,)."""
        return self._valued(observation).double().numpy()

    def best_action(self, observation: FloatArray, num_neighbours: int) -> int:
        return int(self._valued(observation)[: 2**num_neighbours].argmax())

    def worth(self, observation: FloatArray, num_neighbours: int) -> FloatArray:
        values, action = self.values(observation)[: 2**num_neighbours], np.arange(2**num_neighbours)
        asks = [action >> position & 1 == 1 for position in range(num_neighbours)]
        return np.array([values[with_it].max() - values[~with_it].max() for with_it in asks])

    def _valued(self, observation: FloatArray) -> Tensor:
        return self.online.forward(_tensor(observation[None]))[-1][0]

    def rows(self, observation: Floats, num_actions: IntArray) -> Rows:
        return _SubsetRows(observation, num_actions, self.online.sizes[-1])

    def num_rows(self, batch: Batch) -> int:
        return _padded(len(batch.action))


class _SubsetRows(Rows):
    """A row for each observation, an output for each action."""

    def __init__(self, observation: Floats, num_actions: IntArray, num_outputs: int) -> None:
        stack, own = num_actions.shape
        self.x = torch.zeros(stack, _padded(own), observation.shape[2])
        self.x[:, :own] = torch.from_numpy(observation)
        self.counts, self._num_actions = [own] * stack, num_actions
        self._shape = (stack, _padded(own), num_outputs)
        rows = np.arange(stack)[:, None] * self._shape[1] + np.arange(own)
        self._first = rows * num_outputs  # of each observation's outputs, in a row of all

    def best(self, outputs: Float32Array) -> IntArray:
        closed = np.arange(self._shape[2]) >= self._num_actions[..., None]
        return np.asarray(np.where(closed, np.float32(-np.inf), outputs[:, : closed.shape[1]]).argmax(2))

    def value(self, outputs: Float32Array, action: IntArray) -> Float32Array:
        return np.asarray(outputs.reshape(-1)[self._first + action])

    def slope(self, of_value: Float32Array, action: IntArray) -> Tensor:
        slope = torch.zeros(self._shape)
        slope.view(-1).numpy()[self._first + action] = of_value
        return slope


# --- two values for each neighbour ------------------------------------------------------------------------


class NeighbourDqn(DoubleDqn):
    """Two values for each neighbour, not to ask it and to ask it; they add up, and to ask has its price beside.

    The price is known, so it is not learnt: it counts when choosing, and in what is to come.
    To ask is worth what the AP expects of the link, and what the network, which begins with nothing, adds to it.
    """

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config, seed)
        self._price, self._most = config.cooperation.link_price, config.cooperation.max_neighbours
        self.online.weights[-1].zero_()
        self.online.biases[-1].zero_()
        self.sync_target()

    def worth(self, observation: FloatArray, num_neighbours: int) -> FloatArray:
        return self.advantages(observation.reshape(-1, TRAITS)[:num_neighbours])

    def advantages(self, traits: FloatArray) -> FloatArray:
        """(N,) what asking each neighbour is worth to the AP, of (N, TRAITS)."""
        seen = traits.astype(np.float32)
        return _advantage(_valued(seen, self.online.forward(torch.from_numpy(seen))[-1].numpy())).astype(float)

    def best_action(self, observation: FloatArray, num_neighbours: int) -> int:
        asks = self.advantages(observation.reshape(-1, TRAITS)[:num_neighbours]) > self._price
        return int((asks.astype(np.int64) << np.arange(num_neighbours)).sum())

    def rows(self, observation: Floats, num_actions: IntArray) -> Rows:
        return _NeighbourRows(observation, num_actions, self._price)

    def num_rows(self, batch: Batch) -> int:
        return _padded(int(_neighbours(batch.num_actions).sum()))

    def paid(self, action: IntArray) -> Float32Array:
        return np.asarray(np.float32(self._price) * _bits(action, self._most).sum(-1).astype(np.float32))


class _NeighbourRows(Rows):
    """A row for each neighbour in each observation, those of a network one after the other, then zeros."""

    def __init__(self, observation: Floats, num_actions: IntArray, price: float) -> None:
        count, self._price = _neighbours(num_actions), price  # (G, n)
        self._widest: list[int] = count.max(1).tolist()
        self._is_neighbour = np.arange(max(self._widest)) < count[..., None]  # (G, n, N)
        self.counts = count.sum(1).tolist()
        self._own = np.arange(_padded(max(self.counts))) < np.array(self.counts)[:, None]  # (G, rows)
        seen = observation.reshape(*count.shape, -1, TRAITS)[:, :, : max(self._widest)]
        self._traits = seen[self._is_neighbour].astype(np.float32, copy=False)  # (neighbours of all, TRAITS)
        self.x = torch.zeros(*self._own.shape, TRAITS)
        self.x.numpy()[self._own] = self._traits

    def best(self, outputs: Float32Array) -> IntArray:
        asks = self._spread(_advantage(_valued(self._traits, outputs[self._own])) > self._price)
        return np.asarray((asks.astype(np.int64) << np.arange(asks.shape[2])).sum(2))

    def value(self, outputs: Float32Array, action: IntArray) -> Float32Array:
        values = _valued(self._traits, outputs[self._own])
        chosen = torch.from_numpy(self._spread(np.where(self._asked(action), values[:, 1], values[:, 0])))
        sums = [own[:, :width].sum(1) for own, width in zip(chosen, self._widest, strict=True)]
        return torch.stack(sums).numpy()

    def slope(self, of_value: Float32Array, action: IntArray) -> Tensor:
        of_chosen = np.broadcast_to(of_value[..., None], self._is_neighbour.shape)[self._is_neighbour]
        asked, slope = self._asked(action), torch.zeros(*self._own.shape, 2)
        slope.numpy()[self._own] = np.stack([np.where(asked, 0, of_chosen), np.where(asked, of_chosen, 0)], axis=1)
        return slope

    def _asked(self, action: IntArray) -> NDArray[np.bool_]:
        """(neighbours of all,) whether each is asked."""
        return _bits(action, self._is_neighbour.shape[2])[self._is_neighbour]

    def _spread(self, of_neighbours: NDArray[Any]) -> NDArray[Any]:
        """(G, n, N), 0 where there is no neighbour, of (neighbours of all,)."""
        spread = np.zeros(self._is_neighbour.shape, of_neighbours.dtype)
        spread[self._is_neighbour] = of_neighbours
        return spread


def _neighbours(num_actions: IntArray) -> IntArray:
    return np.log2(num_actions).astype(int)


def _padded(rows: int) -> int:
    """To a power of two, since only equal sizes make a stack; and not below ALIGNMENT, since slices must be aligned."""
    return max(ALIGNMENT, 1 << (rows - 1).bit_length())


def _valued(traits: Float32Array, outputs: Float32Array) -> Float32Array:
    """(rows, 2) values of not asking and of asking: what is expected of the link, and what the network adds."""
    values = outputs.copy()
    values[:, 1] += traits[:, 0]
    return values


def _advantage(values: Float32Array) -> Float32Array:
    return np.asarray(values[:, 1] - values[:, 0])


def _bits(action: IntArray, count: int) -> NDArray[np.bool_]:
    """(..., count) of (...) actions, the first neighbour's first."""
    return np.asarray(action[..., None] >> np.arange(count) & 1, bool)


def _tensor(array: Floats) -> Tensor:
    return torch.from_numpy(array).float()


def make_network(config: Config, seed: int) -> DoubleDqn:
    """The network that the config names."""
    return NeighbourDqn(config, seed) if config.learning.values == "neighbours" else SubsetDqn(config, seed)
