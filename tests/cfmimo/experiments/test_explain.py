"""Why an AP decided so: what is said is what the run did, for any AP and slot."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cfmimo
from cfmimo.experiments.explain import explain

SMALL = {"radio": {"num_aps": 9, "num_ues": 5, "area_m": 300.0}, "run": {"episodes": 2, "slots_per_episode": 10}}
POLICIES = {
    "threshold": ("demo", {}),
    "forecast": ("selective", {}),
    "ddqn": ("demo", {"learning": {"batch_size": 4, "epsilon_start": 0.3}}),
    "belief": ("hidden", {"learning": {"evaluate_every_episodes": 0}}),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_said_is_what_the_run_did(policy: str, tmp_path: Path) -> None:
    preset, more = POLICIES[policy]
    config = cfmimo.load(preset, [f"cooperation.policy={policy}"], **SMALL, **more)
    run = cfmimo.run(config, out=tmp_path / "run")
    links, aps, ues = (table.to_pandas() for table in (run.links, run.aps, run.ues))
    rng, explored, asked = np.random.default_rng(0), 0, 0
    for ap, slot in zip(rng.integers(9, size=6).tolist(), rng.integers(20, size=6).tolist(), strict=True):
        told = explain(str(run.path), ap, slot)
        assert told["as_recorded"]
        here = links[(links["ap"] == ap) & (links["slot"] == slot)].set_index("neighbour")
        assert {row["ap"]: row["asked"] for row in told["neighbours"]} == here["asked"].to_dict()
        row = aps[(aps["ap"] == ap) & (aps["slot"] == slot)].iloc[0]
        assert (told["reward"], told["bytes"]) == (row["reward"], row["bytes"])
        for ue in told["ues"]:
            of_ue = ues[(ues["ue"] == ue["ue"]) & (ues["slot"] == slot)].iloc[0]
            assert ue["rate"] == pytest.approx(of_ue["rate_bps_hz"], rel=1e-5)
        explored += bool(told["explored"])
        asked += sum(row["asked"] for row in told["neighbours"])
        if not told["explored"]:
            _check_reasons(told, policy)
    assert asked
    assert (explored > 0) == (policy == "ddqn")


def _check_reasons(told: dict[str, Any], policy: str) -> None:
    """The reasons are the links whose worth is furthest from the least that pays, and the choice follows from worth."""
    rows, least = told["neighbours"], told["asks_above"]
    if policy != "ddqn":  # of subsets, the best one is not the sum of what each neighbour is worth
        for row in rows:
            assert row["asked"] == (row["worth"] >= least if policy == "threshold" else row["worth"] > least)
    furthest = sorted((abs(row["worth"] - least) for row in rows), reverse=True)[:3]
    named = [int(reason.split()[1].rstrip(":")) for reason in told["reasons"]]
    assert sorted((abs(r["worth"] - least) for r in rows if r["ap"] in named), reverse=True) == furthest


def test_it_tells_what_faults_did(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[[faults]]\nslot = 5\ntarget = "ap/2"\naction = "kill"\n')
    run = cfmimo.run(
        cfmimo.load("demo", ["cooperation.policy=always"], **SMALL), out=tmp_path / "run", faults=str(plan)
    )
    with pytest.raises(cfmimo.ConfigError, match="AP 2 took no part in slot 6"):
        explain(str(run.path), 2, 6)
    neighbour = int(run.links.to_pandas().query("ap == 2").iloc[0]["neighbour"])
    told = explain(str(run.path), neighbour, 5)
    assert told["as_recorded"]
    assert {row["ap"]: row["linked"] for row in told["neighbours"]}.get(2) in {False, None}


def test_who_is_not_there_is_refused(tmp_path: Path) -> None:
    run = cfmimo.run(cfmimo.load("demo", **SMALL), out=tmp_path / "run")
    with pytest.raises(cfmimo.ConfigError, match="APs 0 to 8 and slots 0 to 19, not AP 9 and slot 3"):
        explain(str(run.path), 9, 3)
    with pytest.raises(cfmimo.RunDirError, match="no finished run"):
        explain(str(tmp_path), 0, 0)
