"""Whole runs in one process under fault plans: what goes on, what comes back, and that nothing is lost unseen."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from apnode.agent.policies import Policy, make_policy
from apnode.agent.view import View
from apnode.config import Config
from apnode.protocol.messages import Hello, Resend
from apnode.protocol.node import CHANNEL
from apnode.protocol.wire import decode
from apnode.runtime.host import SILENT_SLOTS
from benchmarks.fuzz import CORPUS, broken, try_kept, try_seed
from cfmimo.cli.main import run_cfmimo
from cfmimo.presets import load
from cfmimo.runtime.fault_plan import FaultPlan, resolve
from cfmimo.runtime.groups import groups_of
from cfmimo.runtime.local import LocalNetwork
from cfmimo.runtime.request import ERRORS
from coordinator import tables
from coordinator.record import Record
from coordinator.summary import summarise

SMALL = (
    "radio.num_aps=10",
    "radio.num_ues=5",
    "radio.area_m=300",
    "run.blocks_per_slot=1",
    "run.slots_per_episode=20",
    "run.episodes=3",
    "run.checkpoint_every_slots=5",
    "run.watchdog_slots=6",
    "learning.batch_size=4",
)


def run(tmp_path: Path, plan: dict[str, object], *overrides: str, order_seed: int | None = None) -> LocalNetwork:
    """A run under a plan, with every invariant checked."""
    config = load("demo", (*SMALL, *overrides))
    faults = resolve(FaultPlan.model_validate(plan), config)
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    network = LocalNetwork(config, order_seed, faults=faults, folder=tmp_path)
    network.run()
    assert broken(network, faults, tmp_path) == []
    return network


def faultless(*overrides: str) -> Record:
    network = LocalNetwork(load("demo", (*SMALL, *overrides)))
    network.run()
    return network.coordinator.record


def fault(slot: int, action: str, target: str = "", **more: object) -> dict[str, object]:
    return {"slot": slot, "action": action, "target": target, **more}


def down(record: Record, ap: int) -> list[int]:
    return np.flatnonzero(~record.reported[:, ap]).tolist()


def test_a_killed_ap_is_back_with_what_it_had_learnt_at_its_last_checkpoint(tmp_path: Path) -> None:
    record = run(tmp_path, {"faults": [fault(23, "kill", "ap/4", args={"slots": 4})]}).coordinator.record
    assert down(record, 4) == [23, 24, 25, 26]
    assert record.comebacks == [{"ap": 4, "incarnation": 1, "restored": 20, "slot": 27}]
    assert record.floats[28:, 4, 2].any()  # it goes on learning
    twin = faultless()
    assert (record.sinr[:22] == twin.sinr[:22]).all()


@pytest.mark.parametrize("action", ["kill", "hang", "crash_on_start"])
def test_aps_that_would_share_a_process_die_together_and_come_back_together(action: str, tmp_path: Path) -> None:
    settings, at_once = "run.aps_per_actor=4", [23, 43]
    group = next(group for group in groups_of(load("demo", (*SMALL, settings))) if 4 in group)
    others = [ap for ap in range(10) if ap not in group]
    plan = [fault(23, action, "ap/4")] + [fault(43, "kill", f"ap/{ap}") for ap in group]
    network = run(tmp_path, {"faults": plan}, settings)
    record = network.coordinator.record
    assert record.reported[:, others].all()
    assert all(down(record, ap) == down(record, 4) for ap in group)
    assert {23, 43} <= {*down(record, 4)} <= {*range(22, 34), *range(43, 47)}
    assert [restart["ap"] for restart in network.restarts] == 2 * [*group]
    assert {comeback["ap"] for comeback in record.comebacks} == {*group}
    assert [fired["slot"] for fired in record.fired] == at_once[:1] + len(group) * at_once[1:]


def test_without_a_checkpoint_it_begins_anew(tmp_path: Path) -> None:
    record = run(tmp_path, {"faults": [fault(3, "kill", "ap/4")]}).coordinator.record
    assert record.comebacks[0]["restored"] == 0


def test_a_frozen_ap_is_ended_by_the_watchdog_and_is_late_for_others_once(tmp_path: Path) -> None:
    network = run(tmp_path, {"faults": [fault(20, "hang", "ap/2")]})
    assert [restart["ap"] for restart in network.restarts] == [2]
    assert 6 <= len(down(network.coordinator.record, 2)) <= 9
    silent = network.coordinator.record.silent
    assert not np.delete(silent, 2, axis=1).any()


def test_neighbours_of_a_dead_ap_wait_for_a_deadline_in_one_slot_only(tmp_path: Path) -> None:
    reminded = []
    config = load("demo", (*SMALL, "cooperation.policy=always"))
    faults = resolve(FaultPlan.model_validate({"faults": [fault(20, "kill", "ap/2", args={"slots": 15})]}), config)
    network = LocalNetwork(config, faults=faults)
    for _ in network.frames():
        if network.channel.air and network.channel.air.reminded:
            reminded.append(network.channel.air.index)
    assert set(reminded) == {20}


def test_a_deadline_in_every_slot_makes_nobody_say_hello_again(tmp_path: Path) -> None:
    """Who waits for the late hears of the next slot before it loses patience."""
    config = load("demo", SMALL)
    faults = resolve(FaultPlan.model_validate({"links": [{"loss": 0.3}]}), config)
    network, hellos, reminded = LocalNetwork(config, faults=faults), 0, set()
    for send in network.frames():
        hellos += send.to == CHANNEL and isinstance(decode(send.frame), Hello)
        if network.channel.air and network.channel.air.reminded:
            reminded.add(network.channel.air.index)
    assert hellos == config.radio.num_aps
    assert len(reminded) > config.num_slots / 2


@pytest.mark.parametrize("policy", ["never", "always"])
def test_an_ap_unknown_to_a_new_channel_server_is_back_when_its_link_is(policy: str, tmp_path: Path) -> None:
    """Nobody opens slots for it, so by its own slots the link would be cut for ever; peers may ask it, or not."""
    cut = {"senders": "ap/1", "receivers": "channel", "first": 20, "last": 30, "loss": 1.0}
    plan = {"faults": [fault(24, "kill_channel_server")], "links": [cut]}
    record = run(tmp_path, plan, f"cooperation.policy={policy}").coordinator.record
    missed = np.flatnonzero(record.silent[:, 1]).tolist()
    assert missed == [*range(20, missed[-1] + 1)]
    assert 30 <= missed[-1] <= 31 + SILENT_SLOTS


@pytest.mark.parametrize("action", ["restart", "crash_on_start"])
def test_an_ap_that_ends_by_itself_is_back(action: str, tmp_path: Path) -> None:
    record = run(tmp_path, {"faults": [fault(20, action, "ap/2", args={"times": 2, "slots": 2})]}).coordinator.record
    assert [back["incarnation"] for back in record.comebacks] == [1 if action == "restart" else 3]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_many_aps_killed_at_once_are_all_back(share: float, tmp_path: Path) -> None:
    plan = {"faults": [fault(22, "kill", "ap/*", share=share)]}
    record = run(tmp_path, plan).coordinator.record
    assert len({back["ap"] for back in record.comebacks}) == 10 * share
    assert record.reported[30:].all()


@pytest.mark.parametrize("slot", [1, 19, 20, 33, 59])
@pytest.mark.parametrize("action", ["kill_channel_server", "kill_coordinator"])
def test_channel_server_and_coordinator_may_die_without_a_trace(action: str, slot: int, tmp_path: Path) -> None:
    """The channels after a restart are those that would have been, and no report is lost."""
    network = run(tmp_path, {"faults": [fault(slot, action)]})
    assert network.coordinator.record.digest() == faultless().digest()
    assert network.restarts == []


@pytest.mark.parametrize("order_seed", [None, 1, 2])
@pytest.mark.parametrize("apart", [-1, 0, 1])
def test_an_ap_that_dies_with_the_channel_server_costs_the_others_no_slot(
    apart: int, order_seed: int | None, tmp_path: Path
) -> None:
    plan = {"faults": [fault(24, "kill_channel_server"), fault(24 + apart, "kill", "ap/3")]}
    record = run(tmp_path, plan, order_seed=order_seed).coordinator.record
    others = [ap for ap in range(record.reported.shape[1]) if ap != 3]
    assert record.reported[:, others].all()
    assert not record.silent[:, others].any()
    assert record.reported[-1].all()


def test_doubled_frames_change_nothing(tmp_path: Path) -> None:
    plan = {"links": [{"duplication": 0.5}, {"senders": "channel", "receivers": "ap/*", "duplication": 0.5}]}
    network = run(tmp_path, plan)
    assert sum(network.ledger.doubled.values()) > 500
    assert network.coordinator.record.digest() == faultless().digest()


@pytest.mark.parametrize("action", [None, "kill_coordinator"])
def test_reports_lost_on_the_way_are_asked_for_until_they_are_there(action: str | None, tmp_path: Path) -> None:
    """So the digest is that of the run without faults, also if the asking gets lost, too."""
    lossy = {"loss": 0.6, "corruption": 0.1, "last": 45}
    nodes = ("ap/*", "channel", "coordinator")
    links = [
        {**lossy, "senders": sender, "receivers": to}
        for sender in nodes
        for to in nodes
        if "coordinator" in (sender, to)
    ]
    plan = {"links": links, "faults": [fault(30, action)] if action else []}
    network = run(tmp_path, plan)
    assert network.coordinator.record.digest() == faultless().digest()
    assert network.ledger.lost["channel", "coordinator"] > 10


@pytest.mark.parametrize("order_seed", [None, *range(5)])
def test_without_faults_nothing_is_asked_for_again(order_seed: int | None) -> None:
    network = LocalNetwork(load("demo", SMALL), order_seed)
    assert not any(isinstance(decode(send.frame), Resend) for send in network.frames())


def test_under_loss_and_delay_nobody_misses_a_slot(tmp_path: Path) -> None:
    rates = {"loss": 0.3, "duplication": 0.1, "delay": 0.3, "delay_slots": 3, "reordering": 0.1, "corruption": 0.05}
    record = run(tmp_path, {"links": [rates]}, "cooperation.policy=always").coordinator.record
    assert record.reported.all()
    assert not record.silent.any()
    formed = tables.slots(record)["formed"].sum()
    assert 0 < formed < 0.7 * tables.slots(faultless("cooperation.policy=always"))["formed"].sum()


def test_a_full_disk_costs_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    plan = {"faults": [fault(12, "disk_full", "ap/*", args={"slots": 20}), fault(28, "kill", "ap/1")]}
    record = run(tmp_path, plan).coordinator.record
    assert record.comebacks[0]["restored"] == 10
    assert record.unsaved.tolist() == [4, 3, 4, 4, 4, 4, 4, 4, 4, 4]  # those of slots 15 to 30; AP 1 was down in one
    assert summarise(record)["checkpoints_unsaved"] == 39
    assert (record.sinr[:27] == faultless().sinr[:27]).all()


def test_behind_a_corrupt_checkpoint_is_the_one_before(tmp_path: Path) -> None:
    plan = {"faults": [fault(22, "corrupt_checkpoint", "ap/1"), fault(23, "kill", "ap/1")]}
    assert run(tmp_path, plan).coordinator.record.comebacks[0]["restored"] == 15


def test_a_partition_ends_and_leaves_nobody_behind(tmp_path: Path) -> None:
    plan = {"faults": [fault(10, "partition", "ap/0-3", args={"slots": 8, "others": ["ap/4-9"]})]}
    record = run(tmp_path, plan, "cooperation.policy=always").coordinator.record
    assert record.reported.all()
    across = [(ap, other) for ap in range(4) for other in range(4, 10)]
    links = tables.links(record)
    on = links["linked"]
    linked = set(zip(*(links[column][on].tolist() for column in ("slot", "ap", "neighbour")), strict=True))
    assert not {(slot, *pair) for slot in range(11, 18) for pair in across} & linked
    assert {(slot, *pair) for slot in range(20, 60) for pair in across} & linked


def test_the_same_plan_gives_the_same_run(tmp_path: Path) -> None:
    plan = {"faults": [fault(5, "kill", "ap/*", share=0.2, every=10, until=40)], "links": [{"loss": 0.1}]}
    digests = set()
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        digests.add(run(tmp_path / str(number), plan).coordinator.record.digest())
    assert len(digests) == 1


@pytest.mark.parametrize("first", range(0, 96, 12))
def test_random_plans_break_nothing(first: int, tmp_path: Path) -> None:
    """A smoke test: `python -m benchmarks.fuzz` tries thousands."""
    findings = [try_seed(seed, tmp_path) for seed in range(first, first + 12)]
    assert {finding.seed: finding.broken for finding in findings if finding.broken} == {}


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*.json")), ids=lambda file: file.stem)
def test_plans_that_once_broke_something_do_so_no_more(file: Path, tmp_path: Path) -> None:
    assert try_kept(file, tmp_path).broken == []


def buggy(ap: int, config: Config) -> Policy:
    """The config's policy, with a bug: AP 4 cannot decide in one slot, AP 7 never from one slot on."""
    policy = make_policy(ap, config)
    decide = policy.act

    def act(view: View) -> int | Iterable[int]:
        if (ap, view.slot) == (4, 22) or (ap == 7 and view.slot >= 30):
            raise ValueError(f"a bug of AP {ap}")
        return decide(view)

    policy.act = act  # type: ignore[method-assign]
    return policy


def test_an_exception_of_an_ap_ends_its_process_but_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    network = LocalNetwork(load("demo", SMALL), policy_of=buggy, folder=tmp_path)
    network.run()
    record = network.coordinator.record
    assert record.reported[:, [ap for ap in range(10) if ap not in {4, 7}]].all()
    assert down(record, 4) == [22, 23, 24]
    assert down(record, 7) == list(range(30, 60))
    assert {"ap": 4, "incarnation": 1, "restored": 20, "slot": 25} in record.comebacks
    assert [restart["ap"] for restart in network.restarts] == [4, 7, 7, 7]  # within the budget
    assert network.given_up == [7]
    assert network.errors[0] == {"ap": 4, "after_slot": 22, "error": "ValueError: a bug of AP 4"}
    assert (tmp_path / ERRORS).read_text().count('raise ValueError(f"a bug of AP {ap}")') == len(network.errors) == 5


def test_an_exception_takes_the_group_of_the_ap_that_raised_it_and_is_laid_to_no_other(tmp_path: Path) -> None:
    config = load("demo", (*SMALL, "run.aps_per_actor=4"))
    of_4, of_7 = (next(group for group in groups_of(config) if ap in group) for ap in (4, 7))
    (tmp_path / "checkpoints").mkdir()
    network = LocalNetwork(config, policy_of=buggy, folder=tmp_path)
    network.run()
    assert of_4 != of_7
    assert network.given_up == [*of_7]
    assert network.coordinator.given_up == {*of_7}
    assert [error["ap"] for error in network.errors] == [4, 7, 7, 7, 7]
    assert [restart["ap"] for restart in network.restarts] == [*of_4, *of_7, *of_7, *of_7]
    assert all(down(network.coordinator.record, ap) == down(network.coordinator.record, 4) for ap in of_4)


def test_the_closing_lines_name_exceptions_and_the_file_of_their_tracebacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cfmimo.experiments.run.make_policy", buggy)
    out = tmp_path / "run"
    assert run_cfmimo(["run", "demo", "--runtime", "local", "--quiet", "--out", str(out), "--set", *SMALL]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "exceptions that ended a process: 5, of AP 4, 7; the last: ValueError: a bug of AP 7 (see errors.log)" in said
    )
    assert "given up: AP 7" in said
    assert (out / ERRORS).is_file()
