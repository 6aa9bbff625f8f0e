"""The autonomous access point: the order of its slots and episodes, what it learns, and how it is stopped and restored.

It senses, asks, agrees, precodes, transmits and learns from messages alone; see `agreement` for what happens inside
a slot, and `checks` for the messages that it refuses.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from apnode.agent.observation import relative_gain
from apnode.agent.policies import NOTHING, Ddqn, Policy, learn_together
from apnode.agent.replay import Lesson, lesson_arrays, lesson_layout, lesson_of
from apnode.agent.view import action_of
from apnode.agreement import HANDLERS, Agreement
from apnode.checks import Checks
from apnode.config import Config
from apnode.episode import Episode
from apnode.protocol.fields import Message
from apnode.protocol.inbox import SlotInbox
from apnode.protocol.messages import (
    Association,
    ChannelBlock,
    ClusterBlock,
    CommonLinks,
    CoopDecline,
    CoopRequest,
    Deadline,
    GainReport,
    Hello,
    LinkState,
    PilotBlock,
    Resend,
    RunOver,
    SelfReport,
    SlotFeedback,
    Tick,
)
from apnode.protocol.node import ACCEPTED, CHANNEL, Fate, Send
from apnode.protocol.state import Checkpoint, State, joined, part, refuse_other
from apnode.radio.precoding import Precoder
from apnode.radio.trust import OPINIONS, Trust
from apnode.slot import Slot

_InCluster = LinkState | CommonLinks | ClusterBlock
_OfSlot = CoopRequest | ChannelBlock | CoopDecline | _InCluster | SlotFeedback | GainReport | SelfReport


class AccessPoint(Agreement):
    """AP `ap`: a pure state machine whose inbox is the only way in; `policy` is its own agent."""

    def __init__(self, ap: int, config: Config, policy: Policy, incarnation: int = 0) -> None:
        super().__init__(ap, config, policy)
        self.completed = 0  # slots
        self.incarnation = incarnation
        self._restored = 0  # slots completed by the checkpoint it came back with
        self._checks = Checks(ap, config, policy)
        self._inbox = SlotInbox()
        self._episode: Episode | None = None
        self._upcoming: Association | None = None  # of an episode whose first slot has not opened
        self.trust = Trust()
        self._next: int | None = None if incarnation else 0  # slot to open; a restarted AP takes what comes
        self._over: int | None = None  # the first slot after the end of the run
        self._endpoint = ""  # own
        self._ahead = -1  # the slot that peers are in, where that is too far ahead
        self._lesson: Lesson | None = None  # what the slot before this one has to teach
        self._loss = 0.0  # of the update in this slot
        self._remembered: State | None = None  # of the episode in which a restored AP was stopped
        self._checkpoint: Checkpoint | None = None
        self._handlers = {
            Association: self._on_association,
            PilotBlock: self._on_pilots,
            Deadline: self._on_deadline,
            RunOver: self._on_run_over,
            Resend: self._on_resend,
            Tick: self._on_tick,
            **{kind: self._on_message_of_slot for _, kind in HANDLERS},
        }

    def _check(self, message: Message) -> None:
        self._checks.refuse_unfit(message)

    def start(self, endpoint: str) -> list[Send]:
        """Announce this AP, reachable at `endpoint`."""
        self._endpoint = endpoint
        hello = self._hello()
        self._tell_coordinator(hello.slot, hello)
        self._send(CHANNEL, hello)
        return self._take_out()

    def _hello(self) -> Hello:
        slot = self.slot.index if self.slot else self._next or 0
        return Hello(self.ap, self.incarnation, self._endpoint, slot, self._restored)

    # --- an episode begins, a slot opens ------------------------------------------------------------------

    def _on_association(self, association: Association) -> Fate:
        """Learn where the neighbours are; the rest counts from the episode's first slot on."""
        moved = self._meet(association)
        if self._episode is None or association.episode > self._episode.association.episode:
            self._upcoming = association
            self._advance()
        for peer in moved:
            self._on_restart_of(peer)
        return ACCEPTED

    def _on_pilots(self, pilots: PilotBlock) -> Fate:
        """The channel server opens a slot."""
        if self.slot is not None and pilots.slot == self.slot.index:
            self._transmit_again(pilots.slot)
            return "duplicate"
        if self._next is not None and pilots.slot < self._next:
            self._transmit_again(pilots.slot)
            return "late"
        self._catch_up(pilots.slot)
        fate = self._park(pilots)
        self._advance()
        return fate

    def _catch_up(self, opened: int) -> None:
        """A slot opens only when this AP has transmitted in the one before, or has been given up in it."""
        if self.slot is not None and opened > self.slot.index + 1:
            self._complete(self.slot)
        if self.slot is None and (self._next is None or opened > self._next):
            self._next = opened

    def _advance(self) -> None:
        """Open the next slot once its pilots, and its episode's association, are here."""
        if self.slot is not None or self._next is None:
            return
        pilots = next((m for m in self._inbox.parked(self._next) if isinstance(m, PilotBlock)), None)
        if pilots is None:
            return
        if self._upcoming is not None and self._upcoming.episode == pilots.episode:
            precoder = Precoder(self.ap, self._config, self._upcoming)
            self._episode = Episode.begin(self._config, self.ap, self._upcoming, precoder, pilots.y)
            self._upcoming = None
            remembered, self._remembered = self._remembered, None
            if remembered is None or not self._episode.recall(self._config, remembered):
                self.trust.begin_episode()
        if self._episode is None or self._episode.association.episode != pilots.episode:
            return
        waiting = self._inbox.open(pilots.slot)
        self.kept -= len(waiting)
        self.accepted += 1  # the pilots
        self._open(pilots, self._episode)
        for message in waiting:
            if message is not pilots:
                self._take_in(message)

    def _open(self, pilots: PilotBlock, episode: Episode) -> None:
        """Sense, decide, and tell the neighbours."""
        neighbours, suspects = episode.neighbours, self.trust.suspects(pilots.slot)
        action = action_of(self.policy.act(episode.view(self._config, pilots.slot)), neighbours) if neighbours else 0
        action &= ~sum(1 << position for position, n in enumerate(neighbours) if n in suspects)
        learned = self.learner.shared(pilots.slot) if self.learner else NOTHING
        self.slot = Slot.open(self.ap, self._config, pilots, episode, action, suspects, learned)
        self.slot.doubted = {*neighbours} & self._gone
        self.opened = pilots.slot
        self._begin_to_agree(self.slot)

    # --- inside a slot ------------------------------------------------------------------------------------

    def _on_message_of_slot(self, message: _OfSlot) -> Fate:
        """Hand a message for the open slot to what its phase does with it; keep one for a later slot."""
        if self._next is None and isinstance(message, CoopRequest):
            self._decline_as_newcomer(message)
            self._complain_if_left_behind(message.slot)
            return ACCEPTED
        slot = self.slot if self.slot is not None and self.slot.index == message.slot else None
        if not isinstance(message, SlotFeedback):
            self._gone.discard(message.ap)
        elif slot is not None:
            self._checks.refuse_unless_of(slot, message)
        if slot is None:
            return self._park(message)
        if not isinstance(message, SlotFeedback):
            slot.doubted.discard(message.ap)
        if not self._inbox.first_time(message):
            return "duplicate"
        handler = HANDLERS.get((slot.phase, type(message)))
        if handler is not None:
            handler(self, slot, message)
        return ACCEPTED

    def _on_deadline(self, deadline: Deadline) -> Fate:
        """The channel server waits no longer: close what is behind, transmit what there is."""
        if self._next is None:
            return ACCEPTED
        if deadline.slot < self._next:
            return "late"
        if self.slot is not None and self.slot.index < deadline.slot:
            self._complete(self.slot)
        if self.slot is None and self._next < deadline.slot:
            self._next = deadline.slot  # the pilots of the slots between never came
            self._advance()
        if self.slot is None and self._next == deadline.slot:
            self._next += 1  # nor did this slot's
            self._advance()
        if self.slot is not None and not self.slot.transmitted:
            self._gone |= self.slot.unanswering
            self._transmit(self.slot)
        return ACCEPTED

    # --- a slot closes ------------------------------------------------------------------------------------

    def _complete(self, slot: Slot) -> None:
        """Reward, note what there is to learn, and report; then on to the next slot."""
        self._learn()
        if self.learner:
            learned = {ap: block.learned for ap, block in slot.agreed.items() if len(block.learned)}
            for liar in self.learner.take_in(learned):
                self.trust.distrust(liar, slot.index)
        self._find_out(slot)
        earned = gain = 0.0
        if slot.feedback is not None:
            gain = relative_gain(slot.feedback)
            slot.episode.remember(self._config, slot.feedback, gain, slot.partners)
            blocks = self._config.run.blocks_per_slot
            self.trust.compare(slot.episode.ues, slot.agreed, slot.feedback, blocks - 1 - slot.index % blocks)
            earned = slot.reward(self._config, gain)
            if self.learner and slot.episode.neighbours:
                self._lesson = slot.transition(self._config, earned), slot.index
        about = {"incarnation": self.incarnation, "checkpoint": self.checkpointed, "unsaved": self.unsaved}
        epsilon = self.learner.epsilon(slot.index) if self.learner else 0.0
        counts = {"loss": self._loss, "epsilon": epsilon, **self._take_counts()}
        told = {"levels": slot.told[self.ap]} if self._config.believes and self.ap in slot.told else {}
        self._tell_coordinator(slot.index, slot.report(self.ap, gain, earned, **about, **counts, **told))
        self._loss, self.unsaved = 0.0, 0
        self.slot, self._next = None, slot.index + 1
        self.completed += 1
        every = self._config.evaluate_every_slots
        kept = every > 0 and self._next % every == 0
        due = self._next % self._config.run.checkpoint_every_slots == 0 or self._next == self._config.num_slots
        if kept or due:
            self._checkpoint = Checkpoint(self._next, self.state(), kept)
        self._finish_if_over()
        self._advance()

    @property
    def now(self) -> int:
        return max(self.opened, self._ahead)

    @property
    def has_leisure(self) -> bool:
        """Whether this AP has transmitted and not learnt yet from the slot before."""
        return self._lesson is not None and self.slot is not None and self.slot.transmitted

    def use_leisure(self) -> None:
        """Learn from the slot before this one.

        If there is no time for it, it happens at the end of the slot. So the choice in slot n always rests on what
        was learnt up to slot n - 2, whoever was how fast.
        """
        self._learn()

    def _learn(self) -> None:
        if self.learner and self._lesson is not None:
            lesson, self._lesson = self._lesson, None
            self._loss = self.learner.learn(*lesson)

    def _on_run_over(self, over: RunOver) -> Fate:
        self._over = over.slot
        self.done = self._next is None
        self._finish_if_over()
        return ACCEPTED

    def _finish_if_over(self) -> None:
        if self._over is not None and self._next == self._over:
            self._learn()
            self.done = True

    def _on_tick(self, tick: Tick) -> Fate:
        """Long silence: say hello again, as a restarted channel server knows no AP; after the run, wait no longer."""
        if self._over is None:
            self._send(CHANNEL, self._hello())
        elif not self.done:
            if self.slot is not None:
                self._complete(self.slot)
            self._learn()
            self.done = True
        return ACCEPTED

    # --- stopped and restored -----------------------------------------------------------------------------

    def take_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that is due to be written; it is given out once."""
        checkpoint, self._checkpoint = self._checkpoint, None
        return checkpoint

    def state(self) -> State:
        """Copies of all that this AP must know, between two slots, to go on as if it had never stopped.

        Where its UEs and neighbours are the channel server tells it again, and what waits for later slots the peers.
        Whatever is random is keyed by the slot.

        Raises:
            RuntimeError: if it has not completed a slot.
        """
        episode = self._remembered if self._episode is None else self._episode.state()
        if episode is None:
            raise RuntimeError(f"AP {self.ap} has not completed a slot")
        gone = np.array(sorted(self._gone), np.int64)
        own = {"completed": np.array(self.completed), "next": np.array(self._next or 0), "gone": gone}
        lesson = lesson_arrays(self._lesson, self._config.observed)
        learnt = self.lasting.state() if self.lasting else {}
        return {**own, **joined(lesson=lesson, episode=episode, trust=self.trust.state(), policy=learnt)}

    def restore(self, state: State) -> None:
        """Take over what `state` gave, before `start`. A restarted AP still begins with the slot that comes.

        Raises:
            StateError: if its arrays are not those of this AP with this config; nothing has changed then.
        """
        parts = {name: part(state, name) for name in ("lesson", "episode", "trust", "policy")}
        own = {name: array for name, array in state.items() if name.split(".")[0] not in parts}
        refuse_other(own, {"completed": (np.int64, ()), "next": (np.int64, ()), "gone": (np.int64, ("G",))})
        refuse_other(parts["lesson"], lesson_layout(self._config.observed))
        Episode.refuse_other(parts["episode"])
        refuse_other(parts["trust"], OPINIONS)
        if self.lasting:
            self.lasting.restore(parts["policy"])
        else:
            refuse_other(parts["policy"], {})
        self.trust.restore(parts["trust"])
        self.completed = int(own["completed"])
        self._restored = self.checkpointed = int(own["next"])
        if self._next is not None:
            self._next, self._gone = int(own["next"]), set(own["gone"].tolist())
        self._lesson, self._remembered = lesson_of(parts["lesson"]), parts["episode"]

    # --- what this AP knows -------------------------------------------------------------------------------

    def _park(self, message: PilotBlock | _OfSlot) -> Fate:
        """Keep a message for its slot."""
        fate = self._inbox.park(message, self._next or 0)
        self._complain_if_left_behind(message.slot)
        return fate

    def _complain_if_left_behind(self, slot: int) -> None:
        """Say hello again if peers are two slots ahead: a restarted channel server may not know this AP."""
        here = self.slot.index if self.slot else self._next
        if here is None and self._ahead < 0:
            self._ahead = slot
        if (self._ahead if here is None else here) + 2 <= slot != self._ahead:
            self._ahead = slot
            self._send(CHANNEL, self._hello())


def use_leisure_together(aps: Iterable[AccessPoint]) -> None:
    """What `use_leisure` does for those that have leisure and the agent of this package, in one pass."""
    agents, lessons, pupils = list[Ddqn](), list[Lesson](), list[AccessPoint]()
    for ap in aps:
        if ap.has_leisure and ap._lesson is not None and type(ap.policy) is Ddqn:
            agents.append(ap.policy)
            lessons.append(ap._lesson)
            pupils.append(ap)
    for ap, loss in zip(pupils, learn_together(agents, lessons), strict=True):
        ap._lesson, ap._loss = None, loss
