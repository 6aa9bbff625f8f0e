"""Whom an AP believes: laws of the likelihoods, and of the sequential test made of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from apnode.protocol.messages import ChannelBlock, SlotFeedback
from apnode.radio.trust import _QUALITY, LAPSES_AFTER, SUSPECT_AT, Trust, _log_bessel_i0, log_likelihoods

UES = (2, 5)
LIAR, HONEST = 7, 8
EPISODE = 20  # slots
GAIN = {2: 1e-10, 5: 1e-12}  # beta of UE [power gain]
Estimate = Callable[[np.random.Generator, Any], Any]  # of channels in units of sqrt(beta)


def complex_gaussian(rng: np.random.Generator, *shape: int) -> Any:
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def of_quality(quality: float) -> Estimate:
    """A true estimate: MMSE, so that its error is independent of it."""
    return lambda rng, h: quality * h + np.sqrt(quality * (1 - quality)) * complex_gaussian(rng, *h.shape)


def false(quality: float) -> Estimate:
    return lambda rng, h: np.sqrt(quality) * complex_gaussian(rng, *h.shape)


class Told:
    """An AP that has two partners, in every slot."""

    def __init__(self, liar: Estimate, honest: Estimate, seed: int = 0) -> None:
        self.trust, self.slot = Trust(), 0
        self._estimates, self._rng = {LIAR: liar, HONEST: honest}, np.random.default_rng(seed)

    def go_on(self, slots: int) -> tuple[int, ...]:
        """Whom it suspects after so many more slots."""
        for _ in range(slots):
            if self.slot % EPISODE == 0:
                self.trust.begin_episode()
            self._one_slot()
            self.slot += 1
        return self.trust.suspects(self.slot)

    def _one_slot(self) -> None:
        blocks, measured = {}, []
        believed = [ap for ap in self._estimates if ap not in self.trust.suspects(self.slot)]
        for ap in believed:
            amplitude = np.sqrt([GAIN[ue] for ue in UES])
            h = complex_gaussian(self._rng, 2, 4, len(UES))  # two coherence blocks, four antennas
            told = self._estimates[ap](self._rng, h) * amplitude
            blocks[ap] = ChannelBlock(self.slot, ap, UES, told, [0.5, 0.5], np.zeros((0, 4, 4)))
            measured.append(np.abs(h[self.slot % 2] * amplitude).T ** 2)
        gains = np.array(measured).swapaxes(0, 1) if measured else np.zeros((2, 0, 4))
        named = [believed] * 2 if measured else np.zeros((2, 0), int)
        nobody = np.zeros((2, 0))
        feedback = SlotFeedback(self.slot, [1.0, 1.0], [1.0, 1.0], nobody.astype(int), nobody, named, gains)
        self.trust.compare(UES, blocks, feedback, before_last=1 - self.slot % 2)


def test_the_bessel_function_is_close_from_0_to_where_it_would_overflow() -> None:
    x = np.concatenate([np.geomspace(1e-6, 700, 2000), [0.0]])
    np.testing.assert_allclose(_log_bessel_i0(x), np.log(np.i0(x)), atol=0.006)
    assert _log_bessel_i0(np.array(1e6)) == pytest.approx(1e6 - np.log(2 * np.pi * 1e6) / 2, abs=0.01)


@pytest.mark.parametrize("told", [0.01, 0.3, 2.0])
def test_what_is_measured_has_a_density_whether_it_was_told_or_not(told: float) -> None:
    """Of the measured gain, given what was told: it integrates to 1, if true as if false."""
    measured = np.linspace(0, 60, 600_001)[:, None]
    densities = np.exp(log_likelihoods(np.full_like(measured, told), measured))
    prior = np.exp(-told / _QUALITY) / _QUALITY
    mass = densities.sum(axis=1) * measured[1]
    kept = prior > 1e-12
    np.testing.assert_allclose(mass[0, kept], prior[kept], rtol=1e-3)
    np.testing.assert_allclose(mass[1, kept], prior[kept], rtol=1e-2)


def test_an_estimate_that_is_exact_is_true_and_one_without_any_worth_is_neither() -> None:
    told = np.array([[0.2, 0.5, 1.5, 0.9]])
    false_, true = np.logaddexp.reduce(log_likelihoods(told, told * 1.001)[:, 0], axis=1)
    assert true > false_ + 3
    worthless = log_likelihoods(np.full((1, 4), 1e-6), np.ones((1, 4)))[:, 0, 0]  # of quality 0.01
    assert worthless[0] == pytest.approx(worthless[1], abs=0.1)


@pytest.mark.parametrize("quality", [0.001, 0.02, 0.05, 0.12, 0.3, 0.5, 0.7, 0.9, 0.97, 0.9999])
def test_who_tells_the_truth_is_believed_however_poor_its_estimates(quality: float) -> None:
    for seed in range(5):
        told = Told(of_quality(quality), of_quality(0.95), seed)
        for _ in range(10):
            assert told.go_on(EPISODE) == ()


@pytest.mark.parametrize("quality", [0.9, 0.99])
def test_who_tells_what_is_false_is_suspected_within_an_episode(quality: float) -> None:
    for seed in range(10):
        assert Told(false(quality), of_quality(quality), seed).go_on(EPISODE) == (LIAR,)


@pytest.mark.parametrize("factor", [3.0, 10.0, 1e15])
def test_who_boasts_is_suspected_at_once(factor: float) -> None:
    assert Told(lambda rng, h: factor * h, of_quality(0.9)).go_on(4) == (LIAR,)


def test_who_tells_the_conjugate_cannot_be_told_from_who_tells_the_truth() -> None:
    """The limit of what a power tells."""
    assert Told(lambda rng, h: h.conj(), of_quality(0.9)).go_on(200) == ()


def test_a_suspicion_lapses_and_one_who_still_lies_is_suspected_again_sooner() -> None:
    told = Told(false(0.95), of_quality(0.95))
    first = next(slot for slot in range(1, 100) if told.go_on(1))
    assert told.go_on(LAPSES_AFTER - 1) == (LIAR,)
    assert told.go_on(1) == ()
    assert told.trust.ratio(LIAR) == SUSPECT_AT / 2
    assert next(slot for slot in range(1, 100) if told.go_on(1)) <= first


def test_one_who_has_stopped_lying_is_believed_in_the_end() -> None:
    lies = [True]
    honest, lie = of_quality(0.95), false(0.95)
    told = Told(lambda rng, h: (lie if lies[0] else honest)(rng, h), honest)
    assert told.go_on(2 * EPISODE) == (LIAR,)
    lies[0] = False
    told.go_on(LAPSES_AFTER)
    for _ in range(10):
        assert told.go_on(EPISODE) == ()
    assert told.trust.ratio(LIAR) < 0


def test_truth_about_one_ue_is_no_licence_to_lie_about_another() -> None:
    def half(rng: np.random.Generator, h: Any) -> Any:
        return np.concatenate([of_quality(0.99)(rng, h)[..., :1], false(0.99)(rng, h)[..., 1:]], axis=-1)

    assert Told(half, of_quality(0.99)).go_on(EPISODE - 1) == (LIAR,)


def test_long_honesty_is_no_licence_to_lie() -> None:
    lies = [False]
    honest, lie = of_quality(0.95), false(0.95)
    told = Told(lambda rng, h: (lie if lies[0] else honest)(rng, h), honest)
    assert told.go_on(20 * EPISODE) == ()
    lies[0] = True
    assert told.go_on(2 * EPISODE) == (LIAR,)


def test_without_a_measurement_nothing_is_known() -> None:
    told = Told(false(0.9), of_quality(0.9))
    block = ChannelBlock(0, LIAR, UES, np.ones((2, 4, 2)), [0.5, 0.5], np.zeros((0, 4, 4)))
    feedback = SlotFeedback(0, [1.0, 1.0], [1.0, 1.0], np.zeros((2, 0), int), [[], []])
    told.trust.compare(UES, {LIAR: block}, feedback, before_last=1)
    assert told.trust.ratio(LIAR) == 0
