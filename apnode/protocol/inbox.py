"""Early, late, twice: holds messages until their slot opens, so that the order of arrival does not matter."""

from __future__ import annotations

from typing import Any

from apnode.protocol.fields import Message
from apnode.protocol.messages import ClusterBlock
from apnode.protocol.node import KEPT, Fate

_SLOTS_AHEAD = 4
_MESSAGES_PER_SLOT = 1024
_NO_AP = -1  # sent by the channel server, which has no number; always let in
_Key = tuple[type[Message], int, int]  # kind, sender, which of the sender's


class SlotInbox:
    """Messages of slots that have not opened yet; bounded, so a flood costs memory once."""

    def __init__(self) -> None:
        self._parked: dict[int, dict[_Key, Message]] = {}
        self._seen: set[_Key] = set()  # in the open slot

    def park(self, message: Any, upcoming: int) -> Fate:
        """Keep a message for its slot; `upcoming` is the earliest slot that is not over."""
        key = _key(message)
        waiting = self._parked.get(message.slot, {})
        if message.slot < upcoming:
            return "late"
        if key in waiting:
            return "duplicate"
        if message.slot >= upcoming + _SLOTS_AHEAD or (len(waiting) >= _MESSAGES_PER_SLOT and key[1] != _NO_AP):
            return "flood"
        self._parked.setdefault(message.slot, {})[key] = message
        return KEPT

    def parked(self, slot: int) -> list[Message]:
        """What waits for a slot."""
        return list(self._parked.get(slot, {}).values())

    def open(self, slot: int) -> list[Message]:
        """Take what waits for a slot, or still for an earlier one."""
        self._seen.clear()
        due = sorted(index for index in self._parked if index <= slot)
        return [message for index in due for message in self._parked.pop(index).values()]

    def first_time(self, message: Message) -> bool:
        """Whether this is the open slot's first message of its kind from its sender, of an owner or round if any."""
        if _key(message) in self._seen:
            return False
        self._seen.add(_key(message))
        return True


def _key(message: Message) -> _Key:
    part = message.owner if isinstance(message, ClusterBlock) else getattr(message, "round", 0)
    return type(message), getattr(message, "ap", _NO_AP), part
