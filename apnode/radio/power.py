"""How an AP spends its power: the split over its UEs, and the three rules that scale precoders to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apnode.config.network import Radio
from apnode.protocol.messages import ComplexArray, FloatArray
from apnode.protocol.state import Layout, State, refuse_other

AVERAGES: Layout = {  # E entries; W is the most partners of one
    "ue": (np.int64, ("E",)),
    "group": (np.int64, ("E", "W")),  # its other APs, filled up with _NOBODY
    "blocks": (np.int64, ("E",)),
    "own": (np.float64, ("E",)),  # sums of the squared norms: of this AP's rows
    "others": (np.float64, ("E", "W")),
}
_NOBODY = -1
_WIRE_ROUNDING = 1 - 2.0**-23  # shrinks amplitudes so that rounding to complex64 never exceeds the power


def power_split(beta: FloatArray, radio: Radio) -> FloatArray:
    """An AP's power over the UEs that it serves: the same for each, or rho_k in proportion to sqrt(beta_k).

    The latter is the fractional rule of the cell-free book with exponent 1/2.

    Args:
        beta: (|K_m|,) of the UEs that the AP serves [power gain].
        radio: gives the power and the rule.

    Returns:
        (|K_m|,) rho, in sum the AP's power [W].
    """
    share = np.sqrt(beta) if radio.power_split == "sqrt-beta" else np.ones(len(beta))
    if not share.any():
        share = np.ones(len(beta))  # no channel at all: any split will do
    return np.asarray(radio.ap_power_w * share / share.sum())


def scaled(w: ComplexArray, rho: FloatArray, power: FloatArray) -> ComplexArray:
    """One AP's rows of its UEs' precoders, each precoder scaled by one real factor so that its busiest AP meets rho.

    Which APs and which power `power` counts is the rule: with the AP's own rows alone, in each block, it is seed
    paper eq. (17), which bends the joint nulls; with those of all APs that transmit a precoder it keeps them.

    Args:
        w: (B, L, n) own rows, not normalised.
        rho: (C, n) what each of C APs may spend on a UE, 0 where it does not serve it [W].
        power: (B or 1, C, n) squared norms of the C APs' rows, in each block or on average.

    Returns:
        (B, L, n), 0 where no AP's rows have any power [sqrt W].
    """
    limits = (rho > 0) & (power > 0)
    room = np.divide(rho, power, out=np.full(limits.shape, np.inf), where=limits).min(axis=1)  # (B or 1, n)
    factor = np.sqrt(np.where(np.isfinite(room), room, 0))
    return w * (factor * _WIRE_ROUNDING)[:, None, :]


class AveragePower:
    """Mean power of unscaled precoders over the blocks so far, apart for every UE and group of APs that serve it.

    The long-term constraint E ||w||^2 <= rho of the field ("Foundations of user-centric cell-free massive MIMO",
    section 6.1), with the expectation as an AP can know it while it goes on.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, tuple[int, ...]], tuple[int, FloatArray]] = {}  # blocks, sum over them (C,)

    def add(self, ues: Sequence[int], group: tuple[int, ...], power: FloatArray) -> FloatArray:
        """Take in a slot's blocks.

        Args:
            ues: n UEs.
            group: the APs whose cooperation shapes these precoders.
            power: (B, C, n) squared norms of the rows of C APs in each block.

        Returns:
            (1, C, n) mean over all blocks so far, these included.
        """
        means = np.empty((1, *power.shape[1:]))
        for index, ue in enumerate(ues):
            blocks, total = self._known.get((ue, group), (0, np.zeros(power.shape[1])))
            known = blocks + len(power), total + power[..., index].sum(axis=0)
            self._known[ue, group] = known
            means[0, :, index] = known[1] / known[0]
        return means

    def state(self) -> State:
        """What it has taken in, as AVERAGES."""
        count, most = len(self._known), max((len(group) for _, group in self._known), default=0)
        groups, others = np.full((count, most), _NOBODY), np.zeros((count, most))
        for index, ((_, group), (_, total)) in enumerate(self._known.items()):
            groups[index, : len(group)] = group
            others[index, : len(group)] = total[1:]
        return {
            "ue": np.array([ue for ue, _ in self._known], np.int64),
            "group": groups,
            "blocks": np.array([blocks for blocks, _ in self._known.values()], np.int64),
            "own": np.array([total[0] for _, total in self._known.values()], float),
            "others": others,
        }

    def restore(self, state: State) -> None:
        """Take over what `state` gave.

        Raises:
            StateError: if it is not as AVERAGES.
        """
        refuse_other(state, AVERAGES)
        self._known = {}
        for ue, row, blocks, own, others in zip(*(state[name] for name in AVERAGES), strict=True):
            group = tuple(row[row != _NOBODY].tolist())
            self._known[int(ue), group] = int(blocks), np.array([own, *others[: len(group)]])
