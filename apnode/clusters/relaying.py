"""How APs that serve a UE find whom they are linked to over several links, and get their channels.

Each UE has a graph: the agreed links between APs that both serve it. Who is in one connected component of it precodes
jointly for this UE. A component has at most `max_serving_aps` APs, so that it does not percolate, and one AP may be in
different ones for each of its UEs.

1. **Own entries.** Once all it asked have answered, an AP knows its agreed links and, from the blocks, whom its
   partners serve: so, for each of its UEs, the partners that serve it too. Who has no UE in common takes no part.
2. **Rounds.** Entries spread inside their component, in local synchronous rounds. In round r an AP gets the entries
   of those who are r links away in the UE's graph, each through one neighbour: its parent in the breadth-first tree
   from the entry's owner. The first round is one's own entry, to all who take part. Both ends know what is due:
   - who gets it knows, after round r - 1, the entries of all up to r - 1 links away. They name all who are r away,
     and hold every link of the shortest paths there, and so the first step of each;
   - who sends it is r - 1 links away from the owner, and knows all entries that far. On a path of up to r - 1 links
     to the owner from the receiver, or from a neighbour of it, all APs but the last but one have an entry there: all
     links of such paths are known, and so is whether the receiver is nearer than r, or nearer by a lower id.
   So an AP waits for exactly the neighbours that have something for it, and no message is empty. When no entry is
   missing, it knows its components; that is after as many rounds as its farthest member is away.
3. **Channels.** With the first entry of an owner that an AP passes on to a neighbour go the owner's channels, as the
   first of its partners on the way got them in a ChannelBlock. Owner and receiver have no link (they would be
   neighbours in the UE's graph), so nobody is told what he got as he agreed. Owners who come through two neighbours,
   for different UEs, come twice: those of the earlier round count, of the lower id in the same one.
4. **Ages.** Estimates say how late they are. Their owner does not know, so each message of a round tells the receiver
   the age of its own. Thus all in a component know the ages of all, and precode a block with the newest estimates
   that all have.

What is sent depends on who is linked, not on the order of arrival: a round is taken in as a whole. A partner who waits
for others may be rounds behind; what is for later waits. What is lost is not repeated: at the slot's deadline whose
components are incomplete precodes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from apnode.clusters.graph import Adjacency, Entry, adjacency, parent
from apnode.clusters.rounds import Out, Rounds
from apnode.config import Config
from apnode.protocol.messages import ChannelBlock, ClusterBlock, CommonLinks
from apnode.protocol.node import refuse_unless
from apnode.radio.precoding import spent_on

Entries = dict[tuple[int, int], frozenset[int]]  # (UE, AP that serves it) -> its partners that serve it too


class Relaying(Rounds[CommonLinks]):
    """One AP's part in finding, in one slot, with whom it precodes for each of its UEs."""

    def __init__(self, ap: int, slot: int, config: Config) -> None:
        super().__init__(ap, slot)
        self._most = config.radio.most_serving_aps
        self._graphs: dict[int, dict[int, frozenset[int]]] = {}  # UE -> AP -> partners; UEs with a partner only
        self._due: list[tuple[int, int, int]] = []  # in this round: neighbour, UE and AP whose entry comes through it
        self._came: dict[tuple[int, int], ClusterBlock] = {}  # by owner and sender
        self._passed: set[tuple[int, int]] = set()  # owner, and neighbour who has got its channels from here

    @property
    def complete(self) -> bool:
        return self.begun and not self._due

    def begin(
        self, own: Entry, tell: Callable[[Iterable[int]], ChannelBlock], links: Mapping[int, ChannelBlock]
    ) -> Out:
        for ue in own.ues:
            serving = [partner for partner in sorted(links) if spent_on(links[partner], ue) > 0]
            if serving:  # of those who claim to, no more than can
                self._graphs[ue] = {self._ap: frozenset(serving[: self._most - 1])}
        part = {partner for graph in self._graphs.values() for partner in graph[self._ap]}
        self._links = {partner: links[partner] for partner in sorted(part)}
        self.blocks.update(self._links)
        self._round = 1
        return self._go_on([(ue, self._ap) for ue in self._graphs]) + self._take_in_rounds()

    def on_state(self, state: CommonLinks) -> Out:
        """A neighbour's message of a round; who waits for nobody else may be ahead, but not before it has heard us."""
        self._park(state, self._most - 1 if self.begun else 1)
        return self._take_in_rounds()

    def on_block(self, block: ClusterBlock) -> Out:
        refuse_unless(self.begun, "channels from somebody who cannot know that they are for us")
        from_there = sum(sender == block.ap for _, sender in self._came)
        refuse_unless(from_there < self._most * len(self._graphs), "blocks of more APs than serve our UEs")
        if block.ap in self._links:
            self._came[block.owner, block.ap] = block
        return self._take_in_rounds()

    def _take_in_rounds(self) -> Out:
        out: Out = []
        while self._due and all(self._has_come(*due) for due in self._due):
            news = self._learn()
            self._round += 1
            out += self._go_on(news)
        return out

    def _has_come(self, neighbour: int, ue: int, ap: int) -> bool:
        told = (self._round, neighbour) in self._states
        return told and (ap == neighbour or (ap, neighbour) in self._came)

    def _learn(self) -> list[tuple[int, int]]:
        """Take in a round; returns UE and AP of what was new. No more than fits a frame, whatever is claimed."""
        states = {neighbour: self._states[self._round, neighbour] for neighbour, *_ in self._due}
        told = {neighbour: entries_of(state) for neighbour, state in states.items()}
        self.own_age = max([self.own_age, *(state.age for state in states.values())])
        news = []
        for neighbour, ue, ap in self._due:
            if (ue, ap) in told[neighbour] and len(self._graphs[ue]) < self._most:
                self._graphs[ue][ap] = told[neighbour][ue, ap]
                news.append((ue, ap))
                if ap != neighbour:
                    self.blocks.setdefault(ap, self._came[ap, neighbour])
        return news

    def _go_on(self, news: Iterable[tuple[int, int]]) -> Out:
        """A round begins with what the last one brought: pass it on, and see what is still to come."""
        near = {ue: _both_ways(graph) for ue, graph in self._graphs.items()}
        due: dict[int, Entries] = {}  # by neighbour
        for ue, ap in news:
            for child in (n for n in near[ue][self._ap] - {ap} if parent(n, ap, near[ue]) == self._ap):
                due.setdefault(child, {})[ue, ap] = self._graphs[ue][ap]
        missing = ((ue, ap) for ue, graph in self._graphs.items() for ap in near[ue].keys() - graph.keys())
        self._due = sorted((parent(self._ap, ap, near[ue]), ue, ap) for ue, ap in missing)
        if not self._due:
            self._settle()
        return [message for child in sorted(due) for message in self._message(child, due[child])]

    def _message(self, child: int, entries: Entries) -> Out:
        """What goes to a neighbour in a round: entries, and channels of owners whose entry it did not get before."""
        links = common_links(self._slot, self._ap, self._round, entries, self._links[child].age)
        out: Out = [(child, links)]
        for owner in sorted({ap for _, ap in entries} - {self._ap}):
            if (owner, child) not in self._passed:
                self._passed.add((owner, child))
                told = self.blocks[owner]
                block = ClusterBlock(self._slot, self._ap, owner, told.ues, told.h_hat, told.rho, told.untold, told.age)
                out.append((child, block))
        return out

    def _settle(self) -> None:
        """Nothing is missing: each UE's graph, as far as it is known, is the component that this AP is in."""
        self.groups = {ue: graph.keys() - {self._ap} for ue, graph in self._graphs.items()}
        self.members = frozenset({self._ap, *self.blocks})
        self.size = len(self.members)


def _both_ways(graph: Mapping[int, frozenset[int]]) -> Adjacency:
    """Who is linked with whom in a UE's graph, by what either says; also those who are named, but have no entry yet."""
    links = [(ap, partner) for ap, partners in graph.items() for partner in partners]
    return adjacency({end for link in links for end in link}, links)


def common_links(slot: int, sender: int, number: int, entries: Entries, age: int = 0) -> CommonLinks:
    """The message of a round that carries some entries, and the age of the receiver's estimates."""
    links = [(ue, ap, partner) for (ue, ap), partners in sorted(entries.items()) for partner in sorted(partners)]
    return CommonLinks(slot, sender, number, np.array(links, np.uint16).reshape(-1, 3), age)


def entries_of(message: CommonLinks) -> Entries:
    """The entries that a message carries."""
    partners: dict[tuple[int, int], set[int]] = {}
    for ue, ap, partner in message.links.tolist():
        partners.setdefault((ue, ap), set()).add(partner)
    return {at: frozenset(of) for at, of in partners.items()}
