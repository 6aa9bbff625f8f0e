"""A node is a pure state machine: one message in, addressed frames out. It has no clock, socket or thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apnode.protocol.fields import Message
from apnode.protocol.messages import (
    KINDS,
    TAGS,
    Association,
    Deadline,
    FaultFired,
    PilotBlock,
    Resend,
    RunOver,
    SlotFeedback,
    SlotReport,
)
from apnode.protocol.state import Checkpoint
from apnode.protocol.wire import MAX_FRAME, WireError, decode, encode

CHANNEL = "channel"
COORDINATOR = "coordinator"
REPORTS_KEPT = 64  # to be told again to a coordinator that did not get them
DROPS = ("oversized", "checksum", "version", "malformed", "forged", "unexpected", "late", "duplicate", "flood")


def ap_address(ap: int) -> str:
    """The logical address of AP `ap`."""
    return f"ap/{ap}"


_OF_THE_CHANNEL_SERVER = (Association, PilotBlock, SlotFeedback, Deadline, RunOver, SlotReport)


def speaker_of(message: Any) -> str:
    """The logical address of the only node that may say this."""
    if isinstance(message, _OF_THE_CHANNEL_SERVER):
        return CHANNEL
    if isinstance(message, Resend):
        return COORDINATOR
    return str(message.node) if isinstance(message, FaultFired) else ap_address(message.ap)


class RefusedError(Exception):
    """A valid message that does not fit the node it came to; its sender is at fault, and it is only counted."""


def refuse_unless(condition: bool, what: str) -> None:
    """Refuse the message being handled, before it has changed anything.

    Raises:
        RefusedError: saying `what`, unless `condition` holds.
    """
    if not condition:
        raise RefusedError(what)


Fate = str | None  # what became of a message, as its handler returns it: ACCEPTED, KEPT, or the reason of DROPS
ACCEPTED: Fate = None
KEPT: Fate = "kept"  # until its slot opens


@dataclass(frozen=True, slots=True)
class Send:
    """One frame to one logical address; the runtime knows how to get there."""

    to: str
    frame: bytes
    message: Message | None = field(default=None, compare=False)  # that is in it; None if somebody changed the frame
    speakers: frozenset[str] | None = field(default=None, compare=False)  # nodes of the process whose key it came with;
    # None: it is of this process, or came by a transport without keys


class Node:
    """Decodes, dispatches to a handler by the kind of message, encodes and counts what is sent, accepted and dropped.

    Bad frames and messages that do not fit are a peer's fault: counted, dropped, and the node goes on. Anything
    else that goes wrong is ours, and a crash.

    Every frame received counts once, as accepted or, for one reason, as dropped: received = accepted + dropped + kept.
    What waits for its slot is kept until then; so what a report says depends on what came, not on when.
    """

    def __init__(self, address: str, max_frame_bytes: int = MAX_FRAME) -> None:
        self.address = address
        self.endpoints: dict[str, str] = {}  # logical address -> where the transport finds it, as peers announced
        self.done = False  # nothing more will come of this node
        self.opened = -1  # the newest slot that it has been in
        self.checkpointed = 0  # slots completed by its newest checkpoint on disk, as the runtime says; 0: none
        self.unsaved = 0  # checkpoints that the runtime could not write since the last report
        self.sent = np.zeros((2, len(KINDS)), np.uint32)  # messages, bytes since the last report, by tag
        self.dropped = np.zeros(len(DROPS), np.uint32)  # since the last report, by reason
        self.accepted = 0  # frames since the last report
        self.kept = 0  # frames that wait for their slot
        self.took = False  # whether the last frame was not dropped
        self._max_frame_bytes = max_frame_bytes
        self._out: list[Send] = []
        self._reports: deque[tuple[int, Message]] = deque(maxlen=REPORTS_KEPT)  # the newest, with their slots
        self._handlers: dict[type[Message], Callable[[Any], Fate]] = {}

    def receive(
        self, frame: bytes, message: Message | None = None, speakers: frozenset[str] | None = None
    ) -> list[Send]:
        """Handle one frame; what is not a message, or not its sender's to say, is counted and dropped.

        Args:
            frame: off the wire.
            message: what is in it, if a node of this process has made it: there is nothing to decode then.
            speakers: as in Send.
        """
        try:
            message = decode(frame, self._max_frame_bytes) if message is None else message
        except WireError as error:
            self._count(error.reason)
            self.took = False
            return []
        if speakers is not None and speaker_of(message) not in speakers:
            self._count("forged")
            self.took = False
            return []
        self.took = self._take_in(message) in (ACCEPTED, KEPT)
        return self._take_out()

    def handle(self, message: Message) -> list[Send]:
        """Handle one message and return what it makes this node send."""
        self._dispatch(message)
        return self._take_out()

    def report(self, slot: int, message: Message) -> list[Send]:
        """What it takes to tell the coordinator of something that is not the node's own business."""
        self._tell_coordinator(slot, message)
        return self._take_out()

    def take_checkpoint(self) -> Checkpoint | None:
        """What is to be written to disk, once, if there is anything."""
        return None

    @property
    def now(self) -> int:
        """The newest slot that it has been in or heard of."""
        return self.opened

    @property
    def has_leisure(self) -> bool:
        """Whether this node is only waiting for others, with something left to do that could wait until now."""
        return False

    def use_leisure(self) -> None:
        """Do what could wait until now. No node depends on being given the time."""

    def _take_in(self, message: Message) -> Fate:
        """Dispatch the message of a frame, and count it if it was accepted; returns what became of it."""
        fate = self._dispatch(message)
        self.accepted += fate is ACCEPTED
        return fate

    def _dispatch(self, message: Message) -> Fate:
        """Hand a message to its handler; returns what became of it, which is counted unless it was accepted."""
        handler = self._handlers.get(type(message))
        try:
            self._check(message)
            fate = handler(message) if handler is not None else "unexpected"
        except RefusedError:
            fate = "malformed"
        self._count(fate)
        return fate

    def _check(self, message: Message) -> None:
        """Refuse a message that does not fit, before its handler sees it; raises RefusedError."""

    def _count(self, fate: Fate) -> None:
        if fate is KEPT:
            self.kept += 1
        elif fate is not ACCEPTED:
            self.dropped[DROPS.index(fate)] += 1

    def _take_out(self) -> list[Send]:
        out, self._out = self._out, []
        return out

    def _send(self, to: str, message: Message) -> None:
        frame = encode(message, self._max_frame_bytes)
        tag = TAGS[type(message)]
        self.sent[0, tag] += 1
        self.sent[1, tag] += len(frame)
        self._out.append(Send(to, frame, message))

    def _tell_coordinator(self, slot: int, report: Message) -> None:
        """Report, and remember what was reported."""
        self._reports.append((slot, report))
        self._send(COORDINATOR, report)

    def _on_resend(self, resend: Resend) -> Fate:
        """The coordinator was away, or something was lost on the way to it."""
        for slot, report in self._reports:
            if slot >= resend.slot:
                self._send(COORDINATOR, report)
        return ACCEPTED

    def _take_counts(self) -> dict[str, Any]:
        """What was sent, dropped and accepted since the last call, as reports have it; starts the counts again."""
        counts = {"sent": self.sent, "dropped": self.dropped, "accepted": self.accepted}
        self.sent, self.dropped, self.accepted = np.zeros_like(self.sent), np.zeros_like(self.dropped), 0
        return counts
