"""Defects of AP hardware, which differ from AP to AP, last, and show in nothing but what arrives at UEs."""

from __future__ import annotations

import math

import numpy as np

from apnode.config import Config
from apnode.protocol.messages import ComplexArray, FloatArray, IntArray
from apnode.protocol.rng import Purpose, generator


def downlink(config: Config, h: ComplexArray, slot: int) -> ComplexArray:
    """The channels that precoders meet: those from which APs estimated them, times each antenna's defects.

    Antenna l of AP m radiates w f_ml e^{j theta_m} where the AP means w.

    Args:
        config: gives the defects.
        h: (B, M, K, L) channels as the uplink has them [sqrt power gain].
        slot: keys the phase errors.

    Returns:
        (B, M, K, L), `h` itself if nothing is defective [sqrt power gain].
    """
    impairments, defects = config.impairments, []
    if any(angle for _, angle in impairments.oscillator_deg):
        defects.append(np.exp(1j * phase_errors(config, slot))[:, None])
    if any(error for _, error in impairments.calibration_error):
        defects.append(calibration_factors(config))
    for factor in defects:
        h = h * factor.conj()[:, None, :]
    return h


def oscillator_levels(config: Config) -> FloatArray:
    """(M,) standard deviation of every AP's phase error, fixed for the run [degrees]."""
    rng = generator(config.hardware_seed, Purpose.OSCILLATOR_CLASS)
    return drawn(config.impairments.oscillator_deg, config.radio.num_aps, rng)


def phase_errors(config: Config, slot: int) -> FloatArray:
    """(M,) theta of every AP in a slot [rad].

    Drawn anew, N(0, sigma_m^2); or with `recalibrate_slots` = n a Wiener process, 0 in the slot of a calibration, of
    which n steps would have the variance sigma_m^2.
    """
    period = config.impairments.recalibrate_slots
    steps = range(slot - slot % period + 1, slot + 1) if period else (slot,)
    draws = [generator(config.seed, Purpose.OSCILLATOR, step).standard_normal(config.radio.num_aps) for step in steps]
    total = np.sum(draws, axis=0) if draws else np.zeros(config.radio.num_aps)
    return np.asarray(np.radians(oscillator_levels(config)) * total / math.sqrt(period or 1))


def calibration_levels(config: Config) -> FloatArray:
    """(M,) calibration error e of every AP, fixed for the run."""
    return drawn(
        config.impairments.calibration_error,
        config.radio.num_aps,
        generator(config.hardware_seed, Purpose.CALIBRATION_CLASS),
    )


def calibration_factors(config: Config) -> ComplexArray:
    """(M, L) downlink over uplink of every antenna, fixed for the run: f = sqrt(1 - e) + sqrt(e) z, z ~ CN(0, 1).

    So E|f|^2 = 1, and 1 - e of the power is what the AP expects.
    """
    radio, error = config.radio, calibration_levels(config)[:, None]
    z = generator(config.hardware_seed, Purpose.CALIBRATION).standard_normal((radio.num_aps, radio.antennas, 2))
    factors: ComplexArray = np.sqrt(1 - error) + np.sqrt(error / 2) * (z[..., 0] + 1j * z[..., 1])
    return factors


def fronthaul_levels(config: Config) -> IntArray:
    """(M,) coherence blocks by which every AP's estimates come late to others, fixed for the run."""
    rng = generator(config.hardware_seed, Purpose.FRONTHAUL_CLASS)
    return drawn(config.impairments.fronthaul_blocks, config.radio.num_aps, rng).astype(int)


def described_defects(config: Config) -> list[str]:
    """Of every AP, for people: what is worse about it than about the best APs of the network; "" if nothing is."""
    kinds = (
        (oscillator_levels(config), "phase off by {:g} degrees"),
        (calibration_levels(config), "calibration error {:g}"),
        (fronthaul_levels(config), "estimates {:g} blocks late"),
    )
    worse = [[text.format(level) if level > levels.min() else "" for level in levels] for levels, text in kinds]
    return [", ".join(filter(None, of_ap)) for of_ap in zip(*worse, strict=True)]


def defect_levels(config: Config) -> FloatArray:
    """(M, 3) of every AP the incoherence 1 - e^(-sigma^2), whether it is late, and the calibration error.

    They are what `Prospects` takes; with several delays it takes each for the longest.
    """
    incoherence = 1 - np.exp(-(np.radians(oscillator_levels(config)) ** 2))
    return np.stack([incoherence, fronthaul_levels(config) > 0, calibration_levels(config)], axis=1)


def drawn(mixture: tuple[tuple[float, float], ...], count: int, rng: np.random.Generator) -> FloatArray:
    """(count,) values of a mixture of [share, value]: as many of each as its share says, in random places."""
    shares, values = np.array(mixture, float).T
    ends = np.rint(np.cumsum(shares) * count).astype(int)
    of_place: IntArray = np.searchsorted(ends, np.arange(count), side="right")
    return np.asarray(rng.permutation(values[of_place]))
