"""Prometheus metrics of a run: read from the coordinator's record at every scrape, never kept twice."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from apnode.messages import KINDS
from coordinator.collector import Coordinator

_PER_AP = (("reward", "Reward (12)"), ("loss", "TD error of the last update"), ("epsilon", "Chance to explore"))


class RunMetrics(Collector):
    """What a scrape sees: the newest slot whose reports are in, and the counts so far."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def collect(self) -> Iterator[Metric]:
        row, record = self._coordinator.latest(), self._coordinator.record
        if row is None:
            return
        at = row["slot"]
        yield GaugeMetricFamily("cfmimo_slot", "Newest complete slot", at)
        yield GaugeMetricFamily("cfmimo_sum_rate_bps_hz", "Sum rate", row["sum_rate_bps_hz"])
        yield GaugeMetricFamily("cfmimo_sum_rate_alone_bps_hz", "Had no AP cooperated", row["sum_rate_alone_bps_hz"])
        yield GaugeMetricFamily("cfmimo_sinr_mean_db", "Mean over UEs and blocks", row["sinr_mean_db"])
        yield GaugeMetricFamily("cfmimo_sinr_p5_db", "5th percentile over UEs and blocks", row["sinr_p5_db"])
        links = GaugeMetricFamily("cfmimo_links", "Links in three units", labels=["unit"])
        for unit in ("requests", "formed", "pairs"):
            links.add_metric([unit], row[unit])
        yield links
        for direction, name in enumerate(("messages", "bytes")):
            sent = CounterMetricFamily(
                f"cfmimo_{name}", f"{name.capitalize()} sent by APs and channel server", labels=["type"]
            )
            for tag, kind in enumerate(KINDS):
                sent.add_metric([kind.__name__], float(record.traffic[direction, tag]))
            yield sent
        up = GaugeMetricFamily("cfmimo_ap_up", "1 if the AP reported the slot", labels=["ap"])
        linked = GaugeMetricFamily("cfmimo_ap_links", "Partners of the AP", labels=["ap"])
        for ap in range(record.reported.shape[1]):
            up.add_metric([str(ap)], float(record.reported[at, ap]))
            linked.add_metric([str(ap)], float(record.linked[at, ap].sum()))
        yield from (up, linked)
        for index, (name, text) in enumerate(_PER_AP, start=1):
            family = GaugeMetricFamily(f"cfmimo_ap_{name}", text, labels=["ap"])
            for ap, value in enumerate(record.floats[at, :, index]):
                family.add_metric([str(ap)], float(value))
            yield family


def serve(coordinator: Coordinator, port: int) -> None:
    """Serve the metrics read-only on 127.0.0.1:port, from a thread that ends with the process."""
    registry = CollectorRegistry()
    registry.register(RunMetrics(coordinator))
    start_http_server(port, addr="127.0.0.1", registry=registry)
