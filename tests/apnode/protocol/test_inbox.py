"""Early, late, twice: what waits, what is dropped, and under which word it is counted."""

from typing import Any

import numpy as np
import pytest

from apnode.protocol.fields import Message
from apnode.protocol.inbox import SlotInbox
from apnode.protocol.messages import ClusterBlock, CommonLinks, CoopDecline, CoopRequest, Deadline, LinkState
from apnode.protocol.node import KEPT, Fate


@pytest.fixture
def drops() -> list[str]:
    return []


@pytest.fixture
def kept() -> list[None]:
    return []


class Noted(SlotInbox):
    """An inbox that notes what became of each message."""

    def __init__(self, drops: list[str], kept: list[None]) -> None:
        super().__init__()
        self._drops, self._kept = drops, kept

    def park(self, message: Any, upcoming: int) -> Fate:
        fate = super().park(message, upcoming)
        if fate is KEPT:
            self._kept.append(None)
        elif fate is not None:
            self._drops.append(fate)
        return fate

    def first_time(self, message: Message) -> bool:
        first = super().first_time(message)
        if not first:
            self._drops.append("duplicate")
        return first


@pytest.fixture
def inbox(drops: list[str], kept: list[None]) -> SlotInbox:
    return Noted(drops, kept)


def test_messages_wait_for_their_slot(inbox: SlotInbox, drops: list[str], kept: list[None]) -> None:
    now, soon, now_too = CoopDecline(5, 1), CoopDecline(6, 1), CoopDecline(5, 2)
    for message in (now, soon, now_too):
        inbox.park(message, upcoming=5)
    assert inbox.open(5) == [now, now_too]
    assert inbox.open(6) == [soon]
    assert not drops
    assert len(kept) == 3


def test_looking_at_what_waits_takes_nothing(inbox: SlotInbox) -> None:
    inbox.park(CoopDecline(5, 1), upcoming=5)
    assert inbox.parked(5) == inbox.parked(5) == inbox.open(5)
    assert inbox.parked(6) == []


def test_a_message_is_handed_out_once(inbox: SlotInbox) -> None:
    inbox.park(CoopDecline(5, 1), upcoming=5)
    assert len(inbox.open(5)) == 1
    assert inbox.open(5) == []


def test_late_is_dropped(inbox: SlotInbox, drops: list[str], kept: list[None]) -> None:
    inbox.park(CoopDecline(4, 1), upcoming=5)
    assert drops == ["late"]
    assert not kept
    assert inbox.open(4) == []


def test_what_waited_for_a_slot_that_never_opened_is_handed_out_with_the_next(inbox: SlotInbox) -> None:
    stale, due = CoopDecline(5, 1), CoopDecline(6, 1)
    for message in (due, stale):
        inbox.park(message, upcoming=5)
    assert inbox.open(6) == [stale, due]
    assert inbox.parked(5) == []


def test_what_is_too_far_ahead_is_dropped(inbox: SlotInbox, drops: list[str]) -> None:
    for slot in range(5, 2000):
        inbox.park(CoopDecline(slot, 1), upcoming=5)
    waiting = [slot for slot in range(2000) if inbox.parked(slot)]
    assert waiting == [5, 6, 7, 8]
    assert drops == ["flood"] * (1995 - 4)


def test_a_flood_fills_its_own_slot_only(inbox: SlotInbox, drops: list[str]) -> None:
    for ap in range(5000):
        inbox.park(CoopRequest(5, ap, (0,)), upcoming=5)
    kept = len(inbox.parked(5))
    assert kept <= 1024
    assert drops == ["flood"] * (5000 - kept)
    inbox.park(CoopDecline(6, 2), upcoming=5)
    assert len(inbox.parked(6)) == 1


def test_a_flood_of_aps_leaves_room_for_the_channel_server(inbox: SlotInbox) -> None:
    for sender in range(5000):
        inbox.park(CoopDecline(5, sender), upcoming=5)
    inbox.park(Deadline(5), upcoming=5)
    assert isinstance(inbox.open(5)[-1], Deadline)


def test_early_messages_wait_once_for_each_kind_and_sender(inbox: SlotInbox, drops: list[str]) -> None:
    first, again, other, later = (
        CoopRequest(5, 1, (0,)),
        CoopRequest(5, 1, (2,)),
        CoopDecline(5, 1),
        CoopDecline(6, 1),
    )
    for message in (first, again, other, later):
        inbox.park(message, upcoming=5)
    assert inbox.open(5) == [first, other]
    assert inbox.open(6) == [later]
    assert drops == ["duplicate"]


def test_first_time_is_once_for_each_kind_and_sender(inbox: SlotInbox, drops: list[str]) -> None:
    different: list[Message] = [
        CoopDecline(5, 1),
        CoopDecline(5, 2),
        CoopRequest(5, 1, ()),
        Deadline(5),
    ]
    assert all(inbox.first_time(message) for message in different)
    assert not drops
    assert not any(inbox.first_time(message) for message in different)
    assert drops == ["duplicate"] * len(different)


def test_a_second_message_of_a_kind_is_a_duplicate_whatever_it_says(inbox: SlotInbox, drops: list[str]) -> None:
    assert inbox.first_time(CoopRequest(5, 1, (0,)))
    assert not inbox.first_time(CoopRequest(5, 1, (0, 1)))
    assert drops == ["duplicate"]


def test_a_new_slot_has_first_times_again(inbox: SlotInbox, drops: list[str]) -> None:
    assert inbox.first_time(CoopDecline(5, 1))
    inbox.open(6)
    assert inbox.first_time(CoopDecline(6, 1))
    assert not drops


NO_LINKS = np.zeros((0, 2), int), [], np.zeros((0, 2), int)


def test_rounds_and_owners_are_told_apart_early_and_in_time(inbox: SlotInbox, drops: list[str]) -> None:
    """One sender passes on the blocks of several owners, and says something in every round."""
    blocks = [
        ClusterBlock(5, ap, owner, (), np.zeros((1, 2, 0)), [], np.zeros((0, 2, 2)))
        for ap in (1, 2)
        for owner in (1, 2, 3)
    ]
    states: list[Message] = [LinkState(5, 1, number, (1,), *NO_LINKS) for number in (1, 2, 3)]
    states += [CommonLinks(5, ap, number, np.zeros((0, 3), int)) for ap in (1, 2) for number in (1, 2)]
    for message in (*blocks, *states, *blocks, *states):
        inbox.park(message, upcoming=5)
    assert drops == ["duplicate"] * 13
    waiting = inbox.open(5)
    assert waiting == [*blocks, *states]
    assert all(inbox.first_time(message) for message in waiting)
    assert not any(inbox.first_time(message) for message in waiting)
    assert drops == ["duplicate"] * 26
