"""An AP's inbox is the only way in, what comes through it is what a real AP could know, and every byte is counted."""

import gc
import re
import types
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from apnode.access_point import AccessPoint
from apnode.clusters.graph import layers
from apnode.config import Config
from apnode.protocol.fields import Message
from apnode.protocol.limits import largest_frame
from apnode.protocol.messages import (
    FRONTHAUL,
    KINDS,
    NOBODY,
    TAGS,
    ApReport,
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
    RunOver,
    SelfReport,
    SlotFeedback,
    SlotReport,
    Transmission,
)
from apnode.protocol.node import CHANNEL, COORDINATOR, Send
from apnode.protocol.rng import config_for_aps
from apnode.protocol.wire import decode, encode
from apnode.radio import csi
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork
from channel_server.fading import channels, received_pilots
from channel_server.server import Air, ChannelServer
from channel_server.sinr import received, spectral_efficiency
from channel_server.topology import Layout, associations, make_layout
from channel_server.ue_reports import stream_levels
from coordinator import tables
from coordinator.collector import Coordinator
from coordinator.record import Record

SHORT = ("radio.num_aps=11", "radio.area_m=300", "run.episodes=2", "run.slots_per_episode=4", "learning.batch_size=4")
ASKING = ("cooperation.policy=random", "cooperation.request_rate=0.7")
HALF = ("cooperation.policy=random", "cooperation.request_rate=0.5")  # of more requests all APs are one component
SERVING = ("cooperation.cluster=serving", "precoding.alone=mmse", "precoding.joint=selective", "precoding.power=peak")
MMSE_LEAVES = ("cooperation.residual_db=20", "cooperation.link_price=0.05")
VARIANTS = {
    "mutual": (),
    "mutual, random": ASKING,
    "directed": (*ASKING, "cooperation.cluster=directed", "cooperation.acceptance=all"),
    "directed, rows": ("cooperation.cluster=directed", "cooperation.acceptance=all", "cooperation.neighbour_sets=row"),
    "components": (*HALF, "cooperation.cluster=components", "cooperation.max_cluster_aps=7"),
    "components, neighbourhood": (*HALF, "cooperation.cluster=components", "reward.scope=neighbourhood"),
    "neighbourhood": (*ASKING, "reward.scope=neighbourhood"),
    "selective": (*ASKING, "precoding.alone=mmse", "precoding.joint=selective", "precoding.power=average"),
    "serving": (*ASKING, *SERVING),
    "serving, neighbourhood": (*ASKING, *SERVING, "cooperation.neighbour_sets=common-ue", "reward.scope=neighbourhood"),
    "forecast": (*SERVING, *MMSE_LEAVES, "cooperation.policy=forecast", "cooperation.neighbour_sets=common-ue"),
    "serving sets": (*SERVING, *MMSE_LEAVES, *ASKING, "cooperation.serving=forecast"),
    "serving sets, forecast": (
        *SERVING,
        *MMSE_LEAVES,
        "cooperation.policy=forecast",
        "cooperation.neighbour_sets=common-ue",
        "cooperation.serving=forecast",
    ),
    "belief": (*SERVING, *MMSE_LEAVES, "cooperation.policy=belief", "cooperation.neighbour_sets=common-ue"),
    "ratio": (*SERVING, *MMSE_LEAVES, "cooperation.policy=ratio", "cooperation.neighbour_sets=common-ue"),
    "factor": (*SERVING, *MMSE_LEAVES, "cooperation.policy=factor", "cooperation.neighbour_sets=common-ue"),
    "agents that forecast": (*SERVING, *MMSE_LEAVES, "learning.values=neighbours", "reward.gain=absolute"),
}
FROM_CHANNEL = (Association, PilotBlock, SlotFeedback, Deadline, RunOver)


@dataclass
class Watched:
    """A whole run and every frame of it, in order of delivery."""

    config: Config
    network: LocalNetwork
    frames: list[tuple[str, Any, int]] = field(default_factory=list)  # to, message, bytes

    def watch(self, send: Send) -> None:
        self.frames.append((send.to, decode(send.frame, largest_frame(self.config)), len(send.frame)))

    def of(self, kind: type[Any]) -> list[tuple[str, Any]]:
        return [(to, message) for to, message, _ in self.frames if type(message) is kind]

    @property
    def record(self) -> Record:
        return self.network.coordinator.record

    def layout(self, slot: int) -> Layout:
        return make_layout(self.config, slot // self.config.run.slots_per_episode)

    def by(self, kind: type[Any]) -> dict[tuple[int, int], Any]:
        """(slot, sender or receiver) -> message, of a kind that an AP sends or gets once a slot."""
        found = {(m.slot, m.ap if hasattr(m, "ap") else index(to)): m for to, m in self.of(kind)}
        assert len(found) == len(self.of(kind))
        return found


def index(address: str) -> int:
    return int(address.removeprefix("ap/"))


@pytest.fixture(scope="module", params=VARIANTS)
def run(request: pytest.FixtureRequest) -> Watched:
    config = load("demo", (*SHORT, *VARIANTS[request.param]))
    watched = Watched(config, LocalNetwork(config))
    watched.network.run(watched.watch)
    return watched


# --- what comes in -----------------------------------------------------------------------------------------


def test_aps_hear_only_from_the_channel_server_and_from_aps(run: Watched) -> None:
    kinds = {type(message) for to, message, _ in run.frames if to.startswith("ap/")}
    assert kinds <= {*FROM_CHANNEL, *FRONTHAUL}
    assert {Association, PilotBlock, SlotFeedback, RunOver, CoopRequest, ChannelBlock} <= kinds


def test_an_ap_is_told_its_own_large_scale_row_of_the_ues_in_its_reach_and_no_other(run: Watched) -> None:
    told = run.of(Association)
    assert len(told) == 2 * 11
    for to, association in told:
        layout = make_layout(run.config, association.episode)
        reach = layout.reach[index(to)]
        np.testing.assert_array_equal(association.reach, np.flatnonzero(reach))
        np.testing.assert_array_equal(association.beta, layout.beta[index(to), reach])
        np.testing.assert_array_equal(association.pilots, layout.pilots[reach])
        assert association.ues == layout.ues_of[index(to)]
        assert index(to) not in association.neighbours


def test_of_its_neighbours_an_ap_that_forecasts_is_told_what_these_are_told_and_another_nothing(run: Watched) -> None:
    for _, association in run.of(Association):
        if not run.config.looks_around:
            assert association.around == ()
            continue
        layout, rows = make_layout(run.config, association.episode), list(association.neighbours)
        reach = layout.reach[rows]
        np.testing.assert_array_equal(association.around, np.flatnonzero(reach.any(axis=0)))
        around = list(association.around)
        beta = np.where(reach, layout.beta[rows], 0)[:, around].astype(np.float32)
        np.testing.assert_array_equal(association.neighbour_beta, beta)
        np.testing.assert_array_equal(association.neighbour_serves, layout.serving[rows][:, around])
        np.testing.assert_array_equal(association.around_pilots, layout.pilots[around])


def test_of_who_else_serves_its_ues_an_ap_is_told_where_not_all_do_and_never_of_other_ues(run: Watched) -> None:
    for _, association in run.of(Association):
        serving = make_layout(run.config, association.episode).serving
        told = [[ap for ap in row if ap != NOBODY] for row in association.served_by.tolist()]
        served = [np.flatnonzero(serving[:, ue]).tolist() for ue in association.ues]
        assert told == (served if run.config.selects_serving else [])


def larger(times: int, *overrides: str) -> Config:
    """So many times 100 APs, at the same density."""
    size = (f"radio.num_aps={100 * times}", f"radio.num_ues={40 * times}", f"radio.area_m={1000 * times**0.5}")
    return load("selective", (*size, "radio.pilot_power_w=0.01", *overrides))


def test_an_ap_that_forecasts_is_told_no_more_in_a_larger_network() -> None:
    """Once this is larger than the reach of an AP's neighbours."""
    told = {}
    for times in (4, 16):
        config = larger(times)
        of_aps = associations(config, make_layout(config, 0), 0)
        told[times] = np.mean([len(encode(association, 1_000_000)) for association in of_aps])
    assert told[16] < 1.1 * told[4]


def test_an_ap_of_a_larger_network_is_told_and_keeps_no_more() -> None:
    """At the same density, once the network is larger than the reach of an AP, which is short here."""
    told, kept = dict[int, Any](), dict[int, Any]()
    for times in (1, 4):
        config = larger(times, "cooperation.policy=always")
        run = Watched(config, LocalNetwork(config))
        for send in run.network.frames():
            run.watch(send)
            if type(run.frames[-1][1]) is SlotFeedback:
                break
        told[times] = [size for _, message, size in run.frames if type(message) is Association]
        kept[times] = [ap.slot.h_hat.nbytes for ap in run.network.aps if ap.slot]
        assert len(told[times]) == len(kept[times]) == 100 * times
    for sizes in (told, kept):
        assert np.mean(sizes[4]) < 1.15 * np.mean(sizes[1])
        assert max(sizes[4]) < 1.5 * max(sizes[1])


def test_an_ap_hears_what_its_own_antennas_hear(run: Watched) -> None:
    heard = run.by(PilotBlock)
    assert len(heard) == 8 * 11
    for slot in range(8):
        layout = run.layout(slot)
        y = received_pilots(run.config, layout, channels(run.config, layout, slot), slot)
        for ap in range(11):
            np.testing.assert_array_equal(heard[slot, ap].y, y[:, ap].astype("<c8"))


def test_feedback_is_about_an_aps_own_ues(run: Watched) -> None:
    told, radiated, scored = run.by(SlotFeedback), run.by(Transmission), {m.slot: m for _, m in run.of(SlotReport)}
    assert len(told) == 8 * 11
    for (slot, ap), feedback in told.items():
        ues = list(run.layout(slot).ues_of[ap])
        rate, alone = (spectral_efficiency(s).mean(axis=0) for s in (scored[slot].sinr, scored[slot].sinr_alone))
        np.testing.assert_array_equal(feedback.rate, rate[ues])
        np.testing.assert_array_equal(feedback.rate_alone, alone[ues])
        assert len(feedback.interferers) == len(ues)
        named = set(feedback.interferers.ravel().tolist()) - {NOBODY}
        assert not named & {ap, *radiated[slot, ap].partners}
        assert named <= set(range(11))
        assert feedback.interferers.shape[1] <= run.config.cooperation.reported_interferers
        np.testing.assert_array_equal(feedback.interferers == NOBODY, feedback.interference == 0)


def test_of_other_aps_channels_an_ap_learns_what_its_own_ues_measure_of_its_partners_antennas(run: Watched) -> None:
    radiated, blocks = run.by(Transmission), run.config.run.blocks_per_slot
    told = run.by(SlotFeedback)
    assert any(feedback.partners.size for feedback in told.values())
    for (slot, ap), feedback in told.items():
        layout = run.layout(slot)
        h = channels(run.config, layout, slot)[slot % blocks]
        assert set(feedback.partners.ravel().tolist()) <= set(radiated[slot, ap].partners)
        for ue, named, gain in zip(layout.ues_of[ap], feedback.partners, feedback.partner_gain, strict=True):
            np.testing.assert_allclose(gain, np.abs(h[named, ue]) ** 2, rtol=1e-6)


def test_of_streams_an_ap_that_asks_is_told_where_its_own_are_heard_and_another_nothing(run: Watched) -> None:
    radiated, noise = run.by(Transmission), run.config.radio.noise_power_w
    told = run.by(SlotFeedback)
    assert any(len(feedback.level) for feedback in told.values()) == run.config.hears_streams
    for slot in range(8 * run.config.hears_streams):
        layout, h = run.layout(slot), channels(run.config, run.layout(slot), slot)
        w = np.zeros(h.shape, complex)
        for ap in range(11):
            w[:, ap, list(radiated[slot, ap].ues)] = radiated[slot, ap].w
        levels = stream_levels(received(h, w), noise)
        for ap in range(11):
            feedback, ues = told[slot, ap], np.array(layout.ues_of[ap], int)
            own = np.zeros((len(ues), len(levels)), int)
            own[feedback.stream, feedback.heard_at] = feedback.level
            np.testing.assert_array_equal(own, levels[:, ues].T)


def test_what_aps_find_out_of_themselves_is_told_to_neighbours_in_the_first_slot_of_an_episode(run: Watched) -> None:
    told = {(m.slot, m.ap, index(to)) for to, m in run.of(SelfReport)}
    length = {"belief": 6, "factor": 2}.get(run.config.cooperation.policy)
    if length is None:
        assert not told
        return
    assert {len(m.levels) for _, m in run.of(SelfReport)} == {length}
    neighbours = {(a.episode, index(to)): a.neighbours for to, a in run.of(Association)}
    assert told == {(4 * episode, ap, peer) for (episode, ap), peers in neighbours.items() for peer in peers}
    assert len(run.of(SelfReport)) == len(told) > 50


def test_between_aps_only_channel_blocks_link_states_and_beliefs_carry_arrays(run: Watched) -> None:
    with_arrays = (
        Association,
        PilotBlock,
        SlotFeedback,
        ChannelBlock,
        LinkState,
        CommonLinks,
        ClusterBlock,
        SelfReport,
    )
    for to, message, _ in run.frames:
        if to.startswith("ap/") and type(message) not in with_arrays:
            assert not [v for v in content(message).values() if not isinstance(v, (int, float, tuple))]
            assert not isinstance(message, (Hello, Transmission, ApReport, SlotReport))


def content(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in type(message).__slots__}


def own_estimates(run: Watched) -> dict[tuple[int, int], Any]:
    """(slot, AP) -> (B, L, K) what it can estimate from its pilots, NaN for UEs out of its reach."""
    told = {(association.episode, index(to)): association for to, association in run.of(Association)}
    radio, estimates = run.config.radio, {}
    for (slot, ap), pilots in run.by(PilotBlock).items():
        known = told[slot // 4, ap]
        y = csi.despread(pilots.y)
        estimates[slot, ap] = np.full((*y.shape[:2], radio.num_ues), np.nan, complex)
        estimates[slot, ap][..., known.reach] = csi.estimate(
            y, known.beta, known.pilots, radio.pilot_power_w, radio.noise_power_w
        )
    return estimates


def test_all_aps_of_a_ue_obey_the_choice_that_its_strongest_ap_made_of_who_transmits(run: Watched) -> None:
    """A slot later, as the UE has repeated it to all of them; in the first slot all transmit."""
    if not run.config.selects_serving:
        assert not any(len(sent.chosen) for _, sent in run.of(Transmission))
        return
    sent, told, left_out = run.by(Transmission), run.by(SlotFeedback), 0
    for slot in range(8):
        layout, first = run.layout(slot), slot % 4 == 0
        for ue, serving in enumerate(layout.serving.T):
            aps = np.flatnonzero(serving).tolist()
            master, place = int(layout.beta[:, ue].argmax()), {ap: sent[slot, ap].ues.index(ue) for ap in aps}
            choice = 0 if first else int(sent[slot - 1, master].chosen[place[master]])
            for index, ap in enumerate(aps):
                radiates = bool(sent[slot, ap].w[:, place[ap]].any())
                assert radiates == (not choice or bool(choice >> index & 1))
                assert sent[slot, ap].w_alone[:, place[ap]].any()
                assert told[slot, ap].chosen[place[ap]] == sent[slot, master].chosen[place[master]]
                assert ap == master or not sent[slot, ap].chosen[place[ap]]
                left_out += not radiates
    assert left_out > 5


def test_ues_repeat_to_all_their_aps_which_of_these_precode_together_for_them(run: Watched) -> None:
    if not run.config.selects_serving:
        return
    for slot in range(8):
        layout, found = run.layout(slot), components(run, slot)
        for (_, ap), feedback in ((at, told) for at, told in run.by(SlotFeedback).items() if at[0] == slot):
            for ue, row in zip(layout.ues_of[ap], feedback.group.tolist(), strict=True):
                aps = np.flatnonzero(layout.serving[:, ue]).tolist()
                assert [aps[first] for first in row[: len(aps)]] == [min(found[member, ue]) for member in aps]


def test_a_channel_block_is_the_senders_own_estimate_and_a_cluster_block_the_owners(run: Watched) -> None:
    estimates = own_estimates(run)
    blocks = run.of(ChannelBlock) + run.of(ClusterBlock)
    assert blocks
    for to, block in blocks:
        owner = getattr(block, "owner", block.ap)
        assert index(to) not in {owner, block.ap}
        expected = estimates[block.slot, owner][..., list(block.ues)].astype("<c8")
        np.testing.assert_array_equal(block.h_hat, expected)


def test_a_channel_block_is_about_the_ues_of_the_two_and_goes_to_one_who_asked_or_was_asked(run: Watched) -> None:
    asked = {(m.slot, m.ap, index(to)) for to, m in run.of(CoopRequest)}
    seen = set()
    for to, block in run.of(ChannelBlock):
        layout, told = run.layout(block.slot), set()
        for ap in (block.ap, index(to)):  # whom it serves; with selective precoding also whom it hears best
            strongest = np.argsort(-layout.beta[ap])[: run.config.precoding.told_ues]
            strongest = strongest[layout.reach[ap, strongest]]
            told |= {*layout.ues_of[ap], *(strongest.tolist() if run.config.precoding.joint == "selective" else ())}
        assert set(block.ues) == told & in_reach(layout, block.ap)
        assert (block.slot, index(to), block.ap) in asked or (block.slot, block.ap, index(to)) in asked
        assert (block.slot, block.ap, to) not in seen
        seen.add((block.slot, block.ap, to))


def in_reach(layout: Layout, ap: int) -> set[int]:
    return {*np.flatnonzero(layout.reach[ap]).tolist()}


def agreed_links(run: Watched) -> set[tuple[int, int, int]]:
    """(slot, AP, partner), both ways round: pairs of whom each asked the other."""
    asked = {(m.slot, m.ap, index(to)) for to, m in run.of(CoopRequest)}
    return {(slot, ap, partner) for slot, ap, partner in asked if (slot, partner, ap) in asked}


def test_of_links_and_clusters_an_ap_hears_from_its_agreed_partners_only(run: Watched) -> None:
    said = run.of(LinkState) + run.of(CommonLinks) + run.of(ClusterBlock)
    assert {(m.slot, m.ap, index(to)) for to, m in said} <= agreed_links(run)
    assert bool(run.of(LinkState)) == (run.config.cooperation.cluster == "components")
    assert bool(run.of(CommonLinks)) == (run.config.cooperation.cluster == "serving")


def test_a_cluster_block_is_for_members_once_each_and_about_the_clusters_ues(run: Watched) -> None:
    if run.config.cooperation.cluster == "serving":
        return  # below
    radiated = run.by(Transmission)
    cluster = {at: {at[1], *sent.partners} for at, sent in radiated.items()}
    for to, block in run.of(ClusterBlock):
        assert {block.owner, block.ap, index(to)} <= cluster[block.slot, index(to)]
        ues = run.layout(block.slot).ues_of
        of_cluster = {ue for member in cluster[block.slot, index(to)] for ue in ues[member]}
        assert set(block.ues) == of_cluster & in_reach(run.layout(block.slot), block.owner)
    came = [(block.slot, block.owner, index(to)) for to, block in run.of(ClusterBlock)]
    expected = {(slot, owner, ap) for (slot, ap), known in cluster.items() if len(known) > 2 for owner in known - {ap}}
    assert sorted(came) == (sorted(expected) if run.config.cooperation.is_transitive else [])
    assert bool(came) == (run.config.cooperation.cluster == "components")


def components(run: Watched, slot: int) -> dict[tuple[int, int], set[int]]:
    """(AP, UE that it serves) -> its component of the agreed links between APs that serve the UE."""
    linked = {(ap, partner) for at, ap, partner in agreed_links(run) if at == slot}
    found = {}
    for ue, serving in enumerate(run.layout(slot).serving.T):
        aps = np.flatnonzero(serving).tolist()
        graph = {ap: {other for other in aps if (ap, other) in linked} for ap in aps}
        found |= {(ap, ue): set().union(*layers(ap, graph)) for ap in aps}
    return found


def test_where_clusters_are_of_the_aps_that_serve_a_ue_channels_stay_among_them(run: Watched) -> None:
    """And an AP precodes with exactly those who are in a component of one of its UEs."""
    if run.config.cooperation.cluster != "serving":
        return
    found, links = {slot: components(run, slot) for slot in range(8)}, agreed_links(run)
    together = {(slot, *at): members for slot in found for at, members in found[slot].items()}
    for at, sent in run.by(Transmission).items():
        members = [together[(*at, ue)] for ue in run.layout(at[0]).ues_of[at[1]]]
        assert {at[1], *sent.partners} == {at[1]}.union(*members)
    assert run.of(ClusterBlock)
    for to, block in run.of(ClusterBlock):
        assert (block.slot, block.owner, index(to)) not in links
        assert any({block.ap, block.owner, index(to)} <= m for (slot, *_), m in together.items() if slot == block.slot)


def test_what_is_said_of_links_for_a_ue_is_true(run: Watched) -> None:
    links = agreed_links(run)
    for to, message in run.of(CommonLinks):
        serving = run.layout(message.slot).serving
        for ue, ap, partner in message.links.tolist():
            assert serving[[message.ap, index(to), ap, partner], ue].all()
            assert (message.slot, ap, partner) in links


def test_what_is_said_of_an_ap_is_what_it_could_say_itself(run: Watched) -> None:
    """An entry: whom it serves, whom it has agreed with. All of it comes from the component, nothing from beyond."""
    links = agreed_links(run)
    for _, state in run.of(LinkState):
        assert state.round > 1 or state.known == (state.ap,)
        for ap in state.known:
            partners = {partner for slot, one, partner in links if (slot, one) == (state.slot, ap)}
            assert partners == set(state.links[state.links[:, 0] == ap, 1].tolist())
            assert partners
            ues = state.serves[state.serves[:, 0] == ap, 1].tolist()
            assert tuple(ues) == run.layout(state.slot).ues_of[ap]


def test_an_ap_precodes_with_those_only_whose_blocks_it_got(run: Watched) -> None:
    got = defaultdict(set)
    for to, block in run.of(ChannelBlock) + run.of(ClusterBlock):
        got[block.slot, index(to)].add(getattr(block, "owner", block.ap))
    radiated = run.by(Transmission)
    assert len(radiated) == 8 * 11
    assert any(sent.partners for sent in radiated.values())
    for at, sent in radiated.items():
        assert set(sent.partners) <= got[at]


def test_agreement_is_mutual_unless_clusters_are_directed(run: Watched) -> None:
    radiated = run.by(Transmission)
    one_way = [
        (at, partner)
        for at, sent in radiated.items()
        for partner in sent.partners
        if at[1] not in radiated[at[0], partner].partners
    ]
    assert bool(one_way) == (run.config.cooperation.cluster == "directed")


def test_requests_and_their_answers_are_all_that_is_said(run: Watched) -> None:
    """Every request is answered exactly once by a block or a decline."""
    requests = [(m.slot, m.ap, index(to)) for to, m in run.of(CoopRequest)]
    blocks = {(m.slot, m.ap, index(to)) for to, m in run.of(ChannelBlock)}
    declines = {(m.slot, m.ap, index(to)) for to, m in run.of(CoopDecline)}
    assert len(set(requests)) == len(requests)
    for slot, asker, asked in requests:
        assert ((slot, asked, asker) in blocks) + ((slot, asked, asker) in declines) == 1
    assert {(slot, asker, asked) for slot, asked, asker in declines} <= set(requests)


def test_gains_are_reported_to_partners_with_a_link_and_in_a_neighbourhood_only(run: Watched) -> None:
    told = {(m.slot, m.ap, index(to)): m.gain for to, m in run.of(GainReport)}
    reports = run.by(ApReport)
    linked = agreed_links(run) if run.config.cooperation.is_transitive else None
    expected = {
        (*at, partner): report.gain
        for at, report in reports.items()
        for partner in report.partners
        if linked is None or (*at, partner) in linked
    }
    assert told == (expected if run.config.reward.scope == "neighbourhood" else {})


def test_defects_of_aps_show_in_what_users_report_and_in_nothing_else() -> None:
    """Every other frame is the same to the last bit."""
    short = (*SHORT, *SERVING, "cooperation.policy=always", "run.episodes=1", "run.slots_per_episode=3")  # unsuspected
    frames, reports = [], []
    for defects in ((), ("oscillator_deg=[[0.5, 0], [0.5, 90]]", "calibration_error=[[0.5, 0], [0.5, 0.5]]")):
        config = load("demo", (*short, *(f"impairments.{defect}" for defect in defects)))
        sent = sorted((send.to, send.frame) for send in LocalNetwork(config).frames())
        said = [(to, frame, type(decode(frame, largest_frame(config)))) for to, frame in sent]
        frames.append([(to, frame) for to, frame, kind in said if kind not in {SlotFeedback, ApReport, SlotReport}])
        reports.append([(to, frame) for to, frame, kind in said if kind is SlotFeedback])
    assert frames[0] == frames[1]
    assert not {*reports[0]} & {*reports[1]}


# --- what an AP object can reach ---------------------------------------------------------------------------

LEAVES = (types.ModuleType, type, types.BuiltinFunctionType, types.CodeType, str, bytes, int, float, complex)
NOT_ITS_OWN = (Layout, Air, ChannelServer, Coordinator, LocalNetwork, Record)


def reachable(start: object) -> list[object]:
    """All objects that one leads to by reference, without what modules and types lead to.

    A function leads to what it closes over, not to its globals; an array to the array that it is a view of.
    """
    found, queue = {id(start): start}, [start]
    while queue:
        for item in _referents(queue.pop()):
            if id(item) not in found and not isinstance(item, LEAVES):
                found[id(item)] = item
                queue.append(item)
    return list(found.values())


def _referents(item: object) -> Iterable[object]:
    if isinstance(item, types.FunctionType):
        return (item.__closure__ or (), item.__defaults__ or (), item.__kwdefaults__ or {})
    if isinstance(item, np.ndarray):
        return (item.base,) if item.base is not None else ()
    return gc.get_referents(item)


def test_an_ap_can_reach_no_other_node_layout_or_true_channel(run: Watched) -> None:
    for ap in run.network.aps[:3]:
        found = reachable(ap)
        assert any(isinstance(item, Config) for item in found)  # it does walk
        assert not [item for item in found if isinstance(item, NOT_ITS_OWN)]
        assert [item for item in found if isinstance(item, AccessPoint)] == [ap]


def test_no_array_of_an_ap_is_as_large_as_what_the_network_knows(run: Watched) -> None:
    """Nothing in an AP has an axis for the APs: no matrix of beta, no channels of others."""
    for ap in run.network.aps[:3]:
        arrays = [item for item in reachable(ap) if isinstance(item, np.ndarray)]
        assert arrays
        assert not [array.shape for array in arrays if array.dtype.kind in "cf" and 11 in array.shape]


def test_the_walk_finds_what_it_looks_for(run: Watched) -> None:
    found = reachable(run.network)
    for kind in (Layout, ChannelServer, Coordinator, Record):
        assert any(isinstance(item, kind) for item in found)
    assert {item.ap for item in found if isinstance(item, AccessPoint)} == set(range(11))


# --- what it costs -----------------------------------------------------------------------------------------


def test_messages_and_bytes_of_every_kind_are_those_really_sent(run: Watched) -> None:
    """Each node reports what it sent up to its last report, so what follows that is counted by nobody.

    That is the last report itself (reports travel in the count of the next one) and, from the channel server,
    the RunOver messages. Every other kind is complete.
    """
    counted = np.zeros((2, len(KINDS)), np.int64)
    last: dict[tuple[type[Message], int], int] = {}  # bytes of each node's last report
    for _, message, size in run.frames:
        counted[:, TAGS[type(message)]] += (1, size)
        if isinstance(message, (ApReport, SlotReport)):
            last[type(message), getattr(message, "ap", -1)] = size
    assert len(last) == 11 + 1
    for (kind, _), size in last.items():
        counted[:, TAGS[kind]] -= (1, size)
    assert counted[0, TAGS[RunOver]] == 11 + 1
    counted[:, TAGS[RunOver]] = 0
    np.testing.assert_array_equal(run.record.traffic, counted)


def test_the_price_of_cooperation_in_a_slot_is_what_aps_sent_each_other_in_it(run: Watched) -> None:
    messages, size_of = np.zeros((8, 11), int), np.zeros((8, 11), int)
    for to, message, size in run.frames:
        assert isinstance(message, FRONTHAUL) <= to.startswith("ap/")
        if isinstance(message, FRONTHAUL):
            messages[message.slot, message.ap] += 1
            size_of[message.slot, message.ap] += size
    assert messages.any(axis=1).all()
    slots, aps = tables.slots(run.record), tables.aps(run.record)
    np.testing.assert_array_equal(slots["messages"], messages.sum(axis=1))
    np.testing.assert_array_equal(slots["bytes"], size_of.sum(axis=1))
    np.testing.assert_array_equal(aps["messages"], messages.ravel())
    np.testing.assert_array_equal(aps["bytes"], size_of.ravel())


def test_a_run_without_faults_drops_nothing_and_needs_no_deadline(run: Watched) -> None:
    assert not run.of(Deadline)
    assert not run.record.dropped.any()
    assert not run.record.silent.any()
    assert (tables.aps(run.record)["status"] == "ok").all()


def test_the_coordinator_gets_reports_and_sends_nothing(run: Watched) -> None:
    to_it = [type(message) for to, message, _ in run.frames if to == COORDINATOR]
    assert sorted(map(TAGS.__getitem__, to_it)) == sorted(
        [TAGS[Hello]] * 11 + [TAGS[SlotReport]] * 8 + [TAGS[ApReport]] * 88 + [TAGS[RunOver]]
    )
    assert {type(message) for to, message, _ in run.frames if to == CHANNEL} == {Hello, Transmission}
    assert not run.network.coordinator.sent.any()


def test_an_ap_is_given_neither_the_seed_nor_the_file_that_the_channels_come_from() -> None:
    config = load("demo", ("radio.ap_seed=123456",), seed=987654)
    known = config_for_aps(config)
    assert not {"123456", "987654"} & {*re.findall(r"\d+", known.model_dump_json())}
    world, guess = make_layout(config, 0), make_layout(known, 0)
    assert not (guess.beta == world.beta).any()
    assert not (channels(known, world, 0) == channels(config, world, 0)).any()
    file = {"channel_file": "scene.npz", "first_layout": 123456, "num_layouts": 654321}
    of_file = config_for_aps(Config.model_validate({"propagation": file})).model_dump_json()
    assert not [value for value in file.values() if str(value) in of_file]
