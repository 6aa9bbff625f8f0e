"""Rectifier networks against torch's own, and what must not depend on who else is in a stack."""

import itertools

import numpy as np
import pytest
import torch

from apnode.agent.mlp import Adam, Mlp, adam_step, dropout_masks, initialised

SIZES = (6, 16, 8, 4)


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def stack(count: int) -> Mlp:
    return Mlp(SIZES, torch.stack([initialised(SIZES, seed) for seed in range(count)]))


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(draws(seed).standard_normal(shape, np.float32))


def test_forward_and_back_are_those_of_torchs_layers_and_its_gradient() -> None:
    networks, x, slope = stack(3), rows(3, 32, 6), rows(3, 32, 4, seed=1)
    masks = dropout_masks([draws(n) for n in range(3)], [32] * 3, 32, SIZES[1:-1], 0.2)
    passed = networks.forward(x, masks)
    gradient = networks.back(passed, slope, masks, [32] * 3)
    for n in range(3):
        layers = [torch.nn.Linear(*pair) for pair in itertools.pairwise(SIZES)]
        torch.nn.utils.vector_to_parameters(networks.parameters[n], [p for of in layers for p in of.parameters()])
        h = x[n]
        for layer, of in enumerate(layers[:-1]):
            h = torch.relu(of(h)) * masks[layer][n]
        outputs = layers[-1](h)
        torch.testing.assert_close(passed[-1][n], outputs.detach())
        outputs.backward(slope[n])
        expected = torch.cat([p.grad.reshape(-1) for of in layers for p in of.parameters() if p.grad is not None])
        torch.testing.assert_close(gradient[n], expected)


def test_one_network_gives_what_it_gives_in_a_stack() -> None:
    networks, x = stack(5), rows(5, 32, 6)
    for n, parameters in enumerate(networks.parameters):
        torch.testing.assert_close(Mlp(SIZES, parameters).forward(x[n])[-1], networks.forward(x)[-1][n])


def test_rows_that_are_only_there_to_fill_a_stack_have_no_part_in_the_gradient() -> None:
    counts = [20, 32]
    networks, x, slope = stack(2), rows(2, 32, 6), rows(2, 32, 4, seed=1)
    slope[0, 20:] = 0
    gradient = networks.back(networks.forward(x), slope, (), counts)
    own = Mlp(SIZES, networks.parameters[:1])
    expected = own.back(own.forward(x[:1, :20]), slope[:1, :20], (), [20])
    torch.testing.assert_close(gradient[:1], expected)


def test_dropout_keeps_the_mean_of_what_it_drops() -> None:
    masks = dropout_masks([draws(0)], [10_000], 10_000, (16, 8), 0.5)
    assert [mask.shape for mask in masks] == [(1, 10_000, width) for width in (16, 8)]
    assert all(float(mask.mean()) == pytest.approx(1, abs=0.02) for mask in masks)
    assert all(set(mask.unique().tolist()) == {0, 2} for mask in masks)


def test_without_dropout_nothing_is_drawn() -> None:
    rng = draws(0)
    assert dropout_masks([rng], [5], 5, (16, 8), 0) == ()
    assert rng.random() == draws(0).random()


def test_a_network_draws_its_own_masks_whoever_is_beside_it_and_however_many_rows_they_have() -> None:
    alone = dropout_masks([draws(1)], [9], 9, (16, 8), 0.3)
    beside = dropout_masks([draws(0), draws(1)], [32, 9], 32, (16, 8), 0.3)
    for one, other in zip(alone, beside, strict=True):
        assert torch.equal(one[0], other[1, :9])


def test_a_step_is_that_of_torchs_own_optimiser() -> None:
    parameters = [rows(7, seed=n) for n in range(2)]
    reference = [p.clone().requires_grad_() for p in parameters]
    own, optimiser = [Adam(p) for p in parameters], torch.optim.Adam(reference, lr=0.01)
    for step in range(5):
        gradients = [torch.full_like(p, step - 1.5) for p in parameters]
        adam_step(own, gradients, 0.01)
        for parameter, gradient in zip(reference, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
    for one, other in zip(parameters, reference, strict=True):
        torch.testing.assert_close(one, other.detach())


def test_each_network_counts_its_own_steps() -> None:
    """How large a step is depends on how many there were."""
    late, early, alone = (Adam(torch.zeros(4)) for _ in range(3))
    gradient = torch.ones(4)
    adam_step([early], [gradient], 0.1)
    adam_step([late, early], [gradient / 2, gradient], 0.1)
    adam_step([alone], [gradient / 2], 0.1)
    assert (int(late.steps), int(early.steps)) == (1, 2)
    assert torch.equal(late.parameters, alone.parameters)
