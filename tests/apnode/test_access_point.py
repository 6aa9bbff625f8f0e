"""One access point by hand: real frames in, real frames out, and the rules of the protocol between them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from apnode.access_point import AccessPoint
from apnode.clusters.formation import link_state
from apnode.clusters.graph import Entry
from apnode.clusters.relaying import common_links
from apnode.protocol.fields import Message
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
    LinkState,
    PilotBlock,
    RunOver,
    SlotFeedback,
    Transmission,
)
from apnode.protocol.node import CHANNEL, COORDINATOR, DROPS, Send
from apnode.protocol.wire import decode, encode
from cfmimo.presets import load

SMALL = (
    "radio.num_aps=5",
    "radio.num_ues=3",
    "run.blocks_per_slot=2",
    "run.episodes=2",
    "run.slots_per_episode=10",
    "cooperation.policy=never",
)
DIRECTED = ("cooperation.cluster=directed", "cooperation.acceptance=all")
COMPONENTS = ("cooperation.cluster=components", "cooperation.max_cluster_aps=3")
SERVING = ("cooperation.cluster=serving", "precoding.joint=selective", "precoding.power=peak")
NEIGHBOURHOOD = ("reward.scope=neighbourhood",)
NEIGHBOURS = (2, 1, 3)  # of AP 0, strongest first; AP 4 is none
UES = (0, 2)  # that AP 0 serves
SHAPE = (2, 4)  # blocks, antennas

Out = list[tuple[str, Message]]


class Asks:
    """Asks the same neighbours in every slot: all that a policy needs."""

    def __init__(self, neighbours: Iterable[int]) -> None:
        self._action = sum(1 << NEIGHBOURS.index(n) for n in neighbours)

    def act(self, observation: FloatArray, association: Association, slot: int) -> int:
        return self._action


class Driven:
    """AP 0 of a small network, whose whole world is what the test gives it."""

    def __init__(self, *overrides: str, asks: Iterable[int] = (), incarnation: int = 0) -> None:
        config = load("demo", (*SMALL, *overrides))
        self.ap = AccessPoint(0, config, Asks(asks), incarnation)

    def frames(self, *messages: Message) -> list[Send]:
        """Every frame that the messages make it send."""
        return [send for message in messages for send in self.ap.receive(encode(message))]

    def give(self, *messages: Message) -> Out:
        """Every message that the messages make it send, and to whom."""
        return [(send.to, decode(send.frame)) for send in self.frames(*messages)]

    @property
    def dropped(self) -> dict[str, int]:
        """Frames dropped since the last report, by reason."""
        return {reason: int(count) for reason, count in zip(DROPS, self.ap.dropped, strict=True) if count}


def associated(*overrides: str, asks: Iterable[int] = ()) -> Driven:
    """AP 0 that knows its UEs and its neighbours."""
    driven = Driven(*overrides, asks=asks)
    assert driven.give(association()) == []
    return driven


def opened(*overrides: str, asks: Iterable[int] = ()) -> Driven:
    """AP 0 in slot 0, having said whom it asks."""
    driven = associated(*overrides, asks=asks)
    driven.give(pilots())
    return driven


def association(**changed: Any) -> Association:
    fields: dict[str, Any] = {
        "episode": 0,
        "ues": UES,
        "beta": [3e-10, 2e-12, 1e-9],
        "pilots": [0, 1, 2],
        "neighbours": NEIGHBOURS,
        "endpoints": tuple(f"tcp://ap{n}" for n in NEIGHBOURS),
        "interference": [3e-10, 2e-10, 1e-10],
    }
    return Association(**{**fields, **changed})


def gaussian(shape: Sequence[int], *key: int) -> Any:
    rng = np.random.default_rng(key)
    return 1e-5 * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


def pilots(slot: int = 0, episode: int = 0, shape: Sequence[int] = (*SHAPE, 10)) -> PilotBlock:
    return PilotBlock(episode, slot, gaussian(shape, slot))


def request(sender: int, slot: int = 0, ues: tuple[int, ...] = (1,)) -> CoopRequest:
    return CoopRequest(slot, sender, ues)


def block(sender: int, slot: int = 0, ues: tuple[int, ...] = (0, 1, 2), shape: Sequence[int] = SHAPE) -> ChannelBlock:
    h_hat = gaussian((*shape, len(ues)), slot, sender)
    return ChannelBlock(slot, sender, ues, h_hat, [0.1] * len(ues), np.zeros((0, shape[1], shape[1])))


def decline(sender: int, slot: int = 0) -> CoopDecline:
    return CoopDecline(slot, sender)


def entry(ap: int, *partners: int, ues: tuple[int, ...] = (1,), power: float = 1e-10) -> Entry:
    return Entry(ap, ues, dict.fromkeys(partners, power))


def state(sender: int, number: int, *entries: Entry, slot: int = 0) -> LinkState:
    return link_state(slot, sender, number, entries)


def cluster_block(sender: int, owner: int, ues: tuple[int, ...] = (0, 1, 2), slot: int = 0) -> ClusterBlock:
    told = block(owner, slot, ues)
    return ClusterBlock(slot, sender, owner, ues, told.h_hat, told.rho, told.untold)


def feedback(slot: int = 0, rate: Sequence[float] = (2.0, 1.0), alone: Sequence[float] = (1.0, 1.0)) -> SlotFeedback:
    heard = np.full((len(rate), 2), 4), np.full((len(rate), 2), 1e-11)
    return SlotFeedback(slot, rate, alone, *heard)


def kinds(out: Out) -> list[tuple[str, type[Message]]]:
    return [(to, type(message)) for to, message in out]


def only(out: Out, kind: type[Any]) -> Any:
    """The one message of a kind."""
    (found,) = (message for _, message in out if type(message) is kind)
    return found


def each_order(driven: Any, messages: Sequence[Message]) -> list[tuple[Any, ...]]:
    """The sorted frames that come of each order of arrival of the messages."""
    return [
        tuple(sorted((send.to, send.frame) for send in driven().frames(*order))) for order in permutations(messages)
    ]


# --- a slot opens ------------------------------------------------------------------------------------------


def test_an_ap_starts_with_a_hello_to_channel_server_and_coordinator() -> None:
    hello = encode(Hello(0, 0, "tcp://here:1"))
    assert Driven().ap.start("tcp://here:1") == [Send(COORDINATOR, hello), Send(CHANNEL, hello)]


@pytest.mark.parametrize("order", [0, 1], ids=["association first", "pilots first"])
def test_a_slot_opens_once_association_and_pilots_are_both_here(order: int) -> None:
    driven = Driven(asks=[1])
    first, second = (association(), pilots())[:: 1 - 2 * order]
    assert driven.give(first) == []
    assert kinds(driven.give(second)) == [("ap/1", CoopRequest)]
    assert driven.dropped == {}


def test_an_ap_asks_whom_its_policy_chose_strongest_first() -> None:
    out = associated(asks=[1, 2, 3]).give(pilots())
    assert kinds(out) == [("ap/2", CoopRequest), ("ap/1", CoopRequest), ("ap/3", CoopRequest)]
    for _, message in out:
        assert isinstance(message, CoopRequest)
        assert (message.slot, message.ap, message.ues) == (0, 0, UES)


def test_an_ap_that_asks_nobody_transmits_at_once_what_it_would_alone() -> None:
    out = associated().give(pilots())
    assert kinds(out) == [(CHANNEL, Transmission)]
    sent = only(out, Transmission)
    assert (sent.slot, sent.ap, sent.ues, sent.partners) == (0, 0, UES, ())
    assert sent.w.shape == (2, len(UES), 4)
    np.testing.assert_array_equal(sent.w, sent.w_alone)


def test_an_ap_that_serves_nobody_transmits_nothing_but_says_so() -> None:
    driven = Driven()
    out = driven.give(association(ues=(), neighbours=(), endpoints=(), interference=[]), pilots())
    sent = only(out, Transmission)
    assert sent.ues == ()
    assert sent.w.shape == (2, 0, 4)
    report = only(driven.give(feedback(rate=(), alone=())), ApReport)
    assert (report.gain, report.reward) == (0, 0)


def test_an_ap_that_serves_nobody_may_still_be_asked() -> None:
    driven = Driven(*DIRECTED, asks=[1])
    driven.give(association(ues=()), pilots())
    assert only(driven.give(request(3)), ChannelBlock).ues == (1,)
    sent = only(driven.give(block(1)), Transmission)
    assert sent.w.shape == (2, 0, 4)
    assert sent.partners == (1,)


def test_a_new_episode_waits_for_its_association() -> None:
    driven = opened("run.slots_per_episode=1")
    driven.give(feedback())
    assert driven.give(pilots(1, episode=1)) == []
    out = driven.give(association(episode=1, ues=(1,)))
    assert only(out, Transmission).ues == (1,)


def test_an_association_within_the_episode_only_says_where_the_neighbours_are() -> None:
    driven = opened(asks=[2])
    assert driven.give(association(endpoints=("tcp://ap2", "tcp://new", "tcp://ap3"), ues=(1,))) == []
    assert driven.ap.endpoints == {"ap/2": "tcp://ap2", "ap/1": "tcp://new", "ap/3": "tcp://ap3"}
    assert only(driven.give(block(2)), Transmission).ues == UES


# --- early, late, twice ------------------------------------------------------------------------------------


def test_early_messages_wait_until_the_slot_opens() -> None:
    driven = associated(asks=[1, 2])
    assert driven.give(block(1), decline(2), request(1), request(3)) == []
    out = driven.give(pilots())
    assert sorted(kinds(out), key=str) == sorted(
        [
            ("ap/1", ChannelBlock),
            ("ap/1", CoopRequest),
            ("ap/2", CoopRequest),
            ("ap/3", CoopDecline),
            (CHANNEL, Transmission),
        ],
        key=str,
    )
    assert only(out, Transmission).partners == (1,)
    assert driven.dropped == {}


def test_the_next_slots_messages_wait_while_this_one_is_open() -> None:
    driven = opened(asks=[1])
    assert driven.give(pilots(1), block(1, 1)) == []
    assert only(driven.give(block(1)), Transmission).slot == 0
    out = driven.give(feedback())
    assert kinds(out) == [
        (COORDINATOR, ApReport),
        ("ap/1", CoopRequest),
        ("ap/1", ChannelBlock),
        (CHANNEL, Transmission),
    ]
    assert only(out, Transmission).slot == 1


def test_early_and_in_time_come_to_the_same() -> None:
    messages = [association(), pilots(), block(1), decline(2), request(1), request(3)]
    in_time = Driven(asks=[1, 2]).frames(*messages, feedback(), pilots(1))
    early = Driven(asks=[1, 2]).frames(*messages[::-1], pilots(1), feedback())
    assert len(in_time) == 8
    assert {(send.to, send.frame) for send in early} == {(send.to, send.frame) for send in in_time}


def test_what_waits_is_neither_accepted_nor_dropped_yet() -> None:
    driven = opened()
    driven.give(pilots(1), block(1, 1), decline(2, 2))
    assert (driven.ap.accepted, driven.ap.kept, driven.dropped) == (2, 3, {})
    driven.give(feedback())
    assert (driven.ap.accepted, driven.ap.kept, driven.dropped) == (3, 1, {})  # the feedback came after the report


def test_what_waited_for_a_slot_that_is_skipped_is_late_after_all() -> None:
    driven = associated()
    driven.give(decline(1, 0), decline(1, 1), Deadline(1), pilots(2))
    assert driven.ap.slot is not None
    assert driven.ap.slot.index == 2
    assert (driven.ap.kept, driven.dropped) == (0, {"late": 2})
    assert driven.ap.accepted == 3  # association, deadline, pilots


def test_a_slot_whose_feedback_came_early_is_closed_as_soon_as_it_opens() -> None:
    out = associated(asks=[1]).give(feedback(), pilots())
    assert kinds(out) == [("ap/1", CoopRequest), (COORDINATOR, ApReport)]


@pytest.mark.parametrize("late", [request(1), block(1), decline(1), feedback(), GainReport(0, 1, 0.5)])
def test_late_messages_are_dropped_and_counted(late: Message) -> None:
    driven = opened()
    driven.give(feedback())
    assert driven.give(late) == []
    assert driven.dropped == {"late": 1}


@pytest.mark.parametrize("then", [(), (feedback(),)], ids=["before the feedback", "after it"])
def test_a_slot_opened_again_is_transmitted_in_again_with_the_same_precoders(then: tuple[Message, ...]) -> None:
    """The channel server was restarted and has forgotten."""
    driven = Driven(asks=[1])
    first = only(driven.give(association(), pilots(), block(1)), Transmission)
    driven.give(*then)
    again = only(driven.give(pilots()), Transmission)
    assert encode(again) == encode(first)


def test_an_ap_that_is_left_behind_says_hello_again_once_a_slot() -> None:
    driven = opened()
    out = driven.give(request(1, slot=1), request(1, slot=2), request(2, slot=2), request(3, slot=3))
    assert [(message.slot, to) for to, message in out] == [(0, CHANNEL)] * 2


def test_drops_are_reported_once() -> None:
    driven = opened()
    driven.give(feedback())
    driven.give(request(1), pilots(1), request(1, slot=99), Hello(1, 0, ""))
    driven.ap.receive(b"garbage")
    first = only(driven.give(feedback(1)), ApReport)
    counted = {reason: int(n) for reason, n in zip(DROPS, first.dropped, strict=True) if n}
    assert counted == {"late": 1, "flood": 1, "unexpected": 1, "checksum": 1}
    second = only(driven.give(pilots(2), feedback(2)), ApReport)
    assert not second.dropped.any()


@pytest.mark.parametrize("overrides", [(), DIRECTED], ids=["mutual", "directed"])
def test_a_request_is_answered_once(overrides: tuple[str, ...]) -> None:
    driven = opened(*overrides, asks=[1])
    assert kinds(driven.give(request(1), request(1), request(1))) == [("ap/1", ChannelBlock)]
    assert driven.dropped == {"duplicate": 2}


def test_a_refused_request_is_declined_once() -> None:
    driven = opened()
    assert kinds(driven.give(request(1), request(1))) == [("ap/1", CoopDecline)]
    assert driven.dropped == {"duplicate": 1}


@pytest.mark.parametrize("twice", [block(1), decline(1), request(1), feedback(), GainReport(0, 1, 0.5)])
def test_a_message_that_comes_twice_changes_nothing(twice: Message) -> None:
    start = [association(), pilots(), request(1), block(2)]
    rest = [decline(1) if twice.__class__ is CoopDecline else block(1), feedback(), GainReport(0, 1, 0.5)]
    rest = [message for message in rest if type(message) is not type(twice)] + [GainReport(0, 2, 0.25), pilots(1)]
    once, again = Driven(*NEIGHBOURHOOD, asks=[1, 2]), Driven(*NEIGHBOURHOOD, asks=[1, 2])
    expected = once.give(*start, twice, *rest)
    got = again.give(*start, twice, twice, *rest)
    assert only(expected, ApReport).requested == (2, 1)
    assert without_drops(got) == without_drops(expected)


def test_pilots_heard_twice_are_counted_as_a_duplicate() -> None:
    driven = opened(asks=[1])
    assert driven.give(pilots()) == []
    assert driven.dropped == {"duplicate": 1}
    assert kinds(driven.give(block(1), feedback()))[1:] == [(CHANNEL, Transmission), (COORDINATOR, ApReport)]


def without_drops(out: Out) -> list[tuple[str, bytes]]:
    """Frames for comparison, of reports without the count of drops."""
    return [(to, encode(_forgiven(message))) for to, message in out]


def _forgiven(message: Message) -> Message:
    if not isinstance(message, ApReport):
        return message
    fields = {name: getattr(message, name) for name in ApReport.__slots__}
    return ApReport(**{**fields, "dropped": np.zeros_like(message.dropped)})


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


# --- restart -----------------------------------------------------------------------------------------------


def test_a_restarted_ap_says_which_life_it_is_in() -> None:
    sends = Driven(incarnation=3).ap.start("tcp://here:2")
    assert {send.frame for send in sends} == {encode(Hello(0, 3, "tcp://here:2"))}


@pytest.mark.parametrize("overrides", [(), DIRECTED], ids=["mutual", "directed"])
@pytest.mark.parametrize("known", [False, True], ids=["before its association", "before its pilots"])
def test_a_restarted_ap_declines_at_once(overrides: tuple[str, ...], known: bool) -> None:
    driven = Driven(*overrides, asks=[1], incarnation=1)
    if known:
        driven.give(association())
    out = driven.give(request(1, slot=7), request(3, slot=7))
    assert kinds(out) == [("ap/1", CoopDecline), ("ap/3", CoopDecline)]
    assert all(message.slot == 7 for _, message in out if isinstance(message, CoopDecline))
    assert driven.dropped == {}


@pytest.mark.parametrize("order", [0, 1], ids=["association first", "pilots first"])
def test_a_restarted_ap_begins_with_the_first_pilots_it_hears(order: int) -> None:
    driven = Driven(asks=[1], incarnation=1)
    out = driven.give(*(association(), pilots(7))[:: 1 - 2 * order])
    assert kinds(out) == [("ap/1", CoopRequest)]
    assert kinds(driven.give(request(1, slot=7))) == [("ap/1", ChannelBlock)]
    assert only(driven.give(block(1, slot=7)), Transmission).slot == 7


def test_a_neighbour_that_has_just_restarted_costs_a_mutual_ap_nothing() -> None:
    assert kinds(opened(asks=[1]).give(decline(1))) == [(CHANNEL, Transmission)]


def moved(neighbour: int) -> Association:
    """What an AP is told when a neighbour has restarted."""
    return association(endpoints=tuple(f"tcp://{'new' if n == neighbour else 'ap'}{n}" for n in NEIGHBOURS))


@pytest.mark.parametrize("overrides", [(), DIRECTED], ids=["mutual", "directed"])
def test_a_neighbour_that_is_elsewhere_now_is_not_waited_for(overrides: tuple[str, ...]) -> None:
    driven = opened(*overrides, asks=[1])
    assert driven.give(moved(2)) == []  # whom it did not ask
    assert only(driven.give(moved(1)), Transmission).partners == ()


def test_what_a_neighbour_told_before_it_restarted_is_used() -> None:
    driven = opened(asks=[1, 2])
    driven.give(block(1), moved(1))
    assert only(driven.give(block(2)), Transmission).partners == (1, 2)


def test_a_partner_that_is_elsewhere_now_owes_no_gain() -> None:
    driven = opened(*NEIGHBOURHOOD, asks=[1])
    driven.give(block(1), feedback())
    assert kinds(driven.give(moved(1))) == [(COORDINATOR, ApReport)]


def test_a_link_to_an_ap_that_is_elsewhere_now_makes_no_cluster() -> None:
    driven = opened(*COMPONENTS, asks=[1])
    driven.give(block(1))
    assert only(driven.give(moved(1)), Transmission).partners == ()


def test_an_association_that_comes_again_is_no_restart() -> None:
    assert opened(asks=[1]).give(association()) == []


def test_restarted_aps_do_not_keep_each_other_talking() -> None:
    """What one says before its first pilots, in answer to an earlier life of the other, is not answered again."""
    one = Driven(incarnation=1)
    other = AccessPoint(1, load("demo", SMALL), Asks([]), incarnation=1)
    for frame in [send.frame for send in one.frames(request(1, slot=7))]:
        assert other.receive(frame) == []


# --- the deadline ------------------------------------------------------------------------------------------


def test_at_the_deadline_an_ap_transmits_with_what_it_has() -> None:
    driven = opened(asks=[1, 2, 3])
    driven.give(block(3))
    assert only(driven.give(Deadline(0)), Transmission).partners == (3,)
    assert driven.give(Deadline(0)) == []
    assert kinds(driven.give(block(1))) == [("ap/1", CoopDecline)]  # it need not wait for ours


def test_a_neighbour_that_let_a_deadline_pass_is_not_waited_for_until_it_is_heard_of() -> None:
    driven = opened(asks=[1, 2])
    driven.give(block(2), Deadline(0), feedback())
    out = driven.give(pilots(1), block(2, slot=1))
    assert only(out, Transmission).partners == (2,)  # not for AP 1
    driven.give(feedback(1), request(1, slot=2))
    out = driven.give(pilots(2), block(2, slot=2))
    assert Transmission not in {kind for _, kind in kinds(out)}
    assert only(driven.give(block(1, slot=2)), Transmission).partners == (1, 2)


def test_a_neighbour_without_an_endpoint_is_away_and_not_waited_for_until_it_is_heard_of() -> None:
    driven = Driven(asks=[3, 1])
    driven.give(association(endpoints=("tcp://ap3", "", "tcp://ap2")), pilots())
    assert kinds(driven.give(block(3)))[-1] == (CHANNEL, Transmission)
    driven.give(feedback(), request(1, slot=1), pilots(1))
    assert only(driven.give(block(3, slot=1)), ChannelBlock)
    assert only(driven.give(block(1, slot=1)), Transmission)


def test_a_deadline_after_the_transmission_changes_nothing() -> None:
    driven = opened()
    assert driven.give(Deadline(0)) == []
    assert kinds(driven.give(feedback())) == [(COORDINATOR, ApReport)]
    assert driven.give(Deadline(0)) == []


def test_the_deadline_of_a_later_slot_closes_an_unfinished_one() -> None:
    """Its feedback, or a partner's gain report, was lost."""
    driven = opened(asks=[1])
    driven.give(block(1), pilots(1))
    out = driven.give(Deadline(1))
    assert kinds(out) == [(COORDINATOR, ApReport), ("ap/1", CoopRequest), (CHANNEL, Transmission)]
    report = only(out, ApReport)
    assert (report.slot, report.partners, report.gain, report.reward) == (0, (1,), 0, 0)
    assert only(out, Transmission).slot == 1


def test_the_deadline_of_a_later_slot_skips_pilots_that_never_came() -> None:
    driven = associated(asks=[1])
    driven.give(pilots(2))
    out = driven.give(Deadline(2))
    assert only(out, Transmission).slot == 2


def test_an_ap_that_missed_its_pilots_goes_on_with_the_next() -> None:
    """Slot 0 closed without it; the channel server will not remind it again until it is heard of."""
    driven = associated()
    driven.give(Deadline(0), feedback(0))
    assert kinds(driven.give(pilots(1))) == [(CHANNEL, Transmission)]


def test_a_deadline_without_pilots_is_of_no_use() -> None:
    assert associated().give(Deadline(0)) == []
    assert Driven(incarnation=1).give(Deadline(4)) == []


# --- a slot closes -----------------------------------------------------------------------------------------


def test_feedback_closes_the_slot_with_a_report() -> None:
    driven = opened(asks=[1, 2])
    driven.give(block(1), decline(2))
    ((to, report),) = driven.give(feedback(rate=(3.0, 1.0), alone=(2.0, 0.5)))
    assert to == COORDINATOR
    assert isinstance(report, ApReport)
    assert (report.slot, report.ap, report.neighbours) == (0, 0, NEIGHBOURS)
    assert (report.requested, report.partners) == ((2, 1), (1,))
    assert report.gain == (4.0 - 2.5) / 2.5
    assert kinds(driven.give(pilots(1))) == [("ap/2", CoopRequest), ("ap/1", CoopRequest)]


def test_a_slot_that_closed_without_the_ap_is_not_transmitted_in_any_more() -> None:
    driven = opened(asks=[1])
    assert kinds(driven.give(feedback())) == [(COORDINATOR, ApReport)]
    assert driven.give(block(1), Deadline(0)) == []


def test_neighbourhood_tells_its_partners_and_waits_for_theirs() -> None:
    driven = opened(*NEIGHBOURHOOD, asks=[1, 2, 3])
    driven.give(block(1), block(2), decline(3))
    out = driven.give(feedback(rate=(3.0, 1.0), alone=(1.0, 1.0)))
    assert kinds(out) == [("ap/1", GainReport), ("ap/2", GainReport)]
    assert {message.gain for _, message in out if isinstance(message, GainReport)} == {1.0}
    assert driven.give(pilots(1), GainReport(0, 2, 0.25), GainReport(0, 3, 9.0)) == []
    out = driven.give(GainReport(0, 1, 0.25))
    assert kinds(out)[0] == (COORDINATOR, ApReport)
    assert only(out, ApReport).gain == 1.0
    assert kinds(out)[1:] == [("ap/2", CoopRequest), ("ap/1", CoopRequest), ("ap/3", CoopRequest)]


def test_neighbourhood_rewards_the_mean_gain_of_oneself_and_ones_partners() -> None:
    overrides = (*NEIGHBOURHOOD, "reward.link_cost=0", "reward.interference_weight=0", "reward.gain_weight=1")
    driven = opened(*overrides, asks=[1, 2])
    driven.give(block(1), block(2), GainReport(0, 1, 0.25), GainReport(0, 2, -0.5), GainReport(0, 3, 9.0))
    out = driven.give(feedback(rate=(3.0, 1.0), alone=(1.0, 1.0)))
    assert only(out, ApReport).reward == pytest.approx((1.0 + 0.25 - 0.5) / 3)


def test_neighbourhood_does_not_depend_on_the_order_of_arrival() -> None:
    def started() -> Driven:
        driven = opened(*NEIGHBOURHOOD, asks=[1, 2])
        driven.give(block(1), block(2))
        return driven

    outcomes = each_order(started, [feedback(), GainReport(0, 1, 0.1), GainReport(0, 2, 0.7), pilots(1)])
    assert len(set(outcomes)) == 1
    assert len(outcomes[0]) == 5


def test_without_a_partner_neighbourhood_waits_for_nobody() -> None:
    driven = opened(*NEIGHBOURHOOD, asks=[1])
    driven.give(decline(1))
    assert kinds(driven.give(feedback())) == [(COORDINATOR, ApReport)]


# --- the run ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1], ids=["feedback first", "end first"])
def test_the_run_is_over_when_the_last_slot_is_closed(order: int) -> None:
    driven = opened()
    messages = (feedback(), RunOver(1))[:: 1 - 2 * order]
    driven.give(messages[0])
    assert not driven.ap.done
    driven.give(messages[1])
    assert driven.ap.done


def test_the_run_may_end_before_a_restarted_ap_has_heard_any_pilots() -> None:
    driven = Driven(incarnation=1)
    driven.give(association(), feedback(19), RunOver(20))
    assert driven.ap.done


# --- what does not fit -------------------------------------------------------------------------------------

MISFITS = {
    "pilots of a block too many": pilots(shape=(3, 4, 10)),
    "pilots of an antenna too few": pilots(shape=(2, 3, 10)),
    "pilots of a symbol too few": pilots(shape=(2, 4, 9)),
    "next pilots of a block too few": pilots(1, shape=(1, 4, 10)),
    "a channel block of a block too many": block(1, shape=(3, 4)),
    "a channel block of an antenna too many": block(1, shape=(2, 5)),
    "a channel block for a UE that there is not": block(1, ues=(0, 3)),
    "an early channel block of a wrong shape": block(1, slot=1, shape=(3, 4)),
    "a request for a UE that there is not": request(1, ues=(3,)),
    "a request of an AP that there is not": request(5),
    "a request of itself": request(0),
    "feedback about a UE too many": feedback(rate=(1.0, 1.0, 1.0), alone=(1.0, 1.0, 1.0)),
    "feedback about a UE too few": feedback(rate=(1.0,), alone=(1.0,)),
    "pilots far louder than they were sent": PilotBlock(0, 1, 1e10 * pilots().y),
    "channels that amplify": replace(block(1), h_hat=1e10 * block(1).h_hat),
    "feedback of more power than was sent": replace(feedback(), interference=np.full((2, 2), 1e12)),
    "a gain that there cannot be": GainReport(0, 1, 1000.5),
    "a gain of less than nothing": GainReport(0, 1, -1.5),
    "the deadline of a slot that there is not": Deadline(2**40),
    "an association with too many neighbours": association(
        neighbours=(1, 2, 3, 4, 5), endpoints=5 * ("x",), interference=[1, 1, 1, 1, 1]
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_message_that_does_not_fit_is_counted_and_changes_nothing(name: str) -> None:
    rest = [request(1), block(1), feedback(), pilots(1), block(1, slot=1), feedback(1)]
    expected = opened(asks=[1]).give(*rest)
    driven = opened(asks=[1])
    assert driven.give(MISFITS[name]) == []
    assert driven.dropped == {"malformed": 1}
    assert without_drops(driven.give(*rest)) == without_drops(expected)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"beta": 4 * [1e-9], "pilots": [0, 1, 2, 3]}, id="a UE too many"),
        pytest.param({"reach": (0, 2, 3)}, id="a UE in reach that there is not"),
        pytest.param({"pilots": [0, 1, 10]}, id="a pilot that there is not"),
        pytest.param({"neighbours": (2, 1, 0)}, id="itself as a neighbour"),
        pytest.param({"neighbours": (2, 1, 5)}, id="a neighbour that there is not"),
        pytest.param({"beta": [1e-9, 1e7, 1e-9]}, id="a channel that amplifies"),
        pytest.param({"interference": [1e12, 1e-9, 1e-9]}, id="more interference than was sent"),
    ],
)
def test_an_association_that_does_not_fit_is_counted_and_changes_nothing(changed: dict[str, Any]) -> None:
    driven = Driven(asks=[1])
    assert driven.give(association(**changed)) == []
    assert driven.dropped == {"malformed": 1}
    assert kinds(driven.give(association(), pilots())) == [("ap/1", CoopRequest)]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "checksum"),
        (b"garbage", "checksum"),
        (encode(feedback())[:-1], "checksum"),
        (bytes(65537), "oversized"),
        (encode(Transmission(0, 1, (), np.zeros((2, 0, 4)), np.zeros((2, 0, 4)), ())), "unexpected"),
        (encode(Hello(1, 0, "")), "unexpected"),
    ],
    ids=["nothing", "garbage", "cut", "oversized", "a transmission", "a hello"],
)
def test_garbage_is_counted_and_dropped(frame: bytes, reason: str) -> None:
    driven = opened(asks=[1])
    assert driven.ap.receive(frame) == []
    assert driven.dropped == {reason: 1}
    assert kinds(driven.give(block(1))) == [("ap/1", ChannelBlock), (CHANNEL, Transmission)]


def test_a_flood_from_far_ahead_costs_no_memory() -> None:
    driven = opened()
    for slot in range(4, 500):
        driven.give(block(1, slot=slot))
    assert driven.dropped == {"flood": 496}


def test_a_flood_of_early_requests_does_not_push_out_the_pilots() -> None:
    driven = opened()
    frame = encode(request(1, slot=1))
    for _ in range(2000):
        driven.ap.receive(frame)
    assert (CHANNEL, Transmission) in kinds(driven.give(pilots(1), feedback()))


# --- numbers at the edge of what a message may hold ---------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1e-18, 1e7])
@pytest.mark.parametrize("heard", [0.0, 1.0, 1e7])
@pytest.mark.parametrize("overrides", [(), DIRECTED], ids=["ego", "directed"])
def test_whatever_the_channels_an_ap_radiates_no_more_than_its_power(
    overrides: tuple[str, ...], heard: float, scale: float
) -> None:
    """All zeros included: nobody sent pilots, or a partner knows nothing."""
    driven = associated(*overrides, asks=[1])
    driven.give(PilotBlock(0, 0, heard * pilots().y))
    sent = only(driven.give(replace(block(1), h_hat=scale * block(1).h_hat)), Transmission)
    for w in (sent.w, sent.w_alone):
        assert np.isfinite(w).all()
        assert (np.abs(w.astype(complex)) ** 2).sum(axis=(1, 2)).max() <= 1.0
    assert sent.partners == (1,)


def test_a_partner_that_claims_the_same_channel_everywhere_cannot_stop_an_ap() -> None:
    """So strong that nothing else is left of the matrix to invert."""
    driven = associated("precoding.alone=mmse", "precoding.joint=selective", "precoding.power=average", asks=[1])
    driven.give(pilots())
    claimed = replace(block(1), h_hat=np.full((*SHAPE, 3), 1e3), untold=np.zeros((2, 4, 4)))
    assert np.isfinite(only(driven.give(claimed), Transmission).w).all()


# --- what partners have learned ---------------------------------------------------------------------------


def test_weights_of_another_network_than_ones_own_are_refused() -> None:
    driven = opened(asks=[1])
    driven.give(replace(block(1), learned=np.ones(3)))
    assert driven.dropped == {"malformed": 1}
