"""A node on its machine: with the disk it keeps checkpoints on, and whatever a fault plan does to it and its links."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from apnode.access_point import AccessPoint
from apnode.protocol.fields import Message
from apnode.protocol.messages import TAGS, ChannelBlock, FaultFired, Tick, in_time
from apnode.protocol.node import CHANNEL, COORDINATOR, Node, Send
from apnode.protocol.state import StateError
from apnode.protocol.wire import decode, encode
from apnode.runtime.checkpoint import Checkpoints
from apnode.runtime.injector import DEADLY, Fault, Injector, Struck

CHECKPOINTS = "checkpoints"  # in a run's folder
SILENT_SLOTS = 5  # at least, for which a node has heard nothing when its timer fires
_ANY_LENGTH = 2**31  # [B] of a frame of the node itself
FIRED = ".fired"  # a node's diary of the faults that struck it, in the same folder


def restore(ap: AccessPoint, checkpoints: Checkpoints, first_slot: int) -> None:
    """Give an AP back what it knew: before `first_slot` where the run goes on, or all if its process died."""
    if not ap.incarnation and not first_slot:
        return
    saved = checkpoints.load() if ap.incarnation else checkpoints.newest_until(first_slot)
    if saved is None:
        return
    try:
        ap.restore(saved.state)
    except StateError:
        checkpoints.failures["config"] += 1  # it was changed between two halves of a run


def noted_faults(folder: Path) -> list[FaultFired]:
    """What the nodes of a run that were on this machine have noted of the faults that struck them."""
    return [fired for diary in sorted((folder / CHECKPOINTS).glob(f"*{FIRED}")) for fired in _read_diary(diary)]


def _read_diary(diary: Path) -> list[FaultFired]:
    lines = diary.read_text().splitlines()
    return [fired for line in lines if isinstance(fired := decode(bytes.fromhex(line)), FaultFired)]


class Host:
    """Between a runtime and a node, the same on every runtime: frames in, frames out, and checkpoints written."""

    def __init__(
        self,
        node: Node,
        checkpoints: Checkpoints | None = None,
        injector: Injector | None = None,
        folder: Path | None = None,
        late: int = 0,
    ) -> None:
        """Put a node on a machine.

        Args:
            node: the state machine.
            checkpoints: where an AP's are kept.
            injector: brings about what a fault plan says.
            folder: the run's, where faults that struck are noted: what is said while dying may not be heard.
            late: coherence blocks by which an AP's own estimates come late to others; the AP does not know.
        """
        self.node = node
        self._diary = None if folder is None else folder / f"{node.address.replace('/', '-')}{FIRED}"
        self.checkpoints = checkpoints
        self.injector = injector
        self.sent: Counter[str] = Counter()  # frames the node wanted sent, by receiver; kept if there is a fault plan
        self._late = late
        self._silences = 0  # timers gone off in a row, without a frame between

    def begin(self, sends: list[Send]) -> list[Send]:
        """What the node says at its start, as the links let it through; and which faults ended its lives before."""
        before = [send for fired in self._noted() for send in self._report(fired)]
        self.sent.update(send.to for send in before)
        return self.after(sends) + before

    def receive(
        self, frame: bytes, message: Message | None = None, speakers: frozenset[str] | None = None
    ) -> list[Send]:
        """Let the node handle a frame, as its `receive` does.

        Raises:
            Struck: if this is where its process is to end or freeze; what it wanted to send is lost with it.
        """
        self._silences = 0
        return self.after(self.node.receive(frame, message, speakers))

    def tick(self) -> list[Send]:
        """Let the node know that time has passed; raises as `receive`."""
        self._silences += 1
        return self.after(self.node.handle(Tick()))

    def books(self) -> dict[str, int]:
        """Frames that the node has sent and received since its last report; planned losses and doubles of this life."""
        lost, doubled = (self.injector.lost, self.injector.doubled) if self.injector else (Counter(), Counter())
        return {
            "sent": int(self.node.sent[0].sum()),
            "received": int(self.node.accepted + self.node.dropped.sum()),
            "planned": lost.total(),
            "doubled": doubled.total(),
        }

    def after(self, out: list[Send]) -> list[Send]:
        """What comes of what the node wants sent, with its disk, its links and its faults; raises as `receive`."""
        if self.checkpoints is not None:
            saved = self.node.take_checkpoint()
            if saved is not None and self.checkpoints.save(saved):
                self.node.checkpointed = saved.completed
            elif saved is not None:
                self.node.unsaved += 1
        if self._late:
            out = [self._in_time(send) for send in out]
        return out if self.injector is None else self._afflicted(out, self.injector)

    def _in_time(self, send: Send) -> Send:
        """Of a channel block what a slow fronthaul delivers in time; only this counts as sent."""
        if not isinstance(send.message, ChannelBlock):
            return send
        block = in_time(send.message, self._late)
        frame = encode(block, _ANY_LENGTH)
        self.node.sent[1, TAGS[ChannelBlock]] -= len(send.frame) - len(frame)
        return Send(send.to, frame, block)

    def _afflicted(self, out: list[Send], injector: Injector) -> list[Send]:
        """What comes of it under the fault plan; what is said about faults goes past it."""
        slot = self.node.opened
        reports, deadly = self.strike(slot)
        if deadly is not None:
            raise Struck(deadly, reports)
        if self.checkpoints is not None:
            self.checkpoints.disk_full = injector.active("disk_full", slot) is not None
        self.sent.update(send.to for send in out + reports)
        return injector.pass_on(out, self._now) + reports

    def strike(self, slot: int) -> tuple[list[Send], Fault | None]:
        """Bring about what is planned for the node up to a slot; returns what it says of that, and what ends it."""
        reports = list[Send]()
        for fault in self.injector.due(slot) if self.injector is not None else ():
            reports += self._note(fault)
            if fault.action in DEADLY:
                return reports, fault
            if fault.action == "corrupt_checkpoint" and self.checkpoints is not None:
                self.checkpoints.corrupt_newest()
        return reports, None

    @property
    def _now(self) -> int:
        """The slot as its links have it: while they are cut it may open none, and yet they are to be mended in time.

        So what it hears of others counts as well, and silence that goes on. (The channel server's timer fires within a
        slot.)
        """
        patience = max(0, self._silences - 1) if self.node.address != CHANNEL else 0
        return self.node.now + SILENT_SLOTS * patience

    def _note(self, fault: Fault) -> list[Send]:
        """Write down and say what is about to happen."""
        fired = FaultFired(fault.slot, fault.node, fault.action)
        if self._diary is not None:
            self._diary.parent.mkdir(parents=True, exist_ok=True)
            with self._diary.open("ab") as diary:
                diary.write(encode(fired).hex().encode() + b"\n")
        return self._report(fired)

    def _report(self, fired: FaultFired) -> list[Send]:
        """Tell the coordinator; if that is the one struck, it knows."""
        said = self.node.report(fired.slot, fired)
        if self.node.address != COORDINATOR:
            return said
        for send in said:
            self.node.receive(send.frame)
        return []

    def _noted(self) -> list[FaultFired]:
        return [] if self._diary is None or not self._diary.is_file() else _read_diary(self._diary)
