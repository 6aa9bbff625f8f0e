"""Agents are evaluated while they learn, without being disturbed, on layouts of which they learn nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apnode.agent.policies import finding_out
from apnode.agent.prospects import LEVEL_NAMES
from apnode.config.cooperation import FINDING_OUT
from apnode.runtime.checkpoint import Checkpoints, encode
from cfmimo.cli.console import Console
from cfmimo.cli.main import run_cfmimo
from cfmimo.errors import ConfigError, Interrupted, RunDirError
from cfmimo.experiments.agents import load_agents
from cfmimo.experiments.contenders import contender, rivals_of_agents
from cfmimo.experiments.evaluation import evaluate, held_out
from cfmimo.experiments.resume import resume
from cfmimo.experiments.run import run
from cfmimo.presets import load
from cfmimo.records.agents_file import AGENTS, read_agents
from cfmimo.records.held_out import HELD_OUT, read_rows
from cfmimo.records.rundir import RunDir
from cfmimo.runtime.local import LocalNetwork
from cfmimo.runtime.request import RunRequest
from channel_server.topology import make_layout
from coordinator.watch import Watch
from tests.cfmimo.interrupting import Interrupting

SHORT = (
    "radio.num_aps=6",
    "radio.num_ues=4",
    "radio.area_m=250",
    "run.episodes=6",
    "run.slots_per_episode=8",
    "run.blocks_per_slot=1",
    "run.checkpoint_every_slots=11",  # at no end of an episode
    "learning.batch_size=4",
    "learning.learning_rate=0.01",
)
EVALUATED = (*SHORT, "learning.evaluate_every_episodes=1")


class Listening(Console):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(None, quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def ran(folder: Path, *settings: str, plan: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """The summary of a run, and what was said."""
    console = Listening()
    result = run(RunRequest(load("demo", settings), folder, "local"), console, ["cfmimo"], plan)
    return result, console.said


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    ran(folder, *EVALUATED)
    return folder


def test_evaluation_changes_nothing_of_the_run_and_keeps_nothing_but_the_best(evaluated: Path, tmp_path: Path) -> None:
    result, _ = ran(tmp_path / "r", *SHORT)
    assert RunDir.open(evaluated).summary()["digest"] == result["digest"]
    assert not (tmp_path / "r" / HELD_OUT).exists()
    assert not (tmp_path / "r" / AGENTS).exists()
    assert {path.suffix for path in (evaluated / "checkpoints").iterdir()} == {".ckpt"}


def test_there_is_a_row_for_every_time_and_the_best_agents_are_kept(evaluated: Path) -> None:
    rows, config = read_rows(evaluated / HELD_OUT)[2:], load("demo", EVALUATED)
    assert [(row["policy"], row["episode"], row["slots"]) for row in rows] == [("ddqn", n, 8 * n) for n in range(1, 7)]
    best = max(rows, key=lambda row: row["sum_rate_bps_hz"])
    kept = read_agents(evaluated / AGENTS)
    assert kept.origin.slots == best["slots"]
    [reached] = evaluate(config, {"ddqn": contender("ddqn")}, kept.weights)
    assert {**reached, "episode": best["episode"], "slots": best["slots"]} == best
    assert load_agents(str(evaluated), config).origin == kept.origin  # and these are who --policy names
    assert len({row["sum_rate_bps_hz"] for row in rows}) > 1


def test_who_is_evaluated_after_two_episodes_is_who_would_have_stopped_then(evaluated: Path, tmp_path: Path) -> None:
    ran(tmp_path / "r", *SHORT, "run.episodes=2")
    stopped = load_agents(str(tmp_path / "r"), load("demo", SHORT))
    row = read_rows(evaluated / HELD_OUT)[3]
    assert evaluate(load("demo", SHORT), {"ddqn": contender("ddqn")}, stopped.weights)[0].items() <= row.items()


def test_beside_the_agents_stand_those_who_learn_nothing_once(evaluated: Path) -> None:
    rows, config = read_rows(evaluated / HELD_OUT)[:2], load("demo", EVALUATED)
    assert [(row["policy"], row["slots"]) for row in rows] == [("never", 0), ("random", 0)]
    assert [row["formed"] > 0 for row in rows] == [False, True]
    assert RunDir.open(evaluated).summary()["held_out"] == read_rows(evaluated / HELD_OUT)
    assert [*rivals_of_agents(config)] == ["never", "random"]
    assert [*rivals_of_agents(load("selective"))] == ["never", "random", "forecast"]
    assert [*rivals_of_agents(load("hidden"))] == ["never", "random", "forecast", "informed"]
    chosen = rivals_of_agents(load("hidden", ["cooperation.serving=forecast"]))
    assert [*chosen][4:] == ["fixed-sets"]
    assert not chosen["fixed-sets"].config(load("hidden", ["cooperation.serving=forecast"])).selects_serving


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_layouts_held_out_have_the_aps_of_the_training_and_users_that_are_never_in_it(seed: int) -> None:
    config = load("demo", SHORT, seed=seed)
    training = [make_layout(config, episode) for episode in range(config.run.episodes)]
    layouts = [make_layout(drop.config, 0) for drop in held_out(config)]
    places = {tuple(layout.ue_xy.ravel()) for layout in (*training, *layouts)}
    assert len(places) == len(training) + len(layouts)
    for layout, drop in zip(layouts, held_out(config), strict=True):
        np.testing.assert_array_equal(layout.ap_xy, training[0].ap_xy)
        assert drop.config.seed % 2 != seed % 2  # so never the same


@pytest.mark.parametrize("slot", [10, 26, 41])
def test_a_resumed_run_has_every_row_once_and_the_same_best(slot: int, evaluated: Path, tmp_path: Path) -> None:
    config, out = load("demo", EVALUATED), tmp_path / "run"
    with pytest.raises(Interrupted):
        run(RunRequest(config, out, "local"), Interrupting(slot), [])
    resume(str(out), None, Watch(), Console(None, quiet=True))
    for name in (HELD_OUT, AGENTS):
        assert (out / name).read_bytes() == (evaluated / name).read_bytes()


def test_what_was_kept_but_not_evaluated_before_an_interruption_is_evaluated_after_it(
    evaluated: Path, tmp_path: Path
) -> None:
    """As on Ray, where the APs do not wait for it."""
    config, out = load("demo", EVALUATED), tmp_path / "run"
    with pytest.raises(Interrupted):
        run(RunRequest(config, out, "local"), Interrupting(41), [])
    assert [row["slots"] for row in read_rows(out / HELD_OUT)] == [8, 16, 24, 32, 40]
    for ap in range(6):  # put back, as if rows 16 and 32 had not been written; of 16 there is no other any more
        for completed in (16, 32):
            (out / f"checkpoints/ap-{ap}.{completed}.kept").write_bytes(checkpoint(tmp_path, ap, completed))
    lines = (out / HELD_OUT).read_text().splitlines(keepends=True)
    (out / HELD_OUT).write_text("".join(line for line in lines if line.split(",")[2] not in {"16", "32"}))
    resume(str(out), None, Watch(), Console(None, quiet=True))
    assert (out / HELD_OUT).read_bytes() == (evaluated / HELD_OUT).read_bytes()
    assert {path.suffix for path in (out / "checkpoints").iterdir()} == {".ckpt"}


def checkpoint(folder: Path, ap: int, completed: int) -> bytes:
    """The file of an AP's last checkpoint in a run that stops there."""
    run_dir = folder / f"until-{completed}"
    if not run_dir.exists():
        (run_dir / "checkpoints").mkdir(parents=True)
        LocalNetwork(load("demo", (*SHORT, f"run.episodes={completed // 8}")), folder=run_dir).run()
    saved = Checkpoints(run_dir / "checkpoints", f"ap-{ap}").load()
    assert saved is not None
    assert saved.completed == completed
    return encode(f"ap-{ap}", saved)


def test_of_an_ap_that_is_down_its_last_checkpoint_counts_and_without_one_a_row_is_left_out(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    disk = '[[faults]]\nslot = 0\ntarget = "ap/1"\naction = "disk_full"\nargs = { slots = 18 }\n'
    plan.write_text(disk + '[[faults]]\nslot = 39\ntarget = "ap/3"\naction = "kill"\n')
    _, said = ran(tmp_path / "r", *EVALUATED, plan=str(plan))
    assert [row["slots"] for row in read_rows(tmp_path / "r" / HELD_OUT)] == [0, 0, 24, 32, 40, 48]
    left_out = [text for text in said if "not evaluated" in text]
    assert [text.split(":")[0] for text in left_out] == [
        f"the agents are not evaluated after {slots} slots" for slots in (8, 16)
    ]
    assert all("no good checkpoint of an agent of AP 1;" in text for text in left_out)


def test_who_learns_nothing_is_not_evaluated(evaluated: Path, tmp_path: Path) -> None:
    ran(tmp_path / "random", *EVALUATED, "run.episodes=1", "cooperation.policy=random")
    with_agents = ["run", "demo", "--runtime", "local", "--quiet", "--policy", str(evaluated)]
    assert run_cfmimo([*with_agents, "--set", *EVALUATED, "run.episodes=1", "--out", str(tmp_path / "trained")]) == 0
    for name in ("random", "trained"):
        assert not (tmp_path / name / HELD_OUT).exists()
        assert {path.suffix for path in (tmp_path / name / "checkpoints").iterdir()} == {".ckpt"}


def test_the_page_shows_what_was_reached(evaluated: Path) -> None:
    assert (evaluated / "figures/held-out.svg").is_file()
    assert "on layouts that they never learn from" in (evaluated / "report.html").read_text()


@pytest.mark.parametrize("policy", FINDING_OUT)
def test_before_an_ap_has_found_out_anything_it_is_the_forecast(policy: str) -> None:
    config = load("hidden", ("radio.num_aps=12", "radio.num_ues=6", "radio.area_m=300", f"cooperation.policy={policy}"))
    learned = [[finding_out(ap, config).learned] for ap in range(12)]
    rows = evaluate(config, {name: contender(name) for name in ("forecast", policy)}, learned)
    assert rows[1] == {**rows[0], "policy": policy}
    assert rows[0]["formed"] > 0


def test_what_agents_believe_of_themselves_is_kept_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("radio.num_aps=8", "radio.num_ues=4", "radio.area_m=250", "run.episodes=2", "run.slots_per_episode=4")
    settings = (*settings, "run.checkpoint_every_slots=4")
    hidden = ["run", "hidden", "--runtime", "local", "--quiet", "--out", str(tmp_path / "r"), "--set", *settings]
    assert run_cfmimo([*hidden, "learning.evaluate_every_episodes=1"]) == 0
    told, folder = capsys.readouterr().out, RunDir.open(tmp_path / "r")
    rows = folder.table("beliefs")
    assert [*zip(rows["slot"], rows["ap"], strict=True)] == [(at, ap) for at in (0, 4) for ap in range(8)]
    saved = [Checkpoints(tmp_path / "r/checkpoints", f"ap-{ap}").newest_until(4) for ap in range(8)]
    after_the_first = [checkpoint.state["policy.own"][0] for checkpoint in saved if checkpoint is not None]
    means = np.stack([rows[name][8:] for name in LEVEL_NAMES], axis=1)
    np.testing.assert_allclose(means, after_the_first, rtol=1e-6)
    assert (tmp_path / "r/figures/beliefs.svg").is_file()
    for name in ("never", "random", "forecast", "informed", "belief, after 8 slots"):
        assert f"│ {name} " in told
    assert "over the forecast that they began with" in " ".join(told.split())


@pytest.mark.parametrize(
    "text", ["episode,slots\n1,8\n", "not a table", "\0", "episode,slots,sum_rate_bps_hz\n1,x,3\n"]
)
def test_a_damaged_table_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / HELD_OUT).write_text(text + "\n1,2,3\n")
    with pytest.raises(RunDirError, match="is damaged"):
        read_rows(tmp_path / HELD_OUT)


def test_a_file_of_channels_has_no_layouts_to_hold_out() -> None:
    with pytest.raises(ConfigError, match="training sees all its layouts"):
        load("demo", (*EVALUATED, "propagation.channel_file=x.npz"))
