"""Small-scale fading, and what APs hear of the pilots: pure functions of (seed, slot)."""

from __future__ import annotations

import math

import numpy as np

from apnode.config import Config
from apnode.protocol.messages import ComplexArray
from apnode.protocol.rng import Purpose, generator
from apnode.radio.csi import pilot_book
from channel_server.recorded import recorded
from channel_server.replayed import replay
from channel_server.topology import Layout


def complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> ComplexArray:
    """CN(0, 1) of the given shape."""
    parts = rng.standard_normal((*shape, 2))
    parts *= math.sqrt(0.5)
    return parts.view(np.complex128)[..., 0]


def channels(config: Config, layout: Layout, slot: int) -> ComplexArray:
    """Channels of a slot, h = sqrt(beta) g with g ~ CN(0, I_L): seed paper eq. (1).

    With scattering, h = R^(1/2) g, where trace(R) / L = beta. A file may bring its own.

    Returns:
        (B, M, K, L) [sqrt power gain]
    """
    file = recorded(config)
    if file is not None and file.h is not None:
        found = file.h[slot % len(file.h)]
        return np.broadcast_to(found, (config.run.blocks_per_slot, *found.shape[1:])).copy()
    g = small_scale_fading(config, slot)
    if layout.array_root is not None:
        g = (layout.array_root @ g[..., None])[..., 0]
    return np.sqrt(layout.beta)[..., None] * g


def small_scale_fading(config: Config, slot: int) -> ComplexArray:
    """The g of a slot: redrawn every block, or Gauss-Markov from block to block of an episode.

    g_t = rho g_{t-1} + sqrt(1 - rho^2) e_t, over the blocks of a slot and on into the next one; an episode's
    first block is drawn anew, so every block is CN(0, 1) and blocks n apart are correlated by rho^n.

    Returns:
        (B, M, K, L), a function of (seed, slot).
    """
    rho, length = config.propagation.block_correlation, config.run.slots_per_episode
    if not rho:
        return _innovations(config, slot)
    episode, position = divmod(slot, length)
    first_slot = episode * length
    return replay(
        "fading",
        (config, episode),
        position,
        first=lambda: _gauss_markov(None, _innovations(config, first_slot), rho),
        after=lambda before, index: _gauss_markov(before[-1], _innovations(config, first_slot + index), rho),
    )


def _innovations(config: Config, slot: int) -> ComplexArray:
    """(B, M, K, L) CN(0, 1), all independent."""
    run, radio = config.run, config.radio
    shape = (run.blocks_per_slot, radio.num_aps, radio.num_ues, radio.antennas)
    return complex_normal(generator(config.seed, Purpose.FADING, slot), shape)


def _gauss_markov(before: ComplexArray | None, innovations: ComplexArray, rho: float) -> ComplexArray:
    """(B, M, K, L) the blocks that follow on block `before`, or on nothing."""
    blocks = innovations.copy()
    for index, fresh in enumerate(innovations):
        if before is not None:
            blocks[index] = rho * before + math.sqrt(1 - rho**2) * fresh
        before = blocks[index]
    blocks.flags.writeable = False  # it is remembered
    return blocks


def received_pilots(config: Config, layout: Layout, h: ComplexArray, slot: int) -> ComplexArray:
    """What every AP hears while the UEs send their pilots: Y = sqrt(rho_p) sum_k h_k phi_k^T + N, eq. (3).

    Args:
        config: pilot power and noise.
        layout: who sends which pilot.
        h: (B, M, K, L) [sqrt power gain].
        slot: keys the noise.

    Returns:
        (B, M, L, tau_p) [sqrt W]
    """
    radio = config.radio
    sent = math.sqrt(radio.pilot_power_w) * pilot_book(radio.pilot_length)[layout.pilots]  # (K, tau_p)
    blocks, num_aps, _, antennas = h.shape
    rng = generator(config.seed, Purpose.PILOT_NOISE, slot)
    noise = complex_normal(rng, (blocks, num_aps, antennas, radio.pilot_length))
    return h.swapaxes(-1, -2) @ sent + math.sqrt(radio.noise_power_w) * noise
