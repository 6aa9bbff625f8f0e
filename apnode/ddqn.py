"""The Double DQN of one AP (van Hasselt et al. 2016, on the network of the seed paper's table II).

Everything random comes from generators keyed by (seed, AP, update), never from torch's global one, so an AP
learns the same alone in its process as beside a hundred others in one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from apnode.config import Learning
from apnode.messages import FloatArray
from apnode.replay import Batch

torch.set_num_threads(1)


class DoubleDqn:
    """Online and target network over joint actions: bit n of an action says whether to ask neighbour n."""

    def __init__(self, observation_size: int, num_actions: int, learning: Learning, seed: int) -> None:
        self._learning = learning
        self._generator = torch.Generator()
        self._generator.manual_seed(seed)
        sizes = (observation_size, *learning.hidden, num_actions)
        self._online = self._initialised(sizes)
        self._target = [p.detach().clone() for p in self._online]
        self._adam = torch.optim.Adam(self._online, lr=learning.learning_rate, fused=True)

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

    def update(self, batch: Batch, seed: int) -> float:
        """One Adam step on the mean squared temporal-difference error; returns that error.

        Args:
            batch: n transitions.
            seed: of the dropout masks.
        """
        self._generator.manual_seed(seed)
        target = self.td_target(batch)
        action = torch.from_numpy(batch.action)[:, None]
        chosen = _forward(self._online, _tensor(batch.observation), self._dropped).gather(1, action)[:, 0]
        loss = nn.functional.mse_loss(chosen, target)
        self._adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._adam.step()
        return float(loss.detach())

    def td_target(self, batch: Batch) -> Tensor:
        """Y = r + gamma (1 - terminal) Q_target(s', argmax_a Q_online(s', a)), over the actions open to the AP.

        Returns:
            (n,)
        """
        with torch.no_grad():
            following = _tensor(batch.next_observation)
            online = _forward(self._online, following)
            closed = torch.arange(online.shape[1]) >= torch.from_numpy(batch.num_actions)[:, None]
            best = online.masked_fill(closed, -torch.inf).argmax(1, keepdim=True)
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

    def _initialised(self, sizes: tuple[int, ...]) -> list[Tensor]:
        """Weights and biases by torch's default for linear layers, U(+-1/sqrt(fan in)), from the own generator."""
        parameters = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            bound = fan_in**-0.5
            for shape in ((fan_out, fan_in), (fan_out,)):
                parameters.append(
                    torch.empty(shape).uniform_(-bound, bound, generator=self._generator).requires_grad_()
                )
        return parameters

    def _dropped(self, x: Tensor) -> Tensor:
        keep = 1 - self._learning.dropout
        mask = torch.empty_like(x).bernoulli_(keep, generator=self._generator)
        return x * mask / keep


def _forward(parameters: list[Tensor], x: Tensor, after_hidden: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Q values; `after_hidden` is applied to every hidden layer's output."""
    *hidden, (weight, bias) = zip(parameters[0::2], parameters[1::2], strict=True)
    for w, b in hidden:
        x = torch.relu(nn.functional.linear(x, w, b))
        if after_hidden is not None:
            x = after_hidden(x)
    return nn.functional.linear(x, weight, bias)


def _tensor(array: FloatArray) -> Tensor:
    return torch.from_numpy(array).float()
