"""Policy `belief`: an AP finds out how defective it is itself, from what UEs report of its streams, and says so.

No AP can see its own defects, nor those of others; what comes of precoding together shows them. Of each stream that it
sends together with partners an AP knows what value it should have (`Prospects`), if these APs are as defective as they
say. What value it has the UEs report: nobody needs to know what they would have got otherwise. From the difference an
AP corrects its opinion of all who send the stream, in proportion to how uncertain each of them is: an extended Kalman
filter with a diagonal covariance. Once an episode it tells its neighbours what it has found out about itself, and takes
over what they say of themselves. Links are asked for as by the forecast, with every AP as defective as it is likely to
be at least: innocent until shown otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from apnode.agent.forecast import Links, gains_along, gains_of_links, joining_links, prospects_of
from apnode.agent.prospects import LEVELS, Group, Partition, Prospects
from apnode.agent.surroundings import Surroundings
from apnode.config import Config
from apnode.protocol.messages import LEVELS_PER_DB, Association, FloatArray, SlotFeedback
from apnode.protocol.state import Layout, State, refuse_other

_FIRST_VARIANCE = 0.05  # of every level
_FIRST_NOISE = 0.3  # variance of the part of a stream's value that no defect explains [(bit/s/Hz)^2]
_NOISE_WEIGHT = 0.001  # of the newest error in the running mean of that variance
_ALIKE = 0.15  # a further slot of a layout tells less by so much: the error of the forecast's draws stays the same
_DRIFT = 0.005  # growth of variances in an episode: defects may change
_MOST_ERROR = 3.0  # standard deviations; a larger error counts as so large
BELIEFS: Layout = {  # of T APs
    "own": (np.float64, (2, len(LEVELS))),
    "noise": (np.float64, ()),
    "others.ap": (np.int64, ("T",)),
    "others.told": (np.float64, ("T", 2, len(LEVELS))),
    "others.now": (np.float64, ("T", 2, len(LEVELS))),
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
    return gains_of_links(around, prospects_of(config, around, around.of_all(change)).values(), least(beliefs))


def innocent() -> FloatArray:
    """(2, 3) what an AP believes of itself at first: levels as in `Prospects`, and their variances."""
    return np.stack([np.zeros(len(LEVELS)), np.full(len(LEVELS), _FIRST_VARIANCE)])


def least(beliefs: FloatArray) -> FloatArray:
    """(..., 3) levels that APs have at least, of beliefs (..., 2, 3)."""
    return np.asarray(np.maximum(beliefs[..., 0, :] - np.sqrt(beliefs[..., 1, :]), 0))


@dataclass
class _Scene:
    """A layout, as far as an AP knows it, and what it makes of it."""

    association: Association
    around: Surroundings
    prospects: dict[int, Prospects]  # of its own UEs, by id
    told: FloatArray  # (1 + N, 2, 3) beliefs of the AP itself and its neighbours, as told
    links: dict[int, Links] = field(default_factory=dict)  # that join a UE's APs, by UE
    action: int = 0
    linear: dict[tuple[int, tuple[int, ...], Group], tuple[float, FloatArray]] = field(default_factory=dict)
    # by UE, who sends it its stream, and own group among them


class Believer:
    """An AP that acts on what it and its neighbours believe of themselves, and learns no more."""

    def __init__(self, ap: int, config: Config, beliefs: FloatArray | None = None) -> None:
        self.beliefs = innocent() if beliefs is None else beliefs  # (2, 3) of itself
        self._ap, self._config = ap, config
        self._told: dict[int, FloatArray] = {}  # by AP, itself among them: (2, 3) what it said last of itself
        self._scene: _Scene | None = None

    def act(self, observation: FloatArray, association: Association, slot: int) -> int:
        """As `Policy` has it; `observation` is (R,) how fast the channels of UEs in the AP's reach change."""
        scene = self._scene
        if scene is None or scene.association is not association:
            around = Surroundings(self._ap, association, self._config.radio)
            prospects = prospects_of(self._config, around, around.of_all(observation))
            scene = self._scene = _Scene(association, around, prospects, np.zeros(0))
        return self._brought_up_to_date(scene).action

    def _brought_up_to_date(self, scene: _Scene) -> _Scene:
        """The layout, with all that follows from what has been told."""
        told = self._told_of(scene.association)
        if not np.array_equal(told, scene.told):
            scene.told, scene.linear = told, {}
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
        self, feedback: SlotFeedback, groups: Mapping[int, Collection[int]], left_out: Mapping[int, Collection[int]]
    ) -> None:
        pass

    def levels(self, association: Association) -> FloatArray:
        return least(self._told_of(association))


class Belief(Believer):
    """An AP that finds out how defective it is."""

    def __init__(self, ap: int, config: Config) -> None:
        super().__init__(ap, config)
        self._noise = _FIRST_NOISE
        self._others: dict[int, FloatArray] = {}  # by neighbour: (2, 3) what this AP thinks of it by now

    def hear(self, told: Mapping[int, FloatArray]) -> None:
        super().hear(told)
        if told:
            self._others = {ap: beliefs.copy() for ap, beliefs in self._told.items()}
            self.beliefs[1] = np.minimum(self.beliefs[1] + _DRIFT, 1)

    def observe(
        self, feedback: SlotFeedback, groups: Mapping[int, Collection[int]], left_out: Mapping[int, Collection[int]]
    ) -> None:
        if self._scene is None:
            return
        scene = self._brought_up_to_date(self._scene)
        seen_before = feedback.slot % self._config.run.slots_per_episode
        for ue, value in stream_values(self._config, scene.association.ues, feedback).items():
            aps, silent = scene.around.aps, left_out.get(ue, ())
            sending = tuple(row for row in scene.prospects[ue].members if aps[row] not in silent)
            group = frozenset(row for row in sending if aps[row] in groups.get(ue, ()))
            if group and 0 in sending:
                self._correct(scene, ue, sending, group | {0}, value, self._noise * (1 + _ALIKE * seen_before))

    def _correct(
        self, scene: _Scene, ue: int, sending: tuple[int, ...], group: Group, value: float, noise: float
    ) -> None:
        """Correct the opinion of all APs that send a stream, one of whose groups is known, by the value it has."""
        members = [*sending]
        of_members = np.array([self._now(scene.around.aps[row]) for row in members])  # (C, 2, 3)
        (levels, variances), told = of_members.swapaxes(0, 1), scene.told[members, 0]
        expected, slopes = self._linear(scene, ue, sending, group)
        expected += float((slopes * (levels - told)).sum())
        variance = noise + float((slopes**2 * variances).sum())
        error = float(np.clip(value - expected, -_MOST_ERROR * variance**0.5, _MOST_ERROR * variance**0.5))
        levels = np.clip(levels + variances * slopes * error / variance, 0, 1)
        variances = variances - (variances * slopes) ** 2 / variance
        for row, *beliefs in zip(members, levels, variances, strict=True):
            self._now(scene.around.aps[row])[:] = beliefs
        self._noise += _NOISE_WEIGHT * (error**2 - self._noise)

    def _now(self, ap: int) -> FloatArray:
        return self.beliefs if ap == self._ap else self._others.setdefault(ap, innocent())

    def _linear(self, scene: _Scene, ue: int, sending: tuple[int, ...], group: Group) -> tuple[float, FloatArray]:
        """The value of a stream at the levels told, and its (C, 3) derivatives by those of each AP that sends it."""
        if (ue, sending, group) not in scene.linear:
            prospects, levels = scene.prospects[ue], scene.told[:, 0]
            partition = _partition(sending, group, scene.links[ue])
            slopes = [prospects.slopes(partition, levels, row) for row in sending]
            scene.linear[ue, sending, group] = float(prospects.values([partition], levels)[0]), np.array(slopes)
        return scene.linear[ue, sending, group]

    def state(self) -> State:
        """Copies of all that it has found out and been told, as BELIEFS."""
        known, shape = [*dict.fromkeys([*self._told, *self._others])], (-1, 2, len(LEVELS))
        told = [self._told.get(ap, innocent()) for ap in known]
        now = [self._others.get(ap, of_ap) for ap, of_ap in zip(known, told, strict=True)]
        return {
            "own": self.beliefs.copy(),
            "noise": np.array(self._noise),
            "others.ap": np.array(known, np.int64),
            "others.told": np.array(told, float).reshape(shape),
            "others.now": np.array(now, float).reshape(shape),
        }

    def restore(self, state: State) -> None:
        """Take over what `state` gave.

        Raises:
            StateError: if it is not as BELIEFS; nothing has changed then.
        """
        refuse_other(state, BELIEFS)
        aps = state["others.ap"].tolist()
        self.beliefs, self._noise = state["own"].copy(), float(state["noise"])
        self._told = dict(zip(aps, state["others.told"].copy(), strict=True))
        self._others = dict(zip(aps, state["others.now"].copy(), strict=True))


def _partition(members: Collection[int], group: Group, links: Collection[tuple[int, int]]) -> Partition:
    """One's own group, and the others as they are expected to be joined: what an AP is not told of them."""
    group_of = {row: frozenset([row]) for row in members if row not in group}
    for one, other in links:
        if one in group_of and other in group_of:
            merged = group_of[one] | group_of[other]
            group_of |= dict.fromkeys(merged, merged)
    return (group, *dict.fromkeys(group_of.values()))


def stream_values(config: Config, ues: Collection[int], feedback: SlotFeedback) -> dict[int, float]:
    """The value of every own stream as `Prospects` has it, 2 l_k - sum_j l_j, from the levels that UEs have reported.

    Levels that are too low to be reported count as none.
    """
    if not len(feedback.hearers):
        return {}
    over_residual_db = feedback.level / LEVELS_PER_DB - config.cooperation.residual_db
    bits, stream = np.log2(1 + 10 ** (over_residual_db / 10)), feedback.stream
    values = -np.bincount(stream, bits, minlength=len(feedback.hearers)).astype(float)
    own = np.array([*ues])[stream] == feedback.heard_at
    values[stream[own]] += 2 * bits[own]
    return dict(zip(ues, values.tolist(), strict=True))
