"""The Double DQN of one AP (van Hasselt et al. 2016, on the network of the seed paper's table II).

`SubsetDqn` has a value for every subset of the neighbours, as the paper. `NeighbourDqn` has one network for all of an
AP's neighbours, whose values add up to that of a subset (value decomposition, Sunehag et al. 2018, within an AP).

Everything random comes from generators keyed by (seed, AP, slot), never from torch's global one, so an AP
learns the same alone in its process as beside a hundred others in one.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from apnode.agent.replay import Batch, Floats
from apnode.config import Config
from apnode.config.learning import TRAITS
from apnode.protocol.fields import MAX_MAGNITUDE
from apnode.protocol.messages import FloatArray, IntArray
from apnode.protocol.state import State, joined, layout_of, refuse_other

torch.set_num_threads(1)
Layers = Sequence[Tensor]  # weights and biases, layer by layer
Draws = np.random.Generator | None
SKIPPED = -1.0  # in place of a loss, none of which is negative


class DoubleDqn(ABC):
    """Online and target network; bit n of an action says whether to ask neighbour n."""

    def __init__(self, config: Config, seed: int) -> None:
        learning = self._learning = config.learning
        self._online = _initialised(config.layers, seed)
        self._target = [p.detach().clone() for p in self._online]
        self._adam = _Adam(self._online, learning.learning_rate)

    def best_action(self, observation: FloatArray, num_neighbours: int) -> int:
        """The action of most value, without dropout.

        Args:
            observation: (D,)
            num_neighbours: of the AP.
        """
        with torch.inference_mode():
            return int(self._best(_tensor(observation[None]), np.array([2**num_neighbours]))[0])

    def update(self, batch: Batch, rng: np.random.Generator) -> float:
        """One Adam step on the mean squared temporal-difference error.

        Args:
            batch: n transitions.
            rng: draws the dropout masks.

        Returns:
            that error; or SKIPPED if it or its gradient is not finite, or too large to report; nothing changes then.
        """
        target = self.td_target(batch)
        action = torch.from_numpy(batch.action)
        chosen = self._value(self._online, _tensor(batch.observation), action, batch.num_actions, rng)
        error = nn.functional.mse_loss(chosen, target)
        gradients, loss = torch.autograd.grad(error, self._online), error.item()
        if not (loss <= MAX_MAGNITUDE and math.isfinite(torch.cat([g.reshape(-1) for g in gradients]).sum().item())):
            return SKIPPED
        self._adam.step(gradients)
        return loss

    def td_target(self, batch: Batch) -> Tensor:
        """Y = r + gamma (1 - terminal) Q_target(s', argmax_a Q_online(s', a)), over the actions open to the AP.

        Returns:
            (n,)
        """
        if not self._learning.discount:
            return _tensor(batch.reward)
        with torch.no_grad():
            following = _tensor(batch.next_observation)
            best = self._best(following, batch.num_actions)
            value = self._value(self._target, following, best, batch.num_actions) - self._paid(best)
        return _tensor(batch.reward) + self._learning.discount * (1 - _tensor(batch.terminal)) * value

    @abstractmethod
    def _best(self, observation: Tensor, num_actions: IntArray) -> Tensor:
        """(n,) actions of most value to the online network, of (n, D) observations and (n,) numbers of actions."""

    @abstractmethod
    def _value(self, network: Layers, seen: Tensor, action: Tensor, num_actions: IntArray, rng: Draws = None) -> Tensor:
        """(n,) values of actions in (n, D) observations to a network; with dropout if `rng` is there to draw it."""

    def _paid(self, action: Tensor) -> Tensor:
        """(n,) what actions cost beside what the reward charges."""
        return torch.zeros(len(action))

    def weights(self) -> list[FloatArray]:
        """Copies of the online network's weights and biases, layer by layer."""
        return [p.detach().double().numpy() for p in self._online]

    @property
    def size(self) -> int:
        """Number of the online network's weights and biases."""
        return sum(p.numel() for p in self._online)

    def flat(self) -> FloatArray:
        """(size,) copies of them in a row."""
        return np.asarray(nn.utils.parameters_to_vector(self._online).detach().numpy(), np.float32)

    def set_flat(self, values: FloatArray) -> None:
        """Take over what `flat` gave, in the online network."""
        with torch.no_grad():
            nn.utils.vector_to_parameters(_tensor(values), self._online)

    def load(self, weights: list[FloatArray]) -> None:
        """Take over weights and biases, as `weights` gave them, in both networks.

        Raises:
            ValueError: if they are those of another network.
        """
        if [w.shape for w in weights] != [tuple(p.shape) for p in self._online]:
            raise ValueError("weights of a network of other layers")
        with torch.no_grad():
            for parameter, array in zip(self._online, weights, strict=True):
                parameter.copy_(_tensor(array))
        self.sync_target()

    def sync_target(self) -> None:
        """Copy the online weights into the target network."""
        self._target = [p.detach().clone() for p in self._online]

    def state(self) -> State:
        """Copies of both networks' weights and of what Adam remembers of the gradients."""
        return joined(**{part: _numbered(tensors) for part, tensors in self._tensors().items()})

    def restore(self, state: State) -> None:
        """Take over what `state` gave.

        Raises:
            StateError: if it is that of another network.
        """
        refuse_other(state, layout_of(self.state()))
        with torch.no_grad():
            for part, tensors in self._tensors().items():
                for index, tensor in enumerate(tensors):
                    tensor.copy_(torch.tensor(state[f"{part}.{index}"]))

    def _tensors(self) -> dict[str, Sequence[Tensor]]:
        return {"online": self._online, "target": self._target, **self._adam.tensors()}

    def _forward(self, network: Layers, x: Tensor, rng: Draws = None) -> Tensor:
        """(rows, outputs) of (rows, inputs); every hidden layer's output is multiplied by its dropout mask."""
        *hidden, (weight, bias) = zip(network[0::2], network[1::2], strict=True)
        masks = None if rng is None or not self._learning.dropout else self._dropout_masks(len(x), rng)
        for layer, (w, b) in enumerate(hidden):
            x = torch.relu(nn.functional.linear(x, w, b))
            if masks is not None:
                x = x * masks[layer]
        return nn.functional.linear(x, weight, bias)

    def _dropout_masks(self, rows: int, rng: np.random.Generator) -> Sequence[Tensor]:
        """(rows, width) for each hidden layer: 0 where its output is dropped, otherwise what keeps its mean."""
        hidden, keep = self._learning.hidden, 1 - self._learning.dropout
        kept = rng.random((rows, sum(hidden)), np.float32) < keep
        return torch.split(torch.from_numpy(kept * np.float32(1 / keep)), list(hidden), dim=1)


class SubsetDqn(DoubleDqn):
    """A value for every subset of the neighbours."""

    def values(self, observation: FloatArray) -> FloatArray:
        """(actions,) of every action, without dropout, of an observation (D,)."""
        with torch.inference_mode():
            return self._forward(self._online, _tensor(observation)).double().numpy()

    def _best(self, observation: Tensor, num_actions: IntArray) -> Tensor:
        values = self._forward(self._online, observation)
        closed = np.arange(values.shape[1]) >= num_actions[:, None]
        return values.masked_fill_(torch.from_numpy(closed), -torch.inf).argmax(1)

    def _value(self, network: Layers, seen: Tensor, action: Tensor, num_actions: IntArray, rng: Draws = None) -> Tensor:
        return self._forward(network, seen, rng).gather(1, action[:, None])[:, 0]


class NeighbourDqn(DoubleDqn):
    """Two values for each neighbour, not to ask it and to ask it; they add up, and to ask has its price beside.

    The price is known, so it is not learnt: it counts when choosing, and in what is to come.
    To ask is worth what the AP expects of the link, and what the network, which begins with nothing, adds to it.
    """

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config, seed)
        self._price, self._most = config.cooperation.link_price, config.cooperation.max_neighbours
        with torch.no_grad():
            for parameter in self._online[-2:]:
                parameter.zero_()
        self.sync_target()

    def advantages(self, traits: FloatArray) -> FloatArray:
        """(N,) what asking each neighbour is worth to the AP, of (N, TRAITS)."""
        with torch.inference_mode():
            values = self._valued(self._online, _tensor(traits))
        return (values[:, 1] - values[:, 0]).double().numpy()

    def _valued(self, network: Layers, traits: Tensor, rng: Draws = None) -> Tensor:
        expected = torch.stack([torch.zeros(len(traits)), traits[:, 0]], dim=1)
        return expected + self._forward(network, traits, rng)

    def _best(self, observation: Tensor, num_actions: IntArray) -> Tensor:
        values, is_neighbour = self._of_neighbours(self._online, observation, num_actions)
        asks = (values[..., 1] - values[..., 0] > self._price) & is_neighbour
        return (asks.long() << torch.arange(asks.shape[1])).sum(1)

    def _value(self, network: Layers, seen: Tensor, action: Tensor, num_actions: IntArray, rng: Draws = None) -> Tensor:
        values, _ = self._of_neighbours(network, seen, num_actions, rng)
        return values.gather(2, _bits(action, values.shape[1])[..., None])[..., 0].sum(1)

    def _paid(self, action: Tensor) -> Tensor:
        return self._price * _bits(action, self._most).sum(1)

    def _of_neighbours(
        self, network: Layers, observation: Tensor, num_actions: IntArray, rng: Draws = None
    ) -> tuple[Tensor, Tensor]:
        """(n, N, 2) values, 0 where there is no neighbour, and (n, N) where there is one."""
        count = np.log2(num_actions).astype(int)
        is_neighbour = torch.from_numpy(np.arange(count.max()) < count[:, None])
        rows = observation.reshape(len(observation), -1, TRAITS)[:, : count.max()][is_neighbour]
        values = torch.zeros(*is_neighbour.shape, 2)
        values[is_neighbour] = self._valued(network, rows, rng)
        return values, is_neighbour


class _Adam:
    """Adam over some parameters: torch's function, since the first `torch.optim.Adam` imports 70 MB of compiler."""

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float) -> None:
        self._parameters, self._learning_rate = list(parameters), learning_rate
        self._mean = [torch.zeros_like(p) for p in parameters]
        self._mean_square = [torch.zeros_like(p) for p in parameters]
        self._steps = [torch.zeros(()) for _ in parameters]

    def tensors(self) -> dict[str, Sequence[Tensor]]:
        """What it remembers, for each parameter."""
        return {"mean": self._mean, "mean_square": self._mean_square, "steps": self._steps}

    def step(self, gradients: Sequence[Tensor]) -> None:
        with torch.no_grad():
            adam(
                self._parameters,
                list(gradients),
                self._mean,
                self._mean_square,
                max_exp_avg_sqs=[],
                state_steps=self._steps,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self._learning_rate,
                weight_decay=0,
                eps=1e-8,
                maximize=False,
            )


def _initialised(sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Weights and biases by torch's default for linear layers, U(+-1/sqrt(fan in))."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    parameters = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        bound = fan_in**-0.5
        for shape in ((fan_out, fan_in), (fan_out,)):
            parameters.append(torch.empty(shape).uniform_(-bound, bound, generator=generator).requires_grad_())
    return parameters


def _bits(action: Tensor, count: int) -> Tensor:
    """(n, count) of (n,) actions, the first neighbour's first."""
    return action[:, None] >> torch.arange(count) & 1


def _numbered(tensors: Sequence[Tensor]) -> State:
    return {str(index): tensor.detach().numpy().copy() for index, tensor in enumerate(tensors)}


def _tensor(array: Floats) -> Tensor:
    return torch.from_numpy(array).float()


def make_network(config: Config, seed: int) -> DoubleDqn:
    """The network that the config names."""
    return NeighbourDqn(config, seed) if config.learning.values == "neighbours" else SubsetDqn(config, seed)
