"""Which messages fit this network: every refusal by content, before a message is looked at any further.

A message that fails here is a peer's fault: it is counted as malformed and dropped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from apnode.agent.observation import MOST_GAIN
from apnode.agent.policies import Learner, Observer, Policy
from apnode.config import Config
from apnode.protocol.fields import Message
from apnode.protocol.messages import (
    LEAST_LEVEL,
    NOBODY,
    Association,
    ChannelBlock,
    ClusterBlock,
    CommonLinks,
    CoopRequest,
    Deadline,
    FloatArray,
    GainReport,
    IntArray,
    LinkState,
    PilotBlock,
    SelfReport,
    SlotFeedback,
)
from apnode.protocol.node import refuse_unless
from apnode.slot import Slot

LOUDEST = (
    1e3  # largest plausible amplitude, relative to what was sent; larger claims are refused, as sums would overflow
)


class Checks:
    """What AP `ap` refuses, from its config alone."""

    def __init__(self, ap: int, config: Config, policy: Policy) -> None:
        self._ap, self._config, self._radio = ap, config, config.radio
        self._learner = policy if isinstance(policy, Learner) else None
        self._observer = policy if isinstance(policy, Observer) else None
        self._by_kind: dict[type[Message], Callable[[Any], None]] = {
            Association: self._association,
            PilotBlock: self._pilots,
            CoopRequest: self._request,
            ChannelBlock: self._block,
            LinkState: self._link_state,
            CommonLinks: self._common_links,
            ClusterBlock: self._cluster_block,
            Deadline: self._deadline,
            SlotFeedback: self._feedback,
            GainReport: self._gain,
            SelfReport: self._self_report,
        }

    def refuse_unfit(self, message: Message) -> None:
        """Check a message by its kind.

        Raises:
            RefusedError: if it cannot be true in this network.
        """
        check = self._by_kind.get(type(message))
        if check is not None:
            check(message)

    def refuse_unless_of(self, slot: Slot, feedback: SlotFeedback) -> None:
        """Check feedback against the slot that it is for.

        Raises:
            RefusedError: if it is for other UEs or antennas.
        """
        refuse_unless(len(feedback.rate) == len(slot.episode.ues), "feedback for UEs of other APs")
        refuse_unless(feedback.group.shape == slot.episode.association.served_by.shape, "groups of other APs")
        gains = feedback.partner_gain
        refuse_unless(gains.shape[2] == self._radio.antennas or not gains.size, "gains of other antennas")

    def _association(self, association: Association) -> None:
        refuse_unless(len(association.neighbours) <= self._config.cooperation.max_neighbours, "too many neighbours")
        peers = (*association.neighbours, *association.askers)
        refuse_unless(all(self._is_peer(peer) for peer in peers), "unknown AP")
        refuse_unless(self._known(association.reach + association.around), "beta of an unknown UE")
        pilots = max(association.pilots.max(initial=0), association.around_pilots.max(initial=0))
        refuse_unless(pilots < self._radio.pilot_length, "unknown pilot")
        loudest = max(association.beta.max(initial=0), association.neighbour_beta.max(initial=0))
        refuse_unless(loudest <= LOUDEST**2, "channels that amplify")
        refuse_unless(bool(association.around) <= self._config.looks_around, "more of neighbours than was asked for")
        known, expected = association.served_by, self._config.selects_serving * len(association.ues)
        refuse_unless(known.shape[1] <= self._radio.most_serving_aps and len(known) == expected, "APs of too many UEs")
        refuse_unless(bool(((known < self._radio.num_aps) | (known == NOBODY)).all()), "unknown AP")
        self._audible(association.interference)

    def _pilots(self, pilots: PilotBlock) -> None:
        radio = self._radio
        shape = (self._config.run.blocks_per_slot, radio.antennas, radio.pilot_length)
        refuse_unless(pilots.y.shape == shape, "pilots of other blocks, antennas or length")
        refuse_unless(pilots.slot < self._config.num_slots, "slot beyond the end of the run")
        sent = radio.num_ues * math.sqrt(radio.pilot_power_w) + math.sqrt(radio.noise_power_w)
        refuse_unless(np.abs(pilots.y).max(initial=0) <= LOUDEST * sent, "pilots louder than they were sent")

    def _request(self, request: CoopRequest) -> None:
        refuse_unless(
            self._is_peer(request.ap) and self._known(request.ues), "request by an unknown AP or for unknown UEs"
        )

    def _block(self, block: ChannelBlock) -> None:
        self._estimates(block)
        learner = self._learner
        understood = learner.understands(block.learned) if learner else not len(block.learned)
        refuse_unless(understood, "weights of another network")

    def _link_state(self, state: LinkState) -> None:
        """A partner tells what it has learnt of the links."""
        radio = self._radio
        refuse_unless(self._config.cooperation.cluster != "serving", "links that are of no UE")
        named = max(state.known, default=0), state.links[:, 1].max(initial=0)
        refuse_unless(max(named) < radio.num_aps, "unknown AP")
        refuse_unless(state.serves[:, 1].max(initial=0) < radio.num_ues, "service to unknown UEs")
        refuse_unless(state.round <= radio.num_aps, "more rounds than APs")
        most = _most_alike(state.links[:, 0])
        refuse_unless(most <= self._config.cooperation.max_neighbours, "an AP with too many partners")
        self._in_cluster(state.ap)

    def _common_links(self, state: CommonLinks) -> None:
        """A partner tells what it has learnt of the links between APs that serve a UE of this AP."""
        radio = self._radio
        refuse_unless(self._config.cooperation.cluster == "serving", "links of a UE")
        refuse_unless(state.links[:, 1:].max(initial=0) < radio.num_aps, "unknown AP")
        refuse_unless(state.links[:, 0].max(initial=0) < radio.num_ues, "service to unknown UEs")
        refuse_unless(state.round < radio.most_serving_aps, "more rounds than APs can be away")
        refuse_unless(state.age <= self._config.cooperation.history_blocks, "estimates older than an AP remembers")
        most = _most_alike(state.links[:, 0].astype(int) * radio.num_aps + state.links[:, 1])
        refuse_unless(most < radio.most_serving_aps, "an AP with too many partners")
        self._in_cluster(state.ap)

    def _cluster_block(self, block: ClusterBlock) -> None:
        self._estimates(block)
        refuse_unless(self._is_peer(block.owner), "channels of an unknown AP")
        self._in_cluster(block.ap)

    def _deadline(self, deadline: Deadline) -> None:
        refuse_unless(deadline.slot < self._config.num_slots, "slot beyond the end of the run")

    def _feedback(self, feedback: SlotFeedback) -> None:
        self._audible(feedback.interference)
        refuse_unless(feedback.partner_gain.max(initial=0) <= LOUDEST**2, "channels that amplify")
        refuse_unless(bool(len(feedback.hearers)) <= self._config.hears_streams, "levels of streams unasked for")
        refuse_unless(self._known(feedback.heard_at.tolist()), "a stream heard by an unknown UE")
        refuse_unless(feedback.level.min(initial=LEAST_LEVEL) >= LEAST_LEVEL, "a stream too weak to be reported")

    def _gain(self, report: GainReport) -> None:
        refuse_unless(-1 <= report.gain <= MOST_GAIN, "gain out of range")

    def _self_report(self, report: SelfReport) -> None:
        refuse_unless(self._is_peer(report.ap), "sent by an unknown AP")
        refuse_unless(self._observer is not None and self._observer.credible(report.levels), "levels that cannot be")

    def _in_cluster(self, sender: int) -> None:
        refuse_unless(self._config.cooperation.is_transitive, "clusters do not reach beyond an AP's partners")
        refuse_unless(self._is_peer(sender), "sent by an unknown AP")

    def _estimates(self, block: ChannelBlock | ClusterBlock) -> None:
        blocks, history = self._config.run.blocks_per_slot, self._config.cooperation.history_blocks
        told, antennas, _ = block.h_hat.shape
        refuse_unless(antennas == self._radio.antennas, "channel block of a wrong shape")
        refuse_unless(block.age <= history, "estimates older than an AP remembers")
        refuse_unless(blocks <= told + block.age <= blocks + history, "estimates of a wrong number of blocks")
        selects = self._config.precoding.joint == "selective"
        refuse_unless(len(block.untold) == told * selects, "covariance of a wrong number of blocks")
        refuse_unless(self._known(block.ues), "channel block for unknown UEs")
        loudest = max(np.abs(block.h_hat).max(initial=0), math.sqrt(np.abs(block.untold).max(initial=0)))
        refuse_unless(loudest <= LOUDEST * self._radio.num_ues, "channels that amplify")

    def _audible(self, power: FloatArray) -> None:
        """Refuse reports of more power than all APs send."""
        most = LOUDEST**2 * self._radio.ap_power_w * self._radio.num_ues
        refuse_unless(power.max(initial=0) <= most, "more power than was sent")

    def _is_peer(self, ap: int) -> bool:
        return ap != self._ap and ap < self._radio.num_aps

    def _known(self, ues: Iterable[int]) -> bool:
        return all(ue < self._radio.num_ues for ue in ues)


def _most_alike(numbers: IntArray) -> int:
    """How often the most frequent of these numbers occurs."""
    return max(Counter(numbers.tolist()).values(), default=0)
