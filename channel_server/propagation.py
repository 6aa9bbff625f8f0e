"""Large-scale fading."""

from __future__ import annotations

import numpy as np

from apnode.config import Propagation
from apnode.messages import FloatArray


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


def large_scale_fading(distance: FloatArray, propagation: Propagation, rng: np.random.Generator) -> FloatArray:
    """Beta of every link: path gain at the slant distance, times log-normal shadowing, independent over links.

    Args:
        distance: (M, K) horizontal [m].
        propagation: model parameters.
        rng: draws the shadowing.

    Returns:
        (M, K) beta [power gain].
    """
    slant = np.hypot(distance, propagation.height_m)
    shadowing = propagation.shadowing_db * rng.standard_normal(distance.shape)
    return np.asarray(10 ** ((three_slope_db(slant, propagation) + shadowing) / 10))
