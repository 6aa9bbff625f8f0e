"""What an AP knows: of the UE layout it is in, and of the slot it is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apnode.clusters.rounds import Rounds
from apnode.episode import Episode
from apnode.protocol.messages import (
    ChannelBlock,
    ClusterBlock,
    ComplexArray,
    FloatArray,
    SlotFeedback,
)


@dataclass
class Slot:
    """What an AP knows of the slot it is in."""

    index: int
    episode: Episode
    h_hat: ComplexArray  # (B, L, R) own estimates, of the UEs in reach
    observation: FloatArray
    action: int
    chosen: tuple[int, ...]  # neighbours asked, strongest interferer first
    suspects: tuple[int, ...]  # whom this AP does not believe
    formation: Rounds[Any] | None  # where clusters reach beyond one's own partners
    learned: FloatArray  # what partners are told of what this AP has learned
    blocks: dict[int, ChannelBlock] = field(default_factory=dict)  # by sender
    declined: set[int] = field(default_factory=set)
    restarted: set[int] = field(default_factory=set)  # peers who have forgotten this slot
    doubted: set[int] = field(default_factory=set)  # neighbours who may be gone, unheard of in this slot
    shared: set[int] = field(default_factory=set)  # whom our channel block went to
    partners: tuple[int, ...] = ()
    transmitted: bool = False
    feedback: SlotFeedback | None = None
    gains: dict[int, float] = field(default_factory=dict)  # partners' reports

    @property
    def settled(self) -> bool:
        """Whether it is too late for another link."""
        return self.transmitted or (self.formation is not None and self.formation.begun)

    @property
    def agreed(self) -> dict[int, ChannelBlock]:
        """The blocks of those who said yes, in the order of their ids."""
        return {ap: self.blocks[ap] for ap in sorted(self.blocks.keys() & {*self.chosen})}

    @property
    def cluster(self) -> Mapping[int, ChannelBlock | ClusterBlock]:
        """The blocks to precode with, by their owners, in the order of their ids."""
        if self.formation is None:
            return self.agreed
        return dict(sorted(self.formation.blocks.items())) if self.formation.complete else {}

    @property
    def linked_partners(self) -> set[int]:
        """Partners with a link to this AP, not just to another one of the cluster."""
        return self.blocks.keys() & set(self.partners)

    @property
    def formed(self) -> int:
        """The links that this AP asked for and has, as a bit mask over its neighbours."""
        linked = self.linked_partners & {*self.chosen}
        return sum(1 << position for position, n in enumerate(self.episode.neighbours) if n in linked)

    @property
    def readers(self) -> set[int]:
        """Those with a link to this AP who may precode with its channels, as far as it knows."""
        if self.formation is None or self.formation.members is None:
            return self.shared
        return self.shared & self.formation.members
