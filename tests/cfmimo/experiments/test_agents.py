"""Agents of an earlier run decide in another one as they had learned to, wherever they fit, and learn no more."""

import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from apnode.agent.policies import Ddqn
from apnode.agent.streams import Watcher
from apnode.config import Config
from apnode.config.cooperation import FINDING_OUT
from apnode.protocol.state import part
from apnode.runtime.checkpoint import Checkpoints
from cfmimo.cli.console import Console
from cfmimo.cli.main import run_cfmimo
from cfmimo.errors import ConfigError, Interrupted
from cfmimo.experiments.agents import load_agents, train, trained, where_they_learned
from cfmimo.experiments.compare import compare
from cfmimo.experiments.resume import resume
from cfmimo.experiments.run import run
from cfmimo.presets import load
from cfmimo.records.agents_file import AGENTS, read_agents, write_agents
from cfmimo.runtime.local import LocalNetwork
from cfmimo.runtime.request import RunRequest
from coordinator.record import Record
from coordinator.watch import Watch
from tests.cfmimo.interrupting import Interrupting

SHORT = ("run.episodes=3", "run.slots_per_episode=8", "run.blocks_per_slot=1", "learning.batch_size=4")
RUN = ("run", "demo", "--runtime", "local", "--json", "--set", *SHORT)


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run in which 20 APs learn."""
    folder = tmp_path_factory.mktemp("school") / "run"
    assert run_cfmimo([*RUN, "--out", str(folder)]) == 0
    return folder


def record_of(config: Config, **options: Any) -> Record:
    network = LocalNetwork(config, **options)
    network.run()
    return network.coordinator.record


def greedy(school: Path, config: Config) -> Record:
    """What the networks in the checkpoints do in agents that could learn, but neither explore nor ever update."""
    still = {"epsilon_start": 0.0, "epsilon_end": 0.0, "batch_size": 10**6, "replay_capacity": 10**6}
    config = config.model_copy(update={"learning": config.learning.model_copy(update=still)})

    def restored(ap: int, known: Config) -> Ddqn:
        saved = Checkpoints(school / "checkpoints", f"ap-{ap}").load()
        assert saved is not None
        policy = Ddqn(ap, known)
        policy.network.restore(part(saved.state, "policy.network"))
        return policy

    return record_of(config, policy_of=restored)


def refusal(folder: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_agents(str(folder), load("demo", (*SHORT, *overrides)))
    return str(caught.value)


# --- what they do -----------------------------------------------------------------------------------------


def test_a_run_with_trained_agents_does_what_their_weights_say_and_tells_whose_they_are(
    school: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "r"
    assert run_cfmimo([*RUN, "--seed", "5", "--policy", str(school), "--out", str(folder)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["digest"] == greedy(school, load("demo", SHORT, seed=5)).digest()
    aps = pq.read_table(folder / "aps.parquet").to_pydict()
    assert set(aps["epsilon"]) == set(aps["loss"]) == {0}
    assert sum(aps["requests"]) > 0
    told = {"from": str(school), "number": 20, "seed": 0, "ap_seed": 0, "slots": 24}
    assert json.loads((folder / "manifest.json").read_text())["agents"] == result["agents"] == told
    again = load_agents(str(folder), load("demo", SHORT))  # it can be named in its turn
    assert same(again.weights, load_agents(str(school), load("demo", SHORT)).weights)


@pytest.mark.parametrize("num_aps", [10, 40])
def test_agents_of_20_aps_decide_in_networks_of_other_sizes(school: Path, num_aps: int) -> None:
    config = load("demo", (*SHORT, f"radio.num_aps={num_aps}"))
    agents = load_agents(str(school), config).weights
    record = record_of(config, policy_of=trained(agents))
    assert record.complete
    again = record_of(config, policy_of=trained([agents[ap % 20] for ap in range(num_aps)]))
    assert record.digest() == again.digest()
    assert record.digest() != record_of(config, policy_of=trained(agents[:1])).digest()


def test_an_interrupted_run_goes_on_with_the_same_agents_when_the_run_that_trained_them_is_gone(
    school: Path, tmp_path: Path
) -> None:
    config, elsewhere, out = load("demo", (*SHORT, "run.checkpoint_every_slots=8")), tmp_path / "copy", tmp_path / "run"
    shutil.copytree(school, elsewhere)
    with pytest.raises(Interrupted):
        run(RunRequest(config, out, "local"), Interrupting(13), [], policy=str(elsewhere))
    shutil.rmtree(elsewhere)
    result = resume(str(out), None, Watch(), Console(None, quiet=True))
    assert result["digest"] == greedy(school, config).digest()


def test_a_comparison_takes_trained_agents_instead_of_training_in_the_places_where_they_learned(
    school: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--layouts", "2", "--slots", "1", "--links", "5", "--json", "--seed", "7", "--set", *SHORT)
    command = ["compare", "demo", "--policy", str(school), "--policies", "random,ddqn", *options]
    assert run_cfmimo([*command, "--out", str(tmp_path / "c")]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    config = load(str(tmp_path / "c/config.toml"))
    assert config == load("demo", (*SHORT, "radio.ap_seed=0"), seed=7)
    agents = load_agents(str(school), config).weights
    assert rows == compare(config, ["random", "ddqn"], 2, [5], slots=1, agents=agents)
    assert rows[-1]["policy"] == "ddqn"
    assert json.loads((tmp_path / "c/manifest.json").read_text())["agents"]["from"] == str(school)


def test_agents_of_another_number_of_aps_are_compared_on_layouts_of_other_places(school: Path) -> None:
    config = load("demo", (*SHORT, "radio.num_aps=10"))
    agents = load_agents(str(school), config)
    assert where_they_learned(config, agents, layouts=3) == config
    (row,) = compare(config, ["ddqn"], 2, [], slots=1, agents=agents.weights)
    (same_places,) = compare(config, ["ddqn"], 2, [], slots=1, agents=agents.weights[:10])
    assert row["links"]["requests"] > 0
    assert row["sum_rate_bps_hz"] != same_places["sum_rate_bps_hz"]


# --- who is refused ---------------------------------------------------------------------------------------


def test_agents_that_do_not_fit_are_refused_naming_what_differs(school: Path) -> None:
    assert "they need cooperation.max_neighbours = 4 (here 3)" in refusal(school, "cooperation.max_neighbours=3")
    assert "learning.observed_ues = 8 (here 6)" in refusal(school, "learning.observed_ues=6")
    assert "learning.hidden = [128, 64, 32] (here [16])" in refusal(school, "learning.hidden=[16]")
    assert "cooperation.policy = ddqn (here always)" in refusal(school, "cooperation.policy=always")


def test_a_folder_without_trained_agents_is_refused(tmp_path: Path) -> None:
    assert "holds no run" in refusal(tmp_path)
    (tmp_path / "config.toml").write_text('cooperation.policy = "random"\n')
    assert 'has trained nobody: its policy is "random"' in refusal(tmp_path)
    (tmp_path / "config.toml").write_text("radio.num_aps = 3\n")
    assert "holds no good checkpoint of an agent of AP 0 and 2 others" in refusal(tmp_path)


def test_a_damaged_file_of_agents_is_refused(school: Path, tmp_path: Path) -> None:
    path = tmp_path / AGENTS
    agents = load_agents(str(school), load("demo", SHORT))
    write_agents(path, agents)
    assert same(read_agents(path).weights, agents.weights)
    assert read_agents(path).origin == agents.origin
    with np.load(path) as file:  # by anybody else
        np.testing.assert_array_equal(file["3.0"], agents.weights[3][0])
    content = path.read_bytes()
    for at in np.random.default_rng(0).integers(len(content), size=20):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(ConfigError, match="is damaged"):
            read_agents(path)
    for part_of_it in (b"", content[:10], content[:-1], content + b"\0"):
        path.write_bytes(part_of_it)
        with pytest.raises(ConfigError, match="is damaged"):
            read_agents(path)


def forged(path: Path, origin: str, arrays: dict[str, Any]) -> None:
    """A file whose digest is right, by somebody who knows how it is made."""
    content = io.BytesIO()
    np.savez(content, **{"origin": np.array(origin), **arrays})
    path.write_bytes(content.getvalue() + hashlib.sha256(content.getvalue()).digest())


ORIGIN = '{"seed": 0, "ap_seed": 0, "slots": 24}'


@pytest.mark.parametrize(
    ("origin", "changes", "complaint"),
    [
        (ORIGIN, {"7.0": np.full((128, 20), np.nan, np.float32)}, "agent 7 .* NaN"),
        (ORIGIN, {"7.0": np.full((128, 20), 1e38, np.float32)}, "agent 7 .* above 1e"),
        (ORIGIN, {"7.0": np.zeros((127, 20), np.float32)}, "agent 7 .* does not fit"),
        (ORIGIN, {"7.0": np.zeros((128, 20))}, "'7.0' of type float64 is out of place"),
        (ORIGIN, {"7.0": np.array(["a"])}, "'7.0' of type <U1 is out of place"),
        (ORIGIN, {"7.1": None}, "'7.2' .* is out of place"),
        (ORIGIN, {"99999999999.0": np.zeros(3, np.float32)}, "'99999999999.0' .* is out of place"),
        (ORIGIN, {"x": np.zeros(3, np.float32)}, "'x' .* is out of place"),
        (ORIGIN, {f"{ap}.{layer}": None for ap in range(20) for layer in range(8)}, "it holds none"),
        ("x", {}, "where they come from is not said"),
        ('{"seed": -1, "ap_seed": 0, "slots": 24}', {}, "where they come from is not said"),
        ('{"seed": "0", "ap_seed": 0, "slots": 24}', {}, "where they come from is not said"),
    ],
)
def test_a_forged_file_of_agents_is_refused_in_a_sentence(
    school: Path, tmp_path: Path, origin: str, changes: dict[str, Any], complaint: str
) -> None:
    agents = load_agents(str(school), load("demo", SHORT))
    arrays = {
        f"{ap}.{n}": layer.astype(np.float32)
        for ap, layers in enumerate(agents.weights)
        for n, layer in enumerate(layers)
    } | changes
    shutil.copy(school / "config.toml", tmp_path)
    forged(tmp_path / AGENTS, origin, {name: array for name, array in arrays.items() if array is not None})
    assert re.search(complaint, refusal(tmp_path))


def test_a_file_of_agents_that_would_unpack_to_more_than_it_is_is_refused(school: Path, tmp_path: Path) -> None:
    shutil.copy(school / "config.toml", tmp_path)
    content = io.BytesIO()
    np.savez_compressed(content, **{"origin": np.array(ORIGIN), "0.0": np.zeros((4000, 4000), np.float32)})
    (tmp_path / AGENTS).write_bytes(content.getvalue() + hashlib.sha256(content.getvalue()).digest())
    assert "it is compressed" in refusal(tmp_path)


def test_a_comparison_on_layouts_that_the_agents_have_seen_is_refused(school: Path) -> None:
    config = load("demo", SHORT, seed=4)
    agents = load_agents(str(school), config)
    seen = replace(agents, origin=replace(agents.origin, seed=6))
    with pytest.raises(ConfigError, match="learned with seed 6, and the layouts have the seeds from 5 to 6"):
        where_they_learned(config, seen, layouts=2)
    assert where_they_learned(config, seen, layouts=1).radio.ap_seed == 0


def test_agents_that_are_not_to_be_compared_are_refused(
    school: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", "demo", "--policy", str(school), "--policies", "random", "--out", str(tmp_path / "c")]
    assert run_cfmimo(command) == 2
    assert "--policy names agents for policy ddqn" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


# --- agents that find out about APs ------------------------------------------------------------

FINDING = (
    *("radio.num_aps=12", "radio.num_ues=6", "radio.area_m=350", "run.slots_per_episode=4", "run.episodes=2"),
    *("cooperation.link_price=-0.5", "impairments.calibration_error=[[0.5, 0.0], [0.5, 0.9]]"),
)


@pytest.fixture(scope="module", params=FINDING_OUT)
def found_out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A policy, and the directory of a run in which 12 APs have found out about themselves by it."""
    policy, folder = request.param, tmp_path_factory.mktemp(request.param) / "run"
    options = ("--runtime", "local", "--quiet", "--out", str(folder), "--set", *FINDING, f"cooperation.policy={policy}")
    assert run_cfmimo(["run", "selective", *options]) == 0
    return policy, folder


def test_what_aps_have_found_out_is_taken_to_a_comparison_and_to_another_run(
    found_out: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, folder = found_out
    settings = (*FINDING, f"cooperation.policy={policy}")
    config = load("selective", settings)
    agents = load_agents(str(folder), config)
    network = LocalNetwork(config)
    network.run()
    for ap, (learned,) in zip(network.aps, agents.weights, strict=True):
        assert isinstance(ap.policy, Watcher)
        np.testing.assert_array_equal(learned, ap.policy.learned.astype(np.float32))
    options = ("--layouts", "2", "--slots", "1", "--links", "8", "--json", "--seed", "7", "--set", *FINDING)
    command = ["compare", "selective", "--policy", str(folder), "--policies", f"forecast,{policy}", *options]
    assert run_cfmimo([*command, "--out", str(tmp_path / "c")]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    here = load("selective", (*settings, "radio.ap_seed=0"), seed=7)
    assert rows == compare(here, ["forecast", policy], 2, [8], slots=1, agents=agents.weights)
    assert [row["policy"] for row in rows] == ["forecast", policy]
    assert rows[0]["sum_rate_bps_hz"] != rows[1]["sum_rate_bps_hz"]
    again = ("--runtime", "local", "--json", "--seed", "5", "--out", str(tmp_path / "r"), "--set", *settings)
    assert run_cfmimo(["run", "selective", "--policy", str(folder), *again]) == 0
    digest = json.loads(capsys.readouterr().out)["digest"]
    assert digest == record_of(load("selective", settings, seed=5), policy_of=trained(agents.weights)).digest()
    for ap, (learned,) in enumerate(agents.weights):
        saved = Checkpoints(tmp_path / "r/checkpoints", f"ap-{ap}").load()
        assert saved is not None
        np.testing.assert_array_equal(saved.state["policy.own"], learned)  # it learns no more


def test_what_is_found_out_for_the_comparison_is_that_of_a_run(found_out: tuple[str, Path]) -> None:
    policy, folder = found_out
    config = load("selective", (*FINDING, f"cooperation.policy={policy}"))
    _, weights = train(config)
    assert same(weights, load_agents(str(folder), config).weights)


def test_agents_of_two_kinds_are_not_compared_at_once(
    found_out: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, folder = found_out
    command = ["compare", "selective", "--policy", str(folder), "--policies", f"ddqn,{policy}"]
    assert run_cfmimo([*command, "--out", str(tmp_path / "c"), "--set", *FINDING]) == 2
    assert f"cannot compare agents of 2 kinds at once: choose ddqn or {policy}" in capsys.readouterr().err
