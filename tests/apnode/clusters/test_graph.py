"""Laws of a graph of agreed links and its components."""

from itertools import combinations
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from apnode.clusters.graph import Entry, adjacency, closed, components, layers, link_weights, tree

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


# --- components --------------------------------------------------------------------------------------------


@LAW
@given(networks())
def test_components_are_disjoint_and_cover_everybody(network: Links) -> None:
    aps, weights = network
    clusters = set(components(aps, weights).values())
    assert sorted(ap for cluster in clusters for ap in cluster) == sorted(aps)
    assert all(ap in cluster for ap, cluster in components(aps, weights).items())


@LAW
@given(networks(), st.randoms())
def test_everybody_finds_the_same_components(network: Links, order: Random) -> None:
    """In whatever order one has learnt of the APs and links."""
    aps, weights = network
    shuffled = list(weights)
    order.shuffle(shuffled)
    assert components(aps[::-1], shuffled) == components(aps, weights)


@LAW
@given(networks())
def test_links_inside_a_component_connect_it(network: Links) -> None:
    aps, weights = network
    for cluster in set(components(aps, weights).values()):
        assert reached(min(cluster), sorted(cluster), weights) == cluster


@LAW
@given(networks())
def test_a_component_is_all_that_links_reach(network: Links) -> None:
    aps, weights = network
    assert components(aps, weights) == {ap: reached(ap, aps, weights) for ap in aps}


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
