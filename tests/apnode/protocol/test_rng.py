"""Randomness is keyed by purpose and index, so nothing that was drawn before can change it."""

import itertools

import numpy as np

from apnode.config import Config
from apnode.config.network import Radio
from apnode.protocol.rng import Purpose, config_for_aps, generator, integer_seed
from channel_server.geometry import ap_positions

KEYS = [(seed, purpose, *index) for seed in (0, 1) for purpose in Purpose for index in ((), (0,), (1,), (0, 1), (1, 0))]


def test_equal_keys_draw_alike_and_other_keys_do_not() -> None:
    drawn = [tuple(generator(*key).random(4)) for key in KEYS]
    assert drawn == [tuple(generator(*key).random(4)) for key in reversed(KEYS)][::-1]
    assert len(set(drawn)) == len(KEYS)


def test_integer_seeds_are_63_bits_and_keyed_alike() -> None:
    seeds = [integer_seed(*key) for key in KEYS]
    assert seeds == [integer_seed(*key) for key in KEYS]
    assert len(set(seeds)) == len(KEYS)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_neighbouring_keys_draw_independently() -> None:
    drawn = np.stack([generator(0, Purpose.FADING, slot).standard_normal(10_000) for slot in range(6)])
    for one, other in itertools.combinations(drawn, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.05


def test_an_ap_cannot_draw_where_the_aps_are() -> None:
    config = Config(seed=3, radio=Radio(ap_seed=5))
    own = config_for_aps(config)
    assert own.radio.ap_seed == -1
    assert not np.array_equal(ap_positions(own), ap_positions(config))
