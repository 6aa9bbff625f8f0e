"""The coordinator by hand: it takes in what fits, counts what does not, and knows when all is in."""

from typing import Any

import numpy as np
import pytest

from apnode.protocol.fields import Message
from apnode.protocol.messages import KINDS, ApReport, Deadline, FaultFired, Hello, Resend, RunOver, SlotReport, Tick
from apnode.protocol.node import CHANNEL, DROPS
from apnode.protocol.wire import decode, encode
from cfmimo.presets import load
from coordinator import collector
from coordinator.collector import Coordinator
from coordinator.summary import summarise

TINY = ("radio.num_aps=2", "radio.num_ues=3", "run.blocks_per_slot=2", "run.episodes=1", "run.slots_per_episode=2")
SENT = np.zeros((2, len(KINDS)), np.uint32)


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator(load("demo", TINY))


def slot_report(slot: int = 0, **changed: Any) -> SlotReport:
    fields = {"slot": slot, "episode": 0, "sinr": np.ones((2, 3)), "sinr_alone": np.ones((2, 3)), "pairs": 1}
    fields |= {"gain": np.ones((2, 3)), "gain_alone": np.ones((2, 3)), "power": np.zeros((2, 2))}
    return SlotReport(**{**fields, "silent": (), "sent": SENT, "dropped": np.zeros(len(DROPS), int), **changed})


def ap_report(slot: int = 0, ap: int = 0, **changed: Any) -> ApReport:
    fields = {"slot": slot, "ap": ap, "neighbours": (1 - ap,) if ap < 2 else (), "requested": (), "partners": ()}
    fields |= {
        "gain": 0.0,
        "reward": 0.0,
        "loss": 0.0,
        "epsilon": 0.0,
        "sent": SENT,
        "dropped": np.zeros(len(DROPS), int),
    }
    fields |= {"cluster_size": 1}
    return ApReport(**{**fields, **changed})


ALL = [slot_report(0), slot_report(1), *(ap_report(slot, ap) for slot in (0, 1) for ap in (0, 1))]


def give(coordinator: Coordinator, *messages: Message) -> None:
    for message in messages:
        assert coordinator.receive(encode(message)) == []  # it commands nothing


def drops(coordinator: Coordinator) -> dict[str, int]:
    return {reason: int(count) for reason, count in zip(DROPS, coordinator.dropped, strict=True) if count}


@pytest.mark.parametrize("last", range(len(ALL) + 1))
def test_it_is_done_when_the_run_is_over_and_every_report_is_in(coordinator: Coordinator, last: int) -> None:
    messages = [RunOver(2), *ALL]
    messages.append(messages.pop(last))
    give(coordinator, *messages[:-1])
    assert not coordinator.done
    give(coordinator, messages[-1])
    assert coordinator.done
    assert drops(coordinator) == {}


def test_reports_that_never_come_are_not_waited_for_after_the_end(coordinator: Coordinator) -> None:
    give(coordinator, *ALL[1:])
    coordinator.handle(Tick())
    assert not coordinator.done
    give(coordinator, RunOver(2))
    coordinator.handle(Tick())
    assert coordinator.done
    assert coordinator.record.closed.tolist() == [False, True]


@pytest.fixture
def reachable() -> Coordinator:
    """In a run of 40 slots, where the channel server and both APs can be asked."""
    coordinator = Coordinator(load("demo", (*TINY, "run.slots_per_episode=40")))
    give(coordinator, Hello(0, 0, "tcp://ap0:1"), Hello(1, 0, "tcp://ap1:1"))
    coordinator.endpoints[CHANNEL] = "tcp://channel:1"
    return coordinator


def asked(coordinator: Coordinator, *reports: SlotReport | ApReport) -> list[tuple[int, str, int]]:
    """Whom the coordinator asks to report again from which slot on, and in which slot it does so."""
    sends = [(coordinator.newest, send) for report in reports for send in coordinator.receive(encode(report))]
    messages = [(newest, send.to, decode(send.frame)) for newest, send in sends]
    return [(newest, to, message.slot) for newest, to, message in messages if isinstance(message, Resend)]


@pytest.mark.parametrize(("lost", "who"), [("slot", CHANNEL), ("ap", "ap/1")])
def test_a_lost_report_is_asked_for_every_few_slots_until_it_is_there(
    reachable: Coordinator, lost: str, who: str
) -> None:
    missing: SlotReport | ApReport = slot_report(3) if lost == "slot" else ap_report(3, 1)
    reports = [r for slot in range(20) for r in (ap_report(slot, 0), ap_report(slot, 1), slot_report(slot))]
    came = [r for r in reports if r.slot != 3 or type(r) is not type(missing) or getattr(r, "ap", 1) != 1]
    assert asked(reachable, *came[:-12]) == [(7, who, 3), (11, who, 3), (15, who, 3)]
    assert asked(reachable, missing, *came[-12:]) == []


def test_who_is_dead_is_not_asked_nor_later_for_what_died_with_it(reachable: Coordinator) -> None:
    """AP 1 transmitted in slot 3 and died before it could report; from slot 9 on it is there again."""
    reports = [r for slot in range(9) for r in (ap_report(slot), slot_report(slot, silent=(1,) if slot > 3 else ()))]
    alive = [ap_report(slot, 1) for slot in range(3)]
    assert asked(reachable, *alive, *reports) == []
    give(reachable, Hello(1, 1, "tcp://ap1:1"))
    back = [r for slot in range(9, 20) for r in (ap_report(slot), ap_report(slot, 1), slot_report(slot))]
    assert asked(reachable, *back) == []


@pytest.mark.parametrize("twice", [slot_report(sent=SENT + 1), ap_report(sent=SENT + 1)])
def test_a_report_that_comes_twice_counts_once(coordinator: Coordinator, twice: Message) -> None:
    give(coordinator, twice, twice)
    assert drops(coordinator) == {"duplicate": 1}
    assert coordinator.record.traffic.tolist() == (SENT + 1).tolist()


def test_the_newest_complete_looking_slot_is_shown(coordinator: Coordinator) -> None:
    assert coordinator.latest() is None
    give(coordinator, slot_report(0))
    assert coordinator.latest() is None  # its APs are still reporting
    give(coordinator, slot_report(1))
    latest = coordinator.latest()
    assert latest is not None
    assert latest["slot"] == 0
    assert latest["sum_rate_bps_hz"] == pytest.approx(3)


MISFITS: dict[str, Message] = {
    "a slot that there is not": slot_report(2),
    "SINRs of a block too many": slot_report(sinr=np.ones((3, 3)), sinr_alone=np.ones((3, 3))),
    "SINRs of a UE too few": slot_report(sinr=np.ones((2, 2)), sinr_alone=np.ones((2, 2))),
    "a baseline of one UE": slot_report(sinr_alone=np.ones((2, 1))),
    "a baseline of a UE too many": slot_report(sinr_alone=np.ones((2, 4))),
    "gains of a UE too few": slot_report(gain=np.ones((2, 2))),
    "gains alone of a block too many": slot_report(gain_alone=np.ones((3, 3))),
    "powers of an AP too many": slot_report(power=np.ones((3, 2))),
    "silence of an AP that there is not": slot_report(silent=(2,)),
    "counts of a kind too few": slot_report(sent=SENT[:, :-1]),
    "counts of one kind for all": slot_report(sent=SENT[:, :1] + 1),
    "a report of a slot that there is not": ap_report(2),
    "a report of an AP that there is not": ap_report(0, 2),
    "a report of too many neighbours": ap_report(neighbours=tuple(range(1, 10))),
    "a report of a neighbour that there is not": ap_report(neighbours=(7,)),
    "a report of a suspect that there is not": ap_report(suspects=(2,)),
    "a report of a cluster of more APs than there are": ap_report(cluster_size=3),
    "a report of beliefs, where APs have none": ap_report(levels=6 * [0.5]),
    "a fault in a slot that there is not": FaultFired(3, "ap/1", "kill"),
    "an AP that is in a slot that there is not": Hello(1, 1, "ap/1", 3, 0),
    "an AP restored to a slot that there is not": Hello(1, 1, "ap/1", 0, 3),
    "a report with counts of a kind too few": ap_report(sent=SENT[:, :-1]),
    "a report with counts of no kind": ap_report(sent=SENT[:, :0]),
    "a report with one row of counts": ap_report(sent=SENT[:1]),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_report_that_does_not_fit_is_counted_and_changes_nothing(coordinator: Coordinator, name: str) -> None:
    give(coordinator, MISFITS[name])
    assert drops(coordinator) == {"malformed": 1}
    assert not coordinator.record.closed.any()
    assert not coordinator.record.reported.any()
    give(coordinator, *ALL, RunOver(2))
    assert coordinator.done
    assert summarise(coordinator.record)["slots"] == 2


def test_garbage_and_what_is_not_for_it_is_counted(coordinator: Coordinator) -> None:
    assert coordinator.receive(b"garbage") == []
    give(coordinator, Deadline(0))
    assert drops(coordinator) == {"checksum": 1, "unexpected": 1}


def test_a_flood_of_comebacks_and_faults_costs_memory_once(coordinator: Coordinator, monkeypatch: Any) -> None:
    monkeypatch.setattr(collector, "_MOST_EVENTS", 10)
    give(coordinator, *(Hello(1, incarnation, "ap/1") for incarnation in range(1, 16)))
    give(coordinator, *(FaultFired(1, f"ap/{ap}", "kill") for ap in range(15)))
    assert (len(coordinator.record.comebacks), len(coordinator.record.fired)) == (10, 10)
    assert drops(coordinator) == {"flood": 10}


@pytest.mark.parametrize("levels", [[0.5, 0.1], 7 * [0.5], [*5 * [0.5], -0.1]], ids=["few", "many", "below 0"])
def test_beliefs_that_cannot_be_are_refused(levels: list[float]) -> None:
    settings = ("radio.num_aps=2", "radio.num_ues=3", "run.episodes=1", "run.slots_per_episode=2")
    coordinator = Coordinator(load("hidden", settings))
    coordinator.handle(ap_report(levels=levels))
    assert not coordinator.record.reported.any()
    assert np.isnan(coordinator.record.beliefs).all()
    coordinator.handle(ap_report(levels=6 * [0.5]))
    assert (coordinator.record.beliefs[0, 0] == 0.5).all()
