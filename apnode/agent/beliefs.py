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
from collections.abc import Collection, Mapping
from functools import cache
from typing import ClassVar

import numpy as np

from apnode.agent.forecast import Links, joining_links
from apnode.agent.prospects import LEVELS, STALENESS, Partition, Prospects
from apnode.agent.streams import MODEL_VARIANCE, SLOT_VARIANCE, Scene, Watcher
from apnode.config import Config
from apnode.protocol.messages import Association, FloatArray, SlotFeedback
from apnode.protocol.state import Layout, State

_STRENGTHS = (0.0, 0.3, 0.6, 0.9), (0.0, 1.0), (0.0, 0.15, 0.4, 0.7)  # of each level of `Prospects` that are weighed
_SHARE = 0.1  # chance at first that an AP has a defect of one kind, in each strength the same
_CASES: FloatArray = np.array([*itertools.product(*_STRENGTHS)])  # (W, 3)
_MOST_ERROR = 4.0  # standard deviations; a larger error counts as so large
_KEPT = 0.9  # part of what it has found out that an AP keeps from episode to episode: defects may change
_MOST_EVIDENCE = 10.0  # by which one case may be ahead of another [nat]
_CAUTION = 0.5  # standard deviations


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


class Belief(Watcher):
    """An AP that finds out how defective it is, or acts on what it has found out."""

    width = 2 * len(LEVELS)
    layout: ClassVar[Layout] = {
        "own": (np.float64, (2, len(LEVELS))),
        "weights": (np.float64, (len(_CASES),)),
        "late": (np.int64, ()),
    }

    def __init__(self, ap: int, config: Config, learned: FloatArray | None = None) -> None:
        super().__init__(ap, config, innocent().copy(), learned)  # (2, 3) of itself
        if self.learned.shape != innocent().shape or not ((self.learned >= 0) & (self.learned <= 1)).all():
            raise ValueError("beliefs must be 2 x 3 numbers from 0 to 1")
        self._weights = _prior()  # (W,) logarithms of the chances of the cases
        self._late = -1  # whether partners get its estimates late: 1 or 0; -1 before any has said it

    def _known(self, association: Association) -> FloatArray:
        return self._told_of(association, innocent())  # (1 + N, 2, 3)

    def _joining(self, scene: Scene, prospects: Prospects) -> Links:
        return joining_links(scene.around, prospects, least(scene.known))

    def levels(self, association: Association) -> FloatArray:
        return least(self._known(association))

    def observe(
        self,
        feedback: SlotFeedback,
        groups: Mapping[int, Collection[int]],
        left_out: Mapping[int, Collection[int]],
        late: bool | None = None,
    ) -> None:
        self._late = self._late if late is None else int(late)
        super().observe(feedback, groups, left_out)

    def _conclude(self, scene: Scene) -> None:
        prior = _prior()
        weights = prior + _KEPT * (self._weights - prior)
        for ue, sent, slots, level in self._seen.taken():
            weights += self._evidence(scene, ue, sent, slots, level)
        if self._late >= 0:  # that needs no finding out
            weights = np.where((_CASES[:, STALENESS] > 0) == self._late, weights, -np.inf)
        self._weights = np.maximum(weights, weights.max() - _MOST_EVIDENCE)
        self.learned = _moments(self._weights)

    def _evidence(self, scene: Scene, ue: int, sent: Partition, slots: int, level: FloatArray) -> FloatArray:
        """(W,) log-likelihoods of how strong a stream (2,) was on average, of which it is known who sends it.

        The others are as defective as they are at least; what would change if one of them were so by a standard
        deviation more adds to the variance.
        """
        levels, variances = least(scene.known), scene.known[:, 1]
        others = [row for row in scene.prospects[ue].rows_of(sum(sent)) if row]
        cases = np.tile(levels, (len(_CASES) + len(others) + 1, 1, 1))
        cases[: len(_CASES), 0] = _CASES
        cases[range(len(_CASES), len(cases) - 1), others] += np.sqrt(variances[others])
        heard = scene.prospects[ue].heard(sent, cases)
        expected, off = heard[: len(_CASES)], heard[len(_CASES) : -1] - heard[-1]
        variance = MODEL_VARIANCE + SLOT_VARIANCE / slots + (off**2).sum(axis=0)
        error = ((level - expected) ** 2 / variance).sum(axis=1)
        return np.asarray(-np.minimum(error, _MOST_ERROR**2) / 2)

    def state(self) -> State:
        return {**super().state(), "weights": self._weights.copy(), "late": np.array(self._late)}

    def restore(self, state: State) -> None:
        super().restore(state)
        self._weights, self._late = state["weights"].copy(), int(state["late"])
