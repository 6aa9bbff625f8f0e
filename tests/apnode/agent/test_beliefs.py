"""An AP finds out how defective it is from what UEs report of its streams, keeps it, and tells it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from apnode.agent.beliefs import Belief, innocent, least
from apnode.agent.forecast import link_gains, prospects_of
from apnode.agent.prospects import INCOHERENCE, STALENESS, WRONGNESS, Partition, Prospects
from apnode.agent.streams import stream_levels
from apnode.agent.surroundings import Surroundings
from apnode.agent.view import View
from apnode.config import Config
from apnode.protocol.messages import LEAST_LEVEL, LEVELS_PER_DB, SILENT, Association, FloatArray, IntArray, SlotFeedback
from apnode.protocol.state import StateError
from cfmimo.presets import load
from channel_server.topology import associations, make_layout

SLOTS = 10  # of an episode
SMALL = ("radio.num_aps=30", "radio.num_ues=12", "radio.area_m=550", f"run.slots_per_episode={SLOTS}")
CONFIG = load("selective", (*SMALL, "cooperation.policy=belief", "cooperation.history_blocks=1"), 3)
WITH_SETS = CONFIG.variant(cooperation={"serving": "forecast"})  # so that APs are told who else serves their UEs
ELSEWHERE = 10_000  # a UE that no AP serves

Groups = list[frozenset[int]]
Joined = Callable[[Sequence[int]], Groups]  # in which groups a UE's APs send, by their rows in Surroundings


@cache
def told(layout: int) -> list[Association]:
    return associations(WITH_SETS, make_layout(CONFIG, layout), layout)


def still(association: Association) -> FloatArray:
    """No UE in reach moves."""
    return seen(association, 0.0)


def seen(association: Association, change: float) -> FloatArray:
    return np.full(len(association.reach), change)


def report(association: Association, slot: int, levels_db: Mapping[int, Mapping[int, float]]) -> SlotFeedback:
    """Of the levels [dB over noise] of own streams, by UE, at UEs."""
    heard = [sorted(levels_db.get(ue, {})) for ue in association.ues]
    level = [levels_db[ue][at] * LEVELS_PER_DB for ue, ats in zip(association.ues, heard, strict=True) for at in ats]
    count, nothing = len(association.ues), np.zeros((len(association.ues), 0))
    return SlotFeedback(
        slot,
        np.ones(count),
        np.ones(count),
        nothing.astype(int),
        nothing,
        hearers=[len(ats) for ats in heard],
        heard_at=[at for ats in heard for at in ats],
        level=np.rint(level).astype(np.uint8),
    )


def of_levels(association: Association, slot: int, levels: Mapping[int, tuple[float, float]]) -> SlotFeedback:
    """A report from which own streams are so strong, about: l_k at the UE itself, and l_j at one other UE."""

    heard: dict[int, dict[int, float]] = {ue: {} for ue in levels}
    for ue, bits in levels.items():
        for at, of_one in zip((ue, ELSEWHERE), bits, strict=True):
            over_noise = CONFIG.cooperation.residual_db + 10 * np.log10(2 ** max(of_one, 1e-9) - 1)
            if over_noise * LEVELS_PER_DB >= LEAST_LEVEL:
                heard[ue][at] = float(over_noise)
    return report(association, slot, heard)


def weak(association: Association) -> dict[int, tuple[float, float]]:
    return dict.fromkeys(association.ues, (0.1, 0.0))


@cache
def prospects(ap: int, layout: int, change: float) -> dict[int, Prospects]:
    around = Surroundings(ap, told(layout)[ap], CONFIG.radio)
    return prospects_of(CONFIG, around, np.full(len(around.ids), change))


def groups_of(association: Association, aps: Sequence[int], parts: Mapping[int, Groups]) -> IntArray:
    """(|K_m|, A) as UEs report who precodes together for them; who does not transmit is for himself."""
    group = np.full(association.served_by.shape, SILENT)
    for of_ue, row, ue in zip(group, association.served_by.tolist(), association.ues, strict=True):
        of_ue[: len(row)] = range(len(row))
        for together in parts[ue]:
            places = sorted(row.index(aps[member]) for member in together)
            of_ue[places] = places[0]
    return group


def all_but(silent: int) -> Joined:
    """All of a UE's APs together, but for some that do not transmit."""
    return lambda members: [frozenset([0, *[row for row in members if row][silent:]])]


def alone(members: Sequence[int]) -> Groups:
    return [frozenset([row]) for row in members]


def with_one(members: Sequence[int]) -> Groups:
    """The AP with one other, and the rest each for himself."""
    group = frozenset([0, *[row for row in members if row][:1]])
    return [group, *[frozenset([row]) for row in members if row not in group]]


def school(
    defects: FloatArray, learners: list[int], layouts: int, joined: Joined, change: float = 0, told_who: str = "all"
) -> dict[int, Belief]:
    """Some APs of a world in which APs precode as `joined` says, and what comes of it is as `Prospects` says.

    Args:
        defects: (M, 3) of all APs.
        learners: the APs.
        layouts: that they learn on.
        joined: from a UE's APs, in which groups they send.
        change: how fast channels change.
        told_who: what APs know of this: of their own group who is in it, and of all APs who transmits ("silent"); not
            the latter ("partners"); or "all", as UEs report it.
    """
    policies, noise = {ap: Belief(ap, CONFIG) for ap in learners}, np.random.default_rng(0)
    for slot in range(layouts * SLOTS):
        layout = slot // SLOTS
        for ap, policy in policies.items():
            association = told(layout)[ap]
            if not association.neighbours:
                continue
            policy.act(View(seen(association, change), association, slot))
            if len(own := policy.tells(slot)):
                policy.hear({ap: own})
                policy.hear({n: np.array([*defects[n], 0, 0, 0], np.float32) for n in association.neighbours})
            aps, groups, left_out = [ap, *association.neighbours], {}, {}
            levels: dict[int, tuple[float, float]] = {}
            parts: dict[int, Groups] = {}
            for ue, of_ue in prospects(ap, layout, change).items():
                parts[ue] = joined(of_ue.members)
                sending = frozenset().union(*parts[ue])
                mine = next((group for group in parts[ue] if 0 in group), frozenset[int]())
                if mine:
                    sent: Partition = tuple(of_ue.group_of(group) for group in parts[ue])
                    own_level, other = of_ue.heard(sent, defects[aps][None])[0] + noise.normal(0, 0.2, 2)
                    levels[ue] = float(own_level), float(other)
                groups[ue] = [aps[row] for row in mine if row]
                left_out[ue] = [aps[row] for row in of_ue.members if row not in sending and told_who != "partners"]
            feedback = of_levels(association, slot, levels)
            if told_who == "all":
                chosen = np.zeros(len(association.ues), np.uint8)
                feedback = replace(feedback, group=groups_of(association, aps, parts), chosen=chosen)
            policy.observe(feedback, groups, left_out)
    return policies


def test_an_ap_finds_out_what_is_wrong_with_it_and_with_nobody_else() -> None:
    defects = np.zeros((30, 3))
    defects[[1, 5], INCOHERENCE], defects[[2, 7], WRONGNESS] = 0.9, 0.4
    beliefs = np.array([policy.learned for policy in school(defects, list(range(8)), 10, all_but(0)).values()])
    found = least(beliefs)
    assert found[[1, 5, 2, 7]].argmax(axis=1).tolist() == [INCOHERENCE] * 2 + [WRONGNESS] * 2
    assert found[[1, 5, 2, 7]].max(axis=1).min() > 0.15
    assert found[[0, 3, 4, 6]].max() < 0.01
    np.testing.assert_allclose(beliefs[:, :, STALENESS], [innocent()[:, STALENESS]] * 8, atol=0.01)  # nothing is late


def test_where_users_move_an_ap_finds_out_that_its_estimates_come_late() -> None:
    defects = np.zeros((30, 3))
    defects[[1, 5], STALENESS] = 1
    late = np.array(
        [least(policy.learned) for policy in school(defects, list(range(8)), 3, all_but(0), change=0.5).values()]
    )
    assert late[[1, 5], STALENESS].min() > 0.2
    assert late[[0, 2, 3, 4, 6, 7]].max() < 0.05


def believed(config: Config, ap: int, association: Association, beliefs: FloatArray) -> Belief:
    """An AP that has been told these beliefs by all, and has told them."""
    policy = Belief(ap, config)
    policy.hear(dict.fromkeys((ap, *association.neighbours), beliefs))
    return policy


def test_where_nothing_comes_late_how_fast_channels_change_is_of_no_account() -> None:
    config = CONFIG.variant(cooperation={"history_blocks": 0})
    ap, association = next((ap, a) for ap, a in enumerate(told(0)) if len(a.neighbours) > 8)
    late = np.array([0, 1, 0, 0, 0, 0], np.float32)
    gains = {
        (of, change): believed(config, ap, association, beliefs).gains(seen(association, change), association)
        for of, beliefs in (("late", late), ("in time", 0 * late))
        for change in (0.0, 0.5)
    }
    np.testing.assert_allclose([*gains.values()], [gains["in time", 0.0]] * 4, atol=1e-9)
    moving = believed(CONFIG, ap, association, late).gains(seen(association, 0.5), association)
    assert moving.sum() < gains["late", 0.5].sum()


def test_that_an_ap_does_not_transmit_is_no_sign_of_a_defect_where_it_is_known() -> None:
    nothing = np.zeros((30, 3))
    known, unknown = (school(nothing, [1, 2, 5, 7], 3, all_but(2), told_who=who) for who in ("silent", "partners"))
    assert max(least(policy.learned).max() for policy in known.values()) < 0.02
    assert max(least(policy.learned).max() for policy in unknown.values()) > 0.1


def test_who_precodes_with_whom_beside_it_an_ap_takes_from_what_users_report() -> None:
    nothing = np.zeros((30, 3))
    known, unknown = (school(nothing, list(range(8)), 3, alone, told_who=who) for who in ("all", "silent"))
    assert max(least(policy.learned).max() for policy in known.values()) < 0.02
    assert max(least(policy.learned).max() for policy in unknown.values()) > 0.1


def test_an_ap_finds_out_what_is_wrong_with_it_without_a_partner_too() -> None:
    defects = np.zeros((30, 3))
    defects[[1, 5], INCOHERENCE], defects[[2, 7], WRONGNESS] = 0.9, 0.4
    found = np.array([least(policy.learned) for policy in school(defects, list(range(8)), 10, alone).values()])
    assert found[[1, 5], INCOHERENCE].min() > 0.15
    assert found[[2, 7], WRONGNESS].min() > 0.15
    assert found[[0, 3, 4, 6]].max() < 0.05


def test_reports_of_a_layout_in_which_an_ap_has_no_neighbours_teach_it_nothing() -> None:
    """Its agent is not asked there; the UEs that it serves alone are others than those of the layout before."""
    ap, association = next((ap, a) for ap, a in enumerate(told(0)) if len(a.ues) > 1)
    policy = Belief(ap, CONFIG)
    policy.act(View(still(association), association, 0))
    nothing = np.zeros((1, 0))
    one = SlotFeedback(
        SLOTS, np.ones(1), np.ones(1), nothing.astype(int), nothing, hearers=[1], heard_at=[2], level=[40]
    )
    policy.observe(one, {}, {})
    assert not len(policy.state()["seen.ue"])


def test_an_ap_that_transmits_nothing_to_a_ue_learns_nothing_from_it() -> None:
    ap, association = next((ap, a) for ap, a in enumerate(told(0)) if len(a.ues) > 1)
    policy = Belief(ap, CONFIG)
    policy.act(View(still(association), association, 0))
    policy.hear({ap: policy.tells(0)})
    before, others = policy.learned.copy(), dict.fromkeys(association.ues, association.neighbours)
    levels = of_levels(association, SLOTS - 1, weak(association))
    policy.observe(levels, others, {ue: [ap] for ue in association.ues})
    np.testing.assert_allclose(policy.learned, before)
    policy.observe(levels, others, {})
    assert (policy.learned[0] > before[0]).any()


def test_who_has_told_nothing_is_taken_for_innocent() -> None:
    """So links are those of the forecast."""
    for ap, association in enumerate(told(0)[:6]):
        gains = link_gains(CONFIG, ap, association)
        asked = Belief(ap, CONFIG).act(View(still(association), association, 0))
        assert asked == (gains > CONFIG.cooperation.link_price) @ 2 ** np.arange(len(gains))
    assert not least(innocent()).any()


def test_an_ap_asks_as_the_beliefs_say_that_were_told_at_the_start_of_an_episode() -> None:
    rng = np.random.default_rng(1)
    ap, association = next((ap, a) for ap, a in enumerate(told(0)) if len(a.neighbours) > 8)
    beliefs = {n: rng.uniform(0, 0.5, 6).astype(np.float32) for n in association.neighbours}
    policy = Belief(ap, CONFIG)
    own = policy.tells(0)
    policy.hear({ap: own, **beliefs})
    policy.learned[0] = 1  # what it finds out later it does not act on: the other end does not know
    levels = least(np.array([own, *beliefs.values()], float).reshape(-1, 2, 3))
    gains = link_gains(CONFIG, ap, association, levels, np.zeros(len(Surroundings(ap, association, CONFIG.radio).ids)))
    blind = link_gains(CONFIG, ap, association)
    assert policy.act(View(still(association), association, 1)) == (gains > 0.2) @ 2 ** np.arange(len(gains))
    assert (gains > 0.2).sum() < (blind > 0.2).sum()


def test_beliefs_are_told_in_the_first_slot_of_an_episode_and_in_24_bytes() -> None:
    policy = Belief(3, CONFIG)
    lengths = [policy.tells(slot).nbytes for slot in range(2 * SLOTS)]
    assert [slot for slot, length in enumerate(lengths) if length] == [0, SLOTS]
    assert max(lengths) == 24


@pytest.mark.parametrize("lie", [[-0.1, 0, 0, 0, 0, 0], [0, 0, 0], [], [0.5] * 7])
def test_what_no_ap_can_believe_of_itself_is_not_credible(lie: list[float]) -> None:
    policy = Belief(3, CONFIG)
    assert not policy.credible(np.array(lie, np.float32))
    assert policy.credible(np.array([5, 0, 0, 0, 0, 9], np.float32))


def test_exaggerations_count_as_the_most_that_there_is() -> None:
    ap, association = next((ap, a) for ap, a in enumerate(told(0)) if a.neighbours)
    boasting, modest = Belief(ap, CONFIG), Belief(ap, CONFIG)
    boasting.hear(dict.fromkeys(association.neighbours, np.full(6, 1e6, np.float32)))
    modest.hear(dict.fromkeys(association.neighbours, np.ones(6, np.float32)))
    for name, array in boasting.state().items():
        np.testing.assert_array_equal(array, modest.state()[name])


def test_a_stream_is_as_strong_as_users_report_it_where_it_is_wanted_and_elsewhere() -> None:
    association = next(a for a in told(0) if len(a.ues) == 2)
    first, second = association.ues
    levels = {first: {first: 60.0, second: 20.0, 11: 5.0}, second: {first: 40.0}}
    strong = stream_levels(CONFIG, association.ues, report(association, 0, levels))
    bits = {db: np.log2(1 + 10 ** ((db - CONFIG.cooperation.residual_db) / 10)) for db in (5, 20, 40, 60)}
    np.testing.assert_allclose([strong[first], strong[second]], [[bits[60], bits[20] + bits[5]], [0, bits[40]]])
    unheard = stream_levels(CONFIG, association.ues, of_levels(association, 0, {}))
    np.testing.assert_array_equal([unheard[first], unheard[second]], 0)
    assert LEAST_LEVEL == 5 * LEVELS_PER_DB


@pytest.mark.parametrize("late", [True, False])
def test_whether_its_estimates_come_late_an_ap_is_told_and_need_not_find_out(late: bool) -> None:
    ap, association = next((ap, a) for ap, a in enumerate(told(0)) if len(a.ues) > 1)
    policy = Belief(ap, CONFIG)
    policy.act(View(still(association), association, 0))
    nothing = of_levels(association, SLOTS - 1, {})
    policy.observe(nothing, {}, {}, late)
    assert policy.learned[0, STALENESS] == pytest.approx(float(late), abs=1e-3)
    again = Belief(ap, CONFIG)
    again.restore(policy.state())
    again.act(View(still(association), association, SLOTS))
    again.observe(of_levels(association, 2 * SLOTS - 1, {}), {}, {}, None)  # nobody says it this time
    assert again.learned[0, STALENESS] == pytest.approx(float(late), abs=1e-3)


def test_an_ap_that_learns_no_more_acts_on_its_beliefs_and_keeps_them() -> None:
    association = next(a for a in told(0) if a.neighbours)
    beliefs = np.array([[0.5, 0, 0.25], [0.01, 0.02, 0.03]])
    policy = Belief(0, CONFIG, beliefs.copy())
    policy.act(View(still(association), association, 0))
    policy.observe(of_levels(association, 0, weak(association)), {}, {})
    np.testing.assert_array_equal(policy.tells(0).reshape(2, 3), beliefs.astype(np.float32))


def same(one: Belief, other: Belief) -> bool:
    states = one.state(), other.state()
    return all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


def test_a_restored_ap_goes_on_as_if_it_had_never_stopped() -> None:
    """In the middle of an episode too: it still knows what it was told, and what it has made of the others since."""
    defects = np.zeros((30, 3))
    defects[:10, WRONGNESS] = 0.3
    ap, association = next((ap, a) for ap, a in enumerate(told(0)) if a.neighbours and len(a.ues) > 1)
    stayed = school(defects, [ap], 1, with_one)[ap]
    back = Belief(ap, CONFIG)
    back.restore(stayed.state())
    assert same(stayed, back)
    groups = dict.fromkeys(association.ues, association.neighbours[:2])
    for policy in (stayed, back):
        policy.act(View(still(association), association, SLOTS - 1))
        policy.observe(of_levels(association, SLOTS - 1, dict.fromkeys(association.ues, (1.0, 0.5))), groups, {})
    assert same(stayed, back)
    assert not same(stayed, Belief(ap, CONFIG))


def test_a_state_of_another_policy_is_refused_and_changes_nothing() -> None:
    policy = Belief(3, CONFIG)
    state = dict(policy.state())
    for wrong in ({}, {**state, "own": np.zeros((2, 2))}, {**state, "others.ap": np.zeros(1, np.int64)}):
        with pytest.raises(StateError):
            policy.restore(wrong)
    assert same(policy, Belief(3, CONFIG))


def test_beliefs_need_clusters_of_one_ue() -> None:
    with pytest.raises(ValueError, match=r'needs cooperation.cluster = "serving"'):
        Config.model_validate({"cooperation": {"policy": "belief"}})
