"""A node is a pure state machine: one message in, addressed frames out. It has no clock, socket or thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from apnode.fields import Message
from apnode.messages import KINDS, TAGS
from apnode.wire import MAX_FRAME, WireError, decode, encode

CHANNEL = "channel"
COORDINATOR = "coordinator"
DROPS = ("oversized", "checksum", "version", "malformed", "unexpected", "late", "duplicate", "flood")


def ap_address(ap: int) -> str:
    """The logical address of AP `ap`."""
    return f"ap/{ap}"


class RefusedError(Exception):
    """A valid message that does not fit the node it came to; its sender is at fault, and it is only counted."""


def refuse_unless(condition: bool, what: str) -> None:
    """Refuse the message being handled, before it has changed anything.

    Raises:
        RefusedError: saying `what`, unless `condition` holds.
    """
    if not condition:
        raise RefusedError(what)


@dataclass(frozen=True, slots=True)
class Send:
    """One frame to one logical address; the runtime knows how to get there."""

    to: str
    frame: bytes


class Node:
    """Decodes, dispatches to a handler by the kind of message, encodes and counts what is sent and dropped.

    Bad frames and messages that do not fit are a peer's fault: counted, dropped, and the node goes on. Anything
    else that goes wrong is ours, and a crash.
    """

    def __init__(self, address: str, max_frame_bytes: int = MAX_FRAME) -> None:
        self.address = address
        self.endpoints: dict[str, str] = {}  # logical address -> where the transport finds it, as peers announced
        self.done = False  # nothing more will come of this node
        self.sent = np.zeros((2, len(KINDS)), np.uint32)  # messages, bytes since the last report, by tag
        self.dropped = np.zeros(len(DROPS), np.uint32)  # since the last report, by reason
        self._max_frame_bytes = max_frame_bytes
        self._out: list[Send] = []
        self._handlers: dict[type[Message], Callable[[Any], None]] = {}

    def receive(self, frame: bytes) -> list[Send]:
        """Handle one frame off the wire; what is not a message is counted and dropped."""
        try:
            message = decode(frame, self._max_frame_bytes)
        except WireError as error:
            self._drop(error.reason)
            return []
        return self.handle(message)

    def handle(self, message: Message) -> list[Send]:
        """Handle one message and return what it makes this node send."""
        self._dispatch(message)
        return self._take_out()

    @property
    def has_leisure(self) -> bool:
        """Whether this node is only waiting for others, with something left to do that could wait until now."""
        return False

    def use_leisure(self) -> None:
        """Do what could wait until now. No node depends on being given the time."""

    def _dispatch(self, message: Message) -> None:
        handler = self._handlers.get(type(message))
        if handler is None:
            self._drop("unexpected")
            return
        try:
            handler(message)
        except RefusedError:
            self._drop("malformed")

    def _take_out(self) -> list[Send]:
        out, self._out = self._out, []
        return out

    def _send(self, to: str, message: Message) -> None:
        frame = encode(message, self._max_frame_bytes)
        tag = TAGS[type(message)]
        self.sent[0, tag] += 1
        self.sent[1, tag] += len(frame)
        self._out.append(Send(to, frame))

    def _drop(self, reason: str) -> None:
        self.dropped[DROPS.index(reason)] += 1

    def _take_counts(self) -> tuple[Any, Any]:
        """What was sent and dropped since the last call; starts both counts again."""
        sent, dropped = self.sent, self.dropped
        self.sent, self.dropped = np.zeros_like(sent), np.zeros_like(dropped)
        return sent, dropped
