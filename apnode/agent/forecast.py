"""What links would bring, as far as an AP can tell before any forms: from the large-scale fading around it.

An AP draws small-scale fading for itself and its neighbours, lets them precode alone and jointly, and counts what the
UEs would gain. Both ends of a link know the same of the UEs that they share and make the same draws, so they agree.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from apnode.agent.prospects import Group, Prospects
from apnode.agent.surroundings import Surroundings, drawn, residual
from apnode.config import Config
from apnode.protocol.messages import Association, ComplexArray, FloatArray, IntArray

_OTHERWISE_SINR = 8.0  # taken for that of a UE of whose other APs nothing is known

Links = dict[tuple[int, int], float]  # by rows in `Surroundings` [bit/s/Hz]


def link_gains(
    config: Config,
    ap: int,
    association: Association,
    levels: FloatArray | None = None,
    change: FloatArray | None = None,
) -> FloatArray:
    """(N,) what the link with each neighbour would add to the sum rate [bit/s/Hz].

    Where linked APs precode jointly for the UEs that they both serve (`selective`), each UE's APs are joined along the
    links that serve most UEs, among those along the most profitable; a link is worth what it adds there, over all UEs
    of both. Elsewhere neighbours are added one by one, the most profitable first, to those whose channels the AP knows
    when it precodes; a link is worth what it then adds.

    Args:
        config: gives radio and precoding, and the interference that cooperation leaves.
        ap: whose links.
        association: what this AP has been told, with what is around it.
        levels: what if: (1 + N, 3) defects of this AP and its neighbours, as `Prospects` has them; where APs precode
            jointly for UEs that they both serve only. Without it nobody has any.
        change: as `prospects_of` takes it.
    """
    return Outlook(config, ap, association, change).gains(levels)


class Outlook:
    """What an AP can think ahead in one layout; while it is kept, others in its process share its draws."""

    def __init__(self, config: Config, ap: int, association: Association, change: FloatArray | None = None) -> None:
        """As `link_gains`."""
        self._config, self._around = config, Surroundings(ap, association, config.radio)
        selective = config.precoding.joint == "selective"
        self._prospects = prospects_of(config, self._around, change) if selective else {}

    def gains(self, levels: FloatArray | None = None) -> FloatArray:
        """(N,) as `link_gains`."""
        if self._config.precoding.joint == "selective":
            return gains_of_links(self._around, self._prospects.values(), levels)
        return _one_by_one(self._config, self._around)


# --- joint precoding for common UEs -----------------------------------------------------------------------


def prospects_of(config: Config, around: Surroundings, change: FloatArray | None = None) -> dict[int, Prospects]:
    """Of every UE that the AP serves, by the UE's id.

    Args:
        config: as for `link_gains`.
        around: what the AP knows.
        change: (U,) how fast the channel of every UE in `around` changes, as `Prospects` has it.
    """
    return {int(around.ids[ue]): Prospects(config, around, ue, change) for ue in around.served(0)}


def gains_of_links(
    around: Surroundings, prospects: Iterable[Prospects], levels: FloatArray | None = None
) -> FloatArray:
    """(N,) as `link_gains`, from what `prospects_of` gave."""
    return gains_along(around, [joining_links(around, of_ue, levels) for of_ue in prospects])


def gains_along(around: Surroundings, joining: Iterable[Links]) -> FloatArray:
    """(N,) as `link_gains`, from the `joining_links` of every UE that the AP serves."""
    gains = np.zeros(len(around.aps))
    for pair, gain in itertools.chain.from_iterable(links.items() for links in joining):
        if 0 in pair:
            gains[max(pair)] += gain
    return gains[1:]


def joining_links(around: Surroundings, prospects: Prospects, levels: FloatArray | None) -> Links:
    """The links that join the APs of one UE, and what each adds when it does; others add nothing."""
    group_of = dict(zip(prospects.members, prospects.alone, strict=True))
    known: dict[Group, float] = dict.fromkeys(group_of.values(), 0.0)  # an AP for itself changes nothing
    links: Links = {}
    while True:
        pairs = [p for p in itertools.combinations(prospects.members, 2) if group_of[p[0]] != group_of[p[1]]]
        merged = {pair: group_of[pair[0]] | group_of[pair[1]] for pair in pairs}
        if new := list(dict.fromkeys(group for group in merged.values() if group not in known)):
            gains = prospects.gains([prospects.with_group(group) for group in new], levels)
            known |= zip(new, gains.tolist(), strict=True)
        added = {pair: known[merged[pair]] - known[group_of[pair[0]]] - known[group_of[pair[1]]] for pair in pairs}
        paying = [pair for pair in pairs if added[pair] > 0]
        if not paying:
            return links
        best = max(paying, key=lambda pair: (around.common(*pair), added[pair]))  # the first of equals
        links[best] = added[best]
        group_of = {row: merged[best] if group & merged[best] else group for row, group in group_of.items()}


# --- precoding with the channels of others ----------------------------------------------------------------


def _one_by_one(config: Config, around: Surroundings) -> FloatArray:
    """(N,) what each neighbour's channels add to what an AP does, the most profitable neighbours first."""
    count, own = len(around.aps), around.served(0)
    gains = np.zeros(count - 1)
    if not own:
        return gains
    columns = np.flatnonzero(around.beta[0] > 0)
    columns = np.union1d(columns, np.flatnonzero(around.serves.any(axis=0)))
    h, h_hat, _ = drawn(config, around.beta[:, columns], around.pilots[columns], int(around.ids[own[0]]))
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
            load = np.where(load > 0, load, 1)  # no channel at all
            w = np.linalg.solve(gram + load[:, None, None] * np.eye(gram.shape[1]), wanted)[:, : h.shape[2]]
        else:
            w = h_hat[:, 0][..., at]
        norm = np.sqrt(np.maximum((np.abs(w) ** 2).sum(axis=1, keepdims=True), 1e-300))
        return np.asarray(h[:, 0].conj().swapaxes(1, 2) @ (w / norm * np.sqrt(rho)))

    left, alone = residual(config), received([])
    usual = math.sqrt(_OTHERWISE_SINR * left)
    amplitude = alone[:, at, range(len(own))].real.mean(axis=0)  # (n,)
    leaked = _leakage(alone, at).mean(axis=0)

    def value(known: Sequence[int]) -> float:
        mine = received(known)
        wanted = np.full(mine.shape[:2], usual)
        wanted[:, at] += mine[:, at, range(len(own))].real - amplitude
        level = np.maximum(left + _leakage(mine, at) - leaked, config.radio.noise_power_w)
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
