"""What a run leaves behind, against examples that a person can check."""

from typing import Any

import numpy as np
import pytest

from apnode.config import Config
from apnode.protocol.messages import (
    KINDS,
    TAGS,
    ApReport,
    ChannelBlock,
    CoopRequest,
    GainReport,
    PilotBlock,
    SlotReport,
)
from cfmimo.presets import load
from coordinator.record import Record

TINY = (
    "radio.num_aps=4",
    "radio.num_ues=2",
    "run.blocks_per_slot=2",
    "run.episodes=2",
    "run.slots_per_episode=1",
    "cooperation.max_neighbours=3",
)
DIRECTED = ("cooperation.cluster=directed", "cooperation.acceptance=all")
NEIGHBOURS = ((1, 2, 3), (0, 2), (0, 3), (2, 0))  # 9 entries, over 5 pairs
REQUESTED = ((1, 2), (0,), (), (2,))
PARTNERS = ((1, 2), (0,), (), ())


def sent(**counts: tuple[int, int]) -> Any:
    """Messages and bytes by kind."""
    table = np.zeros((2, len(KINDS)), np.uint32)
    for kind in KINDS:
        table[:, TAGS[kind]] = counts.get(kind.__name__, (0, 0))
    return table


def slot_report(slot: int, **changed: Any) -> SlotReport:
    """Slot 0: rates of 1 and 2 bit; slot 1: of 2 bit in the first block and 4 in the second. Alone 1 bit each."""
    fields: dict[str, Any] = {
        "slot": slot,
        "episode": slot,
        "sinr": [[1, 3], [1, 3]] if slot == 0 else [[3, 3], [15, 15]],
        "sinr_alone": np.ones((2, 2)),
        "gain": [[1, 1j], [1, 1j]],
        "gain_alone": np.ones((2, 2)),
        "power": [[0.5, 0.75], [0.25, 0.25 + slot], [0, 0], [0, 0]],
        "pairs": 5 - slot,
        "silent": (),
        "sent": sent(SlotReport=(1, 100)),
        "dropped": [0] * 8,
    }
    return SlotReport(**{**fields, **changed})


def ap_report(slot: int, ap: int, **changed: Any) -> ApReport:
    """In slot 0 they ask and agree as above, in slot 1 nobody asks."""
    fields: dict[str, Any] = {
        "slot": slot,
        "ap": ap,
        "neighbours": NEIGHBOURS[ap],
        "requested": REQUESTED[ap] if slot == 0 else (),
        "partners": PARTNERS[ap] if slot == 0 else (),
        "gain": 0.5 * ap,
        "reward": 0.25 * ap,
        "loss": 0.125,
        "epsilon": 0.8 - 0.1 * slot,
        "sent": sent(CoopRequest=(ap, 20 * ap), ChannelBlock=(1, 300), PilotBlock=(7, 7)),
        "dropped": np.array([0, 0, 0, 0, 0, ap, 1, 0]),
        "cluster_size": 1 + (len(PARTNERS[ap]) if slot == 0 else 0),
    }
    return ApReport(**{**fields, **changed})


def filled(*overrides: str, slots: range = range(2), aps: range = range(4)) -> Record:
    record = Record(config(*overrides))
    for slot in slots:
        record.add_slot(slot_report(slot))
        for ap in aps:
            record.add_ap(ap_report(slot, ap))
    return record


def config(*overrides: str) -> Config:
    return load("demo", (*TINY, *overrides))


def with_change(kind: type[Any], **changed: Any) -> Record:
    """Slot 0 as ever, but for one field of one report."""
    record = Record(config())
    record.add_slot(slot_report(0, **(changed if kind is SlotReport else {})))
    for ap in range(4):
        record.add_ap(ap_report(0, ap, **(changed if kind is ApReport and ap == 0 else {})))
    return record


# --- slots -------------------------------------------------------------------------------------------------


def test_rates_are_summed_over_ues_and_averaged_over_blocks() -> None:
    table = filled().slots()
    np.testing.assert_allclose(table["sum_rate_bps_hz"], [1 + 2, 3 + 3])
    np.testing.assert_allclose(table["sum_rate_alone_bps_hz"], [2, 2])


def test_sinr_is_averaged_in_decibels() -> None:
    table = filled().slots()
    db_3, db_15 = 10 * np.log10(3), 10 * np.log10(15)
    np.testing.assert_allclose(table["sinr_mean_db"], [db_3 / 2, (db_3 + db_15) / 2])
    np.testing.assert_allclose(table["sinr_p5_db"], [0, db_3])
    np.testing.assert_allclose(table["sinr_mean_alone_db"], [0, 0])


def test_links_of_an_ego_cluster_need_both_ends() -> None:
    """0 and 1 agree; 0 believes in a link with 2, which does not; 3 asks 2 in vain."""
    table = filled().slots()
    assert table["requests"].tolist() == [4, 0]
    assert table["candidates"].tolist() == [9, 9]
    assert table["formed"].tolist() == [1, 0]
    assert table["disagreements"].tolist() == [1, 0]
    assert table["union_asked"].tolist() == [3, 0]  # 0-1, 0-2, 2-3
    assert table["union_candidates"].tolist() == [5, 5]  # all but 1-3
    assert table["pairs"].tolist() == [5, 4]


def test_links_of_directed_clusters_need_one_end() -> None:
    table = filled(*DIRECTED).slots()
    assert table["requests"].tolist() == [4, 0]
    assert table["formed"].tolist() == [2, 0]
    assert table["disagreements"].tolist() == [0, 0]
    assert table["union_asked"].tolist() == [3, 0]


CLUSTERS = (  # 0-1 and 1-2 have agreed; 0 and 2 are neighbours as well, and 3 believes what nobody else does
    {"neighbours": (1, 2), "requested": (1,), "partners": (1, 2), "cluster_size": 3},
    {"neighbours": (0, 2), "requested": (0, 2), "partners": (0, 2), "cluster_size": 3},
    {"neighbours": (0, 1, 3), "requested": (1,), "partners": (0, 1), "cluster_size": 3},
    {"neighbours": (2, 0), "requested": (2,), "partners": (2,), "cluster_size": 2},
)


def clustered(*overrides: str, sizes: tuple[int, ...] = (3, 3, 3, 2)) -> Record:
    record = Record(config(*overrides))
    for slot in range(2):
        record.add_slot(slot_report(slot))
    for ap, fields in enumerate(CLUSTERS):
        record.add_ap(ap_report(0, ap, **{**fields, "cluster_size": sizes[ap]}))
        record.add_ap(ap_report(1, ap))
    return record


@pytest.mark.parametrize("overrides", [("capped",), ("serving", "precoding.joint=selective")], ids=lambda o: o[0])
def test_links_of_a_cluster_that_reaches_further_are_those_agreed_within_it(overrides: tuple[str, ...]) -> None:
    kind, *more = overrides
    table = clustered(f"cooperation.cluster={kind}", *more).slots()
    assert table["formed"].tolist() == [2, 0]
    assert table["disagreements"].tolist() == [1, 0]


def test_one_who_knows_a_partner_as_no_neighbour_does_not_disagree() -> None:
    """Neighbour sets need not be reciprocal: 2 is a neighbour of 3, but 3 is none of 0."""
    record = Record(config("cooperation.cluster=components"))
    record.add_slot(slot_report(0))
    for ap, neighbours in enumerate(((1,), (0, 2), (1, 0), ())):
        partners = tuple(other for other in range(3) if other != ap) if ap < 3 else ()
        record.add_ap(ap_report(0, ap, neighbours=neighbours, requested=(), partners=partners))
    assert record.slots()["disagreements"][0] == 0


def test_the_largest_cluster_is_told_whatever_became_of_it() -> None:
    record = clustered("cooperation.cluster=capped")
    assert record.slots()["largest_cluster"].tolist() == [3, 1]
    assert record.aps()["cluster_size"].tolist() == [3, 3, 3, 2, 1, 1, 1, 1]
    summary = record.summary()
    assert (summary["largest_cluster"], summary["clusters_refused"]) == (3, 0)
    assert summary["cluster_notes"] == ["capped: the largest cluster had 3 APs."]


def test_refused_components_are_counted_and_a_sentence_says_so() -> None:
    record = clustered("cooperation.cluster=components", "cooperation.max_cluster_aps=2", sizes=(3, 3, 3, 1))
    assert record.slots()["clusters_refused"].tolist() == [1, 0]
    summary = record.summary()
    assert (summary["largest_cluster"], summary["clusters_refused"]) == (3, 1)
    (note,) = summary["cluster_notes"]
    for text in ("components: a cluster of 3 APs in slot 0", "max_cluster_aps = 2", "1 of 2 slots", "fewer links"):
        assert text in note


@pytest.mark.parametrize(("sizes", "refused"), [((4, 4, 4, 4), 1), ((4, 4, 1, 4), 1), ((3, 3, 3, 3), 2), ((2,) * 4, 0)])
def test_a_refused_cluster_counts_once_even_if_a_report_is_missing(sizes: tuple[int, ...], refused: int) -> None:
    record = clustered("cooperation.cluster=components", "cooperation.max_cluster_aps=2", sizes=sizes)
    assert record.summary()["clusters_refused"] == refused


@pytest.mark.parametrize("overrides", [(), DIRECTED, ("cooperation.cluster=pairs",)])
def test_clusters_of_an_ap_and_its_partners_need_no_note(overrides: tuple[str, ...]) -> None:
    assert clustered(*overrides).summary()["cluster_notes"] == []


def test_the_price_of_a_slot_counts_only_what_aps_tell_each_other() -> None:
    table = filled().slots()
    assert table["messages"].tolist() == [4 + 0 + 1 + 2 + 3] * 2
    assert table["bytes"].tolist() == [4 * 300 + 20 * 6] * 2


def test_a_part_of_the_slots_is_that_part_of_the_table() -> None:
    record = filled()
    for name, column in record.slots(np.array([1])).items():
        assert column.tolist() == record.slots()[name][1:2].tolist()


# --- APs and UEs -------------------------------------------------------------------------------------------


def test_there_is_exactly_one_row_per_ap_and_slot() -> None:
    table = Record(config()).aps()
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
    assert record.aps()["status"].tolist() == ["ok"] * 4 + ["ok", "stale", "down", "down"]
    assert record.summary()["rows"] == {"ok": 5, "stale": 1, "down": 2}
    assert record.slots()["aps_silent"].tolist() == [0, 2]


def test_rows_of_aps_say_what_they_reported() -> None:
    table = filled().aps()
    assert table["neighbours"][:4].tolist() == [3, 2, 2, 2]
    assert table["requests"].tolist() == [2, 1, 0, 1, 0, 0, 0, 0]
    assert table["partners"].tolist() == [2, 1, 0, 0, 0, 0, 0, 0]
    assert table["gain"][:4].tolist() == [0, 0.5, 1, 1.5]
    assert table["reward"][:4].tolist() == [0, 0.25, 0.5, 0.75]
    assert table["epsilon"].tolist() == [0.8] * 4 + [0.8 - 0.1] * 4
    assert table["messages"][:4].tolist() == [1, 2, 3, 4]
    assert table["bytes"][:4].tolist() == [300, 320, 340, 360]
    assert table["dropped"][:4].tolist() == [1, 2, 3, 4]


def test_an_ap_is_flagged_if_half_of_those_who_precoded_with_its_channels_or_suspect_it_do() -> None:
    """AP 0 has two partners in slot 0, of whom one does not believe it; of AP 1 and AP 2 one each."""
    record = Record(config())
    for ap in range(4):
        record.add_ap(ap_report(0, ap, suspects=(0,) if ap == 1 else ()))
        record.add_ap(ap_report(1, ap, suspects=(0, 3) if ap == 1 else ()))
    heard = [sum(ap in partners for partners in PARTNERS) for ap in range(4)]
    assert heard[0] <= 2
    assert record.flagged(0) == (0,)
    assert record.flagged(1) == (0, 3)
    assert np.argwhere(record.suspicions(1)).tolist() == [[1, 0], [1, 3]]
    assert record.aps()["suspects"].tolist() == [0, 1, 0, 0, 0, 2, 0, 0]
    assert filled().flagged(1) == ()


def test_one_suspicion_among_three_who_heard_an_ap_is_no_flag() -> None:
    record = Record(config())
    for ap in (1, 2, 3):
        report = ap_report(0, ap, neighbours=(0,), requested=(0,), partners=(0,), suspects=(0,) if ap == 2 else ())
        record.add_ap(report)
    assert record.flagged(0) == ()
    assert record.suspicions(0)[:, 0].tolist() == [False, False, True, False]


def test_requests_and_partners_that_are_no_neighbours_do_not_count() -> None:
    table = with_change(ApReport, requested=(1, 9), partners=(9,)).aps()
    assert (table["requests"][0], table["partners"][0]) == (1, 0)


def test_there_is_one_row_per_ue_and_slot() -> None:
    table = filled().ues()
    assert table["slot"].tolist() == [0, 0, 1, 1]
    assert table["ue"].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(table["rate_bps_hz"], [1, 2, 3, 3])
    np.testing.assert_allclose(table["rate_alone_bps_hz"], [1, 1, 1, 1])
    db_3, db_15 = 10 * np.log10(3), 10 * np.log10(15)
    np.testing.assert_allclose(table["sinr_db"], [0, db_3, (db_3 + db_15) / 2, (db_3 + db_15) / 2])


def test_a_ue_that_hears_nothing_has_a_finite_sinr_in_decibels() -> None:
    table = with_change(SlotReport, sinr=np.zeros((2, 2))).ues()
    assert np.isfinite(table["sinr_db"][:2]).all()
    assert table["rate_bps_hz"][:2].tolist() == [0, 0]


# --- links -------------------------------------------------------------------------------------------------


def test_there_is_one_row_per_slot_ap_and_neighbour_it_could_ask() -> None:
    table = filled().links()
    asked = [(0, ap, neighbour) for ap in range(4) for neighbour in REQUESTED[ap]]
    linked = [(0, ap, neighbour) for ap in range(4) for neighbour in PARTNERS[ap]]
    rows = [(slot, ap, neighbour) for slot in range(2) for ap in range(4) for neighbour in NEIGHBOURS[ap]]
    assert list(zip(table["slot"].tolist(), table["ap"].tolist(), table["neighbour"].tolist(), strict=True)) == rows
    assert table["asked"].tolist() == [row in asked for row in rows]
    assert table["linked"].tolist() == [row in linked for row in rows]


def test_an_ap_that_did_not_report_has_no_links() -> None:
    record = filled(aps=range(1, 4))
    assert set(record.links()["ap"].tolist()) == {1, 2, 3}
    assert len(Record(config()).links()["slot"]) == 0


# --- the summary -------------------------------------------------------------------------------------------


def test_the_summary_is_the_mean_over_the_slots() -> None:
    summary = filled().summary()
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
    alone = filled().summary()["no_cooperation"]
    assert alone["sum_rate_bps_hz"] == pytest.approx(2)
    assert alone["sinr_mean_db"] == alone["sinr_p5_db"] == 0
    assert alone["links"] == {"requests": 0, "formed": 0, "pairs": 4.5}
    assert alone["messages_per_slot"] == alone["bytes_per_slot"] == alone["request_rate"] == 0


def test_the_last_tenth_is_at_least_one_episode() -> None:
    last = filled().summary()["last_tenth"]
    assert last["sum_rate_bps_hz"] == pytest.approx(6)
    assert last["links"] == {"requests": 0, "formed": 0, "pairs": 4}
    assert last["no_cooperation"]["sum_rate_bps_hz"] == pytest.approx(2)


def test_traffic_is_everything_everybody_sent() -> None:
    traffic = filled().summary()["traffic"]
    assert set(traffic) == {kind.__name__ for kind in KINDS}
    assert traffic[CoopRequest.__name__] == {"messages": 2 * 6, "bytes": 2 * 120}
    assert traffic[ChannelBlock.__name__] == {"messages": 8, "bytes": 2400}
    assert traffic[PilotBlock.__name__] == {"messages": 56, "bytes": 56}
    assert traffic[SlotReport.__name__] == {"messages": 2, "bytes": 200}
    assert traffic[GainReport.__name__] == {"messages": 0, "bytes": 0}


def test_a_run_cut_short_is_summarised_over_the_slots_it_had() -> None:
    whole = filled("run.episodes=2").summary()
    short = filled("run.episodes=3").summary()
    for name in ("slots", "sum_rate_bps_hz", "links", "request_rate", "messages_per_slot", "bytes_per_slot"):
        assert short[name] == whole[name], name


def test_without_candidates_the_request_rate_is_zero() -> None:
    record = Record(config())
    for slot in range(2):
        record.add_slot(slot_report(slot))
        for ap in range(4):
            record.add_ap(ap_report(slot, ap, neighbours=(), requested=(), partners=()))
    assert record.summary()["request_rate"] == record.summary()["union_rate"] == 0


# --- complete, and the digest ------------------------------------------------------------------------------


def test_a_record_is_complete_with_every_report_of_every_slot() -> None:
    record = filled(aps=range(3))
    assert not record.complete
    record.add_ap(ap_report(0, 3))
    assert not record.complete
    record.add_ap(ap_report(1, 3))
    assert record.complete


def test_reports_may_come_in_any_order() -> None:
    record = Record(config())
    for slot in (1, 0):
        for ap in (3, 1, 0, 2):
            record.add_ap(ap_report(slot, ap))
        record.add_slot(slot_report(slot))
    assert record.digest() == filled().digest()
    assert record.summary() == filled().summary()


CHANGES: list[tuple[type[Any], dict[str, Any]]] = [
    (SlotReport, {"episode": 1}),
    (SlotReport, {"sinr": [[1, 3], [1, 3 + 1e-12]]}),
    (SlotReport, {"sinr_alone": [[1, 1], [1 + 1e-12, 1]]}),
    (SlotReport, {"pairs": 4}),
    (SlotReport, {"silent": (2,)}),
    (ApReport, {"neighbours": (1, 2)}),
    (ApReport, {"requested": (1,)}),
    (ApReport, {"requested": (1, 3)}),
    (ApReport, {"partners": (1,)}),
    (ApReport, {"gain": 1e-16}),
    (ApReport, {"reward": 1e-16}),
    (ApReport, {"loss": np.nextafter(0.125, 1)}),
    (ApReport, {"epsilon": np.nextafter(0.8, 1)}),
    (ApReport, {"sent": sent(CoopRequest=(1, 0), ChannelBlock=(1, 300), PilotBlock=(7, 7))}),
    (ApReport, {"sent": sent(CoopRequest=(0, 0), ChannelBlock=(1, 301), PilotBlock=(7, 7))}),
]


@pytest.mark.parametrize(("kind", "changed"), CHANGES, ids=lambda value: f"{value!r:.60}")
def test_the_digest_tells_runs_apart(kind: type[Any], changed: dict[str, Any]) -> None:
    assert with_change(kind, **changed).digest() != with_change(kind).digest()


def test_the_digest_does_not_depend_on_when_frames_came() -> None:
    late = with_change(ApReport, dropped=[9, 9, 9, 9, 9, 9, 9, 9])
    assert late.digest() == with_change(ApReport).digest()
    assert late.aps()["dropped"][0] == 72


def test_the_hardening_bound_is_that_of_each_episode_and_none_from_a_single_block() -> None:
    """Slot 0 has gains that do not vary: the bound is the rate; slot 1 the same gains at SINRs of 2 and 4 bit."""
    record = Record(load("demo", TINY))
    record.add_slot(slot_report(0))
    record.add_slot(slot_report(1))
    summary = record.summary()
    first, second = (Record(load("demo", TINY)) for _ in range(2))
    first.add_slot(slot_report(0))
    assert first.summary()["sum_rate_hardening_bps_hz"] == pytest.approx(1 + 2)
    second.add_slot(slot_report(1))
    disturbance = (1 / 3 + 1 / 15) / 2  # of a stream of power 1
    assert second.summary()["sum_rate_hardening_bps_hz"] == pytest.approx(2 * np.log2(1 + 1 / disturbance))
    both = [run.summary()["sum_rate_hardening_bps_hz"] for run in (first, second)]
    assert summary["sum_rate_hardening_bps_hz"] == pytest.approx(np.mean(both))

    one_block = Record(load("demo", (*TINY, "run.blocks_per_slot=1")))
    one_block.add_slot(
        slot_report(0, **{name: np.ones((1, 2)) for name in ("sinr", "sinr_alone", "gain", "gain_alone")})
    )
    assert one_block.summary()["sum_rate_hardening_bps_hz"] is None
