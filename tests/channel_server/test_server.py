"""The channel server by hand: when slots open and close, whom it waits for, and what it refuses."""

from collections.abc import Iterable
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from apnode.protocol.fields import Message
from apnode.protocol.messages import (
    KINDS,
    ApReport,
    Association,
    CoopDecline,
    Deadline,
    Hello,
    PilotBlock,
    RunOver,
    SlotFeedback,
    SlotReport,
    Tick,
    Transmission,
)
from apnode.protocol.node import COORDINATOR, DROPS, Send, ap_address
from apnode.protocol.wire import decode, encode
from cfmimo.presets import load
from channel_server.server import SLACK, ChannelServer
from channel_server.sinr import sinr, spectral_efficiency
from channel_server.topology import associations, make_layout

SMALL = (
    "radio.num_aps=4",
    "radio.num_ues=3",
    "radio.area_m=200",
    "radio.max_serving_aps=2",
    "run.blocks_per_slot=2",
    "run.episodes=2",
    "run.slots_per_episode=3",
    "cooperation.max_neighbours=2",
)
APS = range(4)
ALL = {ap_address(ap) for ap in APS}

Out = list[tuple[str, Message]]


class Driven:
    """A channel server whose APs are the test."""

    def __init__(self, *overrides: str, first_slot: int = 0, patience: int | None = None) -> None:
        self.config = load("demo", (*SMALL, *overrides))
        self.server = ChannelServer(self.config, first_slot, patience)

    def frames(self, *messages: Message) -> list[Send]:
        """Every frame that the messages make it send."""
        return [send for message in messages for send in self.server.receive(encode(message))]

    def give(self, *messages: Message) -> Out:
        """Every message that the messages make it send, and to whom."""
        return [(send.to, decode(send.frame)) for send in self.frames(*messages)]

    def tick(self) -> Out:
        return [(send.to, decode(send.frame)) for send in self.server.handle(Tick())]

    def transmission(self, ap: int, slot: int = 0, **changed: Any) -> Transmission:
        """A lawful one: beams in random directions at full power, others in the baseline."""
        ues = changed.pop("ues", self.server.layout.ues_of[ap])
        rng = np.random.default_rng((slot, ap))
        w, w_alone = rng.standard_normal((2, 2, len(ues), 4)) + 1j * rng.standard_normal((2, 2, len(ues), 4))
        fields = {"w": lawful(w), "w_alone": lawful(w_alone), "partners": ()}
        return Transmission(slot=slot, ap=ap, ues=ues, **{**fields, **changed})

    def transmit(self, *aps: int, slot: int = 0) -> Out:
        return self.give(*(self.transmission(ap, slot) for ap in aps))

    @property
    def dropped(self) -> dict[str, int]:
        """Frames dropped since the last report, by reason."""
        return {reason: int(count) for reason, count in zip(DROPS, self.server.dropped, strict=True) if count}


def lawful(w: Any) -> Any:
    """Scaled to 1 W in every block, but for rounding."""
    power = (np.abs(w) ** 2).sum(axis=(1, 2), keepdims=True)
    return w / np.sqrt(np.maximum(power, 1e-30)) * (1 - 1e-6)


def hello(ap: int, incarnation: int = 0, endpoint: str = "") -> Hello:
    return Hello(ap, incarnation, endpoint or f"tcp://ap{ap}:1")


def started(*overrides: str) -> Driven:
    """In slot 0, waiting for all APs."""
    driven = Driven(*overrides)
    driven.give(*(hello(ap) for ap in APS))
    return driven


def receivers(out: Out, kind: type[Message]) -> list[str]:
    return [to for to, message in out if type(message) is kind]


def sent_to(out: Out, to: str, kind: type[Any]) -> Any:
    """The one message of a kind to somebody."""
    (found,) = (message for address, message in out if address == to and type(message) is kind)
    return found


def report(out: Out) -> SlotReport:
    found: SlotReport = sent_to(out, COORDINATOR, SlotReport)
    return found


# --- a slot opens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_the_first_slot_opens_when_all_aps_have_said_hello(order: tuple[int, ...]) -> None:
    driven = Driven()
    assert driven.give(*(hello(ap) for ap in order[:3])) == []
    assert driven.tick() == []
    out = driven.give(hello(order[3]))
    assert receivers(out, Association) == receivers(out, PilotBlock) == sorted(ALL)
    assert len(out) == 8


@pytest.mark.parametrize("first_slot", [2, 3, 4], ids=["mid-episode", "new episode", "mid-episode of another"])
def test_a_resumed_run_opens_at_its_first_slot_with_the_layout_of_its_episode(first_slot: int) -> None:
    driven, walked = Driven(first_slot=first_slot), started()
    for slot in range(first_slot):
        expected = walked.frames(*(walked.transmission(ap, slot) for ap in APS))
    out = driven.frames(*(hello(ap) for ap in APS))
    told = [decode(send.frame) for send in out if type(decode(send.frame)) is Association]
    assert {message.episode for message in told} == {first_slot // 3}
    assert len(told) == len(APS)
    pilots = {(send.to, send.frame) for send in out if type(decode(send.frame)) is PilotBlock}
    assert pilots == {(send.to, send.frame) for send in expected if type(decode(send.frame)) is PilotBlock}
    assert receivers(driven.transmit(*APS, slot=first_slot), SlotFeedback) == sorted(ALL)


def test_a_run_resumed_after_its_last_slot_is_over() -> None:
    driven = Driven(first_slot=6)
    assert receivers(driven.give(*(hello(ap) for ap in APS)), RunOver) == [*sorted(ALL), COORDINATOR]
    assert driven.server.done


def test_an_ap_that_says_hello_twice_is_still_one_ap() -> None:
    driven = Driven()
    assert driven.give(hello(0), hello(1), hello(2), hello(2)) == []


def test_an_association_tells_an_ap_its_own_and_where_its_neighbours_are() -> None:
    driven = Driven()
    out = driven.give(*(hello(ap, endpoint=f"tcp://{ap}.example:1") for ap in APS))
    layout = make_layout(driven.config, 0)
    met = 0
    for ap in APS:
        told = sent_to(out, ap_address(ap), Association)
        assert told.episode == 0
        assert told.ues == layout.ues_of[ap]
        np.testing.assert_array_equal(told.reach, np.flatnonzero(layout.reach[ap]))
        np.testing.assert_array_equal(told.beta, layout.beta[ap, layout.reach[ap]])
        np.testing.assert_array_equal(told.pilots, layout.pilots[layout.reach[ap]])
        assert told.endpoints == tuple(f"tcp://{n}.example:1" for n in told.neighbours)
        assert ap not in told.neighbours
        met += len(told.neighbours)
    assert met > 0


@pytest.mark.parametrize("ap", APS)
def test_a_slot_closes_and_the_next_opens_when_all_have_transmitted(ap: int) -> None:
    driven = started()
    others = [other for other in APS if other != ap]
    assert driven.transmit(*others) == []
    out = driven.transmit(ap)
    assert receivers(out, SlotFeedback) == receivers(out, PilotBlock) == sorted(ALL)
    assert receivers(out, SlotReport) == [COORDINATOR]
    assert len(out) == 9
    assert report(out).silent == ()
    assert sent_to(out, ap_address(ap), PilotBlock).slot == 1


def test_the_order_of_transmission_does_not_matter() -> None:
    outcomes = set()
    for order in permutations(APS):
        driven = started()
        frames = driven.frames(*(driven.transmission(ap) for ap in order))
        outcomes.add(tuple((send.to, send.frame) for send in frames))
    assert len(outcomes) == 1


def test_a_new_episode_begins_with_new_associations() -> None:
    driven = started()
    for slot in (0, 1):
        assert receivers(driven.transmit(*APS, slot=slot), Association) == []
    out = driven.transmit(*APS, slot=2)
    assert [sent_to(out, to, Association).episode for to in sorted(ALL)] == [1, 1, 1, 1]
    layout = make_layout(driven.config, 1)
    np.testing.assert_array_equal(sent_to(out, "ap/2", Association).beta, layout.beta[2, layout.reach[2]])


# --- what the feedback says --------------------------------------------------------------------------------


def test_feedback_and_report_score_the_precoders_really_radiated_and_those_of_nobody_cooperating() -> None:
    driven = started()
    assert driven.server.air is not None
    h, layout = driven.server.air.h, driven.server.layout
    w, w_alone = np.zeros((2, *h.shape), complex)
    for ap in APS:
        sent = driven.transmission(ap)
        w[:, ap, list(sent.ues)], w_alone[:, ap, list(sent.ues)] = sent.w, sent.w_alone
    out = driven.transmit(*APS)
    noise = driven.config.radio.noise_power_w
    expected, expected_alone = sinr(h, w, noise), sinr(h, w_alone, noise)
    assert not np.allclose(expected, expected_alone)
    np.testing.assert_allclose(report(out).sinr, expected, rtol=1e-6)
    np.testing.assert_allclose(report(out).sinr_alone, expected_alone, rtol=1e-6)
    for ap in APS:
        told, ues = sent_to(out, ap_address(ap), SlotFeedback), list(layout.ues_of[ap])
        np.testing.assert_allclose(told.rate, spectral_efficiency(expected).mean(axis=0)[ues], rtol=1e-6)
        np.testing.assert_allclose(told.rate_alone, spectral_efficiency(expected_alone).mean(axis=0)[ues], rtol=1e-6)


def test_the_report_of_partners_leaves_them_out_of_the_interferers() -> None:
    driven = started()
    ap = max(APS, key=lambda m: len(driven.server.layout.ues_of[m]))
    partners = tuple(other for other in APS if other != ap)[:2]
    out = driven.give(*(driven.transmission(m, partners=partners if m == ap else ()) for m in APS))
    named = set(sent_to(out, ap_address(ap), SlotFeedback).interferers.ravel().tolist())
    assert named
    assert not named & {ap, *partners}


def test_ues_measure_partners_in_one_block_of_a_slot_after_the_other() -> None:
    driven = started()
    for slot in range(3):
        assert driven.server.air is not None
        h, serving = driven.server.air.h, driven.server.layout.ues_of
        out = driven.give(*(driven.transmission(ap, slot, partners=((ap + 1) % 4,)) for ap in APS))
        for ap in APS:
            told = sent_to(out, ap_address(ap), SlotFeedback)
            expected = np.abs(h[slot % 2, (ap + 1) % 4, list(serving[ap])]) ** 2
            np.testing.assert_allclose(told.partner_gain[:, 0], expected, rtol=1e-6)


def test_a_partner_that_there_is_not_harms_nobody() -> None:
    driven = started()
    out = driven.give(*(driven.transmission(ap, partners=(ap, 60_000)) for ap in APS))
    assert report(out).silent == ()


# --- the deadline ------------------------------------------------------------------------------------------


def test_the_first_tick_reminds_those_who_are_late_and_nobody_else() -> None:
    driven = started()
    driven.transmit(1, 3)
    out = driven.tick()
    assert {to for to, _ in out} == {"ap/0", "ap/2"}
    assert receivers(out, Deadline) == ["ap/0", "ap/2"]
    assert {message.slot for _, message in out if isinstance(message, Deadline)} == {0}


def test_after_a_reminder_the_slot_still_takes_transmissions() -> None:
    driven = started()
    driven.transmit(1, 3)
    driven.tick()
    out = driven.transmit(0, 2)
    assert report(out).silent == ()


def test_the_second_tick_closes_the_slot_without_them() -> None:
    driven = started()
    driven.transmit(1, 3)
    driven.tick()
    out = driven.tick()
    assert report(out).silent == (0, 2)
    assert receivers(out, SlotFeedback) == sorted(ALL)
    assert receivers(out, PilotBlock) == sorted(ALL)  # that is how the silent find back
    assert receivers(out, Deadline) == []


def test_power_rule_average_is_held_over_the_episode() -> None:
    """An AP that takes each slot for the first in which it radiates would have 10.5 W of 1 W over these slots."""
    everybody = "radio.max_serving_aps=4"
    driven = started("precoding.power=average", "run.slots_per_episode=20", everybody)
    spent = np.zeros(40)
    for slot in range(40):
        honest = driven.transmission(0, slot)
        within = slot % 20 + 1
        greedy = driven.transmission(0, slot, w=honest.w * np.sqrt(within))
        for sent in (greedy, honest):
            before = driven.dropped.get("malformed", 0)
            driven.give(sent)
            if driven.dropped.get("malformed", 0) == before:
                spent[slot] = (np.abs(sent.w) ** 2).sum() / 2
                break
        driven.transmit(1, 2, 3, slot=slot)
        if not spent[slot]:
            driven.tick()
            driven.tick()
    for episode in spent.reshape(2, 20):
        assert (np.cumsum(episode) <= np.arange(1, 21) + SLACK * np.sqrt(np.arange(1, 21) / 2) + 1e-6).all()
        assert 1.4 < episode.mean() < 3  # it takes what it can get, again in every episode


def test_an_ap_that_was_silent_does_not_radiate() -> None:
    driven = started()
    assert driven.server.air is not None
    h = driven.server.air.h
    w = np.zeros(h.shape, complex)
    for ap in (0, 1, 2):
        sent = driven.transmission(ap)
        w[:, ap, list(sent.ues)] = sent.w
    driven.transmit(0, 1, 2)
    driven.tick()
    expected = sinr(h, w, driven.config.radio.noise_power_w)
    np.testing.assert_allclose(report(driven.tick()).sinr, expected, rtol=1e-6)


def test_a_deadline_belongs_to_its_slot() -> None:
    """The next slot's first tick is a reminder again, not the end."""
    driven = started()
    driven.transmit(0, 1, 2)
    driven.tick()
    driven.tick()
    driven.transmit(1, slot=1)
    assert receivers(driven.tick(), Deadline) == ["ap/0", "ap/2"]


def test_the_silent_are_no_longer_waited_for() -> None:
    driven = started()
    driven.transmit(0, 1, 2)
    driven.tick()
    driven.tick()
    assert driven.transmit(0, 1, slot=1) == []
    assert report(driven.transmit(2, slot=1)).silent == (3,)


def test_the_silent_are_said_to_be_away_and_where_they_were_when_the_next_episode_begins() -> None:
    """An AP that was cut off, and asks a neighbour that it had never met, can be answered."""
    driven = started()
    layout = make_layout(driven.config, 1)
    away = next(n for told in associations(driven.config, layout, 1) for n in told.neighbours)
    others = [ap for ap in APS if ap != away]
    driven.transmit(*others)
    driven.tick()
    driven.tick()
    driven.transmit(*others, slot=1)
    out = driven.transmit(*others, slot=2)
    told = [sent_to(out, ap_address(ap), Association) for ap in others]
    assert any(away in of_one.neighbours for of_one in told)
    for of_one in told:
        assert of_one.away == tuple(peer for peer in of_one.neighbours + of_one.askers if peer == away)
        assert of_one.endpoints == tuple(f"tcp://ap{peer}:1" for peer in of_one.neighbours)


def late_transmission(driven: Driven) -> Message:
    return driven.transmission(3, slot=0)


def hello_again(driven: Driven) -> Message:
    return hello(3, incarnation=1)


@pytest.mark.parametrize("sign", [late_transmission, hello_again])
def test_the_silent_are_waited_for_again_from_the_slot_after_they_are_heard_of(sign: Any) -> None:
    driven = started()
    driven.transmit(0, 1, 2)
    driven.tick()
    driven.tick()
    driven.give(sign(driven))
    assert report(driven.transmit(0, 1, 2, slot=1)).silent == (3,)
    assert driven.transmit(0, 1, 2, slot=2) == []
    assert report(driven.transmit(3, slot=2)).silent == ()


def test_the_silent_may_transmit_in_a_slot_that_does_not_wait_for_them() -> None:
    driven = started()
    driven.transmit(0, 1, 2)
    driven.tick()
    driven.tick()
    driven.transmit(3, slot=1)
    assert report(driven.transmit(0, 1, 2, slot=1)).silent == ()


def test_a_network_whose_aps_have_all_died_comes_to_its_end() -> None:
    driven = started()
    silent = []
    for _ in range(2 * driven.config.num_slots):
        silent += [message.silent for _, message in driven.tick() if isinstance(message, SlotReport)]
    assert silent == [tuple(APS)] * driven.config.num_slots
    assert driven.server.done


# --- twice, late, and what it refuses ----------------------------------------------------------------------


def test_a_second_transmission_is_counted_and_the_first_one_stands() -> None:
    driven, reference = started(), started()
    other = driven.transmission(0, w=np.zeros((2, len(driven.server.layout.ues_of[0]), 4)))
    assert driven.give(driven.transmission(0), other, driven.transmission(0)) == []
    assert driven.dropped == {"duplicate": 2}
    reference.transmit(0)
    got, expected = driven.transmit(1, 2, 3), reference.transmit(1, 2, 3)
    told = [[encode(m) for _, m in out if not isinstance(m, SlotReport)] for out in (got, expected)]
    assert told[0] == told[1]


@pytest.mark.parametrize("slot", [0, 2], ids=["of the last slot", "of a slot to come"])
def test_a_transmission_of_another_slot_is_counted_and_not_radiated(slot: int) -> None:
    driven = started()
    driven.transmit(*APS)
    assert driven.transmit(0, slot=slot) == []
    assert driven.dropped == {"late": 1}
    assert driven.transmit(1, 2, 3, slot=1) == []  # 0 is still waited for
    assert report(driven.transmit(0, slot=1)).silent == ()


def served(driven: Driven) -> int:
    """An AP that serves somebody, but not everybody."""
    return next(ap for ap in APS if 0 < len(driven.server.layout.ues_of[ap]) < 3)


MISFITS: dict[str, Any] = {
    "more power than it has": lambda d, ap: {"w": d.transmission(ap).w * 1.001},
    "more power than it has in one block": lambda d, ap: {"w": d.transmission(ap).w * [[[1]], [[1.001]]]},
    "more power than it has in the baseline": lambda d, ap: {"w_alone": d.transmission(ap).w_alone * 1.001},
    "nobody's UEs": lambda d, ap: {"ues": ()},
    "all UEs": lambda d, ap: {"ues": (0, 1, 2)},
    "its UEs in another order": lambda d, ap: {"ues": (*d.server.layout.ues_of[ap][::-1], 60_000)},
    "a block too few": lambda d, ap: {name: getattr(d.transmission(ap), name)[:1] for name in ("w", "w_alone")},
    "an antenna too few": lambda d, ap: {name: getattr(d.transmission(ap), name)[..., :3] for name in ("w", "w_alone")},
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_transmission_that_does_not_fit_is_counted_and_not_radiated(name: str) -> None:
    driven = started()
    ap = served(driven)
    assert driven.give(driven.transmission(ap, **MISFITS[name](driven, ap))) == []
    assert driven.dropped == {"malformed": 1}
    assert driven.transmit(*(other for other in APS if other != ap)) == []  # it is still waited for
    assert report(driven.transmit(ap)).silent == ()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Hello(4, 0, ""), "malformed"),
        (Hello(1, 1, "", 7), "malformed"),  # there are six slots
        (Hello(1, 1, "", 2**40), "malformed"),  # it would be the slot to go on with
        (Transmission(0, 4, (), np.zeros((2, 0, 4)), np.zeros((2, 0, 4)), ()), "malformed"),
        (CoopDecline(0, 1), "unexpected"),
        (RunOver(0), "unexpected"),
        (ApReport(0, 0, (), (), (), 0.0, 0.0, 0.0, 0.0, np.zeros((2, len(KINDS)), int), [], 1), "unexpected"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_not_for_it_is_counted_and_changes_nothing(message: Message, reason: str) -> None:
    driven = started()
    assert driven.give(message) == []
    assert driven.dropped == {reason: 1}
    assert report(driven.transmit(*APS)).silent == ()


def test_garbage_is_counted_and_changes_nothing() -> None:
    driven = started()
    assert driven.server.receive(b"garbage") == []
    assert driven.dropped == {"checksum": 1}
    assert report(driven.transmit(*APS)).silent == ()


# --- restart -----------------------------------------------------------------------------------------------


def neighbours(driven: Driven) -> dict[int, tuple[int, ...]]:
    out = driven.give(*(hello(ap) for ap in APS))
    return {ap: sent_to(out, ap_address(ap), Association).neighbours for ap in APS}


@pytest.mark.parametrize("rule", ["symmetric", "row"])
def test_a_hello_again_puts_an_ap_and_its_peers_in_touch(rule: str) -> None:
    driven = Driven(f"cooperation.neighbour_sets={rule}")
    known = neighbours(driven)
    ap = next(n for ap in APS for n in known[ap])
    asking = {ap_address(m) for m in APS if ap in known[m]}
    asked = {ap_address(m) for m in known[ap]}
    out = driven.give(hello(ap, incarnation=1, endpoint="tcp://moved:1"))
    assert {to for to, _ in out} == {ap_address(ap), *asking, *asked}
    assert {type(message) for _, message in out} == {Association}
    assert len(out) == 1 + len(asking | asked)
    for to in asking | asked:
        told = sent_to(out, to, Association)
        peers, endpoints = told.neighbours + told.askers, told.endpoints + told.asker_endpoints
        assert dict(zip(peers, endpoints, strict=True))[ap] == "tcp://moved:1"
    assert sent_to(out, ap_address(ap), Association).episode == 0


def test_a_restarted_ap_does_not_hold_the_slot_up() -> None:
    driven = started()
    driven.give(hello(3, incarnation=1))
    assert report(driven.transmit(0, 1, 2)).silent == (3,)
    assert driven.transmit(0, 1, 2, slot=1) == []  # from the next slot on it is waited for


def test_a_restart_of_the_last_one_waited_for_closes_the_slot() -> None:
    driven = started()
    driven.transmit(0, 1, 2)
    out = driven.give(hello(3, incarnation=1))
    assert report(out).silent == (3,)
    assert receivers(out, PilotBlock) == sorted(ALL)


def test_what_an_ap_transmitted_before_it_restarted_is_on_the_air() -> None:
    driven = started()
    driven.transmit(3)
    driven.give(hello(3, incarnation=1))
    assert report(driven.transmit(0, 1, 2)).silent == ()


def test_a_hello_that_comes_twice_is_no_restart() -> None:
    """The network may double a frame; the AP has the slot's pilots and is about to transmit."""
    driven = started()
    driven.give(hello(3))
    assert driven.transmit(0, 1, 2) == []
    assert report(driven.transmit(3)).silent == ()


def test_a_hello_of_an_earlier_life_does_not_move_an_ap_back() -> None:
    driven = Driven()
    known = neighbours(driven)
    ap = next(n for ap in APS for n in known[ap])
    driven.give(hello(ap, incarnation=1, endpoint="tcp://moved:1"), hello(ap, endpoint="tcp://before:1"))
    assert driven.server.endpoints[ap_address(ap)] == "tcp://moved:1"


# --- the run ends ------------------------------------------------------------------------------------------


def back(ap: int) -> Hello:
    """What an AP in slot 3 tells a server that was restarted."""
    return Hello(ap, 0, f"ap{ap}", 3)


def test_a_restarted_server_opens_nothing_between_two_hellos_and_then_for_all_that_are_alive() -> None:
    driven = Driven(first_slot=3, patience=3)
    driven.give(back(0))
    assert driven.tick() == []  # who says hello now would have missed the slot
    driven.give(back(1), back(2))  # AP 3 is dead
    assert driven.tick() == []
    assert {*receivers(driven.tick(), PilotBlock)} == ALL
    assert driven.server.air is not None
    assert driven.server.air.awaited == {0, 1, 2}


@pytest.mark.parametrize("newcomers", [(), (0,), APS])
def test_a_restarted_server_opens_the_slot_before_the_one_that_an_ap_says_it_is_in(newcomers: Iterable[int]) -> None:
    """Who has been restarted itself knows of no slot, and takes nothing back of what it said in its life before."""
    driven = Driven(first_slot=1, patience=2)
    out = driven.give(back(0), Hello(1, 0, "ap1", 2), *(hello(ap, incarnation=1) for ap in newcomers))
    while not (opened := [message.slot for _, message in out if isinstance(message, PilotBlock)]):
        out = driven.tick()
    assert set(opened) == {2}


def test_a_restarted_server_that_hears_nobody_in_time_opens_for_the_first_it_hears() -> None:
    driven = Driven(first_slot=3, patience=2)
    assert [driven.tick() for _ in range(4)] == [[]] * 4
    driven.give(back(1))
    assert {*receivers(driven.tick(), PilotBlock)} == ALL


def test_a_restarted_server_goes_on_at_once_when_all_are_there() -> None:
    driven = Driven(first_slot=3, patience=3)
    assert {*receivers(driven.give(*map(back, APS)), PilotBlock)} == ALL


def ended() -> tuple[Driven, Out]:
    driven = started("run.episodes=1", "run.slots_per_episode=2")
    driven.transmit(*APS)
    return driven, driven.transmit(*APS, slot=1)


def test_after_the_last_slot_everybody_is_told_that_the_run_is_over() -> None:
    driven, out = ended()
    assert driven.server.done
    assert set(receivers(out, RunOver)) == {*ALL, COORDINATOR}
    assert receivers(out, PilotBlock) == []
    assert sent_to(out, COORDINATOR, RunOver).slot == 2
    assert report(out).slot == 1


def test_after_the_end_nothing_opens_again() -> None:
    driven, _ = ended()
    assert driven.tick() == []
    assert driven.transmit(0, slot=1) == []
    assert driven.dropped == {"late": 1}


def test_an_ap_that_comes_back_after_the_end_is_told_so() -> None:
    driven, _ = ended()
    out = driven.give(hello(2, incarnation=1))
    assert [(to, encode(message)) for to, message in out] == [("ap/2", encode(RunOver(2)))]


# --- what no AP can do anything about ----------------------------------------------------------------------


def test_a_slot_closes_however_good_its_channels_are() -> None:
    """One UE close by on one subcarrier: above 90 dB, which must not be taken for somebody's malformed message."""
    driven = started("radio.num_ues=1", "radio.bandwidth_hz=15000", "radio.area_m=20", "radio.max_serving_aps=4")
    assert driven.server.air is not None
    h = driven.server.air.h
    beams = {ap: lawful(h[:, ap, list(driven.server.layout.ues_of[ap])]) for ap in APS}
    out = driven.give(*(driven.transmission(ap, w=beam, w_alone=beam) for ap, beam in beams.items()))
    assert driven.dropped == {}
    assert receivers(out, SlotReport) == [COORDINATOR]


def test_drops_are_reported_once() -> None:
    driven = started()
    driven.give(Hello(4, 0, ""), hello(2))
    told = report(driven.transmit(*APS)).dropped
    assert {reason: int(n) for reason, n in zip(DROPS, told, strict=True) if n} == {"malformed": 1, "duplicate": 1}
    assert not report(driven.transmit(*APS, slot=1)).dropped.any()
