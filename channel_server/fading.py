"""Small-scale fading, and what APs hear of the pilots: pure functions of (seed, slot)."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from apnode.config import Config
from apnode.protocol.messages import ComplexArray, FloatArray
from apnode.protocol.rng import Purpose, generator
from apnode.radio.csi import pilot_book
from channel_server.geometry import ue_speeds
from channel_server.recorded import recorded
from channel_server.topology import Layout

SPEED_OF_LIGHT_M_S = 299_792_458.0
_WAVES = 16  # of a link
_ANGLES = 1024  # at which J0 is integrated, exactly for arguments up to 1000


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
    found = None if file is None else file.h_of(slot, config.run.slots_per_episode)
    if found is not None:
        return np.broadcast_to(found, (config.run.blocks_per_slot, *found.shape[1:])).copy()
    g = small_scale_fading(config, slot)
    if layout.array_root is not None:
        g = (layout.array_root @ g[..., None])[..., 0]
    return np.sqrt(layout.beta)[..., None] * g


def small_scale_fading(config: Config, slot: int) -> ComplexArray:
    """The g of a slot: redrawn every block, or moving with time by Clarke's model.

    Time starts anew with every episode, unless UEs drive on from one to the next.

    UE k drives at speed v_k through N waves that come in from all around:
    g_mkl(t) = N^(-1/2) sum_n a_mkln exp(j 2 pi f_k t cos alpha_mkn), a ~ CN(0, 1), with f_k = v_k f_c / c. Hence every
    block is CN(0, 1), and two blocks tau apart are correlated by J0(2 pi f_k tau): Clarke, "A statistical theory of
    mobile-radio reception", 1968. Nothing needs to be remembered from one slot to the next.

    Returns:
        (B, M, K, L), a function of (seed, slot).
    """
    run, radio = config.run, config.radio
    if not config.propagation.block_ms:
        shape = (run.blocks_per_slot, radio.num_aps, radio.num_ues, radio.antennas)
        return complex_normal(generator(config.seed, Purpose.FADING, slot), shape)
    episode, position = divmod(slot, run.slots_per_episode)
    if radio.ue_mobility == "drive":  # time goes on
        episode, position = 0, slot
    amplitudes, turn = _waves(config, episode)
    block = position * run.blocks_per_slot + np.arange(run.blocks_per_slot)
    phases = np.exp(1j * block[:, None, None, None] * turn)  # (B, M, K, N)
    return np.asarray((phases[..., None, :] @ amplitudes)[..., 0, :])


@lru_cache(maxsize=1)
def _waves(config: Config, episode: int) -> tuple[ComplexArray, FloatArray]:
    """(M, K, N, L) amplitudes of an episode's waves; (M, K, N) how far each turns from block to block [rad].

    The waves of a link come in at equal angles apart, all turned by one random angle.
    """
    radio, propagation = config.radio, config.propagation
    rng = generator(config.seed, Purpose.SCATTERERS, episode)
    amplitudes = complex_normal(rng, (radio.num_aps, radio.num_ues, _WAVES, radio.antennas)) / math.sqrt(_WAVES)
    angles = 2 * np.pi * (np.arange(_WAVES) + rng.random((radio.num_aps, radio.num_ues, 1))) / _WAVES
    turns = 2 * np.pi * doppler(config, episode) * propagation.block_ms / 1000
    return amplitudes, turns[:, None] * np.cos(angles)


def doppler(config: Config, episode: int) -> FloatArray:
    """(K,) largest Doppler shift of every UE, v f_c / c [Hz]."""
    return ue_speeds(config, episode) / 3.6 * config.propagation.carrier_hz / SPEED_OF_LIGHT_M_S


def late_change(config: Config, episode: int) -> FloatArray:
    """(K,) the part of the power of every UE's channels that is another one when the latest AP's estimates are used.

    1 - J0(2 pi f tau)^2, with tau the longest fronthaul delay.
    """
    blocks = max(blocks for _, blocks in config.impairments.fronthaul_blocks)
    turn = 2 * np.pi * doppler(config, episode) * blocks * config.propagation.block_ms / 1000
    angles = np.pi * (np.arange(_ANGLES) + 0.5) / _ANGLES
    return np.asarray(1 - np.cos(turn[:, None] * np.cos(angles)).mean(axis=1) ** 2)


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
