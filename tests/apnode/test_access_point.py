"""The order of an access point's slots and episodes: early, late, twice, restarted, at the deadline."""

import numpy as np
import pytest

from apnode.access_point import AccessPoint
from apnode.agent.policies import Ddqn
from apnode.protocol.fields import Message
from apnode.protocol.messages import (
    ApReport,
    Association,
    ChannelBlock,
    CoopDecline,
    CoopRequest,
    Deadline,
    GainReport,
    Hello,
    RunOver,
    Transmission,
)
from apnode.protocol.node import CHANNEL, COORDINATOR, DROPS, Send
from apnode.protocol.wire import encode
from cfmimo.presets import load
from tests.apnode.driving import (
    COMPONENTS,
    DIRECTED,
    NEIGHBOURHOOD,
    NEIGHBOURS,
    SMALL,
    UES,
    Asks,
    Driven,
    associated,
    association,
    block,
    decline,
    each_order,
    feedback,
    kinds,
    only,
    opened,
    pilots,
    request,
    without_drops,
)

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
    assert driven.give(association(endpoints=("tcp://ap2:1", "tcp://new:1", "tcp://ap3:1"), ues=(1,))) == []
    assert driven.ap.endpoints == {"ap/2": "tcp://ap2:1", "ap/1": "tcp://new:1", "ap/3": "tcp://ap3:1"}
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


def test_the_slot_before_this_one_opened_again_is_transmitted_in_again() -> None:
    """The channel server was restarted a slot earlier than this AP has come."""
    driven = associated()
    first = only(driven.give(pilots()), Transmission)
    driven.give(feedback(), pilots(1))
    assert encode(only(driven.give(pilots()), Transmission)) == encode(first)


def test_pilots_of_the_slot_after_the_next_close_an_unfinished_slot() -> None:
    """The channel server has gone on without this AP."""
    driven = opened(asks=[1])
    driven.give(block(1))
    out = driven.give(pilots(2))
    assert (only(out, ApReport).slot, only(out, CoopRequest).slot) == (0, 2)


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


# --- restart -----------------------------------------------------------------------------------------------


def test_a_restarted_ap_says_which_life_it_is_in() -> None:
    sends = Driven(incarnation=3).ap.start("tcp://here:2")
    assert {send.frame for send in sends} == {encode(Hello(0, 3, "tcp://here:2"))}


@pytest.mark.parametrize("overrides", [(), DIRECTED], ids=["mutual", "directed"])
@pytest.mark.parametrize("known", [False, True], ids=["before its association", "before its pilots"])
def test_a_restarted_ap_declines_once_it_knows_where_the_asker_is(overrides: tuple[str, ...], known: bool) -> None:
    driven = Driven(*overrides, asks=[1], incarnation=1)
    messages = [request(1, slot=7), request(3, slot=7)]
    out = driven.give(association(), *messages) if known else driven.give(*messages, association())
    assert driven.give(association()) == []
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
    return association(endpoints=tuple(f"tcp://{'new' if n == neighbour else 'ap'}{n}:1" for n in NEIGHBOURS))


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


@pytest.mark.parametrize("endpoint", ["", "tcp://ap1:1"])
def test_a_neighbour_that_is_away_is_not_waited_for_until_it_is_heard_of(endpoint: str) -> None:
    driven = Driven(asks=[3, 1])
    driven.give(association(endpoints=("tcp://ap3:1", endpoint, "tcp://ap2:1"), away=(1,)), pilots())
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


def test_what_the_last_slot_teaches_is_learned_before_the_run_is_over() -> None:
    config = load("demo", (*SMALL, "run.episodes=1", "run.slots_per_episode=2", "cooperation.policy=ddqn"))
    agent = Ddqn(0, config)
    driven = Driven()
    driven.ap = AccessPoint(0, config, agent)
    driven.give(association())
    for slot in range(2):
        driven.give(pilots(slot), Deadline(slot), feedback(slot))
    assert len(agent.replay) == 1
    driven.give(RunOver(2))
    assert (len(agent.replay), driven.ap.done) == (2, True)


def test_the_run_may_end_before_a_restarted_ap_has_heard_any_pilots() -> None:
    driven = Driven(incarnation=1)
    driven.give(association(), feedback(19), RunOver(20))
    assert driven.ap.done
