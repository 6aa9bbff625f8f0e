"""What a UE would get if its APs precoded for it in groups: blind, or what if some of them were defective.

An AP draws small-scale fading for the UE's APs, lets each group precode by joint MMSE, and counts the UE's rate and
what its stream costs other UEs. All of the UE's APs that make the same draws come to the same values.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from apnode.agent.surroundings import BoolArray, Surroundings, drawn, gaussian, residual
from apnode.config import Config
from apnode.protocol.messages import ComplexArray, FloatArray
from apnode.protocol.rng import Purpose, generator

INCOHERENCE, STALENESS, WRONGNESS = LEVELS = range(3)  # columns of an AP's defect levels
LEVEL_NAMES = ("incoherence", "staleness", "wrongness")
_MOST_INCOHERENCE = 1 - 1e-12  # none would be left at an infinite phase

Group = frozenset[int]  # APs by their rows in `Surroundings`: 0 is the AP itself, n its n-th neighbour
Partition = tuple[Group, ...]  # groups of a UE's APs, each AP in one at most; APs in none are silent


class Prospects:
    """One UE's: the value of every partition of its APs into groups.

    Three levels in [0, 1] tell how defective AP i is: a_i, the incoherence, leaves 1 - a_i of the power of a coherent
    sum; g_i is the part of the power that is stale where APs wait for the CSI of AP i; b_i is the part that meets
    another channel than the estimated one. With them AP i's part of group q at UE j is, in one block of fading,

    c_i = e^{j s_i z} (sqrt(k) F + sqrt(1 - k) E),  k = (1 - b_i) (1 - o),  o = v_j (1 - prod_{n in q} (1 - g_n))

    with F the amplitude by the draw, E the same precoder's through an independent draw, s_i^2 = -ln(1 - a_i),
    z ~ N(0, 1), v_j the part of the power of UE j's channel that changes while a block is late, and o = 0 for an AP for
    itself, which waits for nobody.
    """

    def __init__(self, config: Config, around: Surroundings, ue: int, change: FloatArray | None = None) -> None:
        """Draw the fading of a UE's APs.

        Args:
            config: gives the seed of draws, radio, and the interference that cooperation leaves.
            around: what the AP knows.
            ue: column of the UE in it.
            change: (U,) v of every UE in it; all 1 without.
        """
        serving = np.flatnonzero(around.serves[:, ue]).tolist()
        self.members: tuple[int, ...] = tuple(sorted(serving, key=lambda row: around.aps[row]))  # C APs
        rows = list(self.members)
        columns = np.union1d(np.flatnonzero(around.beta[rows].any(axis=0)), [ue])
        self._at = int(np.searchsorted(columns, ue))
        self._key, self._config = int(around.ids[ue]), config
        self._rho, self._beta = around.rho[rows, ue], around.beta[rows][:, columns]
        self._change = np.ones(len(columns)) if change is None else change[columns]
        self._h, self._h_hat, self._unknown = drawn(config, around, rows, columns, self._key)
        self._parts: dict[Group, ComplexArray] = {}  # (2, C, B, U) F and E of the groups that were last asked about
        self._known: dict[Group, ComplexArray] = {}  # (B, U) of the groups that were asked about so far
        self.alone: Partition = tuple(frozenset([row]) for row in rows)

    def with_group(self, group: Group) -> Partition:
        """The partition in which a group precodes jointly and all others for themselves."""
        return (group, *(single for single in self.alone if not single <= group))

    def gains(self, partitions: Sequence[Partition], levels: FloatArray | None = None) -> FloatArray:
        """(P, ...) what partitions bring against everybody for himself [bit/s/Hz]: see `values`.

        Where a forecast tells who transmits to a UE, each with the APs that then serve it best.
        """
        find = self._best_values if self._config.selects_serving else self.values
        values = find([self.alone, *partitions], levels)
        return np.asarray(values[1:] - values[0])

    def best_served(self, partition: Partition, levels: FloatArray | None = None) -> Group:
        """The APs of a partition whose service is worth most while its others are silent; of equals the most APs.

        Args:
            partition: of one AP at least.
            levels: (1 + N, 3) as in `values`.
        """
        served = _sets_of(partition)
        return served[int(self.values([_only(partition, aps) for aps in served], levels).argmax())]

    def _best_values(self, partitions: Sequence[Partition], levels: FloatArray | None) -> FloatArray:
        """(P, ...) the value of every partition, none of them empty, if those of its APs transmit that serve best."""
        of_each = [[_only(partition, aps) for aps in _sets_of(partition)] for partition in partitions]
        place = {served: at for at, served in enumerate(dict.fromkeys(itertools.chain(*of_each)))}
        values = self.values(list(place), levels)
        return np.array([values[[place[served] for served in of_one]].max(axis=0) for of_one in of_each])

    def values(self, partitions: Sequence[Partition], levels: FloatArray | None = None) -> FloatArray:
        """(P, ...) V = 2 l_k - sum_j l_j of every partition, l_j the mean of log2(1 + power at UE j / residual).

        Args:
            partitions: P of them.
            levels: (..., 1 + N, 3) defects a, g and b of the AP and its neighbours, in as many cases as there are;
                none without.
        """
        if levels is None:
            return self._blind(partitions)
        cases = np.clip(levels, 0, 1)[..., self.members, :].reshape(-1, len(self.members), 3)
        values = self._value(self._what_if(partitions, cases))
        return values.reshape(len(partitions), *np.shape(levels)[:-2])

    def heard(self, partition: Partition, levels: FloatArray) -> FloatArray:
        """(W, 2) of what the value of a partition is made: l_k, and the sum of l_j over all other UEs.

        Args:
            partition: of some of the UE's APs.
            levels: (W, 1 + N, 3) as in `values`.
        """
        [level] = self._what_if([partition], np.clip(levels, 0, 1)[:, self.members])
        own = level[:, self._at]
        return np.stack([own, level.sum(axis=1) - own], axis=1)

    def slopes(self, partition: Partition, levels: FloatArray, row: int) -> FloatArray:
        """(3,) derivatives of a partition's value by the levels of one AP, from differences over long steps.

        Args:
            partition: of the UE's APs.
            levels: (1 + N, 3) where; in [0, 1].
            row: of the AP.
        """
        steps = 0.3 * (1 - levels[row]) + 0.02
        cases = np.tile(levels, (2, 3, 1, 1))
        cases[0, LEVELS, row, LEVELS] = high = np.minimum(levels[row] + steps, 1)
        cases[1, LEVELS, row, LEVELS] = high - steps
        above, below = self.values([partition], cases)[0]
        return np.asarray((above - below) / steps)

    # --- as drawn -----------------------------------------------------------------------------------------

    def _blind(self, partitions: Sequence[Partition]) -> FloatArray:
        missing = [group for group in dict.fromkeys(itertools.chain(*partitions)) if group not in self._known]
        if missing:
            self._known |= zip(missing, self._received(self._places(missing)), strict=True)
        total = np.zeros((len(partitions), len(self._h), len(self._change)), complex)
        for received, partition in zip(total, partitions, strict=True):
            for group in sorted(partition, key=len):
                received += self._known[group]
        return self._value(self._level(total))

    def _received(self, groups: BoolArray) -> ComplexArray:
        """(G, B, U) from the APs of each group (G, C) together."""
        blocks, aps, antennas, ues = self._h.shape
        stacked = self._h.reshape(blocks, aps * antennas, ues).conj().swapaxes(1, 2)  # (B, U, C L)
        sent = self._sent(groups).reshape(len(groups), blocks, aps * antennas)
        return np.asarray(np.einsum("bul,gbl->gbu", stacked, sent))

    def _sent(self, groups: BoolArray) -> ComplexArray:
        """(G, B, C, L) what each group (G, C) radiates for the UE: its busiest AP meets its power on average."""
        precoders = _mmse(self._h_hat, self._unknown, self._at, groups)
        power = (np.abs(precoders) ** 2).sum(axis=3).mean(axis=1)  # (G, C)
        room = np.divide(self._rho, power, out=np.full(power.shape, np.inf), where=power > 0).min(axis=1)
        return np.asarray(precoders * np.sqrt(np.where(np.isfinite(room), room, 0))[:, None, None, None])

    def _level(self, total: ComplexArray) -> FloatArray:
        """(..., U) l_j of what is received of all APs (..., B, U)."""
        return np.asarray(np.log2(1 + np.abs(total) ** 2 / residual(self._config)).mean(axis=-2))

    def _value(self, level: FloatArray) -> FloatArray:
        """(...) of l_j of all UEs (..., U)."""
        return np.asarray(2 * level[..., self._at] - level.sum(axis=-1))

    def _places(self, groups: Sequence[Group]) -> BoolArray:
        """(G, C) which of the UE's APs are in each group."""
        places = np.zeros((len(groups), len(self.members)), bool)
        for index, group in enumerate(groups):
            places[index, [self.members.index(row) for row in group]] = True
        return places

    # --- what if ------------------------------------------------------------------------------------------

    def _what_if(self, partitions: Sequence[Partition], levels: FloatArray) -> FloatArray:
        """(P, W, U) l_j of all UEs in W cases of defects (W, C, 3)."""
        groups = list(dict.fromkeys(itertools.chain(*partitions)))
        parts = self._parts_of(groups)
        shape = len(partitions), len(self.members)
        together = np.zeros((*shape, shape[1]), bool)  # (P, C, C) who is in one's group
        amplitudes = np.zeros((2, *shape, len(self._h), len(self._change)), complex)  # (2, P, C, B, U)
        for index, partition in enumerate(partitions):
            for group in partition:
                place = self._places([group])[0]
                together[index, place] = place
                amplitudes[:, index, place] = parts[group][:, place]
        incoherence, staleness, wrongness = np.moveaxis(levels, -1, 0)  # (W, C)
        fresh = np.where(together[:, None], 1 - staleness[:, None], 1).prod(axis=-1)  # (P, W, C)
        waits = together.sum(axis=-1)[:, None] > 1
        changed = np.where(waits, 1 - fresh, 0)[..., None] * self._change  # (P, W, C, U)
        kept = ((1 - wrongness)[..., None] * (1 - changed))[..., None, :]
        as_drawn, otherwise = amplitudes[:, :, None]  # (P, 1, C, B, U) each
        spread = np.sqrt(-np.log1p(-np.minimum(incoherence, _MOST_INCOHERENCE)))
        phase = np.exp(1j * spread[..., None] * self._z)[..., None]  # (W, C, B, 1)
        received = phase * (np.sqrt(kept) * as_drawn + np.sqrt(1 - kept) * otherwise)
        return self._level(received.sum(axis=2))

    def _parts_of(self, groups: Sequence[Group]) -> dict[Group, ComplexArray]:
        """(2, C, B, U) of each group what UEs receive of each of its APs, through the channels and through others."""
        missing = [group for group in groups if group not in self._parts]
        sent = self._sent(self._places(missing)).swapaxes(1, 2)[..., None, :]  # (G, C, B, 1, L)
        through = np.stack([self._h, self._other]).conj().swapaxes(1, 2)  # (2, C, B, L, U)
        new = (sent @ through[:, None])[..., 0, :].swapaxes(0, 1)  # (G, 2, C, B, U)
        known = self._parts | dict(zip(missing, new, strict=True))
        self._parts = {group: known[group] for group in groups}  # most often the next question is about the same
        return self._parts

    @cached_property
    def _other(self) -> ComplexArray:
        """(B, C, L, U) channels independent of those drawn [sqrt power gain]."""
        rng = generator(self._config.seed, Purpose.WHAT_IF, self._key)
        return gaussian(rng, *self._h.shape) * np.sqrt(self._beta)[:, None]

    @cached_property
    def _z(self) -> FloatArray:
        """(C, B) phases of what APs radiate, of variance 1."""
        rng = generator(self._config.seed, Purpose.WHAT_IF, self._key, 1)
        return rng.standard_normal((len(self.members), len(self._h)))


def _sets_of(partition: Partition) -> list[Group]:
    """Of the APs in a partition, all sets that are not empty, the largest first."""
    aps = sorted(itertools.chain(*partition))
    return [frozenset(some) for size in range(len(aps), 0, -1) for some in itertools.combinations(aps, size)]


def _only(partition: Partition, served: Group) -> Partition:
    """A partition of which nobody else transmits; its groups in order, so that equal ones are equal."""
    return tuple(sorted((group & served for group in partition if group & served), key=min))


def _mmse(h_hat: ComplexArray, unknown: FloatArray, ue: int, groups: BoolArray) -> ComplexArray:
    """(G, B, C, L) MMSE precoders for one UE by each group of C APs, 0 for who is not in it.

    Args:
        h_hat: (B, C, L, U) estimates [sqrt power gain].
        unknown: (C,) covariance of each AP's antennas that no estimate tells, relative to its power.
        ue: position among the U.
        groups: (G, C) who is in it.
    """
    blocks, count, antennas, ues = h_hat.shape
    flat = h_hat.reshape(blocks, count * antennas, ues)
    gram = flat @ flat.conj().swapaxes(1, 2) + np.diag(np.repeat(unknown, antennas))
    member = np.repeat(groups, antennas, axis=1)  # (G, C L)
    both = member[:, None, :, None] & member[:, None, None, :]
    matrix = np.where(both, gram, np.eye(count * antennas) * unknown.max())
    wanted = np.where(member[:, None], flat[..., ue], 0)
    w = np.asarray(np.linalg.solve(matrix, wanted[..., None])[..., 0], complex)
    return w.reshape(len(groups), blocks, count, antennas)
