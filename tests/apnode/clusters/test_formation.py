"""A network of formations, over a wire that delivers in any order: who finds whom, and with how many messages."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apnode.clusters.formation import Formation, Out, entries_of, link_state
from apnode.clusters.graph import Entry, Graph, adjacency, components, layers, link_weights
from apnode.config import Config
from apnode.config.cooperation import Cooperation
from apnode.config.network import Radio
from apnode.protocol.fields import Message
from apnode.protocol.messages import ChannelBlock, ClusterBlock, ComplexArray, LinkState
from apnode.protocol.node import RefusedError
from apnode.protocol.wire import decode, encode

NUM_UES = 6
LAW = settings(derandomize=True, deadline=None, max_examples=60)
Sent = tuple[int, int, bytes]  # from, to, frame


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to 9 APs, each with its UEs; links with both ends' interference."""
    aps = sorted(draw(st.sets(st.integers(0, 20), min_size=2, max_size=9)))
    links: dict[int, dict[int, float]] = {ap: {} for ap in aps}
    for number, ap in enumerate(aps[1:], start=1):
        for other in draw(st.sets(st.sampled_from(aps[:number]), max_size=2)):
            links[ap][other] = draw(st.sampled_from([1e-12, 3e-12]))
            links[other][ap] = draw(st.sampled_from([1e-12, 3e-12]))
    ues = {ap: tuple(sorted(draw(st.sets(st.integers(0, NUM_UES - 1), max_size=2)))) for ap in aps}
    return {ap: Entry(ap, ues[ap], links[ap]) for ap in aps if links[ap]}


def chain(length: int) -> Graph:
    return {
        ap: Entry(ap, (ap % NUM_UES,), {n: 1e-12 for n in (ap - 1, ap + 1) if 0 <= n < length}) for ap in range(length)
    }


def heard(formation: Formation, message: Message) -> Out:
    if isinstance(message, LinkState):
        return formation.on_state(message)
    assert isinstance(message, ClusterBlock)
    return formation.on_block(message)


def estimates(ap: int) -> ComplexArray:
    rng = np.random.default_rng(ap)
    h_hat: ComplexArray = rng.standard_normal((2, 3, NUM_UES)) + 1j * rng.standard_normal((2, 3, NUM_UES))
    return h_hat.astype("<c8")


def teller(ap: int) -> Callable[[Iterable[int]], ChannelBlock]:
    """Makes the blocks of an AP's estimates."""
    return lambda ues: told(ap, tuple(ues))


def told(ap: int, ues: tuple[int, ...]) -> ChannelBlock:
    return ChannelBlock(4, ap, ues, estimates(ap)[..., list(ues)], [0.1] * len(ues), np.zeros((0, 3, 3)))


def cluster_block(sender: int, owner: int, ues: tuple[int, ...]) -> ClusterBlock:
    block = told(owner, ues)
    return ClusterBlock(4, sender, owner, ues, block.h_hat, block.rho, block.untold)


@dataclass
class Network:
    """All APs of a graph; messages are delivered in an order drawn from `rng`, an AP begins when it is drawn."""

    graph: Graph
    config: Config
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    lost: int | None = None  # number of the message that never arrives
    sent: list[Sent] = field(default_factory=list)

    def run(self) -> "Network":
        self.formations = {ap: Formation(ap, 4, self.config) for ap in self.graph}
        waiting: list[int | Sent] = list(self.graph)
        while waiting:
            match waiting.pop(int(self.rng.integers(len(waiting)))):
                case int(ap):
                    own, blocks = self.graph[ap], {partner: self.block(partner, ap) for partner in self.graph[ap].links}
                    out = self.formations[ap].begin(own, teller(ap), blocks)
                case _, ap, frame:
                    message = decode(frame)
                    hear = (
                        self.formations[ap].on_state if isinstance(message, LinkState) else self.formations[ap].on_block
                    )
                    out = hear(message)  # type: ignore[arg-type]
            new = [(ap, to, encode(message)) for to, message in out]
            waiting += [item for number, item in enumerate(new, len(self.sent)) if number != self.lost]
            self.sent += new
        return self

    def block(self, sender: int, receiver: int) -> ChannelBlock:
        ues = tuple(sorted({*self.graph[sender].ues, *self.graph[receiver].ues}))
        return teller(sender)(ues)

    def of(self, kind: type[Any]) -> list[tuple[int, int, Any]]:
        messages = ((sender, to, decode(frame)) for sender, to, frame in self.sent)
        return [(sender, to, message) for sender, to, message in messages if isinstance(message, kind)]

    def components(self) -> dict[int, frozenset[int]]:
        """What an omniscient observer of all links sees."""
        return components(self.graph, link_weights(self.graph))

    def clusters(self) -> dict[int, frozenset[int]]:
        """What the observer expects: a component above the limit is refused."""
        limit = self.config.cooperation.max_cluster_aps
        return {ap: all_ if len(all_) <= limit else frozenset({ap}) for ap, all_ in self.components().items()}


RADIO = Radio(num_aps=21, num_ues=NUM_UES, antennas=3, max_serving_aps=9)
ALL = Config(radio=RADIO, cooperation=Cooperation(cluster="components", max_cluster_aps=9))
THREE = Config(radio=RADIO, cooperation=Cooperation(cluster="components", max_cluster_aps=3))
FOUR = Config(radio=RADIO, cooperation=Cooperation(cluster="components", max_cluster_aps=4))
LIMITS = pytest.mark.parametrize("config", [FOUR, ALL], ids=["some refused", "all whole"])


@LIMITS
@LAW
@given(graph=graphs(), seed=st.integers(0, 2**32))
def test_every_ap_finds_the_cluster_that_an_observer_of_all_links_finds(
    config: Config, graph: Graph, seed: int
) -> None:
    network = Network(graph, config, np.random.default_rng(seed)).run()
    for ap, formation in network.formations.items():
        assert formation.complete
        assert formation.members == network.clusters()[ap]
        assert formation.size == len(network.components()[ap])


@LIMITS
@LAW
@given(graph=graphs(), seed=st.integers(0, 2**32))
def test_every_member_gets_every_members_estimates_for_all_ues_of_the_cluster(
    config: Config, graph: Graph, seed: int
) -> None:
    network = Network(graph, config, np.random.default_rng(seed)).run()
    for ap, formation in network.formations.items():
        members = network.clusters()[ap]
        assert set(formation.blocks) == members - {ap}
        for owner, block in formation.blocks.items():
            assert set(block.ues) == {ue for member in members for ue in graph[member].ues}
            np.testing.assert_array_equal(block.h_hat, estimates(owner)[..., list(block.ues)])


@LIMITS
@LAW
@given(graph=graphs(), seed=st.integers(0, 2**32))
def test_what_is_sent_does_not_depend_on_the_order_of_arrival(config: Config, graph: Graph, seed: int) -> None:
    one, other = (Network(graph, config, np.random.default_rng(at)).run() for at in (0, seed))
    assert sorted(one.sent) == sorted(other.sent)


@LIMITS
@LAW
@given(graph=graphs())
def test_messages_travel_over_agreed_links_only_and_blocks_stay_in_their_cluster(config: Config, graph: Graph) -> None:
    network = Network(graph, config).run()
    assert all(to in graph[sender].links for sender, to, _ in network.sent)
    for sender, to, block in network.of(ClusterBlock):
        assert {sender, to, block.owner} <= network.clusters()[to]


@LIMITS
@LAW
@given(graph=graphs())
def test_a_block_comes_to_each_other_member_once_and_two_need_none(config: Config, graph: Graph) -> None:
    network = Network(graph, config).run()
    came = sorted((block.owner, to) for _, to, block in network.of(ClusterBlock))
    clusters = [cluster for cluster in set(network.clusters().values()) if len(cluster) > 2]
    assert came == sorted((owner, to) for cluster in clusters for owner in cluster for to in cluster if owner != to)


@LAW
@given(graphs())
def test_an_ap_hears_as_many_rounds_as_it_is_away_from_the_farthest(graph: Graph) -> None:
    """From a partner who is nearer to everybody a last one; from one who is as far or farther all his."""
    network = Network(graph, ALL).run()
    away = {ap: len(layers(ap, adjacency(graph, link_weights(graph)))) - 1 for ap in graph}
    rounds: dict[tuple[int, int], list[int]] = {}
    for sender, to, state in network.of(LinkState):
        rounds.setdefault((sender, to), []).append(state.round)
    for sender, entry in graph.items():
        for to in entry.links:
            assert rounds[sender, to] == list(range(1, max(away[sender], min(away[to], away[sender] + 1)) + 1))


@pytest.mark.parametrize("length", [2, 3, 5, 9])
def test_a_component_above_the_limit_is_refused_and_its_size_known_to_all(length: int) -> None:
    network = Network(chain(length), FOUR).run()
    refused = length > 4
    for ap, formation in network.formations.items():
        assert formation.complete
        assert formation.size == length
        assert formation.members == ({ap} if refused else set(range(length)))
        assert bool(formation.blocks) == (not refused)
    assert not (refused and network.of(ClusterBlock))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_entries_go_round(count: int) -> None:
    rng = np.random.default_rng(count)
    given_ = [Entry(ap, tuple(range(ap)), {p: float(rng.random()) for p in range(10, 10 + ap)}) for ap in range(count)]
    state = decode(encode(link_state(4, 9, 2, reversed(given_))))
    assert isinstance(state, LinkState)
    assert entries_of(state) == given_


# --- what may go wrong -------------------------------------------------------------------------------------


@LIMITS
@LAW
@given(graph=graphs(), seed=st.integers(0, 2**32), lost=st.integers(0, 200))
def test_if_a_message_is_lost_whoever_is_complete_is_so_rightly(
    config: Config, graph: Graph, seed: int, lost: int
) -> None:
    network = Network(graph, config, np.random.default_rng(seed), lost).run()
    for ap, formation in network.formations.items():
        if formation.members is not None:
            assert formation.members == network.clusters()[ap]
        assert formation.complete <= (set(formation.blocks) == network.clusters()[ap] - {ap})


def state(sender: int, number: int, *entries: Entry) -> LinkState:
    return link_state(4, sender, number, entries)


def begun() -> Formation:
    """AP 0 of the chain 0-1-2, with nobody's message yet."""
    formation = Formation(0, 4, THREE)
    network = Network(chain(3), THREE)
    formation.begin(chain(3)[0], teller(0), {1: network.block(1, 0)})
    return formation


@pytest.mark.parametrize("number", [3, 100])
def test_a_round_that_there_cannot_be_yet_is_refused(number: int) -> None:
    with pytest.raises(RefusedError):
        begun().on_state(state(1, number))


def test_before_an_ap_knows_its_links_only_the_first_round_can_have_come() -> None:
    formation = Formation(0, 4, THREE)
    assert formation.on_state(state(1, 1, chain(4)[1])) == []
    with pytest.raises(RefusedError):
        formation.on_state(state(1, 2))


def test_a_stranger_says_nothing_about_the_links() -> None:
    formation = begun()
    assert formation.on_state(state(2, 1, Entry(2, (), {}), Entry(1, (), {}))) == []
    assert formation.members is None


def test_nobody_can_park_more_blocks_than_a_cluster_has_aps() -> None:
    formation = begun()
    for owner in range(1, 4):
        formation.on_block(cluster_block(1, owner, (0,)))
    with pytest.raises(RefusedError):
        formation.on_block(cluster_block(1, 9, (0,)))


def test_a_block_counts_only_if_it_comes_from_where_it_must_and_is_about_the_ues_that_its_owner_serves() -> None:
    formation = begun()
    graph = chain(3)
    for number in (1, 2):
        formation.on_state(state(1, number, graph[number]))
    assert formation.members == {0, 1, 2}
    good = cluster_block(1, 2, (0, 1, 2))
    for bad in (
        cluster_block(2, 2, (0, 1, 2)),  # 1 is between
        cluster_block(1, 3, (0, 1, 2)),  # not in this cluster
        cluster_block(1, 2, (0, 1)),
    ):
        assert formation.on_block(bad) == []
        assert formation.blocks == {}
    formation.on_block(good)
    assert list(formation.blocks) == [2]


def test_a_block_counts_although_ues_of_the_cluster_are_out_of_its_owners_reach() -> None:
    formation = begun()
    graph = chain(3)
    for number in (1, 2):
        formation.on_state(state(1, number, graph[number]))
    formation.on_block(cluster_block(1, 2, (2,)))
    assert list(formation.blocks) == [2]


def test_somebody_who_names_a_partner_that_never_speaks_leaves_the_others_waiting_not_wrong() -> None:
    """AP 1 believes in a link with 9, which does not: nobody has the whole graph, and at the deadline all are alone."""
    graph = {ap: Entry(ap, (ap,), dict(entry.links)) for ap, entry in chain(3).items()}
    graph[1] = Entry(1, (1,), {**graph[1].links, 9: 1e-12})
    formation = Formation(0, 4, THREE)
    formation.begin(graph[0], teller(0), {1: Network(chain(3), THREE).block(1, 0)})
    for number, entries in enumerate(([graph[1]], [graph[2]], [], []), start=1):
        assert not formation.complete
        formation.on_state(state(1, number, *entries))
    assert formation.members is None


def test_liars_cannot_make_an_ap_say_more_than_a_frame_holds() -> None:
    """All APs serving all UEs is more than there are; what is too much is not believed, and so not passed on."""
    formation = Formation(0, 4, ALL)
    blocks = {n: told(n, (0,)) for n in (1, 2)}
    formation.begin(Entry(0, (0,), {1: 1e-12, 2: 1e-12}), teller(0), blocks)
    lies = [Entry(ap, tuple(range(NUM_UES)), {20: 1e-12}) for ap in range(1, 20)]
    formation.on_state(link_state(4, 1, 1, lies))
    out = formation.on_state(link_state(4, 2, 1, lies))
    assert [to for to, _ in out] == [1, 2]
    for _, message in out:
        assert isinstance(message, LinkState)
        assert 0 < len(message.serves) <= RADIO.max_services
