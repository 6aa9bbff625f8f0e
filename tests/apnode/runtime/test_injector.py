"""Where planned faults strike: a function of the plan, its seed and how many lives a node had."""

from dataclasses import replace

import pytest

from apnode.protocol.messages import CoopDecline
from apnode.protocol.node import Send
from apnode.protocol.rng import Purpose, generator
from apnode.protocol.wire import WireError, decode, encode
from apnode.runtime.injector import Fault, Injector, LinkFault, NodeFaults, damaged_frame

AP, PEER = "ap/0", "ap/1"
BETWEEN = LinkFault(frozenset({AP}), frozenset({PEER}))


def fault(slot: int, action: str, **args: int) -> Fault:
    return Fault(slot, AP, action, **args)


def struck(injector: Injector, slots: range) -> list[tuple[int, str]]:
    return [(slot, due.action) for slot in slots for due in injector.due(slot)]


def passed(injector: Injector, frames: int, slot: int = 0) -> list[bytes]:
    sends = [Send(PEER, bytes([number])) for number in range(frames)]
    return [send.frame for send in injector.pass_on(sends, slot)]


def test_a_fault_strikes_in_its_slot_or_the_first_one_after_it() -> None:
    own = (fault(3, "lie"), fault(5, "corrupt_checkpoint"))
    assert struck(Injector(NodeFaults(own), AP), range(8)) == [(3, "lie"), (5, "corrupt_checkpoint")]
    assert struck(Injector(NodeFaults(own), AP), range(4, 8)) == [(4, "lie"), (5, "corrupt_checkpoint")]


def test_a_life_begins_after_the_fault_that_ended_the_one_before() -> None:
    own = tuple(fault(slot, action) for slot, action in enumerate(("lie", "kill", "disk_full", "hang", "lie")))
    lives = [struck(Injector(NodeFaults(own), AP, life), range(5)) for life in range(3)]
    assert lives == [[(0, "lie"), (1, "kill"), (2, "disk_full"), (4, "lie")], lives[1], [(4, "lie")]]
    assert lives[1] == [(2, "disk_full"), (3, "hang"), (4, "lie")]


def test_nothing_strikes_in_the_same_moment_as_a_deadly_fault() -> None:
    injector = Injector(NodeFaults((fault(1, "kill"), fault(1, "lie"))), AP)
    assert [due.action for due in injector.due(1)] == ["kill"]


def test_crash_on_start_takes_so_many_lives_more() -> None:
    own = (fault(2, "crash_on_start", times=2), fault(6, "kill"))
    fails = [Injector(NodeFaults(own), AP, life).failing_starts for life in range(5)]
    assert fails == [False, True, True, False, False]
    assert struck(Injector(NodeFaults(own), AP, 3), range(9)) == [(6, "kill")]


def test_nodes_of_one_process_die_of_each_others_faults_and_of_those_that_strike_at_once_but_once() -> None:
    of_peer = [Fault(slot, PEER, action) for slot, action in ((2, "kill"), (2, "hang"), (5, "kill"), (6, "lie"))]
    plan = NodeFaults((fault(1, "kill"), *of_peer[:2], fault(2, "kill"), *of_peer[2:]))
    lives = [[struck(Injector(plan, node, life), range(9)) for node in (AP, PEER)] for life in range(5)]
    left = [(6, "lie")]
    assert lives == [
        [[(1, "kill")], left],
        [[(2, "kill")], [(2, "kill"), *left]],
        [[], [(2, "hang"), *left]],
        [[], [(5, "kill"), *left]],
        [[], left],
    ]


def test_a_node_that_dies_with_another_does_not_suffer_again_what_struck_it_until_then() -> None:
    plan = NodeFaults((Fault(2, PEER, "lie"), fault(2, "kill"), Fault(2, PEER, "disk_full"), Fault(3, PEER, "lie")))
    assert struck(Injector(plan, PEER), range(3)) == [(2, "lie"), (2, "disk_full")]
    assert struck(Injector(plan, PEER, 1), range(9)) == [(3, "lie")]
    assert [Injector(plan, node).active("lie", 2) is not None for node in (AP, PEER)] == [False, True]


def test_what_is_resumed_knows_no_fault_of_before() -> None:
    own = (fault(2, "kill"), fault(6, "kill"))
    assert struck(Injector(NodeFaults(own), AP, 0, first_slot=4), range(4, 9)) == [(6, "kill")]


def test_a_lasting_fault_is_active_for_its_slots() -> None:
    injector = Injector(NodeFaults((fault(2, "lie", slots=3),)), AP)
    assert [slot for slot in range(8) if injector.active("lie", slot)] == [2, 3, 4]
    assert injector.active("disk_full", 3) is None


def test_links_without_faults_pass_everything_on_in_order() -> None:
    injector = Injector(NodeFaults(links=(replace(BETWEEN, receivers=frozenset({"ap/2"}), loss=1.0),)), AP)
    assert passed(injector, 5) == [bytes([number]) for number in range(5)]


@pytest.mark.parametrize("chance", ["loss", "duplication", "corruption", "delay", "reordering"])
def test_a_chance_strikes_as_often_as_it_says_and_the_same_again(chance: str) -> None:
    faults = NodeFaults(links=(replace(BETWEEN, **{chance: 0.3}),), seed=5)
    injector = Injector(faults, AP)
    out = passed(injector, 250) + passed(injector, 250)
    counted = {
        "loss": injector.lost[PEER],
        "duplication": injector.doubled[PEER],
        "corruption": sum(frame != bytes([at % 250]) for at, frame in enumerate(out)),
        "delay": injector.under_way[PEER],
        "reordering": injector.under_way[PEER] * 2,
    }
    assert 0.2 < counted[chance] / 500 < 0.4
    again = Injector(faults, AP)
    assert passed(again, 250) + passed(again, 250) == out


def test_frames_add_up() -> None:
    rates = {"loss": 0.2, "duplication": 0.3, "delay": 0.2, "reordering": 0.1, "delay_slots": 3}
    injector = Injector(NodeFaults(links=(replace(BETWEEN, **rates),)), AP)  # type: ignore[arg-type]
    out = [passed(injector, 20, slot) for slot in range(10)]
    arrived = sum(len(frames) for frames in out)
    assert 200 + injector.doubled[PEER] == arrived + injector.lost[PEER] + injector.under_way[PEER]


def test_a_delayed_frame_leaves_at_most_so_many_slots_later() -> None:
    injector = Injector(NodeFaults(links=(replace(BETWEEN, last=0, delay=1.0, delay_slots=3),)), AP)
    assert passed(injector, 60) == []
    later = [len(passed(injector, 0, slot)) for slot in range(1, 5)]
    assert sum(later[:3]) == 60
    assert min(later[:3]) > 5


def test_a_reordered_frame_leaves_after_what_is_sent_next() -> None:
    injector = Injector(NodeFaults(links=(replace(BETWEEN, reordering=1.0, frames=frozenset({0})),)), AP)
    assert passed(injector, 1) == []
    assert passed(injector, 2) == [b"\x00", b"\x01", b"\x00"]


def test_an_exact_list_of_frames_is_struck_and_no_other() -> None:
    injector = Injector(NodeFaults(links=(replace(BETWEEN, loss=1.0, frames=frozenset({1, 3})),)), AP)
    assert passed(injector, 5) == [b"\x00", b"\x02", b"\x04"]


def test_a_rule_holds_in_its_slots_only() -> None:
    injector = Injector(NodeFaults(links=(replace(BETWEEN, first=2, last=3, loss=1.0),)), AP)
    assert [len(passed(injector, 1, slot)) for slot in range(5)] == [1, 1, 0, 0, 1]


def test_a_damaged_frame_fails_its_checksum() -> None:
    frame, rng = encode(CoopDecline(3, 1)), generator(0, Purpose.LINK_FAULTS)
    for _ in range(200):
        with pytest.raises(WireError, match="CRC32"):
            decode(damaged_frame(frame, rng))
