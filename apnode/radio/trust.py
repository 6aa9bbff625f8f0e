"""Whom an AP believes: what its partners told of their channels, against what its own UEs measure of them.

In one coherence block of every slot the UEs measure the reference signals of their AP's partners: the power gain from
each antenna. A true estimate h_hat of a channel h with E|h|^2 = beta per antenna leaves an error that is independent
of it, h = h_hat + e with E|h_hat|^2 = q beta and E|e|^2 = (1 - q) beta, where the quality q is unknown: it is near 1
where a UE is heard well, and near 0 where another with its pilot is heard better. A false one says nothing of h. Both
are complex Gaussian, so the two hypotheses have densities; q is averaged out under either, over a UE's whole episode.

Whoever tells a network that no agent can have come to by learning is not believed either: the agent says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apnode.protocol.messages import ChannelBlock, FloatArray, SlotFeedback
from apnode.protocol.state import Layout, State, refuse_other

SUSPECT_AT = 25.0  # log-likelihood ratio, false : true, above which an AP is not believed [nat]
LAPSES_AFTER = 200  # slots, since honest APs may have bad luck
_ON_PROBATION = SUSPECT_AT / 2  # where the ratio of an AP stands that is believed again
_MOST_TRUST = 8.0  # what was true for long counts no more than this against what is false now [nat]
_FIRST_SLOTS = 2  # give a first idea of beta, and judge nothing: it must not be fitted to what it judges
_QUALITY = np.array([0.01, 0.03, 0.08, 0.2, 0.4, 0.6, 0.8, 0.93, 0.99])  # q, each as likely as the others
OPINIONS: Layout = {  # of B APs, of S suspects, and of K pairs of a partner and an own UE
    "before.ap": (np.int64, ("B",)),
    "before.ratio": (np.float64, ("B",)),
    "suspects.ap": (np.int64, ("S",)),
    "suspects.until": (np.int64, ("S",)),
    "known.ap": (np.int64, ("K",)),
    "known.ue": (np.int64, ("K",)),
    "known.slots": (np.int64, ("K",)),
    "known.total": (np.float64, ("K",)),
    "known.likelihoods": (np.float64, ("K", 2, len(_QUALITY))),
}


def log_likelihoods(told: FloatArray, measured: FloatArray) -> FloatArray:
    """Of what was told and measured of UEs, for each quality, if it is false and if it is true.

    Args:
        told: (n, L) |h_hat|^2 in units of beta.
        measured: (n, L) |h|^2 in units of beta.

    Returns:
        (2, n, Q) log densities, false first; an estimate that is false has the power of a true one.
    """
    told, measured, quality = told[..., None], measured[..., None], _QUALITY
    error = 1 - quality
    prior = -told / quality - np.log(quality)
    correlation = _log_bessel_i0(2 * np.sqrt(told * measured) / error)
    given_true = correlation - (told + measured) / error - np.log(error)
    both: FloatArray = np.stack([prior - measured, prior + given_true]).sum(axis=2)
    return both


def _log_bessel_i0(x: FloatArray) -> FloatArray:
    """Logarithm of I_0(x), x >= 0, to 0.006: Olivares et al., J. Phys. Conf. Ser. 1043 (2018) 012003."""
    log_cosh = x + np.log1p(np.exp(-2 * x)) - np.log(2)
    square = x * x
    correction = np.log1p(0.24273 * square) - np.log1p(0.43023 * square) - np.log1p(0.25 * square) / 4
    return np.asarray(log_cosh + correction)


@dataclass
class _OfUe:
    """What is known from one UE of one partner, in this episode."""

    slots: int = 0
    total: float = 0.0  # of the mean gain over the antennas in each [power gain]
    likelihoods: FloatArray = field(default_factory=lambda: np.zeros((2, len(_QUALITY))))
    ratio: float = 0.0  # what they come to, as `_ratios` gives it


def _ratios(likelihoods: FloatArray) -> list[float]:
    """Log-likelihood ratios, false : true, of (n, 2, Q) log-likelihoods [nat]."""
    false, true = np.logaddexp.reduce(likelihoods, axis=2).T
    ratios: list[float] = np.maximum(false - true, -_MOST_TRUST).tolist()
    return ratios


class Trust:
    """An AP's opinion of the others: a sequential probability ratio test of each.

    An AP is suspected when the ratio passes SUSPECT_AT, for LAPSES_AFTER slots; then a little evidence does.
    """

    def __init__(self) -> None:
        self._before: dict[int, float] = {}  # log-likelihood ratio by AP, from earlier episodes
        self._known: dict[int, dict[int, _OfUe]] = {}  # by AP, by own UE
        self._believed_from: dict[int, int] = {}  # suspects, and the slot in which suspicion lapses

    def begin_episode(self) -> None:
        """UEs are elsewhere now: keep only what came out."""
        for ap in self._known:
            self._before[ap] = self.ratio(ap)
        self._known.clear()

    def suspects(self, slot: int) -> tuple[int, ...]:
        """Who is not believed in a slot, in the order of their ids."""
        return tuple(sorted(ap for ap, until in self._believed_from.items() if slot < until))

    def ratio(self, ap: int) -> float:
        """Log-likelihood ratio, false : true, of all that an AP has told [nat]."""
        of_ues = self._known.get(ap, {}).values()
        return max(self._before.get(ap, 0.0) + sum(ue.ratio for ue in of_ues), -_MOST_TRUST)

    def compare(
        self, ues: Sequence[int], blocks: Mapping[int, ChannelBlock], feedback: SlotFeedback, before_last: int
    ) -> None:
        """Take in what partners told in a slot, and what one's UEs measured.

        Args:
            ues: one's own, in the order of the feedback.
            blocks: what was told, by AP.
            feedback: of the slot.
            before_last: coherence blocks between the one that UEs measured and the last of the slot; of a partner
                whose estimates come later than that, nothing can be said.
        """
        if not feedback.partners.size:
            return
        gains = feedback.partner_gain.astype(float)
        means, partners = gains.mean(axis=2).tolist(), feedback.partners.tolist()
        pairs, estimates, measured, betas = [], [], [], []
        for row, ue in enumerate(ues):
            for column, ap in enumerate(partners[row]):
                block = blocks.get(ap)
                if block is None or ue not in block.ues:
                    continue
                known = self._known.setdefault(ap, {}).setdefault(ue, _OfUe())
                told_then = len(block.h_hat) - 1 - (before_last - block.age)
                if known.slots >= _FIRST_SLOTS and known.total > 0 and 0 <= told_then < len(block.h_hat):
                    pairs.append((ap, known))
                    estimates.append(block.h_hat[told_then, :, block.ues.index(ue)])
                    measured.append(gains[row, column])
                    betas.append(known.total / known.slots)
                known.slots += 1
                known.total += means[row][column]
        if not pairs:
            return
        told, beta = np.abs(np.array(estimates, complex)) ** 2, np.array(betas)[:, None]
        found = log_likelihoods(told / beta, np.array(measured) / beta).swapaxes(0, 1)
        found += [known.likelihoods for _, known in pairs]
        for (_, known), likelihoods, ratio in zip(pairs, found, _ratios(found), strict=True):
            known.likelihoods, known.ratio = likelihoods, ratio
        for ap in sorted({ap for ap, _ in pairs}):
            self._judge(ap, feedback.slot)

    def _judge(self, ap: int, slot: int) -> None:
        if self.ratio(ap) > SUSPECT_AT:
            self.distrust(ap, slot)

    def distrust(self, ap: int, slot: int) -> None:
        """Suspect an AP from the slot after this one on."""
        self._believed_from[ap] = slot + 1 + LAPSES_AFTER
        self._before[ap] = _ON_PROBATION
        self._known.pop(ap, None)

    def state(self) -> State:
        """All of it, as OPINIONS."""
        known = [(ap, ue, of) for ap, of_ues in self._known.items() for ue, of in of_ues.items()]
        columns: dict[str, list[Any]] = {
            "before.ap": list(self._before),
            "before.ratio": list(self._before.values()),
            "suspects.ap": list(self._believed_from),
            "suspects.until": list(self._believed_from.values()),
            "known.ap": [ap for ap, _, _ in known],
            "known.ue": [ue for _, ue, _ in known],
            "known.slots": [of.slots for _, _, of in known],
            "known.total": [of.total for _, _, of in known],
            "known.likelihoods": [of.likelihoods for _, _, of in known],
        }
        inner = {"known.likelihoods": (2, len(_QUALITY))}
        return {
            name: np.array(columns[name], dtype).reshape(-1, *inner.get(name, ()))
            for name, (dtype, _) in OPINIONS.items()
        }

    def restore(self, state: State) -> None:
        """Take over what `state` gave.

        Raises:
            StateError: if it is not as OPINIONS; nothing has changed then.
        """
        refuse_other(state, OPINIONS)
        columns = {name: array.tolist() for name, array in state.items()}
        self._before = dict(zip(columns["before.ap"], columns["before.ratio"], strict=True))
        self._believed_from = dict(zip(columns["suspects.ap"], columns["suspects.until"], strict=True))
        self._known = {}
        rows = zip(*(columns[f"known.{name}"] for name in ("ap", "ue", "slots", "total")), strict=True)
        likelihoods = state["known.likelihoods"].copy()
        for (ap, ue, slots, total), of_ue, ratio in zip(rows, likelihoods, _ratios(likelihoods), strict=True):
            self._known.setdefault(ap, {})[ue] = _OfUe(slots, total, of_ue, ratio)
