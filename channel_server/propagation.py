"""Large-scale fading: path loss models, line of sight and shadowing, each a pure function of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apnode.config.network import Propagation
from apnode.config.own_policy import imported, is_own
from apnode.protocol.messages import FloatArray

BoolArray = NDArray[np.bool_]

_SPEED_OF_LIGHT = 3.0e8  # as TR 38.901 rounds it [m/s]
_GROUND_RANGE_3GPP_M = 10.0  # where table 7.4.1-1 begins; nearer UEs get the path loss of that distance


class _Table(NamedTuple):
    """The constants of one model in TR 38.901, tables 7.4.1-1 and 7.4.2-1."""

    seen_db: float  # with line of sight, up to the breakpoint: at 1 m and 1 GHz
    seen_slope_db: float  # per decade of distance
    far: float  # factor of the term that joins the slope of 40 dB beyond the breakpoint
    hidden_db: float  # without line of sight
    hidden_slope_db: float
    hidden_carrier_db: float  # per decade of carrier frequency
    ue_height_db: float  # per metre that a UE is above 1.5 m
    decay_m: float  # of the probability of line of sight
    shadowing_db: tuple[float, float]  # standard deviation with and without line of sight


_3GPP = {
    "3gpp-umi": _Table(32.4, 21, 9.5, 22.4, 35.3, 21.3, 0.3, 36, (4.0, 7.82)),  # street canyon
    "3gpp-uma": _Table(28.0, 22, 9.0, 13.54, 39.08, 20, 0.6, 63, (4.0, 6.0)),  # urban macrocell
}


# --- path gain --------------------------------------------------------------------------------------------


def three_slope_db(distance: FloatArray, propagation: Propagation) -> FloatArray:
    """Three-slope path loss of Ngo et al., "Cell-free massive MIMO versus small cells" (2017), eq. (52).

    Args:
        distance: AP to UE [m], any shape.
        propagation: loss at 1 km and the two corner distances.

    Returns:
        Path gain [dB], negative: slope 35 dB a decade beyond d1, 20 between d0 and d1, flat below d0.
    """
    d0, d1 = propagation.d0_m / 1000, propagation.d1_m / 1000  # the model counts in km
    beyond = np.maximum(distance / 1000, d1)
    between = np.clip(distance / 1000, d0, d1)
    gain: FloatArray = -propagation.reference_loss_db - 35 * np.log10(beyond) - 20 * np.log10(between / d1)
    return gain


def umi_db(distance: FloatArray) -> FloatArray:
    """Urban microcell at 2 GHz: -30.5 - 36.7 log10 d, Demir et al., "Foundations of user-centric cell-free", (5.42).

    Args:
        distance: AP to UE, slant [m], any shape; below 1 m it counts as 1 m.

    Returns:
        Path gain [dB], negative.
    """
    return -30.5 - 36.7 * np.log10(np.maximum(distance, 1))


def scalable_db(distance: FloatArray) -> FloatArray:
    """-35.3 - 37.6 log10 d: Björnson and Sanguinetti, "Scalable cell-free massive MIMO systems" (2020), section VI.

    Args:
        distance: AP to UE, slant [m], any shape; below 1 m it counts as 1 m.

    Returns:
        Path gain [dB], negative.
    """
    return -35.3 - 37.6 * np.log10(np.maximum(distance, 1))


def breakpoint_3gpp(propagation: Propagation) -> float:
    """d'_BP = 4 h'_BS h'_UT f / c of TR 38.901, table 7.4.1-1, note 1 [m].

    Effective heights h' are heights less h_E, the height of the environment: 1 m for UMi, and for UMa as well
    while UEs are not above 13 m, which `ue_height_m` sees to.
    """
    ue = propagation.ue_height_m - 1
    return 4 * (ue + propagation.height_m) * ue * propagation.carrier_hz / _SPEED_OF_LIGHT


def gain_3gpp_db(ground: FloatArray, propagation: Propagation, sight: BoolArray) -> FloatArray:
    """UMi street canyon or UMa of 3GPP TR 38.901, table 7.4.1-1.

    Args:
        ground: horizontal distance AP to UE [m], any shape; below 10 m it counts as 10 m.
        propagation: model, carrier and heights.
        sight: of the same shape, whether there is line of sight.

    Returns:
        Path gain [dB], negative.
    """
    table, corner = _3GPP[propagation.model], breakpoint_3gpp(propagation)
    slant = np.log10(np.hypot(np.maximum(ground, _GROUND_RANGE_3GPP_M), propagation.height_m))
    carrier = math.log10(propagation.carrier_hz / 1e9)  # the tables count in GHz
    near = table.seen_db + table.seen_slope_db * slant
    far = table.seen_db + 40 * slant - table.far * math.log10(corner**2 + propagation.height_m**2)
    seen = np.where(ground <= corner, near, far) + 20 * carrier
    hidden = table.hidden_db + table.hidden_slope_db * slant + table.hidden_carrier_db * carrier
    hidden -= table.ue_height_db * (propagation.ue_height_m - 1.5)
    return -np.where(sight, seen, np.maximum(seen, hidden))


def path_gain_db(ground: FloatArray, propagation: Propagation, sight: BoolArray) -> FloatArray:
    """Path gain of the chosen model.

    Args:
        ground: horizontal distance AP to UE [m], any shape.
        propagation: the model and its settings.
        sight: of the same shape, whether there is line of sight; only 3GPP's models ask.

    Returns:
        Path gain [dB].
    """
    slant = np.hypot(ground, propagation.height_m)
    match propagation.model:
        case "umi":
            return umi_db(slant)
        case "scalable":
            return scalable_db(slant)
        case "3gpp-umi" | "3gpp-uma":
            return gain_3gpp_db(ground, propagation, sight)
        case own if is_own(own):
            return -own_loss(own)(slant, propagation)
        case _:
            return three_slope_db(slant, propagation)


@lru_cache
def own_loss(name: str) -> Callable[[FloatArray, Propagation], FloatArray]:
    """The path loss that a user has written: from slant distances AP to UE [m], any shape, loss in each [dB].

    Raises:
        ValueError: says in a sentence why there is none.
    """
    found = imported(name, "path loss")
    if not callable(found):
        raise ValueError(f"path loss {name} cannot be imported: {name.replace(':', ' has no function ')}")

    def loss(distance: FloatArray, propagation: Propagation) -> FloatArray:
        said = np.asarray(found(distance.copy(), propagation))
        if said.shape != distance.shape or said.dtype.kind not in "fiu" or not np.isfinite(said).all():
            raise ValueError(f"path loss {name} returns no finite number for each of {distance.shape} distances")
        return said.astype(float)

    return loss


# --- line of sight ----------------------------------------------------------------------------------------


def sight_probability(ground: FloatArray, model: str) -> FloatArray:
    """Probability of line of sight: TR 38.901, table 7.4.2-1, for UEs not above 13 m (C' = 0).

    Args:
        ground: horizontal distance AP to UE [m], any shape.
        model: `3gpp-umi` or `3gpp-uma`.

    Returns:
        Probability, 1 up to 18 m.
    """
    near = 18 / np.maximum(ground, 18)
    return near + np.exp(-ground / _3GPP[model].decay_m) * (1 - near)


def line_of_sight(ground: FloatArray, propagation: Propagation, chance: FloatArray) -> BoolArray:
    """Which links see each other.

    Args:
        ground: horizontal distance AP to UE [m], any shape.
        propagation: the model.
        chance: of the same shape, N(0, 1): a link has line of sight where Phi(chance) is below its probability.

    Returns:
        Of the same shape.
    """
    below = 0.5 * np.vectorize(math.erfc)(-chance / math.sqrt(2))  # Phi, U(0, 1)
    return np.asarray(below < sight_probability(ground, propagation.model))


# --- all together -----------------------------------------------------------------------------------------


def large_scale_fading(
    ground: FloatArray, propagation: Propagation, shadowing: FloatArray, sight: BoolArray | None = None
) -> FloatArray:
    """Beta of every link: path gain times log-normal shadowing, at any distance, but never above 1.

    No link amplifies, where a model is used beyond its range or shadowing is in its far tail.
    (Ngo et al. leave links shorter than d1 unshadowed; the seed paper does not say.)

    Args:
        ground: (M, K) horizontal [m].
        propagation: the model and its settings.
        shadowing: (M, K) N(0, 1), to be scaled to the model's standard deviation.
        sight: (M, K) line of sight, which 3GPP's models ask for; everywhere if not given.

    Returns:
        (M, K) beta [power gain].
    """
    sight = np.ones(ground.shape, bool) if sight is None else sight
    table = _3GPP.get(propagation.model)
    seen, hidden = table.shadowing_db if table else (propagation.shadowing_db,) * 2
    shadowing_db = np.where(sight, seen, hidden) * shadowing
    gain_db = path_gain_db(ground, propagation, sight) + shadowing_db
    return np.asarray(10 ** (np.minimum(gain_db, 0) / 10))
