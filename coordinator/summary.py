"""What summary.json says of a run, as functions of its record: means over slots, and counts of the whole run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.protocol.messages import KINDS
from channel_server.sinr import hardening_sinr
from coordinator import tables
from coordinator.record import Record

_COSTS = ("request_rate", "union_rate", "messages_per_slot", "bytes_per_slot")


def summarise(record: Record) -> dict[str, Any]:
    """Means over all closed slots and over the last tenth of the episodes, with and without cooperation; totals."""
    first_of_last = (record.config.run.episodes - max(1, record.config.run.episodes // 10)) * (
        record.config.run.slots_per_episode
    )
    closed = np.flatnonzero(record.closed)
    last = closed[closed >= first_of_last]
    status = tables.aps(record)["status"]
    return {
        "digest": record.digest(),
        "slots": len(closed),
        **_means(record, closed),
        "last_tenth": _means(record, last if len(last) else closed),
        "traffic": {
            kind.__name__: {"messages": int(record.traffic[0, tag]), "bytes": int(record.traffic[1, tag])}
            for tag, kind in enumerate(KINDS)
        },
        "rows": {state: int((status == state).sum()) for state in ("ok", "stale", "down")},
        "checkpoints_unsaved": int(record.unsaved.sum()),
        "updates_skipped": int((record.floats[..., 2] < 0).sum()),
        "largest_cluster": int(record.cluster_size.max()),
        "clusters_refused": int(tables.clusters_refused(record, record.cluster_size).sum()),
        "cluster_notes": cluster_notes(record),
    }


def cluster_notes(record: Record) -> list[str]:
    """Sentences for a person on the clusters that formed, where the config alone does not tell."""
    cooperation, largest = record.config.cooperation, int(record.cluster_size.max())
    refused = tables.clusters_refused(record, record.cluster_size)
    if cooperation.cluster != "components":
        return []
    if not refused.any():
        return [f"{cooperation.cluster}: the largest cluster had {largest} APs."]
    slot = record.cluster_size.max(axis=1).argmax()
    return [
        f"{cooperation.cluster}: a cluster of {largest} APs in slot {slot} exceeds cooperation.max_cluster_aps = "
        f"{cooperation.max_cluster_aps}; its APs precoded alone ({refused.sum()} such clusters in "
        f"{np.count_nonzero(refused)} of {record.closed.sum()} slots). Links percolate: use ego clusters, or "
        "fewer links."
    ]


def _means(record: Record, index: NDArray[np.intp]) -> dict[str, Any]:
    """Means over the slots of `index`, and, as `no_cooperation`, over the same slots without cooperation."""
    total = {name: column.sum() for name, column in tables.slots(record, index).items()}
    mean = {name: float(value / len(index)) for name, value in total.items()}
    no_links = {"requests": 0.0, "formed": 0.0, "pairs": mean["pairs"]}
    return {
        **_rates(record, index, record.sinr, record.gain),
        "power_w": {
            "mean_of_busiest_ap": float(record.power[index, :, 0].mean(axis=0).max()),
            "peak": float(record.power[index, :, 1].max()),
        },
        "links": {unit: mean[unit] for unit in no_links},
        "request_rate": float(total["requests"] / max(total["candidates"], 1)),
        "union_rate": float(total["union_asked"] / max(total["union_candidates"], 1)),
        "messages_per_slot": mean["messages"],
        "bytes_per_slot": mean["bytes"],
        "no_cooperation": {
            **_rates(record, index, record.sinr_alone, record.gain_alone),
            "links": no_links,
            **dict.fromkeys(_COSTS, 0.0),
        },
    }


def _rates(record: Record, index: NDArray[np.intp], sinr: NDArray[Any], gain: NDArray[Any]) -> dict[str, float | None]:
    radio, sum_rate = record.config.radio, float(np.mean(tables.sum_rate(sinr[index])))
    return {
        "sum_rate_bps_hz": sum_rate,
        "sum_rate_net_bps_hz": sum_rate * (1 - radio.pilot_length / radio.coherence_symbols),
        "sum_rate_hardening_bps_hz": _hardening(record, index, sinr, gain),
        "sinr_mean_db": float(np.mean(tables.decibels(sinr[index]))),
        "sinr_p5_db": float(np.percentile(tables.decibels(sinr[index]), 5)),
    }


def _hardening(record: Record, index: NDArray[np.intp], sinr: NDArray[Any], gain: NDArray[Any]) -> float | None:
    """Sum rate of the hardening bound, mean over the episodes in `index`; None if a slot has a single block."""
    episodes = [index[record.episode[index] == episode] for episode in np.unique(record.episode[index])]
    ues = sinr.shape[2]
    bounds = [hardening_sinr(gain[of].reshape(-1, ues), sinr[of].reshape(-1, ues)) for of in episodes]
    rate = float(np.log2(1 + np.array(bounds)).sum(axis=1).mean())
    return None if np.isnan(rate) else rate
