"""The greedy link oracle: which links to form if one knew every channel. A reference, never reachable from an AP."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import numpy as np

from apnode.config import Config
from apnode.messages import Association, ChannelBlock, ComplexArray
from apnode.precoding import Precoder, ues_that_matter
from channel_server.sinr import sinr_of, spectral_efficiency
from channel_server.topology import Layout, long_term_interference, neighbour_lists
from coordinator.presets import ConfigError

Link = tuple[int, int]  # in directed clusters from who asks to who is asked, otherwise the lower AP first


def check_oracle(config: Config) -> None:
    """Refuse clusters in which a link changes more than its two ends.

    Raises:
        ConfigError: naming them.
    """
    if config.cooperation.cluster not in {"ego", "directed"}:
        raise ConfigError(f'the oracle knows clusters "ego" and "directed", not "{config.cooperation.cluster}"')


def candidate_links(config: Config, layout: Layout) -> list[Link]:
    """Links that can form: between neighbours that know each other; in directed clusters to whomever one may ask."""
    lists = neighbour_lists(config, long_term_interference(config, layout), layout.serving)
    asks = [(ap, other) for ap, neighbours in enumerate(lists) for other in neighbours]
    if config.cooperation.cluster == "directed":
        return asks
    return [(ap, other) for ap, other in asks if ap < other and ap in lists[other]]


def greedy_links(config: Config, layout: Layout, h: ComplexArray, h_hat: ComplexArray, count: int) -> list[Link]:
    """Links in the order in which each adds most to the sum rate (9) of those before, as the APs would precode.

    Gains are re-evaluated when they come to the top only ("lazy greedy"), since a link mostly changes the gains of
    links nearby, and mostly downwards.

    Args:
        config: what APs do with links; clusters `ego` or `directed`.
        layout: who serves whom.
        h: (B, M, K, L) true channels of all blocks that count [sqrt power gain].
        h_hat: (B, M, K, L) the APs' estimates in the same blocks [sqrt power gain].
        count: how many links at most.

    Returns:
        up to `count` links.

    Raises:
        ConfigError: if the config's clusters are none of these.
    """
    check_oracle(config)
    network = _Network(config, layout, h, h_hat)
    queue = [(-network.gain(link), 0, link) for link in candidate_links(config, layout)]
    heapq.heapify(queue)
    chosen: list[Link] = []
    while queue and len(chosen) < count:
        _, known_at, link = heapq.heappop(queue)
        if known_at == len(chosen):
            network.add(link)
            chosen.append(link)
        else:
            heapq.heappush(queue, (-network.gain(link), len(chosen), link))
    return chosen


class _Network:
    """What all UEs receive with the links so far; the APs' own precoding, fed with all blocks at once."""

    def __init__(self, config: Config, layout: Layout, h: ComplexArray, h_hat: ComplexArray) -> None:
        self._noise = config.radio.noise_power_w
        self._directed = config.cooperation.cluster == "directed"
        self._ues = [list(ues) for ues in layout.ues_of]
        self._h, self._h_hat = h, h_hat.swapaxes(2, 3)  # (B, M, L, K) as APs have them
        self._matters = [
            ues_that_matter(config, ues, beta) for ues, beta in zip(layout.ues_of, layout.beta, strict=True)
        ]
        self._precoders = [
            Precoder(ap, config, Association(0, ues, layout.beta[ap], layout.pilots, (), (), np.zeros(0)))
            for ap, ues in enumerate(layout.ues_of)
        ]
        self._alone = [precoder.alone(self._h_hat[:, ap]) for ap, precoder in enumerate(self._precoders)]
        self._blocks: dict[Link, ChannelBlock] = {}
        self._partners: list[tuple[int, ...]] = [() for _ in self._precoders]
        blocks, _, num_ues, _ = h.shape
        self._effective = np.zeros((blocks, num_ues, num_ues), complex)
        self._sent = [self._received(ap, w) for ap, w in enumerate(self._alone)]  # (B, K, |K_m|) of each AP's streams
        for ues, sent in zip(self._ues, self._sent, strict=True):
            self._effective[..., ues] += sent
        self._rate = self._sum_rate(self._effective)

    def gain(self, link: Link) -> float:
        """What a link would add to the sum rate [bit/s/Hz]."""
        effective = self._effective.copy()
        for ap, sent in self._with(link):
            effective[..., self._ues[ap]] += sent - self._sent[ap]
        return self._sum_rate(effective) - self._rate

    def add(self, link: Link) -> None:
        """Form a link."""
        for ap, sent in self._with(link):
            self._effective[..., self._ues[ap]] += sent - self._sent[ap]
            self._sent[ap] = sent
        for ap, other in self._ends(link):
            self._partners[ap] = tuple(sorted((*self._partners[ap], other)))
        self._rate = self._sum_rate(self._effective)

    def _ends(self, link: Link) -> list[Link]:
        """Each AP that precodes differently, and with whom."""
        ap, other = link
        return [(ap, other)] if self._directed else [(ap, other), (other, ap)]

    def _with(self, link: Link) -> list[tuple[int, ComplexArray]]:
        """What UEs would receive of the streams of each end."""
        changed = []
        for ap, other in self._ends(link):
            partners = {partner: self._block(ap, partner) for partner in sorted((*self._partners[ap], other))}
            w = self._precoders[ap].joint(self._h_hat[:, ap], self._alone[ap], partners)
            changed.append((ap, self._received(ap, w)))
        return changed

    def _block(self, ap: int, partner: int) -> ChannelBlock:
        """What `partner` tells `ap`."""
        if (ap, partner) not in self._blocks:
            told = self._precoders[partner].block(0, self._matters[ap], self._h_hat[:, partner])
            self._blocks[ap, partner] = told
        return self._blocks[ap, partner]

    def _received(self, ap: int, w: ComplexArray) -> ComplexArray:
        return self._h[:, ap].conj() @ w  # (B, K, L) @ (B, L, |K_m|)

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
