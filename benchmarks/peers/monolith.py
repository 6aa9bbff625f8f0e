"""The same network as one environment that sees everything: no messages, no APs, one array operation after another.

What a researcher would write for a multi-agent library. It draws the same layouts, fading and noise as the channel
server and uses the same formulae, so that with the same actions it gives the same SINRs as a run of the nodes, up to
the complex64 of their messages (tests/test_monolith.py). What it costs is what physics costs without distribution.
"""

from __future__ import annotations

import numpy as np

from apnode.agent.observation import observe
from apnode.config import Config
from apnode.protocol.messages import ComplexArray, FloatArray, IntArray
from apnode.radio.csi import despread, estimate
from apnode.radio.power import scaled
from apnode.radio.precoding import mrt, rzf
from channel_server.fading import channels, received_pilots
from channel_server.impairments import downlink
from channel_server.sinr import received, received_interference, sinr_of, spectral_efficiency
from channel_server.topology import (
    BoolArray,
    Layout,
    long_term_interference,
    make_layout,
    neighbour_lists,
    transmit_power,
)
from channel_server.ue_reports import strongest_interferers


class Monolith:
    """M agents over N neighbours each, in slots of an episode; in one episode after the other.

    An action is a bit mask over an AP's neighbours, as in `apnode.policies`; bits of neighbours that it has not are
    ignored. Links form where both ends ask; an AP precodes over its ego cluster (RZF), or alone (MRT).
    """

    def __init__(self, config: Config) -> None:
        """Take the first layout.

        Raises:
            ValueError: if the config asks for another kind of cooperation than this one.
        """
        cooperation, precoding = config.cooperation, config.precoding
        if (cooperation.cluster, cooperation.acceptance) != ("ego", "mutual"):
            raise ValueError("only ego clusters of mutual agreement")
        if (precoding.alone, precoding.joint, precoding.power) != ("mrt", "rzf", "paper"):
            raise ValueError("only MRT alone, RZF jointly, and power as in the paper")
        if config.reward.scope != "own":
            raise ValueError("only a reward of an AP's own gain")
        self._config = config
        self.num_agents, self.num_neighbours = config.radio.num_aps, cooperation.max_neighbours
        self.observation_size, self.num_actions = config.observed, 2**self.num_neighbours
        self.slot = 0  # the next one
        self.sinr: FloatArray  # (2, B, K) of the last slot, with cooperation and without, linear
        self.begin_episode()

    def begin_episode(self) -> FloatArray:
        """The layout of the slot that comes next; returns the (M, D) observations before it."""
        config = self._config
        self._layout = layout = make_layout(config, self.slot // config.run.slots_per_episode)
        reported = long_term_interference(config, layout)
        lists = neighbour_lists(config, reported, layout.serving)
        shape = (self.num_agents, self.num_neighbours)
        self._neighbours = np.zeros(shape, np.int64)  # AP 0 pads
        self._known = np.zeros(shape, bool)
        for ap, neighbours in enumerate(lists):
            self._neighbours[ap, : len(neighbours)] = neighbours
            self._known[ap, : len(neighbours)] = True
        self._interference = np.where(self._known, np.take_along_axis(reported, self._neighbours, axis=1), 0)
        self._linked = np.zeros(shape, bool)
        self._gain = np.zeros(shape)
        self._times_linked = np.zeros(shape, np.int64)
        self._ap_of, self._ue_of = np.nonzero(layout.serving)  # the P pairs of an AP and its UE
        self._rho = transmit_power(config, layout)[layout.serving]  # (P,)
        self._estimator = _estimator(config, layout)
        own = zip(layout.beta, layout.serving, strict=True)
        newborn = [observe(config, beta[serves], np.zeros(0), (), np.zeros(0)) for beta, serves in own]
        self._snr = np.array(newborn)[:, : config.learning.observed_ues]  # what lasts of an observation
        return self.observations()

    def observations(self) -> FloatArray:
        """(M, D) what the agents see, eq. (10), as `apnode.observation.observe` puts it."""
        return np.concatenate([self._snr, self._relative(), self._linked, self._gain], axis=1)

    def step(self, actions: IntArray) -> tuple[FloatArray, FloatArray, bool]:
        """A slot: fading, pilots, agreement, precoding, reception and reward.

        Args:
            actions: (M,)

        Returns:
            (M, D) observations after it, (M,) rewards (12), and whether it was the episode's last.
        """
        config, layout, radio = self._config, self._layout, self._config.radio
        h = channels(config, layout, self.slot)
        projections = despread(received_pilots(config, layout, h, self.slot))  # (B, M, L, tau_p)
        h_hat = (projections[..., layout.pilots] * self._estimator[:, None, :]).swapaxes(2, 3)  # (B, M, K, L)
        asked = (actions[:, None] >> np.arange(self.num_neighbours) & 1).astype(bool) & self._known
        partners = self._agree(asked)
        precoders = self._precoders(h_hat, partners)
        h = downlink(config, h, self.slot)
        self.sinr = sinr_of(received(h, precoders, layout.serving), radio.noise_power_w)
        suffered = received_interference(h, precoders[0], layout.serving, config.cooperation.interference)
        gain = self._relative_gain()
        self._remember(gain, self._reported(suffered, partners))
        self.slot += 1
        return self.observations(), self._reward(gain, asked), self.slot % config.run.slots_per_episode == 0

    # --- a slot -------------------------------------------------------------------------------------------

    def _agree(self, asked: BoolArray) -> BoolArray:
        """(M, M) who is linked with whom, of (M, N) who asks which neighbour."""
        ap, position = np.nonzero(asked)
        asks = np.zeros((self.num_agents, self.num_agents), bool)
        asks[ap, self._neighbours[ap, position]] = True
        partners: BoolArray = asks & asks.T
        self._linked = np.take_along_axis(partners, self._neighbours, axis=1) & self._known
        return partners

    def _precoders(self, h_hat: ComplexArray, partners: BoolArray) -> ComplexArray:
        """(2, B, M, K, L) over the ego clusters, and alone; 0 where an AP does not serve a UE [sqrt W]."""
        serving = self._layout.serving
        beams = np.zeros((2, *h_hat.shape), complex)
        beams[:] = mrt(h_hat)
        for ap in np.flatnonzero(partners.any(axis=1) & serving.any(axis=1)).tolist():
            own = np.flatnonzero(serving[ap])
            beams[0][:, ap, own] = self._joint(h_hat, ap, own, np.flatnonzero(partners[ap]))
        of_pairs = beams[:, :, self._ap_of, self._ue_of].swapaxes(2, 3)  # (2, B, L, P)
        flat = of_pairs.reshape(-1, *of_pairs.shape[2:])
        at_power = scaled(flat, self._rho[None], (np.abs(flat) ** 2).sum(axis=1)[:, None])
        precoders = np.zeros_like(beams)
        precoders[:, :, self._ap_of, self._ue_of] = at_power.reshape(of_pairs.shape).swapaxes(2, 3)
        return precoders

    def _joint(self, h_hat: ComplexArray, ap: int, own: IntArray, partners: IntArray) -> ComplexArray:
        """(B, |K_m|, L) an AP's own rows of the RZF precoders (16) of its cluster, not scaled.

        A partner's channels are known for its own UEs and for the AP's, as APs tell each other no more.
        """
        serving, cluster = self._layout.serving, np.array([ap, *partners])
        ues = np.flatnonzero(serving[cluster].any(axis=0))
        told = serving[cluster] | serving[ap]
        told[0] = True
        stacked = (h_hat[:, cluster] * told[..., None])[:, :, ues].swapaxes(2, 3)  # (B, C, L, K_C)
        blocks, _, antennas, num_ues = stacked.shape
        w = rzf(stacked.reshape(blocks, -1, num_ues), self._config.precoding.rzf_alpha)
        return np.asarray(w[:, :antennas, np.searchsorted(ues, own)].swapaxes(1, 2))

    def _relative_gain(self) -> FloatArray:
        """(M,) what cooperation gave the UEs of each AP, as `apnode.observation.relative_gain` has it."""
        rate, alone = spectral_efficiency(self.sinr).mean(axis=1) @ self._layout.serving.T  # (M,) each
        gain = np.divide(rate - alone, alone, out=np.zeros(self.num_agents), where=alone > 0)
        return np.asarray(np.minimum(gain, 1000.0))

    def _reported(self, suffered: FloatArray, partners: BoolArray) -> FloatArray:
        """(M, N) the power that the UEs of each AP report of its neighbours [W]."""
        named = [np.flatnonzero(row).tolist() for row in partners]
        count = self._config.cooperation.reported_interferers
        interferers, power = strongest_interferers(suffered, self._layout.serving, named, count)
        total, heard = np.zeros_like(partners, float), power > 0
        np.add.at(total, (np.broadcast_to(self._ap_of[:, None], power.shape)[heard], interferers[heard]), power[heard])
        return np.where(self._known, np.take_along_axis(total, self._neighbours, axis=1), 0)

    def _remember(self, gain: FloatArray, reported: FloatArray) -> None:
        """Update the running means that the observations are made of."""
        linked, weight = self._linked, self._config.cooperation.interference_window
        self._times_linked += linked
        self._gain += np.where(linked, (gain[:, None] - self._gain) / np.maximum(self._times_linked, 1), 0)
        self._interference += np.where(linked, 0, weight * (reported - self._interference))

    def _reward(self, gain: FloatArray, asked: BoolArray) -> FloatArray:
        """(M,) eq. (12)."""
        weights = self._config.reward
        sign = 1.0 if weights.interference_sign == "+" else -1.0
        mitigated = (self._relative() * asked).sum(axis=1)
        cost = weights.link_cost * asked.sum(axis=1)
        return np.asarray(weights.gain_weight * gain - cost + sign * weights.interference_weight * mitigated)

    def _relative(self) -> FloatArray:
        """(M, N) row-normalised interference, 0 for an AP that hears nobody."""
        worst = self._interference.max(axis=1, keepdims=True)
        relative = np.zeros_like(self._interference)
        np.divide(self._interference, worst, out=relative, where=worst > 0)
        return relative


def _estimator(config: Config, layout: Layout) -> FloatArray:
    """(M, K) what each AP's projection on a UE's pilot is multiplied by: the MMSE estimate (4) is linear in it."""
    radio, ones = config.radio, np.ones((1, 1, config.radio.pilot_length), complex)
    known = layout.beta_in_reach
    rows = [estimate(ones, beta, layout.pilots, radio.pilot_power_w, radio.noise_power_w) for beta in known]
    return np.array(rows)[:, 0, 0].real
