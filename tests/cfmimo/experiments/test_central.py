"""References with global CSI: power, order, and agreement with what APs do where that is the same."""

import numpy as np
import pytest

from apnode.config import Config
from cfmimo.experiments.central import REFERENCES, Sample, full_mmse, p_mmse, reference, sample
from cfmimo.experiments.snapshot import snapshot
from cfmimo.presets import load
from channel_server.server import radiated_power
from channel_server.topology import make_layout


def observed(*overrides: str) -> tuple[Config, Sample]:
    config = load("demo", ("run.slots_per_episode=20", *overrides))
    return config, sample(config, make_layout(config, 0), range(10))


def test_a_sample_is_what_the_aps_estimate_in_a_run() -> None:
    config = load("demo", ("cooperation.policy=never", "run.episodes=1", "run.slots_per_episode=3"))
    arrays, known = snapshot(config, 2), sample(config, make_layout(config, 0), [2])
    np.testing.assert_array_equal(known.h, arrays["h"])
    np.testing.assert_allclose(known.h_hat_in_reach, arrays["h_hat"], rtol=1e-5, atol=1e-12)  # pilots are complex64
    reach, pilots = known.layout.reach, known.layout.pilots
    unheard = ~reach @ (pilots[:, None] == pilots[None, :])  # UEs out of reach on the same pilot
    same = reach & ~unheard
    assert same.mean() > 0.05
    np.testing.assert_allclose(known.h_hat[:, same], known.h_hat_in_reach[:, same])
    np.testing.assert_allclose(known.error[same], arrays["error_variance"][same])
    assert (arrays["error_variance"] <= known.error * (1 + 1e-9)).all()


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_gives_every_ue_something_and_hardens_as_it_should(name: str) -> None:
    config, known = observed()
    ratio, gain, peak = reference(name, config, known)
    assert ratio.shape == gain.shape == (40, 8)
    assert (ratio > 0).all()
    assert np.isfinite(ratio).all()
    assert peak > 0


@pytest.mark.parametrize("name", ["p-mmse", "full-mmse"])
def test_on_average_over_the_blocks_no_ap_exceeds_its_power_and_the_busiest_has_it(name: str) -> None:
    config, known = observed("radio.ap_power_w=2.5")
    layout, radio = known.layout, config.radio
    if name == "p-mmse":
        w = p_mmse(known.h_hat, known.error, layout.beta, layout.serving, radio)
        assert not w[:, ~layout.serving].any()
    else:
        w = full_mmse(known.h_hat, known.error, layout.beta, radio)
    mean = radiated_power(w).mean(axis=0)
    assert mean.max() <= 2.5 * (1 + 1e-9)


def test_full_mmse_by_the_inversion_lemma_is_the_formula() -> None:
    config, known = observed()
    h = known.h_hat[:1].swapaxes(2, 3).reshape(1, -1, 8)
    noise = config.radio.noise_power_w / config.radio.ap_power_w
    unknown = np.diag(np.repeat(known.error.sum(axis=1) + noise, 4))
    expected = np.linalg.solve(h @ h.conj().swapaxes(1, 2) + unknown, h)[0]
    w = full_mmse(known.h_hat[:1], known.error, known.layout.beta, config.radio)[0].swapaxes(1, 2).reshape(-1, 8)
    ratio = w / expected
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1], ratio.shape), rtol=1e-6)  # one factor for each UE


def test_an_unknown_reference_is_named() -> None:
    config, known = observed()
    with pytest.raises(ValueError, match="no reference 'magic'"):
        reference("magic", config, known)
