"""One slot of an AP as an explicit machine: it agrees with neighbours, forms a cluster, transmits, hears of it.

All that moves an AP from phase to phase stands in this file. `HANDLERS` says what a message does in each phase; a
message without an entry there is taken note of and changes nothing. What an AP sends in a slot depends on the set of
messages it got, not on their order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from apnode.agent.observation import relative_gain
from apnode.agent.policies import NOTHING, Judge, Lasting, Learner, Observer, Policy
from apnode.agent.prospects import WRONGNESS
from apnode.clusters.rounds import Out
from apnode.config import Config
from apnode.protocol.fields import Message
from apnode.protocol.limits import largest_frame
from apnode.protocol.messages import (
    Association,
    ChannelBlock,
    ClusterBlock,
    CommonLinks,
    CoopDecline,
    CoopRequest,
    FloatArray,
    GainReport,
    LinkState,
    SelfReport,
    SlotFeedback,
    Transmission,
)
from apnode.protocol.node import CHANNEL, Node, ap_address
from apnode.slot import Phase, Slot

_InCluster = LinkState | CommonLinks | ClusterBlock


class Agreement(Node, ABC):
    """AP `ap` in one slot: agrees with neighbours, forms a cluster, transmits, and takes in what came of it."""

    def __init__(self, ap: int, config: Config, policy: Policy) -> None:
        super().__init__(ap_address(ap), largest_frame(config))
        self.ap = ap
        self.policy = policy
        self.learner = policy if isinstance(policy, Learner) else None
        self.observer = policy if isinstance(policy, Observer) else None
        self.lasting = policy if isinstance(policy, Lasting) else None
        self.judge = policy if isinstance(policy, Judge) else None
        self.slot: Slot | None = None  # the open one
        self._config = config
        self._gone: set[int] = set()  # peers presumed down: announced absent, or silent past a deadline
        self._unanswered: dict[int, int] = {}  # by AP that this AP cannot reach yet, the slot that it asked in
        self._transmitted: deque[Transmission] = deque(maxlen=2)  # the newest, should the channel server ask again

    @property
    def phase(self) -> Phase:
        """Where this AP is in the slot."""
        return Phase.WAITING if self.slot is None else self.slot.phase

    @abstractmethod
    def _complete(self, slot: Slot) -> None:
        """The slot is over for this AP."""

    def _meet(self, association: Association) -> list[int]:
        """Learn where the peers are; returns those that have moved, as they were restarted."""
        self._gone.update(association.away)
        moved = []
        peers = (*association.neighbours, *association.askers)
        for peer, endpoint in zip(peers, association.endpoints + association.asker_endpoints, strict=True):
            if not endpoint:
                continue
            if self.endpoints.get(ap_address(peer), endpoint) != endpoint:
                moved.append(peer)
            self.endpoints[ap_address(peer)] = endpoint
        unanswered, self._unanswered = self._unanswered, {}
        for peer, slot in unanswered.items():
            self._send(ap_address(peer), CoopDecline(slot, self.ap))
        return moved

    # --- neighbours agree ---------------------------------------------------------------------------------

    def _begin_to_agree(self, slot: Slot) -> None:
        """Tell the neighbours what there is to tell, and ask those that are chosen."""
        self._report_of_oneself(slot)
        for neighbour in slot.chosen:
            self._send(ap_address(neighbour), CoopRequest(slot.index, self.ap, slot.episode.precoder.matters))
        self._transmit_when_agreed(slot)

    def _answer(self, slot: Slot, request: CoopRequest) -> None:
        """A neighbour asks: yes if this AP asked it too, or if clusters are directed."""
        if self._config.cooperation.acceptance == "all" or request.ap in slot.chosen:
            self._share_csi(slot, request.ap, request.ues)
        else:
            self._decline(slot, request)

    def _answer_late(self, slot: Slot, request: CoopRequest) -> None:
        """A neighbour asks when this AP's links are settled: no, unless clusters are directed."""
        if self._config.cooperation.acceptance == "all":
            self._share_csi(slot, request.ap, request.ues)
        else:
            self._decline(slot, request)

    def _decline_as_newcomer(self, request: CoopRequest) -> None:
        """Before its first slot, which never comes if its hello was lost, or there was no channel server to hear it.

        Who asks before the channel server has said where it is, hears the no after that.
        """
        if ap_address(request.ap) in self.endpoints:
            self._send(ap_address(request.ap), CoopDecline(request.slot, self.ap))
        else:
            self._unanswered[request.ap] = request.slot

    def _decline(self, slot: Slot, message: CoopRequest | ChannelBlock) -> None:
        """Say no to a peer that has not been sent this AP's channels."""
        if message.ap not in slot.shared:
            self._send(ap_address(message.ap), CoopDecline(slot.index, self.ap))

    def _share_csi(self, slot: Slot, partner: int, partner_ues: Iterable[int]) -> None:
        """Send the partner this AP's channel estimates for the UEs that matter to either, once."""
        if partner not in slot.shared:
            slot.shared.add(partner)
            block = slot.block(partner_ues)
            self._send(ap_address(partner), replace(block, learned=slot.learned) if len(slot.learned) else block)

    def _note_yes(self, slot: Slot, block: ChannelBlock) -> None:
        """A neighbour says yes. Unless clusters are directed, it needs this AP's channels as well."""
        if block.ap not in slot.episode.neighbours:
            return
        slot.blocks[block.ap] = block
        if self._config.cooperation.cluster != "directed" and block.ap in slot.chosen:
            self._share_csi(slot, block.ap, block.ues)
        self._transmit_when_agreed(slot)

    def _note_late_yes(self, slot: Slot, block: ChannelBlock) -> None:
        """A neighbour says yes when the links are settled: it must not wait for this AP's channels."""
        if block.ap in slot.episode.neighbours and self._config.cooperation.cluster != "directed":
            self._decline(slot, block)

    def _note_no(self, slot: Slot, decline: CoopDecline) -> None:
        """A neighbour says no."""
        slot.declined.add(decline.ap)
        self._transmit_when_agreed(slot)

    def _transmit_when_agreed(self, slot: Slot) -> None:
        """All neighbours that were asked have answered: form the cluster, or transmit at once if there is none."""
        if slot.phase is not Phase.AGREEING or not slot.answered:
            return
        if slot.formation is None or not slot.agreed:
            self._transmit(slot)
        else:
            slot.phase = Phase.FORMING
            own = slot.episode.entry(self.ap, slot.agreed)
            self._go_on_forming(slot, slot.formation.begin(own, slot.block, slot.agreed))

    # --- clusters beyond one's own partners ---------------------------------------------------------------

    def _form(self, slot: Slot, message: _InCluster) -> None:
        """A neighbour tells of links or of a member's channels."""
        if slot.formation is not None and message.ap in slot.episode.neighbours:
            if isinstance(message, ClusterBlock):
                out = slot.formation.on_block(message)
            else:
                out = slot.formation.on_state(message)
            self._go_on_forming(slot, out)

    def _go_on_forming(self, slot: Slot, out: Out) -> None:
        for partner, message in out:
            self._send(ap_address(partner), message)
        if slot.formation is not None and slot.formation.complete:
            self._transmit(slot)

    # --- where agents find out about APs ------------------------------------------------------------------

    def _report_of_oneself(self, slot: Slot) -> None:
        """Tell the neighbours what one's agent makes of oneself, where it is time to."""
        told = self.observer.tells(slot.index) if self.observer else NOTHING
        if len(told):
            slot.tellers = frozenset(slot.episode.neighbours)
            slot.told[self.ap] = told
            for peer in dict.fromkeys((*slot.episode.neighbours, *slot.episode.association.askers)):
                self._send(ap_address(peer), SelfReport(slot.index, self.ap, told))

    def _note_self(self, slot: Slot, report: SelfReport) -> None:
        """A neighbour reports of itself."""
        if report.ap in slot.tellers:
            slot.told[report.ap] = report.levels
            self._complete_when_reported(slot)

    def _find_out(self, slot: Slot) -> None:
        """Let one's agent take in what neighbours told of themselves, then what UEs reported of one's streams."""
        if self.observer:
            self.observer.hear(slot.told)
            if slot.feedback is not None:
                self.observer.observe(slot.feedback, slot.groups, slot.left_out, slot.late)
            self._judged(slot)  # now, since with it begins what a checkpoint keeps of the precoders' power

    def _judged(self, slot: Slot) -> FloatArray | None:
        """How defective one's agent takes oneself and the neighbours to be, (1 + N, 3); precoders count with it."""
        if self.judge is None:
            return None
        levels = self.judge.levels(slot.episode.association)
        aps = (self.ap, *slot.episode.neighbours)
        slot.episode.precoder.believe(dict(zip(aps, levels[:, WRONGNESS].tolist(), strict=True)))
        return levels

    # --- transmission and what comes of it ----------------------------------------------------------------

    def _transmit(self, slot: Slot) -> None:
        slot.phase = Phase.TRANSMITTED
        slot.partners = tuple(slot.cluster)
        precoder = slot.episode.precoder
        judged = self._judged(slot)
        alone = precoder.alone(slot.h_hat)
        groups, own_age = (slot.formation.groups, slot.formation.own_age) if slot.formation else (None, 0)
        service: dict[str, Any] = {}
        if (serving := slot.episode.serving) is not None:
            tries = slot.index if self.judge and self.observer and self.observer.learns else None
            service = {"group": serving.first_of(groups), "chosen": serving.choice(judged, slot.episode.change, tries)}
            groups, slot.left_out = serving.restricted(groups or {}), serving.left_out
        joint = precoder.joint(slot.known, alone, slot.cluster, groups, own_age)
        if serving is not None:
            joint = np.where(serving.transmits, joint, 0)  # also of those for whom alone stands
        w, w_alone = (block.swapaxes(-1, -2) for block in (joint, alone))
        transmission = Transmission(slot.index, self.ap, slot.episode.ues, w, w_alone, slot.partners, **service)
        self._transmitted.append(transmission)
        self._send(CHANNEL, transmission)

    def _transmit_again(self, slot: int) -> None:
        """The channel server opens a slot in which this AP has transmitted: it has forgotten, or a frame came twice."""
        for transmission in self._transmitted:
            if transmission.slot == slot:
                self._send(CHANNEL, transmission)

    def _note_feedback(self, slot: Slot, feedback: SlotFeedback) -> None:
        """The UEs report; if this AP had not transmitted, the slot closed without it."""
        slot.feedback = feedback
        slot.phase = Phase.TRANSMITTED
        if self._config.reward.scope == "neighbourhood":
            for partner in sorted(slot.readers):  # who precodes with this AP's channels waits for it
                self._send(ap_address(partner), GainReport(slot.index, self.ap, relative_gain(feedback)))
        self._complete_when_reported(slot)

    def _note_gain(self, slot: Slot, report: GainReport) -> None:
        """A partner reports the gain of its UEs."""
        slot.gains[report.ap] = report.gain
        self._complete_when_reported(slot)

    def _complete_when_reported(self, slot: Slot) -> None:
        if slot.feedback is not None and not slot.awaited(self._config):
            self._complete(slot)

    def _on_restart_of(self, peer: int) -> None:
        """A peer is elsewhere now: it has forgotten what it was asked or still had to say, and is not waited for."""
        slot = self.slot
        if slot is None:
            return
        slot.restarted.add(peer)
        if slot.phase is Phase.TRANSMITTED:
            self._complete_when_reported(slot)
        elif slot.phase is Phase.FORMING and peer in slot.blocks:
            self._transmit(slot)  # no cluster can be found over this link any more
        else:
            self._transmit_when_agreed(slot)


_IN_ANY = (Phase.AGREEING, Phase.FORMING, Phase.TRANSMITTED)
_BEFORE = (Phase.AGREEING, Phase.FORMING)
HANDLERS: Mapping[tuple[Phase, type[Message]], Callable[[Any, Slot, Any], None]] = {
    (Phase.AGREEING, CoopRequest): Agreement._answer,
    (Phase.FORMING, CoopRequest): Agreement._answer_late,
    (Phase.TRANSMITTED, CoopRequest): Agreement._answer_late,
    (Phase.AGREEING, ChannelBlock): Agreement._note_yes,
    (Phase.FORMING, ChannelBlock): Agreement._note_late_yes,
    (Phase.TRANSMITTED, ChannelBlock): Agreement._note_late_yes,
    (Phase.AGREEING, CoopDecline): Agreement._note_no,
    (Phase.FORMING, CoopDecline): Agreement._note_no,
    **{(phase, kind): Agreement._form for phase in _BEFORE for kind in (LinkState, CommonLinks, ClusterBlock)},
    **{(phase, SlotFeedback): Agreement._note_feedback for phase in _IN_ANY},
    **{(phase, GainReport): Agreement._note_gain for phase in _IN_ANY},
    **{(phase, SelfReport): Agreement._note_self for phase in _IN_ANY},
}
