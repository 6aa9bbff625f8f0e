"""What an AP expects of links: both ends agree, and links that are expected to bring more do."""

from typing import Any

import numpy as np
import pytest

from apnode.agent.forecast import link_gains
from apnode.config import Config
from apnode.protocol.messages import Association, FloatArray
from cfmimo.experiments.central import Sample, sample
from cfmimo.experiments.oracle import Link, _Network, candidate_links
from cfmimo.presets import load
from channel_server.impairments import defect_levels
from channel_server.topology import Layout, associations, make_layout

SMALL = ("radio.num_aps=30", "radio.num_ues=12", "radio.area_m=550", "run.slots_per_episode=6")
SEEDS = range(4)


def world(preset: str, seed: int, *overrides: str) -> tuple[Config, Layout, list[Association]]:
    config = load(preset, (*SMALL, *overrides), seed)
    layout = make_layout(config, 0)
    return config, layout, associations(config, layout, 0)


def expected(config: Config, told: list[Association], levels: FloatArray | None = None) -> dict[Link, float]:
    """By AP and neighbour, if the APs had these defects."""
    gains = [
        link_gains(config, ap, of_ap, None if levels is None else levels[[ap, *of_ap.neighbours]])
        for ap, of_ap in enumerate(told)
    ]
    return {
        (ap, n): gain
        for ap, of_ap in enumerate(told)
        for n, gain in zip(of_ap.neighbours, gains[ap].tolist(), strict=True)
    }


def rate(config: Config, drawn: Sample, links: list[Link]) -> float:
    """Sum rate (9) with these links, over fading that no forecast knows [bit/s/Hz]."""
    network = _Network(config, drawn.layout, drawn.h, drawn.h_hat_in_reach)
    for link in links:
        network.add(link)
    return network._rate


@pytest.mark.parametrize("seed", SEEDS)
def test_both_ends_of_a_link_expect_the_same_to_the_last_bit(seed: int) -> None:
    config, layout, told = world("selective", seed)
    gains, links = expected(config, told), candidate_links(config, layout)
    assert [gains[link] for link in links] == [gains[link[::-1]] for link in links]
    assert max(gains.values()) > 0.5


@pytest.mark.parametrize(("preset", "part"), [("selective", 0.15), ("selective", 0.3), ("directed", 0.5)])
def test_links_that_are_expected_to_bring_most_bring_more_than_as_many_at_random(preset: str, part: float) -> None:
    """Much more: in `selective` half of what all links bring comes from the best sixth of them."""
    over, room = [], []
    for seed in SEEDS:
        config, layout, told = world(preset, seed)
        gains, links = expected(config, told), candidate_links(config, layout)
        links.sort(key=lambda link: -gains[link])
        drawn = sample(config, layout, range(6))
        count = round(part * len(links))
        rng = np.random.default_rng(seed)
        at_random = [rate(config, drawn, [links[i] for i in rng.permutation(len(links))[:count]]) for _ in range(4)]
        over.append(rate(config, drawn, links[:count]) - np.mean(at_random))
        room.append(rate(config, drawn, links) - rate(config, drawn, []))
    assert np.mean(over) > 0.15 * np.mean(room)
    assert min(over) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_an_ap_without_defects_is_forecast_as_if_nobody_had_thought_of_them(seed: int) -> None:
    config, _, told = world("selective", seed)
    for ap, of_ap in enumerate(told[:10]):
        nothing = np.zeros((1 + len(of_ap.neighbours), 3))
        np.testing.assert_array_equal(link_gains(config, ap, of_ap, nothing), link_gains(config, ap, of_ap))


@pytest.mark.parametrize(
    "defects", ["oscillator_deg=[[0.75,5.0],[0.25,90.0]]", "calibration_error=[[0.75,0.0],[0.25,0.5]]"]
)
def test_who_knows_what_if_finds_better_links_among_defective_aps(defects: str) -> None:
    """The what-if is told who is defective; it is not told anything of the fading that counts."""
    gained = []
    for seed in SEEDS:
        config, layout, told = world("selective", seed, f"impairments.{defects}")
        links, drawn, levels = candidate_links(config, layout), sample(config, layout, range(6)), defect_levels(config)
        rates = []
        for gains in (expected(config, told), expected(config, told, levels)):
            assert [gains[link] for link in links] == [gains[link[::-1]] for link in links]
            best = sorted(links, key=lambda link: -gains[link])[:15]
            rates.append(rate(config, drawn, [link for link in best if gains[link] > 0]))
        gained.append(rates[1] - rates[0])
    assert np.mean(gained) > 0.5  # bit/s/Hz


def test_an_ap_that_serves_nobody_or_knows_nobody_expects_nothing() -> None:
    for preset in ("selective", "directed"):
        config = load(preset)
        idle: dict[str, Any] = {"endpoints": ("x",), "interference": [1e-9], "around": (0,), "around_pilots": [0]}
        one = Association(
            0,
            (),
            [],
            [],
            (3,),
            **idle,
            neighbour_beta=np.full((1, 1), 1e-9),
            neighbour_serves=np.ones((1, 1), np.uint8),
        )
        assert link_gains(config, 0, one).tolist() == [0]
        assert link_gains(config, 0, Association(0, (0,), [1e-9], [0], (), (), [])).tolist() == []


def test_where_many_aps_serve_a_user_a_forecast_does_not_try_all_groups_of_them() -> None:
    """There are 2^20 of 20 APs."""
    config = load("selective", ("radio.num_aps=20", "radio.num_ues=1", "radio.area_m=300", "radio.max_serving_aps=20"))
    told = associations(config, make_layout(config, 0), 0)
    gains = link_gains(config, 0, told[0])
    assert len(gains) == 19
    assert np.isfinite(gains).all()


def test_of_the_links_that_join_a_users_aps_those_come_first_that_serve_more_users() -> None:
    """APs 0, 1 and 2 serve UE 0, as strongly each; 0 and 2 also serve UE 1: AP 1 is joined to them by what is left."""
    config = load("selective")
    beta: FloatArray = np.array([[1e-9, 1e-9], [1e-9, 0], [1e-9, 1e-9]])
    serves = beta > 0
    gains = {}
    for ap in range(3):
        others = [n for n in range(3) if n != ap]
        reach = np.flatnonzero(serves[ap])
        told = Association(
            episode=0,
            ues=tuple(reach.tolist()),
            beta=beta[ap, reach],
            pilots=reach,
            reach=tuple(reach.tolist()),
            neighbours=tuple(others),
            endpoints=("x", "x"),
            interference=[1e-9, 1e-9],
            around=(0, 1),
            around_pilots=[0, 1],
            neighbour_beta=beta[others],
            neighbour_serves=serves[others].astype(np.uint8),
        )
        gains |= {(ap, n): gain for n, gain in zip(others, link_gains(config, ap, told), strict=True)}
    assert gains[0, 2] == gains[2, 0] > 0
    assert gains[0, 1] > gains[1, 2] == 0  # one of them suffices


def test_channels_so_weak_that_they_vanish_in_rounding_have_a_forecast() -> None:
    far = ("radio.area_m=1e12", "radio.wrap_around=false", "propagation.model=3gpp-umi")
    for seed in range(8, 12):
        config = load("demo", ("cooperation.policy=forecast", "cooperation.neighbour_threshold=0", *far), seed)
        gains = expected(config, associations(config, make_layout(config, 0), 0))
        assert len(gains) > 20
        assert not any(gains.values())
