"""Which of a UE's APs transmit to it, by the forecast of its strongest AP: what it brings, and who may choose whom."""

import itertools
from typing import Any

import numpy as np
import pytest

from apnode.agent.prospects import Partition, Prospects
from apnode.agent.serving import Serving
from apnode.agent.surroundings import Surroundings
from apnode.config import Config
from apnode.protocol.messages import SILENT, Association, SlotFeedback
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork
from channel_server.topology import Layout, associations, make_layout

SMALL = ("radio.num_aps=30", "radio.num_ues=12", "radio.area_m=550")
SETS = "cooperation.serving=forecast"


def world(*overrides: str, seed: int = 0) -> tuple[Config, Layout, list[Association]]:
    config = load("selective", (*SMALL, SETS, *overrides), seed)
    layout = make_layout(config, 0)
    return config, layout, associations(config, layout, 0)


def prospects(config: Config, layout: Layout, told: list[Association], ue: int) -> Prospects:
    """As the UE's strongest AP has them."""
    master = int(layout.beta[:, ue].argmax())
    around = Surroundings(master, told[master], config.radio)
    return Prospects(config, around, int(np.searchsorted(around.ids, ue)))


def reported(serving: Serving, association: Association, **at: Any) -> SlotFeedback:
    """All for themselves, nothing chosen, but for what is given of each UE."""
    shape = association.served_by.shape
    group, chosen = np.tile(np.arange(shape[1]), (shape[0], 1)), np.zeros(shape[0], int)
    fields = {"group": group, "chosen": chosen, **at}
    nothing = np.zeros(shape[0])
    return SlotFeedback(0, nothing, nothing, np.zeros((shape[0], 0), int), np.zeros((shape[0], 0)), **fields)


def test_who_serves_best_is_found_among_all_sets_of_a_ues_aps() -> None:
    config, layout, told = world()
    fewer = 0
    for ue in range(12):
        of_ue = prospects(config, layout, told, ue)
        pair, *others = of_ue.members[1:3], *([row] for row in (of_ue.members[0], *of_ue.members[3:]))
        partition: Partition = tuple(map(of_ue.group_of, (pair, *others)))
        best = of_ue.best_served(partition)
        sets = [of_ue.group_of(rows) for n in range(1, 6) for rows in itertools.combinations(of_ue.members, n)]
        left = [tuple(group & served for group in partition if group & served) for served in sets]
        values = of_ue.values(left)
        assert len(sets) == 31
        assert best == sets[int(values.argmax())]
        fewer += best.bit_count() < 5
    assert fewer > 6


def test_a_link_is_worth_what_it_brings_where_only_those_transmit_who_serve_best() -> None:
    config, layout, told = world()
    of_ue = prospects(config, layout, told, 0)
    pairs = [of_ue.group_of(pair) for pair in itertools.combinations(of_ue.members, 2)]
    sets = [of_ue.group_of(rows) for n in range(1, 6) for rows in itertools.combinations(of_ue.members, n)]

    def best(partition: Partition) -> float:
        return max(of_ue.values([tuple(g & served for g in partition if g & served) for served in sets]))

    expected = [best(of_ue.with_group(pair)) - best(of_ue.alone) for pair in pairs]
    np.testing.assert_allclose(of_ue.gains([of_ue.with_group(pair) for pair in pairs]), expected)


@pytest.mark.parametrize("policy", ["never", "forecast"])
def test_sum_rate_is_higher_where_only_those_transmit_who_serve_best(policy: str) -> None:
    """With few links much higher; fading and layouts are the same."""
    gained = []
    for seed in range(4):
        rates = []
        for serving in ("strongest", "forecast"):
            overrides = (*SMALL, f"cooperation.serving={serving}", f"cooperation.policy={policy}", "run.episodes=1")
            links = ("cooperation.link_price=1.5", "run.slots_per_episode=8", "reward.scope=own")
            network = LocalNetwork(load("selective", (*overrides, *links), seed))
            network.run()
            sinr = network.coordinator.record.sinr[2:]
            rates.append(np.log2(1 + sinr).mean(axis=(0, 1)).sum())
        gained.append(rates[1] - rates[0])
    assert np.mean(gained) > 1.5
    assert min(gained) > 0


def test_only_a_ues_strongest_ap_chooses_and_only_if_it_knows_all_its_aps() -> None:
    config, layout, told = world()
    masters = layout.beta.argmax(axis=0)
    for ap, association in enumerate(told):
        choice = Serving(config, ap, association).choice()
        assert [ue for ue, mask in zip(association.ues, choice, strict=True) if mask] == [
            ue for ue in association.ues if masters[ue] == ap
        ]
    few, layout, told = world("cooperation.max_neighbours=6")
    chosen = 0
    for ap, association in enumerate(told):
        known = {ap, *association.neighbours}
        choice = Serving(few, ap, association).choice()
        for ue, mask in zip(association.ues, choice, strict=True):
            knows = {*np.flatnonzero(layout.serving[:, ue]).tolist()} <= known
            assert bool(mask) == (knows and masters[ue] == ap)
            chosen += bool(mask)
    assert 0 < chosen < 12


def test_who_is_silent_is_not_chosen() -> None:
    config, layout, told = world()
    for ue in range(12):
        master = int(layout.beta[:, ue].argmax())
        association, row = told[master], told[master].ues.index(ue)
        serving = Serving(config, master, association)
        choice = int(serving.choice()[row])
        place = (choice & -choice).bit_length() - 1  # the first of the chosen
        group = np.tile(np.arange(5), (len(association.ues), 1))
        group[row, place] = SILENT
        serving.take_in(reported(serving, association, group=group))
        assert serving.choice()[row] > 0
        assert not serving.choice()[row] >> place & 1
        serving.take_in(reported(serving, association, group=np.full(group.shape, SILENT)))
        assert serving.choice()[row] == 0


def test_where_one_finds_out_about_aps_all_of_them_serve_a_ue_now_and_then() -> None:
    config, layout, told = world()
    chances = []
    for ue in range(12):
        master = int(layout.beta[:, ue].argmax())
        serving, row = Serving(config, master, told[master]), told[master].ues.index(ue)
        usual = serving.choice()[row]
        choices = [serving.choice(tries=slot)[row] for slot in range(200)]
        assert {*choices} == {0, usual}
        chances.append(choices.count(0) / 200)
    assert np.mean(chances) == pytest.approx(0.15, abs=0.02)


def test_who_is_thought_incoherent_is_left_out_and_who_is_not_serves() -> None:
    config, layout, told = world()
    left_out = 0
    for ue in range(12):
        master = int(layout.beta[:, ue].argmax())
        association, row = told[master], told[master].ues.index(ue)
        serving = Serving(config, master, association)
        blind = int(serving.choice(np.zeros((1 + len(association.neighbours), 3)))[row])
        assert blind == serving.choice()[row]
        aps = np.flatnonzero(layout.serving[:, ue]).tolist()
        for place, ap in enumerate(aps):
            if ap != master and blind >> place & 1:
                levels = np.zeros((1 + len(association.neighbours), 3))
                levels[1 + association.neighbours.index(ap)] = 1
                left_out += not serving.choice(levels)[row] >> place & 1
                assert serving.choice()[row] == blind
    assert left_out > 8


def test_with_a_floor_a_ue_keeps_that_part_of_what_all_its_aps_would_bring() -> None:
    kept = {}
    for floor in (0.0, 0.9, 1.0):
        config, layout, told = world(f"cooperation.serving_floor={floor}")
        of_ues = [prospects(config, layout, told, ue) for ue in range(12)]
        shares = []
        for of_ue in of_ues:
            best = of_ue.best_served(of_ue.alone)
            left = tuple(single for single in of_ue.alone if single & best)
            nothing = np.zeros((1, 40, 3))
            own, of_all = (of_ue.heard(partition, nothing)[0, 0] for partition in (left, of_ue.alone))
            shares.append(own / of_all)
        kept[floor] = shares
    assert min(kept[0.0]) < 0.9
    assert min(kept[0.9]) >= 0.9 - 1e-9
    assert min(kept[1.0]) >= 1 - 1e-9
    assert np.mean(kept[0.9]) > np.mean(kept[0.0])
