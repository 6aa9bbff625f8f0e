"""Shadowing: standard normal per link, independent over APs, over UEs and their ways correlated by distance."""

from __future__ import annotations

import numpy as np

from apnode.config import Config
from apnode.protocol.messages import FloatArray
from apnode.protocol.rng import Purpose, generator
from channel_server.geometry import distances, period, steps_m, ue_positions
from channel_server.replayed import replay


def correlation(separation: FloatArray, halving: float) -> FloatArray:
    """Correlation of the shadowing at two places, 2^(-d / d_corr): cell-free book (5.43).

    Args:
        separation: of the places [m], any shape.
        halving: d_corr > 0 [m].

    Returns:
        Of the same shape, 1 where the places coincide.
    """
    return np.asarray(2.0 ** (-separation / halving))


def correlate(independent: FloatArray, separation: FloatArray, halving: float) -> FloatArray:
    """Make the shadowing of each AP's links correlated over the UEs.

    The root of the K x K correlation matrix is its symmetric one, with eigenvalues below 0 cut off: it exists
    where Cholesky's does not, when UEs coincide, or on a torus that is small against d_corr (where the
    formula is not quite a correlation; rows are then scaled back to unit variance).

    Args:
        independent: (M, K) N(0, 1).
        separation: (K, K) distances between UEs [m].
        halving: d_corr [m]; 0 leaves them independent.

    Returns:
        (M, K) N(0, 1), rows independent.
    """
    if not halving:
        return independent
    values, vectors = np.linalg.eigh(correlation(separation, halving))
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    root /= np.linalg.norm(root, axis=1, keepdims=True)
    return np.asarray(independent @ root.T)


def link_field(config: Config, purpose: Purpose, episode: int) -> FloatArray:
    """What shadows (or hides, with `Purpose.LINE_OF_SIGHT`) every link in an episode.

    Drawn anew each episode, unless UEs move on and there is a distance of correlation: then a UE's field is correlated
    with its own last one by 2^(-step / d_corr).

    Returns:
        (M, K) N(0, 1), a function of (seed, purpose, episode).
    """
    radio, halving = config.radio, config.propagation.shadowing_correlation_m
    if radio.ue_mobility == "redraw" or not halving:
        return _drawn(config, purpose, episode)
    kept = correlation(steps_m(config), halving)  # (K,)
    return replay(
        f"link field {purpose}",
        config,
        episode,
        first=lambda: _drawn(config, purpose, 0),
        after=lambda last, index: kept * last + np.sqrt(1 - kept**2) * _drawn(config, purpose, index),
    )


def _drawn(config: Config, purpose: Purpose, episode: int) -> FloatArray:
    """(M, K) N(0, 1), correlated over the UEs, independent of other episodes."""
    radio, halving = config.radio, config.propagation.shadowing_correlation_m
    independent = generator(config.seed, purpose, episode).standard_normal((radio.num_aps, radio.num_ues))
    ue_xy = ue_positions(config, episode)
    return correlate(independent, distances(ue_xy, ue_xy, period(radio)), halving)
