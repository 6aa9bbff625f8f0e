"""What a real scrape of a real run returns."""

import json
import subprocess
from collections import Counter
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from apnode.agent.prospects import LEVEL_NAMES
from cfmimo.presets import load
from cfmimo.runtime.fault_plan import FaultPlan, Faults, resolve
from cfmimo.runtime.local import LocalNetwork
from coordinator.collector import Coordinator
from coordinator.tables import ues
from coordinator.watch.live import LiveMap, Seen
from coordinator.watch.metrics import RunMetrics
from coordinator.watch.stopwatch import Stopwatch
from coordinator.watch.tensorboard import scalars
from tests.coordinator.examples import ap_report, config, slot_report

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
    text = RunMetrics(lambda: network.coordinator).text().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


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


def test_a_scrape_counts_the_checkpoints_that_could_not_be_written_the_last_one_included(tmp_path: Path) -> None:
    full = {"slot": 0, "target": "ap/2", "action": "disk_full", "args": {"slots": 1000}}
    config = load("demo", (*SMALL, "run.checkpoint_every_slots=5"))
    faults = resolve(FaultPlan.model_validate({"faults": [full]}), config)
    network = LocalNetwork(config, faults=faults, folder=tmp_path)
    network.run()
    failures = by("ap", scrape(network)["cfmimo_checkpoint_failures"])
    assert failures == {"0": 0, "1": 0, "2": config.num_slots / 5, "3": 0, "4": 0}


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


def test_a_scrape_describes_the_run_before_its_first_slot_closes() -> None:
    network = LocalNetwork(load("demo", SMALL, seed=4))
    families = scrape(network)
    value = {name: family.samples[0].value for name, family in families.items()}
    planned = {"cfmimo_aps": 5, "cfmimo_ues": 3, "cfmimo_slots": 20, "cfmimo_run_info": 1}
    assert {name: value[name] for name in planned} == planned
    assert families["cfmimo_run_info"].samples[0].labels == {
        "policy": "random", "cluster": "ego", "acceptance": "mutual", "seed": "4"
    }  # fmt: skip
    assert "cfmimo_sum_rate_bps_hz" not in families


def test_the_sinr_histogram_is_that_of_all_slots_so_far() -> None:
    network = LocalNetwork(load("demo", SMALL))
    network.run()
    level = 10 * np.log10(network.coordinator.record.sinr)
    samples = scrape(network)["cfmimo_sinr_db"].samples
    upto = {sample.labels["le"]: sample.value for sample in samples if sample.name.endswith("_bucket")}
    assert upto.pop("+Inf") == level.size
    assert upto == {f"{bound:.1f}": (level <= bound).sum() for bound in range(-10, 45, 5)}


def test_what_the_coordinator_waits_for_and_who_is_away_shows() -> None:
    config = load("demo", SMALL)
    plan = FaultPlan.model_validate(
        {"faults": [{"slot": 12, "target": "ap/2", "action": "kill", "args": {"slots": 5}}]}
    )
    network = LocalNetwork(config, faults=resolve(plan, config))
    seen = []
    for _ in network.frames():
        if not seen and network.coordinator.newest == 14:
            seen.append(scrape(network))
    (down,), over = seen, scrape(network)
    assert by("ap", down["cfmimo_ap_downtime_slots"]) == {"0": 0, "1": 0, "2": 3, "3": 0, "4": 0}
    assert down["cfmimo_reports_pending"].samples[0].value == 4  # of the slot that has just closed
    assert set(by("ap", over["cfmimo_ap_downtime_slots"]).values()) == {0}
    assert over["cfmimo_reports_pending"].samples[0].value == 0
    row = network.coordinator.latest()
    assert row is not None
    assert over["cfmimo_request_rate"].samples[0].value == row["requests"] / row["candidates"]


def test_a_scrape_tells_what_aps_believe_of_themselves() -> None:
    network = LocalNetwork(
        load("hidden", (*SMALL[:2], "radio.area_m=250", "run.episodes=2", "run.slots_per_episode=3"))
    )
    network.run()
    told = by("level", scrape(network)["cfmimo_ap_believes"], ap="3")
    own = dict(zip(LEVEL_NAMES, network.coordinator.record.beliefs[1, 3, 0].tolist(), strict=True))
    assert told == pytest.approx(own)
    assert own.keys() == {"incoherence", "staleness", "wrongness"}
    *_, shown = LiveMap(lambda: network.coordinator).news(Seen())
    assert json.loads(shown)["slot"]["aps"][3]["believes"] == pytest.approx([*own.values()])
    plain = LocalNetwork(load("demo", SMALL))
    plain.run()
    assert "cfmimo_ap_believes" not in scrape(plain)


def test_four_hundred_aps_have_at_most_5000_series() -> None:
    config = load("demo", ("radio.num_aps=400", "run.episodes=1", "run.slots_per_episode=3", *SMALL[3:]))
    network = LocalNetwork(config)
    network.run()
    network.coordinator.record.suspects[1, 0] = tuple(range(1, 400))  # the worst case: nobody believes anybody
    families = scrape(network)
    assert len(families["cfmimo_ap_flagged"].samples) == 399
    assert 4000 < sum(len(family.samples) for family in families.values()) <= 5000


@pytest.mark.skipif(which("promtool") is None, reason="promtool (Debian package prometheus) is not there")
def test_promtool_finds_nothing_to_complain_about(
    afflicted: tuple[LocalNetwork, dict[str, Metric]], tmp_path: Path
) -> None:
    network, _ = afflicted
    stopwatch = Stopwatch()
    stopwatch.see(0)
    stopwatch.see(2)
    text = RunMetrics(lambda: network.coordinator, stopwatch).text()
    assert b"cfmimo_slot_seconds_count 2.0" in text
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)  # noqa: S607
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_an_update_that_was_skipped_enters_no_mean_and_the_map_averages_sinr_as_the_tables_do() -> None:
    coordinator = Coordinator(config())
    for slot in range(2):
        coordinator.handle(slot_report(slot, sinr=[[3, 1], [15, 7]]))
        for ap in range(4):
            coordinator.handle(ap_report(slot, ap, **({"loss": -1.0} if ap == 2 else {})))
    families = {family.name: family for family in RunMetrics(lambda: coordinator).collect()}
    assert by("ap", families["cfmimo_ap_loss"]) == {"0": 0.125, "1": 0.125, "3": 0.125}
    assert scalars(coordinator.record, np.arange(2))["learning/loss"].tolist() == [0.125, 0.125]
    _, slot_text = LiveMap(lambda: coordinator).news(Seen())
    assert json.loads(slot_text)["slot"]["ue"] == pytest.approx(ues(coordinator.record)["sinr_db"][:2], abs=0.06)
