"""Prometheus metrics of a run: read from the coordinator's record at every scrape, never kept twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from apnode.agent.prospects import LEVEL_NAMES
from apnode.config import Config
from apnode.protocol.messages import KINDS
from apnode.protocol.node import DROPS
from coordinator.collector import Coordinator
from coordinator.record import SINR_BOUNDS_DB, Record
from coordinator.watch.stopwatch import BOUNDS_S, Stopwatch

CONTENT_TYPE = CONTENT_TYPE_LATEST

_PER_AP = (("reward", "Reward (12)"), ("loss", "TD error of the last update"), ("epsilon", "Probability of exploring"))


class RunMetrics(Collector):
    """A scrape reads the newest slot whose reports are in, and the counts so far."""

    def __init__(self, coordinator: Callable[[], Coordinator], stopwatch: Stopwatch | None = None) -> None:
        """Read from the present coordinator: it may have been replaced after a death.

        Args:
            coordinator: returns it.
            stopwatch: knows how long slots took; without it there is no `cfmimo_slot_seconds`.
        """
        self._coordinator, self._stopwatch = coordinator, stopwatch
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format (CONTENT_TYPE)."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Nothing ahead of a scrape."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        coordinator = self._coordinator()
        row, record = coordinator.latest(), coordinator.record
        yield from _planned(coordinator.config)
        yield from _distributions(coordinator, self._stopwatch)
        if row is None:
            return
        at = row["slot"]
        yield GaugeMetricFamily("cfmimo_slot", "Newest complete slot", at)
        yield GaugeMetricFamily("cfmimo_sum_rate_bps_hz", "Sum rate", row["sum_rate_bps_hz"])
        yield GaugeMetricFamily(
            "cfmimo_sum_rate_alone_bps_hz",
            "Sum rate without cooperation in the same slot",
            row["sum_rate_alone_bps_hz"],
        )
        yield GaugeMetricFamily("cfmimo_sinr_mean_db", "Mean SINR over UEs and blocks", row["sinr_mean_db"])
        yield GaugeMetricFamily("cfmimo_sinr_p5_db", "5th percentile of SINR over UEs and blocks", row["sinr_p5_db"])
        links = GaugeMetricFamily(
            "cfmimo_links", "Links: requests, links formed, pairs with a common UE", labels=["unit"]
        )
        for unit in ("requests", "formed", "pairs"):
            links.add_metric([unit], row[unit])
        yield links
        yield GaugeMetricFamily(
            "cfmimo_request_rate", "Requests over possible requests", row["requests"] / max(row["candidates"], 1)
        )
        yield from _traffic(coordinator)
        yield _of_aps("cfmimo_ap_up", "1 if the AP reported the slot", enumerate(record.reported[at]))
        yield _of_aps("cfmimo_ap_links", "Partners of the AP", enumerate(record.linked[at].sum(axis=1)))
        found, votes = record.flagged(at), record.suspicions(at).sum(axis=0)
        suspected = np.flatnonzero(votes).tolist()  # no series for APs without suspicion
        yield _of_aps(
            "cfmimo_ap_suspected", "Number of APs that suspect this AP", ((ap, votes[ap]) for ap in suspected)
        )
        text = "1 if at least half of its partners suspect the AP"
        yield _of_aps("cfmimo_ap_flagged", text, ((ap, ap in found) for ap in suspected))
        for index, (name, text) in enumerate(_PER_AP, start=1):
            values = enumerate(record.floats[at, :, index])
            told = ((ap, x) for ap, x in values if name != "loss" or x >= 0)  # a skipped update would enter a mean
            yield _of_aps(f"cfmimo_ap_{name}", text, told)
        yield from _believed(record, row["episode"])
        yield from _recovery(coordinator, at)


def _of_aps(
    name: str,
    text: str,
    values: Iterable[tuple[int, float]],
    family: type[CounterMetricFamily | GaugeMetricFamily] = GaugeMetricFamily,
) -> Metric:
    """A metric with a series for each AP that has a value."""
    metric = family(name, text, labels=["ap"])
    for ap, value in values:
        metric.add_metric([str(ap)], float(value))
    return metric


def _believed(record: Record, episode: int) -> Iterator[Metric]:
    """What APs have found out about their own defects, as they told it in an episode, where they find out any."""
    text = "How defective the AP believes it is, 0 to 1"
    metric = GaugeMetricFamily("cfmimo_ap_believes", text, labels=["ap", "level"])
    for ap, mean in enumerate(record.beliefs[episode, :, 0] if record.config.believes else ()):
        for name, value in zip(LEVEL_NAMES, mean, strict=True):
            if value >= 0:
                metric.add_metric([str(ap), name], value)
    if metric.samples:
        yield metric


def _planned(config: Config) -> Iterator[Metric]:
    """Metrics that stay constant during a run."""
    yield GaugeMetricFamily("cfmimo_aps", "Access points of the run", config.radio.num_aps)
    yield GaugeMetricFamily("cfmimo_ues", "Users of the run", config.radio.num_ues)
    yield GaugeMetricFamily("cfmimo_slots", "Planned slots of the run", config.num_slots)
    names = ("policy", "cluster", "acceptance")
    labels = {name: str(getattr(config.cooperation, name)) for name in names} | {"seed": str(config.seed)}
    yield InfoMetricFamily("cfmimo_run", "Policy, cluster, acceptance and seed of the run", labels)


def _distributions(coordinator: Coordinator, stopwatch: Stopwatch | None) -> Iterator[Metric]:
    text = "SINR over UEs and blocks of all slots so far [dB]; values may be negative, so there is no sum"
    yield _histogram("cfmimo_sinr_db", text, SINR_BOUNDS_DB, coordinator.record.sinr_counts, None)
    if stopwatch is not None:
        text = "Wall-clock time between the reports of two slots"
        yield _histogram("cfmimo_slot_seconds", text, BOUNDS_S, stopwatch.counts, stopwatch.seconds)


def _histogram(name: str, text: str, bounds: Iterable[float], counts: Iterable[int], total: float | None) -> Metric:
    """A histogram from `counts` up to each bound and above the last."""
    upto = np.cumsum(np.array(counts)).tolist()
    buckets = list(zip([*(str(float(bound)) for bound in bounds), "+Inf"], upto, strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=total)


def _traffic(coordinator: Coordinator) -> Iterator[Metric]:
    """Frames of all nodes and their outcome: sent = accepted + rejected + unknown."""
    record = coordinator.record
    traffic = record.traffic + coordinator.sent
    rejected = record.rejected + coordinator.dropped
    accepted = record.accepted + coordinator.accepted
    messages = CounterMetricFamily(
        "cfmimo_messages",
        "Frames by outcome: sent (by type), accepted, rejected (by reason)",
        labels=["type", "outcome", "reason"],
    )
    sizes = CounterMetricFamily("cfmimo_bytes", "Bytes sent", labels=["type"])
    for tag, kind in enumerate(KINDS):
        messages.add_metric([kind.__name__, "sent", ""], float(traffic[0, tag]))
        sizes.add_metric([kind.__name__], float(traffic[1, tag]))
    messages.add_metric(["", "accepted", ""], float(accepted))
    for reason, count in zip(DROPS, rejected, strict=True):
        messages.add_metric(["", "rejected", reason], float(count))
    yield from (messages, sizes)
    yield GaugeMetricFamily(
        "cfmimo_messages_unknown",
        "Frames unaccounted for: sent, but neither accepted nor rejected in any report",
        float(traffic[0].sum() - accepted - rejected.sum()),
    )


def _recovery(coordinator: Coordinator, newest: int) -> Iterator[Metric]:
    """Deaths, restarts and faults up to the newest slot."""
    record = coordinator.record
    text = "Consecutive slots that the AP has missed, up to the newest"
    yield _of_aps("cfmimo_ap_downtime_slots", text, enumerate(record.downtime))
    yield GaugeMetricFamily(
        "cfmimo_reports_pending",
        "Missing reports of APs on closed slots in which the AP took part",
        record.pending,
    )
    comebacks = Counter(comeback["ap"] for comeback in record.comebacks)
    aps = range(record.reported.shape[1])
    yield _of_aps("cfmimo_ap_restarts", "Restarts of the AP", ((ap, comebacks[ap]) for ap in aps), CounterMetricFamily)
    ages = enumerate(np.maximum(newest + 1 - record.newest_checkpoint, 0))
    yield _of_aps("cfmimo_checkpoint_age_slots", "Slots since the newest checkpoint of the AP", ages)
    text = "Checkpoints of the AP that could not be written"
    yield _of_aps("cfmimo_checkpoint_failures", text, enumerate(record.unsaved), CounterMetricFamily)
    text = "1 if the AP is given up: its restart budget is spent"
    yield _of_aps("cfmimo_ap_given_up", text, ((ap, ap in coordinator.given_up) for ap in aps))
    faults = CounterMetricFamily("cfmimo_faults", "Planned faults that fired", labels=["kind"])
    for kind, count in sorted(Counter(fault["action"] for fault in record.fired).items()):
        faults.add_metric([kind], count)
    yield faults
    yield CounterMetricFamily("cfmimo_slots_missed", "Slots missed, summed over APs", float(record.silent.sum()))
