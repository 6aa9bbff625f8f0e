"""Who was down when, and what it cost: against examples that a person can check."""

from typing import Any

import numpy as np
import pytest

from cfmimo.records.rundir import NOTHING
from cfmimo.report.outages import Outage, fault_costs, is_afflicted, marks, outages, status_of

SLOTS, APS = 20, 3


def struck(**changed: Any) -> dict[str, Any]:
    return {**NOTHING, **changed}


def fired(slot: int, ap: int = 0, action: str = "kill") -> dict[str, Any]:
    return {"slot": slot, "node": f"ap/{ap}", "action": action}


def back(slot: int, ap: int = 0, restored: int = 0, incarnation: int = 1) -> dict[str, int]:
    return {"ap": ap, "incarnation": incarnation, "slot": slot, "restored": restored}


def ok_but(*missed: tuple[int, int, int]) -> Any:
    """Every AP took part in every slot, but for those of an AP from a first slot up to a last one."""
    ok = np.ones((SLOTS, APS), bool)
    for ap, first, last in missed:
        ok[first : last + 1, ap] = False
    return ok


def table(rate: Any, alone: Any = None, slots_per_episode: int = SLOTS) -> dict[str, Any]:
    rate = np.asarray(rate, float)
    alone = np.ones(len(rate)) if alone is None else np.asarray(alone, float)
    episode = np.arange(len(rate)) // slots_per_episode
    return {"episode": episode, "sum_rate_bps_hz": rate, "sum_rate_alone_bps_hz": alone}


# --- outages ----------------------------------------------------------------------------------------------


def test_an_outage_is_from_the_fault_to_the_first_slot_that_the_ap_took_part_in_again() -> None:
    faults = struck(fired=[fired(7)], comebacks=[back(9, restored=5)])
    (outage,) = outages(faults, ok_but((0, 7, 9)))  # it was heard of in slot 9, but transmitted only in the next
    assert outage == Outage(ap=0, died=7, action="kill", lost=3, restored=5, back=10)
    assert outage.age == 2


def test_the_age_of_no_checkpoint_is_none() -> None:
    (outage,) = outages(struck(fired=[fired(7)], comebacks=[back(9)]), ok_but((0, 7, 8)))
    assert outage.age is None


def test_a_death_costs_no_slot_where_the_ap_was_back_in_time() -> None:
    (outage,) = outages(struck(fired=[fired(7)], comebacks=[back(8, restored=5)]), ok_but())
    assert (outage.died, outage.lost, outage.back) == (7, 0, 7)


def test_faults_that_end_nobody_are_no_deaths() -> None:
    faults = struck(fired=[fired(7, action=action) for action in ("lie", "disk_full", "corrupt_checkpoint")])
    assert outages(faults, ok_but()) == []


@pytest.mark.parametrize("heard", [12, 13])  # before it is heard in its first slot, or after
def test_a_death_that_no_fault_explains_began_with_the_slots_missed(heard: int) -> None:
    (outage,) = outages(struck(comebacks=[back(heard, restored=8)]), ok_but((0, 2, 2), (0, 10, 11)))
    assert outage == Outage(ap=0, died=10, action=None, lost=2, restored=8, back=12)


def test_a_death_that_no_fault_explains_and_nobody_noticed_was_when_the_ap_said_hello() -> None:
    (outage,) = outages(struck(comebacks=[back(12, restored=8)]), ok_but((0, 2, 2)))
    assert (outage.died, outage.lost, outage.back) == (12, 0, 12)


def test_each_comeback_is_that_of_the_earliest_fault_without_one() -> None:
    """Killed by the plan in slot 3, by somebody in slot 8, and by the plan in slot 12."""
    faults = struck(
        fired=[fired(12), fired(3), fired(4, ap=1)],
        comebacks=[back(5), back(10, restored=6, incarnation=2), back(14, restored=10, incarnation=3), back(7, ap=1)],
    )
    found = outages(faults, ok_but((0, 3, 4), (0, 8, 9), (0, 12, 13), (1, 4, 6)))
    assert [(o.ap, o.died, o.action, o.age, o.back) for o in found] == [
        (0, 3, "kill", None, 5),
        (1, 4, "kill", None, 7),
        (0, 8, None, 2, 10),
        (0, 12, "kill", 2, 14),
    ]


def test_who_dies_again_before_it_took_part_again_loses_no_slot_twice() -> None:
    faults = struck(fired=[fired(3), fired(4)], comebacks=[back(6), back(9, incarnation=2)])
    first, second = outages(faults, ok_but((0, 3, 8)))
    assert (first.died, first.lost, first.back) == (3, 3, None)
    assert (second.died, second.lost, second.back) == (6, 3, 9)  # the second fault strikes when it is back


@pytest.mark.parametrize("plan", [[fired(15)], []])
def test_who_is_given_up_is_never_back(plan: list[dict[str, Any]]) -> None:
    faults = struck(fired=plan, given_up=[0])
    (outage,) = outages(faults, ok_but((0, 15, 19)))
    assert (outage.died, outage.lost, outage.restored, outage.back) == (15, 5, None, None)


def test_who_came_back_after_the_last_slot_is_never_back() -> None:
    (outage,) = outages(struck(fired=[fired(18)], comebacks=[back(SLOTS, restored=10)]), ok_but((0, 18, 19)))
    assert outage == Outage(ap=0, died=18, action="kill", lost=2, restored=10, back=None)


def test_who_is_back_without_having_said_so_is_back() -> None:
    """The coordinator was away itself when it said hello."""
    (outage,) = outages(struck(fired=[fired(7)]), ok_but((0, 7, 9)))
    assert outage == Outage(ap=0, died=7, action="kill", lost=3, restored=None, back=10)


def test_marks_show_what_happened_where() -> None:
    faults = struck(
        fired=[fired(7), fired(5, ap=2, action="lie"), {"slot": 9, "node": "channel", "action": "kill_channel_server"}],
        comebacks=[back(9, restored=5), back(14, ap=1)],
        watchdog=[{"ap": 1, "after_slot": 12}],
    )
    shown = marks(faults, outages(faults, ok_but((0, 7, 8), (1, 10, 13))))
    assert shown.slots == {"died": [10], "kill": [7], "kill_channel_server": [9], "lie": [5]}
    assert shown.places == {
        "died": [(10, 1)],
        "kill": [(7, 0)],
        "lie": [(5, 2)],
        "ended by the watchdog": [(13, 1)],
        "restored": [(9, 0)],
        "back": [(14, 1)],
    }


def test_the_state_of_each_ap_in_each_slot_is_found_whatever_the_order_of_rows() -> None:
    status = np.array(["ok", "stale", "down", "ok"])
    aps = {"slot": np.array([1, 0, 1, 0]), "ap": np.array([0, 1, 1, 0]), "status": status}
    assert status_of(aps).tolist() == [["ok", "stale"], ["ok", "down"]]


def test_a_run_is_afflicted_by_a_plan_or_by_slots_missed() -> None:
    assert not is_afflicted(struck(), ok_but())
    assert is_afflicted(struck(planned=[fired(3)]), ok_but())
    assert is_afflicted(struck(), ok_but((1, 4, 4)))


# --- numbers ----------------------------------------------------------------------------------------------


def test_the_sum_rate_is_told_before_during_and_after() -> None:
    faults = struck(fired=[fired(4), fired(9)], comebacks=[back(6), back(12, incarnation=2)])
    rate = [8] * 4 + [4] * 8 + [6] * 8  # slots 0 to 3, 4 to 11, 12 to 19
    costs = fault_costs(table(rate, [4] * 4 + [2] * 8 + [2] * 8), ok_but((0, 4, 5), (0, 9, 11)), faults)
    assert costs["sum_rate_bps_hz"] == {"before": 8, "during": 4, "after": 6}
    assert costs["over_no_cooperation"] == {"before": 2, "during": 2, "after": 3}
    assert costs["slots_lost"] == {"median": 2.5, "p95": pytest.approx(2.95), "max": 3}
    assert costs["ap_slots_not_ok"] == 5


def test_slots_with_aps_missing_are_held_against_those_of_the_same_episode() -> None:
    """Where the UEs of the second episode have twice the rate, and an AP less costs a quarter of it."""
    rate = np.array([4.0] * 10 + [8.0] * 10)
    ok = ok_but((0, 5, 6), (1, 13, 13))
    rate[[5, 6, 13]] *= 0.75
    assert fault_costs(table(rate, slots_per_episode=10), ok, struck())["with_aps_missing"] == pytest.approx(0.75)
    down_throughout = ok_but((0, 0, 19))
    assert fault_costs(table(rate, slots_per_episode=10), down_throughout, struck())["with_aps_missing"] is None


def test_a_fault_is_recovered_from_when_the_gain_of_cooperation_is_back_at_its_median() -> None:
    rate = [2, 1, 3, 2, 1, 1, 1, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]  # median of slots 0 to 3: 2
    faults = struck(fired=[fired(4), fired(8), fired(11)], comebacks=[back(5), back(9), back(12)])
    costs = fault_costs(table(rate), ok_but(), faults)
    assert costs["slots_to_recover"] == {
        **{"median": 1.5, "p95": pytest.approx(2.85), "max": 3},  # from slot 4 to 7, and in slot 8 at once
        "never": 1,
        "without_fault": {"median": 0, "p95": pytest.approx(0.85), "max": 1},  # from slot 1 to 2
    }


def test_a_run_whose_first_slot_has_a_fault_has_nothing_to_be_held_against() -> None:
    faults = struck(fired=[fired(0)], comebacks=[back(2)])
    costs = fault_costs(table(np.ones(SLOTS)), ok_but((0, 0, 1)), faults)
    assert costs["sum_rate_bps_hz"] == {"before": None, "during": 1, "after": 1}
    assert costs["slots_to_recover"] is None


def test_slots_that_never_closed_count_for_nothing() -> None:
    rate = np.full(SLOTS, 2.0)
    rate[[1, 5, 19]] = np.nan
    faults = struck(fired=[fired(4)], comebacks=[back(6)])
    costs = fault_costs(table(rate), ok_but((0, 4, 5)), faults)
    assert costs["sum_rate_bps_hz"] == {"before": 2, "during": 2, "after": 2}
    assert costs["with_aps_missing"] == 1


def test_a_plan_of_which_nothing_fired_cost_nothing() -> None:
    costs = fault_costs(table(np.ones(SLOTS)), ok_but(), struck(planned=[fired(3), fired(5, 1, "lie")]))
    assert (costs["planned"], costs["fired"], costs["deaths"]) == ({"kill": 1, "lie": 1}, {}, 0)
    assert costs["sum_rate_bps_hz"] == {"before": 1, "during": None, "after": None}
    assert costs["slots_lost"] is costs["checkpoint_age_slots"] is costs["slots_to_recover"] is None


def test_slots_in_which_every_ap_is_down_are_no_recovery() -> None:
    rate = np.full(SLOTS, 2.0)
    rate[4:6] = 0
    ok = ok_but(*((ap, 4, 5) for ap in range(APS)))
    faults = struck(fired=[fired(4, ap) for ap in range(APS)], comebacks=[back(6, ap) for ap in range(APS)])
    costs = fault_costs(table(rate, rate), ok, faults)
    assert costs["with_aps_missing"] == 0
    assert costs["over_no_cooperation"] == {"before": 1, "during": None, "after": 1}
    assert costs["slots_to_recover"] == {
        **{"median": 2, "p95": 2, "max": 2, "never": 0},
        "without_fault": {"median": 0, "p95": 0, "max": 0},
    }
