"""The greedy link oracle: which links to form if one knew every channel. A reference, never reachable from an AP."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import numpy as np

from apnode.config import Config
from apnode.protocol.messages import Association, ChannelBlock, ComplexArray, in_time
from apnode.radio.precoding import Precoder
from cfmimo.errors import ConfigError
from channel_server.impairments import fronthaul_levels
from channel_server.sinr import sinr_of, spectral_efficiency
from channel_server.topology import Layout, common_ue, long_term_interference, neighbour_lists

Link = tuple[int, int]  # in directed clusters from who asks to who is asked, otherwise the lower AP first
_Groups = dict[tuple[int, int], frozenset[int]]  # (AP, UE that it serves) -> with whom it precodes for it


def check_oracle(config: Config) -> None:
    """Refuse clusters of which it cannot tell what a link changes.

    Raises:
        ConfigError: naming them.
    """
    kind = config.cooperation.cluster
    if kind not in {"ego", "directed", "serving"}:
        raise ConfigError(f'the oracle knows clusters "ego", "directed" and "serving", not "{kind}"')


def candidate_links(config: Config, layout: Layout) -> list[Link]:
    """Links that can form and change something.

    In directed clusters to whomever one may ask; otherwise between neighbours that know each other, in clusters
    `serving` if they serve a UE in common.
    """
    lists = neighbour_lists(config, long_term_interference(config, layout), layout.serving)
    asks = [(ap, other) for ap, neighbours in enumerate(lists) for other in neighbours]
    if config.cooperation.cluster == "directed":
        return asks
    both = [(ap, other) for ap, other in asks if ap < other and ap in lists[other]]
    common = common_ue(layout.serving)
    return [link for link in both if config.cooperation.cluster != "serving" or common[link]]


def greedy_links(config: Config, layout: Layout, h: ComplexArray, h_hat: ComplexArray, count: int) -> list[Link]:
    """Links in the order in which each adds most to the sum rate (9) of those before, as the APs would precode.

    Gains are re-evaluated when they come to the top only ("lazy greedy"), since a link mostly changes the gains of
    links nearby, and mostly downwards.

    Args:
        config: what APs do with links; clusters `ego`, `directed` or `serving`.
        layout: who serves whom.
        h: (B, M, K, L) true channels of all blocks that count [sqrt power gain].
        h_hat: (B, M, K, L) the APs' estimates in the same blocks; of UEs out of reach not looked at [sqrt power gain].
        count: how many links at most.

    Returns:
        up to `count` links, fewer if no other adds anything.

    Raises:
        ConfigError: if the config's clusters are none of these.
    """
    check_oracle(config)
    network = _Network(config, layout, h, h_hat)
    queue = [(-network.gain(link), 0, link) for link in candidate_links(config, layout)]
    heapq.heapify(queue)
    chosen: list[Link] = []
    while queue and len(chosen) < count:
        loss, known_at, link = heapq.heappop(queue)
        if known_at == len(chosen):
            if loss >= 0:
                break  # nothing gains any more
            network.add(link)
            chosen.append(link)
        else:
            heapq.heappush(queue, (-network.gain(link), len(chosen), link))
    return chosen


class _Network:
    """What all UEs receive with the links so far; the APs' own precoding, fed with all blocks at once."""

    def __init__(self, config: Config, layout: Layout, h: ComplexArray, h_hat: ComplexArray) -> None:
        self._noise = config.radio.noise_power_w
        self._cluster = config.cooperation.cluster
        self._selects = config.precoding.joint == "selective"
        self._ues = layout.ues_of
        before = config.cooperation.history_blocks  # of the blocks: estimates in them are remembered only
        self._h = h[before:]
        self._h_hat = [h_hat[:, ap, reach].swapaxes(1, 2) for ap, reach in enumerate(layout.reach)]  # (B, L, R) each
        nobody: dict[str, Any] = {"neighbours": (), "endpoints": (), "interference": np.zeros(0)}
        self._precoders = [
            Precoder(ap, config, Association(episode=0, **layout.told(ap), **nobody)) for ap in range(len(self._ues))
        ]
        self._alone = [precoder.alone(self._h_hat[ap][before:]) for ap, precoder in enumerate(self._precoders)]
        self._late = fronthaul_levels(config).tolist()
        self._blocks: dict[Link, ChannelBlock] = {}
        self._groups: _Groups = {(ap, ue): frozenset() for ap, ues in enumerate(self._ues) for ue in ues}
        self._precoded: dict[tuple[int, int, frozenset[int]], ComplexArray] = {}  # (B, L) by AP, UE and group
        blocks, _, num_ues, _ = self._h.shape
        self._effective = np.zeros((blocks, num_ues, num_ues), complex)
        self._sent: dict[tuple[int, int], ComplexArray] = {}  # (B, K) what UEs receive of an AP's stream to a UE
        for ap, ues in enumerate(self._ues):
            for position, ue in enumerate(ues):
                self._sent[ap, ue] = self._received(ap, self._alone[ap][..., position])
                self._effective[..., ue] += self._sent[ap, ue]
        self._rate = self._sum_rate(self._effective)

    def gain(self, link: Link) -> float:
        """What a link would add to the sum rate [bit/s/Hz]."""
        effective = self._effective.copy()
        for (ap, ue), sent in self._with(self._regrouped(link)).items():
            effective[..., ue] += sent - self._sent[ap, ue]
        return self._sum_rate(effective) - self._rate

    def add(self, link: Link) -> None:
        """Form a link."""
        groups = self._regrouped(link)
        for (ap, ue), sent in self._with(groups).items():
            self._effective[..., ue] += sent - self._sent[ap, ue]
            self._sent[ap, ue] = sent
        self._groups |= groups
        self._rate = self._sum_rate(self._effective)

    def _regrouped(self, link: Link) -> _Groups:
        """With whom APs precode for those UEs for which a link changes it."""
        if self._cluster == "serving":
            return self._joined(*link)
        ends = [link] if self._cluster == "directed" else [link, link[::-1]]
        return {
            (ap, ue): self._groups[ap, ue] | {partner}
            for ap, partner in ends
            for ue in self._ues[ap]
            if not self._selects or ue in self._ues[partner]
        }

    def _joined(self, one: int, other: int) -> _Groups:
        """Clusters `serving`: of each common UE, the components of the two become one, if they are not yet."""
        groups: _Groups = {}
        for ue in {*self._ues[one]} & {*self._ues[other]}:
            if other not in self._groups[one, ue]:
                members = {one, other, *self._groups[one, ue], *self._groups[other, ue]}
                groups |= {(member, ue): frozenset(members - {member}) for member in members}
        return groups

    def _with(self, groups: _Groups) -> dict[tuple[int, int], ComplexArray]:
        """(B, K) what UEs would receive of each of these streams."""
        return {(ap, ue): self._received(ap, self._precoder(ap, ue, group)) for (ap, ue), group in groups.items()}

    def _precoder(self, ap: int, ue: int, group: frozenset[int]) -> ComplexArray:
        """(B, L) an AP's precoder for a UE together with a group."""
        if (ap, ue, group) not in self._precoded:
            partners = {partner: self._block(ap, partner) for partner in sorted(group)}
            w = self._precoders[ap].joint(self._h_hat[ap], self._alone[ap], partners, {ue: group}, self._late[ap])
            for position, served in enumerate(self._ues[ap]):
                if served == ue or not self._selects:  # RZF is over all UEs at once
                    self._precoded[ap, served, group] = w[..., position]
        return self._precoded[ap, ue, group]

    def _block(self, ap: int, partner: int) -> ChannelBlock:
        """What `partner` tells `ap`; taken for what a relay tells it in clusters `serving`, if the two have no link."""
        if (ap, partner) not in self._blocks:
            told = self._precoders[partner].block(0, self._precoders[ap].matters, self._h_hat[partner])
            self._blocks[ap, partner] = in_time(told, self._late[partner])
        return self._blocks[ap, partner]

    def _received(self, ap: int, w: ComplexArray) -> ComplexArray:
        """(B, K) of a precoder (B, L)."""
        return np.asarray((self._h[:, ap].conj() @ w[..., None])[..., 0])

    def _sum_rate(self, effective: ComplexArray) -> float:
        return float(spectral_efficiency(sinr_of(effective, self._noise)).sum(axis=1).mean())


def requests(links: Iterable[Link], config: Config, layout: Layout) -> list[int]:
    """The action of every AP that forms these links: a bit mask over its neighbours, strongest interferer first."""
    lists = neighbour_lists(config, long_term_interference(config, layout), layout.serving)
    actions = [0] * len(lists)
    directed = config.cooperation.cluster == "directed"
    for link in links:
        for ap, other in (link,) if directed else (link, link[::-1]):
            actions[ap] |= 1 << lists[ap].index(other)
    return actions
