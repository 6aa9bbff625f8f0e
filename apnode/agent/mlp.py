"""Fully connected rectifier networks, one or several of the same layers at once, their gradients and Adam's steps.

Slice g of a batched product is, bit for bit, the product of slice g alone, if both begin at a multiple of 64 bytes.
So a network computes the same by itself as in a stack. This does not hold where a layer has a single unit: such
networks are not to be stacked.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

torch.set_num_threads(1)
ALIGNMENT = 16  # numbers of 4 bytes


class Mlp:
    """One network, or a stack of G: its parameters lie in a row, layer by layer, weights before biases."""

    def __init__(self, sizes: Sequence[int], parameters: Tensor) -> None:
        """Put layers on parameters.

        Args:
            sizes: widths, from the inputs to the outputs.
            parameters: (P,) of one network or (G, P) of G, where P is `aligned`: what is too much at the end is idle.
        """
        self.sizes, self.parameters = tuple(sizes), parameters
        self.weights: list[Tensor] = []  # views ([G,] out, in), layer by layer
        self.transposed: list[Tensor] = []  # the same as ([G,] in, out)
        self.biases: list[Tensor] = []  # views ([G,] 1, out)
        end, stack = 0, parameters.shape[:-1]
        for fan_in, fan_out in itertools.pairwise(sizes):
            begin, middle, end = end, end + fan_out * fan_in, end + fan_out * (fan_in + 1)
            self.weights.append(parameters[..., begin:middle].view(*stack, fan_out, fan_in))
            self.transposed.append(self.weights[-1].mT)
            self.biases.append(parameters[..., middle:end].view(*stack, 1, fan_out))

    def arrays(self) -> list[NDArray[np.float32]]:
        """Views of one network's weights (out, in) and biases (out,), layer by layer."""
        pairs = zip(self.weights, self.biases, strict=True)
        return [array for weight, bias in pairs for array in (weight.numpy(), bias[0].numpy())]

    def forward(self, x: Tensor, masks: Sequence[Tensor] = ()) -> list[Tensor]:
        """What each layer is given, and last what the last one gives, ([G,] rows, width) each.

        Args:
            x: ([G,] rows, inputs)
            masks: ([G,] rows, width) by which each hidden layer's outputs are multiplied, if there are any.
        """
        affine = torch.baddbmm if x.ndim == 3 else torch.addmm
        passed = [x]
        for layer, (weight, bias) in enumerate(zip(self.transposed, self.biases, strict=True)):
            x = affine(bias, x, weight)
            if layer < len(self.weights) - 1:
                x.relu_()
                if masks:
                    x.mul_(masks[layer])
            passed.append(x)
        return passed

    def back(self, passed: Sequence[Tensor], slope: Tensor, masks: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
        """Back-propagation in a stack: (G, size) gradient with respect to the parameters that are not idle.

        Args:
            passed: what `forward` gave.
            slope: (G, rows, outputs) gradient with respect to the outputs.
            masks: as `forward` had them.
            counts: how many rows of each network are its own; what follows is 0 in `slope`.
        """
        parts: list[Tensor] = []
        for layer in reversed(range(len(self.weights))):
            parts[:0] = torch.bmm(slope.mT, passed[layer]).view(len(slope), -1), _sums(slope, counts)
            if layer:
                slope = torch.bmm(slope, self.weights[layer])
                if masks:
                    slope.mul_(masks[layer - 1])
                slope = torch.ops.aten.threshold_backward(slope, passed[layer], 0)
        return torch.cat(parts, 1)


def _sums(slope: Tensor, counts: Sequence[int]) -> Tensor:
    """(G, width) over rows; zeros at the end would change the order of summation, and so the last bits."""
    if min(counts) == slope.shape[1]:
        return slope.sum(1)
    return torch.stack([own[:count].sum(0) for own, count in zip(slope, counts, strict=True)])


def aligned(size: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def initialised(sizes: Sequence[int], seed: int) -> Tensor:
    """(size,) parameters of one network by torch's default for linear layers, U(+-1/sqrt(fan in))."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    parts = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        bound = fan_in**-0.5
        for count in (fan_out * fan_in, fan_out):
            parts.append(torch.empty(count).uniform_(-bound, bound, generator=generator))
    return torch.cat(parts)


def dropout_masks(
    rngs: Sequence[np.random.Generator], counts: Sequence[int], rows: int, hidden: Sequence[int], dropout: float
) -> Sequence[Tensor]:
    """(G, rows, width) for each hidden layer: 0 where its output is dropped, otherwise what keeps its mean.

    Each network's own rows, `counts` of the `rows`, are drawn from its generator. Nothing without dropout.
    """
    if not dropout:
        return ()
    keep = 1 - dropout
    masks = np.empty((len(rngs), rows, sum(hidden)), np.float32)
    for rng, count, own in zip(rngs, counts, masks, strict=True):
        rng.random(out=own[:count], dtype=np.float32)
        own[count:] = 0
    np.less(masks, keep, out=masks)
    masks *= np.float32(1 / keep)
    return torch.from_numpy(masks).split_with_sizes(list(hidden), dim=2)


class Adam:
    """What Adam remembers of one network's gradients."""

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters
        self.mean, self.mean_square = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self.steps = torch.zeros(())


def adam_step(of: Sequence[Adam], gradients: list[Tensor], learning_rate: float) -> None:
    """A step of each network: torch's own kernel, since the first `torch.optim.Adam` imports 70 MB of compiler."""
    for adam in of:
        adam.steps.add_(1)
    if of:
        torch._fused_adam_(
            [adam.parameters for adam in of],
            gradients,
            [adam.mean for adam in of],
            [adam.mean_square for adam in of],
            [],
            [adam.steps for adam in of],
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
