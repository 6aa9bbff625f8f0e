"""Early, late, twice: holds messages until their slot opens, so that the order of arrival does not matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apnode.messages import Message

_SLOTS_AHEAD = 4
_MESSAGES_PER_SLOT = 1024


class SlotInbox:
    """Messages of slots that have not opened yet; bounded, so a flood costs memory once."""

    def __init__(self, drop: Callable[[str], None]) -> None:
        self._drop = drop  # called with the reason
        self._parked: dict[int, list[Message]] = {}
        self._seen: set[tuple[type[Message], int]] = set()  # (kind, sender) in the open slot

    def park(self, message: Any, upcoming: int) -> None:
        """Keep a message for its slot; `upcoming` is the earliest slot that is not over."""
        if message.slot < upcoming:
            self._drop("late")
        elif message.slot >= upcoming + _SLOTS_AHEAD or len(self.parked(message.slot)) >= _MESSAGES_PER_SLOT:
            self._drop("flood")
        else:
            self._parked.setdefault(message.slot, []).append(message)

    def parked(self, slot: int) -> list[Message]:
        """What waits for a slot."""
        return self._parked.get(slot, [])

    def open(self, slot: int) -> list[Message]:
        """Take what waits for a slot, and forget what waited for earlier ones."""
        self._seen.clear()
        waiting = self.parked(slot)
        self._parked = {index: messages for index, messages in self._parked.items() if index > slot}
        return waiting

    def first_time(self, message: Message) -> bool:
        """Whether this is the open slot's first message of its kind from its sender."""
        key = (type(message), getattr(message, "ap", -1))
        if key in self._seen:
            self._drop("duplicate")
            return False
        self._seen.add(key)
        return True
