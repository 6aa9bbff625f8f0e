"""What reaches the UEs: SINR, rates and interference, of the precoders really radiated over the true channels."""

from __future__ import annotations

import numpy as np

from apnode.protocol.fields import MAX_MAGNITUDE
from apnode.protocol.messages import ComplexArray, FloatArray, IntArray
from channel_server.topology import BoolArray


def sinr(h: ComplexArray, w: ComplexArray, noise_power: float, serving: BoolArray | None = None) -> FloatArray:
    """Instantaneous SINR, seed paper eq. (9): each stream superposes coherently over the APs that send it.

    SINR_k = |sum_m h_mk^H w_mk|^2 / (sum_{j != k} |sum_m h_mk^H w_mj|^2 + noise)

    Args:
        h: (B, M, K, L) true channels [sqrt power gain].
        w: (..., B, M, K, L) precoder of AP m for UE k, 0 where it does not serve it [sqrt W]; several sets of
            precoders over the same channels take little longer than one.
        noise_power: sigma^2 [W].
        serving: (M, K) D, outside of which w is 0; without it, where w differs from 0.

    Returns:
        (..., B, K) linear.
    """
    return sinr_of(received(h, w, serving), noise_power)


def received(h: ComplexArray, w: ComplexArray, serving: BoolArray | None = None) -> ComplexArray:
    """Effective channels, sum_m h_mk^H w_mj at UE k of stream j, from just the APs that send the stream.

    Args:
        h: (B, M, K, L) true channels [sqrt power gain].
        w: (..., B, M, K, L) precoders, as for `sinr` [sqrt W].
        serving: as for `sinr`.

    Returns:
        (..., B, K, K) [sqrt W].
    """
    blocks, _, num_ues, _ = h.shape
    sets = w.reshape(-1, *h.shape)
    sends = np.asarray(sets.any(axis=(0, 1, 4))) if serving is None else serving
    effective = np.empty((len(sets), blocks, num_ues, num_ues), complex)
    for ue in range(num_ues):
        aps = np.flatnonzero(sends[:, ue])
        channel = h[:, aps].swapaxes(1, 2).reshape(blocks, num_ues, -1)  # (B, k, C L)
        beams = sets[:, :, aps, ue].conj().reshape(len(sets), blocks, -1)  # (S, B, C L)
        effective[..., ue] = (beams.swapaxes(0, 1) @ channel.swapaxes(1, 2)).swapaxes(0, 1)
    return effective.conj().reshape(*w.shape[:-3], num_ues, num_ues)


def sinr_of(effective: ComplexArray, noise_power: float) -> FloatArray:
    """(..., B, K) SINR (9) from effective channels (..., B, K, K), linear, at most what a frame can hold."""
    power = np.abs(effective) ** 2
    wanted = np.diagonal(power, axis1=-2, axis2=-1)
    ratio: FloatArray = wanted / (power.sum(axis=-1) - wanted + noise_power)
    return np.minimum(ratio, MAX_MAGNITUDE)


def hardening_sinr(gain: ComplexArray, ratio: FloatArray) -> FloatArray:
    """SINR of the hardening ("use and forget") bound, for UEs that know the mean of their effective gain only.

    |E g_k|^2 / (E sum_j |g_kj|^2 - |E g_k|^2 + noise): "Foundations of user-centric cell-free massive MIMO",
    theorem 6.1. The square of the mean over few blocks is too large by their variance, which is taken off.

    Args:
        gain: (N, K) effective gain g_k of the own stream in N blocks of one layout, N >= 2 [sqrt W].
        ratio: (N, K) instantaneous SINR in the same blocks, linear.

    Returns:
        (K,) linear; nan if there is one block only, as the spread of its gain is unknown.
    """
    if len(gain) < 2:
        return np.full(gain.shape[1], np.nan)
    power = np.abs(gain.astype(complex)) ** 2
    reached = ratio > 0  # a UE that got nothing in a block tells nothing of its interference there
    disturbance = np.divide(power, ratio, out=np.zeros_like(power), where=reached)
    disturbance = disturbance.sum(axis=0) / np.maximum(reached.sum(axis=0), 1)
    mean = np.abs(gain.mean(axis=0, dtype=complex)) ** 2
    known = np.maximum(mean - (power.mean(axis=0) - mean) / (len(gain) - 1), 0)
    total = power.mean(axis=0) - known + disturbance
    bound: FloatArray = np.divide(known, total, out=np.zeros_like(known), where=total > 0)
    return bound


def spectral_efficiency(sinr_of: FloatArray) -> FloatArray:
    """log2(1 + SINR), without pre-log [bit/s/Hz]."""
    return np.log2(1 + sinr_of)


def received_interference(h: ComplexArray, w: ComplexArray, serving: BoolArray, counts: str) -> FloatArray:
    """What each UE suffers from each AP, the summand of seed paper eq. (7), mean over the blocks.

    Args:
        h: (B, M, K, L) true channels [sqrt power gain].
        w: (B, M, K, L) precoders [sqrt W].
        serving: (M, K) D.
        counts: `other-streams` leaves out the UE's own stream, `literal` counts all, `non-serving` counts only
            APs that do not serve the UE.

    Returns:
        (M, K) power at UE k of AP n's streams [W].
    """
    packed, ue_of = _streams(w, serving)
    power = (np.abs(h @ packed.conj().swapaxes(-1, -2)) ** 2).mean(axis=0)  # (M, K, S) at UE k of AP n's stream s
    if counts == "other-streams":
        power = np.where(ue_of[:, None, :] == np.arange(h.shape[2])[:, None], 0, power)
    total = power.sum(axis=2)
    return np.where(serving, 0, total) if counts == "non-serving" else total


def _streams(w: ComplexArray, serving: BoolArray) -> tuple[ComplexArray, IntArray]:
    """The streams each AP sends, without the empty ones: (B, M, S, L) and the (M, S) UEs they are for, -1 pads."""
    order = np.argsort(~serving, axis=1, kind="stable")[:, : max(int(serving.sum(axis=1).max()), 1)]
    valid = np.take_along_axis(serving, order, axis=1)
    packed = np.take_along_axis(w, order[None, :, :, None], axis=2)
    return packed * valid[None, :, :, None], np.where(valid, order, -1)
