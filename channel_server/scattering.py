"""Spatial correlation of the fading over an AP's antennas: Gaussian local scattering around the UE."""

from __future__ import annotations

import numpy as np

from apnode.protocol.messages import ComplexArray, FloatArray


def array_correlation(offset: FloatArray, height: float, spread_deg: float, antennas: int) -> ComplexArray:
    """R / beta of every link: Gaussian local scattering at a horizontal half-wavelength array.

    [R]_ln = beta E exp(j pi (l - n) sin(phi + delta) cos(theta)), delta ~ N(0, spread^2): "Massive MIMO networks"
    (2.23) and, with the elevation theta, the cell-free book (2.18). Scatterers spread in azimuth only; the
    arrays of all APs lie along the y axis, so phi is counted from the x axis.

    Args:
        offset: (M, K, 2) from AP to UE [m].
        height: of APs above UEs [m].
        spread_deg: standard deviation of delta [degrees].
        antennas: L.

    Returns:
        (M, K, L, L) Hermitian, positive semidefinite, with 1 on the diagonal.
    """
    ground = np.hypot(offset[..., 0], offset[..., 1])
    azimuth = np.arctan2(offset[..., 1], offset[..., 0])
    flat = ground / np.maximum(np.hypot(ground, height), np.finfo(float).tiny)  # cos(theta)
    delta, weights = _scatterers(np.deg2rad(spread_deg), antennas)
    direction = np.sin(azimuth[..., None] + delta) * flat[..., None]  # (M, K, scatterers)
    lags = np.stack([np.exp(1j * np.pi * lag * direction) @ weights for lag in range(antennas)], axis=-1)
    row, column = np.indices((antennas, antennas))
    apart = row - column
    return np.asarray(np.where(apart >= 0, lags[..., np.abs(apart)], lags[..., np.abs(apart)].conj()))


def _scatterers(spread: float, antennas: int) -> tuple[FloatArray, FloatArray]:
    """Azimuths [rad] and weights that stand for N(0, spread^2): evenly spaced, so fine that no lag aliases."""
    step = min(spread / 4, 1 / antennas)
    reach = np.ceil(6 * spread / step)
    delta = step * np.arange(-reach, reach + 1)
    weights = np.exp(-((delta / spread) ** 2) / 2)
    return delta, weights / weights.sum()


def roots(correlation: ComplexArray) -> ComplexArray:
    """R^(1/2) of matrices that may be singular: the Hermitian one.

    Args:
        correlation: (..., L, L) Hermitian, positive semidefinite up to rounding.

    Returns:
        (..., L, L), whose square is the argument.
    """
    values, vectors = np.linalg.eigh(correlation)
    scaled = vectors * np.sqrt(np.maximum(values, 0))[..., None, :]
    return np.asarray(scaled @ vectors.conj().swapaxes(-1, -2))
