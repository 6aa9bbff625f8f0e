"""Policies `ratio` and `factor`: a link is worth what the forecast says, times how much of it has come so far.

Rivals of `belief`, which learn from the same reports, but do not ask what a defect would change: to them an AP without
a locked oscillator is one whose links bring a part of what the forecast says, in whatever group. Of each stream that an
AP sends, what has come is the value that UEs report, and what was expected that of the blind forecast, for those who
send it in the groups in which they do (`Prospects.values`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from apnode.agent.forecast import Links, joining_links
from apnode.agent.prospects import Partition, Prospects
from apnode.agent.streams import MODEL_VARIANCE, SLOT_VARIANCE, Scene, Watcher
from apnode.config import Config
from apnode.protocol.messages import Association, FloatArray
from apnode.protocol.state import Layout

_KEPT = 0.9  # part of what it has found out that an AP keeps from episode to episode: defects may change
_PRIOR_SUM = 20.0  # what the ratio of all links counts for in that of one, as if so much had been expected [bit/s/Hz]
_AT_FIRST: FloatArray = np.array([0, 0.25])  # mean and variance of what an AP's factor lacks of 1


class _Scaler(Watcher):
    """An AP that multiplies what the blind forecast says of each link."""

    def _joining(self, scene: Scene, prospects: Prospects) -> Links:
        return joining_links(scene.around, prospects, None)

    def _worth(self, gains: FloatArray, known: FloatArray) -> FloatArray:
        return gains * self._factors(known)

    @abstractmethod
    def _factors(self, known: FloatArray) -> FloatArray:
        """(N,) by which to multiply, of what is known of the AP and its neighbours."""

    def _streams(self, scene: Scene) -> Iterator[tuple[Prospects, Partition, int, float, float]]:
        """Of each stream: who sent it in which groups, slots, the value that came on average, and the one expected.

        Where none was expected nothing can be a part of it.
        """
        for ue, sent, slots, (wanted, elsewhere) in self._seen.taken():
            prospects = scene.prospects[ue]
            expected = float(prospects.values([sent])[0])
            if expected > 0:
                yield prospects, sent, slots, float(wanted - elsewhere), expected


class Ratio(_Scaler):
    """Each link has a ratio of its own, of what came to what was expected, with that of all streams as the prior.

    The ratios stay with the AP: both ends of a link see the same streams.
    """

    width = 0
    layout: ClassVar[Layout] = {"own": (np.float64, ("P", 3))}

    def __init__(self, ap: int, config: Config, learned: FloatArray | None = None) -> None:
        super().__init__(ap, config, np.zeros((0, 3)), learned)  # of partners, and of itself for all: came, expected
        if self.learned.ndim != 2 or self.learned.shape[1] != 3 or not (self.learned[:, ::2] >= 0).all():
            raise ValueError("ratios must be rows of an AP, what came, and what was expected, which is not below 0")

    def _known(self, association: Association) -> FloatArray:
        """(1 + N, 2) what came and what was expected of all streams, and of those sent with each neighbour."""
        sums = {int(ap): of_link for ap, *of_link in self.learned}
        return np.array([sums.get(ap, (0.0, 0.0)) for ap in (self._ap, *association.neighbours)])

    def _factors(self, known: FloatArray) -> FloatArray:
        came, expected = known.T + _PRIOR_SUM
        ratio = (known[1:, 0] + _PRIOR_SUM * came[0] / expected[0]) / expected[1:]
        return np.asarray(np.maximum(ratio, 0))

    def _conclude(self, scene: Scene) -> None:
        sums = {int(ap): _KEPT * np.array(of_link) for ap, *of_link in self.learned}
        for prospects, sent, slots, *of_stream in self._streams(scene):
            own = prospects.group_of([0])
            for row in prospects.rows_of(next(group for group in sent if group & own)):
                of_link = sums.setdefault(scene.around.aps[row], np.zeros(2))
                of_link += slots * np.array(of_stream)
        self.learned = np.array([[ap, *of_link] for ap, of_link in sorted(sums.items())]).reshape(-1, 3)


class Factor(_Scaler):
    """Each AP has a factor: of what is expected of a stream comes the product of the factors of all who send it.

    An AP finds out its own by Bayes' rule, with those of its partners as they told them. It tells what its own lacks of
    1, and the variance: nothing is wrong with who tells 0.
    """

    width = 2
    layout: ClassVar[Layout] = {"own": (np.float64, (2,))}

    def __init__(self, ap: int, config: Config, learned: FloatArray | None = None) -> None:
        super().__init__(ap, config, _AT_FIRST.copy(), learned)
        if self.learned.shape != _AT_FIRST.shape or not ((self.learned >= 0) & (self.learned <= 1)).all():
            raise ValueError("what a factor lacks, and its variance, must be two numbers from 0 to 1")

    def _known(self, association: Association) -> FloatArray:
        return self._told_of(association, _AT_FIRST)  # (1 + N, 2)

    def _factors(self, known: FloatArray) -> FloatArray:
        return np.asarray((1 - known[0, 0]) * (1 - known[1:, 0]))

    def _conclude(self, scene: Scene) -> None:
        """What came = what was expected x the others' factors x the own one + error; factors and error are Gaussian."""
        (lack, variance), (_, variance_at_first) = self.learned, _AT_FIRST
        precision = 1 / variance_at_first + _KEPT * (1 / variance - 1 / variance_at_first)
        pull = _KEPT * lack / variance
        factors, variances = 1 - scene.known[:, 0], scene.known[:, 1]
        for prospects, sent, slots, came, expected in self._streams(scene):
            others = [row for row in prospects.rows_of(sum(sent)) if row]
            slope = expected * factors[others].prod()
            error = (MODEL_VARIANCE + SLOT_VARIANCE / slots).sum() + expected**2 * variances[others].sum()
            precision += slope**2 / error
            pull += slope * (slope - came) / error
        self.learned = np.array([np.clip(pull / precision, 0, 1), 1 / precision])
