"""What is around an AP, as far as it has been told, and the fading that it draws to think ahead."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apnode.config import Config
from apnode.config.network import Radio
from apnode.protocol.messages import Association, ComplexArray, FloatArray, IntArray
from apnode.protocol.rng import Purpose, generator
from apnode.radio.csi import error_variance
from apnode.radio.power import power_split

BoolArray = NDArray[np.bool_]
_BLOCKS = 8  # of simulated fading


@dataclass(frozen=True, init=False)
class Surroundings:
    """An AP, in row 0, and its neighbours, with all UEs in reach of any."""

    aps: tuple[int, ...]
    beta: FloatArray  # (1 + N, U), 0 out of reach [power gain]
    serves: BoolArray  # (1 + N, U) whether an AP serves a UE
    rho: FloatArray  # (1 + N, U) what it spends on it [W]
    pilots: IntArray  # (U,)
    ids: IntArray  # (U,) of the UEs
    reach: IntArray  # (R,) columns of the UEs in reach of the AP itself

    def __init__(self, ap: int, association: Association, radio: Radio) -> None:
        ids = np.union1d(association.reach, association.around).astype(np.int64)
        rows = len(association.neighbours) + 1
        own, others = np.searchsorted(ids, association.reach), np.searchsorted(ids, association.around)
        beta, serves, pilots = np.zeros((rows, len(ids))), np.zeros((rows, len(ids)), bool), np.zeros(len(ids), int)
        beta[0, own], pilots[own] = association.beta.astype(np.float32), association.pilots  # as neighbours are told
        beta[1:, others], pilots[others] = association.neighbour_beta, association.around_pilots
        serves[0, np.searchsorted(ids, association.ues)] = True
        serves[1:, others] = association.neighbour_serves
        rho = np.zeros(beta.shape)
        for row, served in enumerate(serves):
            rho[row, served] = power_split(beta[row, served], radio)
        values = {"beta": beta, "serves": serves, "rho": rho, "pilots": pilots, "ids": ids, "reach": own}
        for name, value in {"aps": (ap, *association.neighbours), **values}.items():
            object.__setattr__(self, name, value)

    def served(self, row: int) -> list[int]:
        """Columns of the UEs that an AP serves."""
        return np.flatnonzero(self.serves[row]).tolist()

    def of_all(self, values: FloatArray) -> FloatArray:
        """(U,) what the AP knows (R,) of UEs in its own reach; of the others the mean of these."""
        of_all = np.full(len(self.ids), values.mean() if len(values) else 1.0)
        of_all[self.reach] = values
        return of_all

    def common(self, one: int, other: int) -> int:
        """UEs that two APs both serve."""
        return int((self.serves[one] & self.serves[other]).sum())


def drawn(
    config: Config, beta: FloatArray, pilots: IntArray, key: int
) -> tuple[ComplexArray, ComplexArray, FloatArray]:
    """Channels (B, C, L, U), estimates, and (C,) what these do not tell, relative to the power.

    The draws are the same for whoever makes them for the same key.

    Args:
        config: gives the seed of draws and the radio.
        beta: (C, U) of some APs and UEs [power gain].
        pilots: (U,) of the UEs.
        key: of the draws.
    """
    radio, noise = config.radio, config.radio.noise_power_w
    rng = generator(config.seed, Purpose.FORECAST, key)
    shape = (_BLOCKS, len(beta), radio.antennas)
    h = gaussian(rng, *shape, len(pilots)) * np.sqrt(beta)[:, None]
    same = (pilots[:, None] == pilots).astype(float)
    energy = radio.pilot_power_w * radio.pilot_length
    heard = math.sqrt(energy) * h @ same + math.sqrt(noise) * gaussian(rng, *shape, radio.pilot_length)[..., pilots]
    h_hat = heard * (math.sqrt(energy) * beta / (energy * beta @ same + noise))[:, None]
    errors = [error_variance(row, pilots, radio.pilot_power_w, radio.pilot_length, noise).sum() for row in beta]
    return h, h_hat, np.array(errors) + noise / radio.ap_power_w


def gaussian(rng: np.random.Generator, *shape: int) -> ComplexArray:
    """CN(0, 1) of a shape."""
    parts = rng.standard_normal((2, *shape)) / math.sqrt(2)
    return np.asarray(parts[0] + 1j * parts[1])


def residual(config: Config) -> float:
    """What a UE is left with as interference and noise where APs cooperate [W]."""
    return float(10 ** (config.cooperation.residual_db / 10) * config.radio.noise_power_w)
