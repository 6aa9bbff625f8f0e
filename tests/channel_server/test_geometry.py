"""Laws of walking UEs: how far, where to, and the same whatever was asked before."""

import itertools
import re

import numpy as np
import pytest

from apnode.config import Config
from apnode.config.network import Propagation, Radio
from apnode.protocol.messages import FloatArray
from cfmimo.errors import ConfigError
from cfmimo.presets import load
from channel_server.geometry import ap_positions, distances, period, ue_positions
from channel_server.propagation import path_gain_db
from channel_server.topology import Layout, make_layout

AREA = 200.0


def walkers(step: float = 5.0, wrap_around: bool = True, halving: float = 0.0, num_ues: int = 60) -> Config:
    radio = Radio(
        num_aps=30,
        num_ues=num_ues,
        area_m=AREA,
        wrap_around=wrap_around,
        ue_mobility="walk",
        ue_speed_m_s=2.0,
        episode_s=step / 2,
    )
    return Config(seed=3, radio=radio, propagation=Propagation(shadowing_correlation_m=halving))


def shadow_db(config: Config, layout: Layout) -> FloatArray:
    ground = distances(layout.ap_xy, layout.ue_xy, period(config.radio))
    gain = path_gain_db(ground, config.propagation, np.ones(ground.shape, bool))
    return np.asarray(10 * np.log10(layout.beta) - gain)


def test_a_walker_on_the_torus_goes_exactly_its_step_between_episodes() -> None:
    config = walkers(step=5)
    places = [ue_positions(config, episode) for episode in range(40)]
    for before, after in itertools.pairwise(places):
        np.testing.assert_allclose(np.diag(distances(before, after, AREA)), 5)
    assert any((np.abs(b - a) > AREA / 2).any() for a, b in itertools.pairwise(places))  # over the border


def test_borders_reflect_a_walker_so_that_it_goes_its_step_or_less() -> None:
    config = walkers(step=20, wrap_around=False)
    places = [ue_positions(config, episode) for episode in range(40)]
    steps = np.stack([np.hypot(*(after - before).T) for before, after in itertools.pairwise(places)])
    assert steps.max() <= 20 + 1e-9
    assert 0.7 < (steps > 20 - 1e-9).mean() < 1


@pytest.mark.parametrize("wrap_around", [True, False])
def test_walkers_stay_in_the_square_all_over_it(wrap_around: bool) -> None:
    config = walkers(step=30, wrap_around=wrap_around, num_ues=2000)
    xy = ue_positions(config, 50)
    assert xy.min() >= 0
    assert xy.max() <= AREA
    np.testing.assert_allclose(np.histogram2d(xy[:, 0], xy[:, 1], bins=3)[0] / len(xy), 1 / 9, atol=0.03)


def test_a_walk_diffuses_as_the_square_root_of_time() -> None:
    config = walkers(step=1, num_ues=1000)
    start = ue_positions(config, 0)
    walked = np.diag(distances(start, ue_positions(config, 100), AREA))
    assert (walked**2).mean() == pytest.approx(100, rel=0.15)


def test_who_drives_goes_straight_on_at_its_own_speed_as_long_as_an_episode_takes() -> None:
    """20 slots of 4 blocks of 25 ms are 2 s."""
    changes = {"ue_mobility": "drive", "ue_speeds_kmh": [[0.5, 3.6], [0.5, 36.0]]}
    config = load("demo", [f"radio.{key}={value!r}" for key, value in changes.items()] + list(DRIVING))
    places = [ue_positions(config, episode) for episode in range(4)]
    steps = [(b - a + 225) % 450 - 225 for a, b in itertools.pairwise(places)]
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], np.shape(steps)))
    assert sorted(np.hypot(*steps[0].T).round(6)) == 4 * [2.0] + 4 * [20.0]
    betas = [make_layout(config, episode).beta for episode in range(2)]
    moved_db = np.abs(np.diff(10 * np.log10(betas), axis=0)).mean(axis=(0, 1))
    assert moved_db[np.hypot(*steps[0].T) < 3].max() < moved_db[np.hypot(*steps[0].T) > 3].min()


DRIVING = ("propagation.block_ms=25", "propagation.shadowing_correlation_m=9")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (DRIVING[1:], 'ue_mobility = "drive" needs propagation.block_ms'),
        (DRIVING[:1], 'ue_mobility = "drive" needs shadowing_correlation_m (9, say)'),
        ((*DRIVING, "radio.episode_s=3"), 'episode_s = 3.0 has no effect with ue_mobility = "drive"'),
    ],
)
def test_who_cannot_drive_gets_a_sentence(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load("demo", ("radio.ue_mobility=drive", *overrides))


def test_a_walk_begins_where_ues_would_be_drawn() -> None:
    config = walkers()
    redraw = config.model_copy(update={"radio": Radio(num_aps=30, num_ues=60, area_m=AREA)})
    np.testing.assert_array_equal(make_layout(config, 0).beta, make_layout(redraw, 0).beta)
    assert (make_layout(config, 1).ue_xy != make_layout(redraw, 1).ue_xy).all()


@pytest.mark.parametrize("halving", [0.0, 9.0])
def test_a_walked_layout_is_a_function_of_seed_and_episode_in_whatever_order_one_asks(halving: float) -> None:
    config = walkers(halving=halving)
    another = config.model_copy(update={"seed": 4})
    in_order = [make_layout(config, episode) for episode in range(6)]
    for episode in (5, 0, 3, 3, 4, 1):
        make_layout(another, episode + 1)
        again = make_layout(config, episode)
        np.testing.assert_array_equal(again.beta, in_order[episode].beta)
        np.testing.assert_array_equal(again.ue_xy, in_order[episode].ue_xy)
        np.testing.assert_array_equal(again.pilots, in_order[episode].pilots)


@pytest.mark.parametrize("step", [2.0, 9.0, 27.0])
def test_shadowing_of_a_walker_is_correlated_with_its_last_as_the_step_says(step: float) -> None:
    config = walkers(step=step, halving=9)
    fields = [shadow_db(config, make_layout(config, episode)) for episode in range(30)]
    for apart in (1, 2):
        pairs = [np.mean(later * earlier) / 64 for earlier, later in zip(fields, fields[apart:], strict=False)]
        assert np.mean(pairs) == pytest.approx(2 ** (-apart * step / 9), abs=0.06)
    assert np.std(fields[-1]) == pytest.approx(8, rel=0.06)  # stationary


def test_shadowing_without_a_distance_of_correlation_is_redrawn_at_every_step() -> None:
    config = walkers(step=1)
    first, second = (shadow_db(config, make_layout(config, episode)) for episode in (0, 1))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.08


def test_line_of_sight_of_a_slow_walker_mostly_stays() -> None:
    radio = walkers(step=1).radio
    propagation = Propagation(model="3gpp-umi", shadowing_correlation_m=50)
    config = Config(radio=radio, propagation=propagation)
    redrawn = Config(radio=radio, propagation=Propagation(model="3gpp-umi"))
    slow, fast = (
        np.corrcoef(*(np.log10(make_layout(each, episode).beta).ravel() for episode in (0, 1)))[0, 1]
        for each in (config, redrawn)
    )
    assert slow > 0.95
    assert fast < 0.7


def test_aps_do_not_walk() -> None:
    config = walkers()
    np.testing.assert_array_equal(make_layout(config, 0).ap_xy, make_layout(config, 9).ap_xy)


@pytest.mark.parametrize("key", ["ue_speed_m_s", "episode_s"])
def test_the_speed_of_ues_that_do_not_walk_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f'{key} = 3.0 has no effect with ue_mobility = "redraw"'):
        load("demo", [f"radio.{key}=3.0"])
    assert load("demo", [f"radio.{key}=3.0", "radio.ue_mobility=walk"]).radio.ue_mobility == "walk"


def test_aps_with_a_seed_of_their_own_stay_while_all_else_is_drawn_anew() -> None:
    one, other = (Config(seed=seed, radio=Radio(ap_seed=7)) for seed in (1, 2))
    np.testing.assert_array_equal(ap_positions(one), ap_positions(other))
    np.testing.assert_array_equal(ap_positions(one), ap_positions(Config(seed=7)))
    assert not np.array_equal(ue_positions(one, 0), ue_positions(other, 0))
