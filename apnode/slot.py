"""What an AP knows of the slot it is in: its phase, whom it asked, who answered, and the blocks that came."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from apnode.agent.observation import absolute_gain, reward
from apnode.agent.replay import Transition
from apnode.clusters.formation import Formation
from apnode.clusters.relaying import Relaying
from apnode.clusters.rounds import Rounds
from apnode.config import Config
from apnode.episode import Episode
from apnode.protocol.messages import (
    ApReport,
    ChannelBlock,
    ClusterBlock,
    ComplexArray,
    FloatArray,
    PilotBlock,
    SlotFeedback,
)
from apnode.radio import csi


class Phase(Enum):
    """Where an AP is in a slot."""

    WAITING = "no slot is open: its pilots have not come"
    AGREEING = "the AP waits for answers of the neighbours that it asked"
    FORMING = "its links are known, its cluster is not"
    TRANSMITTED = "it has transmitted, or the slot closed without it: it waits for its UEs' and partners' reports"


@dataclass
class Slot:
    """What an AP knows of the slot it is in."""

    index: int
    episode: Episode
    h_hat: ComplexArray  # (B, L, R) own estimates, of the UEs in reach
    known: ComplexArray  # (H + B, L, R) the same, after those of up to config.cooperation.history_blocks before
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
    left_out: Mapping[int, Collection[int]] = field(
        default_factory=dict
    )  # by own UE, its APs that do not transmit to it
    partners: tuple[int, ...] = ()
    phase: Phase = Phase.AGREEING
    feedback: SlotFeedback | None = None
    gains: dict[int, float] = field(default_factory=dict)  # partners' reports
    tellers: frozenset[int] = frozenset()  # neighbours who report of themselves in this slot
    told: dict[int, FloatArray] = field(default_factory=dict)  # what they reported

    @classmethod
    def open(
        cls,
        ap: int,
        config: Config,
        pilots: PilotBlock,
        episode: Episode,
        action: int,
        suspects: tuple[int, ...],
        learned: FloatArray,
    ) -> Slot:
        """The slot that these pilots open, in which an AP asks the neighbours of an action."""
        radio, told = config.radio, episode.association
        powers = radio.pilot_power_w, radio.noise_power_w
        h_hat = csi.estimate(csi.despread(pilots.y), told.beta, told.pilots, *powers)
        return cls(
            index=pilots.slot,
            episode=episode,
            h_hat=h_hat,
            known=episode.recent.extended(pilots.slot, h_hat),
            observation=episode.observation,
            action=action,
            chosen=tuple(n for position, n in enumerate(episode.neighbours) if action >> position & 1),
            suspects=suspects,
            formation=_new_formation(ap, pilots.slot, config),
            learned=learned,
        )

    def block(self, ues: Iterable[int]) -> ChannelBlock:
        """This AP's channel estimates for some UEs, and for those that matter to it."""
        return self.episode.precoder.block(self.index, ues, self.known)

    @property
    def late(self) -> bool | None:
        """Whether partners got this AP's estimates late, as they said; None if there is none to say it."""
        return self.formation.own_age > 0 if self.formation and self.partners else None

    @property
    def transmitted(self) -> bool:
        return self.phase is Phase.TRANSMITTED

    @property
    def answered(self) -> bool:
        """Whether no neighbour that was asked is waited for."""
        return self.blocks.keys() | self.declined | self.restarted | self.doubted >= {*self.chosen}

    @property
    def unanswering(self) -> set[int]:
        """Neighbours that were asked, or were to report of themselves, and have said nothing."""
        return ({*self.chosen} - self.blocks.keys() - self.declined) | (self.tellers - self.told.keys())

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
    def groups(self) -> Mapping[int, Collection[int]]:
        """With which partners this AP has precoded for its UEs, by UE, where clusters are of one UE each."""
        return (self.formation.groups or {}) if self.formation and self.partners else {}

    @property
    def readers(self) -> set[int]:
        """Those with a link to this AP who may precode with its channels, as far as it knows."""
        if self.formation is None or self.formation.members is None:
            return self.shared
        return self.shared & self.formation.members

    def awaited(self, config: Config) -> set[int]:
        """Peers whose reports are needed before the slot is complete, and have not come."""
        partners = self.linked_partners if config.reward.scope == "neighbourhood" else set()
        tellers = self.tellers - self.told.keys() - self.doubted
        return (partners - self.gains.keys() | tellers) - self.restarted

    def reward(self, config: Config, gain: float) -> float:
        """Eq. (12) of this slot, from the relative gain of this AP's UEs."""
        gains = [gain, *(self.gains[p] for p in self.partners if p in self.gains)]
        if config.reward.gain == "absolute" and self.feedback is not None:
            gains = [absolute_gain(self.feedback)]
        asked = [position for position, n in enumerate(self.episode.neighbours) if n in self.chosen]
        return reward(config.reward, gains, self.episode.interference, asked)

    def transition(self, config: Config, earned: float) -> Transition:
        """What the slot has to teach."""
        return Transition(
            observation=self.observation,
            action=self.formed if config.forecasts else self.action,
            reward=earned,
            next_observation=self.episode.observation,
            num_actions=2 ** len(self.episode.neighbours),
            terminal=(self.index + 1) % config.run.slots_per_episode == 0,
        )

    def report(self, ap: int, gain: float, earned: float, **about: Any) -> ApReport:
        """What the coordinator is told of this slot, and the rest of the report in `about`."""
        return ApReport(
            slot=self.index,
            ap=ap,
            neighbours=self.episode.neighbours,
            requested=self.chosen,
            partners=self.partners,
            gain=gain,
            reward=earned,
            cluster_size=self.formation.size if self.formation else 1 + len(self.partners),
            suspects=self.suspects,
            **about,
        )


def _new_formation(ap: int, slot: int, config: Config) -> Rounds[Any] | None:
    """What finds the clusters of a slot, where they reach beyond an AP's own partners."""
    match config.cooperation.cluster:
        case "components":
            return Formation(ap, slot, config)
        case "serving":
            return Relaying(ap, slot, config)
        case _:
            return None
