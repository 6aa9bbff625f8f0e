"""How APs find their cluster: a state machine without I/O, fed by one AP's links and what its partners send.

Once all it asked have answered, an AP knows its own agreed links. Two phases follow.

1. **The link graph**, in local synchronous rounds. In round 1 an AP sends each partner a LinkState with its own
   entry: whom it serves, its partners, and how much interference its UEs report of each. When the messages of a
   round are in from all its partners, it sends what was new in them as the next round, until everybody who is named
   as a partner has an entry of his own. That is after as many rounds as the AP is links away from the farthest one;
   the partners to whom somebody is farther still get one more message, the others need none. All of a component
   then know the same graph and find the same clusters in it (see `clusters`). A component above the limit is
   refused: its APs are as without partners.
2. **The channels**, inside each cluster. An AP sends its estimates for all UEs of the cluster as a ClusterBlock; it
   travels along the breadth-first tree from its owner over the cluster's links, each AP passing it on to its
   children. Two have exchanged everything as they agreed, and say no more.

What is sent depends on who is linked, not on the order of arrival: a round is taken in as a whole, and blocks wait
until the cluster is known. Nothing is sent to somebody without an agreed link, and everything that an AP needs comes
before it transmits. What is lost is not repeated: at the slot's deadline whose cluster is incomplete precodes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from apnode.clusters.graph import Entry, adjacency, closed, components, layers, link_weights, tree
from apnode.clusters.rounds import Out, Rounds
from apnode.config import Config
from apnode.protocol.messages import ChannelBlock, ClusterBlock, LinkState
from apnode.protocol.node import refuse_unless


class Formation(Rounds[LinkState]):
    """One AP's part in forming the clusters of one slot."""

    def __init__(self, ap: int, slot: int, config: Config) -> None:
        super().__init__(ap, slot)
        self._limit = config.cooperation.max_cluster_aps
        self._max_services = config.radio.max_services
        self._tell: Callable[[Iterable[int]], ChannelBlock]
        self._graph: dict[int, Entry] = {}
        self._early: dict[tuple[int, int], ClusterBlock] = {}  # by owner and sender, before the cluster is known
        self._trees: dict[int, dict[int, int]] = {}  # by owner

    @property
    def complete(self) -> bool:
        return self.members is not None and self.members == {self._ap, *self.blocks}

    def begin(
        self, own: Entry, tell: Callable[[Iterable[int]], ChannelBlock], links: Mapping[int, ChannelBlock]
    ) -> Out:
        self._links, self._tell, self._round = links, tell, 1
        self._graph[self._ap] = own
        return [(partner, self._state([own])) for partner in sorted(links)] + self._take_in_rounds()

    # --- the link graph -----------------------------------------------------------------------------------

    def on_state(self, state: LinkState) -> Out:
        """A partner's message of a round; nobody is more than one round ahead of his partners."""
        self._park(state, self._round + 1)
        return self._take_in_rounds()

    def _take_in_rounds(self) -> Out:
        out: Out = []
        while self.begun and self.members is None and all((self._round, n) in self._states for n in self._links):
            news = self._learn([self._states.pop((self._round, partner)) for partner in sorted(self._links)])
            self._round += 1
            known = closed(self._graph)
            out += [(n, self._state(news)) for n in (self._behind() if known else sorted(self._links))]
            if known:
                out += self._find_cluster()
        return out

    def _learn(self, states: Iterable[LinkState]) -> list[Entry]:
        """Take in a round; returns what was new in it. All of it fits a frame, or somebody lies and is not heard."""
        services = sum(len(entry.ues) for entry in self._graph.values())
        news = []
        for entry in (entry for state in states for entry in entries_of(state)):
            services += len(entry.ues) if entry.ap not in self._graph else 0
            if entry.ap not in self._graph and services <= self._max_services:
                self._graph[entry.ap] = entry
                news.append(entry)
        return news

    def _behind(self) -> list[int]:
        """Partners who are farther from somebody than this AP is, and so do not know the graph yet."""
        adjacent = adjacency(self._graph, link_weights(self._graph))
        own = len(layers(self._ap, adjacent))
        return [partner for partner in sorted(self._links) if len(layers(partner, adjacent)) > own]

    def _state(self, entries: Iterable[Entry]) -> LinkState:
        return link_state(self._slot, self._ap, self._round, entries)

    # --- the cluster --------------------------------------------------------------------------------------

    def _find_cluster(self) -> Out:
        """The link graph is known, and so is who is with whom."""
        weights = link_weights(self._graph)
        mine = components(self._graph, weights)[self._ap]
        self.size = len(mine)
        self.members = mine if self.size <= self._limit else frozenset({self._ap})
        if len(self.members) <= 2:
            self.blocks = {member: self._links[member] for member in self.members if member != self._ap}
            return []
        adjacent = adjacency(self.members, weights)
        self._trees = {owner: tree(owner, adjacent) for owner in self.members}
        told = self._tell(tuple(sorted({ue for member in self.members for ue in self._graph[member].ues})))
        own = ClusterBlock(self._slot, self._ap, self._ap, told.ues, told.h_hat, told.rho, told.untold)
        out = self._pass_on(own)
        for at in sorted(self._early):
            out += self._take_in_block(self._early[at])
        return out

    def on_block(self, block: ClusterBlock) -> Out:
        if self.members is not None:
            return self._take_in_block(block)
        from_there = sum(sender == block.ap for _, sender in self._early)
        refuse_unless(from_there < self._limit, "blocks of more APs than a cluster may have")
        self._early[block.owner, block.ap] = block
        return []

    def _take_in_block(self, block: ClusterBlock) -> Out:
        if self._trees.get(block.owner, {}).get(self._ap) != block.ap:
            return []
        if not {*block.ues} >= {*self._graph[block.owner].ues}:  # of the others as many as the owner has in reach
            return []
        self.blocks[block.owner] = block
        return self._pass_on(replace(block, ap=self._ap))

    def _pass_on(self, block: ClusterBlock) -> Out:
        children = [ap for ap, parent in self._trees[block.owner].items() if parent == self._ap]
        return [(child, block) for child in sorted(children)]


def link_state(slot: int, sender: int, number: int, entries: Iterable[Entry]) -> LinkState:
    """The message of a round that carries some entries."""
    known = sorted(entries, key=lambda entry: entry.ap)
    links = [(entry.ap, partner, power) for entry in known for partner, power in sorted(entry.links.items())]
    return LinkState(
        slot=slot,
        ap=sender,
        round=number,
        known=tuple(entry.ap for entry in known),
        links=np.array([link[:2] for link in links], int).reshape(-1, 2),
        interference=np.array([power for *_, power in links]),
        serves=np.array([(entry.ap, ue) for entry in known for ue in entry.ues], int).reshape(-1, 2),
    )


def entries_of(state: LinkState) -> list[Entry]:
    """The entries that a message carries."""
    links: dict[int, dict[int, float]] = {ap: {} for ap in state.known}
    ues: dict[int, list[int]] = {ap: [] for ap in state.known}
    for (ap, partner), power in zip(state.links.tolist(), state.interference.tolist(), strict=True):
        links[ap][partner] = power
    for ap, ue in state.serves.tolist():
        ues[ap].append(ue)
    return [Entry(ap, tuple(ues[ap]), links[ap]) for ap in state.known]
