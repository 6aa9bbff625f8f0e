"""What a real scrape of a real run returns."""

import socket
import urllib.request
from collections import Counter

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from coordinator.collector import Coordinator
from coordinator.faults import FaultPlan, Faults, resolve
from coordinator.local import LocalNetwork
from coordinator.metrics import RunMetrics, serve
from coordinator.presets import load

SMALL = ("radio.num_aps=5", "radio.num_ues=3", "run.episodes=1", "cooperation.policy=random")
KILLS = FaultPlan.model_validate(
    {
        "faults": [
            {"slot": 7, "target": "ap/1", "action": "kill"},
            {"slot": 9, "target": "ap/3", "action": "kill", "args": {"slots": 2}},
            {"slot": 14, "target": "ap/1", "action": "kill"},
            {"slot": 8, "target": "ap/0", "action": "corrupt_checkpoint"},
        ],
        "links": [{"corruption": 0.05, "loss": 0.05}],
    }
)


def scrape(network: LocalNetwork) -> dict[str, Metric]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve(lambda: network.coordinator, port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return {family.name: family for family in text_string_to_metric_families(response.read().decode())}


def by(label: str, family: Metric, **labels: str) -> Counter[str]:
    """Sums of a family's samples by one label, of those that bear the others."""
    sums = Counter[str]()
    for sample in family.samples:
        if labels.items() <= sample.labels.items():
            sums[sample.labels[label]] += sample.value
    return sums


def test_a_scrape_shows_the_newest_complete_slot_of_a_run() -> None:
    config = load("demo", SMALL)
    network = LocalNetwork(config)
    network.run()
    families = scrape(network)
    row = network.coordinator.latest()
    assert row is not None
    value = {name: family.samples[0].value for name, family in families.items() if family.samples}
    assert value["cfmimo_slot"] == row["slot"] == config.num_slots - 2
    assert value["cfmimo_sum_rate_bps_hz"] == row["sum_rate_bps_hz"]
    links = {sample.labels["unit"]: sample.value for sample in families["cfmimo_links"].samples}
    assert links == {unit: row[unit] for unit in ("requests", "formed", "pairs")}
    assert len(families["cfmimo_ap_up"].samples) == 5
    sent = by("type", families["cfmimo_messages"], outcome="sent")
    assert sent["Transmission"] == 5 * config.num_slots
    assert families["cfmimo_faults"].samples == []
    assert families["cfmimo_slots_missed"].samples[0].value == 0


@pytest.fixture(scope="module")
def afflicted(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalNetwork, dict[str, Metric]]:
    """A run with kills, and noise on the links between APs, and what a scrape says at its end."""
    config = load("demo", (*SMALL, "run.checkpoint_every_slots=5"))
    network = LocalNetwork(config, faults=resolve(KILLS, config), folder=tmp_path_factory.mktemp("run"))
    network.run()
    return network, scrape(network)


def test_a_scrape_tells_who_died_and_what_a_death_would_cost_now(
    afflicted: tuple[LocalNetwork, dict[str, Metric]],
) -> None:
    network, families = afflicted
    assert by("kind", families["cfmimo_faults"]) == {"kill": 3, "corrupt_checkpoint": 1}
    assert by("ap", families["cfmimo_ap_restarts"]) == {"0": 0, "1": 2, "2": 0, "3": 1, "4": 0}
    assert families["cfmimo_slots_missed"].samples[0].value == network.coordinator.record.silent.sum() >= 3 + 2 + 3
    assert set(by("ap", families["cfmimo_ap_given_up"]).values()) == {0}
    age = by("ap", families["cfmimo_checkpoint_age_slots"])
    assert age == {"0": 4, "1": 14, "2": 4, "3": 4, "4": 4}  # in slot 18; at its boundaries 10 and 15, AP 1 was down


def test_what_was_sent_was_accepted_or_rejected_or_is_unknown(
    afflicted: tuple[LocalNetwork, dict[str, Metric]],
) -> None:
    network, families = afflicted
    outcomes = by("outcome", families["cfmimo_messages"])
    (unknown,) = (sample.value for sample in families["cfmimo_messages_unknown"].samples)
    assert outcomes["sent"] == outcomes["accepted"] + outcomes["rejected"] + unknown
    reasons = by("reason", families["cfmimo_messages"], outcome="rejected")
    assert reasons["checksum"] > 0
    assert sum(reasons.values()) == outcomes["rejected"]
    ledger = network.ledger  # which knows also what those who died did not live to tell
    untold = ledger.accepted.total() - outcomes["accepted"]
    assert 0 <= untold < 0.1 * ledger.accepted.total()
    assert ledger.rejected.total() >= outcomes["rejected"] > 0


def test_without_faults_next_to_nothing_is_unknown() -> None:
    network = LocalNetwork(load("demo", SMALL))
    network.run()
    coordinator = network.coordinator
    families = {family.name: family for family in RunMetrics(lambda: coordinator).collect()}
    (unknown,) = (sample.value for sample in families["cfmimo_messages_unknown"].samples)
    last_slot = by("outcome", families["cfmimo_messages"])["sent"] / 20
    assert abs(unknown) <= last_slot  # whose counts no report tells any more


def test_an_alert_can_be_had_for_who_is_given_up() -> None:
    network = LocalNetwork(load("demo", SMALL), faults=Faults())
    network.run()
    network.coordinator.given_up.add(2)
    assert by("ap", scrape(network)["cfmimo_ap_given_up"]) == {"0": 0, "1": 0, "2": 1, "3": 0, "4": 0}


def test_six_hundred_aps_have_at_most_5000_series() -> None:
    coordinator = Coordinator(load("demo", ("radio.num_aps=600", "run.episodes=1", "run.slots_per_episode=2")))
    coordinator.newest = 1
    assert sum(len(family.samples) for family in RunMetrics(lambda: coordinator).collect()) <= 5000
