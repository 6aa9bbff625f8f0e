"""What a UE gets of its APs in groups if these are defective: what each defect takes, and what it leaves."""

import gc
from functools import cache

import numpy as np
import pytest

from apnode.agent.forecast import Outlook, link_gains, prospects_of
from apnode.agent.prospects import _ALL_DRAWN, INCOHERENCE, LEVELS, STALENESS, WRONGNESS, Partition, Prospects
from apnode.agent.surroundings import Surroundings
from apnode.protocol.messages import FloatArray
from cfmimo.presets import load
from channel_server.topology import associations, make_layout

CONFIG = load("selective", ("radio.num_aps=30", "radio.num_ues=12", "radio.area_m=550"), 3)
TOLD = associations(CONFIG, make_layout(CONFIG, 0), 0)


@cache
def prospects(change: float = 1.0) -> list[tuple[int, Prospects]]:
    """Of every UE that one of the first APs serves, with the AP's number of neighbours."""
    found = []
    for ap, told in enumerate(TOLD[:8]):
        around = Surroundings(ap, told, CONFIG.radio)
        speeds = np.full(len(around.ids), change)
        found += [(len(told.neighbours), of_ue) for of_ue in prospects_of(CONFIG, around, speeds).values()]
    assert len(found) > 8
    return found


def everybody(of_ue: Prospects) -> Partition:
    return (of_ue.group_of(of_ue.members),)


def pairs(of_ue: Prospects) -> Partition:
    """Two groups of two, where there are so many APs, and the last for itself."""
    groups = [of_ue.group_of(of_ue.members[first : first + 2]) for first in range(0, len(of_ue.members), 2)]
    return tuple(groups)


def levels(neighbours: int, kind: int | list[int], value: float) -> FloatArray:
    """(1 + N, 3) where all APs are as defective."""
    of_all = np.zeros((1 + neighbours, 3))
    of_all[:, kind] = value
    return of_all


def test_without_defects_a_what_if_is_the_blind_value() -> None:
    for neighbours, of_ue in prospects():
        partitions = [of_ue.alone, everybody(of_ue), pairs(of_ue), of_ue.alone[:1]]
        blind, (case,) = of_ue.values(partitions), of_ue.values(partitions, np.zeros((1, 1 + neighbours, 3))).T
        np.testing.assert_allclose(case, blind, rtol=1e-9)
        np.testing.assert_allclose(of_ue.gains(partitions), blind - blind[0], atol=1e-9)


def test_a_value_is_what_is_heard_where_it_is_wanted_less_what_is_heard_elsewhere() -> None:
    for neighbours, of_ue in prospects():
        cases = np.stack([levels(neighbours, [*LEVELS], level) for level in (0.0, 0.4)])
        own, elsewhere = of_ue.heard(pairs(of_ue), cases).T
        np.testing.assert_allclose(own - elsewhere, of_ue.values([pairs(of_ue)], cases)[0])
        assert own[1] < own[0]
        assert (elsewhere > 0).all()


def test_a_partition_of_two_groups_brings_about_what_each_of_them_brings() -> None:
    """Not quite: powers, not rates, add up."""
    together, apart = [], []
    for _, of_ue in prospects():
        first, second = pairs(of_ue)[:2]
        both, *each = of_ue.gains([pairs(of_ue), of_ue.with_group(first), of_ue.with_group(second)])
        together, apart = [*together, both], [*apart, sum(each)]
    assert np.corrcoef(together, apart)[0, 1] > 0.95


@pytest.mark.parametrize("kind", LEVELS)
def test_every_defect_takes_more_of_the_value_of_a_group_the_stronger_it_is(kind: int) -> None:
    left = []
    for neighbours, of_ue in prospects():
        cases = np.stack([levels(neighbours, kind, value) for value in (0, 0.1, 0.5, 1)])
        left.append(of_ue.values([everybody(of_ue)], cases)[0])
    means = np.mean(left, axis=0)
    assert (np.diff(means) < -0.1).all()
    if kind != INCOHERENCE:
        assert means[-1] < -2  # worse than silence: what misses its UE still disturbs others


def test_an_ap_for_itself_waits_for_nobody() -> None:
    for neighbours, of_ue in prospects():
        nothing, late = of_ue.values([of_ue.alone], np.stack([levels(neighbours, STALENESS, g) for g in (0, 1)]))[0]
        assert late == nothing


def test_late_csi_of_users_that_stand_still_costs_nothing_and_of_others_as_much_as_they_change() -> None:
    """Half of the power of all parts through other channels is half of it, whether late or wrongly estimated."""
    for (neighbours, still), (_, half), (_, moving) in zip(prospects(0.0), prospects(0.5), prospects(1.0), strict=True):
        late, wrong = levels(neighbours, STALENESS, 1), levels(neighbours, WRONGNESS, 0.5)
        group = everybody(still)
        np.testing.assert_allclose(still.values([group], late), still.values([group]), rtol=1e-9)
        np.testing.assert_allclose(half.values([group], late), moving.values([group], wrong), rtol=1e-9)
        assert moving.values([group], late) < still.values([group], late)


def test_one_late_ap_makes_its_group_late_and_no_other() -> None:
    for neighbours, of_ue in prospects():
        first, second, *_ = of_ue.members
        one, all_of_them = np.zeros((1 + neighbours, 3)), levels(neighbours, STALENESS, 1)
        one[first, STALENESS] = 1
        group = of_ue.with_group(of_ue.group_of([first, second]))
        rest = of_ue.with_group(of_ue.group_of({*of_ue.members} - {first}))
        assert of_ue.values([group], one) == of_ue.values([group], all_of_them)
        np.testing.assert_allclose(of_ue.values([rest], one), of_ue.values([rest]), rtol=1e-9)


def test_aps_in_no_group_are_silent() -> None:
    """So their defects are of no account."""
    for neighbours, of_ue in prospects():
        silent = of_ue.members[-1]
        broken = np.zeros((1 + neighbours, 3))
        broken[silent] = 1
        partition = of_ue.alone[:-1]
        case, blind = of_ue.values([partition], broken), of_ue.values([partition])
        np.testing.assert_allclose(case, blind, rtol=1e-9)
        assert case != of_ue.values([of_ue.alone], broken)


def test_both_ends_of_a_link_come_to_the_same_to_the_last_bit_whatever_the_defects() -> None:
    rng = np.random.default_rng(0)
    defects, speeds = rng.random((30, 3)), rng.random(12)
    expected = {}
    for ap, told in enumerate(TOLD):
        change = speeds[Surroundings(ap, told, CONFIG.radio).ids]
        gains = link_gains(CONFIG, ap, told, defects[[ap, *told.neighbours]], change)
        expected |= {(ap, n): gain for n, gain in zip(told.neighbours, gains, strict=True)}
    both = [ends for ends in expected if ends[::-1] in expected]
    assert len(both) > 50
    assert all(expected[ends] == expected[ends[::-1]] for ends in both)
    assert max(expected.values()) > 0.3


def test_of_users_out_of_its_reach_an_ap_takes_the_mean_of_those_in_reach() -> None:
    told = TOLD[0]
    around = Surroundings(0, told, CONFIG.radio)
    values = np.random.default_rng(0).random(len(told.reach))
    of_all = dict(zip(around.ids.tolist(), around.of_all(values).tolist(), strict=True))
    assert [of_all.pop(ue) for ue in told.reach] == values.tolist()
    assert {*of_all.values()} == {values.mean()}


def test_aps_of_one_process_make_the_draws_for_a_ue_once_while_any_of_them_needs_it() -> None:
    config = CONFIG.variant(seed=77)

    def alive() -> int:
        return sum(key[0] == config for key in _ALL_DRAWN)

    kept = [Outlook(config, ap, told) for ap, told in enumerate(TOLD)]
    ues = {ue for told in TOLD for ue in told.ues}
    served = sum(len(told.ues) for told in TOLD)
    assert served == 5 * len(ues)
    assert len(ues) <= alive() < 0.5 * served  # more than one where not all know the same
    gains = [outlook.gains() for outlook in kept]
    del kept
    gc.collect()
    assert not alive()
    for ap, told in enumerate(TOLD):
        np.testing.assert_array_equal(link_gains(config, ap, told), gains[ap])  # as each comes to by itself
