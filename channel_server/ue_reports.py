"""What UEs report of interference to the APs that serve them: each the strongest few APs, as a receiver can measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from apnode.protocol.messages import (
    HEARD_STREAM,
    LEAST_LEVEL,
    LEVELS_PER_DB,
    MOST_STREAMS,
    NOBODY,
    SILENT,
    ComplexArray,
    FloatArray,
    IntArray,
    Transmission,
)
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
    h: ComplexArray, serving: BoolArray, partners: Sequence[Sequence[int]], count: int
) -> tuple[IntArray, FloatArray]:
    """What every UE measures of the partners of each AP that serves it, by their reference signals: the strongest few.

    Args:
        h: (M, K, L) true channels of one coherence block [sqrt power gain].
        serving: (M, K) D.
        partners: of each AP; numbers of no AP are ignored.
        count: R, how many a report names.

    Returns:
        a row for each of the P pairs of an AP and its UE, as above: (P, W) the partners, strongest first, NOBODY where
        an AP has fewer, W <= R; and (P, W, L) |h|^2 from each antenna, 0 of nobody [power gain].
    """
    known = [[partner for partner in own if partner < len(h)] for own in partners]
    of_ap = np.full((len(known), max(map(len, known), default=0)), NOBODY)
    for row, own in zip(of_ap, known, strict=True):
        row[: len(own)] = own
    ap_of, ue_of = np.nonzero(serving)
    named = of_ap[ap_of]
    gain = np.abs(h[np.where(named == NOBODY, 0, named), ue_of[:, None]]) ** 2  # (P, all partners, L)
    gain[named == NOBODY] = 0
    total = np.where(named == NOBODY, -1, gain.sum(axis=2))
    order = np.argsort(-total, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(named, order, axis=1), np.take_along_axis(gain, order[..., None], axis=1)


def service_of(aps_of: IntArray, masters: IntArray, sent: Mapping[int, Transmission]) -> tuple[IntArray, IntArray]:
    """What every UE reports of its APs: which of them precode together for it, and who is to transmit to it.

    Args:
        aps_of: (K, A) the APs that serve every UE, in order, NOBODY pads.
        masters: (K,) the strongest of them.
        sent: what was heard in the slot, by AP.

    Returns:
        (K, A) and (K,) as group and chosen in SlotFeedback.
    """
    group, chosen = np.full(aps_of.shape, SILENT), np.zeros(len(aps_of), np.int64)
    for ue, (row, master) in enumerate(zip(aps_of.tolist(), masters.tolist(), strict=True)):
        heard = 0
        for place, ap in enumerate(row):
            if ap in sent:
                first = int(sent[ap].group[sent[ap].ues.index(ue)])
                group[ue, place] = row.index(first) if first in row else place
                heard |= 1 << place
        if master in sent:
            told = int(sent[master].chosen[sent[master].ues.index(ue)])
            chosen[ue] = told if told & heard else 0
    return group, chosen


def stream_levels(effective: ComplexArray, noise_power: float) -> IntArray:
    """The streams that every UE hears, by their precoded reference signals, as it reports them: the strongest few.

    A UE measures received power as the linear average over what it has heard (RSRP, 3GPP TS 38.215), and tells it in
    steps of 1 / LEVELS_PER_DB.

    Args:
        effective: (B, K, K) at UE j of stream k in every block [sqrt W].
        noise_power: sigma^2 [W].

    Returns:
        (K, K) at UE j of stream k, power over noise in steps of 0.5 dB; 0 where the UE does not report it.
    """
    power = (np.abs(effective) ** 2).mean(axis=0) / noise_power
    level = 10 * LEVELS_PER_DB * np.log10(np.maximum(power, np.finfo(float).tiny))
    weaker = np.argsort(-level, axis=1, kind="stable")[:, MOST_STREAMS:]
    np.put_along_axis(level, weaker, 0, axis=1)
    return np.where(level < LEAST_LEVEL, 0, np.minimum(np.rint(level), 255)).astype(np.uint8)


def report_bytes(levels: IntArray) -> IntArray:
    """(K,) bytes that each UE's report takes on the air, of the levels (K, K) that `stream_levels` gives.

    A byte for the number of streams, then HEARD_STREAM for each: up to 256 reference signals can be told apart.
    """
    return np.asarray(1 + HEARD_STREAM.itemsize * (levels > 0).sum(axis=1))
