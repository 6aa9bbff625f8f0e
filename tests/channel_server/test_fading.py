"""Laws of small-scale fading and of what APs hear of the pilots."""

from typing import Any

import numpy as np
import pytest

from apnode.config import Config
from apnode.config.network import Propagation, Radio, Run
from apnode.protocol.messages import ComplexArray
from apnode.radio.csi import despread, pilot_book
from channel_server.fading import (
    SPEED_OF_LIGHT_M_S,
    channels,
    complex_normal,
    late_change,
    received_pilots,
    small_scale_fading,
    ue_speeds,
)
from channel_server.topology import Layout, make_layout

BLOCKS = 20_000
SMALL = Config(
    seed=5, run=Run(blocks_per_slot=3), radio=Radio(num_aps=4, num_ues=5, antennas=2, pilot_length=3, area_m=200)
)
LAYOUT = make_layout(SMALL, episode=0)


def two_links(beta: tuple[float, float]) -> tuple[Config, Layout]:
    """One AP with two antennas and two UEs on one pilot, over very many blocks."""
    config = Config(
        seed=2,
        run=Run(blocks_per_slot=BLOCKS),
        radio=Radio(num_aps=1, num_ues=2, antennas=2, pilot_length=2),
    )
    return config, Layout(
        np.zeros((1, 2)), np.zeros((2, 2)), np.array([beta]), *2 * (np.ones((1, 2), bool),), np.zeros(2, int)
    )


def test_complex_normal_is_circular_of_unit_variance() -> None:
    z = complex_normal(np.random.default_rng(0), (200_000,))
    assert abs(z.mean()) < 0.01
    assert (np.abs(z) ** 2).mean() == pytest.approx(1, rel=0.01)
    assert abs((z**2).mean()) < 0.01
    assert (np.abs(z) ** 4).mean() == pytest.approx(2, rel=0.03)  # exponential power: Rayleigh fading


def test_mean_power_of_a_channel_is_its_beta() -> None:
    config, layout = two_links((1e-9, 4e-7))
    power = (np.abs(channels(config, layout, slot=0)) ** 2).mean(axis=(0, 3))
    np.testing.assert_allclose(power, layout.beta, rtol=0.02)


def test_links_antennas_and_blocks_fade_independently() -> None:
    config, layout = two_links((1.0, 1.0))
    h = channels(config, layout, slot=0).reshape(BLOCKS, 4)
    covariance = h.conj().T @ h / BLOCKS
    np.testing.assert_allclose(covariance, np.eye(4), atol=0.03)
    assert abs((h[1:].conj() * h[:-1]).mean()) < 0.02


def test_channels_are_a_function_of_seed_and_slot_alone() -> None:
    first = channels(SMALL, LAYOUT, slot=7)
    channels(SMALL, LAYOUT, slot=8)
    np.testing.assert_array_equal(channels(SMALL, LAYOUT, slot=7), first)


@pytest.mark.parametrize(("seed", "slot"), [(5, 8), (6, 7)])
def test_another_slot_or_seed_has_other_channels(seed: int, slot: int) -> None:
    other = channels(SMALL.model_copy(update={"seed": seed}), LAYOUT, slot)
    assert not np.isclose(other, channels(SMALL, LAYOUT, slot=7)).any()


def test_moving_the_ues_scales_the_same_fading() -> None:
    moved = make_layout(SMALL, episode=1)
    scale = np.sqrt(moved.beta / LAYOUT.beta)[..., None]
    np.testing.assert_allclose(channels(SMALL, moved, slot=7), scale * channels(SMALL, LAYOUT, slot=7))


def test_shapes_are_blocks_aps_ues_antennas_and_blocks_aps_antennas_pilots() -> None:
    h = channels(SMALL, LAYOUT, slot=0)
    assert h.shape == (3, 4, 5, 2)
    assert received_pilots(SMALL, LAYOUT, h, slot=0).shape == (3, 4, 2, 3)


def test_without_noise_an_ap_hears_the_sum_of_those_who_share_a_pilot() -> None:
    quiet = SMALL.model_copy(update={"radio": SMALL.radio.model_copy(update={"bandwidth_hz": 1e-40})})
    h = channels(quiet, LAYOUT, slot=0)
    projections = despread(received_pilots(quiet, LAYOUT, h, slot=0))
    energy = quiet.radio.pilot_power_w * quiet.radio.pilot_length
    for pilot in range(3):
        sharing = h[:, :, LAYOUT.pilots == pilot].sum(axis=2)
        np.testing.assert_allclose(projections[..., pilot], np.sqrt(energy) * sharing, rtol=1e-9)


def test_received_pilots_are_the_sum_of_equation_3_over_ues() -> None:
    h = channels(SMALL, LAYOUT, slot=1)
    silence = received_pilots(SMALL, LAYOUT, np.zeros_like(h), slot=1)
    book = pilot_book(3)
    expected = silence + sum(
        np.sqrt(SMALL.radio.pilot_power_w) * h[:, :, ue, :, None] * book[LAYOUT.pilots[ue]] for ue in range(5)
    )
    np.testing.assert_allclose(received_pilots(SMALL, LAYOUT, h, slot=1), expected, rtol=1e-9)


def test_noise_is_white_of_the_receivers_power_also_after_despreading() -> None:
    config, layout = two_links((1.0, 1.0))
    silence = received_pilots(config, layout, np.zeros((BLOCKS, 1, 2, 2), complex), slot=0)
    for heard in (silence, despread(silence)):
        flat = heard.reshape(BLOCKS, 4) / np.sqrt(config.radio.noise_power_w)
        np.testing.assert_allclose(flat.conj().T @ flat / BLOCKS, np.eye(4), atol=0.03)


def test_noise_is_a_function_of_seed_and_slot_and_not_of_the_channels() -> None:
    h = channels(SMALL, LAYOUT, slot=0)
    here, there = (received_pilots(SMALL, LAYOUT, scale * h, slot=4) for scale in (1, 2))
    silence = received_pilots(SMALL, LAYOUT, 0 * h, slot=4)
    np.testing.assert_allclose(there - silence, 2 * (here - silence), atol=1e-6 * np.abs(here).max())
    assert not np.isclose(received_pilots(SMALL, LAYOUT, 0 * h, slot=5), silence, rtol=1e-3).any()


def test_noise_and_fading_of_a_slot_are_independent() -> None:
    config, layout = two_links((1.0, 1.0))
    h = channels(config, layout, slot=0).ravel()
    noise = received_pilots(config, layout, np.zeros((BLOCKS, 1, 2, 2), complex), slot=0).ravel()
    assert abs(np.vdot(h, noise)) / (np.linalg.norm(h) * np.linalg.norm(noise)) < 0.02


# --- fading that remembers ---

FEW, LONG = 3, 400  # blocks in a slot, slots in an episode


def moving(
    *speeds: tuple[float, float], block_ms: float = 1.0, seed: int = 5, shadowing_correlation_m: float = 0, **radio: Any
) -> Config:
    return Config(
        seed=seed,
        run=Run(blocks_per_slot=FEW, slots_per_episode=LONG),
        radio=Radio(num_aps=40, num_ues=40, antennas=4, pilot_length=3, ue_speeds_kmh=speeds, **radio),
        propagation=Propagation(block_ms=block_ms, shadowing_correlation_m=shadowing_correlation_m),
    )


def episode_of(config: Config, slots: int, first: int = 0) -> ComplexArray:
    """(slots x blocks, M, K, L): the fading of consecutive blocks."""
    g = [small_scale_fading(config, first + slot) for slot in range(slots)]
    return np.concatenate(g)


def bessel_j0(z: float) -> float:
    return float(np.cos(z * np.cos(np.linspace(0, np.pi, 20_001))).mean())


@pytest.mark.parametrize("speed", [3.0, 30.0])
def test_fading_is_correlated_over_time_by_clarkes_model_within_and_across_slots(speed: float) -> None:
    g = episode_of(moving((1.0, speed)), LONG)
    for apart in (1, 4, 7, 20, LONG * FEW - 1):
        z = 2 * np.pi * speed / 3.6 * 1.9e9 / SPEED_OF_LIGHT_M_S * apart * 1e-3
        links = (g[apart:].conj() * g[:-apart]).mean(axis=(0, 3))  # (M, K), each of other scatterers
        error = np.sqrt((np.abs(links) ** 2).mean() / links.size)
        assert abs(links.mean() - bessel_j0(z)) < 4 * error + 1e-3
    assert bessel_j0(2.405) == pytest.approx(0, abs=1e-3)


def test_what_has_changed_when_the_latest_estimates_are_used_follows_from_clarkes_model() -> None:
    config = moving((0.75, 3.0), (0.25, 60.0)).variant(
        impairments={"fronthaul_blocks": ((0.5, 0), (0.25, 1), (0.25, 4))},
        cooperation={"history_blocks": 4, "cluster": "serving"},
        precoding={"joint": "selective"},
    )
    turn = 2 * np.pi * ue_speeds(config, 0) / 3.6 * 1.9e9 / SPEED_OF_LIGHT_M_S * 4e-3
    assert late_change(config, 0) == pytest.approx([1 - bessel_j0(z) ** 2 for z in turn], abs=1e-4)
    assert sorted({*late_change(config, 0).round(3)}) == [0.009, 0.985]


def test_every_ue_fades_at_its_own_speed() -> None:
    config = moving((0.75, 3.0), (0.25, 120.0))
    speeds = ue_speeds(config, 0)
    assert sorted(speeds.tolist()) == 30 * [3.0] + 10 * [120.0]
    g = episode_of(config, 1)
    moved = (np.abs(g[1] - g[0]) ** 2).mean(axis=(0, 2))
    assert moved[speeds == 3].max() < moved[speeds == 120].min()
    assert (ue_speeds(config, 1) != speeds).any()  # other UEs
    walking = moving((0.75, 3.0), (0.25, 120.0), ue_mobility="walk")
    np.testing.assert_array_equal(ue_speeds(walking, 1), ue_speeds(walking, 0))


def test_fading_of_ues_that_drive_goes_on_from_one_episode_to_the_next() -> None:
    jumps = {}
    for mobility in ("redraw", "drive"):
        config = moving((1.0, 3.0), ue_mobility=mobility, shadowing_correlation_m=9)
        before, after = (episode_of(config, 1, first)[at] for first, at in ((LONG - 1, -1), (LONG, 0)))
        jumps[mobility] = (np.abs(after - before) ** 2).mean()
    assert jumps["redraw"] == pytest.approx(2, rel=0.1)
    assert jumps["drive"] < 0.02


def test_moving_fading_is_rayleigh_in_every_block_and_independent_over_antennas() -> None:
    for block in (0, -1):
        g = np.stack([episode_of(moving((1.0, 30.0), seed=seed), LONG)[block] for seed in range(5)])
        assert (np.abs(g) ** 2).mean() == pytest.approx(1, rel=0.02)
        assert (np.abs(g) ** 4).mean() == pytest.approx(2, rel=0.04)
        rows = g.reshape(-1, 4)
        np.testing.assert_allclose(rows.conj().T @ rows / len(rows), np.eye(4), atol=0.04)


def test_episodes_fade_independently() -> None:
    config = moving((1.0, 0.1))
    last, first = small_scale_fading(config, LONG - 1)[-1], small_scale_fading(config, LONG)[0]
    assert abs((last.conj() * first).mean()) < 0.05


def test_moving_fading_is_a_function_of_seed_and_slot_in_whatever_order_one_asks() -> None:
    config, another = moving((1.0, 30.0)), moving((1.0, 30.0), seed=6)
    in_order = {slot: small_scale_fading(config, slot) for slot in (0, 1, 2, 3, LONG + 1)}
    for slot in (3, 0, LONG + 1, 2, 2, 1):
        assert (small_scale_fading(another, slot) != in_order[slot]).all()
        np.testing.assert_array_equal(small_scale_fading(config, slot), in_order[slot])


def test_no_time_between_blocks_means_fading_that_forgets() -> None:
    g = episode_of(moving((1.0, 3.0), block_ms=0), 4)
    assert abs((g[1:].conj() * g[:-1]).mean()) < 0.02
