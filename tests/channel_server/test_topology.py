"""Laws of a layout: distances on a torus, serving sets, pilots, long-term interference and neighbours."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apnode.config import Config
from apnode.config.cooperation import Cooperation
from apnode.config.network import Propagation, Radio, Run
from apnode.protocol.messages import ComplexArray, FloatArray, IntArray
from apnode.radio.csi import despread, estimate
from apnode.radio.power import power_split, scaled
from apnode.radio.precoding import mrt
from channel_server.fading import channels, received_pilots
from channel_server.geometry import distances
from channel_server.sinr import received_interference
from channel_server.topology import (
    Layout,
    assign_pilots,
    further_askers,
    greedy_pilots,
    in_reach,
    long_term_interference,
    make_layout,
    neighbour_lists,
    serving_sets,
    transmit_power,
)

AREA = 500.0
READINGS = ("other-streams", "literal", "non-serving")
LAW = settings(derandomize=True, deadline=None, max_examples=60)


def positions(seed: int, count: int = 40) -> FloatArray:
    return np.random.default_rng(seed).uniform(0, AREA, (count, 2))


def random_beta(seed: int, num_aps: int = 12, num_ues: int = 9) -> FloatArray:
    """Betas over some 80 dB."""
    return np.asarray(10 ** np.random.default_rng(seed).uniform(-15, -7, (num_aps, num_ues)))


def cooperation(**settings: object) -> Config:
    return Config(cooperation=Cooperation.model_validate(settings))


# --- distances and layouts ---


def test_distances_on_the_torus_are_never_longer_than_on_the_plane() -> None:
    wrapped, planar = (distances(positions(1), positions(2), period) for period in (AREA, None))
    assert (wrapped <= planar).all()
    assert (wrapped < planar).any()


def test_no_point_of_the_torus_is_farther_than_half_its_diagonal() -> None:
    wrapped = distances(positions(1, 300), positions(2, 300), AREA)
    assert wrapped.max() <= AREA / np.sqrt(2)
    assert distances(np.zeros((1, 2)), np.full((1, 2), AREA / 2), AREA)[0, 0] == pytest.approx(AREA / np.sqrt(2))


@pytest.mark.parametrize("period", [AREA, None])
def test_distances_are_symmetric(period: float | None) -> None:
    here, there = positions(1), positions(2)
    np.testing.assert_array_equal(distances(here, there, period), distances(there, here, period).T)


@pytest.mark.parametrize("period", [AREA, None])
def test_distances_obey_the_triangle_inequality(period: float | None) -> None:
    a, b, c = positions(1, 15), positions(2, 15), positions(3, 15)
    detour = distances(a, b, period)[:, :, None] + distances(b, c, period)[None, :, :]
    assert (distances(a, c, period)[:, None, :] <= detour + 1e-9).all()


def test_the_torus_has_no_border() -> None:
    here, there, shift = positions(1), positions(2), np.array([123.0, 321.0])
    moved = distances((here + shift) % AREA, (there + shift) % AREA, AREA)
    np.testing.assert_allclose(moved, distances(here, there, AREA))


def test_distances_on_the_plane_are_euclids() -> None:
    assert distances(np.zeros((1, 2)), np.array([[300.0, 400.0]]), None)[0, 0] == pytest.approx(500)
    assert distances(np.zeros((1, 2)), np.array([[300.0, 400.0]]), 500.0)[0, 0] == pytest.approx(np.hypot(200, 100))


def test_aps_stay_and_ues_are_drawn_anew_each_episode() -> None:
    config = Config(radio=Radio(num_aps=9, num_ues=6))
    first, second = (make_layout(config, episode) for episode in (0, 1))
    np.testing.assert_array_equal(first.ap_xy, second.ap_xy)
    assert (first.ue_xy != second.ue_xy).all()
    assert (first.beta != second.beta).all()


def test_a_layout_is_a_function_of_seed_and_episode() -> None:
    config = Config(radio=Radio(num_aps=9, num_ues=6))
    np.testing.assert_array_equal(make_layout(config, 3).beta, make_layout(config, 3).beta)
    assert (make_layout(config, 3).beta != make_layout(config.model_copy(update={"seed": 1}), 3).beta).all()


def test_everybody_is_in_the_square_all_over_it() -> None:
    layout = make_layout(Config(radio=Radio(num_aps=2000, num_ues=800, area_m=AREA)), 0)
    for xy in (layout.ap_xy, layout.ue_xy):
        assert xy.min() >= 0
        assert xy.max() <= AREA
        np.testing.assert_allclose(np.histogram2d(xy[:, 0], xy[:, 1], bins=2)[0] / len(xy), 0.25, atol=0.05)


def test_ues_of_and_pairs_worked_by_hand() -> None:
    serving = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]], bool)
    layout = Layout(np.zeros((4, 2)), np.zeros((3, 2)), np.ones((4, 3)), serving, serving, np.zeros(3, int))
    assert layout.ues_of == [(0, 1), (1,), (), (0, 1)]
    assert layout.pairs == 3  # 0-1, 0-3, 1-3


def test_mastered_ues_worked_by_hand() -> None:
    serving = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    beta = np.array([[9, 9, 1], [8, 1, 1], [7, 1, 9], [1, 8, 1]], float)  # AP 0 is master of UEs 0 and 1, AP 2 of UE 2
    layout = Layout(np.zeros((4, 2)), np.zeros((3, 2)), beta, serving, serving, np.zeros(3, int))
    np.testing.assert_array_equal(layout.mastered, [[0, 2, 1, 1], [2, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])


# --- serving sets ---


@LAW
@given(
    seed=st.integers(0, 2**32 - 1),
    num_aps=st.integers(1, 12),
    cap=st.integers(1, 6),
    threshold=st.sampled_from([0.0, 1e-6, 0.01, 0.3, 1.0]),
)
def test_a_ue_is_served_by_its_strongest_aps_and_only_strong_ones(
    seed: int, num_aps: int, cap: int, threshold: float
) -> None:
    beta = random_beta(seed, num_aps)
    serving = serving_sets(beta, Radio(max_serving_aps=cap, serving_threshold=threshold))
    count = serving.sum(axis=0)
    assert ((count >= 1) & (count <= cap)).all()
    for ue in range(beta.shape[1]):
        served, not_served = beta[serving[:, ue], ue], beta[~serving[:, ue], ue]
        assert beta[:, ue].max() in served
        assert served.min() >= threshold * beta[:, ue].max()
        assert not_served.max(initial=0) <= served.min()
        eligible = int((beta[:, ue] >= threshold * beta[:, ue].max()).sum())
        assert len(served) == min(cap, eligible)


def test_the_default_cap_is_five_and_ties_do_not_exceed_it() -> None:
    np.testing.assert_array_equal(serving_sets(np.ones((9, 3)), Radio()).sum(axis=0), 5)


def test_delta_one_leaves_the_strongest_alone() -> None:
    beta = np.array([[1.0, 5.0], [2.0, 4.9], [1.99, 0.1]])
    expected = np.array([[0, 1], [1, 0], [0, 0]], bool)
    np.testing.assert_array_equal(serving_sets(beta, Radio(serving_threshold=1.0)), expected)


# --- reach ---


def test_ues_are_in_reach_that_an_ap_serves_or_whose_pilots_arrive_above_the_noise() -> None:
    radio = Radio(max_serving_aps=1, pilot_power_w=0.1, pilot_length=20)  # 2 W-symbols
    noise = radio.noise_power_w
    beta = noise * np.array([[0.49, 0.51, 0.1], [1e6, 0.5, 0.2]])
    expected = np.array([[0, 1, 0], [1, 1, 1]], bool)
    np.testing.assert_array_equal(in_reach(beta, serving_sets(beta, radio), radio), expected)


def test_how_many_ues_are_in_reach_does_not_grow_with_a_network_of_the_same_density() -> None:
    """Once it is larger than the reach of an AP; pilots are weak here, so that small ones are."""
    count = {}
    for times in (1, 4, 9):
        radio = Radio(num_aps=100 * times, num_ues=40 * times, area_m=1000 * times**0.5, pilot_power_w=0.01)
        config = Config(radio=radio)
        reach = [make_layout(config, episode).reach.sum(axis=1) for episode in range(36 // times)]
        count[times] = np.concatenate(reach)
    assert count[1].mean() > 5
    np.testing.assert_allclose([counted.mean() for counted in count.values()], count[9].mean(), rtol=0.1)
    assert count[9].max() < 1.5 * count[1].max()


# --- pilots ---


def contamination(beta: FloatArray, pilots: IntArray) -> float:
    """Mean over UEs of what their strongest AP hears of others on their pilot, relative to them [bit]."""
    strongest = beta.argmax(axis=0)
    heard = beta[strongest] * (pilots[:, None] == pilots[None, :])  # (k, j)
    own = np.diagonal(heard)
    return float(np.log2(1 + (heard.sum(axis=1) - own) / own).mean())


@pytest.mark.parametrize("num_ues", [1, 4, 5, 11])
def test_the_first_tau_ues_have_pilots_of_their_own(num_ues: int) -> None:
    pilots = greedy_pilots(random_beta(0, num_ues=num_ues), num_pilots=5)
    first = pilots[:5].tolist()
    assert len(set(first)) == len(first)
    assert pilots.min() >= 0
    assert pilots.max() < 5


def test_a_further_ue_takes_the_pilot_least_heard_at_its_strongest_ap() -> None:
    beta = np.array([[9.0, 1.0, 5.0, 2.0, 1.0], [1.0, 9.0, 0.1, 8.0, 9.9]])
    # UE 2 is strongest at AP 0, where UE 1 is weak; UEs 3 and 4 at AP 1, where UE 0's pilot stays the weaker
    assert greedy_pilots(beta, 2).tolist() == [0, 1, 1, 0, 0]


def test_greedy_pilots_are_contaminated_less_than_random_ones() -> None:
    config = Config(radio=Radio(num_aps=40, num_ues=24, pilot_length=5, area_m=600))
    rng, greedy, random = np.random.default_rng(0), [], []
    for episode in range(30):
        layout = make_layout(config, episode)
        greedy.append(contamination(layout.beta, layout.pilots))
        random.append(contamination(layout.beta, rng.integers(5, size=24)))
    assert np.mean(greedy) < np.mean(random)


def layouts(episodes: int = 30, **radio: object) -> Iterator[Layout]:
    settings = {"num_aps": 40, "num_ues": 24, "pilot_length": 5, "area_m": 600.0, **radio}
    config = Config(radio=Radio.model_validate(settings))
    return (make_layout(config, episode) for episode in range(episodes))


def test_pilot_rules_order_as_they_should_and_only_they_differ() -> None:
    """Greedy looks around, which neither of the others does."""
    mean = {}
    for rule in ("greedy", "random", "round-robin"):
        mean[rule] = np.mean([contamination(drop.beta, drop.pilots) for drop in layouts(pilot_assignment=rule)])
    assert mean["greedy"] < min(mean["random"], mean["round-robin"])
    by_rule = [next(layouts(1, pilot_assignment=rule)) for rule in mean]
    assert all((layout.beta == by_rule[0].beta).all() for layout in by_rule)


def test_round_robin_gives_every_pilot_the_same_number_of_ues() -> None:
    for layout in layouts(2, pilot_assignment="round-robin"):
        counts = np.bincount(layout.pilots, minlength=5)
        assert counts.max() - counts.min() <= 1


def test_random_pilots_are_uniform_and_a_function_of_seed_and_episode() -> None:
    config = Config(radio=Radio(pilot_assignment="random", num_ues=2000))
    beta = np.ones((1, 2000))
    pilots = assign_pilots(config, beta, 3)
    np.testing.assert_allclose(np.bincount(pilots, minlength=10) / 2000, 0.1, atol=0.03)
    np.testing.assert_array_equal(assign_pilots(config, beta, 3), pilots)
    assert (assign_pilots(config, beta, 4) != pilots).any()


# --- power ---


@pytest.mark.parametrize("rule", ["equal", "sqrt-beta"])
def test_an_ap_spends_its_power_on_its_own_ues_and_an_idle_one_none(rule: str) -> None:
    config = Config(radio=Radio.model_validate({"num_ues": 12, "ap_power_w": 0.2, "power_split": rule}))
    layout = make_layout(config, 0)
    rho = transmit_power(config, layout)
    np.testing.assert_allclose(rho.sum(axis=1), 0.2 * layout.serving.any(axis=1))
    assert ((rho > 0) == layout.serving).all()
    assert not layout.serving.any(axis=1).all()


def test_sqrt_beta_gives_the_nearer_ue_more_but_less_than_in_proportion() -> None:
    config = Config(radio=Radio(power_split="sqrt-beta"))
    layout = make_layout(config, 0)
    rho = transmit_power(config, layout)
    for ap, ues in enumerate(layout.ues_of):
        if ues:
            ratio = rho[ap, list(ues)] / np.sqrt(layout.beta[ap, list(ues)])
            np.testing.assert_allclose(ratio, ratio[0])


# --- long-term interference ---


@dataclass(frozen=True)
class Drop:
    """A small network, and what its UEs measured over very many blocks while nobody cooperated."""

    config: Config
    layout: Layout
    h: ComplexArray  # (B, M, K, L)
    w: ComplexArray  # (B, M, K, L)

    def measured(self, reading: str) -> FloatArray:
        """(M, M) mean power that the UEs of AP m received from AP n."""
        at_ue = received_interference(self.h, self.w, self.layout.serving, reading)
        table = self.layout.serving.astype(float) @ at_ue.T
        np.fill_diagonal(table, 0)
        return table

    def expected(self, reading: str, reported: int = 64) -> FloatArray:
        told = {"interference": reading, "reported_interferers": reported}
        return long_term_interference(self.config.model_copy(update={"cooperation": Cooperation(**told)}), self.layout)


@pytest.fixture(scope="module", params=["equal", "sqrt-beta"])
def drop(request: pytest.FixtureRequest) -> Drop:
    config = Config(
        seed=1,
        run=Run(blocks_per_slot=20_000),
        radio=Radio(
            num_aps=5, num_ues=4, antennas=3, pilot_length=2, max_serving_aps=2, area_m=400, power_split=request.param
        ),
        propagation=Propagation(shadowing_db=4),
    )
    radio, layout = config.radio, make_layout(config, 0)
    h = channels(config, layout, slot=0)
    projections = despread(received_pilots(config, layout, h, slot=0))
    w = np.zeros_like(h)
    for ap, ues in enumerate(layout.ues_of):
        h_hat = estimate(projections[:, ap], layout.beta[ap], layout.pilots, radio.pilot_power_w, radio.noise_power_w)
        rows, rho = mrt(h_hat[..., list(ues)]), power_split(layout.beta[ap, list(ues)], radio)[None]
        own = scaled(rows, rho, (np.abs(rows) ** 2).sum(axis=1)[:, None])
        w[:, ap, list(ues)] = own.swapaxes(-1, -2)
    return Drop(config, layout, h, w)


@pytest.mark.parametrize("reading", READINGS)
def test_long_term_interference_is_the_mean_of_what_ues_receive(drop: Drop, reading: str) -> None:
    measured = drop.measured(reading)
    assert (measured > 0).sum() >= 6
    np.testing.assert_allclose(drop.expected(reading), measured, rtol=0.04)


def test_nobody_interferes_with_itself(drop: Drop) -> None:
    for reading in READINGS:
        np.testing.assert_array_equal(np.diag(drop.expected(reading)), 0)


def test_each_reading_counts_no_more_than_a_wider_one(drop: Drop) -> None:
    narrow, default, wide = (drop.expected(reading) for reading in ("non-serving", "other-streams", "literal"))
    assert (narrow <= default * (1 + 1e-12)).all()
    assert (default <= wide * (1 + 1e-12)).all()


def test_who_serves_nobody_neither_suffers_nor_disturbs() -> None:
    config = Config(radio=Radio(num_aps=12, num_ues=2, max_serving_aps=2))
    layout = make_layout(config, 0)
    idle = ~layout.serving.any(axis=1)
    table = long_term_interference(config, layout)
    assert idle.any()
    np.testing.assert_array_equal(table[idle], 0)
    np.testing.assert_array_equal(table[:, idle], 0)


@pytest.mark.parametrize("reading", READINGS)
def test_a_report_of_few_interferers_says_less_but_never_nothing(drop: Drop, reading: str) -> None:
    """As in a slot, a UE does not spend its report to an AP on that AP itself."""
    full, short = drop.expected(reading), drop.expected(reading, reported=1)
    assert (short <= full).all()
    assert ((short > 0).any(axis=1) == (full > 0).any(axis=1)).all()


def test_a_report_names_no_more_aps_than_it_may() -> None:
    config = Config(
        radio=Radio(num_aps=10, num_ues=3, max_serving_aps=2),
        cooperation=Cooperation(interference="literal", reported_interferers=1),
    )
    layout = make_layout(config, 0)
    named = (long_term_interference(config, layout) > 0).sum(axis=1)
    assert (named <= layout.serving.sum(axis=1)).all()


# --- neighbours ---


def random_interference(seed: int, num_aps: int) -> FloatArray:
    """A sparse table over some decades, as reports make it, with some APs that hear nobody."""
    rng = np.random.default_rng(seed)
    table = 10 ** rng.uniform(-4, 0, (num_aps, num_aps)) * (rng.random((num_aps, num_aps)) < 0.6)
    table[rng.random(num_aps) < 0.2] = 0
    np.fill_diagonal(table, 0)
    return np.asarray(table)


def by_interference(config: Config, table: FloatArray) -> list[tuple[int, ...]]:
    """Neighbour lists by a rule that does not look at who serves whom."""
    return neighbour_lists(config, table, np.zeros((len(table), 1), bool))


def test_row_rule_worked_by_hand() -> None:
    table = np.array(
        [
            [0, 0.05, 1.0, 0.049],
            [0, 0, 0, 0],
            [0.2, 0.3, 0, 0.1],
            [0, 0, 7.0, 0],
        ]
    )
    config = cooperation(neighbour_sets="row", neighbour_threshold=0.05)
    assert by_interference(config, table) == [(2, 1), (), (1, 0, 3), (2,)]


def test_row_rule_keeps_the_strongest_up_to_the_cap() -> None:
    table = np.array([[0, 0.5, 1.0, 0.7], [0] * 4, [0] * 4, [0] * 4])
    assert by_interference(cooperation(neighbour_sets="row", max_neighbours=2), table)[0] == (2, 3)


def test_symmetric_rule_takes_the_worst_pairs_first() -> None:
    table = np.array([[0, 6.0, 0], [2.0, 0, 4.0], [0, 5.0, 0]])  # both ways: 8 and 9
    assert by_interference(cooperation(neighbour_sets="symmetric", max_neighbours=1), table) == [(), (2,), (1,)]
    assert by_interference(cooperation(neighbour_sets="symmetric"), table) == [(1,), (2, 0), (1,)]


def test_symmetric_rule_needs_the_test_passed_at_one_end_only() -> None:
    table = np.array([[0, 1.0, 0.01], [1.0, 0, 0], [1.0, 0, 0]])
    assert by_interference(cooperation(neighbour_sets="symmetric", neighbour_threshold=0.5), table) == [
        (1, 2),
        (0,),
        (0,),
    ]


@LAW
@given(
    seed=st.integers(0, 2**32 - 1),
    num_aps=st.integers(1, 14),
    cap=st.integers(1, 6),
    rule=st.sampled_from(["row", "symmetric"]),
)
def test_neighbours_are_others_up_to_the_cap_strongest_first(seed: int, num_aps: int, cap: int, rule: str) -> None:
    table = random_interference(seed, num_aps)
    lists = by_interference(cooperation(neighbour_sets=rule, max_neighbours=cap), table)
    assert len(lists) == num_aps
    for ap, neighbours in enumerate(lists):
        assert len(set(neighbours)) == len(neighbours) <= cap
        assert ap not in neighbours
        assert all(table[ap, n] >= table[ap, later] for n, later in pairwise(neighbours))
        if rule == "row":
            assert all(table[ap, n] >= 0.05 * table[ap].max() > 0 for n in neighbours)
            assert bool(neighbours) == bool(table[ap].any())


@LAW
@given(seed=st.integers(0, 2**32 - 1), num_aps=st.integers(1, 14), cap=st.integers(1, 6))
def test_symmetric_neighbours_are_reciprocal_and_no_pair_with_room_is_left_out(
    seed: int, num_aps: int, cap: int
) -> None:
    table = random_interference(seed, num_aps)
    lists = by_interference(cooperation(neighbour_sets="symmetric", max_neighbours=cap), table)
    wished = by_interference(cooperation(neighbour_sets="row", max_neighbours=8), table)
    for ap, neighbours in enumerate(lists):
        assert all(ap in lists[n] for n in neighbours)
        assert all(n in neighbours or len(neighbours) == cap or len(lists[n]) == cap for n in wished[ap])


@pytest.mark.parametrize("rule", ["row", "symmetric", "common-ue"])
def test_an_ap_without_ues_has_no_neighbours(rule: str) -> None:
    config = Config(
        radio=Radio(num_aps=20, num_ues=3, max_serving_aps=3),
        cooperation=Cooperation.model_validate({"neighbour_sets": rule}),
    )
    layout = make_layout(config, 0)
    lists = neighbour_lists(config, long_term_interference(config, layout), layout.serving)
    assert any(lists)
    for ap, ues in enumerate(layout.ues_of):
        if not ues:
            assert lists[ap] == ()
            assert all(ap not in others for others in lists)


def test_a_network_without_interference_has_no_neighbours() -> None:
    assert by_interference(Config(), np.zeros((3, 3))) == [(), (), ()]


@pytest.mark.parametrize("cap", [2, 5, 32])
def test_common_ue_neighbours_serve_a_ue_together_whatever_the_interference(cap: int) -> None:
    config = cooperation(neighbour_sets="common-ue", policy="always", max_neighbours=cap)
    layout = make_layout(config, 0)
    lists = neighbour_lists(config, np.zeros((100, 100)), layout.serving)
    for ap, neighbours in enumerate(lists):
        others = set(neighbours)
        together = {n for n in range(100) if n != ap and (layout.serving[ap] & layout.serving[n]).any()}
        assert others <= together
        assert all(ap in lists[n] for n in others)
        assert len(others) == cap or all(len(lists[n]) == cap for n in together - others)
    if cap == 32:
        assert sum(map(len, lists)) == 2 * layout.pairs


@pytest.mark.parametrize("rule", ["symmetric", "row"])
def test_further_askers_are_those_who_may_ask_without_being_a_neighbour(rule: str) -> None:
    neighbours = by_interference(cooperation(neighbour_sets=rule, max_neighbours=2), random_interference(3, 12))
    askers = further_askers(neighbours, cap=64)
    assert any(askers) == (rule == "row")
    for ap, own in enumerate(neighbours):
        assert askers[ap] == tuple(m for m in range(12) if ap in neighbours[m] and m not in own)
    assert further_askers(neighbours, cap=1) == [of_one[:1] for of_one in askers]
