"""Randomness keyed by purpose and index, never by the order of draws.

What is drawn for (seed, purpose, index) does not depend on what was drawn before, so a node that
restarts draws again what it drew, and killing one node changes nothing at the others.
"""

from enum import IntEnum

import numpy as np

from apnode.config import Config


class Purpose(IntEnum):
    """What a random stream is for; the numbers are part of every digest, so they are never reused."""

    AP_POSITIONS = 1
    UE_POSITIONS = 2
    SHADOWING = 3
    FADING = 4
    PILOT_NOISE = 5
    EXPLORATION = 6
    WEIGHTS = 7
    UPDATE = 8
    DELIVERY_ORDER = 9
    BOOTSTRAP = 10
    APS = 11
    HELD_OUT = 12
    SCATTERERS = 13
    SPEED = 14
    OSCILLATOR = 15
    OSCILLATOR_CLASS = 16
    CALIBRATION = 17
    CALIBRATION_CLASS = 18
    FRONTHAUL_CLASS = 19
    LINE_OF_SIGHT = 20
    PILOT_ASSIGNMENT = 21
    WALK = 22
    LINK_FAULTS = 30
    FAULTS = 31
    LIES = 32
    FORECAST = 40
    WHAT_IF = 41
    SERVING = 42


def config_for_aps(config: Config) -> Config:
    """The config as APs get it: nothing of the world in it.

    Nothing can be drawn from its seed or read from a file it names, and it says nothing of defects, speeds and who
    shares a process. Its seed follows from the run's one way. All APs have the same one, since both ends of a link draw
    alike from it; what an AP draws for itself is keyed by its number.
    """
    nothing = Config()
    of_file = ("channel_file", "first_layout", "num_layouts")
    return config.variant(
        seed=integer_seed(config.seed, Purpose.APS),
        run={"aps_per_actor": nothing.run.aps_per_actor},
        radio={"ap_seed": nothing.radio.ap_seed, "ue_speeds_kmh": nothing.radio.ue_speeds_kmh},
        propagation={name: getattr(nothing.propagation, name) for name in of_file},
        impairments=nothing.impairments,
    )


def generator(seed: int, purpose: Purpose, *index: int) -> np.random.Generator:
    """The generator of (seed, purpose, index); equal arguments give equal draws."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(purpose, *index))))


def integer_seed(seed: int, purpose: Purpose, *index: int) -> int:
    """A 63-bit seed of the same kind, for libraries that bring a generator of their own."""
    state = np.random.SeedSequence(seed, spawn_key=(purpose, *index)).generate_state(1, np.uint64)
    return int(state[0]) >> 1
