"""Laws of the defects of AP hardware: what is left of nulls and of coherent gain, and who is defective."""

import re
from typing import Any

import numpy as np
import pytest

from apnode.config import Config
from apnode.config.network import Impairments, Radio
from apnode.protocol.messages import ChannelBlock
from apnode.protocol.rng import config_for_aps
from apnode.protocol.wire import decode
from cfmimo.errors import ConfigError
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork
from channel_server.impairments import (
    calibration_factors,
    calibration_levels,
    defect_levels,
    described_defects,
    downlink,
    fronthaul_levels,
    oscillator_levels,
    phase_errors,
)


def defective(num_aps: int = 2, seed: int = 1, **impairments: Any) -> Config:
    return Config(seed=seed, radio=Radio(num_aps=num_aps), impairments=Impairments(**impairments))


@pytest.mark.parametrize("degrees", [2.0, 5.0, 10.0, 20.0, 90.0])
def test_a_null_between_two_aps_leaves_what_their_phase_errors_let_through(degrees: float) -> None:
    config = defective(100, oscillator_deg=((1.0, degrees),))
    theta = np.array([phase_errors(config, slot) for slot in range(400)]).reshape(-1, 2)
    left = (np.abs(np.exp(1j * theta) @ [1, -1]) ** 2).mean() / 2  # of the power of the two apart
    assert left == pytest.approx(1 - np.exp(-(np.radians(degrees) ** 2)), rel=0.05)


@pytest.mark.parametrize("error", [0.1, 0.5])
def test_a_calibration_error_leaves_its_complement_of_the_coherent_gain(error: float) -> None:
    drawn = [calibration_factors(defective(100, seed, calibration_error=((1.0, error),))) for seed in range(100)]
    factors = np.concatenate(drawn)
    assert np.abs(factors.mean()) ** 2 == pytest.approx(1 - error, rel=0.03)
    assert (np.abs(factors) ** 2).mean() == pytest.approx(1, rel=0.03)


def test_phases_drift_as_far_as_they_may_until_they_are_calibrated_again() -> None:
    config = defective(num_aps=100, oscillator_deg=((1.0, 30.0),), recalibrate_slots=10)
    theta = np.degrees([phase_errors(config, slot) for slot in range(1000)]).reshape(100, 10, 100)
    np.testing.assert_allclose(theta.std(axis=(0, 2)), 30 * np.sqrt(np.arange(10) / 10), rtol=0.04)
    assert not theta[:, 0].any()  # calibrated
    steps = np.diff(theta, axis=1)
    assert abs((steps[:, 4] * steps[:, 5]).mean()) < 0.05 * steps.var()


def test_as_many_aps_are_defective_as_the_shares_say_and_each_defect_strikes_others() -> None:
    config = defective(100, oscillator_deg=((0.75, 5.0), (0.25, 90.0)), calibration_error=((0.75, 0.0), (0.25, 0.5)))
    unlocked, wrong = oscillator_levels(config) == 90, calibration_levels(config) == 0.5
    assert unlocked.sum() == wrong.sum() == 25
    assert 0 < (unlocked & wrong).sum() < 25
    other = config.model_copy(update={"seed": 2})
    assert (oscillator_levels(other) != oscillator_levels(config)).any()


def test_defects_stay_where_they_are_and_phases_change_from_slot_to_slot() -> None:
    config = defective(3, oscillator_deg=((1.0, 20.0),), calibration_error=((1.0, 0.5),))
    h = np.ones((2, 3, 4, 4), complex)
    first, again, next_one = (downlink(config, h, slot) for slot in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    turned = next_one / first  # whatever lasts cancels
    np.testing.assert_allclose(np.abs(turned), 1)
    np.testing.assert_allclose(turned, np.broadcast_to(turned[:1, :, :1, :1], turned.shape))
    assert not np.isclose(turned, 1).any()


def test_hardware_without_defects_leaves_channels_as_they_are() -> None:
    h = np.ones((1, 2, 3, 4), complex)
    assert downlink(defective(), h, 0) is h


@pytest.mark.parametrize(
    "setting", ["oscillator_deg=[[1.0, 90.0]]", "calibration_error=[[1.0, 0.9]]"], ids=["oscillator", "calibration"]
)
def test_defects_cost_ues_their_rate_and_no_ap_is_told_why(setting: str) -> None:
    short = ("run.episodes=1", "run.slots_per_episode=4", "cooperation.policy=never")
    healthy, hurt = (load("demo", [*short, *more]) for more in ((), (f"impairments.{setting}",)))
    records = []
    for config in (healthy, hurt):
        network = LocalNetwork(config)
        network.run()
        records.append(network.coordinator.record)
    assert records[1].sinr.mean() < records[0].sinr.mean()
    assert config_for_aps(hurt) == config_for_aps(healthy)


def test_what_an_ap_knows_of_its_world_says_nothing_of_speeds() -> None:
    config = load("demo", ["propagation.block_ms=1", "radio.ue_speeds_kmh=[[0.6, 3.0], [0.4, 30.0]]"])
    assert config_for_aps(config).radio == Radio(**config.radio.model_dump(exclude={"ue_speeds_kmh"}))


LATE = (
    *("run.episodes=2", "run.slots_per_episode=4", "cooperation.policy=always", "cooperation.neighbour_sets=common-ue"),
    *("cooperation.cluster=serving", "precoding.joint=selective", "precoding.alone=mmse", "propagation.block_ms=4"),
    "cooperation.history_blocks=5",
)


def test_what_an_ap_tells_comes_late_as_its_fronthaul_is_and_receivers_see_how_late() -> None:
    """The same estimates but for the newest; and nothing else is held back, nor is its AP told why."""
    blocks = {}
    mixture = "impairments.fronthaul_blocks=[[0.5, 0], [0.25, 1], [0.25, 5]]"
    in_time, late = (load("demo", (*LATE, *more)) for more in ((), (mixture,)))
    for config in (in_time, late):
        network, sent = LocalNetwork(config), list[ChannelBlock]()
        for send in network.frames():
            message = decode(send.frame, 2**31)
            if isinstance(message, ChannelBlock):
                sent.append(message)
        assert not network.coordinator.record.rejected.any()
        blocks[config] = {(block.slot, block.ap, block.ues): block for block in sent}
    levels = fronthaul_levels(late)
    assert sorted(levels) == [0] * 10 + [1] * 5 + [5] * 5
    assert blocks[late].keys() == blocks[in_time].keys()
    for at, told in blocks[late].items():
        fresh, level = blocks[in_time][at], int(levels[told.ap])
        assert (fresh.age, told.age) == (0, level)
        remembered = min(5, 4 * (told.slot % 4))  # of this episode only
        assert len(fresh.h_hat) == remembered + 4
        kept = max(remembered + 4 - level, 0)
        np.testing.assert_array_equal(told.h_hat, fresh.h_hat[:kept])
        np.testing.assert_array_equal(told.untold, fresh.untold[:kept])
    assert config_for_aps(late) == config_for_aps(in_time)


def test_people_are_told_what_is_worse_about_an_ap_than_about_the_best() -> None:
    config = defective(40, oscillator_deg=((0.5, 5.0), (0.5, 90.0)), calibration_error=((1.0, 0.5),))
    unlocked = oscillator_levels(config) == 90
    assert described_defects(config) == ["phase off by 90 degrees" if bad else "" for bad in unlocked]


def test_with_late_estimates_aps_keep_to_their_power_also_where_they_have_none_yet() -> None:
    half = ("radio.num_aps=50", "radio.num_ues=20", "radio.area_m=707", "run.episodes=1", "run.slots_per_episode=2")
    network = LocalNetwork(load("stale", (*half, "cooperation.policy=forecast"), seed=1))
    network.run()
    assert not network.coordinator.record.rejected.any()
    assert not network.coordinator.record.silent.any()


def test_late_estimates_cost_users_that_move_fast_and_hardly_those_that_stand() -> None:
    lost = {}
    for speed in (0.1, 60.0):
        rates = []
        for late in (0, 1):
            impaired = f"impairments.fronthaul_blocks=[[1.0, {late}]]"
            config = load("demo", (*LATE, f"radio.ue_speeds_kmh=[[1.0, {speed}]]", impaired))
            network = LocalNetwork(config)
            network.run()
            later = np.arange(8) % 4 > 0  # in the first slot there is no history
            rates.append(np.log2(1 + network.coordinator.record.sinr[later]).mean())
        lost[speed] = 1 - rates[1] / rates[0]
    assert abs(lost[0.1]) < 0.01
    assert lost[60.0] > 0.03


@pytest.mark.parametrize("order", range(3))
def test_late_estimates_give_the_same_run_in_any_order_of_delivery(order: int) -> None:
    config = load("demo", (*LATE, "run.episodes=1", "impairments.fronthaul_blocks=[[0.5, 0], [0.5, 3]]"))
    networks = LocalNetwork(config), LocalNetwork(config, order_seed=order)
    for network in networks:
        network.run()
    assert networks[0].coordinator.record.digest() == networks[1].coordinator.record.digest()


def test_of_the_preset_hidden_each_ap_has_its_defects_independently_of_its_others() -> None:
    """By chance one AP in 16 is neither locked nor calibrated, one in 33 late and one of these."""
    levels = np.array([defect_levels(load("hidden", seed=seed)) for seed in range(40)]) > 0.5 - 1e-9  # (S, M, 3)
    assert (levels.sum(axis=1) == [25, 12, 25]).all()
    phase, late, calibration = levels.reshape(-1, 3).T
    for one, other, share in ((phase, calibration, 1 / 16), (phase, late, 0.03), (calibration, late, 0.03)):
        assert (one & other).mean() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["impairments.oscillator_deg=[[0.5, 5.0], [0.6, 90.0]]"], "shares [[share, value], ...] must sum to 1"),
        (["impairments.oscillator_deg=[[1.5, 5.0], [-0.5, 90.0]]"], "less than or equal to 1"),
        (["impairments.oscillator_deg=[[1.0, -5.0]]"], "oscillator_deg must be from 0 to 180 degrees"),
        (["impairments.calibration_error=[[1.0, 1.1]]"], "calibration_error must be from 0 to 1"),
        (["impairments.recalibrate_slots=5"], "recalibrate_slots has no effect without a phase error"),
        (["impairments.fronthaul_blocks=[[1.0, 0.5]]"], "fronthaul_blocks must be whole numbers of coherence blocks"),
        (["impairments.fronthaul_blocks=[[1.0, -1.0]]"], "fronthaul_blocks must be whole numbers of coherence blocks"),
        (["impairments.fronthaul_blocks=[[1.0, 1.0]]"], "fronthaul_blocks needs propagation.block_ms"),
        (
            ["propagation.block_ms=1", "impairments.fronthaul_blocks=[[0.5, 0], [0.5, 3]]"],
            "fronthaul_blocks = 3 is beyond what APs remember: set cooperation.history_blocks = 3",
        ),
        (["cooperation.history_blocks=2"], 'history_blocks has no effect with any cluster but "serving"'),
        (["propagation.block_ms=1", "radio.ue_speeds_kmh=[[1.0, 0.0]]"], "ue_speeds_kmh must be above 0"),
        (["radio.ue_speeds_kmh=[[1.0, 30.0]]"], "ue_speeds_kmh has no effect with propagation.block_ms = 0"),
    ],
)
def test_impossible_defects_get_a_sentence(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load("demo", overrides)
