"""Where APs and UEs are, how UEs walk, and how far things are apart."""

from __future__ import annotations

import numpy as np

from apnode.config import Config
from apnode.config.network import Radio
from apnode.protocol.messages import FloatArray
from apnode.protocol.rng import Purpose, generator


def period(radio: Radio) -> float | None:
    """Period of the torus that the square is, or None for a plane [m]."""
    return radio.area_m if radio.wrap_around else None


def ap_positions(config: Config) -> FloatArray:
    """(M, 2) [m], uniform over the square, fixed for the run."""
    radio = config.radio
    return generator(config.hardware_seed, Purpose.AP_POSITIONS).uniform(0, radio.area_m, (radio.num_aps, 2))


def ue_positions(config: Config, episode: int) -> FloatArray:
    """Where the UEs are in an episode: drawn anew, or walked on from the first one's places.

    A walking UE goes `step_m` straight in a random direction between two episodes. On a torus it leaves by one
    border and enters by the opposite one; otherwise borders reflect it.

    Returns:
        (K, 2) [m], uniform over the square, a function of (seed, episode).
    """
    radio = config.radio
    if radio.ue_mobility == "redraw":
        return _uniform_positions(config, episode)
    # the headings of an episode are the first rows of every later one's
    heading = generator(config.seed, Purpose.WALK).uniform(0, 2 * np.pi, (episode, radio.num_ues))
    walked = radio.step_m * np.stack([np.cos(heading), np.sin(heading)], axis=-1).sum(axis=0)
    unbounded = _uniform_positions(config, 0) + walked
    if radio.wrap_around:
        return np.asarray(unbounded % radio.area_m)
    return np.asarray(radio.area_m - np.abs(unbounded % (2 * radio.area_m) - radio.area_m))  # mirror images


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
