"""What a central controller that knows every estimate would do: references, never reachable from an AP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apnode.config import Config
from apnode.config.network import Radio
from apnode.protocol.messages import ComplexArray, FloatArray
from apnode.radio.csi import despread, error_variance, estimate
from apnode.radio.power import scaled
from apnode.radio.precoding import mmse, rzf, ues_that_matter
from channel_server.fading import channels, received_pilots
from channel_server.impairments import downlink
from channel_server.server import radiated_power
from channel_server.sinr import received, sinr_of
from channel_server.topology import BoolArray, Layout, transmit_power

REFERENCES = ("centralised", "p-mmse", "full-mmse")
_UPSILON, _KAPPA = -0.5, 0.5  # exponents of the fractional power allocation, those of the book's running example


@dataclass(frozen=True, eq=False)
class Sample:
    """What there is to know of some slots of one layout."""

    layout: Layout
    h: ComplexArray  # (B, M, K, L) true channels of all their blocks, with defects [sqrt power gain]
    h_hat: ComplexArray  # (B, M, K, L) estimates at all APs, by who knows every beta [sqrt power gain]
    h_hat_in_reach: ComplexArray  # (B, M, K, L) the APs' own, 0 for UEs out of reach [sqrt power gain]
    error: FloatArray  # (M, K) variance of their errors [power gain]


def sample(config: Config, layout: Layout, slots: Sequence[int]) -> Sample:
    """Draw the channels of slots, and what the APs make of the pilots in them, as in a run."""
    radio, noise = config.radio, config.radio.noise_power_w
    h = [channels(config, layout, slot) for slot in slots]
    heard = np.concatenate([received_pilots(config, layout, *drawn) for drawn in zip(h, slots, strict=True)])
    projections = despread(heard)  # (B, M, L, tau_p)

    def estimates(known: FloatArray) -> ComplexArray:
        of_aps = [
            estimate(projections[:, ap], beta, layout.pilots, radio.pilot_power_w, noise)
            for ap, beta in enumerate(known)
        ]
        return np.stack(of_aps, axis=1).swapaxes(2, 3)

    error = [error_variance(b, layout.pilots, radio.pilot_power_w, radio.pilot_length, noise) for b in layout.beta]
    at_ues = [downlink(config, *drawn) for drawn in zip(h, slots, strict=True)]
    return Sample(
        layout, np.concatenate(at_ues), estimates(layout.beta), estimates(layout.beta_in_reach), np.array(error)
    )


def reference(name: str, config: Config, observed: Sample) -> tuple[FloatArray, ComplexArray, float]:
    """A reference over the blocks of a sample.

    Args:
        name: of REFERENCES.
        config: the experiment.
        observed: the sample.

    Returns:
        (B, K) SINR (9), linear; (B, K) effective gains [sqrt W]; the most that an AP radiates in a block [W].
    """
    layout, radio, h_hat = observed.layout, config.radio, observed.h_hat
    match name:
        case "centralised":
            w = centralised_rzf(h_hat, transmit_power(config, layout), config.precoding.rzf_alpha)
        case "p-mmse":
            w = p_mmse(h_hat, observed.error, layout.beta, layout.serving, radio)
        case "full-mmse":
            w = full_mmse(h_hat, observed.error, layout.beta, radio)
        case _:
            raise ValueError(f"no reference {name!r}; there are {', '.join(REFERENCES)}")
    effective = received(observed.h, w)
    gain = np.diagonal(effective, axis1=1, axis2=2)
    return sinr_of(effective, radio.noise_power_w), gain, float(radiated_power(w).max())


def fronthaul_scalars(config: Config, layout: Layout, links: FloatArray) -> float:
    """Complex numbers over the fronthaul in a coherence block, as the cell-free book counts them, of distributed APs.

    Each AP gets the data symbols of the UEs it serves, (tau_c - tau_p) |K_m|, and from each partner L estimates of
    every UE in the partner's reach that matters to either. (A central processor gets and gives tau_c L of each AP
    instead.)

    Args:
        config: the experiment.
        layout: who serves whom.
        links: (M, M) part of the time in which AP m has the channels of AP n.
    """
    radio = config.radio
    reach = [np.flatnonzero(row).tolist() for row in layout.reach]
    matter = [
        {*ues_that_matter(config, ues, reach[ap], layout.beta[ap, reach[ap]])} for ap, ues in enumerate(layout.ues_of)
    ]
    told = sum(links[m, n] * len((matter[m] | matter[n]) & {*reach[n]}) for m, n in np.argwhere(links > 0))
    symbols = radio.coherence_symbols - radio.pilot_length
    return float(symbols * layout.serving.sum() + radio.antennas * told)


def centralised_rzf(h_hat: ComplexArray, rho: FloatArray, alpha: float) -> ComplexArray:
    """All APs as one RZF cluster: seed paper eqs. (16)-(17) over the whole network.

    Args:
        h_hat: (B, M, K, L) estimates of all APs [sqrt power gain].
        rho: (M, K) power of AP m for UE k, 0 where it does not serve it [W].
        alpha: regularisation in units of mean diag(H^H H).

    Returns:
        (B, M, K, L) precoders, each AP's block scaled to its power [sqrt W].
    """
    w = _unstacked(rzf(_stacked(h_hat), alpha), h_hat.shape[1])
    power = (np.abs(w) ** 2).sum(axis=2)  # (B, M, K)
    rows = [scaled(w[:, ap], rho[ap, None], power[:, ap, None]) for ap in range(len(rho))]
    return np.stack(rows, axis=1).swapaxes(2, 3)


def p_mmse(h_hat: ComplexArray, error: FloatArray, beta: FloatArray, serving: BoolArray, radio: Radio) -> ComplexArray:
    """Partial MMSE: each UE by its serving APs jointly, against the UEs that share any of them.

    "Foundations of user-centric cell-free massive MIMO", (5.30) and (6.25), at the power of `fractional_power`.

    Args:
        h_hat: (B, M, K, L) estimates of all APs [sqrt power gain].
        error: (M, K) variance of their errors [power gain].
        beta: (M, K) [power gain].
        serving: (M, K) D.
        radio: gives power and noise.

    Returns:
        (B, M, K, L) [sqrt W].
    """
    blocks, _, num_ues, antennas = h_hat.shape
    together = serving.T.astype(int) @ serving > 0  # (K, K) UEs that share an AP
    w = np.zeros_like(h_hat)
    for ue in range(num_ues):
        aps, others = np.flatnonzero(serving[:, ue]), np.flatnonzero(together[ue])
        h = _stacked(h_hat[:, aps][:, :, others])
        unknown = error[np.ix_(aps, others)].sum(axis=1) + radio.noise_power_w / radio.ap_power_w
        covariance = np.diag(np.repeat(unknown, antennas)).astype(complex)
        wanted = h[..., [int(np.searchsorted(others, ue))]]
        w[:, aps, ue] = mmse(h, wanted, covariance).reshape(blocks, len(aps), antennas)
    return _at_fractional_power(w, beta, serving, radio)


def full_mmse(h_hat: ComplexArray, error: FloatArray, beta: FloatArray, radio: Radio) -> ComplexArray:
    """MMSE over the antennas of all APs, each of which serves every UE: what no network could afford.

    Args:
        h_hat: (B, M, K, L) estimates of all APs [sqrt power gain].
        error: (M, K) variance of their errors [power gain].
        beta: (M, K) [power gain].
        radio: gives power and noise.

    Returns:
        (B, M, K, L) [sqrt W].
    """
    unknown = error.sum(axis=1) + radio.noise_power_w / radio.ap_power_w  # (M,) of each antenna
    h = _stacked(h_hat)
    weighted = h / np.repeat(unknown, h_hat.shape[3])[:, None]
    gram = h.conj().swapaxes(1, 2) @ weighted + np.eye(h.shape[2])  # by the matrix inversion lemma, K x K
    w = _unstacked(np.linalg.solve(gram, weighted.conj().swapaxes(1, 2)).conj().swapaxes(1, 2), h_hat.shape[1])
    return _at_fractional_power(w.swapaxes(2, 3), beta, np.ones(beta.shape, bool), radio)


def _at_fractional_power(w: ComplexArray, beta: FloatArray, serving: BoolArray, radio: Radio) -> ComplexArray:
    """Scalable centralised power allocation of the cell-free book, (7.43): on average, every AP meets its power.

    Leans towards fairness: a UE with weak channels gets more.
    """
    norm = (np.abs(w) ** 2).sum(axis=3).mean(axis=0)  # (M, K)
    total = norm.sum(axis=0)
    share = norm / total
    worst = share.max(axis=0)  # omega_k
    wish = np.where(serving, beta, 0).sum(axis=0) ** _UPSILON * worst**-_KAPPA
    load = serving @ (wish * worst)  # (M,)
    power = radio.ap_power_w * wish / np.where(serving, load[:, None], 0).max(axis=0)
    return np.asarray(w * np.sqrt(power / total)[:, None])


def _stacked(h_hat: ComplexArray) -> ComplexArray:
    """(B, M, K, L) as (B, M L, K)."""
    blocks, num_aps, num_ues, antennas = h_hat.shape
    return h_hat.swapaxes(2, 3).reshape(blocks, num_aps * antennas, num_ues)


def _unstacked(w: ComplexArray, num_aps: int) -> ComplexArray:
    """(B, M L, K) as (B, M, L, K)."""
    blocks, rows, num_ues = w.shape
    return w.reshape(blocks, num_aps, rows // num_aps, num_ues)
