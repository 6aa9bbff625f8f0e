"""The summary of a run, against examples that a person can check."""

import numpy as np
import pytest

from apnode.protocol.messages import (
    KINDS,
    ChannelBlock,
    CoopRequest,
    GainReport,
    PilotBlock,
    SlotReport,
)
from cfmimo.presets import load
from coordinator import tables
from coordinator.record import Record
from coordinator.summary import summarise
from tests.coordinator.examples import DIRECTED, TINY, ap_report, clustered, config, filled, slot_report


def test_refused_components_are_counted_and_a_sentence_says_so() -> None:
    record = clustered("cooperation.cluster=components", "cooperation.max_cluster_aps=2", sizes=(3, 3, 3, 1))
    assert tables.slots(record)["clusters_refused"].tolist() == [1, 0]
    summary = summarise(record)
    assert (summary["largest_cluster"], summary["clusters_refused"]) == (3, 1)
    (note,) = summary["cluster_notes"]
    for text in ("components: a cluster of 3 APs in slot 0", "max_cluster_aps = 2", "1 of 2 slots", "fewer links"):
        assert text in note


@pytest.mark.parametrize(("sizes", "refused"), [((4, 4, 4, 4), 1), ((4, 4, 1, 4), 1), ((3, 3, 3, 3), 2), ((2,) * 4, 0)])
def test_a_refused_cluster_counts_once_even_if_a_report_is_missing(sizes: tuple[int, ...], refused: int) -> None:
    record = clustered("cooperation.cluster=components", "cooperation.max_cluster_aps=2", sizes=sizes)
    assert summarise(record)["clusters_refused"] == refused


@pytest.mark.parametrize("overrides", [(), DIRECTED])
def test_clusters_of_an_ap_and_its_partners_need_no_note(overrides: tuple[str, ...]) -> None:
    assert summarise(clustered(*overrides))["cluster_notes"] == []


def test_the_summary_is_the_mean_over_the_slots() -> None:
    summary = summarise(filled())
    db_3, db_15 = 10 * np.log10(3), 10 * np.log10(15)
    assert summary["slots"] == 2
    assert summary["sum_rate_bps_hz"] == pytest.approx((3 + 6) / 2)
    assert summary["sum_rate_net_bps_hz"] == pytest.approx((3 + 6) / 2 * (1 - 10 / 200))
    assert summary["sinr_mean_db"] == pytest.approx((2 * db_3 + 2 * db_3 + 2 * db_15) / 8)
    assert summary["links"] == {"requests": 2.0, "formed": 0.5, "pairs": 4.5}
    assert summary["request_rate"] == pytest.approx(4 / 18)
    assert summary["union_rate"] == pytest.approx(3 / 10)
    assert summary["messages_per_slot"] == 10
    assert summary["bytes_per_slot"] == 1320


def test_the_summary_compares_with_no_cooperation_in_the_same_slots() -> None:
    alone = summarise(filled())["no_cooperation"]
    assert alone["sum_rate_bps_hz"] == pytest.approx(2)
    assert alone["sinr_mean_db"] == alone["sinr_p5_db"] == 0
    assert alone["links"] == {"requests": 0, "formed": 0, "pairs": 4.5}
    assert alone["messages_per_slot"] == alone["bytes_per_slot"] == alone["request_rate"] == 0


def test_the_last_tenth_is_at_least_one_episode() -> None:
    last = summarise(filled())["last_tenth"]
    assert last["sum_rate_bps_hz"] == pytest.approx(6)
    assert last["links"] == {"requests": 0, "formed": 0, "pairs": 4}
    assert last["no_cooperation"]["sum_rate_bps_hz"] == pytest.approx(2)


def test_traffic_is_everything_everybody_sent() -> None:
    traffic = summarise(filled())["traffic"]
    assert set(traffic) == {kind.__name__ for kind in KINDS}
    assert traffic[CoopRequest.__name__] == {"messages": 2 * 6, "bytes": 2 * 120}
    assert traffic[ChannelBlock.__name__] == {"messages": 8, "bytes": 2400}
    assert traffic[PilotBlock.__name__] == {"messages": 56, "bytes": 56}
    assert traffic[SlotReport.__name__] == {"messages": 2, "bytes": 200}
    assert traffic[GainReport.__name__] == {"messages": 0, "bytes": 0}


def test_a_run_cut_short_is_summarised_over_the_slots_it_had() -> None:
    whole = summarise(filled("run.episodes=2"))
    short = summarise(filled("run.episodes=3"))
    for name in ("slots", "sum_rate_bps_hz", "links", "request_rate", "messages_per_slot", "bytes_per_slot"):
        assert short[name] == whole[name], name


def test_without_candidates_the_request_rate_is_zero() -> None:
    record = Record(config())
    for slot in range(2):
        record.add_slot(slot_report(slot))
        for ap in range(4):
            record.add_ap(ap_report(slot, ap, neighbours=(), requested=(), partners=()))
    assert summarise(record)["request_rate"] == summarise(record)["union_rate"] == 0


def test_the_hardening_bound_is_that_of_each_episode_and_none_from_a_single_block() -> None:
    """Slot 0 has gains that do not vary: the bound is the rate; slot 1 the same gains at SINRs of 2 and 4 bit."""
    record = Record(load("demo", TINY))
    record.add_slot(slot_report(0))
    record.add_slot(slot_report(1))
    summary = summarise(record)
    first, second = (Record(load("demo", TINY)) for _ in range(2))
    first.add_slot(slot_report(0))
    assert summarise(first)["sum_rate_hardening_bps_hz"] == pytest.approx(1 + 2)
    second.add_slot(slot_report(1))
    disturbance = (1 / 3 + 1 / 15) / 2  # of a stream of power 1
    assert summarise(second)["sum_rate_hardening_bps_hz"] == pytest.approx(2 * np.log2(1 + 1 / disturbance))
    both = [summarise(run)["sum_rate_hardening_bps_hz"] for run in (first, second)]
    assert summary["sum_rate_hardening_bps_hz"] == pytest.approx(np.mean(both))

    one_block = Record(load("demo", (*TINY, "run.blocks_per_slot=1")))
    one_block.add_slot(
        slot_report(0, **{name: np.ones((1, 2)) for name in ("sinr", "sinr_alone", "gain", "gain_alone")})
    )
    assert summarise(one_block)["sum_rate_hardening_bps_hz"] is None
