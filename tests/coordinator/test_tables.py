"""The tables of a run, against examples that a person can check."""

import numpy as np
import pytest

from apnode.protocol.messages import (
    ApReport,
    SlotReport,
)
from coordinator import tables
from coordinator.record import Record
from coordinator.summary import summarise
from tests.coordinator.examples import (
    DIRECTED,
    NEIGHBOURS,
    PARTNERS,
    REQUESTED,
    ap_report,
    clustered,
    config,
    filled,
    slot_report,
    with_change,
)

# --- slots -------------------------------------------------------------------------------------------------


def test_rates_are_summed_over_ues_and_averaged_over_blocks() -> None:
    table = tables.slots(filled())
    np.testing.assert_allclose(table["sum_rate_bps_hz"], [1 + 2, 3 + 3])
    np.testing.assert_allclose(table["sum_rate_alone_bps_hz"], [2, 2])


def test_sinr_is_averaged_in_decibels() -> None:
    table = tables.slots(filled())
    db_3, db_15 = 10 * np.log10(3), 10 * np.log10(15)
    np.testing.assert_allclose(table["sinr_mean_db"], [db_3 / 2, (db_3 + db_15) / 2])
    np.testing.assert_allclose(table["sinr_p5_db"], [0, db_3])
    np.testing.assert_allclose(table["sinr_mean_alone_db"], [0, 0])


def test_links_of_an_ego_cluster_need_both_ends() -> None:
    """0 and 1 agree; 0 believes in a link with 2, which does not; 3 asks 2 in vain."""
    table = tables.slots(filled())
    assert table["requests"].tolist() == [4, 0]
    assert table["candidates"].tolist() == [9, 9]
    assert table["formed"].tolist() == [1, 0]
    assert table["disagreements"].tolist() == [1, 0]
    assert table["union_asked"].tolist() == [3, 0]  # 0-1, 0-2, 2-3
    assert table["union_candidates"].tolist() == [5, 5]  # all but 1-3
    assert table["pairs"].tolist() == [5, 4]


def test_links_of_directed_clusters_need_one_end() -> None:
    table = tables.slots(filled(*DIRECTED))
    assert table["requests"].tolist() == [4, 0]
    assert table["formed"].tolist() == [2, 0]
    assert table["disagreements"].tolist() == [0, 0]
    assert table["union_asked"].tolist() == [3, 0]


@pytest.mark.parametrize("overrides", [("components",), ("serving", "precoding.joint=selective")], ids=lambda o: o[0])
def test_links_of_a_cluster_that_reaches_further_are_those_agreed_within_it(overrides: tuple[str, ...]) -> None:
    kind, *more = overrides
    table = tables.slots(clustered(f"cooperation.cluster={kind}", *more))
    assert table["formed"].tolist() == [2, 0]
    assert table["disagreements"].tolist() == [1, 0]


def test_one_who_knows_a_partner_as_no_neighbour_does_not_disagree() -> None:
    """Neighbour sets need not be reciprocal: 2 is a neighbour of 3, but 3 is none of 0."""
    record = Record(config("cooperation.cluster=components"))
    record.add_slot(slot_report(0))
    for ap, neighbours in enumerate(((1,), (0, 2), (1, 0), ())):
        partners = tuple(other for other in range(3) if other != ap) if ap < 3 else ()
        record.add_ap(ap_report(0, ap, neighbours=neighbours, requested=(), partners=partners))
    assert tables.slots(record)["disagreements"][0] == 0


def test_the_largest_cluster_is_told_whatever_became_of_it() -> None:
    record = clustered("cooperation.cluster=components")
    assert tables.slots(record)["largest_cluster"].tolist() == [3, 1]
    assert tables.aps(record)["cluster_size"].tolist() == [3, 3, 3, 2, 1, 1, 1, 1]
    summary = summarise(record)
    assert (summary["largest_cluster"], summary["clusters_refused"]) == (3, 0)
    assert summary["cluster_notes"] == ["components: the largest cluster had 3 APs."]


def test_the_price_of_a_slot_counts_only_what_aps_tell_each_other() -> None:
    table = tables.slots(filled())
    assert table["messages"].tolist() == [4 + 0 + 1 + 2 + 3] * 2
    assert table["bytes"].tolist() == [4 * 300 + 20 * 6] * 2


def test_a_part_of_the_slots_is_that_part_of_the_table() -> None:
    record = filled()
    for name, column in tables.slots(record, np.array([1])).items():
        assert column.tolist() == tables.slots(record)[name][1:2].tolist()


# --- APs and UEs -------------------------------------------------------------------------------------------


def test_there_is_exactly_one_row_per_ap_and_slot() -> None:
    table = tables.aps(Record(config()))
    assert list(zip(table["slot"].tolist(), table["ap"].tolist(), strict=True)) == [
        (slot, ap) for slot in range(2) for ap in range(4)
    ]
    assert set(table["status"].tolist()) == {"down"}
    assert {len(column) for column in table.values()} == {8}


def test_an_ap_is_ok_stale_or_down() -> None:
    """Slot 1: 1 reports but was too late on the air, 2 is on the air but does not report, 3 is gone."""
    record = filled(slots=range(1))
    record.add_slot(slot_report(1, silent=(1, 3)))
    for ap in (0, 1):
        record.add_ap(ap_report(1, ap))
    assert tables.aps(record)["status"].tolist() == ["ok"] * 4 + ["ok", "stale", "down", "down"]
    assert summarise(record)["rows"] == {"ok": 5, "stale": 1, "down": 2}
    assert tables.slots(record)["aps_silent"].tolist() == [0, 2]


def test_rows_of_aps_say_what_they_reported() -> None:
    table = tables.aps(filled())
    assert table["neighbours"][:4].tolist() == [3, 2, 2, 2]
    assert table["requests"].tolist() == [2, 1, 0, 1, 0, 0, 0, 0]
    assert table["partners"].tolist() == [2, 1, 0, 0, 0, 0, 0, 0]
    assert table["gain"][:4].tolist() == [0, 0.5, 1, 1.5]
    assert table["reward"][:4].tolist() == [0, 0.25, 0.5, 0.75]
    assert table["epsilon"].tolist() == [0.8] * 4 + [0.8 - 0.1] * 4
    assert table["messages"][:4].tolist() == [1, 2, 3, 4]
    assert table["bytes"][:4].tolist() == [300, 320, 340, 360]
    assert table["dropped"][:4].tolist() == [1, 2, 3, 4]


def test_requests_and_partners_that_are_no_neighbours_do_not_count() -> None:
    table = tables.aps(with_change(ApReport, requested=(1, 9), partners=(9,)))
    assert (table["requests"][0], table["partners"][0]) == (1, 0)


def test_there_is_one_row_per_ue_and_slot() -> None:
    table = tables.ues(filled())
    assert table["slot"].tolist() == [0, 0, 1, 1]
    assert table["ue"].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(table["rate_bps_hz"], [1, 2, 3, 3])
    np.testing.assert_allclose(table["rate_alone_bps_hz"], [1, 1, 1, 1])
    db_3, db_15 = 10 * np.log10(3), 10 * np.log10(15)
    np.testing.assert_allclose(table["sinr_db"], [0, db_3, (db_3 + db_15) / 2, (db_3 + db_15) / 2])


def test_a_ue_that_hears_nothing_has_a_finite_sinr_in_decibels() -> None:
    table = tables.ues(with_change(SlotReport, sinr=np.zeros((2, 2))))
    assert np.isfinite(table["sinr_db"][:2]).all()
    assert table["rate_bps_hz"][:2].tolist() == [0, 0]


# --- links -------------------------------------------------------------------------------------------------


def test_there_is_one_row_per_slot_ap_and_neighbour_it_could_ask() -> None:
    table = tables.links(filled())
    asked = [(0, ap, neighbour) for ap in range(4) for neighbour in REQUESTED[ap]]
    linked = [(0, ap, neighbour) for ap in range(4) for neighbour in PARTNERS[ap]]
    rows = [(slot, ap, neighbour) for slot in range(2) for ap in range(4) for neighbour in NEIGHBOURS[ap]]
    assert list(zip(table["slot"].tolist(), table["ap"].tolist(), table["neighbour"].tolist(), strict=True)) == rows
    assert table["asked"].tolist() == [row in asked for row in rows]
    assert table["linked"].tolist() == [row in linked for row in rows]


def test_an_ap_that_did_not_report_has_no_links() -> None:
    record = filled(aps=range(1, 4))
    assert set(tables.links(record)["ap"].tolist()) == {1, 2, 3}
    assert len(tables.links(Record(config()))["slot"]) == 0
