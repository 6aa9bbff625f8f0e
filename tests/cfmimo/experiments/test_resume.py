"""A network that goes on from checkpoints of all its APs does what it would have done had it never stopped."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from apnode.access_point import AccessPoint
from apnode.agent.policies import make_policy
from apnode.protocol.node import CHANNEL, COORDINATOR
from apnode.protocol.rng import config_for_aps
from apnode.protocol.state import Checkpoint, State, StateError
from apnode.runtime.checkpoint import Checkpoints
from apnode.runtime.host import Host
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork
from coordinator.record import Record

SHORT = (
    "radio.num_aps=8",
    "radio.num_ues=5",
    "radio.area_m=250",
    "run.episodes=3",
    "run.slots_per_episode=12",
    "run.blocks_per_slot=2",
    "run.checkpoint_every_slots=6",
    "learning.batch_size=4",
    "learning.replay_capacity=5",  # full by then
    "learning.target_update_episodes=1",
)
SELECTIVE = (
    "cooperation.neighbour_sets=common-ue",
    "precoding.alone=mmse",
    "precoding.joint=selective",
    "precoding.power=average",
    "reward.scope=neighbourhood",
    "radio.ue_mobility=walk",
)
VARIANTS = {
    "ego": (),
    "never": ("cooperation.policy=never",),
    "average": ("precoding.power=average", "propagation.block_ms=1"),
    "selective": SELECTIVE,
    "serving": (*SELECTIVE, "cooperation.cluster=serving"),
    "belief, serving sets": (
        *SELECTIVE,
        "cooperation.cluster=serving",
        "cooperation.serving=forecast",
        "cooperation.residual_db=20",
        "cooperation.policy=belief",
        "impairments.calibration_error=[[0.5, 0.0], [0.5, 0.5]]",
    ),
    "ratio": (*SELECTIVE, "cooperation.cluster=serving", "cooperation.policy=ratio", "cooperation.link_price=-0.5"),
    "factor": (*SELECTIVE, "cooperation.cluster=serving", "cooperation.policy=factor", "cooperation.link_price=-0.5"),
    "serving sets": (
        *SELECTIVE,
        "cooperation.cluster=serving",
        "cooperation.serving=forecast",
        "cooperation.residual_db=20",
        "cooperation.policy=random",
    ),
    "components": ("cooperation.cluster=components", "cooperation.policy=random", "reward.scope=neighbourhood"),
}
MID_EPISODE, BORDER = 18, 24
ROWS = (
    "closed", "episode", "pairs", "sinr", "sinr_alone", "gain", "gain_alone", "power", "silent", "reported",
    "neighbours", "requested", "linked", "cluster_size", "floats", "fronthaul",
)  # fmt: skip


@cache
def uninterrupted(variant: str) -> tuple[Record, Mapping[tuple[int, int], State], list[State]]:
    """What was recorded; the state of each AP at each boundary, by slots completed and AP; those at the end."""
    network, states = LocalNetwork(load("demo", (*SHORT, *VARIANTS[variant])), order_seed=5), {}
    for _ in network.frames():
        for ap in network.aps:
            checkpoint = ap.take_checkpoint()
            if checkpoint is not None:
                states[checkpoint.completed, ap.ap] = checkpoint.state
    return network.coordinator.record, states, [ap.state() for ap in network.aps]


def resumed(variant: str, first_slot: int, states: Mapping[tuple[int, int], State]) -> LocalNetwork:
    """A network of fresh APs, each with its state restored, whose first slot is another one; run to its end."""
    config = load("demo", (*SHORT, *VARIANTS[variant]))
    network = LocalNetwork(config, order_seed=9, first_slot=first_slot)
    for ap in network.aps:
        ap.restore(states[first_slot, ap.ap])
    network.coordinator.record.closed[:first_slot] = network.coordinator.record.reported[:first_slot] = True
    network.run()
    return network


def assert_equal(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.parametrize("first_slot", [MID_EPISODE, BORDER])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_is_the_one_that_was_never_stopped(variant: str, first_slot: int) -> None:
    expected, states, last = uninterrupted(variant)
    network = resumed(variant, first_slot, states)
    for name in ROWS:
        one, other = (getattr(record, name)[first_slot:] for record in (network.coordinator.record, expected))
        np.testing.assert_array_equal(one, other, err_msg=name)
    for ap, state in zip(network.aps, last, strict=True):
        assert_equal(ap.state(), state)


@pytest.mark.parametrize("variant", ["ego", "selective"])
def test_a_run_resumed_by_aps_that_have_forgotten_everything_is_another_one(variant: str) -> None:
    """Or the equality above would say nothing."""
    expected, states, _ = uninterrupted(variant)
    config = load("demo", (*SHORT, *VARIANTS[variant]))
    fresh = {(MID_EPISODE, ap.ap): first_state(ap, states) for ap in LocalNetwork(config).aps}
    record = resumed(variant, MID_EPISODE, fresh).coordinator.record
    assert (record.floats != expected.floats)[MID_EPISODE:, :, :3].any()


def learnt(ap: AccessPoint) -> State:
    """Of an agent that does not learn: nothing."""
    return ap.learner.state() if ap.learner else {}


def first_state(ap: AccessPoint, states: Mapping[tuple[int, int], State]) -> State:
    """Of an AP that knows when it is, but nothing else."""
    state = states[MID_EPISODE, ap.ap]
    forgotten = {"episode.number": np.array(99)}
    return {**state, **forgotten, **{f"policy.{name}": array for name, array in learnt(ap).items()}}


def test_what_is_restored_is_worth_restoring() -> None:
    _, states, _ = uninterrupted("selective")
    at = [states[MID_EPISODE, ap] for ap in range(8)]
    assert sum(len(state["lesson.slot"]) for state in at) > 4
    assert sum(len(state["episode.power.ue"]) for state in at) > 8
    assert max(state["episode.power.group"].shape[1] for state in at) > 1
    assert sum(int(state["policy.replay.stored"]) > 5 for state in at) > 4  # so many fill it
    assert any((state["policy.network.steps"] > 1).all() for state in at)


def test_a_state_goes_through_a_file_and_an_ap_unchanged(tmp_path: Path) -> None:
    _, states, _ = uninterrupted("selective")
    for ap in LocalNetwork(load("demo", (*SHORT, *VARIANTS["selective"]))).aps:
        checkpoints = Checkpoints(tmp_path, f"ap-{ap.ap}")
        checkpoints.save(Checkpoint(MID_EPISODE, states[MID_EPISODE, ap.ap]))
        loaded = checkpoints.load()
        assert loaded is not None
        ap.restore(loaded.state)
        assert_equal(ap.state(), states[MID_EPISODE, ap.ap])


OTHERS = {
    "policy": "cooperation.policy=random",
    "layers": "learning.hidden=[16]",
    "replay": "learning.replay_capacity=6",
    "neighbours": "cooperation.max_neighbours=3",
    "observed UEs": "learning.observed_ues=4",
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_state_of_another_config_is_refused_and_changes_nothing(other: str) -> None:
    _, states, _ = uninterrupted("ego")
    state = states[MID_EPISODE, 0]
    ap = LocalNetwork(load("demo", SHORT)).aps[0]
    ap.restore(state)
    foreign = LocalNetwork(load("demo", (*SHORT, OTHERS[other]))).aps[0]
    with pytest.raises(StateError):
        foreign.restore(state)
    rest = {name: array for name, array in state.items() if not name.startswith("policy.")}
    with pytest.raises(StateError):
        ap.restore({**rest, **{f"policy.{name}": array for name, array in learnt(foreign).items()}})
    assert_equal(ap.state(), state)


@pytest.mark.parametrize("name", ["completed", "lesson.observation", "episode.linked", "episode.power.own"])
@pytest.mark.parametrize("harm", ["missing", "dtype", "shape"])
def test_a_state_that_is_not_whole_is_refused_and_changes_nothing(name: str, harm: str) -> None:
    _, states, _ = uninterrupted("average")
    states_of_it = [states[MID_EPISODE, ap] for ap in range(8)]
    index = next(index for index, state in enumerate(states_of_it) if len(state["lesson.slot"]))
    state, ap = states_of_it[index], LocalNetwork(load("demo", (*SHORT, *VARIANTS["average"]))).aps[index]
    ap.restore(state)
    harmed = dict(state)
    array = harmed.pop(name)
    if harm != "missing":
        harmed[name] = array.astype(complex) if harm == "dtype" else np.array([*np.atleast_1d(array)] * 2)
    with pytest.raises(StateError):
        ap.restore(harmed)
    assert_equal(ap.state(), state)


def test_a_restarted_ap_goes_on_with_what_it_had_learnt() -> None:
    """AP 1 is gone after its checkpoint of slot 18, and back, restored, a few slots later in the same episode."""
    config = load("demo", SHORT)
    network, checkpoint, back = LocalNetwork(config), None, None
    for _ in network.frames():
        old = network.aps[1]
        checkpoint = old.take_checkpoint() if checkpoint is None or checkpoint.completed < MID_EPISODE else checkpoint
        if back is None and old.completed == MID_EPISODE + 3:
            assert checkpoint is not None
            known = config_for_aps(config)
            back = AccessPoint(1, known, make_policy(1, known), incarnation=1)
            back.restore(checkpoint.state)
            back.endpoints |= {CHANNEL: CHANNEL, COORDINATOR: COORDINATOR}
            assert_equal(learnt(back), policy_of(checkpoint.state))
            network.aps[1] = back
            network._hosts[back.address] = Host(back)
            network._post(back, back.start(back.address))
    assert back is not None
    assert checkpoint is not None
    assert back.done
    assert back.completed > MID_EPISODE + 6
    assert back.state()["policy.replay.stored"] > checkpoint.state["policy.replay.stored"]
    assert network.coordinator.record.reported[-12:].all()


def policy_of(state: State) -> State:
    return {name.removeprefix("policy."): array for name, array in state.items() if name.startswith("policy.")}
