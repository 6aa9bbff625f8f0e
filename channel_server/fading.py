"""Small-scale fading, and what APs hear of the pilots: pure functions of (seed, slot)."""

from __future__ import annotations

import math

import numpy as np

from apnode.config import Config
from apnode.csi import pilot_book
from apnode.messages import ComplexArray
from apnode.rng import Purpose, generator
from channel_server.topology import Layout


def complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> ComplexArray:
    """CN(0, 1) of the given shape."""
    parts = rng.standard_normal((*shape, 2))
    return parts.view(np.complex128)[..., 0] * math.sqrt(0.5)


def channels(config: Config, layout: Layout, slot: int) -> ComplexArray:
    """Channels of a slot, h = sqrt(beta) g with g ~ CN(0, I_L): seed paper eq. (1), redrawn every block.

    Returns:
        (B, M, K, L) [sqrt power gain]
    """
    run, radio = config.run, config.radio
    shape = (run.blocks_per_slot, radio.num_aps, radio.num_ues, radio.antennas)
    g = complex_normal(generator(config.seed, Purpose.FADING, slot), shape)
    return np.sqrt(layout.beta)[..., None] * g


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
