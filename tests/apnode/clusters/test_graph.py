"""Laws of dividing a graph of agreed links into clusters."""

from itertools import combinations
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from apnode.clusters.graph import Entry, adjacency, closed, layers, link_weights, partition, tree

LAW = settings(derandomize=True, deadline=None, max_examples=100)
Weights = dict[tuple[int, int], float]
Links = tuple[list[int], Weights]


@st.composite
def networks(draw: st.DrawFn) -> Links:
    """APs and weighted links between them; few different weights, so that there are ties."""
    aps = draw(st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True))
    possible = [(min(pair), max(pair)) for pair in combinations(aps, 2)]
    links = draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    return aps, {link: draw(st.sampled_from([1e-12, 2e-12, 3e-12, 5e-11])) for link in links}


def reached(root: int, aps: list[int], weights: Weights) -> set[int]:
    return set().union(*layers(root, adjacency(aps, weights)))


# --- partition ---------------------------------------------------------------------------------------------


@LAW
@given(networks(), st.integers(1, 13))
def test_clusters_are_disjoint_and_cover_everybody_within_the_cap(network: Links, cap: int) -> None:
    aps, weights = network
    clusters = set(partition(aps, weights, cap).values())
    assert sorted(ap for cluster in clusters for ap in cluster) == sorted(aps)
    assert all(len(cluster) <= cap for cluster in clusters)
    assert all(ap in cluster for ap, cluster in partition(aps, weights, cap).items())


@LAW
@given(networks(), st.integers(1, 13), st.randoms())
def test_everybody_finds_the_same_clusters(network: Links, cap: int, order: Random) -> None:
    """In whatever order one has learnt of the APs and links."""
    aps, weights = network
    shuffled = list(weights.items())
    order.shuffle(shuffled)
    assert partition(aps[::-1], dict(shuffled), cap) == partition(aps, weights, cap)


@LAW
@given(networks(), st.integers(1, 13))
def test_links_inside_a_cluster_connect_it(network: Links, cap: int) -> None:
    aps, weights = network
    for cluster in set(partition(aps, weights, cap).values()):
        assert reached(min(cluster), sorted(cluster), weights) == cluster


@LAW
@given(networks(), st.integers(2, 13))
def test_the_heaviest_link_is_inside_a_cluster(network: Links, cap: int) -> None:
    aps, weights = network
    if weights:
        one, other = min(weights, key=lambda link: (-weights[link], link))
        assert other in partition(aps, weights, cap)[one]


@LAW
@given(networks(), st.integers(1, 13))
def test_no_link_joins_two_clusters_that_could_be_one(network: Links, cap: int) -> None:
    aps, weights = network
    cluster = partition(aps, weights, cap)
    for one, other in weights:
        assert cluster[one] is cluster[other] or len(cluster[one]) + len(cluster[other]) > cap


@LAW
@given(networks())
def test_without_a_cap_clusters_are_the_connected_components(network: Links) -> None:
    aps, weights = network
    assert partition(aps, weights, len(aps)) == {ap: reached(ap, aps, weights) for ap in aps}


@LAW
@given(networks())
def test_a_cap_of_two_is_greedy_matching(network: Links) -> None:
    aps, weights = network
    matched: dict[int, int] = {}
    for one, other in sorted(weights, key=lambda link: (-weights[link], link)):
        if one not in matched and other not in matched:
            matched |= {one: other, other: one}
    assert partition(aps, weights, 2) == {ap: {ap, matched.get(ap, ap)} for ap in aps}


def test_a_chain_is_cut_where_it_is_weakest() -> None:
    chain = {(0, 1): 5.0, (1, 2): 4.0, (2, 3): 1.0, (3, 4): 4.0, (4, 5): 5.0}
    assert set(partition(range(6), chain, 3).values()) == {frozenset({0, 1, 2}), frozenset({3, 4, 5})}


# --- trees -------------------------------------------------------------------------------------------------


@LAW
@given(networks())
def test_a_tree_reaches_everybody_once_over_links_by_a_shortest_way(network: Links) -> None:
    aps, weights = network
    adjacent = adjacency(aps, weights)
    for root in aps:
        away = {ap: distance for distance, layer in enumerate(layers(root, adjacent)) for ap in layer}
        parents = tree(root, adjacent)
        assert set(parents) == set(away) - {root}
        for ap, parent in parents.items():
            assert (min(ap, parent), max(ap, parent)) in weights
            assert away[parent] == away[ap] - 1
            assert not [near for near in adjacent[ap] if near < parent and away[near] == away[parent]]


# --- the graph --------------------------------------------------------------------------------------------


def test_a_link_weighs_what_both_ends_suffer_and_needs_both() -> None:
    graph = {3: Entry(3, (), {1: 2.0, 7: 9.0}), 1: Entry(1, (), {3: 5.0}), 7: Entry(7, (), {})}
    assert link_weights(graph) == {(1, 3): 7.0}


def test_a_graph_is_closed_when_everybody_named_has_an_entry() -> None:
    ends, middle = [Entry(ap, (), {1: 1.0}) for ap in (0, 2)], Entry(1, (), {0: 1.0, 2: 1.0})
    assert closed({0: ends[0], 1: middle, 2: ends[1]})
    assert not closed({0: ends[0], 1: middle})
    assert closed({})
