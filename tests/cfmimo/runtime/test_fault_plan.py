"""Fault plans as people write them, and what they come to for a network."""

from collections import Counter
from pathlib import Path

import pytest

from apnode.runtime.injector import Fault
from cfmimo.errors import ConfigError
from cfmimo.presets import load
from cfmimo.runtime.fault_plan import FaultPlan, Faults, load_plan, plan_names, resolve

CONFIG = load("demo", ("radio.num_aps=10", "run.episodes=5", "run.slots_per_episode=20"))


def faults_of(text: str, tmp_path: Path) -> Faults:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return resolve(load_plan(str(path)), CONFIG)


def test_a_plan_comes_to_one_fault_per_slot_and_node(tmp_path: Path) -> None:
    text = """
    [[faults]]
    slot = 7
    target = "ap/3"
    action = "hang"
    [[faults]]
    slot = 2
    target = "ap/4-5"
    action = "lie"
    args = {slots = 30, kind = "scaled"}
    [[faults]]
    slot = 9
    action = "kill_channel_server"
    """
    assert faults_of(text, tmp_path).faults == (
        Fault(2, "ap/4", "lie", slots=30, kind="scaled"),
        Fault(2, "ap/5", "lie", slots=30, kind="scaled"),
        Fault(7, "ap/3", "hang", slots=3),
        Fault(9, "channel", "kill_channel_server", slots=3),
    )


def test_a_share_is_drawn_anew_each_time_and_all_get_their_turn(tmp_path: Path) -> None:
    text = '[[faults]]\nslot = 10\ntarget = "ap/*"\naction = "kill"\nshare = 0.2\nevery = 5\nuntil = 60'
    faults = faults_of(text, tmp_path)
    assert Counter(fault.slot for fault in faults.faults) == dict.fromkeys(range(10, 60, 5), 2)
    assert set(Counter(fault.node for fault in faults.faults).values()) == {2}
    assert faults == faults_of(text, tmp_path)
    assert faults != faults_of("seed = 1\n" + text, tmp_path)


def test_a_partition_cuts_both_ways_for_its_slots(tmp_path: Path) -> None:
    text = '[[faults]]\nslot = 4\ntarget = "ap/0-1"\naction = "partition"\nargs = {slots = 6, others = ["ap/2-9"]}'
    there, back = faults_of(text, tmp_path).links
    assert (there.senders, there.receivers) == (back.receivers, back.senders)
    assert there.senders == {"ap/0", "ap/1"}
    assert there.concerns("ap/1", "ap/9", 9)
    assert not there.concerns("ap/1", "ap/9", 10)
    assert not there.concerns("ap/1", "channel", 5)


def test_a_node_is_told_its_own_part_only(tmp_path: Path) -> None:
    text = """
    [[faults]]
    slot = 1
    target = "ap/*"
    action = "kill"
    [[links]]
    senders = "ap/3"
    loss = 0.5
    """
    faults = faults_of(text, tmp_path)
    assert {fault.node for fault in faults.of("ap/2").own} == {"ap/2"}
    assert [len(faults.of(f"ap/{ap}").links) for ap in (2, 3)] == [0, 1]


def test_a_run_is_told_in_what_it_differs_from_the_plan() -> None:
    faults = Faults((Fault(3, "ap/1", "kill"), Fault(5, "ap/2", "lie")))
    assert faults.not_as_planned(faults.planned) == []
    assert faults.not_as_planned([*faults.planned[:1], {"slot": 9, "node": "ap/1", "action": "kill"}]) == [
        "lie of ap/2 in slot 5 planned but not fired",
        "kill of ap/1 in slot 9 fired but not planned",
    ]


MISTAKES = {
    "an AP that there is not": ('slot = 1\ntarget = "ap/10"\naction = "kill"', "APs 0 to 9"),
    "a slot that there is not": ('slot = 100\ntarget = "ap/1"\naction = "kill"', "slots 0 to 99"),
    "no target": ('slot = 1\naction = "kill"', "needs a target"),
    "a target that is none": ('slot = 1\ntarget = "router/3"\naction = "kill"', "names no AP"),
    "another target than there can be": ('slot = 1\ntarget = "ap/1"\naction = "kill_coordinator"', "always strikes"),
    "an action that there is not": ('slot = 1\ntarget = "ap/1"\naction = "explode"', "action"),
    "a node for an AP": ('slot = 1\ntarget = "node/1"\naction = "kill"', "kill_node strikes"),
    "an end without a beginning": ('slot = 1\ntarget = "ap/1"\naction = "kill"\nuntil = 5', "until goes with every"),
    "a typing error": ('slot = 1\ntarget = "ap/1"\naction = "kill"\nshares = 0.1', "is not a setting"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_a_sentence(mistake: str, tmp_path: Path) -> None:
    text, sentence = MISTAKES[mistake]
    with pytest.raises(ConfigError, match=sentence):
        faults_of(f"[[faults]]\n{text}", tmp_path)


def test_an_empty_plan_is_no_faults() -> None:
    assert resolve(FaultPlan(), CONFIG) == Faults()


def test_the_plans_that_ship_are_found() -> None:
    assert plan_names() == ["churn", "everything", "loss"]


@pytest.mark.parametrize("name", plan_names())
def test_the_plans_that_ship_fit_the_demo(name: str) -> None:
    assert resolve(load_plan(name), load("demo")) != Faults()
