"""Policy `belief`: an AP finds out how defective it is itself, from what UEs report of its streams, and says so.

No AP can see its own defects, nor those of others; what comes of its streams shows them. Of each stream that it sends,
alone or with others, an AP knows how strong it should be at its UE, and at others, (`Prospects`) if itself has certain
defects, and the others those that they believe to have. How strong it is the UEs report: nobody needs to know what they
would have got otherwise. At the end of an episode an AP weighs by that, by Bayes' rule, some cases of its own defects.
Only whether its estimates come late it need not find out: partners see their age, and say it. It tells its
neighbours the means and variances, and they tell theirs. Links are asked for as by the forecast, with every AP somewhat
less defective than it believes, as far as it is uncertain: innocent until shown otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from apnode.agent.forecast import Links, gains_along, gains_of_links, joining_links, prospects_of
from apnode.agent.prospects import LEVELS, STALENESS, Group, Partition, Prospects
from apnode.agent.surroundings import Surroundings
from apnode.config import Config
from apnode.protocol.messages import LEVELS_PER_DB, SILENT, Association, FloatArray, IntArray, SlotFeedback
from apnode.protocol.state import Layout, State, refuse_other

_STRENGTHS = (0.0, 0.3, 0.6, 0.9), (0.0, 1.0), (0.0, 0.15, 0.4, 0.7)  # of each level of `Prospects` that are weighed
_SHARE = 0.1  # chance at first that an AP has a defect of one kind, in each strength the same
_CASES: FloatArray = np.array([*itertools.product(*_STRENGTHS)])  # (W, 3)
# of how strong a stream is at its UE, and at others [(bit/s/Hz)^2]: measured
_MODEL_VARIANCE = np.array([0.2, 0.4])  # by the forecast's draws, the same in all slots
_SLOT_VARIANCE = np.array([0.4, 0.8])  # by what users report in a slot
_MOST_ERROR = 4.0  # standard deviations; a larger error counts as so large
_KEPT = 0.9  # part of what it has found out that an AP keeps from episode to episode: defects may change
_MOST_EVIDENCE = 10.0  # by which one case may be ahead of another [nat]
_CAUTION = 0.5  # standard deviations
BELIEFS: Layout = {  # of T APs, and of S streams that up to G groups send
    "own": (np.float64, (2, len(LEVELS))),
    "weights": (np.float64, (len(_CASES),)),
    "late": (np.int64, ()),
    "told.ap": (np.int64, ("T",)),
    "told.beliefs": (np.float64, ("T", 2, len(LEVELS))),
    "episode": (np.int64, ()),
    "seen.ue": (np.int64, ("S",)),
    "seen.groups": (np.int64, ("S", "G")),
    "seen.slots": (np.int64, ("S",)),
    "seen.level": (np.float64, ("S", 2)),
}


def believed_gains(
    config: Config, ap: int, association: Association, beliefs: FloatArray, change: FloatArray
) -> FloatArray:
    """(N,) what the link with each neighbour would add to the sum rate if all were as defective as they believe.

    Args:
        config: as for `link_gains`.
        ap: whose links.
        association: what it has been told, with what is around it.
        beliefs: (1 + N, 2, 3) of the AP itself and its neighbours: levels, and their variances.
        change: (R,) how fast the channels of UEs in its reach change, as it has seen it.
    """
    around = Surroundings(ap, association, config.radio)
    return gains_of_links(around, _prospects(config, around, change).values(), least(beliefs))


def _prospects(config: Config, around: Surroundings, change: FloatArray) -> dict[int, Prospects]:
    """Of an AP's UEs. To an AP that remembers no estimates of earlier blocks none come late, however fast UEs move."""
    of_all = around.of_all(change)
    return prospects_of(config, around, of_all if config.cooperation.history_blocks else np.zeros_like(of_all))


@cache
def innocent() -> FloatArray:
    """(2, 3) what an AP believes of itself at first: levels as in `Prospects`, and their variances; read-only."""
    beliefs = _moments(_prior())
    beliefs.setflags(write=False)
    return beliefs


def least(beliefs: FloatArray) -> FloatArray:
    """(..., 3) levels that APs have about at least, of beliefs (..., 2, 3)."""
    return np.asarray(np.maximum(beliefs[..., 0, :] - _CAUTION * np.sqrt(beliefs[..., 1, :]), 0))


def _prior() -> FloatArray:
    """(W,) logarithms of the chances of the cases at first."""
    kinds = [[1 - _SHARE, *[_SHARE / (len(of_kind) - 1)] * (len(of_kind) - 1)] for of_kind in _STRENGTHS]
    return np.asarray(np.log(np.prod([*itertools.product(*kinds)], axis=1)))


def _moments(weights: FloatArray) -> FloatArray:
    """(2, 3) means and variances of the levels, of logarithms (W,) of the chances of the cases, up to a constant."""
    chances = np.exp(weights - weights.max())
    chances /= chances.sum()
    mean = chances @ _CASES
    return np.stack([mean, np.maximum(chances @ _CASES**2 - mean**2, 0)])


@dataclass
class _Scene:
    """A layout, as far as an AP knows it, and what it makes of it."""

    association: Association
    around: Surroundings
    prospects: dict[int, Prospects]  # of its own UEs, by id
    told: FloatArray  # (1 + N, 2, 3) beliefs of the AP itself and its neighbours, as told
    links: dict[int, Links] = field(default_factory=dict)  # that join a UE's APs, by UE
    action: int = 0


class Believer:
    """An AP that acts on what it and its neighbours believe of themselves, and learns no more."""

    def __init__(self, ap: int, config: Config, beliefs: FloatArray | None = None) -> None:
        self.beliefs = innocent().copy() if beliefs is None else beliefs  # (2, 3) of itself
        if self.beliefs.shape != innocent().shape or not ((self.beliefs >= 0) & (self.beliefs <= 1)).all():
            raise ValueError("beliefs must be 2 x 3 numbers from 0 to 1")
        self._ap, self._config = ap, config
        self._told: dict[int, FloatArray] = {}  # by AP, itself among them: (2, 3) what it said last of itself
        self._scene: _Scene | None = None

    def act(self, observation: FloatArray, association: Association, slot: int) -> int:
        """As `Policy` has it; `observation` is (R,) how fast the channels of UEs in the AP's reach change."""
        scene = self._scene
        if scene is None or scene.association is not association:
            around = Surroundings(self._ap, association, self._config.radio)
            prospects = _prospects(self._config, around, observation)
            scene = self._scene = _Scene(association, around, prospects, np.zeros(0))
        return self._brought_up_to_date(scene).action

    def _brought_up_to_date(self, scene: _Scene) -> _Scene:
        """The layout, with all that follows from what has been told."""
        told = self._told_of(scene.association)
        if not np.array_equal(told, scene.told):
            scene.told = told
            of_ues = scene.prospects.items()
            scene.links = {ue: joining_links(scene.around, prospects, least(told)) for ue, prospects in of_ues}
            gains = gains_along(scene.around, scene.links.values())
            scene.action = int((gains > self._config.cooperation.link_price) @ 2 ** np.arange(len(gains)))
        return scene

    def _told_of(self, association: Association) -> FloatArray:
        """(1 + N, 2, 3) what the AP and its neighbours have said last of themselves."""
        return np.array([self._told.get(ap, innocent()) for ap in (self._ap, *association.neighbours)])

    def tells(self, slot: int) -> FloatArray:
        first = slot % self._config.run.slots_per_episode == 0
        return np.asarray(self.beliefs.ravel() if first else np.zeros(0), np.float32)

    def credible(self, told: FloatArray) -> bool:
        return len(told) == 2 * len(LEVELS) and bool((told >= 0).all())

    def hear(self, told: Mapping[int, FloatArray]) -> None:
        for ap, beliefs in told.items():
            self._told[ap] = np.minimum(beliefs.astype(float), 1).reshape(2, len(LEVELS))

    def observe(
        self,
        feedback: SlotFeedback,
        groups: Mapping[int, Collection[int]],
        left_out: Mapping[int, Collection[int]],
        late: bool | None = None,
    ) -> None:
        pass

    def levels(self, association: Association) -> FloatArray:
        return least(self._told_of(association))


class Belief(Believer):
    """An AP that finds out how defective it is."""

    def __init__(self, ap: int, config: Config) -> None:
        super().__init__(ap, config)
        self._weights = _prior()  # (W,) logarithms of the chances of the cases
        self._late = -1  # whether partners get its estimates late: 1 or 0; -1 before any has said it
        self._episode = -1
        self._seen: dict[tuple[int, Partition], tuple[int, FloatArray]] = {}
        # of own UEs, by who sends to them in which groups: slots, sum of the levels (2,)

    def observe(
        self,
        feedback: SlotFeedback,
        groups: Mapping[int, Collection[int]],
        left_out: Mapping[int, Collection[int]],
        late: bool | None = None,
    ) -> None:
        """Note how strong every stream was that this AP sent; in the last slot of an episode, conclude."""
        self._late = self._late if late is None else int(late)
        if self._scene is None:
            return
        scene = self._brought_up_to_date(self._scene)
        episode = feedback.slot // self._config.run.slots_per_episode
        if episode != self._episode:
            self._episode, self._seen = episode, {}
        if scene.association.episode == episode:  # not so where the AP is without neighbours now
            for ue, level in stream_levels(self._config, scene.association.ues, feedback).items():
                sent = _sent(scene, ue, feedback, groups.get(ue, ()), left_out.get(ue, ()))
                if sum(sent) & scene.prospects[ue].group_of([0]):
                    slots, total = self._seen.get((ue, sent), (0, np.zeros(2)))
                    self._seen[ue, sent] = slots + 1, total + level
        if (feedback.slot + 1) % self._config.run.slots_per_episode == 0:
            self._conclude(scene)

    def _conclude(self, scene: _Scene) -> None:
        prior = _prior()
        weights = prior + _KEPT * (self._weights - prior)
        for (ue, sent), (slots, total) in self._seen.items():
            weights += self._evidence(scene, ue, sent, slots, total / slots)
        if self._late >= 0:  # that needs no finding out
            weights = np.where((_CASES[:, STALENESS] > 0) == self._late, weights, -np.inf)
        self._weights = np.maximum(weights, weights.max() - _MOST_EVIDENCE)
        self.beliefs, self._seen = _moments(self._weights), {}

    def _evidence(self, scene: _Scene, ue: int, sent: Partition, slots: int, level: FloatArray) -> FloatArray:
        """(W,) log-likelihoods of how strong a stream (2,) was on average, of which it is known who sends it.

        The others are as defective as they are at least; what would change if one of them were so by a standard
        deviation more adds to the variance.
        """
        levels, variances = least(scene.told), scene.told[:, 1]
        members, senders = scene.prospects[ue].members, sum(sent)
        others = [row for place, row in enumerate(members) if senders >> place & 1 and row]
        cases = np.tile(levels, (len(_CASES) + len(others) + 1, 1, 1))
        cases[: len(_CASES), 0] = _CASES
        cases[range(len(_CASES), len(cases) - 1), others] += np.sqrt(variances[others])
        heard = scene.prospects[ue].heard(sent, cases)
        expected, off = heard[: len(_CASES)], heard[len(_CASES) : -1] - heard[-1]
        variance = _MODEL_VARIANCE + _SLOT_VARIANCE / slots + (off**2).sum(axis=0)
        error = ((level - expected) ** 2 / variance).sum(axis=1)
        return np.asarray(-np.minimum(error, _MOST_ERROR**2) / 2)

    def state(self) -> State:
        """Copies of all that it has found out and been told, as BELIEFS."""
        streams = [*self._seen.items()]
        return {
            "own": self.beliefs.copy(),
            "weights": self._weights.copy(),
            "late": np.array(self._late),
            "told.ap": np.array([*self._told], np.int64),
            "told.beliefs": np.array([*self._told.values()], float).reshape(-1, 2, len(LEVELS)),
            "episode": np.array(self._episode),
            "seen.ue": np.array([ue for (ue, _), _ in streams], np.int64),
            "seen.groups": _padded([sent for (_, sent), _ in streams]),
            "seen.slots": np.array([slots for _, (slots, _) in streams], np.int64),
            "seen.level": np.array([total for _, (_, total) in streams], float).reshape(-1, 2),
        }

    def restore(self, state: State) -> None:
        """Take over what `state` gave.

        Raises:
            StateError: if it is not as BELIEFS; nothing has changed then.
        """
        refuse_other(state, BELIEFS)
        self.beliefs, self._weights = state["own"].copy(), state["weights"].copy()
        self._late = int(state["late"])
        self._told = dict(zip(state["told.ap"].tolist(), state["told.beliefs"].copy(), strict=True))
        self._episode = int(state["episode"])
        sent = [tuple(group for group in groups if group) for groups in state["seen.groups"].tolist()]
        seen = zip(state["seen.slots"].tolist(), state["seen.level"].copy(), strict=True)
        self._seen = dict(zip(zip(state["seen.ue"].tolist(), sent, strict=True), seen, strict=True))


def _padded(partitions: Sequence[Partition]) -> IntArray:
    """(S, G) the groups of partitions, 0 pads."""
    groups = np.zeros((len(partitions), max(map(len, partitions), default=0)), np.int64)
    for of_one, partition in zip(groups, partitions, strict=True):
        of_one[: len(partition)] = partition
    return groups


def _sent(
    scene: _Scene, ue: int, feedback: SlotFeedback, partners: Collection[int], left_out: Collection[int]
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
