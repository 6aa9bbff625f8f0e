"""A network of APs that serve UEs together, over a wire that delivers in any order: who precodes with whom for whom."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apnode.clusters.graph import Adjacency, Entry, adjacency, layers
from apnode.clusters.relaying import Entries, Relaying, common_links, entries_of
from apnode.config import Config
from apnode.config.cooperation import Cooperation, Precoding
from apnode.config.network import Radio
from apnode.protocol.limits import largest_frame
from apnode.protocol.messages import ChannelBlock, ClusterBlock, CommonLinks, ComplexArray
from apnode.protocol.node import RefusedError
from apnode.protocol.wire import decode, encode

NUM_UES = 4
CONFIG = Config(
    radio=Radio(num_aps=21, num_ues=NUM_UES, antennas=3, max_serving_aps=7),
    cooperation=Cooperation(cluster="serving"),
    precoding=Precoding(joint="selective"),
)
LAW = settings(derandomize=True, deadline=None, max_examples=150)
SEEDS = st.integers(0, 2**32)
Sent = tuple[int, int, bytes]  # from, to, frame


@dataclass(frozen=True)
class World:
    """Who serves whom, and the agreed links."""

    ues: dict[int, tuple[int, ...]]  # by AP
    links: Adjacency

    def of(self, ue: int) -> Adjacency:
        """The UE's graph."""
        serving = [ap for ap, ues in self.ues.items() if ue in ues]
        return {ap: self.links[ap] & set(serving) for ap in serving}

    def component(self, ap: int, ue: int) -> set[int]:
        return set().union(*layers(ap, self.of(ue)))

    def groups(self, ap: int) -> dict[int, set[int]]:
        """Of each UE that a partner serves too, the others to precode with."""
        groups = {ue: self.component(ap, ue) - {ap} for ue in self.ues[ap]}
        return {ue: group for ue, group in groups.items() if group}

    def away(self, ap: int) -> int:
        """Links to the farthest of those with whom to precode."""
        return max(len(layers(ap, self.of(ue))) - 1 for ue in self.ues[ap]) if self.ues[ap] else 0


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Each UE has up to 7 of up to 10 APs; links as they come, between APs without a common UE as well."""
    aps = sorted(draw(st.sets(st.integers(0, 20), min_size=2, max_size=10)))
    serving = [draw(st.sets(st.sampled_from(aps), max_size=7)) for _ in range(NUM_UES)]
    ues = {ap: tuple(ue for ue in range(NUM_UES) if ap in serving[ue]) for ap in aps}
    pairs = [(one, other) for number, one in enumerate(aps) for other in aps[:number]]
    share = draw(st.sampled_from([0.2, 0.4, 0.7, 1.0]))  # low ones make long ways
    drawn = np.random.default_rng(draw(SEEDS)).random(len(pairs)) < share
    return World(ues, adjacency(aps, [pair for pair, linked in zip(pairs, drawn, strict=True) if linked]))


def chain(length: int, *more: tuple[int, int]) -> World:
    """All serve UE 0, each is linked to the next; and more links."""
    aps = range(length)
    return World(dict.fromkeys(aps, (0,)), adjacency(aps, [*((ap, ap + 1) for ap in aps[:-1]), *more]))


def estimates(ap: int) -> ComplexArray:
    rng = np.random.default_rng(ap)
    h_hat: ComplexArray = rng.standard_normal((2, 3, NUM_UES)) + 1j * rng.standard_normal((2, 3, NUM_UES))
    return h_hat.astype("<c8")


def told(ap: int, ues: Iterable[int], served: Iterable[int]) -> ChannelBlock:
    """An AP's channels to some UEs, and what it spends on those that it serves."""
    ues, rho = tuple(ues), [0.1 * (ue in served) for ue in ues]
    return ChannelBlock(4, ap, ues, estimates(ap)[..., list(ues)], rho, np.zeros((0, 3, 3)))


def nothing(ues: Iterable[int]) -> ChannelBlock:
    raise AssertionError("partners have told each other already")


@dataclass
class Network:
    """All APs with a link; messages are delivered in an order drawn from `rng`, an AP begins when it is drawn."""

    world: World
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    lost: int | None = None  # number of the message that never arrives
    sent: list[Sent] = field(default_factory=list)

    def run(self) -> "Network":
        linked = [ap for ap, partners in self.world.links.items() if partners]
        self.aps = {ap: Relaying(ap, 4, CONFIG) for ap in linked}
        waiting: list[int | Sent] = list(linked)
        while waiting:
            match waiting.pop(int(self.rng.integers(len(waiting)))):
                case int(ap):
                    own = Entry(ap, self.world.ues[ap], dict.fromkeys(self.world.links[ap], 1e-12))
                    out = self.aps[ap].begin(own, nothing, {n: self.block(n, ap) for n in self.world.links[ap]})
                case sender, ap, frame:
                    done, message = self.aps[ap].complete, decode(frame)
                    assert not done, f"{sender} tells {ap} what it does not wait for"
                    of_links = isinstance(message, CommonLinks)
                    out = (self.aps[ap].on_state if of_links else self.aps[ap].on_block)(message)  # type: ignore[operator]
            new = [(ap, to, encode(message)) for to, message in out]
            waiting += [item for number, item in enumerate(new, len(self.sent)) if number != self.lost]
            self.sent += new
        return self

    def block(self, sender: int, receiver: int) -> ChannelBlock:
        ues = self.world.ues
        return told(sender, sorted({*ues[sender], *ues[receiver]}), ues[sender])

    def of(self, kind: type[Any]) -> list[tuple[int, int, Any]]:
        messages = ((sender, to, decode(frame)) for sender, to, frame in self.sent)
        return [(sender, to, message) for sender, to, message in messages if isinstance(message, kind)]

    def entries(self) -> list[tuple[int, int, int, int, int, frozenset[int]]]:
        """Sender, receiver, round, UE, owner, and what is said of it."""
        return [
            (sender, to, message.round, ue, owner, partners)
            for sender, to, message in self.of(CommonLinks)
            for (ue, owner), partners in entries_of(message).items()
        ]


# --- what is found -----------------------------------------------------------------------------------------


@LAW
@given(world=worlds(), seed=SEEDS)
def test_every_ap_finds_the_components_that_an_observer_of_all_links_finds(world: World, seed: int) -> None:
    """And so nobody waits for ever."""
    for ap, found in Network(world, np.random.default_rng(seed)).run().aps.items():
        assert found.complete
        assert found.groups == world.groups(ap)
        assert found.members == {ap}.union(*world.groups(ap).values())
        assert found.size == len(found.members)


@LAW
@given(world=worlds(), seed=SEEDS)
def test_an_ap_has_the_channels_of_all_with_whom_it_precodes(world: World, seed: int) -> None:
    """Partners' as they told it, the others' as they told one of their partners."""
    network = Network(world, np.random.default_rng(seed)).run()
    for ap, found in network.aps.items():
        assert set(found.blocks) == set().union(*world.groups(ap).values())
        for owner, block in found.blocks.items():
            np.testing.assert_array_equal(block.h_hat, estimates(owner)[..., list(block.ues)])
            tellers = {ap} if owner in world.links[ap] else world.links[owner]
            assert block.ues in {network.block(owner, teller).ues for teller in tellers}
            assert [ue for ue, rho in zip(block.ues, block.rho, strict=True) if rho] == list(world.ues[owner])


@LAW
@given(world=worlds(), seed=SEEDS)
def test_what_is_sent_and_what_is_kept_does_not_depend_on_the_order_of_arrival(world: World, seed: int) -> None:
    one, other = (Network(world, np.random.default_rng(at)).run() for at in (0, seed))
    assert sorted(one.sent) == sorted(other.sent)
    for ap, found in one.aps.items():
        kept = {owner: (block.ues, block.h_hat.tobytes()) for owner, block in other.aps[ap].blocks.items()}
        assert kept == {owner: (block.ues, block.h_hat.tobytes()) for owner, block in found.blocks.items()}


# --- what is said ------------------------------------------------------------------------------------------


@LAW
@given(worlds())
def test_messages_go_to_partners_with_a_common_ue_only_and_say_what_is_true(world: World) -> None:
    network = Network(world).run()
    for sender, to, _ in network.sent:
        assert to in world.links[sender]
        assert set(world.ues[sender]) & set(world.ues[to])
    for sender, to, _, ue, owner, partners in network.entries():
        assert owner in world.component(sender, ue) & world.component(to, ue)
        assert partners == world.of(ue)[owner]
    assert all(len(message.links) for _, _, message in network.of(CommonLinks))


@LAW
@given(worlds())
def test_each_entry_comes_once_in_the_round_that_its_owner_is_away_from_the_lowest_of_those_nearer(
    world: World,
) -> None:
    network = Network(world).run()
    came = sorted((to, ue, owner, number, sender) for sender, to, number, ue, owner, _ in network.entries())
    expected = []
    for ap in network.aps:
        for ue in world.ues[ap]:
            graph = world.of(ue)
            for number, layer in enumerate(layers(ap, graph)[1:], start=1):
                for owner in layer:
                    nearer = min(graph[ap] & layers(owner, graph)[number - 1])
                    expected.append((ap, ue, owner, number, nearer))
    assert came == sorted(expected)


@LAW
@given(worlds())
def test_an_ap_hears_as_many_rounds_as_the_farthest_is_away_each_once_from_a_neighbour(world: World) -> None:
    network = Network(world).run()
    heard = Counter((to, sender, message.round) for sender, to, message in network.of(CommonLinks))
    assert set(heard.values()) <= {1}
    rounds = {ap: {number for to, _, number in heard if to == ap} for ap in network.aps}
    assert rounds == {ap: set(range(1, world.away(ap) + 1)) for ap in network.aps}


@LAW
@given(worlds())
def test_channels_are_relayed_to_those_without_a_link_to_the_owner_once_by_each_neighbour(world: World) -> None:
    network = Network(world).run()
    relayed = [(sender, to, block.owner) for sender, to, block in network.of(ClusterBlock)]
    assert len(set(relayed)) == len(relayed)
    expected = {(sender, to, owner) for sender, to, _, _, owner, _ in network.entries() if owner != sender}
    assert set(relayed) == expected
    assert not any(to in world.links[owner] for _, to, owner in relayed)


def test_where_all_who_serve_a_ue_are_linked_one_round_is_enough_and_no_channels_are_relayed() -> None:
    everybody = range(5)
    links = adjacency(everybody, [(one, other) for one in everybody for other in range(one)])
    network = Network(World(dict.fromkeys(everybody, (0, 2)), links)).run()
    assert {message.round for _, _, message in network.of(CommonLinks)} == {1}
    assert len(network.sent) == 5 * 4


def test_partners_without_a_common_ue_say_nothing_and_are_complete() -> None:
    network = Network(World({1: (0,), 2: (1,)}, {1: {2}, 2: {1}})).run()
    assert network.sent == []
    assert [(found.complete, found.groups, found.blocks) for found in network.aps.values()] == 2 * [(True, {}, {})]


def test_an_ap_may_be_in_another_group_for_each_of_its_ues() -> None:
    """1-2-3 in a row; 1 and 3 serve only one of the two UEs of 2."""
    network = Network(World({1: (0,), 2: (0, 1), 3: (1,)}, {1: {2}, 2: {1, 3}, 3: {2}})).run()
    assert {ap: found.groups for ap, found in network.aps.items()} == {1: {0: {2}}, 2: {0: {1}, 1: {3}}, 3: {1: {2}}}
    assert network.of(ClusterBlock) == []


def test_of_a_chain_the_first_partner_on_the_way_says_which_channels_travel() -> None:
    network = Network(World({0: (0, 1), 1: (0, 2), 2: (0, 3), 3: (0,)}, chain(4).links)).run()
    assert network.aps[3].blocks[0].ues == network.block(0, 1).ues == (0, 1, 2)
    assert network.aps[3].blocks[1].ues == network.block(1, 2).ues == (0, 2, 3)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_entries_go_round(count: int) -> None:
    entries: Entries = {(ue, ap): frozenset(range(10, 10 + ap)) for ue in range(count) for ap in range(1, count + 1)}
    message = decode(encode(common_links(4, 9, 2, dict(reversed(entries.items())))))
    assert isinstance(message, CommonLinks)
    assert entries_of(message) == entries


# --- what may go wrong -------------------------------------------------------------------------------------


@LAW
@given(world=worlds(), seed=SEEDS, lost=st.integers(0, 120))
def test_if_a_message_is_lost_whoever_is_complete_is_so_rightly(world: World, seed: int, lost: int) -> None:
    network = Network(world, np.random.default_rng(seed), lost).run()
    for ap, found in network.aps.items():
        assert (found.members is not None) == (found.groups is not None) == found.complete
        if found.complete:
            assert found.groups == world.groups(ap)
            assert set(found.blocks) == set().union(*world.groups(ap).values())
    if lost < len(network.sent):
        assert not network.aps[network.sent[lost][1]].complete


def begun(world: World, ap: int = 0) -> Relaying:
    """An AP with nobody's message yet."""
    relaying, network = Relaying(ap, 4, CONFIG), Network(world)
    own = Entry(ap, world.ues[ap], dict.fromkeys(world.links[ap], 1e-12))
    relaying.begin(own, nothing, {partner: network.block(partner, ap) for partner in world.links[ap]})
    return relaying


def said(sender: int, number: int, entries: dict[int, Iterable[int]], ue: int = 0) -> CommonLinks:
    return common_links(4, sender, number, {(ue, ap): frozenset(partners) for ap, partners in entries.items()})


def passed(sender: int, owner: int) -> ClusterBlock:
    block = told(owner, (0,), (0,))
    return ClusterBlock(4, sender, owner, block.ues, block.h_hat, block.rho, block.untold)


@pytest.mark.parametrize("number", [7, 100])
def test_a_round_that_there_cannot_be_is_refused(number: int) -> None:
    with pytest.raises(RefusedError):
        begun(chain(3)).on_state(said(1, number, {1: [0, 2]}))


def test_before_an_ap_has_spoken_only_the_first_round_can_have_come() -> None:
    relaying = Relaying(0, 4, CONFIG)
    assert relaying.on_state(said(1, 1, {1: [0, 2]})) == []
    with pytest.raises(RefusedError):
        relaying.on_state(said(1, 2, {2: [1]}))
    with pytest.raises(RefusedError):
        relaying.on_block(passed(1, 2))


def test_a_stranger_says_nothing_about_the_links_and_has_nobodys_channels() -> None:
    relaying = begun(chain(3))
    relaying.on_state(said(1, 1, {1: [0, 2]}))
    relaying.on_state(said(5, 2, {2: [1]}))
    relaying.on_block(passed(5, 2))
    assert not relaying.complete
    relaying.on_state(said(1, 2, {2: [1]}))
    relaying.on_block(passed(1, 2))
    assert relaying.complete
    assert relaying.groups == {0: {1, 2}}


def test_a_neighbour_may_be_rounds_ahead_and_its_channels_come_before_its_links() -> None:
    """AP 1 has all that it needs from others while its neighbour 2 still waits for 3."""
    relaying = begun(chain(5), ap=2)
    relaying.on_block(passed(1, 0))
    relaying.on_state(said(1, 2, {0: [1]}))
    relaying.on_state(said(1, 1, {1: [0, 2]}))
    both = [(to, kind) for to in (1, 3) for kind in (CommonLinks, ClusterBlock)]
    assert [(to, type(message)) for to, message in relaying.on_state(said(3, 1, {3: [2, 4]}))] == both
    assert relaying.on_state(said(3, 2, {4: [3]})) == []
    assert [(to, type(message)) for to, message in relaying.on_block(passed(3, 4))] == both
    assert relaying.complete


def test_somebody_who_names_a_partner_that_never_speaks_leaves_the_others_waiting_not_wrong() -> None:
    relaying = begun(chain(2))
    relaying.on_state(said(1, 1, {1: [0, 9]}))
    for number in range(2, 7):
        assert not relaying.complete
        relaying.on_block(passed(1, 9))
        relaying.on_state(said(1, number, {number: [1]}))
    assert relaying.members is None


def test_nobody_can_park_more_blocks_than_there_can_be_members() -> None:
    relaying = begun(chain(3))
    for owner in range(1, 8):
        relaying.on_block(passed(1, owner))
    with pytest.raises(RefusedError):
        relaying.on_block(passed(1, 9))


def test_of_partners_who_claim_to_serve_a_ue_no_more_are_believed_than_can() -> None:
    everybody = range(1, 15)
    world = World({0: (0,), **dict.fromkeys(everybody, (0,))}, adjacency(range(15), [(0, ap) for ap in everybody]))
    assert set(begun(world).blocks) == set(range(1, 7))


def test_no_more_aps_are_believed_to_serve_a_ue_than_can() -> None:
    """Both partners tell of six each, and pass on their channels."""
    relaying, named = begun(chain(3), ap=1), {0: range(3, 9), 2: range(9, 15)}
    for sender, owners in named.items():
        relaying.on_state(said(sender, 1, {sender: [1, *owners]}))
    for sender, owners in named.items():
        for owner in owners:
            relaying.on_block(passed(sender, owner))
        relaying.on_state(said(sender, 2, {owner: [sender] for owner in owners}))
    assert [len(graph) for graph in relaying._graphs.values()] == [CONFIG.radio.most_serving_aps]


def test_liars_cannot_make_an_ap_say_more_than_a_frame_holds() -> None:
    """Each round names more APs than can serve a UE; what is too much is not believed, and so not passed on."""
    relaying, longest = begun(chain(3), ap=1), 0
    named = iter(range(3, 20))
    known: list[int] = [0, 2]
    for number in range(1, 7):
        lies = {ap: [next(named, 20) for _ in range(6)] for ap in known}
        known = [ap for partners in lies.values() for ap in partners][:12]
        for sender in (0, 2):
            for owner in lies:
                if owner != sender and number > 1:
                    with suppress(RefusedError):
                        relaying.on_block(passed(sender, owner))
            for _, message in relaying.on_state(said(sender, number, lies)):
                longest = max(longest, len(encode(message)))
    assert not relaying.complete
    assert longest < largest_frame(CONFIG)
