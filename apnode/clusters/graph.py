"""Who is in a cluster with whom: pure functions of the graph of agreed links, the same for whoever knows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

Graph = Mapping[int, "Entry"]  # by AP
Adjacency = Mapping[int, set[int]]


@dataclass(frozen=True)
class Entry:
    """What an AP says of itself."""

    ap: int
    ues: tuple[int, ...]  # those it serves
    links: Mapping[int, float]  # agreed partner -> interference from it, as this AP's UEs report it [W]


def closed(graph: Graph) -> bool:
    """Whether everybody whom an entry names has an entry: then this is all of a connected component."""
    return all(partner in graph for entry in graph.values() for partner in entry.links)


def link_weights(graph: Graph) -> dict[tuple[int, int], float]:
    """Links that both ends name, (lower id, higher id) -> both ends' interference from each other [W]."""
    return {
        (ap, partner): power + graph[partner].links[ap]
        for ap, entry in graph.items()
        for partner, power in entry.links.items()
        if ap < partner and partner in graph and ap in graph[partner].links
    }


def components(aps: Iterable[int], links: Iterable[tuple[int, int]]) -> dict[int, frozenset[int]]:
    """The connected components of the links between some APs: AP -> its component, itself included."""
    cluster = {ap: frozenset({ap}) for ap in aps}
    for one, other in links:
        if other not in cluster[one]:
            merged = cluster[one] | cluster[other]
            cluster |= dict.fromkeys(merged, merged)
    return cluster


def adjacency(members: Iterable[int], weights: Iterable[tuple[int, int]]) -> Adjacency:
    """The links among some APs."""
    adjacent: dict[int, set[int]] = {member: set() for member in members}
    for one, other in weights:
        if one in adjacent and other in adjacent:
            adjacent[one].add(other)
            adjacent[other].add(one)
    return adjacent


def layers(root: int, adjacent: Adjacency) -> list[set[int]]:
    """The APs that are 0, 1, 2, ... links away from one."""
    found, seen = [{root}], {root}
    while reached := {near for ap in found[-1] for near in adjacent[ap]} - seen:
        found.append(reached)
        seen |= reached
    return found


def tree(root: int, adjacent: Adjacency) -> dict[int, int]:
    """The breadth-first tree from an AP: of each other one that it reaches, the parent; the lowest id if several."""
    return {ap: min(adjacent[ap] & above) for above, layer in pairwise(layers(root, adjacent)) for ap in layer}


def parent(ap: int, root: int, adjacent: Adjacency) -> int:
    """An AP's parent in the breadth-first tree from another AP that reaches it."""
    return root if root in adjacent[ap] else tree(root, adjacent)[ap]
