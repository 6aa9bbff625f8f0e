"""Downlink precoders, from the estimates an AP has: alone (MRT) and jointly with its partners (RZF)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apnode.config import Radio
from apnode.messages import ComplexArray, FloatArray

_WIRE_ROUNDING = 1 - 2.0**-23  # shrinks amplitudes so that rounding to complex64 never exceeds the power


def mrt(h_hat: ComplexArray) -> ComplexArray:
    """Maximum ratio transmission, seed paper eq. (18): beam along the estimate.

    Args:
        h_hat: (..., L, K) estimates [sqrt power gain].

    Returns:
        (..., L, K) precoders, not normalised.
    """
    return h_hat


def rzf(h_hat: ComplexArray, alpha: float) -> ComplexArray:
    """Joint regularised zero-forcing, W = H (H^H H + alpha I)^-1: seed paper eq. (16), shaped so that it exists.

    Args:
        h_hat: (..., C L, K) estimates of the cluster's C APs, stacked in AP order [sqrt power gain].
        alpha: regularisation, > 0, in units of the mean of diag(H^H H).

    Returns:
        (..., C L, K) column k is UE k's precoder, not normalised.

    Raises:
        ValueError: if alpha is not positive.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, not {alpha}")
    hermitian = h_hat.conj().swapaxes(-1, -2)
    gram = hermitian @ h_hat  # (..., K, K)
    num_ues = gram.shape[-1]
    load = alpha * np.trace(gram, axis1=-2, axis2=-1).real / num_ues
    load = np.where(load > 0, load, 1)  # no channel at all: no precoder, instead of no solution
    loaded = gram + load[..., None, None] * np.eye(num_ues)
    return np.asarray(np.linalg.solve(loaded, hermitian).conj().swapaxes(-1, -2), complex)


def stack_cluster(
    own: ComplexArray, own_ues: Sequence[int], blocks: Sequence[tuple[Sequence[int], ComplexArray]]
) -> tuple[ComplexArray, list[int]]:
    """The channel matrix H of a cluster, as its first AP knows it.

    What a partner did not tell (its channels to a third AP's UEs) counts as 0.

    Args:
        own: (B, L, K) own estimates, of all UEs [sqrt power gain].
        own_ues: whom this AP serves.
        blocks: of each partner, its UEs and its (B, L, len(ues)) estimates.

    Returns:
        (B, C L, K_C) H, own rows first, and the K_C UEs of its columns.
    """
    ues = sorted({*own_ues, *(ue for block_ues, _ in blocks for ue in block_ues)})
    column = {ue: index for index, ue in enumerate(ues)}
    rows = [own[..., ues]]
    for block_ues, h_hat in blocks:
        row = np.zeros_like(rows[0])
        row[..., [column[ue] for ue in block_ues]] = h_hat
        rows.append(row)
    return np.concatenate(rows, axis=1), ues


def normalised_blocks(w: ComplexArray, rho: FloatArray) -> ComplexArray:
    """One AP's block of each precoder, scaled to its power: seed paper eq. (17).

    Scaling each AP's block alone bends the joint nulls; it is what the paper does.

    Args:
        w: (..., L, K) this AP's rows of the precoders.
        rho: (K,) power per UE [W].

    Returns:
        (..., L, K) with squared column norms rho, 0 where the block is 0 [sqrt W].
    """
    norm = np.linalg.norm(w, axis=-2, keepdims=True)
    direction: ComplexArray = w / np.where(norm > 0, norm, 1)
    return direction * (np.sqrt(rho) * _WIRE_ROUNDING)


def power_split(beta: FloatArray, radio: Radio) -> FloatArray:
    """An AP's power over the UEs that it serves: the same for each, or rho_k in proportion to sqrt(beta_k).

    The latter is the fractional rule of the cell-free book with exponent 1/2.

    Args:
        beta: (|K_m|,) of the UEs that the AP serves [power gain].
        radio: gives the power and the rule.

    Returns:
        (|K_m|,) rho, in sum the AP's power [W].
    """
    share = np.sqrt(beta) if radio.power_split == "sqrt-beta" else np.ones(len(beta))
    if not share.any():
        share = np.ones(len(beta))  # no channel at all: any split will do
    return np.asarray(radio.ap_power_w * share / share.sum())
