"""Rivals of belief: by how much of what the forecast expected has come of its streams an AP multiplies its links."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from apnode.agent.factors import Factor, Ratio
from apnode.agent.forecast import link_gains, prospects_of
from apnode.agent.streams import Watcher
from apnode.agent.surroundings import Surroundings
from apnode.agent.view import View
from apnode.protocol.messages import LEVELS_PER_DB, Association, FloatArray, SlotFeedback
from apnode.protocol.state import State, StateError
from cfmimo.presets import load
from channel_server.topology import associations, make_layout

SLOTS = 5  # of an episode
SMALL = ("radio.num_aps=30", "radio.num_ues=12", "radio.area_m=550", f"run.slots_per_episode={SLOTS}")
CONFIGS = {policy: load("selective", (*SMALL, f"cooperation.policy={policy}"), 3) for policy in ("ratio", "factor")}
Make = Callable[..., Watcher]
MAKE: tuple[tuple[str, Make], ...] = ("ratio", Ratio), ("factor", Factor)
ELSEWHERE = 10_000  # a UE that no AP serves
AP, LAYOUTS = 7, (1, 3, 4, 5)  # in which it serves UEs


def told(layout: int) -> Association:
    config = CONFIGS["factor"]
    return associations(config, make_layout(config, layout), layout)[AP]


def still(association: Association) -> FloatArray:
    return np.zeros(len(association.reach))


def reported(association: Association, slot: int, values: Mapping[int, float]) -> SlotFeedback:
    """Of every own stream what it brings (bit/s/Hz), by UE; at the UE itself, or elsewhere what it costs."""
    levels = []
    for ue in association.ues:
        over_noise = CONFIGS["factor"].cooperation.residual_db + 10 * np.log10(2 ** abs(values[ue]) - 1)
        levels.append((ue if values[ue] > 0 else ELSEWHERE, round(over_noise * LEVELS_PER_DB)))
    at, level = zip(*levels, strict=True)
    count, nothing = len(association.ues), np.zeros((len(association.ues), 0))
    rates = np.ones(count), np.ones(count)
    hearers = {"hearers": [1] * count, "heard_at": at, "level": level}
    return SlotFeedback(slot, *rates, nothing.astype(int), nothing, **hearers)


def school(policy: Watcher, shares: Mapping[int, float], layouts: Sequence[int] = LAYOUTS) -> None:
    """Let an AP send each stream with all its UE's APs; of what the forecast says comes the product of their shares."""
    config = CONFIGS["factor"]
    for layout in layouts:
        association = told(layout)
        around = Surroundings(AP, association, config.radio)
        values, groups = {}, {}
        for ue, of_ue in prospects_of(config, around, np.zeros(len(around.ids))).items():
            aps = [around.aps[row] for row in of_ue.members]
            expected = float(of_ue.values([(of_ue.group_of(of_ue.members),)])[0])
            assert expected > 0
            values[ue] = expected * np.prod([shares.get(ap, 1.0) for ap in aps])
            groups[ue] = [ap for ap in aps if ap != AP]
        for slot in range(layout * SLOTS, (layout + 1) * SLOTS):
            policy.act(View(still(association), association, slot))
            policy.observe(reported(association, slot, values), groups, {})


@pytest.mark.parametrize(("policy", "make"), MAKE)
def test_before_anything_has_come_a_link_is_worth_what_the_forecast_says(policy: str, make: Make) -> None:
    association, config = told(1), CONFIGS[policy]
    expected = link_gains(config, AP, association)
    assert (expected > 0).sum() > 3
    np.testing.assert_allclose(make(AP, config).gains(still(association), association), expected)


def test_a_link_brings_what_came_over_what_was_expected_of_its_streams_and_at_first_what_all_did() -> None:
    association, policy = told(1), Ratio(AP, CONFIGS["ratio"])
    bad = association.neighbours[0]
    school(policy, {bad: 0.2}, [1])
    came = {int(ap): of_link for ap, *of_link in policy.learned}
    ratios = {ap: one / other for ap, (one, other) in came.items()}
    assert ratios[bad] == pytest.approx(0.2, abs=0.02)
    assert max(ratios.values()) == pytest.approx(1, abs=0.02)
    assert ratios[bad] < ratios[AP] < 1
    all_came, all_expected = came[AP]
    prior = (all_came + 20) / (all_expected + 20)
    weighed = [(came.get(n, (0, 0))[0] + 20 * prior) / (came.get(n, (0, 0))[1] + 20) for n in association.neighbours]
    expected = link_gains(CONFIGS["ratio"], AP, association)
    np.testing.assert_allclose(policy.gains(still(association), association), expected * weighed)
    assert min(weighed) == weighed[0] < 0.4


def test_an_ap_finds_out_its_own_factor_and_blames_who_says_that_it_is_bad() -> None:
    association = told(1)
    good = dict.fromkeys(association.neighbours, np.zeros(2, np.float32))
    bad = association.neighbours[0]
    of_own = {}
    for who in (AP, bad):
        for known in (True, False):
            policy = of_own[who, known] = Factor(AP, CONFIGS["factor"])
            policy.hear({**good, bad: np.array([0.5, 0], np.float32)} if known and who == bad else good)
            school(policy, {who: 0.5})
    lack, variance = of_own[AP, True].learned
    assert lack == pytest.approx(0.5, abs=0.05)
    assert variance < 0.05
    assert of_own[bad, True].learned[0] < 0.05 < of_own[bad, False].learned[0]


def test_a_link_is_worth_the_forecast_times_the_factors_that_both_ends_told() -> None:
    association, config = told(1), CONFIGS["factor"]
    policy = Factor(AP, config, np.array([0.5, 0.01]))
    policy.hear({AP: policy.tells(0), association.neighbours[1]: np.array([0.6, 0.3], np.float32)})
    factors = [0.2 if position == 1 else 0.5 for position in range(len(association.neighbours))]
    gains = policy.gains(still(association), association)
    np.testing.assert_allclose(gains, factors * link_gains(config, AP, association), rtol=1e-6)


def test_a_factor_is_told_in_the_first_slot_of_an_episode_and_a_ratio_never() -> None:
    lengths = {policy: [make(AP, CONFIGS[policy]).tells(slot).nbytes for slot in range(10)] for policy, make in MAKE}
    assert lengths == {"ratio": [0] * 10, "factor": [8, 0, 0, 0, 0] * 2}
    assert not Ratio(AP, CONFIGS["ratio"]).credible(np.zeros(0, np.float32))
    told_well, negative = np.array([0.5, 0.1], np.float32), np.array([0.5, -0.1], np.float32)
    assert Factor(AP, CONFIGS["factor"]).credible(told_well)
    assert not Factor(AP, CONFIGS["factor"]).credible(negative)


@pytest.mark.parametrize(("policy", "make"), MAKE)
def test_a_restored_ap_goes_on_as_if_it_had_never_stopped(policy: str, make: Make) -> None:
    stayed, back = make(AP, CONFIGS[policy]), make(AP, CONFIGS[policy])
    stayed.hear({3: np.full(stayed.width, 0.5)} if stayed.width else {})
    school(stayed, {AP: 0.7}, [1])
    back.restore(stayed.state())
    for one in (stayed, back):
        school(one, {AP: 0.5}, [3])
    assert same(stayed.state(), back.state())
    assert not same(stayed.state(), make(AP, CONFIGS[policy]).state())
    with pytest.raises(StateError):
        back.restore({**stayed.state(), "own": np.zeros(7)})
    assert same(stayed.state(), back.state())


@pytest.mark.parametrize(("policy", "make"), MAKE)
def test_an_ap_that_learns_no_more_keeps_what_it_has_learned(policy: str, make: Make) -> None:
    pupil = make(AP, CONFIGS[policy])
    school(pupil, {AP: 0.5})
    graduate = make(AP, CONFIGS[policy], pupil.learned.copy())
    school(graduate, {}, [4])
    np.testing.assert_array_equal(graduate.learned, pupil.learned)


@pytest.mark.parametrize("learned", [np.zeros(3), np.array([[3, 1, -20.0]]), np.array([0.5, -0.1]), np.array([2, 0.1])])
@pytest.mark.parametrize(("policy", "make"), MAKE)
def test_what_nobody_can_have_learned_is_refused(policy: str, make: Make, learned: FloatArray) -> None:
    with pytest.raises(ValueError, match="must be"):
        make(AP, CONFIGS[policy], learned)


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
