"""What links would bring, as far as an AP can tell before any forms: from the large-scale fading around it.

An AP draws small-scale fading for itself and its neighbours, lets them precode alone and jointly, and counts what the
UEs would gain. Both ends of a link know the same of the UEs that they share and make the same draws, so they agree.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apnode.config import Config
from apnode.protocol.messages import Association, ComplexArray, FloatArray, IntArray
from apnode.protocol.rng import Purpose, generator
from apnode.radio.csi import error_variance
from apnode.radio.power import power_split

_BLOCKS = 8  # of simulated fading
_MOST_DEFECT = 1 - 1e-12  # an AP without any coherence would be off by an infinite phase
_OTHERWISE_SINR = 8.0  # taken for that of a UE of whose other APs nothing is known

BoolArray = NDArray[np.bool_]
Group = frozenset[int]  # positions of APs in `_Surroundings`
Worth = Callable[[Sequence[Group]], list[float]]  # what it brings that each group precodes jointly [bit/s/Hz]


def link_gains(config: Config, ap: int, association: Association, defects: FloatArray | None = None) -> FloatArray:
    """(N,) what the link with each neighbour would add to the sum rate [bit/s/Hz].

    Where linked APs precode jointly for the UEs that they both serve (`selective`), each UE's APs are joined along the
    links that serve most UEs, among those along the most profitable; a link is worth what it adds there, over all UEs
    of both. Elsewhere neighbours are added one by one, the most profitable first, to those whose channels the AP knows
    when it precodes; a link is worth what it then adds.

    Args:
        config: gives radio and precoding, and the interference that cooperation leaves.
        ap: whose links.
        association: what this AP has been told, with what is around it.
        defects: what if: (1 + N, 2) of this AP and its neighbours the incoherence a, which leaves 1 - a of the power of
            a coherent sum, and the part b of the power whose channel is another than the estimated one; where APs
            precode jointly for UEs that they both serve only. Without it nobody has any.
    """
    around = _Surroundings(config, ap, association)
    if config.precoding.joint == "selective":
        gains = np.zeros(len(around.aps))
        for ue in around.served(0):
            for pair, gain in _joined(around, *_worth_to(config, around, ue, defects)).items():
                if 0 in pair:
                    gains[max(pair)] += gain
        return gains[1:]
    return _one_by_one(config, around)


@dataclass(frozen=True, init=False)
class _Surroundings:
    """An AP, in row 0, and its neighbours, with all UEs in reach of any."""

    aps: tuple[int, ...]
    beta: FloatArray  # (1 + N, U), 0 out of reach [power gain]
    serves: BoolArray  # (1 + N, U) whether an AP serves a UE
    rho: FloatArray  # (1 + N, U) what it spends on it [W]
    pilots: IntArray  # (U,)
    ids: IntArray  # (U,) of the UEs

    def __init__(self, config: Config, ap: int, association: Association) -> None:
        ids = np.union1d(association.reach, association.around).astype(np.int64)
        rows = len(association.neighbours) + 1
        own, others = np.searchsorted(ids, association.reach), np.searchsorted(ids, association.around)
        beta, serves, pilots = np.zeros((rows, len(ids))), np.zeros((rows, len(ids)), bool), np.zeros(len(ids), int)
        beta[0, own], pilots[own] = association.beta.astype(np.float32), association.pilots  # as neighbours are told
        beta[1:, others], pilots[others] = association.neighbour_beta, association.around_pilots
        serves[0, np.searchsorted(ids, association.ues)] = True
        serves[1:, others] = association.neighbour_serves
        rho = np.zeros(beta.shape)
        for row, served in enumerate(serves):
            rho[row, served] = power_split(beta[row, served], config.radio)
        values = {"beta": beta, "serves": serves, "rho": rho, "pilots": pilots, "ids": ids}
        for name, value in {"aps": (ap, *association.neighbours), **values}.items():
            object.__setattr__(self, name, value)

    def served(self, row: int) -> list[int]:
        """Columns of the UEs that an AP serves."""
        return np.flatnonzero(self.serves[row]).tolist()

    def common(self, one: int, other: int) -> int:
        """UEs that two APs both serve."""
        return int((self.serves[one] & self.serves[other]).sum())


# --- joint precoding for common UEs -----------------------------------------------------------------------


def _worth_to(config: Config, around: _Surroundings, ue: int, defects: FloatArray | None) -> tuple[list[int], Worth]:
    """A UE's APs, and what joint MMSE precoding of a group of them brings, against each for itself.

    Its rate counts, and what its stream costs other UEs, each of them left with the config's residual interference.
    """
    members = sorted(np.flatnonzero(around.serves[:, ue]).tolist(), key=lambda row: around.aps[row])
    columns = np.union1d(np.flatnonzero(around.beta[members].any(axis=0)), [ue])
    at = int(np.searchsorted(columns, ue))
    key, rho = int(around.ids[ue]), around.rho[members, ue]
    h, h_hat, unknown = _drawn(config, around, members, columns, key)
    if defects is not None:
        h = _defective(config, h, around.beta[members][:, columns], defects[members], key)
    stacked = h.reshape(len(h), -1, len(columns)).conj().swapaxes(1, 2)  # (B, U, C L)

    def received(groups: BoolArray) -> ComplexArray:
        """(G, B, U) from the APs of each group together."""
        precoders = _mmse(h_hat, unknown, at, groups)  # (G, B, C, L)
        power = (np.abs(precoders) ** 2).sum(axis=3).mean(axis=1)  # (G, C)
        room = np.divide(rho, power, out=np.full(power.shape, np.inf), where=power > 0).min(axis=1)
        sent = precoders * np.sqrt(np.where(np.isfinite(room), room, 0))[:, None, None, None]
        return np.asarray(np.einsum("bul,gbl->gbu", stacked, sent.reshape(len(groups), len(h), -1)))

    def value(total: ComplexArray) -> FloatArray:
        """(G,) of what is received of all APs (G, B, U)."""
        level = np.log2(1 + np.abs(total) ** 2 / _residual(config)).mean(axis=1)  # (G, U)
        return np.asarray(2 * level[:, at] - level.sum(axis=1))

    alone = received(np.eye(len(members), dtype=bool))
    nobody = value(alone.sum(axis=0)[None])

    def worth(groups: Sequence[Group]) -> list[float]:
        member = np.array([np.isin(members, list(group)) for group in groups])
        gains: list[float] = (value(received(member) + np.einsum("gc,cbu->gbu", ~member, alone)) - nobody).tolist()
        return gains

    return members, worth


def _joined(around: _Surroundings, members: Sequence[int], worth: Worth) -> dict[tuple[int, int], float]:
    """The links that join the APs of one UE, and what each adds when it does; others add nothing."""
    group_of = {row: frozenset([row]) for row in members}
    known: dict[Group, float] = dict.fromkeys(group_of.values(), 0.0)  # an AP for itself changes nothing
    links: dict[tuple[int, int], float] = {}
    while True:
        pairs = [pair for pair in itertools.combinations(members, 2) if group_of[pair[0]] is not group_of[pair[1]]]
        merged = {pair: group_of[pair[0]] | group_of[pair[1]] for pair in pairs}
        if new := list(dict.fromkeys(group for group in merged.values() if group not in known)):
            known |= zip(new, worth(new), strict=True)
        added = {pair: known[merged[pair]] - known[group_of[pair[0]]] - known[group_of[pair[1]]] for pair in pairs}
        paying = [pair for pair in pairs if added[pair] > 0]
        if not paying:
            return links
        best = max(paying, key=lambda pair: (around.common(*pair), added[pair]))  # the first of equals
        links[best] = added[best]
        group_of |= dict.fromkeys(merged[best], merged[best])


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


# --- precoding with the channels of others ----------------------------------------------------------------


def _one_by_one(config: Config, around: _Surroundings) -> FloatArray:
    """(N,) what each neighbour's channels add to what an AP does, the most profitable neighbours first."""
    count, own = len(around.aps), around.served(0)
    gains = np.zeros(count - 1)
    if not own:
        return gains
    columns = np.flatnonzero(around.beta[0] > 0)
    columns = np.union1d(columns, np.flatnonzero(around.serves.any(axis=0)))
    h, h_hat, _ = _drawn(config, around, range(count), columns, int(around.ids[own[0]]))
    at = np.searchsorted(columns, own)
    served, rho = around.serves[:, columns], around.rho[0, own]

    def received(known: Sequence[int]) -> ComplexArray:
        """(B, U, n) of the AP's streams, precoded with what it knows."""
        if known:
            aps = [0, *sorted(known)]
            stacked = h_hat[:, aps][..., served[aps].any(axis=0)].reshape(len(h), len(aps) * h.shape[2], -1)
            wanted = h_hat[:, aps][..., at].reshape(len(h), stacked.shape[1], -1)
            gram = stacked @ stacked.conj().swapaxes(1, 2)
            load = config.precoding.rzf_alpha * np.trace(gram, axis1=1, axis2=2).real / stacked.shape[2]
            w = np.linalg.solve(gram + load[:, None, None] * np.eye(gram.shape[1]), wanted)[:, : h.shape[2]]
        else:
            w = h_hat[:, 0][..., at]
        norm = np.sqrt(np.maximum((np.abs(w) ** 2).sum(axis=1, keepdims=True), 1e-300))
        return np.asarray(h[:, 0].conj().swapaxes(1, 2) @ (w / norm * np.sqrt(rho)))

    residual, alone = _residual(config), received([])
    usual = math.sqrt(_OTHERWISE_SINR * residual)
    amplitude = alone[:, at, range(len(own))].real.mean(axis=0)  # (n,)
    leaked = _leakage(alone, at).mean(axis=0)

    def value(known: Sequence[int]) -> float:
        mine = received(known)
        wanted = np.full(mine.shape[:2], usual)
        wanted[:, at] += mine[:, at, range(len(own))].real - amplitude
        level = np.maximum(residual + _leakage(mine, at) - leaked, config.radio.noise_power_w)
        return float(np.log2(1 + np.maximum(wanted, 0) ** 2 / level).mean(axis=0).sum())

    known: list[int] = []
    now = value(known)
    while len(known) < count - 1:
        ahead = {row: value([*known, row]) for row in range(1, count) if row not in known}
        best = max(ahead, key=lambda row: ahead[row])
        gains[best - 1], now = ahead[best] - now, ahead[best]
        known.append(best)
    return gains


def _leakage(received: ComplexArray, own: IntArray) -> FloatArray:
    """(B, U) power of an AP's streams (B, U, n) at UEs they are not for; n of the UEs are its own."""
    power = np.abs(received) ** 2
    total: FloatArray = power.sum(axis=2)
    total[:, own] -= power[:, own, range(len(own))]
    return total


# --- fading -----------------------------------------------------------------------------------------------


def _drawn(
    config: Config, around: _Surroundings, aps: Sequence[int], columns: IntArray, key: int
) -> tuple[ComplexArray, ComplexArray, FloatArray]:
    """Channels (B, C, L, U) of some APs and UEs, estimates, and (C,) what these do not tell, relative to the power.

    The draws are the same for whoever makes them for the same key.
    """
    radio, noise = config.radio, config.radio.noise_power_w
    beta, pilots = around.beta[list(aps)][:, columns], around.pilots[columns]
    rng = generator(config.seed, Purpose.FORECAST, key)
    shape = (_BLOCKS, len(beta), radio.antennas)
    h = _gaussian(rng, *shape, len(columns)) * np.sqrt(beta)[:, None]
    same = (pilots[:, None] == pilots).astype(float)
    energy = radio.pilot_power_w * radio.pilot_length
    heard = math.sqrt(energy) * h @ same + math.sqrt(noise) * _gaussian(rng, *shape, radio.pilot_length)[..., pilots]
    h_hat = heard * (math.sqrt(energy) * beta / (energy * beta @ same + noise))[:, None]
    errors = [error_variance(row, pilots, radio.pilot_power_w, radio.pilot_length, noise).sum() for row in beta]
    return h, h_hat, np.array(errors) + noise / radio.ap_power_w


def _defective(config: Config, h: ComplexArray, beta: FloatArray, defects: FloatArray, key: int) -> ComplexArray:
    """What precoders meet in place of h if part b_i of AP i's power goes through another channel, out of phase.

    The phase of AP i is off by N(0, -ln(1 - a_i)), so that 1 - a_i of the power of a coherent sum is left.

    Args:
        config: gives the seed of draws.
        h: (B, C, L, U) [sqrt power gain].
        beta: (C, U) [power gain].
        defects: (C, 2) a and b of each AP.
        key: of the draws, which are the same for whoever makes them.
    """
    incoherence, wrong = np.clip(defects, 0, _MOST_DEFECT).T
    rng = generator(config.seed, Purpose.WHAT_IF, key)
    other = _gaussian(rng, *h.shape) * np.sqrt(beta)[:, None]
    phase = np.sqrt(-np.log1p(-incoherence)) * rng.standard_normal(h.shape[:2])  # (B, C)
    mixed = np.sqrt(1 - wrong)[:, None, None] * h + np.sqrt(wrong)[:, None, None] * other
    return np.asarray(mixed * np.exp(-1j * phase)[..., None, None])


def _gaussian(rng: np.random.Generator, *shape: int) -> ComplexArray:
    parts = rng.standard_normal((2, *shape)) / math.sqrt(2)
    return np.asarray(parts[0] + 1j * parts[1])


def _residual(config: Config) -> float:
    """What a UE is left with as interference and noise where APs cooperate [W]."""
    return float(10 ** (config.cooperation.residual_db / 10) * config.radio.noise_power_w)
