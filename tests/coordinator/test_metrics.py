"""What a real scrape of a real run returns."""

import socket
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from coordinator.local import LocalNetwork
from coordinator.metrics import serve
from coordinator.presets import load


def test_a_scrape_shows_the_newest_complete_slot_of_a_run() -> None:
    config = load("demo", ("radio.num_aps=5", "radio.num_ues=3", "run.episodes=1", "cooperation.policy=random"))
    network = LocalNetwork(config)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve(network.coordinator, port)
    network.run()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        families = {family.name: family for family in text_string_to_metric_families(response.read().decode())}
    row = network.coordinator.latest()
    assert row is not None
    value = {name: family.samples[0].value for name, family in families.items()}
    assert value["cfmimo_slot"] == row["slot"] == config.num_slots - 2
    assert value["cfmimo_sum_rate_bps_hz"] == row["sum_rate_bps_hz"]
    links = {sample.labels["unit"]: sample.value for sample in families["cfmimo_links"].samples}
    assert links == {unit: row[unit] for unit in ("requests", "formed", "pairs")}
    assert len(families["cfmimo_ap_up"].samples) == 5
    sent = {s.labels["type"]: s.value for s in families["cfmimo_messages"].samples if s.name.endswith("_total")}
    assert sent["Transmission"] == 5 * config.num_slots
