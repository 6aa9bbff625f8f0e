"""The autonomous access point: senses, asks, agrees, precodes, transmits and learns, from messages alone.

One slot runs through `_open` (pilots are in: estimate, observe, choose, ask), `_transmit` (every neighbour
asked has answered, or the deadline has passed) and `_complete` (the UEs' reports are in: reward, learn,
report). What an AP sends in a slot depends on the set of messages it got, not on their order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from apnode.agent.observation import MOST_GAIN, absolute_gain, observation_size, relative_gain, reward
from apnode.agent.policies import Policy
from apnode.agent.replay import Transition, lesson_arrays, lesson_layout, lesson_of
from apnode.clusters.formation import Formation
from apnode.clusters.relaying import Relaying
from apnode.clusters.rounds import Out, Rounds
from apnode.config import Config
from apnode.episode import Episode
from apnode.protocol.inbox import SlotInbox
from apnode.protocol.messages import (
    ApReport,
    Association,
    ChannelBlock,
    ClusterBlock,
    CommonLinks,
    CoopDecline,
    CoopRequest,
    Deadline,
    FloatArray,
    GainReport,
    Hello,
    IntArray,
    LinkState,
    PilotBlock,
    Resend,
    RunOver,
    SlotFeedback,
    Tick,
    Transmission,
)
from apnode.protocol.node import CHANNEL, Node, Send, ap_address, refuse_unless
from apnode.protocol.state import Checkpoint, State, joined, part, refuse_other
from apnode.radio import csi
from apnode.radio.precoding import Precoder
from apnode.radio.trust import Trust
from apnode.slot import Slot

_InCluster = LinkState | CommonLinks | ClusterBlock
_LOUDEST = 1e3  # amplitude: nothing is heard so much louder than it was sent; what claims to be would overflow sums
_OfSlot = CoopRequest | ChannelBlock | CoopDecline | _InCluster | SlotFeedback | GainReport


class AccessPoint(Node):
    """AP `ap`: a pure state machine whose inbox is the only way in; `policy` is its own agent."""

    def __init__(self, ap: int, config: Config, policy: Policy, incarnation: int = 0) -> None:
        super().__init__(ap_address(ap), config.run.max_frame_bytes)
        self.ap = ap
        self.slot: Slot | None = None  # the open one
        self.completed = 0  # slots
        self._config = config
        self.policy = policy
        self.lie: Callable[[ChannelBlock], ChannelBlock] | None = None  # a fault: what it makes of its channel blocks
        self.incarnation = incarnation
        self._restored = 0  # slots completed by the checkpoint it came back with
        self._inbox = SlotInbox(self._drop, self._keep)
        self._episode: Episode | None = None
        self._upcoming: Association | None = None  # of an episode whose first slot has not opened
        self.trust = Trust()
        self._next: int | None = None if incarnation else 0  # slot to open; a restarted AP takes what comes
        self._over: int | None = None  # the first slot that there is not
        self._endpoint = ""  # own
        self._ahead = -1  # the slot that peers are in, where that is too far ahead
        self._gone: set[int] = set()  # peers said to be away, or who let a deadline pass, and not heard of since
        self._transmitted: deque[Transmission] = deque(maxlen=2)  # the newest, should the channel server ask again
        self._lesson: tuple[Transition, int] | None = None  # what the slot before this one, its number, has to teach
        self._loss = 0.0  # of the update in this slot
        self._remembered: State | None = None  # of the episode in which a restored AP was stopped
        self._checkpoint: Checkpoint | None = None
        self._handlers = {
            Association: self._on_association,
            PilotBlock: self._on_pilots,
            CoopRequest: self._on_request,
            ChannelBlock: self._on_block,
            CoopDecline: self._on_decline,
            LinkState: self._on_link_state,
            CommonLinks: self._on_common_links,
            ClusterBlock: self._on_cluster_block,
            Deadline: self._on_deadline,
            SlotFeedback: self._on_feedback,
            GainReport: self._on_gain,
            RunOver: self._on_run_over,
            Resend: self._on_resend,
            Tick: self._on_tick,
        }

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

    def _on_association(self, association: Association) -> None:
        """Learn where the neighbours are; the rest counts from the episode's first slot on."""
        cooperation, radio = self._config.cooperation, self._config.radio
        refuse_unless(len(association.neighbours) <= cooperation.max_neighbours, "too many neighbours")
        peers = (*association.neighbours, *association.askers)
        refuse_unless(all(self._is_peer(peer) for peer in peers), "a neighbour that there is not")
        refuse_unless(self._known(association.reach + association.around), "beta of a UE that there is not")
        pilots = max(association.pilots.max(initial=0), association.around_pilots.max(initial=0))
        refuse_unless(pilots < radio.pilot_length, "a pilot that there is not")
        loudest = max(association.beta.max(initial=0), association.neighbour_beta.max(initial=0))
        refuse_unless(loudest <= _LOUDEST**2, "channels that amplify")
        refuse_unless(bool(association.around) <= self._config.forecasts, "more of the neighbours than was asked for")
        self._refuse_unless_audible(association.interference)
        moved = []
        for peer, endpoint in zip(peers, association.endpoints + association.asker_endpoints, strict=True):
            if not endpoint:
                self._gone.add(peer)
                continue
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
            self._transmit_when_agreed(slot)

    def _on_pilots(self, pilots: PilotBlock) -> None:
        run, radio = self._config.run, self._config.radio
        shape = (run.blocks_per_slot, radio.antennas, radio.pilot_length)
        refuse_unless(pilots.y.shape == shape, f"pilots of shape {pilots.y.shape}, expected {shape}")
        refuse_unless(pilots.slot < self._config.num_slots, "a slot that there is not")
        sent = radio.num_ues * math.sqrt(radio.pilot_power_w) + math.sqrt(radio.noise_power_w)
        refuse_unless(np.abs(pilots.y).max(initial=0) <= _LOUDEST * sent, "pilots louder than they were sent")
        if self.slot is not None and pilots.slot == self.slot.index:
            self._drop("duplicate")
            self._transmit_again(pilots.slot)
            return
        if self._next is not None and pilots.slot < self._next:
            self._drop("late")
            self._transmit_again(pilots.slot)
            return
        self._catch_up(pilots.slot)
        self._park(pilots)
        self._advance()

    def _transmit_again(self, slot: int) -> None:
        """The channel server opens a slot in which this AP has transmitted: it has forgotten, or a frame came twice."""
        for transmission in self._transmitted:
            if transmission.slot == slot:
                self._send(CHANNEL, transmission)

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
            self._episode, self._upcoming = Episode.begin(self._config, self.ap, self._upcoming, precoder), None
            if self._remembered is not None:
                self._episode.recall(self._config, self._remembered)
                self._remembered = None
            self.trust.begin_episode()
            self.policy.begin_episode(self._episode.association)
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
        radio, neighbours = self._config.radio, episode.neighbours
        beta, pilot_of = episode.association.beta, episode.association.pilots
        projections = csi.despread(pilots.y)
        observation = episode.observation
        suspects = self.trust.suspects(pilots.slot)
        action = self.policy.act(observation, len(neighbours), pilots.slot) if neighbours else 0
        action &= ~sum(1 << position for position, n in enumerate(neighbours) if n in suspects)
        chosen = tuple(n for position, n in enumerate(neighbours) if action >> position & 1)
        self.slot = Slot(
            index=pilots.slot,
            episode=episode,
            h_hat=csi.estimate(projections, beta, pilot_of, radio.pilot_power_w, radio.noise_power_w),
            observation=observation,
            action=action,
            chosen=chosen,
            suspects=suspects,
            formation=self._new_formation(pilots.slot),
            learned=self.policy.shared(pilots.slot),
            doubted={*neighbours} & self._gone,
        )
        self.opened = pilots.slot
        for neighbour in neighbours:
            if neighbour in chosen:
                self._send(ap_address(neighbour), CoopRequest(pilots.slot, self.ap, episode.precoder.matters))
        self._transmit_when_agreed(self.slot)

    # --- neighbours agree ---------------------------------------------------------------------------------

    def _on_request(self, request: CoopRequest) -> None:
        """A neighbour asks to cooperate; an AP just restarted declines at once and costs it nothing."""
        refuse_unless(self._is_peer(request.ap) and self._known(request.ues), "request by no AP or for no UE")
        if self._next is None:
            self._decline_as_newcomer(request)
            return
        slot = self._slot_of(request)
        if slot is None:
            return
        match self._config.cooperation.acceptance:
            case "all":
                self._share_csi(slot, request.ap, request.ues)
            case "mutual" if request.ap in slot.chosen and not slot.settled:
                self._share_csi(slot, request.ap, request.ues)
            case _ if request.ap not in slot.shared:
                self._send(ap_address(request.ap), CoopDecline(slot.index, self.ap))

    def _decline_as_newcomer(self, request: CoopRequest) -> None:
        """Before its first slot, which never comes if its hello was lost, or there was no channel server to hear it."""
        self._send(ap_address(request.ap), CoopDecline(request.slot, self.ap))
        self._complain_if_left_behind(request.slot)

    def _share_csi(self, slot: Slot, partner: int, partner_ues: Iterable[int]) -> None:
        """Send the partner our channel estimates for the UEs that matter to it or to us, once."""
        if partner not in slot.shared:
            slot.shared.add(partner)
            block = self._block(slot, partner_ues)
            self._send(ap_address(partner), replace(block, learned=slot.learned) if len(slot.learned) else block)

    def _block(self, slot: Slot, ues: Iterable[int]) -> ChannelBlock:
        """Our channel estimates for some UEs, and those that matter to us."""
        block = slot.episode.precoder.block(slot.index, ues, slot.h_hat)
        return self.lie(block) if self.lie else block

    def _on_block(self, block: ChannelBlock) -> None:
        """A neighbour says yes. Unless clusters are directed, it needs our channels as well."""
        self._refuse_unless_estimates(block)
        refuse_unless(self.policy.understands(block.learned), "weights of another network")
        slot = self._slot_of(block)
        if slot is None or block.ap not in slot.episode.neighbours:
            return
        if slot.settled:
            if block.ap not in slot.shared and self._config.cooperation.cluster != "directed":
                self._send(ap_address(block.ap), CoopDecline(slot.index, self.ap))  # too late: do not wait for ours
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
            self._transmit_when_agreed(slot)

    # --- clusters beyond one's own partners ---------------------------------------------------------------

    def _new_formation(self, slot: int) -> Rounds[Any] | None:
        match self._config.cooperation.cluster:
            case "components":
                return Formation(self.ap, slot, self._config)
            case "serving":
                return Relaying(self.ap, slot, self._config)
            case _:
                return None

    def _on_link_state(self, state: LinkState) -> None:
        """A partner tells what it has learnt of the links."""
        refuse_unless(self._config.cooperation.cluster != "serving", "links that are of no UE")
        radio = self._config.radio
        named = max(state.known, default=0), state.links[:, 1].max(initial=0)
        refuse_unless(max(named) < radio.num_aps, "an AP that there is not")
        refuse_unless(state.serves[:, 1].max(initial=0) < radio.num_ues, "service to UEs that there are not")
        refuse_unless(state.round <= radio.num_aps, "more rounds than there are APs")
        most = _most_alike(state.links[:, 0])
        refuse_unless(most <= self._config.cooperation.max_neighbours, "an AP with too many partners")
        self._form(state)

    def _on_common_links(self, state: CommonLinks) -> None:
        """A partner tells what it has learnt of the links between APs that serve a UE of ours."""
        refuse_unless(self._config.cooperation.cluster == "serving", "links of a UE")
        radio = self._config.radio
        refuse_unless(state.links[:, 1:].max(initial=0) < radio.num_aps, "an AP that there is not")
        refuse_unless(state.links[:, 0].max(initial=0) < radio.num_ues, "service to UEs that there are not")
        refuse_unless(state.round < radio.most_serving_aps, "more rounds than APs can be away")
        most = _most_alike(state.links[:, 0].astype(int) * radio.num_aps + state.links[:, 1])
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
        answered = slot.blocks.keys() | slot.declined | slot.restarted | slot.doubted
        if slot.transmitted or not answered >= {*slot.chosen}:
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
        transmission = Transmission(slot.index, self.ap, slot.episode.ues, w, w_alone, slot.partners)
        self._transmitted.append(transmission)
        self._send(CHANNEL, transmission)

    def _on_deadline(self, deadline: Deadline) -> None:
        """The channel server waits no longer: close what is behind, transmit what there is."""
        refuse_unless(deadline.slot < self._config.num_slots, "a slot that there is not")
        if self._next is None:
            return
        if deadline.slot < self._next:
            self._drop("late")
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
            self._gone |= self._unanswering(self.slot)
            self._transmit(self.slot)

    def _unanswering(self, slot: Slot) -> set[int]:
        """Whom this AP still waits for: from the next slot on it does not, until it hears of them again."""
        return {*slot.chosen} - slot.blocks.keys() - slot.declined

    # --- a slot closes ------------------------------------------------------------------------------------

    def _on_feedback(self, feedback: SlotFeedback) -> None:
        self._refuse_unless_audible(feedback.interference)
        self._refuse_unless_audible(feedback.partner_gain)
        if self.slot is not None and feedback.slot == self.slot.index:
            refuse_unless(len(feedback.rate) == len(self.slot.episode.ues), "feedback for other UEs than one's own")
            gains = feedback.partner_gain
            refuse_unless(gains.shape[2] == self._config.radio.antennas or not gains.size, "gains of other antennas")
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
        refuse_unless(-1 <= report.gain <= MOST_GAIN, "a gain that there cannot be")
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
        self.policy.take_in([block.learned for block in slot.agreed.values() if len(block.learned)])
        earned = gain = 0.0
        if slot.feedback is not None:
            gain = relative_gain(slot.feedback)
            slot.episode.remember(self._config, slot.feedback, gain, slot.partners)
            self.trust.compare(slot.episode.ues, slot.agreed, slot.feedback)
            earned = self._reward(slot, gain)
            if slot.episode.neighbours:
                self._lesson = self._transition(slot, earned), slot.index
        self._report(slot, gain, earned)
        self._loss = 0.0
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
        if self._lesson is not None:
            lesson, self._lesson = self._lesson, None
            self._loss = self.policy.learn(*lesson)

    def _reward(self, slot: Slot, gain: float) -> float:
        gains = [gain, *(slot.gains[p] for p in slot.partners if p in slot.gains)]
        if self._config.reward.gain == "absolute" and slot.feedback is not None:
            gains = [absolute_gain(slot.feedback)]
        asked = [position for position, n in enumerate(slot.episode.neighbours) if n in slot.chosen]
        return reward(self._config.reward, gains, slot.episode.interference, asked, len(slot.linked_partners))

    def _transition(self, slot: Slot, earned: float) -> Transition:
        return Transition(
            observation=slot.observation,
            action=slot.formed if self._config.forecasts else slot.action,
            reward=earned,
            next_observation=slot.episode.observation,
            num_actions=2 ** len(slot.episode.neighbours),
            terminal=(slot.index + 1) % self._config.run.slots_per_episode == 0,
        )

    def _report(self, slot: Slot, gain: float, earned: float) -> None:
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
            **self._take_counts(),
            cluster_size=slot.formation.size if slot.formation else 1 + len(slot.partners),
            incarnation=self.incarnation,
            checkpoint=self.checkpointed,
            suspects=slot.suspects,
        )
        self._tell_coordinator(slot.index, report)

    def _on_run_over(self, over: RunOver) -> None:
        self._over = over.slot
        self.done = self._next is None
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        if self._over is not None and self._next == self._over:
            self._learn()
            self.done = True

    def _on_tick(self, tick: Tick) -> None:
        """Long silence: what has not come by the end of the run is not waited for; before it, say where we are.

        A channel server that was restarted knows nobody.
        """
        if self._over is None:
            self._send(CHANNEL, self._hello())
        elif not self.done:
            if self.slot is not None:
                self._complete(self.slot)
            self._learn()
            self.done = True

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
        own = {"completed": np.array(self.completed), "next": np.array(self._next or 0)}
        lesson = lesson_arrays(self._lesson, observation_size(self._config))
        return {**own, **joined(lesson=lesson, episode=episode, policy=self.policy.state())}

    def restore(self, state: State) -> None:
        """Take over what `state` gave, before `start`. A restarted AP still begins with the slot that comes.

        Raises:
            StateError: if its arrays are not those of this AP with this config; nothing has changed then.
        """
        parts = {name: part(state, name) for name in ("lesson", "episode", "policy")}
        own = {name: array for name, array in state.items() if name.split(".")[0] not in parts}
        refuse_other(own, {"completed": (np.int64, ()), "next": (np.int64, ())})
        refuse_other(parts["lesson"], lesson_layout(observation_size(self._config)))
        Episode.refuse_other(parts["episode"])
        self.policy.restore(parts["policy"])
        self.completed = int(own["completed"])
        self._restored = self.checkpointed = int(own["next"])
        if self._next is not None:
            self._next = int(own["next"])
        self._lesson = lesson_of(parts["lesson"])
        self._remembered = parts["episode"]

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
        loudest = max(np.abs(block.h_hat).max(initial=0), math.sqrt(np.abs(block.untold).max(initial=0)))
        refuse_unless(loudest <= _LOUDEST * self._config.radio.num_ues, "channels that amplify")

    def _refuse_unless_audible(self, interference: FloatArray) -> None:
        """Refuse reports of more power than anybody sends."""
        radio = self._config.radio
        refuse_unless(
            interference.max(initial=0) <= _LOUDEST**2 * radio.ap_power_w * radio.num_ues, "more power than was sent"
        )

    def _park(self, message: PilotBlock | _OfSlot) -> None:
        """Keep a message for its slot."""
        self._inbox.park(message, self._next or 0)
        self._complain_if_left_behind(message.slot)

    def _complain_if_left_behind(self, slot: int) -> None:
        """What is heard from two slots ahead, or later than first heard of, says that the channel server does not wait.

        If it has been restarted it may not know us.
        """
        here = self.slot.index if self.slot else self._next
        if here is None and self._ahead < 0:
            self._ahead = slot
        if (self._ahead if here is None else here) + 2 <= slot != self._ahead:
            self._ahead = slot
            self._send(CHANNEL, self._hello())

    def _slot_of(self, message: _OfSlot) -> Slot | None:
        """The open slot that a message is for; None if it was parked or dropped instead."""
        if not isinstance(message, SlotFeedback):
            self._gone.discard(message.ap)
        if self.slot is None or message.slot != self.slot.index:
            self._park(message)
            return None
        if not isinstance(message, SlotFeedback):
            self.slot.doubted.discard(message.ap)
        return self.slot if self._inbox.first_time(message) else None


def _most_alike(numbers: IntArray) -> int:
    """How often the most frequent of these numbers, which are not negative, occurs."""
    starts = np.flatnonzero(np.diff(np.sort(numbers), prepend=-1, append=-1))
    return int(np.diff(starts).max(initial=0))
