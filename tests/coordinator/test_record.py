"""What a record takes in, when it is complete, which APs are flagged, and its digest."""

from typing import Any

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
    PARTNERS,
    ap_report,
    config,
    filled,
    sent,
    slot_report,
    with_change,
)


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
    assert tables.aps(record)["suspects"].tolist() == [0, 1, 0, 0, 0, 2, 0, 0]
    assert filled().flagged(1) == ()


def test_where_agents_share_only_partners_in_an_episodes_last_slot_have_heard_what_one_has_learned() -> None:
    """AP 0 is a partner of three APs in slot 0, and of AP 2, which suspects it then, in slot 1, the episode's last."""
    flagged = []
    for share in (True, False):
        sharing = ("learning.values=neighbours", f"learning.share={share}".lower())
        record = Record(config(*sharing, "run.slots_per_episode=2"))
        for ap in (1, 2, 3):
            record.add_ap(ap_report(0, ap, neighbours=(0,), requested=(0,), partners=(0,)))
        record.add_ap(ap_report(1, 2, neighbours=(0,), requested=(0,), partners=(0,), suspects=(0,)))
        flagged.append(record.flagged(1))
    assert flagged == [(0,), ()]


def test_one_suspicion_among_three_who_heard_an_ap_is_no_flag() -> None:
    record = Record(config())
    for ap in (1, 2, 3):
        report = ap_report(0, ap, neighbours=(0,), requested=(0,), partners=(0,), suspects=(0,) if ap == 2 else ())
        record.add_ap(report)
    assert record.flagged(0) == ()
    assert record.suspicions(0)[:, 0].tolist() == [False, False, True, False]


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
    assert summarise(record) == summarise(filled())


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
    (ApReport, {"sent": sent(CoopRequest=(0, 0), ChannelBlock=(2, 300), PilotBlock=(7, 7))}),
]


@pytest.mark.parametrize(("kind", "changed"), CHANGES, ids=lambda value: f"{value!r:.60}")
def test_the_digest_tells_runs_apart(kind: type[Any], changed: dict[str, Any]) -> None:
    assert with_change(kind, **changed).digest() != with_change(kind).digest()


def test_the_digest_does_not_depend_on_when_frames_came() -> None:
    late = with_change(ApReport, dropped=9 * [9])
    assert late.digest() == with_change(ApReport).digest()
    assert tables.aps(late)["dropped"][0] == 81
