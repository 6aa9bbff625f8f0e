"""The autonomous access point: senses, asks, agrees, precodes, transmits and learns, from messages alone.

One slot runs through `_open` (pilots are in: estimate, observe, choose, ask), `_transmit` (every neighbour
asked has answered, or the deadline has passed) and `_complete` (the UEs' reports are in: reward, learn,
report). What an AP sends in a slot depends on the set of messages it got, not on their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

from apnode import csi
from apnode.config import Config
from apnode.formation import Formation
from apnode.inbox import SlotInbox
from apnode.knowledge import Episode, Slot
from apnode.messages import (
    ApReport,
    Association,
    ChannelBlock,
    ClusterBlock,
    CommonLinks,
    CoopDecline,
    CoopPass,
    CoopRequest,
    Deadline,
    GainReport,
    Hello,
    LinkState,
    PilotBlock,
    RunOver,
    SlotFeedback,
    Tick,
    Transmission,
)
from apnode.node import CHANNEL, COORDINATOR, Node, Send, ap_address, refuse_unless
from apnode.observation import relative_gain, reward
from apnode.policies import Policy
from apnode.precoding import Precoder
from apnode.relaying import Relaying
from apnode.replay import Transition
from apnode.rounds import Out, Rounds

_InCluster = LinkState | CommonLinks | ClusterBlock
_OfSlot = CoopRequest | ChannelBlock | CoopDecline | CoopPass | _InCluster | SlotFeedback | GainReport


class AccessPoint(Node):
    """AP `ap`: a pure state machine whose inbox is the only way in; `policy` is its own agent."""

    def __init__(self, ap: int, config: Config, policy: Policy, incarnation: int = 0) -> None:
        super().__init__(ap_address(ap), config.run.max_frame_bytes)
        self.ap = ap
        self.slot: Slot | None = None  # the open one
        self.completed = 0  # slots
        self._config = config
        self.policy = policy
        self._incarnation = incarnation
        self._inbox = SlotInbox(self._drop)
        self._episode: Episode | None = None
        self._upcoming: Association | None = None  # of an episode whose first slot has not opened
        self._next: int | None = None if incarnation else 0  # slot to open; a restarted AP takes what comes
        self._over: int | None = None  # the first slot that there is not
        self._lesson: tuple[Transition, int] | None = None  # what the slot before this one, its number, has to teach
        self._loss = 0.0  # of the update in this slot
        self._handlers = {
            Association: self._on_association,
            PilotBlock: self._on_pilots,
            CoopRequest: self._on_request,
            CoopPass: self._on_pass,
            ChannelBlock: self._on_block,
            CoopDecline: self._on_decline,
            LinkState: self._on_link_state,
            CommonLinks: self._on_common_links,
            ClusterBlock: self._on_cluster_block,
            Deadline: self._on_deadline,
            SlotFeedback: self._on_feedback,
            GainReport: self._on_gain,
            RunOver: self._on_run_over,
            Tick: self._on_tick,
        }

    def start(self, endpoint: str) -> list[Send]:
        """Announce this AP, reachable at `endpoint`, to the channel server."""
        self._send(CHANNEL, Hello(self.ap, self._incarnation, endpoint))
        return self._take_out()

    # --- an episode begins, a slot opens ------------------------------------------------------------------

    def _on_association(self, association: Association) -> None:
        """Learn where the neighbours are; the rest counts from the episode's first slot on."""
        cooperation, radio = self._config.cooperation, self._config.radio
        refuse_unless(len(association.neighbours) <= cooperation.max_neighbours, "too many neighbours")
        peers = (*association.neighbours, *association.askers)
        refuse_unless(all(self._is_peer(peer) for peer in peers), "a neighbour that there is not")
        refuse_unless(len(association.beta) == radio.num_ues, "beta of another number of UEs")
        refuse_unless(bool((association.pilots < radio.pilot_length).all()), "a pilot that there is not")
        moved = []
        for peer, endpoint in zip(peers, association.endpoints + association.asker_endpoints, strict=True):
            if self.endpoints.get(ap_address(peer), endpoint) != endpoint:
                moved.append(peer)
            self.endpoints[ap_address(peer)] = endpoint
        if self._episode is None or association.episode > self._episode.association.episode:
            self._upcoming = association
            self._advance()
        for peer in moved:
            self._on_restart_of(peer)

    def _on_restart_of(self, peer: int) -> None:
        """A peer is elsewhere now: it has forgotten what it was asked or still had to say, and is not waited for."""
        slot = self.slot
        if slot is None:
            return
        slot.restarted.add(peer)
        if slot.transmitted:
            self._complete_when_reported(slot)
        elif slot.formation and slot.formation.begun and peer in slot.blocks:
            self._transmit(slot)  # no cluster can be found over this link any more
        else:
            self._heard_from(slot, peer)
            self._transmit_when_agreed(slot)

    def _on_pilots(self, pilots: PilotBlock) -> None:
        run, radio = self._config.run, self._config.radio
        shape = (run.blocks_per_slot, radio.antennas, radio.pilot_length)
        refuse_unless(pilots.y.shape == shape, f"pilots of shape {pilots.y.shape}, expected {shape}")
        refuse_unless(pilots.slot < self._config.num_slots, "a slot that there is not")
        if self.slot is not None and pilots.slot == self.slot.index:
            self._drop("duplicate")
            return
        self._catch_up(pilots.slot)
        self._inbox.park(pilots, self._next or 0)
        self._advance()

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
            self._episode, self._upcoming = Episode.begin(self._config, self._upcoming, precoder), None
        if self._episode is None or self._episode.association.episode != pilots.episode:
            return
        waiting = self._inbox.open(pilots.slot)
        self._open(pilots, self._episode)
        for message in waiting:
            if message is not pilots:
                self._dispatch(message)

    def _open(self, pilots: PilotBlock, episode: Episode) -> None:
        """Sense, decide, and tell the neighbours."""
        radio, neighbours = self._config.radio, episode.neighbours
        beta, pilot_of = episode.association.beta, episode.association.pilots
        projections = csi.despread(pilots.y)
        observation = episode.observation
        action = self.policy.act(observation, len(neighbours), pilots.slot) if neighbours else 0
        chosen = tuple(n for position, n in enumerate(neighbours) if action >> position & 1)
        if self._config.cooperation.cluster == "pairs":
            chosen = chosen[:1]  # so that whoever agrees has one partner
        grant = self._config.cooperation.acceptance == "grant"
        self.slot = Slot(
            index=pilots.slot,
            episode=episode,
            h_hat=csi.estimate(projections, beta, pilot_of, radio.pilot_power_w, radio.noise_power_w),
            observation=observation,
            action=action,
            chosen=chosen,
            unheard=set(neighbours) if grant else set(),
            formation=self._new_formation(pilots.slot),
        )
        for neighbour in neighbours:
            if neighbour in chosen:
                self._send(ap_address(neighbour), CoopRequest(pilots.slot, self.ap, episode.precoder.matters))
            elif grant:
                self._send(ap_address(neighbour), CoopPass(pilots.slot, self.ap))
        self._transmit_when_agreed(self.slot)

    # --- neighbours agree ---------------------------------------------------------------------------------

    def _on_request(self, request: CoopRequest) -> None:
        """A neighbour asks to cooperate; an AP just restarted declines at once and costs it nothing."""
        refuse_unless(self._is_peer(request.ap) and self._known(request.ues), "request by no AP or for no UE")
        if self._next is None:
            self._send(ap_address(request.ap), CoopDecline(request.slot, self.ap))
            return
        slot = self._slot_of(request)
        if slot is None:
            return
        match self._config.cooperation.acceptance:
            case "all":
                self._share_csi(slot, request.ap, request.ues)
            case "mutual" if request.ap in slot.chosen and not slot.transmitted:
                self._share_csi(slot, request.ap, request.ues)
            case "grant" if request.ap in slot.unheard and not slot.transmitted:
                slot.requests[request.ap] = request
                self._heard_from(slot, request.ap)
            case _ if request.ap not in slot.shared:
                self._send(ap_address(request.ap), CoopDecline(slot.index, self.ap))

    def _on_pass(self, message: CoopPass) -> None:
        """Acceptance grant: a neighbour will not ask; an AP just restarted will not either."""
        if self._next is None:
            refuse_unless(self._is_peer(message.ap), "pass by no AP")
            self._send(ap_address(message.ap), CoopDecline(message.slot, self.ap))  # no answer comes to that
            return
        slot = self._slot_of(message)
        if slot is not None and not slot.transmitted:
            self._heard_from(slot, message.ap)

    def _heard_from(self, slot: Slot, neighbour: int) -> None:
        """Acceptance grant: once every neighbour has asked or passed, say yes to the strongest while there is room."""
        if neighbour not in slot.unheard:
            return
        slot.unheard.discard(neighbour)
        if slot.unheard:
            return
        room = self._config.cooperation.max_partners - len(slot.chosen)
        for asker in (n for n in slot.episode.neighbours if n in slot.requests):  # strongest first
            if asker in slot.chosen or room > 0:
                room -= asker not in slot.chosen
                slot.granted.add(asker)
                self._share_csi(slot, asker, slot.requests[asker].ues)
            else:
                self._send(ap_address(asker), CoopDecline(slot.index, self.ap))
        self._transmit_when_agreed(slot)

    def _share_csi(self, slot: Slot, partner: int, partner_ues: Iterable[int]) -> None:
        """Send the partner our channel estimates for the UEs that matter to it or to us, once."""
        if partner not in slot.shared:
            slot.shared.add(partner)
            self._send(ap_address(partner), self._block(slot, partner_ues))

    def _block(self, slot: Slot, ues: Iterable[int]) -> ChannelBlock:
        """Our channel estimates for some UEs, and those that matter to us."""
        return slot.episode.precoder.block(slot.index, ues, slot.h_hat)

    def _on_block(self, block: ChannelBlock) -> None:
        """A neighbour says yes. Unless clusters are directed, it needs our channels as well."""
        self._refuse_unless_estimates(block)
        slot = self._slot_of(block)
        if slot is None or slot.transmitted or block.ap not in slot.episode.neighbours:
            return
        slot.blocks[block.ap] = block
        if self._config.cooperation.cluster != "directed" and block.ap in slot.chosen:
            self._share_csi(slot, block.ap, block.ues)
        self._transmit_when_agreed(slot)

    def _on_decline(self, decline: CoopDecline) -> None:
        """A neighbour says no. It does so only if it did not ask us, so it has been heard."""
        slot = self._slot_of(decline)
        if slot is not None and not slot.transmitted:
            slot.declined.add(decline.ap)
            self._heard_from(slot, decline.ap)
            self._transmit_when_agreed(slot)

    # --- clusters beyond one's own partners ---------------------------------------------------------------

    def _new_formation(self, slot: int) -> Rounds[Any] | None:
        match self._config.cooperation.cluster:
            case "capped" | "components":
                return Formation(self.ap, slot, self._config)
            case "serving":
                return Relaying(self.ap, slot, self._config)
            case _:
                return None

    def _on_link_state(self, state: LinkState) -> None:
        """A partner tells what it has learnt of the links."""
        refuse_unless(self._config.cooperation.cluster != "serving", "links that are of no UE")
        num_aps = self._config.radio.num_aps
        refuse_unless(max(0, *state.known, *state.links[:, 1].tolist()) < num_aps, "an AP that there is not")
        refuse_unless(self._known(state.serves[:, 1].tolist()), "service to UEs that there are not")
        refuse_unless(state.round <= num_aps, "more rounds than there are APs")
        most = max(Counter(state.links[:, 0].tolist()).values(), default=0)
        refuse_unless(most <= self._config.cooperation.max_neighbours, "an AP with too many partners")
        self._form(state)

    def _on_common_links(self, state: CommonLinks) -> None:
        """A partner tells what it has learnt of the links between APs that serve a UE of ours."""
        refuse_unless(self._config.cooperation.cluster == "serving", "links of a UE")
        radio = self._config.radio
        refuse_unless(state.links[:, 1:].max(initial=0) < radio.num_aps, "an AP that there is not")
        refuse_unless(self._known(state.links[:, 0].tolist()), "service to UEs that there are not")
        refuse_unless(state.round < radio.most_serving_aps, "more rounds than APs can be away")
        most = max(Counter((ue, ap) for ue, ap, _ in state.links.tolist()).values(), default=0)
        refuse_unless(most < radio.most_serving_aps, "an AP with too many partners")
        self._form(state)

    def _on_cluster_block(self, block: ClusterBlock) -> None:
        """A member's channels, from a partner."""
        self._refuse_unless_estimates(block)
        refuse_unless(self._is_peer(block.owner), "channels of an AP that there is not")
        self._form(block)

    def _form(self, message: _InCluster) -> None:
        """Go on with the open slot's cluster, if a neighbour's message is for it and the cluster is not found yet."""
        refuse_unless(self._config.cooperation.is_transitive, "clusters do not reach beyond an AP's partners")
        refuse_unless(self._is_peer(message.ap), "sent by no other AP")
        slot = self._slot_of(message)
        if slot and slot.formation and not slot.transmitted and message.ap in slot.episode.neighbours:
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

    # --- transmission -------------------------------------------------------------------------------------

    def _transmit_when_agreed(self, slot: Slot) -> None:
        answered = slot.blocks.keys() | slot.declined | slot.restarted
        if slot.transmitted or slot.unheard or not answered >= {*slot.chosen, *slot.granted}:
            return
        if slot.formation is None or not slot.agreed:
            self._transmit(slot)
        elif not slot.formation.begun:
            own = slot.episode.entry(self.ap, slot.agreed)
            self._go_on_forming(slot, slot.formation.begin(own, partial(self._block, slot), slot.agreed))

    def _transmit(self, slot: Slot) -> None:
        slot.transmitted = True
        slot.partners = tuple(slot.cluster)
        precoder = slot.episode.precoder
        alone = precoder.alone(slot.h_hat)
        groups = slot.formation.groups if slot.formation else None
        joint = precoder.joint(slot.h_hat, alone, slot.cluster, groups)
        w, w_alone = (block.swapaxes(-1, -2) for block in (joint, alone))
        self._send(CHANNEL, Transmission(slot.index, self.ap, slot.episode.ues, w, w_alone, slot.partners))

    def _on_deadline(self, deadline: Deadline) -> None:
        """The channel server waits no longer: close what is behind, transmit what there is."""
        if self._next is None or deadline.slot < self._next:
            return
        if self.slot is not None and self.slot.index < deadline.slot:
            self._complete(self.slot)
        if self.slot is None and self._next < deadline.slot:
            self._next = deadline.slot  # the pilots of the slots between never came
            self._advance()
        if self.slot is None and self._next == deadline.slot:
            self._next += 1  # nor did this slot's
            self._advance()
        if self.slot is not None and not self.slot.transmitted:
            self._transmit(self.slot)

    # --- a slot closes ------------------------------------------------------------------------------------

    def _on_feedback(self, feedback: SlotFeedback) -> None:
        if self.slot is not None and feedback.slot == self.slot.index:
            refuse_unless(len(feedback.rate) == len(self.slot.episode.ues), "feedback for other UEs than one's own")
        slot = self._slot_of(feedback)
        if slot is None:
            return
        slot.feedback = feedback
        slot.transmitted = True  # the slot closed without us, if we had not
        if self._config.reward.scope == "neighbourhood":
            for partner in sorted(slot.readers):  # who precodes with our channels waits for it
                self._send(ap_address(partner), GainReport(slot.index, self.ap, relative_gain(feedback)))
        self._complete_when_reported(slot)

    def _on_gain(self, report: GainReport) -> None:
        slot = self._slot_of(report)
        if slot is not None:
            slot.gains[report.ap] = report.gain
            self._complete_when_reported(slot)

    def _complete_when_reported(self, slot: Slot) -> None:
        awaited = slot.linked_partners if self._config.reward.scope == "neighbourhood" else set()
        if slot.feedback is not None and slot.gains.keys() | slot.restarted >= awaited:
            self._complete(slot)

    def _complete(self, slot: Slot) -> None:
        """Reward, note what there is to learn, and report; then on to the next slot."""
        self._learn()
        earned = gain = 0.0
        if slot.feedback is not None:
            gain = relative_gain(slot.feedback)
            slot.episode.remember(self._config, slot.feedback, gain, slot.partners)
            earned = self._reward(slot, gain)
            if slot.episode.neighbours:
                self._lesson = self._transition(slot, earned), slot.index
        self._report(slot, gain, earned)
        self._loss = 0.0
        self.slot, self._next = None, slot.index + 1
        self.completed += 1
        self._finish_if_over()
        self._advance()

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
        if self._lesson is not None:
            lesson, self._lesson = self._lesson, None
            self._loss = self.policy.learn(*lesson)

    def _reward(self, slot: Slot, gain: float) -> float:
        gains = [gain, *(slot.gains[p] for p in slot.partners if p in slot.gains)]
        asked = [position for position, n in enumerate(slot.episode.neighbours) if n in slot.chosen]
        return reward(self._config.reward, gains, slot.episode.interference, asked, len(slot.linked_partners))

    def _transition(self, slot: Slot, earned: float) -> Transition:
        return Transition(
            observation=slot.observation,
            action=slot.action,
            reward=earned,
            next_observation=slot.episode.observation,
            num_actions=2 ** len(slot.episode.neighbours),
            terminal=(slot.index + 1) % self._config.run.slots_per_episode == 0,
        )

    def _report(self, slot: Slot, gain: float, earned: float) -> None:
        sent, dropped = self._take_counts()
        report = ApReport(
            slot=slot.index,
            ap=self.ap,
            neighbours=slot.episode.neighbours,
            requested=slot.chosen,
            partners=slot.partners,
            gain=gain,
            reward=earned,
            loss=self._loss,
            epsilon=self.policy.epsilon(slot.index),
            sent=sent,
            dropped=dropped,
            cluster_size=slot.formation.size if slot.formation else 1 + len(slot.partners),
        )
        self._send(COORDINATOR, report)

    def _on_run_over(self, over: RunOver) -> None:
        self._over = over.slot
        self.done = self._next is None
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        if self._over is not None and self._next == self._over:
            self._learn()
            self.done = True

    def _on_tick(self, tick: Tick) -> None:
        """Long silence: what has not come by the end of the run is not waited for."""
        if self._over is not None and not self.done:
            if self.slot is not None:
                self._complete(self.slot)
            self._learn()
            self.done = True

    # --- what this AP knows -------------------------------------------------------------------------------

    def _is_peer(self, ap: int) -> bool:
        return ap != self.ap and ap < self._config.radio.num_aps

    def _known(self, ues: Iterable[int]) -> bool:
        return all(ue < self._config.radio.num_ues for ue in ues)

    def _refuse_unless_estimates(self, block: ChannelBlock | ClusterBlock) -> None:
        shape = (self._config.run.blocks_per_slot, self._config.radio.antennas)
        refuse_unless(block.h_hat.shape[:2] == shape, "channel block of a wrong shape")
        told = shape[0] if self._config.precoding.joint == "selective" else 0
        refuse_unless(len(block.untold) == told, "covariance of a wrong number of blocks")
        refuse_unless(self._known(block.ues), "channel block for unknown UEs")

    def _slot_of(self, message: _OfSlot) -> Slot | None:
        """The open slot that a message is for; None if it was parked or dropped instead."""
        if self.slot is None or message.slot != self.slot.index:
            self._inbox.park(message, self._next or 0)
            return None
        return self.slot if self._inbox.first_time(message) else None
