"""Fault plans on real actors: processes are killed and frozen, nodes die, and the run goes on."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from apnode.agent.policies import Policy
from apnode.agent.view import View
from apnode.protocol.messages import TAGS, Deadline, FloatArray, SlotReport
from apnode.protocol.wire import decode
from apnode.runtime.actor import ApActor
from cfmimo.presets import load
from cfmimo.runtime.cluster import Cluster
from cfmimo.runtime.fault_plan import FaultArgs, FaultPlan, Faults, PlannedFault, resolve
from cfmimo.runtime.request import ERRORS
from coordinator import tables
from coordinator.journal import JOURNAL, Journal
from coordinator.record import Record
from coordinator.watch import Watch
from tests.ray.running import QUIET, SMALL, local_record, started

pytestmark = pytest.mark.ray

EVERY = 5  # slots from checkpoint to checkpoint
PACED = (  # so that the seconds that Ray takes to restart a process are a number of slots
    *SMALL,
    "run.slot_s=0.1",
    "run.slot_deadline_s=2.0",
    f"run.checkpoint_every_slots={EVERY}",
    "run.episodes=4",
)


def fault(slot: int, action: str, target: str = "", **options: Any) -> PlannedFault:
    return PlannedFault(slot=slot, action=action, target=target, **options)  # type: ignore[arg-type]


def follow(
    session: str,
    folder: Path,
    *plan: PlannedFault,
    settings: Sequence[str] = (),
    watch: Watch = Watch(),  # noqa: B008
) -> tuple[Cluster, Record, Faults]:
    """A run under a plan, to its end; the faults that fired are those planned."""
    config = load("demo", (*PACED, *settings), seed=3)
    faults = resolve(FaultPlan(faults=plan), config)
    cluster = started(config, session, faults, folder, watch)
    record = cluster.follow(QUIET)
    assert record.closed.all()
    assert faults.not_as_planned(record.fired) == []
    return cluster, record, faults


def late_slots(folder: Path) -> list[int]:
    """Slots in which the channel server reminded somebody of the deadline."""
    reports = [decode(frame, 2**24) for frame in Journal(folder / JOURNAL).frames()]
    return [r.slot for r in reports if isinstance(r, SlotReport) and r.sent[0, TAGS[Deadline]]]


def assert_restored_since(deaths: dict[int, int], record: Record) -> None:
    """Each AP that died, by AP the slot, is back for good with what it knew a checkpoint before."""
    comebacks = {comeback["ap"]: comeback for comeback in record.comebacks}
    assert comebacks.keys() == deaths.keys()
    for ap, died in deaths.items():
        assert died - EVERY - 1 <= comebacks[ap]["restored"] <= died
        missed = np.flatnonzero(~record.reported[:, ap])
        assert missed.min() in {died - 1, died}  # what it said of the slot before may have died with it
        assert missed.max() == missed.min() + len(missed) - 1  # nothing is missed once it is back
    assert record.reported[-1].all()


def test_killed_aps_come_back_with_their_checkpoints_while_the_others_miss_no_slot(
    session: str, tmp_path: Path
) -> None:
    plan = fault(20, "kill", "ap/*", share=0.25, every=20, until=60)
    cluster, record, faults = follow(session, tmp_path, plan, settings=["radio.num_aps=8"])
    deaths = {int(of.node.removeprefix("ap/")): of.slot for of in faults.faults}
    assert len(deaths) == 4
    survivors = [ap for ap in range(8) if ap not in deaths]
    assert record.reported[:, survivors].all()
    assert not record.silent[:, survivors].any()
    assert_restored_since(deaths, record)
    assert sorted(restart["ap"] for restart in cluster.restarts) == sorted(deaths)
    assert set(late_slots(tmp_path)) <= set(deaths.values())  # once per death, then nobody waits for the dead
    assert cluster.given_up == cluster.watchdog == []


def test_the_watchdog_ends_a_frozen_ap_which_delays_the_others_once(session: str, tmp_path: Path) -> None:
    settings = ("run.watchdog_slots=20", "cooperation.policy=always", "run.episodes=6")
    cluster, record, _ = follow(session, tmp_path, fault(20, "hang", "ap/2"), settings=settings)
    assert [ended["ap"] for ended in cluster.watchdog] == [2]
    assert 40 <= cluster.watchdog[0]["after_slot"] + 1 < 60
    survivors = [ap for ap in range(6) if ap != 2]
    assert record.reported[:, survivors].all()
    assert not record.silent[:, survivors].any()
    assert late_slots(tmp_path) == [20]
    assert_restored_since({2: 20}, record)


def test_an_ap_that_fails_to_start_is_back_in_the_end_but_given_up_if_it_does_so_too_often(
    session: str, tmp_path: Path
) -> None:
    a_few_times = fault(10, "crash_on_start", "ap/4", args=FaultArgs(times=2))
    too_often = fault(10, "crash_on_start", "ap/1", args=FaultArgs(times=9))
    cluster, record, _ = follow(session, tmp_path, a_few_times, too_often, settings=["run.episodes=6"])
    assert sorted(restart["ap"] for restart in cluster.restarts) == [1, 1, 1, 4, 4, 4]
    assert cluster.given_up == [1]
    assert not record.reported[10:, 1].any()
    assert record.reported[:, [0, 2, 3, 5]].all()
    assert record.reported[-1, 4]
    assert [comeback["ap"] for comeback in record.comebacks] == [4]


def test_all_aps_may_be_killed_at_once(session: str, tmp_path: Path) -> None:
    cluster, record, _ = follow(session, tmp_path, fault(30, "kill", "ap/*"), settings=["run.episodes=7"])
    assert sorted(restart["ap"] for restart in cluster.restarts) == list(range(6))
    assert record.reported[:29].all()
    assert record.reported[-20:].all()
    assert all(30 - EVERY - 1 <= comeback["restored"] <= 30 for comeback in record.comebacks)


def test_a_death_of_the_coordinator_and_one_of_the_channel_server_change_no_row(session: str, tmp_path: Path) -> None:
    plan = fault(10, "kill_channel_server"), fault(50, "kill_coordinator")
    scalars = tmp_path / "tensorboard"
    cluster, record, _ = follow(session, tmp_path, *plan, settings=["run.episodes=8"], watch=Watch(scalars=scalars))
    assert record.complete
    assert record.digest() == local_record(load("demo", (*PACED, "run.episodes=8"), seed=3)).digest()
    assert cluster.restarts == []
    written = EventAccumulator(str(scalars)).Reload().Scalars("rate/sum_rate_bps_hz")
    assert [event.step for event in written] == list(range(len(written)))
    assert len(written) > 60  # by its successor, too
    assert [event.value for event in written] == pytest.approx(tables.slots(record)["sum_rate_bps_hz"][: len(written)])


def test_a_death_of_the_channel_server_and_of_an_ap_at_once_cost_the_others_no_slot(
    session: str, tmp_path: Path
) -> None:
    plan = fault(20, "kill_channel_server"), fault(18, "kill", "ap/2")  # within 0.2 s
    _, record, _ = follow(session, tmp_path, *plan, settings=["radio.num_aps=12", "radio.area_m=350.0"])
    survivors = [ap for ap in range(12) if ap != 2]
    assert record.reported[:, survivors].all()
    assert not record.silent[:, survivors].any()
    assert record.reported[-1].all()


def test_checkpoints_that_fail_after_the_last_report_of_an_ap_are_counted(session: str, tmp_path: Path) -> None:
    full = fault(11, "disk_full", "ap/*", args=FaultArgs(slots=20))
    cluster, record, _ = follow(session, tmp_path, full, settings=["run.episodes=1"])
    cluster.settle(record)
    assert record.unsaved.tolist() == 6 * [2]  # of slots 15 and 20


NODES_DIE = """
import sys
from pathlib import Path
import ray
from cfmimo.runtime.cluster import Cluster
from cfmimo.runtime.fault_plan import FaultPlan, PlannedFault, resolve
from cfmimo.presets import load
from cfmimo.runtime.session import connected
from cfmimo.runtime.request import RunRequest
from tests.ray.running import QUIET, SMALL, nodes

config = load("demo", [*SMALL, "run.slot_s=0.2", "run.slot_deadline_s=2", "run.checkpoint_every_slots=5",
                       "run.watchdog_slots=1000", "run.episodes=5"])
faults = resolve(FaultPlan(faults=(PlannedFault(slot=20, target="node/0", action="kill_node"),)), config)
with nodes(3, sys.argv[1]) as machines, connected(machines.address, config.radio.num_aps) as fork_folder:
    cluster = Cluster(RunRequest(config, Path(sys.argv[1]), faults=faults), None, fork_folder)
    cluster.start(QUIET)
    cluster.launch()
    record = cluster.follow(QUIET)
    alive = sum(node["Alive"] for node in ray.nodes())
moved = {restart["ap"] for restart in cluster.restarts}
print(alive, len(moved) > 0, record.closed.all(), record.reported[-1].all(), cluster.given_up)
print(all(record.reported[:, ap].all() for ap in range(6) if ap not in moved), faults.not_as_planned(record.fired))
"""
QUICK_HEALTH_CHECKS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


def test_the_aps_of_a_machine_that_dies_go_on_on_another() -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        command = [sys.executable, "-c", NODES_DIE, folder]
        run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **QUICK_HEALTH_CHECKS})
    assert run.stdout.splitlines()[-2:] == ["2 True True True []", "True []"], run.stderr


MACHINES_STOP = """
import signal, sys, time
from pathlib import Path
import ray
from ray.core.generated import autoscaler_pb2
from cfmimo.runtime.cluster import Cluster
from cfmimo.presets import load
from cfmimo.runtime.session import connected
from cfmimo.runtime.request import RunRequest
from tests.ray.running import QUIET, SMALL, nodes

def terminate(machine):
    machine.all_processes["raylet"][0].process.send_signal(signal.SIGTERM)

def drain(machine):
    preempted, soon = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, int(time.time() * 1000) + 1000
    assert ray._raylet.GcsClient(machines.address).drain_node(machine.node_id, preempted, "test", soon)[0]
    time.sleep(1)  # then whoever drains it stops it
    terminate(machine)

def scale_down(machine):
    machines.remove_node(machine, allow_graceful=True)

stops = [terminate, drain, scale_down]
config = load("demo", [*SMALL, "radio.num_aps=8", "run.slot_s=0.2", "run.slot_deadline_s=2",
                       "run.checkpoint_every_slots=5", "run.watchdog_slots=1000", "run.episodes=10"])
with nodes(4, sys.argv[1]) as machines, connected(machines.address, config.radio.num_aps) as fork_folder:
    cluster = Cluster(RunRequest(config, Path(sys.argv[1])), None, fork_folder)
    cluster.start(QUIET)
    cluster.launch()
    moved, workers = [], list(machines.worker_nodes)

    def look(newest):
        if newest >= 20 + 50 * len(moved) and stops:
            moved.append(len(cluster.restarts))
            stops.pop(0)(workers.pop())

    record = cluster.follow(QUIET, look)
    alive = sum(node["Alive"] for node in ray.nodes())
print(alive, moved, cluster.restarts, file=sys.stderr)
print(alive, moved[0] == 0 < len(cluster.restarts), record.closed.all(), record.reported[-1].all(), cluster.given_up)
"""


def test_machines_that_are_stopped_gracefully_lose_no_ap() -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        run = subprocess.run([sys.executable, "-c", MACHINES_STOP, folder], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1:] == ["1 True True True []"], run.stderr


def test_an_exception_of_an_ap_ends_its_process_but_not_the_run(
    session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Buggy(ApActor):  # inside a function, so that Ray takes it along
        """AP 1 cannot decide in one slot, AP 4 never from one slot on."""

        def _make_policies(self, weights: Mapping[int, list[FloatArray]] | None) -> dict[int, Policy]:
            policies = super()._make_policies(weights)
            for ap, policy in policies.items():
                policy.act = self._buggy(ap, policy)  # type: ignore[method-assign]
            return policies

        def _buggy(self, ap: int, policy: Policy) -> Callable[[View], int | Iterable[int]]:
            decide = policy.act

            def act(view: View) -> int | Iterable[int]:
                if (ap, view.slot) == (1, 22) or (ap == 4 and view.slot >= 12):
                    raise ValueError(f"a bug of AP {ap}")
                return decide(view)

            return act

    monkeypatch.setattr("cfmimo.runtime.cluster.ApActor", Buggy)
    cluster, record, _ = follow(session, tmp_path, settings=["run.episodes=6"])
    assert record.reported[:, [0, 2, 3, 5]].all()
    assert [comeback["ap"] for comeback in record.comebacks if comeback["ap"] != 4] == [1]
    assert record.reported[-1, 1]
    assert cluster.given_up == [4]
    assert sorted(restart["ap"] for restart in cluster.restarts) == [1, 4, 4, 4]
    assert [error["error"] for error in cluster.errors if error["ap"] == 1] == ["ValueError: a bug of AP 1"]
    assert (tmp_path / ERRORS).read_text().count("ValueError: a bug of AP 4") == 4
