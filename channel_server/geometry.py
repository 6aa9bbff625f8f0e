"""Where APs and UEs are, how UEs move, and how far things are apart."""

from __future__ import annotations

import numpy as np

from apnode.config import Config
from apnode.config.network import Radio
from apnode.protocol.messages import FloatArray
from apnode.protocol.rng import Purpose, generator
from channel_server.impairments import drawn


def period(radio: Radio) -> float | None:
    """Period of the torus that the square is, or None for a plane [m]."""
    return radio.area_m if radio.wrap_around else None


def ap_positions(config: Config) -> FloatArray:
    """(M, 2) [m], uniform over the square, fixed for the run."""
    radio = config.radio
    return generator(config.hardware_seed, Purpose.AP_POSITIONS).uniform(0, radio.area_m, (radio.num_aps, 2))


def ue_positions(config: Config, episode: int) -> FloatArray:
    """Where the UEs are in an episode: drawn anew, or moved on from the first one's places.

    Between two episodes a UE that walks goes `steps_m` straight in a random direction, one that drives always in the
    same. On a torus it leaves by one border and enters by the opposite one; otherwise borders reflect it.

    Returns:
        (K, 2) [m], uniform over the square, a function of (seed, episode).
    """
    radio = config.radio
    if radio.ue_mobility == "redraw":
        return _uniform_positions(config, episode)
    # the headings of an episode are the first rows of every later one's
    turns = episode if radio.ue_mobility == "walk" else 1
    heading = generator(config.seed, Purpose.WALK).uniform(0, 2 * np.pi, (turns, radio.num_ues))
    directions = np.stack([np.cos(heading), np.sin(heading)], axis=-1).sum(axis=0)  # (K, 2)
    steps = 1 if radio.ue_mobility == "walk" else episode
    unbounded = _uniform_positions(config, 0) + steps * steps_m(config)[:, None] * directions
    if radio.wrap_around:
        return np.asarray(unbounded % radio.area_m)
    return np.asarray(radio.area_m - np.abs(unbounded % (2 * radio.area_m) - radio.area_m))  # mirror images


def steps_m(config: Config) -> FloatArray:
    """(K,) how far each UE that walks or drives goes between two episodes [m]."""
    radio, run = config.radio, config.run
    if radio.ue_mobility == "walk":
        return np.full(radio.num_ues, radio.ue_speed_m_s * radio.episode_s)
    episode_s = run.slots_per_episode * run.blocks_per_slot * config.propagation.block_ms / 1000
    return ue_speeds(config, 0) / 3.6 * episode_s


def ue_speeds(config: Config, episode: int) -> FloatArray:
    """(K,) [km/h], as the UEs that are drawn anew in an episode have them; UEs that walk or drive keep theirs."""
    index = (episode,) if config.radio.ue_mobility == "redraw" else ()
    return drawn(config.radio.ue_speeds_kmh, config.radio.num_ues, generator(config.seed, Purpose.SPEED, *index))


def _uniform_positions(config: Config, episode: int) -> FloatArray:
    radio = config.radio
    return generator(config.seed, Purpose.UE_POSITIONS, episode).uniform(0, radio.area_m, (radio.num_ues, 2))


def offsets(ap_xy: FloatArray, ue_xy: FloatArray, period: float | None) -> FloatArray:
    """(M, K, 2) from each AP to each UE [m], the shortest way on a torus of the given period, or on the plane."""
    offset = ue_xy[None, :, :] - ap_xy[:, None, :]
    return offset if period is None else (offset + period / 2) % period - period / 2


def distances(ap_xy: FloatArray, ue_xy: FloatArray, period: float | None) -> FloatArray:
    """(M, K) horizontal distances [m], on a torus of the given period, or on the plane if it is None."""
    offset = np.abs(ap_xy[:, None, :] - ue_xy[None, :, :])
    if period is not None:
        offset = np.minimum(offset, period - offset)
    return np.asarray(np.hypot(offset[..., 0], offset[..., 1]))
