"""Agents that learned in an earlier run, on real actors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cfmimo.experiments.agents import train, trained
from cfmimo.experiments.explain import explain
from cfmimo.presets import load
from cfmimo.records.agents_file import AGENTS
from cfmimo.records.held_out import HELD_OUT, read_rows
from cfmimo.records.rundir import RunDir
from cfmimo.runtime.cluster import Cluster
from cfmimo.runtime.fault_plan import FaultPlan, PlannedFault, resolve
from cfmimo.runtime.local import LocalNetwork
from cfmimo.runtime.request import RunRequest
from tests.ray.running import QUIET, SMALL

pytestmark = pytest.mark.ray

LARGE = "learning.hidden=[512, 512]"  # more than Ray keeps of what an actor is made with
PACED = (*SMALL, LARGE, "run.slot_s=0.1", "run.slot_deadline_s=2", "run.checkpoint_every_slots=5", "run.episodes=6")


def test_trained_agents_decide_as_in_one_process_also_in_an_actor_that_was_killed(session: str, tmp_path: Path) -> None:
    agents = train(load("demo", (*SMALL, LARGE, "run.episodes=2")))[1][:4]  # fewer than APs
    config, died = load("demo", PACED, seed=3), 30
    faults = resolve(FaultPlan(faults=(PlannedFault(slot=died, target="ap/5", action="kill"),)), config)
    cluster = Cluster(RunRequest(config, tmp_path, faults=faults, agents=agents), "127.0.0.1", session)
    cluster.start(QUIET)
    cluster.launch()
    record = cluster.follow(QUIET)
    local = LocalNetwork(config, policy_of=trained(agents))
    local.run()
    asked = local.coordinator.record.requested[:died]
    assert asked.any()
    np.testing.assert_array_equal(record.requested[:died], asked)
    assert [(back["ap"], back["restored"]) for back in record.comebacks] == [(5, died)]
    assert record.requested[-15:, 5].any()
    assert not record.floats[:, :, 2:].any()  # no loss, no exploring: nobody learns, he who is back as little


def test_agents_are_evaluated_on_ray_as_in_one_process_while_nobody_waits_for_it(tmp_path: Path) -> None:
    settings = (*SMALL, "run.episodes=5", "learning.evaluate_every_episodes=1", "learning.batch_size=4")
    for runtime in ("ray", "local"):
        command = [sys.executable, "-m", "cfmimo", "run", "demo", "--quiet", "--runtime", runtime]
        subprocess.run([*command, "--out", str(tmp_path / runtime), "--set", *settings], check=True, timeout=120)
    for name in (HELD_OUT, AGENTS):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert len(read_rows(tmp_path / "ray" / HELD_OUT)) == 2 + 5
    digests = {RunDir.open(tmp_path / runtime).summary()["digest"] for runtime in ("ray", "local")}
    assert len(digests) == 1


def test_a_policy_in_a_file_of_ones_own_decides_in_every_actor_as_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "class Mine:\n    def act(self, view):\n        return [n for n in view.neighbours if n % 2]\n"
    (tmp_path / "mine.py").write_text(code)
    settings = [*SMALL, "run.episodes=1", "cooperation.policy=mine:Mine"]
    command = [str(Path(sys.executable).with_name("cfmimo")), "run", "demo", "--quiet", "--out"]  # not in sys.path
    ways = {"local": ["--runtime", "local"], "1": [], "3": []}
    for name, options in ways.items():
        each = f"run.aps_per_actor={name if name.isdigit() else 1}"
        subprocess.run([*command, name, *options, "--set", *settings, each], cwd=tmp_path, check=True, timeout=120)
        assert (tmp_path / name / "code" / "mine.py").read_text() == code
    found = {name: RunDir.open(tmp_path / name).summary() for name in ways}
    assert len({summary["digest"] for summary in found.values()}) == 1
    assert [found[name]["ap_processes"] for name in ("1", "3")] == [6, 2]
    assert found["1"]["links"]["requests"] > 0
    monkeypatch.chdir(tmp_path)
    told = explain("1", 2, 7)
    assert told["as_recorded"]
    assert [row["asked"] for row in told["neighbours"]] == [row["ap"] % 2 == 1 for row in told["neighbours"]]
