"""What a UE would get if its APs precoded for it in groups: blind, or what if some of them were defective.

An AP draws small-scale fading for the UE's APs, lets each group precode by joint MMSE, and counts the UE's rate and
what its stream costs other UEs. All of the UE's APs that make the same draws come to the same values.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property, lru_cache
from weakref import WeakValueDictionary

import numpy as np

from apnode.agent.surroundings import BoolArray, Surroundings, drawn, gaussian, residual
from apnode.config import Config
from apnode.protocol.messages import ComplexArray, FloatArray, IntArray
from apnode.protocol.rng import Purpose, generator

INCOHERENCE, STALENESS, WRONGNESS = LEVELS = range(3)  # columns of an AP's defect levels
LEVEL_NAMES = ("incoherence", "staleness", "wrongness")
_MOST_INCOHERENCE = 1 - 1e-12  # none would be left at an infinite phase

Group = int  # bit mask: of a UE's APs, in order of their numbers, those that precode jointly for it
Partition = tuple[Group, ...]  # groups of which each AP is in one at most; APs in none are silent


class Prospects:
    """One UE's, as an AP sees them: the value of every partition of its APs into groups.

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
        self.members: tuple[int, ...] = tuple(sorted(serving, key=lambda row: around.aps[row]))  # C APs, by their rows
        rows = list(self.members)
        columns = np.union1d(np.flatnonzero(around.beta[rows].any(axis=0)), [ue])
        self._drawn = _drawn_once(
            config,
            int(around.ids[ue]),
            int(np.searchsorted(columns, ue)),
            around.rho[rows, ue],
            around.beta[rows][:, columns],
            around.pilots[columns],
        )
        self._change = np.ones(len(columns)) if change is None else change[columns]
        self.alone: Partition = tuple(1 << place for place in range(len(rows)))

    def group_of(self, rows: Iterable[int]) -> Group:
        """The group of some of the UE's APs, by their rows in what the AP knows."""
        return sum(1 << self.members.index(row) for row in rows)

    def rows_of(self, group: Group) -> list[int]:
        """The rows of the APs in a group, in order of their numbers."""
        return [row for place, row in enumerate(self.members) if group >> place & 1]

    def with_group(self, group: Group) -> Partition:
        """The partition in which a group precodes jointly and all others for themselves."""
        return (group, *(single for single in self.alone if not single & group))

    def gains(self, partitions: Sequence[Partition], levels: FloatArray | None = None) -> FloatArray:
        """(P,) what partitions bring against everybody for himself [bit/s/Hz]: see `values`.

        Where a forecast tells who transmits to a UE, each with the APs that then serve it best.

        Args:
            partitions: P of them.
            levels: (1 + N, 3) as in `values`.
        """
        values = self._drawn.worth([self.alone, *partitions], self._cases(levels), self._change)
        return np.asarray(values[1:] - values[0])

    def best_served(self, partition: Partition, levels: FloatArray | None = None) -> Group:
        """The APs of a partition whose service is worth most while its others are silent; of equals the most APs.

        Args:
            partition: of one AP at least.
            levels: (1 + N, 3) as in `values`.
        """
        served = _served(partition)
        return sum(served[self._drawn.best(served, self._cases(levels), self._change)])

    def values(self, partitions: Sequence[Partition], levels: FloatArray | None = None) -> FloatArray:
        """(P, ...) V = 2 l_k - sum_j l_j of every partition, l_j the mean of log2(1 + power at UE j / residual).

        Args:
            partitions: P of them.
            levels: (..., 1 + N, 3) defects a, g and b of the AP and its neighbours, in as many cases as there are;
                none without.
        """
        values = self._drawn.values(partitions, self._cases(levels), self._change)
        return values.reshape(len(partitions), *(() if levels is None else levels.shape[:-2]))

    def heard(self, partition: Partition, levels: FloatArray) -> FloatArray:
        """(W, 2) of what the value of a partition is made: l_k, and the sum of l_j over all other UEs.

        Args:
            partition: of some of the UE's APs.
            levels: (W, 1 + N, 3) as in `values`.
        """
        [level] = self._drawn.levels([partition], self._cases(levels), self._change)
        own = level[:, self._drawn.at]
        return np.stack([own, level.sum(axis=1) - own], axis=1)

    def _cases(self, levels: FloatArray | None) -> FloatArray | None:
        """(W, C, 3) of the UE's APs; none if there is one case and nobody is defective: so it is to the last bit."""
        if levels is None or not (levels.ndim > 2 or levels[[*self.members]].any()):
            return None
        return np.clip(levels, 0, 1)[..., self.members, :].reshape(-1, len(self.members), 3)


class _Drawn:
    """What the UE's APs bring by the draws: no AP's own, all that know the same of them come to the same."""

    def __init__(
        self,
        config: Config,
        ue: int,
        at: int,
        rho: FloatArray,
        beta: FloatArray,
        pilots: IntArray,
    ) -> None:
        self.at, self._key, self._config = at, ue, config  # its place among the U UEs that its C APs reach
        self._rho, self._beta = rho, beta  # (C,), (C, U)
        self._h, self._h_hat, self._unknown = drawn(config, beta, pilots, ue)
        self._sent: dict[Group, ComplexArray] = {}  # (B, C, L) of the groups that were asked about so far
        self._as_drawn: dict[Group, ComplexArray] = {}  # (B, U) of the same
        self._if_defective: dict[tuple[Group, bytes], ComplexArray] = {}  # (B, U) of those that were last asked about
        self._worth: dict[tuple[Partition, bytes], float] = {}

    def worth(self, partitions: Sequence[Partition], case: FloatArray | None, change: FloatArray) -> FloatArray:
        """(P,) values of partitions in one case, if those of their APs transmit that the config lets choose."""
        key = b"" if case is None else _key(case[0], change)
        if missing := [partition for partition in partitions if (partition, key) not in self._worth]:
            chosen = [_served(partition) if self._config.selects_serving else [partition] for partition in missing]
            place = {served: at for at, served in enumerate(dict.fromkeys(itertools.chain(*chosen)))}
            levels = self.levels(list(place), case, change)[:, 0]
            for partition, served in zip(missing, chosen, strict=True):
                of_served = levels[[place[one] for one in served]]
                self._worth[partition, key] = self._value(of_served)[self._best(of_served)]
        return np.array([self._worth[partition, key] for partition in partitions])

    def best(self, served: Sequence[Partition], case: FloatArray | None, change: FloatArray) -> int:
        """Which of what is left of a partition, the whole first, is worth most in one case."""
        return self._best(self.levels(served, case, change)[:, 0])

    def _best(self, levels: FloatArray) -> int:
        """As `best`, of l_j (P, U), among those that leave the UE enough (`cooperation.serving_floor`)."""
        own = levels[:, self.at]
        enough = own >= self._config.cooperation.serving_floor * own[0]
        return int(np.where(enough, self._value(levels), -np.inf).argmax())

    def values(self, partitions: Sequence[Partition], cases: FloatArray | None, change: FloatArray) -> FloatArray:
        """(P, W) V of partitions in cases (W, C, 3) of defects where channels change (U,), or (P, 1) without any."""
        return self._value(self.levels(partitions, cases, change))

    def _value(self, levels: FloatArray) -> FloatArray:
        """(...) V of l_j (..., U)."""
        return np.asarray(2 * levels[..., self.at] - levels.sum(axis=-1))

    def levels(self, partitions: Sequence[Partition], cases: FloatArray | None, change: FloatArray) -> FloatArray:
        """(P, W, U) l_j of all UEs."""
        groups = list(dict.fromkeys(itertools.chain(*partitions)))
        received = self._known(groups) if cases is None else self._what_if(groups, cases, change)
        total = np.zeros((len(partitions), *received[groups[0]].shape), complex)
        for of_one, partition in zip(total, partitions, strict=True):
            for group in sorted(partition, key=int.bit_count):
                of_one += received[group]
        return np.asarray(np.log2(1 + np.abs(total) ** 2 / residual(self._config)).mean(axis=-2))

    # --- as drawn -----------------------------------------------------------------------------------------

    def _known(self, groups: Sequence[Group]) -> dict[Group, ComplexArray]:
        """(1, B, U) what UEs receive of each group."""
        if missing := [group for group in groups if group not in self._as_drawn]:
            blocks, aps, antennas, ues = self._h.shape
            stacked = self._h.reshape(blocks, aps * antennas, ues).conj().swapaxes(1, 2)  # (B, U, C L)
            sent = np.stack(self._sent_by(missing)).reshape(len(missing), blocks, aps * antennas)
            received = np.einsum("bul,gbl->gbu", stacked, sent)
            self._as_drawn |= zip(missing, received[:, None], strict=True)
        return self._as_drawn

    def _sent_by(self, groups: Sequence[Group]) -> list[ComplexArray]:
        """(B, C, L) what each group radiates for the UE: its busiest AP meets its power on average."""
        if missing := [group for group in groups if group not in self._sent]:
            precoders = _mmse(self._h_hat, self._gram, self.at, self._unknown, self._places(missing))
            power = (np.abs(precoders) ** 2).sum(axis=3).mean(axis=1)  # (G, C)
            room = np.divide(self._rho, power, out=np.full(power.shape, np.inf), where=power > 0).min(axis=1)
            scale = np.sqrt(np.where(np.isfinite(room), room, 0))[:, None, None, None]
            self._sent |= zip(missing, precoders * scale, strict=True)
        return [self._sent[group] for group in groups]

    def _places(self, groups: Sequence[Group]) -> BoolArray:
        """(G, C) which of the UE's APs are in each group."""
        return np.array(groups)[:, None] >> np.arange(len(self._rho)) & 1 > 0

    @cached_property
    def _gram(self) -> ComplexArray:
        """(B, C L, C L) covariance of what the APs' antennas hear of the UEs, with what no estimate tells."""
        blocks, aps, antennas, ues = self._h_hat.shape
        flat = self._h_hat.reshape(blocks, aps * antennas, ues)
        return np.asarray(flat @ flat.conj().swapaxes(1, 2) + np.diag(np.repeat(self._unknown, antennas)))

    # --- what if ------------------------------------------------------------------------------------------

    def _what_if(self, groups: Sequence[Group], cases: FloatArray, change: FloatArray) -> dict[Group, ComplexArray]:
        """(W, B, U) what UEs receive of each group in W cases of defects (W, C, 3)."""
        received: dict[Group, ComplexArray] = {}
        known: dict[tuple[Group, bytes], ComplexArray] = {}
        self._sent_by(groups)  # all at once
        for group, places in zip(groups, self._places(groups), strict=True):
            keys = [(group, _key(case, change)) for case in cases[:, places]]
            known |= {key: self._if_defective[key] for key in keys if key in self._if_defective}
            if new := {key: at for at, key in enumerate(keys) if key not in known}:
                of_group = cases[[*new.values()]][:, places]
                known |= zip(new, self._received(group, places, of_group, change), strict=True)
            received[group] = np.array([known[key] for key in keys])
        self._if_defective = known  # most often the next question is about the same
        return received

    def _received(self, group: Group, places: BoolArray, cases: FloatArray, change: FloatArray) -> ComplexArray:
        """(W, B, U) what UEs receive of a group of n APs, at these places, in cases (W, n, 3) of their defects."""
        [sent] = self._sent_by([group])
        by_ap = sent[:, places].swapaxes(0, 1)[..., None, :]  # (n, B, 1, L)
        as_drawn, otherwise = ((by_ap @ h[places])[None, ..., 0, :] for h in self._through)  # (1, n, B, U) each
        incoherence, staleness, wrongness = np.moveaxis(cases, -1, 0)  # (W, n)
        late = 1 - (1 - staleness).prod(axis=1) if len(by_ap) > 1 else np.zeros(len(cases))
        kept = (1 - wrongness)[..., None] * (1 - late[:, None] * change)[:, None]  # (W, n, U)
        spread = np.sqrt(-np.log1p(-np.minimum(incoherence, _MOST_INCOHERENCE)))
        phase = np.exp(1j * spread[..., None] * self._z[places])  # (W, n, B)
        parts = np.sqrt(kept)[..., None, :] * as_drawn + np.sqrt(1 - kept)[..., None, :] * otherwise
        return np.asarray((phase[..., None] * parts).sum(axis=1))

    @cached_property
    def _through(self) -> ComplexArray:
        """(2, C, B, L, U) the channels, conjugate, and others that are independent of them."""
        rng = generator(self._config.seed, Purpose.WHAT_IF, self._key)
        others = gaussian(rng, *self._h.shape) * np.sqrt(self._beta)[:, None]
        return np.stack([self._h, others]).conj().swapaxes(1, 2)

    @cached_property
    def _z(self) -> FloatArray:
        """(C, B) phases of what APs radiate, of variance 1."""
        rng = generator(self._config.seed, Purpose.WHAT_IF, self._key, 1)
        return rng.standard_normal((len(self._rho), len(self._h)))


def _key(case: FloatArray, change: FloatArray) -> bytes:
    """What a case (C, 3) is known by: how fast channels change is of account only where somebody is late."""
    return case.tobytes() + (change.tobytes() if case[:, STALENESS].any() else b"")


_ALL_DRAWN: WeakValueDictionary[tuple[Hashable, ...], _Drawn] = WeakValueDictionary()


def _drawn_once(config: Config, ue: int, at: int, rho: FloatArray, beta: FloatArray, pilots: IntArray) -> _Drawn:
    """What `_Drawn` makes of these, once in a process: what it comes to follows from them alone."""
    key = (config, ue, at, rho.tobytes(), beta.tobytes(), pilots.tobytes())
    found = _ALL_DRAWN.get(key)
    if found is None:
        found = _ALL_DRAWN[key] = _Drawn(config, ue, at, rho, beta, pilots)
    return found


@lru_cache(maxsize=2**10)  # a UE of five APs has 52 partitions
def _served(partition: Partition) -> list[Partition]:
    """What is left of a partition if only some of its APs transmit: for all sets of them, the largest first."""
    aps = [1 << place for place in range(sum(partition).bit_length()) if sum(partition) >> place & 1]
    some = itertools.chain.from_iterable(itertools.combinations(aps, size) for size in range(len(aps), 0, -1))
    return [_only(partition, sum(served)) for served in some]


def _only(partition: Partition, served: Group) -> Partition:
    """A partition of which nobody else transmits; its groups in order, so that equal ones are equal."""
    left = [group & served for group in partition if group & served]
    return tuple(sorted(left, key=lambda group: group & -group))


def _mmse(h_hat: ComplexArray, gram: ComplexArray, ue: int, unknown: FloatArray, groups: BoolArray) -> ComplexArray:
    """(G, B, C, L) MMSE precoders for one UE by each group of C APs, 0 for who is not in it.

    Args:
        h_hat: (B, C, L, U) estimates [sqrt power gain].
        gram: (B, C L, C L) their covariance, with what they do not tell.
        ue: position among the U.
        unknown: (C,) what no estimate tells of each AP's antennas, relative to its power.
        groups: (G, C) who is in it.
    """
    blocks, count, antennas, ues = h_hat.shape
    member = np.repeat(groups, antennas, axis=1)  # (G, C L)
    both = member[:, None, :, None] & member[:, None, None, :]
    matrix = np.where(both, gram, np.eye(count * antennas) * unknown.max())
    wanted = np.where(member[:, None], h_hat.reshape(blocks, count * antennas, ues)[..., ue], 0)
    w = np.asarray(np.linalg.solve(matrix, wanted[..., None])[..., 0], complex)
    return w.reshape(len(groups), blocks, count, antennas)
