"""What comes of the streams that an AP sends, beside what it expected: all that agents which find out about APs share.

Of each stream that it sends, alone or with others, an AP knows how strong it should be at its UE, and at others
(`Prospects`). How strong it is the UEs report: nobody needs to know what they would have got otherwise. `Seen` gathers
that over an episode; `Watcher` asks for links by what APs have found out, and tells neighbours of itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from apnode.agent.forecast import Links, gains_along, prospects_of
from apnode.agent.prospects import Group, Partition, Prospects
from apnode.agent.surroundings import Surroundings
from apnode.agent.view import View
from apnode.config import Config
from apnode.protocol.messages import LEVELS_PER_DB, SILENT, Association, FloatArray, IntArray, SlotFeedback
from apnode.protocol.state import Layout, State, refuse_other

# of how strong a stream is at its UE, and at others [(bit/s/Hz)^2]: measured
MODEL_VARIANCE = np.array([0.2, 0.4])  # by the forecast's draws, the same in all slots
SLOT_VARIANCE = np.array([0.4, 0.8])  # by what users report in a slot
SEEN: Layout = {  # of S streams that up to G groups send
    "episode": (np.int64, ()),
    "seen.ue": (np.int64, ("S",)),
    "seen.groups": (np.int64, ("S", "G")),
    "seen.slots": (np.int64, ("S",)),
    "seen.level": (np.float64, ("S", 2)),
}


@dataclass
class Scene:
    """A layout, as far as an AP knows it, and what it makes of it."""

    association: Association
    around: Surroundings
    prospects: dict[int, Prospects]  # of its own UEs, by id
    known: FloatArray  # (1 + N, ...) of the AP itself and its neighbours
    links: dict[int, Links] = field(default_factory=dict)  # that join a UE's APs, by UE
    gains: FloatArray = field(default_factory=lambda: np.zeros(0))  # (N,) what links are worth [bit/s/Hz]


class Watcher(ABC):
    """An AP that asks where the forecast pays, in the light of what is known of it and its neighbours.

    Unless it is to learn no more it learns at the end of an episode, from what came of its streams.
    """

    width: ClassVar[int]  # how many numbers it tells of itself
    layout: ClassVar[Layout]  # of what it has learned, "own", and of what else it must not forget

    def __init__(self, ap: int, config: Config, at_first: FloatArray, learned: FloatArray | None) -> None:
        """Begin with what an AP knows at first, or with all that it has learned and is to act on."""
        self.learns = learned is None
        self.learned = at_first if learned is None else learned
        self._ap, self._config, self._seen = ap, config, Seen(config)
        self._told: dict[int, FloatArray] = {}  # by AP, itself among them: what it said last of itself
        self._scene: Scene | None = None

    def act(self, view: View) -> int:
        """As `Policy` has it; the observation is (R,) how fast the channels of UEs in the AP's reach change."""
        gains = self.gains(view.observation, view.association)
        return int((gains > self._config.cooperation.link_price) @ 2 ** np.arange(len(gains)))

    def worth(self, view: View) -> FloatArray:
        """(N,) what each link promises [bit/s/Hz]."""
        return self.gains(view.observation, view.association)

    def least(self) -> float:
        """The price of a link."""
        return self._config.cooperation.link_price

    def gains(self, change: FloatArray, association: Association) -> FloatArray:
        """(N,) what the link with each neighbour would add to the sum rate [bit/s/Hz].

        Args:
            change: (R,) how fast the channels of UEs in its reach change, as it has seen it.
            association: what it has been told, with what is around it.
        """
        scene = self._scene
        if scene is None or scene.association is not association:
            around = Surroundings(self._ap, association, self._config.radio)
            prospects = _prospects(self._config, around, change)
            scene = self._scene = Scene(association, around, prospects, np.zeros(0))
        return self._brought_up_to_date(scene).gains

    def _brought_up_to_date(self, scene: Scene) -> Scene:
        """The layout, with all that follows from what is known."""
        known = self._known(scene.association)
        if not np.array_equal(known, scene.known):
            scene.known = known
            scene.links = {ue: self._joining(scene, of_ue) for ue, of_ue in scene.prospects.items()}
            scene.gains = self._worth(gains_along(scene.around, scene.links.values()), known)
        return scene

    @abstractmethod
    def _known(self, association: Association) -> FloatArray:
        """(1 + N, ...) what there is to know of the AP and its neighbours."""

    @abstractmethod
    def _joining(self, scene: Scene, prospects: Prospects) -> Links:
        """The links that join a UE's APs, by what is known."""

    def _worth(self, gains: FloatArray, known: FloatArray) -> FloatArray:
        """(N,) what links are worth that are to add (N,)."""
        return gains

    def _told_of(self, association: Association, untold: FloatArray) -> FloatArray:
        """(1 + N, ...) what the AP and its neighbours have said last of themselves; `untold` of who has not."""
        told = [self._told.get(ap, untold.ravel()) for ap in (self._ap, *association.neighbours)]
        return np.reshape(told, (len(told), *untold.shape))

    def tells(self, slot: int) -> FloatArray:
        first = self.width and slot % self._config.run.slots_per_episode == 0
        return np.asarray(self.learned.ravel() if first else np.zeros(0), np.float32)

    def credible(self, told: FloatArray) -> bool:
        return 0 < self.width == len(told) and bool((told >= 0).all())

    def hear(self, told: Mapping[int, FloatArray]) -> None:
        for ap, of_itself in told.items():
            self._told[ap] = np.minimum(of_itself.astype(float), 1)

    def observe(
        self,
        feedback: SlotFeedback,
        groups: Mapping[int, Collection[int]],
        left_out: Mapping[int, Collection[int]],
        late: bool | None = None,
    ) -> None:
        """Note how strong every stream was that this AP sent; in the last slot of an episode, conclude."""
        if self._scene is not None and self.learns:
            scene = self._brought_up_to_date(self._scene)
            if self._seen.note(scene, feedback, groups, left_out):
                self._conclude(scene)

    @abstractmethod
    def _conclude(self, scene: Scene) -> None:
        """Learn from what was seen in an episode."""

    def state(self) -> State:
        """Copies of all that it has found out and been told."""
        told = np.reshape([*self._told.values()], (len(self._told), self.width)).astype(float)
        aps = np.array([*self._told], np.int64)
        return {"own": self.learned.copy(), "told.ap": aps, "told.values": told, **self._seen.state()}

    def restore(self, state: State) -> None:
        """Take over what `state` gave.

        Raises:
            StateError: if it is not of this policy; nothing has changed then.
        """
        told: Layout = {"told.ap": (np.int64, ("T",)), "told.values": (np.float64, ("T", self.width))}
        refuse_other(state, {**self.layout, **told, **SEEN})
        self.learned = state["own"].copy()
        self._told = dict(zip(state["told.ap"].tolist(), state["told.values"].copy(), strict=True))
        self._seen.restore(state)


def _prospects(config: Config, around: Surroundings, change: FloatArray) -> dict[int, Prospects]:
    """Of an AP's UEs. To an AP that remembers no estimates of earlier blocks none come late, however fast UEs move."""
    of_all = around.of_all(change)
    return prospects_of(config, around, of_all if config.cooperation.history_blocks else np.zeros_like(of_all))


class Seen:
    """How strong each stream was that an AP sent in an episode, by who sent it in which groups."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._episode = -1
        self._streams: dict[tuple[int, Partition], tuple[int, FloatArray]] = {}  # slots, sum of the levels (2,)

    def note(
        self,
        scene: Scene,
        feedback: SlotFeedback,
        groups: Mapping[int, Collection[int]],
        left_out: Mapping[int, Collection[int]],
    ) -> bool:
        """Take in what UEs report, as `Observer` has it; returns whether the episode is over with this slot."""
        episode = feedback.slot // self._config.run.slots_per_episode
        if episode != self._episode:
            self._episode, self._streams = episode, {}
        if scene.association.episode == episode:  # not so where the AP is without neighbours now
            for ue, level in stream_levels(self._config, scene.association.ues, feedback).items():
                sent = _sent(scene, ue, feedback, groups.get(ue, ()), left_out.get(ue, ()))
                if sum(sent) & scene.prospects[ue].group_of([0]):
                    slots, total = self._streams.get((ue, sent), (0, np.zeros(2)))
                    self._streams[ue, sent] = slots + 1, total + level
        return (feedback.slot + 1) % self._config.run.slots_per_episode == 0

    def taken(self) -> Iterator[tuple[int, Partition, int, FloatArray]]:
        """UE, who sent to it in which groups, in how many slots, and the mean level (2,); and forget all of it."""
        streams, self._streams = self._streams, {}
        for (ue, sent), (slots, total) in streams.items():
            yield ue, sent, slots, total / slots

    def state(self) -> State:
        """Copies of all, as SEEN."""
        streams = [*self._streams.items()]
        return {
            "episode": np.array(self._episode),
            "seen.ue": np.array([ue for (ue, _), _ in streams], np.int64),
            "seen.groups": _padded([sent for (_, sent), _ in streams]),
            "seen.slots": np.array([slots for _, (slots, _) in streams], np.int64),
            "seen.level": np.array([total for _, (_, total) in streams], float).reshape(-1, 2),
        }

    def restore(self, state: State) -> None:
        """Take over what `state` gave."""
        self._episode = int(state["episode"])
        sent = [tuple(group for group in groups if group) for groups in state["seen.groups"].tolist()]
        seen = zip(state["seen.slots"].tolist(), state["seen.level"].copy(), strict=True)
        self._streams = dict(zip(zip(state["seen.ue"].tolist(), sent, strict=True), seen, strict=True))


def _padded(partitions: Sequence[Partition]) -> IntArray:
    """(S, G) the groups of partitions, 0 pads."""
    groups = np.zeros((len(partitions), max(map(len, partitions), default=0)), np.int64)
    for of_one, partition in zip(groups, partitions, strict=True):
        of_one[: len(partition)] = partition
    return groups


def _sent(
    scene: Scene, ue: int, feedback: SlotFeedback, partners: Collection[int], left_out: Collection[int]
) -> Partition:
    """Which APs send a UE's stream in which groups, as far as this AP knows."""
    aps, association, of_ue = scene.around.aps, scene.association, scene.prospects[ue]
    singles = {aps[row]: of_ue.group_of([row]) for row in of_ue.members if aps[row] not in left_out}
    if len(feedback.group):
        at = association.ues.index(ue)
        return _as_reported(singles, association.served_by[at].tolist(), feedback.group[at].tolist())
    own = sum(single for ap, single in singles.items() if ap == aps[0] or ap in partners)
    return _as_expected(singles.values(), own, [of_ue.group_of(link) for link in scene.links[ue]])


def _as_reported(singles: Mapping[int, Group], aps: Sequence[int], first: Sequence[int]) -> Partition:
    """Who of a UE's APs sends to it with whom, as the UE reports it.

    Args:
        singles: by AP that is to transmit to it, itself as a group.
        aps: the UE's, in order, NOBODY pads.
        first: of each the place of the first with which it precodes, as in SlotFeedback.
    """
    groups: dict[int, Group] = {}
    for ap, place in zip(aps, first, strict=True):
        if place != SILENT and ap in singles:
            groups[place] = groups.get(place, 0) | singles[ap]
    return tuple(sorted(groups.values(), key=lambda group: group & -group))


def _as_expected(singles: Collection[Group], own: Group, links: Collection[Group]) -> Partition:
    """One's own group, and the others as they are expected to be joined: where UEs do not report it."""
    others = [single for single in singles if not single & own]
    for link in links:
        joined = [group for group in others if group & link]
        if sum(joined) & link == link:
            others = [sum(joined), *(group for group in others if not group & link)]
    return (own, *others)


def stream_levels(config: Config, ues: Collection[int], feedback: SlotFeedback) -> dict[int, FloatArray]:
    """(2,) of every own stream how strong it is, as `Prospects.heard` has it: l_k, and the sum of l_j over other UEs.

    Levels that are too low to be reported count as none.
    """
    if not len(feedback.hearers):
        return {}
    over_residual_db = feedback.level / LEVELS_PER_DB - config.cooperation.residual_db
    bits, stream = np.log2(1 + 10 ** (over_residual_db / 10)), feedback.stream
    elsewhere = np.array([*ues])[stream] != feedback.heard_at
    levels = np.zeros((len(ues), 2))
    np.add.at(levels, (stream, elsewhere.astype(int)), bits)
    return dict(zip(ues, levels, strict=True))
