"""Policy `belief`: an AP finds out how defective it is itself, from what UEs report of its streams, and says so.

No AP can see its own defects, nor those of others; what comes of precoding together shows them. Of each stream that it
sends together with partners an AP knows what value it should have (`Prospects`) if itself has certain defects, and the
others those that they believe to have. What value it has the UEs report: nobody needs to know what they would have got
otherwise. At the end of an episode an AP weighs by that, by Bayes' rule, some cases of its own defects. Only whether
its estimates come late it need not find out: partners see their age, and say it. It tells its
neighbours the means and variances, and they tell theirs. Links are asked for as by the forecast, with every AP somewhat
less defective than it believes, as far as it is uncertain: innocent until shown otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from apnode.agent.forecast import Links, gains_along, gains_of_links, joining_links, prospects_of
from apnode.agent.prospects import LEVELS, STALENESS, Group, Partition, Prospects
from apnode.agent.surroundings import Surroundings
from apnode.config import Config
from apnode.protocol.messages import LEVELS_PER_DB, Association, FloatArray, SlotFeedback
from apnode.protocol.state import Layout, State, refuse_other

_STRENGTHS = (0.0, 0.3, 0.6, 0.9), (0.0, 1.0), (0.0, 0.15, 0.4, 0.7)  # of each level of `Prospects` that are weighed
_SHARE = 0.1  # chance at first that an AP has a defect of one kind, in each strength the same
_CASES: FloatArray = np.array([*itertools.product(*_STRENGTHS)])  # (W, 3)
_MODEL_VARIANCE = 1.0  # of a stream's value by the forecast's draws, the same in all slots: measured [(bit/s/Hz)^2]
_SLOT_VARIANCE = 0.5  # of what users report of it in a slot
_MOST_ERROR = 3.0  # standard deviations; a larger error counts as so large
_KEPT = 0.9  # part of what it has found out that an AP keeps from episode to episode: defects may change
_MOST_EVIDENCE = 10.0  # by which one case may be ahead of another [nat]
_CAUTION = 0.5  # standard deviations
BELIEFS: Layout = {  # of T APs, and of S streams and groups that send them
    "own": (np.float64, (2, len(LEVELS))),
    "weights": (np.float64, (len(_CASES),)),
    "late": (np.int64, ()),
    "told.ap": (np.int64, ("T",)),
    "told.beliefs": (np.float64, ("T", 2, len(LEVELS))),
    "episode": (np.int64, ()),
    "seen.ue": (np.int64, ("S",)),
    "seen.sending": (np.int64, ("S",)),
    "seen.group": (np.int64, ("S",)),
    "seen.slots": (np.int64, ("S",)),
    "seen.value": (np.float64, ("S",)),
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


def innocent() -> FloatArray:
    """(2, 3) what an AP believes of itself at first: levels as in `Prospects`, and their variances."""
    return _moments(_prior())


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
        self.beliefs = innocent() if beliefs is None else beliefs  # (2, 3) of itself
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
        self._seen: dict[tuple[int, Group, Group], tuple[int, float]] = {}
        # of own UEs, by who sends to them, and own group among these: slots, sum of the values

    def observe(
        self,
        feedback: SlotFeedback,
        groups: Mapping[int, Collection[int]],
        left_out: Mapping[int, Collection[int]],
        late: bool | None = None,
    ) -> None:
        """Note the value of every stream that was sent with partners; in the last slot of an episode, conclude."""
        self._late = self._late if late is None else int(late)
        if self._scene is None:
            return
        scene = self._brought_up_to_date(self._scene)
        if scene.association.episode != self._episode:
            self._episode, self._seen = scene.association.episode, {}
        for ue, value in stream_values(self._config, scene.association.ues, feedback).items():
            aps, silent = scene.around.aps, left_out.get(ue, ())
            sending = frozenset(row for row in scene.prospects[ue].members if aps[row] not in silent)
            partners = frozenset(row for row in sending if aps[row] in groups.get(ue, ()))
            if partners and 0 in sending:
                key = ue, sending, partners | {0}
                slots, total = self._seen.get(key, (0, 0.0))
                self._seen[key] = slots + 1, total + value
        if (feedback.slot + 1) % self._config.run.slots_per_episode == 0:
            self._conclude(scene)

    def _conclude(self, scene: _Scene) -> None:
        prior = _prior()
        weights = prior + _KEPT * (self._weights - prior)
        for stream, (slots, total) in self._seen.items():
            weights += self._evidence(scene, *stream, slots, total / slots)
        if self._late >= 0:  # that needs no finding out
            weights = np.where((_CASES[:, STALENESS] > 0) == self._late, weights, -np.inf)
        self._weights = np.maximum(weights, weights.max() - _MOST_EVIDENCE)
        self.beliefs, self._seen = _moments(self._weights), {}

    def _evidence(self, scene: _Scene, ue: int, sending: Group, group: Group, slots: int, value: float) -> FloatArray:
        """(W,) log-likelihoods of the mean value of a stream, of which it is known who sends it, and one of the groups.

        The others are as defective as they are at least; what the value would change by if one of them were so by a
        standard deviation more adds to the variance.
        """
        prospects, levels, variances = scene.prospects[ue], least(scene.told), scene.told[:, 1]
        others = [row for row in prospects.members if row in sending - {0}]
        cases = np.tile(levels, (len(_CASES) + len(others) + 1, 1, 1))
        cases[: len(_CASES), 0] = _CASES
        cases[range(len(_CASES), len(cases) - 1), others] += np.sqrt(variances[others])
        partition = _partition([row for row in prospects.members if row in sending], group, scene.links[ue])
        values = prospects.values([partition], cases)[0]
        expected, off = values[: len(_CASES)], values[len(_CASES) : -1] - values[-1]
        variance = _MODEL_VARIANCE + _SLOT_VARIANCE / slots + float((off**2).sum())
        return np.asarray(-np.minimum((value - expected) ** 2 / variance, _MOST_ERROR**2) / 2)

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
            "seen.ue": np.array([ue for (ue, _, _), _ in streams], np.int64),
            "seen.sending": np.array([_mask(sending) for (_, sending, _), _ in streams], np.int64),
            "seen.group": np.array([_mask(group) for (_, _, group), _ in streams], np.int64),
            "seen.slots": np.array([slots for _, (slots, _) in streams], np.int64),
            "seen.value": np.array([total for _, (_, total) in streams], float),
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
        sending, groups = ([_rows(mask) for mask in state[f"seen.{name}"].tolist()] for name in ("sending", "group"))
        seen = zip(state["seen.slots"].tolist(), state["seen.value"].tolist(), strict=True)
        self._seen = dict(zip(zip(state["seen.ue"].tolist(), sending, groups, strict=True), seen, strict=True))


def _mask(group: Group) -> int:
    return sum(1 << row for row in group)


def _rows(mask: int) -> Group:
    return frozenset(row for row in range(mask.bit_length()) if mask >> row & 1)


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
