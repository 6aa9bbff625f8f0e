"""Inside a slot: who agrees with whom, and which clusters are found, by the rules of the protocol."""

from collections.abc import Collection, Iterable, Mapping
from functools import partial

import numpy as np
import pytest

from apnode.access_point import AccessPoint
from apnode.clusters.relaying import common_links
from apnode.protocol.fields import Message
from apnode.protocol.messages import (
    ApReport,
    ChannelBlock,
    ClusterBlock,
    CommonLinks,
    CoopDecline,
    CoopRequest,
    Deadline,
    FloatArray,
    GainReport,
    LinkState,
    SelfReport,
    SlotFeedback,
    Transmission,
)
from apnode.protocol.node import CHANNEL, COORDINATOR
from cfmimo.presets import load
from tests.apnode.driving import (
    COMPONENTS,
    DIRECTED,
    NEIGHBOURHOOD,
    NEIGHBOURS,
    SERVING,
    SHAPE,
    SMALL,
    UES,
    Asks,
    Driven,
    associated,
    association,
    block,
    cluster_block,
    decline,
    each_order,
    entry,
    feedback,
    kinds,
    only,
    opened,
    pilots,
    request,
    state,
)

# --- acceptance: mutual ------------------------------------------------------------------------------------


def test_mutual_says_yes_to_whom_it_asked_and_no_to_the_others() -> None:
    driven = opened(asks=[1])
    out = driven.give(request(1), request(3), request(4))
    assert kinds(out) == [("ap/1", ChannelBlock), ("ap/3", CoopDecline), ("ap/4", CoopDecline)]


def test_a_channel_block_is_about_the_ues_that_you_or_i_serve() -> None:
    sent = only(opened(asks=[1]).give(request(1, ues=(1,))), ChannelBlock)
    assert sent.ues == (0, 1, 2)
    sent = only(opened(asks=[1]).give(request(1, ues=(2,))), ChannelBlock)
    assert sent.ues == (0, 2)
    assert sent.h_hat.shape == (*SHAPE, 2)


def test_mutual_transmits_when_everybody_asked_has_answered() -> None:
    driven = opened(asks=[1, 2, 3])
    assert (CHANNEL, Transmission) not in kinds(driven.give(block(1), decline(2)))
    sent = only(driven.give(block(3)), Transmission)
    assert sent.partners == (1, 3)
    assert not np.array_equal(sent.w, sent.w_alone)


@pytest.mark.parametrize("first", [1, 8])
def test_partners_are_in_the_order_of_their_ids(first: int) -> None:
    """Floating-point sums over a cluster are the same however the blocks came."""
    driven = Driven("radio.num_aps=20", asks=[1, 2])
    driven.give(association(neighbours=(8, 1, 17)), pilots())
    driven.give(block(first))
    assert only(driven.give(block(9 - first)), Transmission).partners == (1, 8)


def test_in_an_ego_cluster_a_block_is_answered_with_a_block_once() -> None:
    driven = opened(asks=[1, 2])
    assert kinds(driven.give(block(1))) == [("ap/1", ChannelBlock)]
    assert driven.give(request(1)) == []


def test_mutual_does_not_depend_on_the_order_of_arrival() -> None:
    """AP 1 asks too and says yes, AP 2 says no, AP 3 asks in vain."""
    messages = [request(1), block(1), decline(2), request(3)]
    outcomes = each_order(lambda: opened(asks=[1, 2]), messages)
    assert len(outcomes) == 24
    assert len(set(outcomes)) == 1
    assert len(outcomes[0]) == 3


def test_once_it_has_transmitted_an_ap_declines() -> None:
    driven = opened(asks=[1])
    driven.give(Deadline(0))
    assert kinds(driven.give(request(1))) == [("ap/1", CoopDecline)]


def test_a_block_of_somebody_not_asked_counts_for_nothing() -> None:
    driven = opened(asks=[1])
    assert driven.give(block(3)) == []
    assert only(driven.give(decline(1)), Transmission).partners == ()


def test_a_block_of_a_stranger_is_ignored() -> None:
    driven = opened(asks=[1])
    assert driven.give(block(4)) == []
    assert only(driven.give(block(1)), Transmission).partners == (1,)


def test_a_stranger_cannot_answer_for_a_neighbour() -> None:
    driven = opened(asks=[1])
    assert driven.give(decline(4), decline(3), block(4), block(3)) == []


# --- clusters that reach beyond one's own partners ----------------------------------------------------------

CHAIN = [  # 0-1-4, where 4 is no neighbour of 0
    state(1, 1, entry(1, 0, 4)),
    state(1, 2, entry(0, 1, ues=UES), entry(4, 1)),
    cluster_block(1, 1),
    cluster_block(1, 4),
]


def test_an_ap_that_knows_its_links_tells_its_partners_and_goes_on_waiting() -> None:
    driven = opened(*COMPONENTS, asks=[1, 2])
    assert kinds(driven.give(block(1))) == [("ap/1", ChannelBlock)]
    ((to, said),) = driven.give(decline(2))
    assert to == "ap/1"
    assert isinstance(said, LinkState)
    assert (said.slot, said.ap, said.round, said.known) == (0, 0, 1, (0,))
    assert said.links.tolist() == [[0, 1]]
    assert said.interference.tolist() == [2e-10]
    assert said.serves.tolist() == [[0, 0], [0, 2]]


def test_an_ap_without_a_link_transmits_at_once() -> None:
    assert only(opened(*COMPONENTS, asks=[1]).give(decline(1)), Transmission).partners == ()
    assert kinds(associated(*COMPONENTS).give(pilots())) == [(CHANNEL, Transmission)]


def test_a_cluster_of_two_is_found_with_one_message_and_precodes_like_an_ego_cluster() -> None:
    driven, ego = opened(*COMPONENTS, asks=[1]), opened(asks=[1])
    driven.give(block(1))
    out = driven.give(state(1, 1, entry(1, 0)))
    assert kinds(out) == [(CHANNEL, Transmission)]
    sent, alike = only(out, Transmission), only(ego.give(block(1)), Transmission)
    assert sent.partners == (1,)
    np.testing.assert_array_equal(sent.w, alike.w)


def test_members_whom_an_ap_cannot_reach_itself_are_found_and_precoded_with() -> None:
    driven = opened(*COMPONENTS, asks=[1])
    driven.give(block(1))
    ((to, second),) = driven.give(CHAIN[0])
    assert (to, type(second)) == ("ap/1", LinkState)
    assert isinstance(second, LinkState)
    assert (second.round, second.known) == (2, (1,))
    ((to, own),) = driven.give(CHAIN[1])
    assert (to, type(own)) == ("ap/1", ClusterBlock)
    assert isinstance(own, ClusterBlock)
    assert (own.ap, own.owner, own.ues) == (0, 0, (0, 1, 2))
    assert driven.give(CHAIN[2]) == []
    assert only(driven.give(CHAIN[3]), Transmission).partners == (1, 4)
    assert only(driven.give(feedback()), ApReport).cluster_size == 3


def test_an_ap_between_two_members_passes_blocks_on() -> None:
    driven = opened(*COMPONENTS, asks=[1, 2])
    driven.give(block(1), block(2))
    out = driven.give(state(1, 1, entry(1, 0)), state(2, 1, entry(2, 0)))
    assert kinds(out) == [(f"ap/{ap}", kind) for kind in (LinkState, ClusterBlock) for ap in (1, 2)]
    ((to, passed),) = driven.give(cluster_block(1, 1))
    assert to == "ap/2"
    assert isinstance(passed, ClusterBlock)
    assert (passed.ap, passed.owner) == (0, 1)
    np.testing.assert_array_equal(passed.h_hat, cluster_block(1, 1).h_hat)
    out = driven.give(cluster_block(2, 2))
    assert kinds(out) == [("ap/1", ClusterBlock), (CHANNEL, Transmission)]


def test_forming_a_cluster_does_not_depend_on_the_order_of_arrival() -> None:
    """AP 1 is in the first round, and AP 2 knows everything, before AP 0 knows whom it has for a partner."""
    messages = [block(1), request(1), decline(2), state(1, 1, entry(1, 0, 4)), request(3)]
    outcomes = each_order(lambda: opened(*COMPONENTS, asks=[1, 2]), messages)
    assert len(set(outcomes)) == 1
    assert len(outcomes[0]) == 4  # a block, two rounds, a decline

    def started() -> Driven:
        driven = opened(*COMPONENTS, asks=[1])
        driven.give(block(1), CHAIN[0])
        return driven

    outcomes = each_order(started, CHAIN[1:])
    assert len(set(outcomes)) == 1
    assert [to for to, _ in outcomes[0]] == ["ap/1", CHANNEL]


def test_a_component_above_the_limit_is_refused_and_told_of() -> None:
    driven = opened("cooperation.cluster=components", "cooperation.max_cluster_aps=2", asks=[1])
    driven.give(block(1), CHAIN[0])
    sent = only(driven.give(CHAIN[1]), Transmission)
    assert sent.partners == ()
    np.testing.assert_array_equal(sent.w, sent.w_alone)
    assert only(driven.give(feedback()), ApReport).cluster_size == 3


@pytest.mark.parametrize("heard", range(4))
def test_at_the_deadline_an_ap_whose_cluster_is_incomplete_transmits_alone(heard: int) -> None:
    driven = opened(*COMPONENTS, asks=[1])
    driven.give(block(1), *CHAIN[:heard])
    sent = only(driven.give(Deadline(0)), Transmission)
    assert sent.partners == ()
    np.testing.assert_array_equal(sent.w, sent.w_alone)
    assert driven.give(*CHAIN[heard:]) == []
    assert kinds(driven.give(feedback())) == [(COORDINATOR, ApReport)]


def test_gains_are_told_to_and_awaited_from_members_with_a_link() -> None:
    driven = opened(*COMPONENTS, *NEIGHBOURHOOD, asks=[1])
    driven.give(request(1), block(1), *CHAIN)
    assert kinds(driven.give(feedback())) == [("ap/1", GainReport)]
    assert kinds(driven.give(GainReport(0, 1, 0.25))) == [(COORDINATOR, ApReport)]


def test_a_partner_whose_cluster_is_refused_is_told_no_gain_and_not_waited_for() -> None:
    overrides = ("cooperation.cluster=components", "cooperation.max_cluster_aps=2")
    driven = opened(*overrides, *NEIGHBOURHOOD, asks=[1, 2])
    driven.give(block(1), block(2), state(1, 1, entry(1, 0)), state(2, 1, entry(2, 0)))
    assert kinds(driven.give(feedback())) == [(COORDINATOR, ApReport)]


def test_a_stranger_is_not_heard_about_clusters() -> None:
    driven = opened(*COMPONENTS, asks=[1])
    driven.give(block(1))
    assert driven.give(state(4, 1, entry(4, 0)), state(3, 1, entry(3, 0)), cluster_block(4, 4)) == []
    assert only(driven.give(state(1, 1, entry(1, 0))), Transmission).partners == (1,)


CLUSTER_MISFITS = {
    "an entry of an AP that there is not": state(1, 1, entry(5, 0)),
    "a partner that there is not": state(1, 1, entry(1, 5)),
    "a UE that there is not": state(1, 1, entry(1, 0, ues=(3,))),
    "an entry with too many partners": state(1, 1, entry(1, 0, 2, 3, 4)),
    "a round beyond all APs": state(1, 6, entry(1, 0)),
    "a round that there cannot be yet": state(1, 3, entry(1, 0)),
    "a link state of itself": state(0, 1, entry(0, 1)),
    "a link state of an AP that there is not": state(5, 1, entry(1, 0)),
    "a block of a wrong shape": ClusterBlock(0, 1, 1, (0,), np.zeros((1, 4, 1)), [0.0], np.zeros((0, 4, 4))),
    "a block for a UE that there is not": cluster_block(1, 1, (0, 3)),
    "a block of itself": cluster_block(1, 0),
    "a block owned by an AP that there is not": cluster_block(1, 5),
    "a block passed on by itself": cluster_block(0, 1),
}


@pytest.mark.parametrize("name", CLUSTER_MISFITS)
def test_a_message_about_clusters_that_does_not_fit_is_counted_and_changes_nothing(name: str) -> None:
    driven = opened(*COMPONENTS, "cooperation.max_neighbours=3", asks=[1])
    driven.give(block(1))
    assert driven.give(CLUSTER_MISFITS[name]) == []
    assert driven.dropped == {"malformed": 1}
    assert only(driven.give(*CHAIN), Transmission).partners == (1, 4)


# --- clusters of the APs that serve a UE -------------------------------------------------------------------


def serving(sender: int, *ues: int) -> ChannelBlock:
    """An AP that serves some UEs tells of all."""
    told = block(sender)
    rho = [0.1 * (ue in ues) for ue in told.ues]
    return ChannelBlock(0, sender, told.ues, told.h_hat, rho, np.full((2, 4, 4), 1e-10 * np.eye(4)))


def relayed(sender: int, owner: int, *ues: int) -> ClusterBlock:
    told = serving(owner, *ues)
    return ClusterBlock(0, sender, owner, told.ues, told.h_hat, told.rho, told.untold)


def links(sender: int, number: int, ue: int, ap: int, *partners: int) -> CommonLinks:
    return common_links(0, sender, number, {(ue, ap): frozenset(partners)})


ROW = [links(1, 1, 0, 1, 0, 4), links(1, 2, 0, 4, 1), relayed(1, 4, 0)]  # 0-1-4 serve UE 0; 4 is no neighbour of 0


def test_an_ap_tells_each_partner_of_its_links_for_the_ues_that_both_serve() -> None:
    driven = opened(*SERVING, asks=[1, 2])
    driven.give(serving(1, 0, 2))
    (first, second) = driven.give(serving(2, 2))[1:]
    assert kinds([first, second]) == [("ap/1", CommonLinks), ("ap/2", CommonLinks)]
    assert isinstance(first[1], CommonLinks)
    assert isinstance(second[1], CommonLinks)
    assert first[1].links.tolist() == [[0, 0, 1], [2, 0, 1], [2, 0, 2]]
    assert second[1].links.tolist() == [[2, 0, 1], [2, 0, 2]]


def test_an_ap_whose_partners_serve_none_of_its_ues_transmits_at_once_and_alone() -> None:
    out = opened(*SERVING, asks=[1]).give(serving(1, 1))
    assert kinds(out) == [("ap/1", ChannelBlock), (CHANNEL, Transmission)]
    assert only(out, Transmission).partners == ()


def test_a_serving_ap_behind_a_partner_is_found_and_precoded_with() -> None:
    driven = opened(*SERVING, asks=[1])
    driven.give(serving(1, 0))
    assert driven.give(*ROW[:2]) == []
    sent = only(driven.give(ROW[2]), Transmission)
    assert sent.partners == (1, 4)
    np.testing.assert_array_equal(sent.w[:, 1], sent.w_alone[:, 1])  # UE 2 is 0's alone
    assert np.abs(sent.w[:, 0] - sent.w_alone[:, 0]).min() > 0
    assert only(driven.give(feedback()), ApReport).cluster_size == 3


def test_an_ap_between_two_that_serve_its_ue_passes_links_and_channels_on() -> None:
    driven = opened(*SERVING, asks=[1, 2])
    driven.give(serving(1, 0), serving(2, 0))
    out = driven.give(links(1, 1, 0, 1, 0), links(2, 1, 0, 2, 0))
    both = [(f"ap/{ap}", kind) for ap in (1, 2) for kind in (CommonLinks, ClusterBlock)]
    assert kinds(out) == [*both, (CHANNEL, Transmission)]
    (to_one, to_two) = (message for _, message in out if isinstance(message, ClusterBlock))
    assert (to_one.ap, to_one.owner, to_two.ap, to_two.owner) == (0, 2, 0, 1)
    np.testing.assert_array_equal(to_two.h_hat, serving(1).h_hat)


def test_finding_who_serves_a_ue_does_not_depend_on_the_order_of_arrival() -> None:
    started = partial(opened, *SERVING, asks=[1, 2])
    outcomes = each_order(started, [serving(1, 0), request(1), serving(2, 0), ROW[0], links(2, 1, 0, 2, 0)])
    assert len(set(outcomes)) == 1
    assert len(outcomes[0]) == 8  # two blocks, two times two rounds and relayed blocks

    def agreed() -> Driven:
        driven = opened(*SERVING, asks=[1])
        driven.give(serving(1, 0))
        return driven

    outcomes = each_order(agreed, ROW)
    assert len(set(outcomes)) == 1
    assert [to for to, _ in outcomes[0]] == [CHANNEL]


@pytest.mark.parametrize("heard", range(3))
def test_at_the_deadline_an_ap_whose_components_are_incomplete_transmits_alone(heard: int) -> None:
    driven = opened(*SERVING, asks=[1])
    driven.give(serving(1, 0), *ROW[:heard])
    sent = only(driven.give(Deadline(0)), Transmission)
    assert sent.partners == ()
    np.testing.assert_array_equal(sent.w, sent.w_alone)
    assert driven.give(*ROW[heard:]) == []
    assert kinds(driven.give(feedback())) == [(COORDINATOR, ApReport)]


def test_gains_are_told_to_and_awaited_from_those_with_a_link_and_a_common_ue() -> None:
    driven = opened(*SERVING, *NEIGHBOURHOOD, asks=[1, 3])
    driven.give(serving(1, 0), serving(3, 1), *ROW)
    assert kinds(driven.give(feedback())) == [("ap/1", GainReport)]
    assert kinds(driven.give(GainReport(0, 1, 0.25))) == [(COORDINATOR, ApReport)]


SERVING_MISFITS = {
    "an entry of an AP that there is not": links(1, 1, 0, 5, 0),
    "a partner that there is not": links(1, 1, 0, 1, 5),
    "a UE that there is not": links(1, 1, 3, 1, 0),
    "an entry with too many partners": links(1, 1, 0, 1, 0, 2, 3),
    "a round beyond all that serve a UE": links(1, 3, 0, 1, 0),
    "links of no UE": state(1, 1, entry(1, 0)),
    "links said by itself": links(0, 1, 0, 0, 1),
    "links said by an AP that there is not": links(5, 1, 0, 1, 0),
    "a block without a covariance": cluster_block(1, 4),
}


@pytest.mark.parametrize("name", SERVING_MISFITS)
def test_a_message_about_common_links_that_does_not_fit_is_counted_and_changes_nothing(name: str) -> None:
    driven = opened(*SERVING, "radio.max_serving_aps=3", asks=[1])
    driven.give(serving(1, 0))
    assert driven.give(SERVING_MISFITS[name]) == []
    assert driven.dropped == {"malformed": 1}
    assert only(driven.give(*ROW), Transmission).partners == (1, 4)


@pytest.mark.parametrize("message", [CHAIN[0], CHAIN[2], ROW[0]])
def test_where_clusters_are_an_aps_partners_nobody_is_heard_about_them(message: Message) -> None:
    driven = opened(asks=[1])
    assert driven.give(message) == []
    assert driven.dropped == {"malformed": 1}


# --- acceptance: all, in directed clusters -----------------------------------------------------------------


def test_directed_always_says_yes() -> None:
    driven = opened(*DIRECTED, asks=[1])
    assert kinds(driven.give(request(3), request(4))) == [("ap/3", ChannelBlock), ("ap/4", ChannelBlock)]
    assert kinds(driven.give(block(1))) == [(CHANNEL, Transmission)]  # and does not send its own in return
    assert kinds(driven.give(request(2))) == [("ap/2", ChannelBlock)]  # even when it has transmitted


def test_directed_does_not_depend_on_the_order_of_arrival() -> None:
    outcomes = each_order(lambda: opened(*DIRECTED, asks=[1, 2]), [request(1), block(1), block(2), request(3)])
    assert len(set(outcomes)) == 1
    assert len(outcomes[0]) == 3


# --- where APs find out about themselves --------------------------------------------------------------------


class Confides(Asks):
    """Tells its neighbours of itself in every fifth slot, and notes what they tell."""

    learns = True

    def __init__(self, neighbours: Iterable[int]) -> None:
        super().__init__(neighbours)
        self.heard: list[dict[int, list[float]]] = []
        self.observed: list[int] = []

    def tells(self, slot: int) -> FloatArray:
        return np.array([0.5, slot], np.float32) if slot % 5 == 0 else np.zeros(0)

    def credible(self, told: FloatArray) -> bool:
        return len(told) == 2

    def hear(self, told: Mapping[int, FloatArray]) -> None:
        self.heard.append({ap: levels.tolist() for ap, levels in told.items()})

    def observe(
        self,
        feedback: SlotFeedback,
        groups: Mapping[int, Collection[int]],
        left_out: Mapping[int, Collection[int]],
        late: bool | None = None,
    ) -> None:
        self.observed.append(feedback.slot)


def confiding(asks: Iterable[int] = ()) -> tuple[Driven, Confides]:
    """AP 0 that knows its UEs and its neighbours."""
    driven, policy = Driven(), Confides(asks)
    driven.ap = AccessPoint(0, load("demo", SMALL), policy)
    driven.give(association())
    return driven, policy


def test_an_ap_tells_all_its_neighbours_of_itself_before_it_asks_any() -> None:
    driven, _ = confiding(asks=[1])
    out = driven.give(pilots())
    assert kinds(out)[:3] == [(f"ap/{peer}", SelfReport) for peer in NEIGHBOURS]
    assert {tuple(m.levels.tolist()) for _, m in out if isinstance(m, SelfReport)} == {(0.5, 0.0)}
    assert kinds(out)[3:] == [("ap/1", CoopRequest)]


def test_a_slot_is_not_over_before_all_neighbours_have_told_of_themselves() -> None:
    driven, policy = confiding()
    driven.give(pilots(), SelfReport(0, 2, [0.1, 0.2]), SelfReport(0, 3, [0.5, 0.5]), feedback())
    assert driven.give(pilots(1), SelfReport(0, 4, [0.7, 0.7])) == []  # AP 4 is no neighbour
    out = kinds(driven.give(SelfReport(0, 1, [0.25, 0.0])))
    assert out == [(COORDINATOR, ApReport), (CHANNEL, Transmission)]
    told = {0: [0.5, 0.0], 2: [0.1, 0.2], 3: [0.5, 0.5], 1: [0.25, 0.0]}
    assert {ap: pytest.approx(levels) for ap, levels in policy.heard[0].items()} == told
    assert policy.observed == [0]
    driven.give(feedback(1))
    assert policy.heard[1:] == [{}]  # the next slot waits for nobody
    assert policy.observed == [0, 1]


def test_what_a_neighbour_tells_of_itself_at_another_time_is_of_no_account() -> None:
    driven, policy = confiding()
    driven.give(pilots(), *(SelfReport(0, peer, [0.1, 0.2]) for peer in NEIGHBOURS), feedback())
    driven.give(pilots(1), SelfReport(1, 1, [0.9, 0.9]), feedback(1))
    assert policy.heard[1] == {}


def test_in_which_order_neighbours_tell_of_themselves_changes_nothing() -> None:
    def started() -> Driven:
        driven, _ = confiding(asks=[1])
        driven.give(pilots(), block(1), SelfReport(0, 3, [0.3, 0.2]))
        return driven

    outcomes = each_order(started, [SelfReport(0, 1, [0.1, 0.2]), SelfReport(0, 2, [0.2, 0.2]), feedback(), pilots(1)])
    assert len(set(outcomes)) == 1
    assert [to for to, _ in outcomes[0]] == ["ap/1", COORDINATOR]


def test_a_neighbour_that_was_restarted_or_misses_the_deadline_keeps_nobody_waiting() -> None:
    driven, _ = confiding()
    driven.give(pilots(), SelfReport(0, 2, [0.1, 0.2]), feedback())
    assert driven.give(SelfReport(0, 3, [0.1, 0.2])) == []
    moved = association(endpoints=("tcp://ap2:1", "tcp://elsewhere:1", "tcp://ap3:1"))
    assert kinds(driven.give(moved)) == [(COORDINATOR, ApReport)]
    driven, _ = confiding()
    driven.give(pilots(), SelfReport(0, 2, [0.1, 0.2]), feedback(), pilots(1))
    assert kinds(driven.give(Deadline(1))) == [(COORDINATOR, ApReport), (CHANNEL, Transmission)]
