"""Channel estimation from uplink pilots: what an AP can know of its channels."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from apnode.config.network import Radio
from apnode.protocol.messages import ComplexArray, FloatArray, IntArray
from apnode.protocol.state import Layout, State

RECENT: Layout = {"next": (np.int64, ()), "h_hat": (np.complex128, ("H", "L", "R"))}  # of `Recent`


class Recent:
    """One AP's estimates in the newest coherence blocks of a UE layout, without a gap to the next slot."""

    def __init__(self, most: int, antennas: int, ues: int) -> None:
        """Begin with none.

        Args:
            most: coherence blocks to remember.
            antennas: L.
            ues: R, those in reach.
        """
        self._most = most
        self._next = 0  # slot after the newest
        self._h_hat = np.zeros((0, antennas, ues), complex)

    def extended(self, slot: int, h_hat: ComplexArray) -> ComplexArray:
        """(H + B, L, R) what is remembered from before a slot, then the slot's own (B, L, R), which is remembered."""
        before = self._h_hat if slot == self._next else self._h_hat[:0]
        known = np.concatenate([before, h_hat])
        self._h_hat, self._next = known[max(len(known) - self._most, 0) :], slot + 1
        return known

    def state(self) -> State:
        """Copies of what it remembers, as RECENT."""
        return {"next": np.array(self._next), "h_hat": self._h_hat.copy()}

    def restore(self, state: State) -> None:
        """Take over what `state` gave, unless it is of other antennas and UEs, or of more blocks."""
        if state["h_hat"].shape[1:] == self._h_hat.shape[1:] and len(state["h_hat"]) <= self._most:
            self._next, self._h_hat = int(state["next"]), state["h_hat"].copy()


_WELL_HEARD = 0.9  # part of a channel's power that its estimate tells


@cache
def pilot_book(length: int) -> ComplexArray:
    """Orthogonal pilots of unit modulus, so that each has squared norm tau_p.

    Args:
        length: tau_p, pilot symbols.

    Returns:
        (tau_p, tau_p) row i is pilot i; book @ book^H = tau_p I (columns of the DFT).
    """
    symbols = np.arange(length)
    book: ComplexArray = np.exp(2j * np.pi * np.outer(symbols, symbols) / length)
    book.setflags(write=False)
    return book


def despread(y: ComplexArray) -> ComplexArray:
    """Project what was heard on every pilot: y_k = Y conj(phi_k) / sqrt(tau_p), seed paper after eq. (3).

    Args:
        y: (..., L, tau_p) received pilot block [sqrt W].

    Returns:
        (..., L, tau_p) column i is the projection on pilot i [sqrt W].
    """
    length = y.shape[-1]
    return y.astype(complex) @ pilot_book(length).conj().T / math.sqrt(length)


def estimate(
    projections: ComplexArray, beta: FloatArray, pilots: IntArray, pilot_power: float, noise_power: float
) -> ComplexArray:
    """MMSE estimates of one AP's channels to the R UEs it knows of, seed paper eq. (4) with pilot energy counted once.

    h_hat_k = sqrt(rho tau) beta_k / (rho tau sum_{j: same pilot} beta_j + noise) y_k

    Args:
        projections: (B, L, tau_p) from `despread` [sqrt W].
        beta: (R,) [power gain].
        pilots: (R,) pilot index of every UE.
        pilot_power: rho_p [W].
        noise_power: sigma^2 [W].

    Returns:
        (B, L, R) h_hat [sqrt power gain].
    """
    energy = pilot_power * projections.shape[-1]
    heard = _heard_power(beta, pilots, energy, noise_power, projections.shape[-1])
    return projections[..., pilots] * (math.sqrt(energy) * beta / heard)


def error_variance(
    beta: FloatArray, pilots: IntArray, pilot_power: float, pilot_length: int, noise_power: float
) -> FloatArray:
    """Variance of each entry of h - h_hat: c_k = beta_k - rho tau beta_k^2 / (rho tau sum_j beta_j + noise).

    Args:
        beta: (R,) [power gain].
        pilots: (R,) pilot index of every UE.
        pilot_power: rho_p [W].
        pilot_length: tau_p.
        noise_power: sigma^2 [W].

    Returns:
        (R,) [power gain].
    """
    energy = pilot_power * pilot_length
    return beta - energy * beta**2 / _heard_power(beta, pilots, energy, noise_power, pilot_length)


def changed_power(h_hat: ComplexArray, beta: FloatArray, variance: FloatArray) -> FloatArray:
    """The part of the power of every UE's channel that is another one block later, v = 1 - rho^2.

    rho is the correlation of successive blocks. With scatterers all around it is real, J0(2 pi f_D tau) (Clarke, "A
    statistical theory of mobile-radio reception", 1968). That of estimates is less by what they do not tell, 1 - c /
    beta; of UEs of which they tell little, the mean of the others is taken.

    Args:
        h_hat: (B, L, R) estimates in successive blocks [sqrt power gain].
        beta: (R,) [power gain].
        variance: (R,) c, as `error_variance` gives it [power gain].

    Returns:
        (R,) in [0, 1]; 1 if there is but one block, or no UE well heard.
    """
    energy = (np.abs(h_hat) ** 2).sum(axis=1)  # (B, R)
    total = (energy[:-1] + energy[1:]).sum(axis=0) / 2
    told = 1 - variance / beta
    heard = (told >= _WELL_HEARD) & (total > 0)
    common = (h_hat[:-1].conj() * h_hat[1:]).real.sum(axis=(0, 1))
    rho = np.divide(common, told * total, out=np.zeros(len(beta)), where=heard)
    changed = 1 - np.clip(rho, 0, 1) ** 2
    return np.where(heard, changed, changed[heard].mean() if heard.any() else 1.0)


def sensed_change(y: ComplexArray, beta: FloatArray, pilots: IntArray, radio: Radio) -> FloatArray:
    """(R,) as `changed_power`, from the pilots of a slot, which an AP heard.

    Args:
        y: (B, L, tau_p) received pilot block [sqrt W].
        beta: (R,) [power gain].
        pilots: (R,) pilot index of every UE.
        radio: gives powers.
    """
    noise = radio.noise_power_w
    h_hat = estimate(despread(y), beta, pilots, radio.pilot_power_w, noise)
    return changed_power(h_hat, beta, error_variance(beta, pilots, radio.pilot_power_w, radio.pilot_length, noise))


def _heard_power(beta: FloatArray, pilots: IntArray, energy: float, noise_power: float, length: int) -> FloatArray:
    """(R,) mean power of an entry of UE k's projection: its own pilot's users and the noise [W]."""
    on_pilot = np.bincount(pilots, weights=beta, minlength=length).astype(float)
    return (energy * on_pilot + noise_power)[pilots]
