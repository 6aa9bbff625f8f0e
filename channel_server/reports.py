"""What UEs report of interference to the APs that serve them: each the strongest few APs, as a receiver can measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apnode.messages import NOBODY, ComplexArray, FloatArray, IntArray
from channel_server.propagation import BoolArray


def strongest_interferers(
    suffered: FloatArray, serving: BoolArray, partners: Sequence[Sequence[int]], count: int
) -> tuple[IntArray, FloatArray]:
    """The report of every UE to every AP that serves it: the strongest APs that are neither that AP nor its partners.

    Each UE looks through its APs once, for enough of them to be left whomever an AP leaves out.

    Args:
        suffered: (M, K) power at UE k of AP n's streams [W].
        serving: (M, K) D.
        partners: of each AP; numbers of no AP are ignored.
        count: R, how many a report names.

    Returns:
        (P, min(R, M)) twice, a row for each of the P pairs of an AP and its UE, in the order of np.nonzero(serving):
        the APs, strongest first, NOBODY where there is no more power, and the power of each [W].
    """
    num_aps = len(suffered)
    left_out = np.eye(num_aps, dtype=bool)
    for ap, own in enumerate(partners):
        left_out[ap, [partner for partner in own if partner < num_aps]] = True
    enough = min(count + int(left_out.sum(axis=1).max()), num_aps)
    loudest = np.argpartition(suffered, num_aps - enough, axis=0)[num_aps - enough :]  # (enough, K)
    loudest.sort(axis=0)  # so that the first comes first among equals
    ap_of, ue_of = np.nonzero(serving)
    heard = loudest.T[ue_of]  # (P, enough)
    power = np.where(left_out[ap_of[:, None], heard], 0, suffered[heard, ue_of[:, None]])
    order = np.argsort(-power, axis=1, kind="stable")[:, :count]
    reported = np.take_along_axis(power, order, axis=1)
    return np.where(reported > 0, np.take_along_axis(heard, order, axis=1), NOBODY), reported


def partner_gains(
    h: ComplexArray, ues: Sequence[int], partners: Sequence[int], count: int
) -> tuple[IntArray, FloatArray]:
    """What an AP's UEs measure of its partners by their reference signals: each the strongest few of them.

    Args:
        h: (M, K, L) true channels of one coherence block [sqrt power gain].
        ues: K_m, of the AP.
        partners: whom it named; numbers of no AP are ignored.
        count: R, how many a report names.

    Returns:
        (|K_m|, P) the partners, strongest first, P <= R, and (|K_m|, P, L) |h|^2 from each antenna [power gain].
    """
    known = np.array([partner for partner in partners if partner < len(h)], int)
    gain = np.abs(h[known][:, list(ues)].swapaxes(0, 1)) ** 2  # (|K_m|, all partners, L)
    order = np.argsort(-gain.sum(axis=2), axis=1, kind="stable")[:, :count]
    return known[order], np.take_along_axis(gain, order[..., None], axis=1)
