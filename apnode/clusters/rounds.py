"""What the ways to find a cluster have in common: own links, the round whose messages are awaited, what came early."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Generic, TypeVar

from apnode.clusters.graph import Entry
from apnode.protocol.fields import Message
from apnode.protocol.messages import ChannelBlock, ClusterBlock, CommonLinks, LinkState
from apnode.protocol.node import refuse_unless

Out = list[tuple[int, Message]]  # to AP
State = TypeVar("State", LinkState, CommonLinks)  # what is said in a round


class Rounds(ABC, Generic[State]):
    """One AP's part in finding the clusters of one slot, fed by its links and by what its partners send."""

    def __init__(self, ap: int, slot: int) -> None:
        self.size = 1  # APs in the own cluster, or in the one refused
        self.members: frozenset[int] | None = None  # of the own cluster; None until they are known
        self.blocks: dict[int, ChannelBlock | ClusterBlock] = {}  # of the other members, by AP
        self.own_age = 0  # coherence blocks by which this AP's own estimates come late to the others
        self.groups: dict[int, Collection[int]] | None = None  # UE -> with whom to precode for it, where that differs
        self._ap, self._slot = ap, slot
        self._round = 0  # the one whose messages are awaited; 0: own links are not known yet
        self._links: Mapping[int, ChannelBlock] = {}  # by partner that takes part
        self._states: dict[tuple[int, int], State] = {}  # by round and sender, not taken in yet

    @property
    def begun(self) -> bool:
        return self._round > 0

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether this AP has all that it needs of its cluster."""

    @abstractmethod
    def begin(
        self, own: Entry, tell: Callable[[Iterable[int]], ChannelBlock], links: Mapping[int, ChannelBlock]
    ) -> Out:
        """All whom this AP asked have answered.

        Args:
            own: what this AP tells the others of itself.
            tell: makes the block of its channel estimates for some UEs.
            links: the blocks of those who agreed, one at least.
        """

    @abstractmethod
    def on_state(self, state: State) -> Out:
        """A partner's message of a round."""

    @abstractmethod
    def on_block(self, block: ClusterBlock) -> Out:
        """A member's estimates, from whoever stands between it and this AP."""

    def _park(self, state: State, latest: int) -> None:
        """Keep a message until its round, at most `latest`, is taken in; a stranger's is of no interest."""
        if not self.begun or state.ap in self._links:
            refuse_unless(self._round <= state.round <= latest, "a round that there cannot be now")
            self._states[state.round, state.ap] = state
