"""Several APs in one actor: the same run, one process to kill, and a true account of all who died with it."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from apnode.protocol.messages import TAGS, Association, Deadline, Hello
from cfmimo.presets import load
from cfmimo.records.rundir import RunDir
from cfmimo.report.outages import outages
from cfmimo.runtime.fault_plan import FaultPlan, PlannedFault, resolve
from cfmimo.runtime.groups import groups_of
from tests.ray.running import QUIET, SMALL, local_record, started, wait_for_slot
from tests.ray.test_faults import EVERY, PACED, assert_restored_since
from tests.ray.test_resume import assert_resumed_as_if_never_stopped, interrupted

pytestmark = pytest.mark.ray

SERVING = (
    *("cooperation.neighbour_sets=common-ue", "cooperation.cluster=serving", "cooperation.policy=random"),
    *("precoding.joint=selective", "reward.scope=neighbourhood"),
)
VARIANTS = {
    "agents, a process each": ("run.aps_per_actor=1", "learning.batch_size=8"),
    "agents, in threes": ("run.aps_per_actor=3", "learning.batch_size=8"),
    "agents, all in one": ("run.aps_per_actor=7", "learning.batch_size=8"),
    "agents, in threes, by Ray calls": ("run.aps_per_actor=3", "run.transport=ray-calls", "learning.batch_size=8"),
    "clusters, in pairs": ("run.aps_per_actor=2", *SERVING),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_aps_that_share_actors_give_the_digest_of_one_process(session: str, variant: str) -> None:
    config = load("demo", (*SMALL, "radio.num_aps=7", "run.episodes=3", *VARIANTS[variant]), seed=3)
    cluster = started(config, session)
    record = cluster.follow(QUIET)
    local = local_record(config)
    assert record.digest() == local.digest()
    assert record.traffic[0, TAGS[Deadline]] == 0
    with_endpoints = [TAGS[Hello], TAGS[Association]]  # which are longer than in one process
    sent, in_local = (np.delete(of.traffic, with_endpoints, axis=1) for of in (record, local))
    np.testing.assert_array_equal(sent, in_local)  # messages and bytes, wherever the receiver was
    assert cluster.settle(record) == {"planned": 0, "to_nobody": 0, "unaccounted": 0}
    together: dict[int, list[int]] = {}
    for process in cluster.processes:
        together.setdefault(process["pid"], []).append(process["ap"])
    assert sorted(map(tuple, together.values())) == groups_of(config)
    assert os.getpid() not in together


def test_a_kill_of_one_ap_takes_its_group_which_is_back_and_accounted_for_to_the_last_ap(
    session: str, tmp_path: Path
) -> None:
    config = load("demo", (*PACED, "run.aps_per_actor=3", "run.episodes=6"), seed=3)
    first, other = groups_of(config)
    plan = (
        PlannedFault(slot=20, target=f"ap/{first[1]}", action="kill"),
        PlannedFault(slot=70, target=f"ap/{first[0]}", action="kill"),  # the two are one death
        PlannedFault(slot=70, target=f"ap/{first[2]}", action="kill"),
    )
    faults = resolve(FaultPlan(faults=plan), config)
    cluster = started(config, session, faults, tmp_path)
    record = cluster.follow(QUIET)
    assert record.closed.all()
    assert faults.not_as_planned(record.fired) == []
    assert sorted(restart["ap"] for restart in cluster.restarts) == sorted(2 * first)
    assert record.reported[:, other].all()
    assert not record.silent[:, other].any()
    assert record.reported[-1].all()
    comebacks = {(comeback["ap"], comeback["incarnation"]): comeback for comeback in record.comebacks}
    assert comebacks.keys() == {(ap, life) for ap in first for life in (1, 2)}
    for (_, life), comeback in comebacks.items():
        died = (20, 70)[life - 1]
        assert died - EVERY - 1 <= comeback["restored"] <= died
    struck = {"fired": record.fired, "comebacks": record.comebacks, "given_up": [], "watchdog": []}
    deaths = outages(struck, record.reported & ~record.silent)
    assert [death.ap for death in deaths] == [*first, *first]
    assert sum(death.action == "kill" for death in deaths) == 3  # the others died with them


def test_a_frozen_group_is_ended_by_the_watchdog(session: str, tmp_path: Path) -> None:
    config = load("demo", (*PACED, "run.aps_per_actor=3", "run.watchdog_slots=20", "run.episodes=5"), seed=3)
    first, other = groups_of(config)
    cluster = started(config, session, folder=tmp_path)
    wait_for_slot(cluster, 10)
    pid = next(process["pid"] for process in cluster.processes if process["ap"] == first[0])
    os.kill(pid, signal.SIGSTOP)
    record = cluster.follow(QUIET)
    assert tuple(ended["ap"] for ended in cluster.watchdog) == first
    assert tuple(restart["ap"] for restart in cluster.restarts) == first
    assert record.reported[:, other].all()
    died = int(np.flatnonzero(~record.reported[:, first[0]]).min())
    assert_restored_since(dict.fromkeys(first, died), record)


def test_a_run_with_groups_says_so_and_can_be_resumed(tmp_path: Path) -> None:
    run, _ = interrupted(tmp_path / "run", signal.SIGKILL, "run.aps_per_actor=4")
    run.wait(timeout=20)
    assert_resumed_as_if_never_stopped(tmp_path / "run")
    summary = RunDir.open(tmp_path / "run").summary()
    assert summary["ap_processes"] == 2
    assert len(summary["processes"]) == 6
