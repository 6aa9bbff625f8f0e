"""Where APs and UEs are, who serves whom, and who trains on which pilot: everything that lasts an episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.config import Config
from apnode.config.network import Radio
from apnode.protocol.limits import MOST_ASKERS
from apnode.protocol.messages import NOBODY, Association, ComplexArray, FloatArray, IntArray
from apnode.protocol.rng import Purpose, generator
from apnode.radio.power import power_split
from channel_server.geometry import ap_positions, distances, offsets, period, ue_positions
from channel_server.propagation import large_scale_fading, line_of_sight
from channel_server.recorded import recorded
from channel_server.scattering import array_correlation, roots
from channel_server.shadowing import link_field
from channel_server.ue_reports import strongest_interferers

BoolArray = NDArray[np.bool_]
HEARD = 1.0  # an AP hears a pilot that arrives at least so strong, despread, relative to the noise


@dataclass(frozen=True)
class Layout:
    """One UE layout: positions and what follows from them until the UEs move."""

    ap_xy: FloatArray  # (M, 2) [m]
    ue_xy: FloatArray  # (K, 2) [m]
    beta: FloatArray  # (M, K) large-scale fading coefficients [power gain]
    serving: BoolArray  # (M, K) D: AP m serves UE k
    reach: BoolArray  # (M, K) UE k is in reach of AP m; of other UEs the AP knows nothing
    pilots: IntArray  # (K,)
    array_root: ComplexArray | None = None  # (M, K, L, L) (R / beta)^(1/2) of the fading, or None if it is iid

    @cached_property
    def ues_of(self) -> list[tuple[int, ...]]:
        """K_m of every AP."""
        return [tuple(np.flatnonzero(row).tolist()) for row in self.serving]

    @cached_property
    def aps_of(self) -> IntArray:
        """(K, A) the APs that serve every UE, NOBODY pads."""
        count = self.serving.sum(axis=0)
        aps, place = np.full((len(count), count.max(initial=0)), NOBODY), np.arange(count.max(initial=0))
        aps[place < count[:, None]] = np.nonzero(self.serving.T)[1]
        return aps

    @cached_property
    def beta_in_reach(self) -> FloatArray:
        """(M, K) what APs know of beta; 0 for UEs out of reach, and so are estimates made with it [power gain]."""
        return np.where(self.reach, self.beta, 0)

    @cached_property
    def mastered(self) -> IntArray:
        """(M, M) UEs that two APs both serve and whose master is one of them.

        A UE's master is its strongest AP, which coordinates those that serve it (Björnson and Sanguinetti, "Scalable
        cell-free massive MIMO systems", 2020).
        """
        masters = np.zeros_like(self.serving)
        masters[self.beta.argmax(axis=0), range(self.beta.shape[1])] = True
        followers = masters.astype(float) @ (self.serving & ~masters).T  # BLAS has no integers
        mastered: IntArray = (followers + followers.T).astype(np.int64)
        return mastered

    def told(self, ap: int) -> dict[str, Any]:
        """What an AP is told of UEs, as fields of an Association."""
        reach = np.flatnonzero(self.reach[ap])
        return {
            "ues": self.ues_of[ap],
            "beta": self.beta[ap, reach],
            "pilots": self.pilots[reach],
            "reach": tuple(reach.tolist()),
        }

    def told_around(self, neighbours: Sequence[int]) -> dict[str, Any]:
        """What an AP that forecasts is told of its neighbours, as fields of an Association."""
        rows = list(neighbours)
        around = np.flatnonzero(self.reach[rows].any(axis=0))
        if not len(around):
            return {}
        return {
            "around": tuple(around.tolist()),
            "around_pilots": self.pilots[around],
            "neighbour_beta": self.beta_in_reach[rows][:, around],
            "neighbour_serves": self.serving[rows][:, around].astype(np.uint8),
        }

    def told_of_service(self, ap: int) -> dict[str, Any]:
        """What an AP is told of who else serves its UEs, where not all transmit, as a field of an Association."""
        return {"served_by": self.aps_of[list(self.ues_of[ap])]}

    @cached_property
    def pairs(self) -> int:
        """AP pairs with a common UE."""
        return int(common_ue(self.serving).sum()) // 2


def common_ue(serving: BoolArray) -> BoolArray:
    """(M, M) pairs of APs that serve a UE in common; nobody is paired with itself."""
    common = serving.astype(float) @ serving.T > 0  # BLAS has no integers
    return np.asarray(common & ~np.eye(len(serving), dtype=bool))


def make_layout(config: Config, episode: int) -> Layout:
    """The layout of an episode: APs where they always are, UEs drawn anew or walked on; or all as a file has it."""
    ap_xy, ue_xy = ap_positions(config), ue_positions(config, episode)
    file = recorded(config)
    if file is None:
        beta = _drawn_beta(config, episode, ap_xy, ue_xy)
    else:
        beta = file.beta[episode % len(file.beta)]
        ap_xy = ap_xy if file.ap_xy is None else file.ap_xy
        ue_xy = ue_xy if file.ue_xy is None else file.ue_xy[episode % len(file.ue_xy)]
    serving, pilots = serving_sets(beta, config.radio), assign_pilots(config, beta, episode)
    reach = in_reach(beta, serving, config.radio)
    return Layout(ap_xy, ue_xy, beta, serving, reach, pilots, _array_root(config, ap_xy, ue_xy))


def _drawn_beta(config: Config, episode: int, ap_xy: FloatArray, ue_xy: FloatArray) -> FloatArray:
    """(M, K) large-scale fading of an episode [power gain]."""
    ground, propagation = distances(ap_xy, ue_xy, period(config.radio)), config.propagation
    sight = None
    if propagation.is_3gpp:
        sight = line_of_sight(ground, propagation, link_field(config, Purpose.LINE_OF_SIGHT, episode))
    return large_scale_fading(ground, propagation, link_field(config, Purpose.SHADOWING, episode), sight)


def _array_root(config: Config, ap_xy: FloatArray, ue_xy: FloatArray) -> ComplexArray | None:
    """(M, K, L, L) root of the fading's spatial correlation, if there is any."""
    propagation = config.propagation
    if not propagation.angular_spread_deg:
        return None
    offset = offsets(ap_xy, ue_xy, period(config.radio))
    return roots(array_correlation(offset, propagation.height_m, propagation.angular_spread_deg, config.radio.antennas))


def serving_sets(beta: FloatArray, radio: Radio) -> BoolArray:
    """Seed paper eq. (2): UE k is served by the APs with beta >= delta max beta, at most the strongest few.

    Args:
        beta: (M, K) [power gain].
        radio: gives delta and the cap.

    Returns:
        (M, K) D; every UE has at least one AP.
    """
    rank = _rank(beta)
    strong = (beta >= radio.serving_threshold * beta.max(axis=0)) & (beta > 0)
    return np.asarray((rank < radio.max_serving_aps) & strong)


def in_reach(beta: FloatArray, serving: BoolArray, radio: Radio) -> BoolArray:
    """The UEs that an AP serves or whose pilots it hears above the noise, rho_p tau_p beta >= HEARD sigma^2.

    How many they are depends on how dense the UEs are, not on how many there are; so what an AP knows and computes does
    not grow with the network ("scalable" in the sense of Björnson and Sanguinetti, 2020).

    Args:
        beta: (M, K) [power gain].
        serving: (M, K) D.
        radio: gives rho_p, tau_p and sigma^2.

    Returns:
        (M, K)
    """
    heard = radio.pilot_power_w * radio.pilot_length * beta >= HEARD * radio.noise_power_w
    return np.asarray(serving | heard)


def assign_pilots(config: Config, beta: FloatArray, episode: int) -> IntArray:
    """Who trains on which pilot in an episode.

    Args:
        config: gives the rule.
        beta: (M, K) [power gain].
        episode: keys the random rule.

    Returns:
        (K,) pilot indices.
    """
    num_ues, num_pilots = beta.shape[1], config.radio.pilot_length
    match config.radio.pilot_assignment:
        case "random":
            return generator(config.seed, Purpose.PILOT_ASSIGNMENT, episode).integers(num_pilots, size=(num_ues,))
        case "round-robin":
            return np.arange(num_ues) % num_pilots
        case _:
            return greedy_pilots(beta, num_pilots)


def greedy_pilots(beta: FloatArray, num_pilots: int) -> IntArray:
    """Pilots in order of arrival: the first tau_p UEs take one each, every further UE the one least used around it.

    "Least" is the sum of beta over the pilot's users at the further UE's strongest AP (as in Björnson and
    Sanguinetti, "Scalable cell-free massive MIMO systems", 2020).

    Args:
        beta: (M, K) [power gain].
        num_pilots: tau_p.

    Returns:
        (K,) pilot indices.
    """
    num_ues = beta.shape[1]
    pilots = np.zeros(num_ues, np.int64)
    for ue in range(num_ues):
        if ue < num_pilots:
            pilots[ue] = ue
        else:
            at_strongest = beta[beta[:, ue].argmax(), :ue]
            contamination = np.bincount(pilots[:ue], weights=at_strongest, minlength=num_pilots)
            pilots[ue] = contamination.argmin()
    return pilots


def transmit_power(config: Config, layout: Layout) -> FloatArray:
    """(M, K) rho: what AP m spends on UE k [W]."""
    rho = np.zeros(layout.beta.shape)
    for ap, ues in enumerate(layout.ues_of):
        rho[ap, list(ues)] = power_split(layout.beta[ap, list(ues)], config.radio)
    return rho


def long_term_interference(config: Config, layout: Layout) -> FloatArray:
    """Mean of eq. (7) over the fading while nobody cooperates, as UEs report it before an episode's first slot.

    With MRT at power rho, E|h_nk^H w_nj|^2 = rho_nj (beta_nk + [same pilot] (L - 1) gamma_nk), since then
    h_hat_nj is parallel to h_hat_nk. It takes the fading for iid, as the APs' estimator does, also where
    scattering or a file makes it something else.

    Returns:
        (M, M) I[m, n]: what the UEs of AP m suffer from AP n, each UE reporting its strongest few [W].
    """
    radio, serving = config.radio, layout.serving
    energy = radio.pilot_power_w * radio.pilot_length
    same_pilot = layout.pilots[:, None] == layout.pilots[None, :]  # (K, K)
    gamma = energy * layout.beta**2 / (energy * layout.beta @ same_pilot + radio.noise_power_w)
    rho, without_own = transmit_power(config, layout), config.cooperation.interference != "literal"
    from_others = rho.sum(axis=1, keepdims=True) - without_own * rho
    aligned = same_pilot & ~np.diag([without_own] * len(same_pilot))
    power = layout.beta * from_others + (radio.antennas - 1) * gamma * (rho @ aligned)  # (M, K) at UE k from AP n
    if config.cooperation.interference == "non-serving":
        power = np.where(serving, 0, power)
    return _reported(power, serving, config.cooperation.reported_interferers)


def _reported(power: FloatArray, serving: BoolArray, count: int) -> FloatArray:
    """(M, M) what the UEs of each AP report of all others, each its strongest few."""
    interferers, reported = strongest_interferers(power, serving, [()] * len(power), count)
    ap_of = np.broadcast_to(np.nonzero(serving)[0][:, None], reported.shape)
    total, heard = np.zeros((len(power), len(power))), reported > 0
    np.add.at(total, (ap_of[heard], interferers[heard]), reported[heard])
    return total


def _rank(values: FloatArray) -> IntArray:
    """(M, K) how many of its column are larger than each, earlier rows first among equals."""
    return np.argsort(np.argsort(-values, axis=0, kind="stable"), axis=0, kind="stable")


def neighbour_lists(config: Config, interference: FloatArray, serving: BoolArray) -> list[tuple[int, ...]]:
    """Neighbour sets of seed paper eq. (11), strongest interferer first.

    `row`: N_m holds the APs with I_mn >= gamma_th max_n I_mn, at most the strongest few. `symmetric`: pairs of
    which either end passes that test, strongest sum of both ways first, while both ends have room. `common-ue`:
    pairs that serve a UE in common, in the same order, instead of that test.

    Args:
        config: gives gamma_th, the cap and the rule.
        interference: (M, M) I [W].
        serving: (M, K) D.

    Returns:
        M lists; an AP that hears nobody has an empty one.
    """
    cap, rule = config.cooperation.max_neighbours, config.cooperation.neighbour_sets
    worst = interference.max(axis=1, keepdims=True, initial=0)
    passes = (interference >= config.cooperation.neighbour_threshold * worst) & (interference > 0)
    if rule == "common-ue":
        passes = common_ue(serving)
    if rule != "row":
        passes = _symmetric(passes, interference, cap)
    order = np.argsort(-interference, axis=1, kind="stable")
    return [tuple(row[passed[row]][:cap].tolist()) for row, passed in zip(order, passes, strict=True)]


def associations(config: Config, layout: Layout, episode: int) -> list[Association]:
    """What every AP is told of an episode, but for endpoints."""
    interference = long_term_interference(config, layout)
    neighbours = neighbour_lists(config, interference, layout.serving)
    askers = further_askers(neighbours, MOST_ASKERS)
    return [
        Association(
            episode=episode,
            **layout.told(ap),
            neighbours=known,
            endpoints=("",) * len(known),
            interference=interference[ap, list(known)],
            askers=askers[ap],
            asker_endpoints=("",) * len(askers[ap]),
            mastered=layout.mastered[ap, list(known)],
            **(layout.told_around(known) if config.looks_around else {}),
            **(layout.told_of_service(ap) if config.selects_serving else {}),
        )
        for ap, known in enumerate(neighbours)
    ]


def further_askers(neighbours: list[tuple[int, ...]], cap: int) -> list[tuple[int, ...]]:
    """Who may ask each AP without being its neighbour, in order and at most `cap`."""
    askers: list[list[int]] = [[] for _ in neighbours]
    for ap, known in enumerate(neighbours):
        for asked in known:
            if ap not in neighbours[asked]:
                askers[asked].append(ap)
    return [tuple(of_one[:cap]) for of_one in askers]


def _symmetric(passes: NDArray[Any], interference: FloatArray, cap: int) -> BoolArray:
    chosen = np.zeros_like(passes)
    both_ways = interference + interference.T
    ends = np.argwhere(np.triu(passes | passes.T, 1))
    for m, n in ends[np.argsort(-both_ways[ends[:, 0], ends[:, 1]], kind="stable")]:
        if chosen[m].sum() < cap and chosen[n].sum() < cap:
            chosen[m, n] = chosen[n, m] = True
    return chosen
