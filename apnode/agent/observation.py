"""What an AP's agent sees (10) and earns (12): functions of what the AP itself was told."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from apnode.config import Config
from apnode.config.learning import TRAITS, Reward
from apnode.protocol.messages import Association, FloatArray, SlotFeedback

MOST_GAIN = 1000.0  # relative; only UEs practically without any rate alone could reach it
_SNR_SCALE_DB = 50.0  # beta at full power over noise lies within about 0..100 dB


def interference_position(config: Config) -> int:
    """Where in the observation the neighbours' shares of the interference begin."""
    return config.learning.observed_ues


def observe(
    config: Config, beta: FloatArray, interference: FloatArray, linked: Sequence[bool], gain: FloatArray
) -> FloatArray:
    """The observation of seed paper eq. (10), at fixed length.

    Args:
        config: gives the caps.
        beta: (|K_m|,) of the UEs this AP serves [power gain].
        interference: (N,) running mean of (7) per neighbour [W].
        linked: N flags, whether the link to each neighbour was formed in the last slot.
        gain: (N,) T_m: running mean of own relative gain in slots linked with each neighbour.

    Returns:
        (observed_ues + 3 max_neighbours,): SNR in dB of the strongest own UEs, row-normalised interference,
        links, gains, each padded with 0; entries are of order 1.
    """
    strongest = np.sort(beta)[::-1][: config.learning.observed_ues]
    snr_db = 10 * np.log10(np.maximum(strongest, 1e-30) * config.radio.ap_power_w / config.radio.noise_power_w)
    neighbours = config.cooperation.max_neighbours
    return np.concatenate(
        [
            _padded(snr_db / _SNR_SCALE_DB, config.learning.observed_ues),
            _padded(row_normalised(interference), neighbours),
            _padded(np.array(linked, float), neighbours),
            _padded(gain, neighbours),
        ]
    )


def describe(config: Config, association: Association, gains: FloatArray) -> FloatArray:
    """The observation of an AP that forecasts, for the whole episode.

    Args:
        config: gives the cap on neighbours.
        association: what the AP has been told.
        gains: (N,) what it expects of the link with each neighbour [bit/s/Hz].

    Returns:
        (TRAITS max_neighbours,): of each neighbour what the link is expected to bring [bit/s/Hz], the number of UEs
        that both serve, of those whose strongest AP is one of the two, and of the AP's own UEs; padded with 0.
    """
    traits = np.zeros((config.cooperation.max_neighbours, TRAITS))
    if count := len(association.neighbours):
        common = association.neighbour_serves[:, np.isin(association.around, association.ues)].sum(axis=1)
        load = np.full(count, len(association.ues))
        traits[:count] = np.stack([gains, common, association.mastered, load], axis=1)
    return traits.ravel()


def traits_of(observation: FloatArray, num_neighbours: int) -> FloatArray:
    """(N, TRAITS) rows of what `describe` gave."""
    return observation.reshape(-1, TRAITS)[:num_neighbours]


def _padded(values: FloatArray, size: int) -> FloatArray:
    return np.concatenate([values, np.zeros(size - len(values))])


def row_normalised(interference: FloatArray) -> FloatArray:
    """I-bar of (12): an AP's row of (7) relative to its worst interferer; all 0 if it hears nobody.

    Args:
        interference: (N,) [W].
    """
    worst = interference.max(initial=0)
    return interference / worst if worst > 0 else np.zeros_like(interference)


def shares(interference: FloatArray) -> FloatArray:
    """An AP's row of (7), in any unit, summing to 1; all 0 if it hears nobody.

    Args:
        interference: (N,)
    """
    total = interference.sum()
    return interference / total if total > 0 else np.zeros_like(interference)


def reported_interference(feedback: SlotFeedback, neighbours: Sequence[int]) -> FloatArray:
    """(N,) power that this AP's UEs together reported of each neighbour in the slot, 0 if none did [W]."""
    return np.array([feedback.interference[feedback.interferers == n].sum() for n in neighbours])


def relative_gain(feedback: SlotFeedback) -> float:
    """(sum R_coop - sum R_base) / sum R_base of (12) over this AP's UEs, on the same channels; 0 without rate."""
    alone = float(feedback.rate_alone.sum())
    return min(absolute_gain(feedback) / alone, MOST_GAIN) if alone > 0 else 0.0


def absolute_gain(feedback: SlotFeedback) -> float:
    """The gain sum R_coop - sum R_base over this AP's UEs, on the same channels [bit/s/Hz]."""
    return float(feedback.rate.sum()) - float(feedback.rate_alone.sum())


def reward(weights: Reward, gains: Sequence[float], interference: FloatArray, asked: Collection[int]) -> float:
    """Seed paper eq. (12), with its sign as a setting.

    Args:
        weights: the alphas and the settings.
        gains: relative gains that count: own first, then partners' (scope `neighbourhood`).
        interference: (N,) running mean of (7) per neighbour [W].
        asked: positions of the neighbours asked.
    """
    sign = 1.0 if weights.interference_sign == "+" else -1.0
    relative = row_normalised(interference)
    mitigated = sum(float(relative[n]) for n in sorted(asked))
    mean_gain = sum(gains) / len(gains)
    return (
        weights.gain_weight * mean_gain
        - weights.link_cost * len(asked)
        + sign * weights.interference_weight * mitigated
    )
