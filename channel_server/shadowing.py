"""Shadowing: standard normal per link, independent over APs, over UEs independent or correlated by distance."""

from __future__ import annotations

import numpy as np

from apnode.messages import FloatArray


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
