"""The Double DQN of one AP (van Hasselt et al. 2016, on the network of the seed paper's table II).

Everything random comes from generators keyed by (seed, AP, slot), never from torch's global one, so an AP
learns the same alone in its process as beside a hundred others in one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from apnode.config import Learning
from apnode.messages import FloatArray
from apnode.replay import Batch, Floats
from apnode.state import State, joined, layout_of, refuse_other

torch.set_num_threads(1)


class DoubleDqn:
    """Online and target network over joint actions: bit n of an action says whether to ask neighbour n."""

    def __init__(self, observation_size: int, num_actions: int, learning: Learning, seed: int) -> None:
        self._learning = learning
        self._online = _initialised((observation_size, *learning.hidden, num_actions), seed)
        self._target = [p.detach().clone() for p in self._online]
        self._adam = _Adam(self._online, learning.learning_rate)

    def values(self, observation: FloatArray) -> FloatArray:
        """Q of every action, without dropout.

        Args:
            observation: (D,)

        Returns:
            (actions,)
        """
        with torch.inference_mode():
            values = _forward(self._online, _tensor(observation))
        return values.double().numpy()

    def update(self, batch: Batch, rng: np.random.Generator) -> float:
        """One Adam step on the mean squared temporal-difference error; returns that error.

        Args:
            batch: n transitions.
            rng: draws the dropout masks.
        """
        target = self.td_target(batch)
        action = torch.from_numpy(batch.action)[:, None]
        masks = self._dropout_masks(len(batch.action), rng)
        chosen = _forward(self._online, _tensor(batch.observation), masks).gather(1, action)[:, 0]
        loss = nn.functional.mse_loss(chosen, target)
        self._adam.step(torch.autograd.grad(loss, self._online))
        return loss.item()

    def td_target(self, batch: Batch) -> Tensor:
        """Y = r + gamma (1 - terminal) Q_target(s', argmax_a Q_online(s', a)), over the actions open to the AP.

        Returns:
            (n,)
        """
        with torch.no_grad():
            following = _tensor(batch.next_observation)
            online = _forward(self._online, following)
            closed = np.arange(online.shape[1]) >= batch.num_actions[:, None]
            best = online.masked_fill_(torch.from_numpy(closed), -torch.inf).argmax(1, keepdim=True)
            value = _forward(self._target, following).gather(1, best)[:, 0]
        return _tensor(batch.reward) + self._learning.discount * (1 - _tensor(batch.terminal)) * value

    def weights(self) -> list[FloatArray]:
        """Copies of the online network's weights and biases, layer by layer."""
        return [p.detach().double().numpy() for p in self._online]

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

    def _dropout_masks(self, rows: int, rng: np.random.Generator) -> Sequence[Tensor]:
        """(rows, width) for each hidden layer: 0 where its output is dropped, otherwise what keeps its mean."""
        hidden, keep = self._learning.hidden, 1 - self._learning.dropout
        kept = rng.random((rows, sum(hidden)), np.float32) < keep
        return torch.split(torch.from_numpy(kept * np.float32(1 / keep)), list(hidden), dim=1)


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


def _forward(parameters: Sequence[Tensor], x: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
    """Q values; every hidden layer's output is multiplied by its mask, if there are any."""
    *hidden, (weight, bias) = zip(parameters[0::2], parameters[1::2], strict=True)
    for layer, (w, b) in enumerate(hidden):
        x = torch.relu(nn.functional.linear(x, w, b))
        if masks is not None:
            x = x * masks[layer]
    return nn.functional.linear(x, weight, bias)


def _numbered(tensors: Sequence[Tensor]) -> State:
    return {str(index): tensor.detach().numpy().copy() for index, tensor in enumerate(tensors)}


def _tensor(array: Floats) -> Tensor:
    return torch.from_numpy(array).float()
