"""The faults of a run with a fault plan: of nodes in given slots, of the links between them, and lies about channels.

Where faults strike is a pure function of the plan and its seed, so a run in one process replays exactly. The runtime
carries them out: real signals to real processes, or their image in one process. A liar's own state machine is healthy:
it knows its true channels, and what it says of them is changed as it leaves the node.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from apnode.protocol.messages import ChannelBlock, ClusterBlock, SelfReport
from apnode.protocol.node import Send, ap_address
from apnode.protocol.rng import Purpose, generator
from apnode.protocol.wire import encode

DEADLY = ("kill", "restart", "hang", "crash_on_start", "kill_channel_server", "kill_coordinator")
LASTING = ("lie", "disk_full")
LIES = ("random", "scaled", "conjugate")  # about channels
EAGER = "eager"  # about what one has learned: that asking everybody is worth more than anything
INNOCENT = "innocent"  # about oneself: that nothing is wrong with one, and that one knows it
_MOST = 1e3  # more than that of a weight is not understood
FACTOR = 10.0  # scaled: amplitudes are told too large by this
_ANY_LENGTH = 2**31  # [B] of a frame of the node itself


Block = ChannelBlock | ClusterBlock


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one node: it strikes when the node opens the slot, or the first one after it."""

    slot: int
    node: str  # logical address
    action: str
    slots: int = 1  # how long it lasts, or the node stays down in virtual time
    times: int = 1  # crash_on_start: how many starts fail
    kind: str = ""  # lie: one of LIES, EAGER or INNOCENT

    def __str__(self) -> str:
        return f"{self.action} of {self.node} in slot {self.slot}"


@dataclass(frozen=True, slots=True)
class LinkFault:
    """What happens to frames on the links from `senders` to `receivers`; each chance is that of one frame."""

    senders: frozenset[str]
    receivers: frozenset[str]
    first: int = 0  # slot, as far as the sender has heard
    last: int = 2**40
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0  # sent after what the sender sends next
    corruption: float = 0.0  # of one bit or several
    delay: float = 0.0
    delay_slots: int = 1  # at most, drawn uniformly
    frames: frozenset[int] = frozenset()  # by number on the link, from 0: to these it happens, whatever the chances

    def concerns(self, sender: str, receiver: str, slot: int) -> bool:
        return self.first <= slot <= self.last and sender in self.senders and receiver in self.receivers


@dataclass(frozen=True, slots=True)
class NodeFaults:
    """The part of a plan that the nodes of one process need to know."""

    own: tuple[Fault, ...] = ()  # of these nodes, in order of their slots
    links: tuple[LinkFault, ...] = ()  # from these nodes
    seed: int = 0


class Struck(Exception):  # noqa: N818  no error: it was planned
    """The node's process is to end here, or to freeze, once it has sent its last words."""

    def __init__(self, fault: Fault, last_words: list[Send]) -> None:
        super().__init__(str(fault))
        self.fault = fault
        self.last_words = last_words


class Injector:
    """Brings the planned faults about, for one life of one node."""

    def __init__(self, faults: NodeFaults, address: str, incarnation: int = 0, first_slot: int = 0) -> None:
        """Take up the plan where the node's last life has left it.

        Args:
            faults: of the nodes of its process.
            address: of this node.
            incarnation: how many lives its process had; each has ended by the plan's next deadly fault.
            first_slot: of the run, or of what is resumed of it; faults have struck before it, but may last.
        """
        self._address = address
        own = [fault for fault in faults.own if fault.slot >= first_slot]
        left, self.failing_starts = _after_lives(own, incarnation)
        end = _next_end(left)
        self._due = [f for f in left if f.node == address and (f.action not in DEADLY or f in end)]
        self._lasting = [fault for fault in faults.own if fault.node == address and fault.action in LASTING]
        self._links = faults.links
        self._seed = faults.seed
        self._slot = -1  # of the newest frame
        self._alike: Counter[tuple[str, int]] = Counter()  # frames in it, by receiver and checksum
        self._numbers: Counter[str] = Counter()  # frames to it
        self._held: list[tuple[int, Send]] = []  # with the slot from which on they may go
        self.lost: Counter[str] = Counter()  # frames, by receiver
        self.doubled: Counter[str] = Counter()

    def due(self, slot: int) -> list[Fault]:
        """The faults that strike in a slot, or should have before it; each once, and none after a deadly one."""
        struck = []
        while self._due and self._due[0].slot <= slot:
            struck.append(self._due.pop(0))
            if struck[-1].action in DEADLY:
                break
        return struck

    def active(self, action: str, slot: int) -> Fault | None:
        """The lasting fault of a kind that there is in a slot."""
        return next((f for f in self._lasting if f.action == action and f.slot <= slot < f.slot + f.slots), None)

    def pass_on(self, sends: Iterable[Send], slot: int) -> list[Send]:
        """What the links make of the frames that the node sends in a slot, and of those they held back."""
        due = [send for until, send in self._held if until <= slot]
        self._held = [(until, send) for until, send in self._held if until > slot]
        out = [passed for send in sends for passed in self._through(send, slot)]
        return out + due

    def _through(self, send: Send, slot: int) -> Sequence[Send]:
        number = self._numbers[send.to]
        self._numbers[send.to] += 1
        copies = [self._falsified(send)]
        rules = [
            rule for rule in self._links
            if rule.concerns(self._address, send.to, slot) and (not rule.frames or number in rule.frames)
        ]  # fmt: skip
        if not rules:
            return copies
        rng = self._generator(send, slot)
        for rule in rules:
            copies = self._bent(rule, copies, slot, rng)
        return copies

    def _falsified(self, send: Send) -> Send:
        """What a liar tells of its channels, of what it has learned or of itself; all else as it is."""
        block = send.message
        if not isinstance(block, ChannelBlock | ClusterBlock | SelfReport):
            return send
        lie = self.active("lie", block.slot)
        told = block if lie is None else self._lied(block, lie.kind)
        return send if told is block else Send(send.to, encode(told, _ANY_LENGTH), told)

    def _lied(self, block: Block | SelfReport, kind: str) -> Block | SelfReport:
        """A lie in place of what a message says, in one slot the same for all receivers and the same UEs."""
        if isinstance(block, SelfReport):
            return replace(block, levels=np.zeros_like(block.levels)) if kind == INNOCENT else block
        if kind == EAGER and isinstance(block, ChannelBlock) and len(block.learned):
            return replace(block, learned=np.append(block.learned[:-1], np.float32(_MOST)))  # bias of the last output
        owner = getattr(block, "owner", block.ap)
        if kind not in LIES or not len(block.h_hat) or ap_address(owner) != self._address:
            return block  # what others told it passes on as it came
        return false_block(block, kind, generator(self._seed, Purpose.LIES, owner, block.slot))

    def _bent(self, rule: LinkFault, copies: Sequence[Send], slot: int, rng: np.random.Generator) -> list[Send]:
        out = []
        for send in copies:
            lost, doubled, late, out_of_order, damaged = rng.random(5) < (
                rule.loss, rule.duplication, rule.delay, rule.reordering, rule.corruption
            )  # fmt: skip
            if lost:
                self.lost[send.to] += 1
                continue
            self.doubled[send.to] += int(doubled)
            if damaged:
                send = Send(send.to, damaged_frame(send.frame, rng))
            for _ in range(1 + doubled):
                if late:
                    self._held.append((slot + int(rng.integers(1, rule.delay_slots + 1)), send))
                elif out_of_order:
                    self._held.append((slot, send))
                else:
                    out.append(send)
        return out

    def _generator(self, send: Send, slot: int) -> np.random.Generator:
        """Of what befalls a frame: the same whatever was sent before it, so that a resumed run has the same faults."""
        if slot != self._slot:
            self._slot = slot
            self._alike.clear()
        link, checksum = zlib.crc32(f"{self._address} {send.to}".encode()), zlib.adler32(send.frame)
        self._alike[send.to, checksum] += 1
        key = link, slot + 1, checksum, self._alike[send.to, checksum]
        return generator(self._seed, Purpose.LINK_FAULTS, *key)

    @property
    def under_way(self) -> Counter[str]:
        """Frames held back, by receiver."""
        return Counter(send.to for _, send in self._held)


def false_block(block: Block, kind: str, rng: np.random.Generator) -> Block:
    """The block with other estimates.

    `random`: independent draws that have each UE's mean power in this block, so that no statistic of the block gives
    them away; `scaled`: too large by FACTOR; `conjugate`: of the other sign of phase, which leaves every power and the
    magnitude of every correlation between UEs as it was.

    Args:
        block: the true one.
        kind: of lie.
        rng: where draws come from.
    """
    h_hat = block.h_hat.astype(complex)
    match kind:
        case "random":
            draws = rng.standard_normal((2, *h_hat.shape))
            told = (draws[0] + 1j * draws[1]) * np.sqrt((np.abs(h_hat) ** 2).mean(axis=(0, 1)) / 2)
        case "scaled":
            told = h_hat * FACTOR
        case "conjugate":
            told = h_hat.conj()
        case _:
            raise ValueError(f"unknown lie {kind!r}; known: {', '.join(LIES)}")
    return replace(block, h_hat=told)


def damaged_frame(frame: bytes, rng: np.random.Generator) -> bytes:
    """The frame with up to eight bits flipped."""
    bits = np.unpackbits(np.frombuffer(frame, np.uint8))
    bits[rng.choice(len(bits), size=int(rng.integers(1, 9)), replace=False)] ^= 1
    return np.packbits(bits).tobytes()


def _after_lives(own: Sequence[Fault], lives: int) -> tuple[list[Fault], bool]:
    """The faults that are left for the nodes of a process after so many lives, and whether it fails to start now."""
    left = list(own)
    while lives:
        end = _next_end(left)
        if not end:
            return [], False  # it died of something else
        left = _after(left, end)
        lives -= 1
        if end[0].action == "crash_on_start":
            if lives < end[0].times:
                return left, True
            lives -= end[0].times
    return left, False


def _next_end(left: Sequence[Fault]) -> list[Fault]:
    """What ends a process next: the first deadly fault, and those of its other nodes that are to strike with it."""
    first = next((fault for fault in left if fault.action in DEADLY), None)
    return [f for f in left if first and (f.slot, f.action, f.times) == (first.slot, first.action, first.times)]


def _after(left: Sequence[Fault], end: Sequence[Fault]) -> list[Fault]:
    """The faults that are left once `end` has struck, and all else that was to strike these nodes until then."""
    kept, struck = list[Fault](), set[str]()
    for fault in left:
        if fault in end:
            struck.add(fault.node)
        elif fault.slot > end[0].slot or fault.action in DEADLY or fault.node in struck:
            kept.append(fault)
    return kept
