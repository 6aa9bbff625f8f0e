"""Real Ray actors on this machine: the same result as in one process, real kills, nothing left behind."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import ray

from apnode.protocol.messages import TAGS, Deadline
from cfmimo.presets import load
from tests.ray.running import (
    QUIET,
    SMALL,
    children,
    client_of,
    fork_server,
    local_record,
    parent,
    started,
    wait_for_slot,
)

pytestmark = pytest.mark.ray

ROWS = ("cooperation.neighbour_sets=row", "cooperation.policy=random", "radio.num_aps=12", "radio.num_ues=6")
SELECTIVE = (
    "cooperation.neighbour_sets=common-ue",
    "cooperation.cluster=serving",
    "precoding.alone=mmse",
    "precoding.joint=selective",
    "precoding.power=average",
)
VARIANTS = {
    "zeromq": ("run.episodes=3",),
    "ray calls": ("run.episodes=3", "run.transport=ray-calls"),
    "asked by strangers": ("run.episodes=3", *ROWS),
    "components": (
        *("run.episodes=3", "cooperation.policy=always"),
        *("cooperation.cluster=components", "cooperation.max_cluster_aps=6"),
    ),
    "selective": ("run.episodes=3", "cooperation.policy=random", *SELECTIVE),
    "late estimates": (
        *("run.episodes=3", "cooperation.policy=random", *SELECTIVE),
        *("propagation.block_ms=4", "cooperation.history_blocks=2"),
        "impairments.fronthaul_blocks=[[0.5, 0], [0.5, 2]]",
    ),
    "agents that share": (
        *("run.episodes=3", *SELECTIVE, "learning.values=neighbours", "learning.share=true"),
        *("reward.gain=absolute", "cooperation.link_price=-1"),
    ),
    "agents that find out": ("run.episodes=3", *SELECTIVE, "cooperation.policy=factor", "cooperation.link_price=-1"),
    "directed": ("run.episodes=3", *ROWS, "cooperation.cluster=directed", "cooperation.acceptance=all"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_actors_give_the_same_digest_as_one_process_and_wait_for_no_deadline(session: str, variant: str) -> None:
    config = load("demo", (*SMALL, *VARIANTS[variant]), seed=3)
    cluster = started(config, session)
    record = cluster.follow(QUIET)
    assert record.digest() == local_record(config).digest()
    assert record.traffic[0, TAGS[Deadline]] == 0
    assert cluster.settle(record) == {"planned": 0, "to_nobody": 0, "unaccounted": 0}
    assert len({process["pid"] for process in cluster.processes}) == config.radio.num_aps
    assert os.getpid() not in {process["pid"] for process in cluster.processes}
    assert {parent(process["pid"]) for process in cluster.processes} == {fork_server(session)}
    assert cluster.restarts == []


@pytest.mark.parametrize("victim", ["its process", "the client that stands for it"])
def test_a_killed_ap_is_restarted_and_rejoins_while_the_others_go_on(session: str, victim: str) -> None:
    config = load("demo", (*SMALL, "run.episodes=60", "run.slot_deadline_s=1.0", "cooperation.policy=random"))
    cluster = started(config, session)
    wait_for_slot(cluster, 10)
    before, killed = children(fork_server(session)), cluster.processes[2]["pid"]
    os.kill(killed if victim == "its process" else client_of(killed), signal.SIGKILL)
    record = cluster.follow(QUIET)
    after = children(fork_server(session))
    assert killed in before - after
    assert len(after - before) == 1  # forked again
    assert [restart["ap"] for restart in cluster.restarts] == [2]
    assert record.closed.all()
    survivors = [ap for ap in range(config.radio.num_aps) if ap != 2]
    assert record.reported[:, survivors].all()
    missed = np.flatnonzero(~record.reported[:, 2])
    assert missed.size > 0
    assert record.reported[missed.max() + 1 :, 2].sum() > 20  # back for good
    assert not record.silent[:, survivors].any()


def test_killing_the_fork_server_changes_nothing_and_a_killed_ap_gets_another(session: str) -> None:
    config = load("demo", (*SMALL, "run.episodes=20", "cooperation.policy=always"), seed=3)
    cluster = started(config, session)
    wait_for_slot(cluster, 5)
    server = fork_server(session)
    os.kill(server, signal.SIGKILL)
    record = cluster.follow(QUIET)
    assert record.digest() == local_record(config).digest()
    assert cluster.restarts == []
    os.kill(cluster.processes[2]["pid"], signal.SIGKILL)
    cluster.processes.clear()
    cluster.start(QUIET)
    (again,) = [process["pid"] for process in cluster.processes if process["ap"] == 2]
    assert parent(again) == fork_server(session) != server


def test_without_a_fork_server_aps_start_plainly(session: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # not this user's alone: not trusted
    config = load("demo", (*SMALL, "run.episodes=1", "cooperation.policy=always"))
    cluster = started(config, str(tmp_path))
    assert cluster.follow(QUIET).digest() == local_record(config).digest()
    assert list(tmp_path.iterdir()) == []


def test_the_coordinator_may_die_without_an_ap_noticing(session: str) -> None:
    config = load("demo", (*SMALL, "run.episodes=20", "cooperation.policy=random"))
    cluster = started(config, session)
    wait_for_slot(cluster, 5)
    ray.kill(cluster.coordinator)
    of_aps = [call for call, address in cluster.running.items() if address.startswith("ap/")]
    of_each = [ap for _, aps in ray.get(of_aps, timeout=120) for ap in aps.values()]
    assert [ap["completed"] for ap in of_each] == [config.num_slots] * 6
