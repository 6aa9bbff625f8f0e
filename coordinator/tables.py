"""The tables of a run, as functions of its record: one row per slot, AP and slot, UE and slot, or link and slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.agent.prospects import LEVEL_NAMES
from apnode.protocol.messages import NOBODY
from coordinator.record import Record

Table = dict[str, NDArray[Any]]


def slots(record: Record, index: NDArray[np.intp] | None = None) -> Table:
    """One row per slot, or per slot of `index`: rates, SINR, links, and what cooperation cost."""
    index = np.arange(len(record.closed)) if index is None else index
    counts = [_links(record, at) for at in index]
    return {
        "slot": index,
        "episode": record.episode[index],
        "sum_rate_bps_hz": sum_rate(record.sinr[index]),
        "sum_rate_alone_bps_hz": sum_rate(record.sinr_alone[index]),
        "sinr_mean_db": decibels(record.sinr[index]).mean(axis=(1, 2)),
        "sinr_mean_alone_db": decibels(record.sinr_alone[index]).mean(axis=(1, 2)),
        "sinr_p5_db": np.percentile(decibels(record.sinr[index]), 5, axis=(1, 2)),
        "sinr_p5_alone_db": np.percentile(decibels(record.sinr_alone[index]), 5, axis=(1, 2)),
        "requests": record.requested[index].sum(axis=(1, 2)),
        "candidates": (record.neighbours[index] != NOBODY).sum(axis=(1, 2)),
        "formed": np.array([count.formed for count in counts]),
        "pairs": record.pairs[index],
        "union_asked": np.array([count.union for count in counts]),
        "union_candidates": np.array([count.candidates for count in counts]),
        "disagreements": np.array([count.disagreements for count in counts]),
        "largest_cluster": record.cluster_size[index].max(axis=1),
        "clusters_refused": clusters_refused(record, record.cluster_size[index]),
        "messages": record.fronthaul[index, :, 0].sum(axis=1),
        "bytes": record.fronthaul[index, :, 1].sum(axis=1),
        "aps_silent": record.silent[index].sum(axis=1),
    }


def aps(record: Record) -> Table:
    """Exactly one row per AP and slot. Status: `ok`, `down` (no report) or `stale` (reported, transmitted too late)."""
    num_slots, num_aps = record.reported.shape
    status = np.where(record.reported, np.where(record.silent, "stale", "ok"), "down")
    suspects = np.zeros(record.reported.shape, np.int64)
    for at, of_ap in record.suspects.items():
        suspects[at] = len(of_ap)
    columns = {
        "slot": np.repeat(np.arange(num_slots), num_aps),
        "ap": np.tile(np.arange(num_aps), num_slots),
        "status": status.ravel(),
        "neighbours": (record.neighbours != NOBODY).sum(axis=2).ravel(),
        "requests": record.requested.sum(axis=2).ravel(),
        "partners": record.linked.sum(axis=2).ravel(),
        "cluster_size": record.cluster_size.ravel(),
        "suspects": suspects.ravel(),
    }
    for index, name in enumerate(("gain", "reward", "loss", "epsilon")):
        columns[name] = record.floats[..., index].ravel()
    return {
        **columns,
        "messages": record.fronthaul[..., 0].ravel(),
        "bytes": record.fronthaul[..., 1].ravel(),
        "dropped": record.dropped.ravel(),
    }


def ues(record: Record) -> Table:
    """One row per UE and slot: mean over the blocks of SINR in dB and of rate."""
    num_slots, _, num_ues = record.sinr.shape
    return {
        "slot": np.repeat(np.arange(num_slots), num_ues),
        "ue": np.tile(np.arange(num_ues), num_slots),
        "sinr_db": decibels(record.sinr).mean(axis=1).ravel(),
        "sinr_alone_db": decibels(record.sinr_alone).mean(axis=1).ravel(),
        "rate_bps_hz": np.log2(1 + record.sinr).mean(axis=1).ravel(),
        "rate_alone_bps_hz": np.log2(1 + record.sinr_alone).mean(axis=1).ravel(),
    }


def links(record: Record) -> Table:
    """One row per slot, AP and neighbour: whether the AP asked it, and precoded with its channels."""
    slot, ap, position = np.nonzero(record.neighbours != NOBODY)
    return {
        "slot": slot.astype(np.uint32),
        "ap": ap.astype(np.uint16),
        "neighbour": record.neighbours[slot, ap, position],
        "asked": record.requested[slot, ap, position],
        "linked": record.linked[slot, ap, position],
    }


def beliefs(record: Record) -> Table:
    """One row per episode and AP that told its neighbours of itself: means and standard deviations of its levels."""
    episode, ap = np.nonzero(~np.isnan(record.beliefs[:, :, 0, 0]))
    (mean, variance), slots = record.beliefs[episode, ap].transpose(1, 2, 0), record.config.run.slots_per_episode
    columns = {"slot": episode * slots, "ap": ap, **dict(zip(LEVEL_NAMES, mean, strict=True))}
    return columns | {f"{name}_sd": np.sqrt(of_all) for name, of_all in zip(LEVEL_NAMES, variance, strict=True)}


def clusters_refused(record: Record, size: NDArray[np.int64]) -> NDArray[np.int64]:
    """(slots,) number of clusters larger than `max_cluster_aps`, whose APs precoded alone.

    `size` is the (slots, M) cluster size that each AP reported; a cluster of s APs is reported s times.
    """
    cooperation = record.config.cooperation
    too_large = (size > cooperation.max_cluster_aps) & (cooperation.cluster == "components")
    clusters = np.where(too_large, 1 / np.maximum(size, 1), 0).sum(axis=1)
    return np.asarray(np.ceil(clusters - 1e-9), np.int64)  # rounded up where a report is missing


def decibels(ratio: NDArray[Any]) -> NDArray[Any]:
    """A power ratio [dB], at least -120: finite for a UE that receives nothing."""
    level: NDArray[Any] = 10 * np.log10(np.maximum(ratio, 1e-12))
    return level


def sum_rate(sinr: NDArray[Any]) -> NDArray[Any]:
    """(slots,) sum over UEs of the mean over blocks of log2(1 + SINR) [bit/s/Hz]."""
    rate: NDArray[Any] = np.log2(1 + sinr).mean(axis=1).sum(axis=1)
    return rate


@dataclass(frozen=True)
class Links:
    """Undirected AP pairs of one slot."""

    formed: int  # pairs that precoded together
    union: int  # pairs in which either AP asked
    candidates: int  # pairs in which either AP could ask
    disagreements: int  # pairs of which only one AP counts the other as a partner


def _links(record: Record, at: int) -> Links:
    """Count the links between neighbours. In a transitive cluster only agreed links count."""
    num_aps = record.reported.shape[1]
    asked, linked = _matrix(record, record.requested[at], at), _matrix(record, record.linked[at], at)
    candidate = _matrix(record, record.neighbours[at] != NOBODY, at)
    both, either, eligible = linked & linked.T, linked | linked.T, candidate & candidate.T
    upper = np.triu(np.ones((num_aps, num_aps), bool), 1)
    cooperation = record.config.cooperation
    directed = cooperation.cluster == "directed"
    agreed = both & asked & asked.T if cooperation.is_transitive else both
    return Links(
        formed=int(((either if directed else agreed) & upper).sum()),
        union=int(((asked | asked.T) & upper).sum()),
        candidates=int(((candidate | candidate.T) & upper).sum()),
        disagreements=0 if directed else int(((both != either) & eligible & upper).sum()),
    )


def _matrix(record: Record, flags: NDArray[Any], at: int) -> NDArray[Any]:
    """(M, M) matrix over pairs of APs, from flags (M, cap) over the neighbours in a slot."""
    num_aps = record.reported.shape[1]
    matrix = np.zeros((num_aps, num_aps), bool)
    ap, position = np.nonzero(flags)
    matrix[ap, record.neighbours[at, ap, position]] = True
    return matrix
