"""The commands as a person types them: results, refusals, and what is left on disk."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest

from apnode.config import Config
from cfmimo.cli.main import run_cfmimo
from cfmimo.presets import load, preset_names
from cfmimo.runtime.fault_plan import load_plan, resolve
from cfmimo.runtime.local import LocalNetwork

SMALL = ("--set", "radio.num_aps=5", "radio.num_ues=3", "run.episodes=2", "run.slots_per_episode=20")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run_cfmimo([*arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_run_leaves_a_complete_run_directory(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "run", "demo", "--runtime", "local", *SMALL, "--out", "r")
    names = {str(path.relative_to(here / "r")) for path in (here / "r").rglob("*") if path.is_file()}
    drawn = ("rate", "sinr", "links", "learning", "map-slot0", "map-slot39")
    figures = {f"figures/{name}.{form}" for name in drawn for form in ("svg", "pdf", "png")}
    tables = {"slots.parquet", "aps.parquet", "ues.parquet", "links.parquet"}
    checkpoints = {f"checkpoints/ap-{ap}.a.ckpt" for ap in range(5)}  # of the run's end
    pages = {"config.toml", "manifest.json", "summary.json", "faults.json", "report.html"}
    assert names == pages | tables | figures | checkpoints
    assert pq.read_table("r/aps.parquet").num_rows == 5 * 40
    assert pq.read_table("r/ues.parquet").num_rows == 3 * 40
    assert pq.read_table("r/slots.parquet").num_rows == 40
    assert json.loads((here / "r/summary.json").read_text())["digest"] == result["digest"]
    again = load("r/config.toml")
    assert again == load("demo", SMALL[1:])


@pytest.mark.parametrize("preset", ["demo", "paper-directed"])
def test_links_add_up_to_what_the_slots_and_the_aps_say(
    preset: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--set", "cooperation.policy=random", "radio.num_aps=9", "run.episodes=2")
    run_json(capsys, "run", preset, "--runtime", "local", *settings, "--out", "r")
    slots, aps, links = (pq.read_table(f"r/{name}.parquet").to_pydict() for name in ("slots", "aps", "links"))
    rows = list(zip(links["slot"], links["ap"], links["neighbour"], links["asked"], links["linked"], strict=True))
    assert len(set(zip(links["slot"], links["ap"], links["neighbour"], strict=True))) == len(rows)
    for slot in slots["slot"]:
        linked = {(ap, other) for at, ap, other, _, is_linked in rows if at == slot and is_linked}
        both_ends = {(ap, other) for ap, other in linked if (other, ap) in linked}
        pairs = {frozenset(link) for link in (linked if preset == "paper-directed" else both_ends)}
        assert slots["formed"][slot] == len(pairs)
        assert slots["requests"][slot] == sum(asked for at, *_, asked, _ in rows if at == slot)
        assert slots["candidates"][slot] == sum(at == slot for at, *_ in rows)
    assert sum(aps["partners"]) == sum(links["linked"])
    assert sum(slots["formed"]) > 0


def test_run_prints_the_promised_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "run", "demo", "--runtime", "local", *SMALL)
    promised = {
        "run_dir", "digest", "slots", "slots_per_second", "sum_rate_bps_hz", "sinr_mean_db", "sinr_p5_db", "links",
        "request_rate", "messages_per_slot", "bytes_per_slot", "ap_processes", "no_cooperation",
    }  # fmt: skip
    assert promised <= result.keys()
    assert set(result["links"]) == {"requests", "formed", "pairs"}
    assert result["no_cooperation"]["messages_per_slot"] == 0
    assert result["sum_rate_bps_hz"] > result["no_cooperation"]["sum_rate_bps_hz"]
    assert Path(result["run_dir"]).is_dir()


def test_the_closing_table_names_what_was_brought_and_what_it_cost(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cfmimo(["run", "demo", "--runtime", "local", "--quiet", *SMALL, "--out", "r"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for text in (
        "sum rate [bit/s/Hz]",
        "5 %-UE SINR [dB]",
        "undirected links formed",
        "AP-to-AP bytes",
        "no cooperation",
    ):
        assert text in shown.out


def test_the_closing_lines_say_how_many_updates_were_skipped(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("learning.batch_size=4", "learning.learning_rate=1e12", "run.blocks_per_slot=1")
    assert run_cfmimo(["run", "demo", "--runtime", "local", "--quiet", *SMALL, *settings, "--out", "r"]) == 0
    losses = np.array(pq.read_table("r/aps.parquet")["loss"])
    assert (losses == -1).any()
    assert (losses > 0).any()
    skipped = json.loads((here / "r/summary.json").read_text())["updates_skipped"]
    assert skipped == (losses == -1).sum()
    assert f"{skipped} updates of agents were skipped" in capsys.readouterr().out


def test_the_closing_lines_of_a_run_with_faults_say_what_they_cost(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "plan.toml").write_text('[[faults]]\nslot = 25\ntarget = "ap/1-2"\naction = "kill"\n')
    run = ["run", "demo", "--runtime", "local", "--quiet", *SMALL, "--faults", "plan.toml", "--out", "r"]
    assert run_cfmimo(run) == 0
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "2 of 2 faults fired; 2 deaths of APs, 0 restored; a death cost 3 slots, at most 3; sum rate with" in shown
    assert "timing" not in shown  # but on the plan
    costs = json.loads((here / "r/summary.json").read_text())["faults"]
    assert (costs["fired"], costs["deaths"], costs["ap_slots_not_ok"]) == ({"kill": 2}, 2, 6)


def test_the_closing_lines_tell_planned_losses_from_frames_to_nobody_and_from_those_unaccounted_for(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = '[[links]]\nloss = 0.2\n[[faults]]\nslot = 9\ntarget = "ap/1"\naction = "kill"\nargs = {slots = 5}\n'
    (here / "plan.toml").write_text(plan)
    run = ["run", "demo", "--runtime", "local", "--quiet", *SMALL, "--out", "r"]
    assert run_cfmimo([*run, "--faults", "plan.toml"]) == 0
    lost = json.loads((here / "r/summary.json").read_text())["frames_lost"]
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        f"1 APs restarted; frames lost as planned: {lost['planned']}, sent to nobody: {lost['to_nobody']}, "
        f"unaccounted for: {lost['unaccounted']}" in shown
    )
    config = load("demo", SMALL[1:])
    (here / "again/checkpoints").mkdir(parents=True)
    network = LocalNetwork(config, faults=resolve(load_plan("plan.toml"), config), folder=here / "again")
    network.run()
    to_the_dead = sum(count for (_, to), count in network.ledger.unknown.items() if to == "ap/1")
    assert lost["planned"] == network.ledger.lost.total() > 50
    assert lost["unaccounted"] >= to_the_dead > 0


@pytest.mark.parametrize("preset", preset_names())
def test_a_printed_config_reads_back_as_the_preset(preset: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cfmimo(["config", preset]) == 0
    (here / "my.toml").write_text(capsys.readouterr().out)
    assert load("my.toml") == load(preset)
    assert set(tomllib.loads((here / "my.toml").read_text())) == set(Config.model_fields)


def test_a_printed_config_lists_the_values_that_a_setting_may_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cfmimo(["config", "demo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    for name, section in Config():
        for key, field in type(section).model_fields.items() if name != "seed" else ():
            at = next(number for number, line in enumerate(lines) if line.startswith(f"{key} = "))
            above = takewhile(lambda line: line.startswith("# "), reversed(lines[:at]))
            comment = " ".join([*(line.removeprefix("# ") for line in reversed([*above])), lines[at]])
            assert " | ".join(f'"{value}"' for value in get_args(field.annotation) if isinstance(value, str)) in comment
            assert str(field.description) in comment


def test_a_reader_of_the_output_that_goes_away_gets_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "cfmimo", "schema"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "cfmimo: not all output was read: its reader closed the pipe\n")


def test_a_report_that_cannot_be_written_gets_a_sentence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ("--set", "radio.num_aps=2", "radio.num_ues=2", "run.episodes=1", "run.slots_per_episode=2")
    assert run_cfmimo(["run", "demo", "--runtime", "local", "--quiet", *short, "--out", "r"]) == 0
    shutil.rmtree("r/figures")
    Path("r/figures").touch()
    capsys.readouterr()
    assert run_cfmimo(["report", "r"]) == 1
    assert capsys.readouterr().err == "cfmimo: cannot read or write r/figures: File exists\n"


def test_presets_and_schema_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cfmimo(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == preset_names()
    assert lines[2 * preset_names().index("selective") + 1].startswith("    The best layer: ")
    assert run_cfmimo(["schema"]) == 0
    assert "radio" in json.loads(capsys.readouterr().out)["properties"]


BAD = {
    "unknown preset": (["run", "nope"], "no preset 'nope'; there are calibration, demo"),
    "preset like another": (["run", "papr"], "; did you mean paper?"),
    "key like another": (["run", "demo", "--set", "radio.num_apps=3"], "not a setting; did you mean radio.num_aps?"),
    "key of another section": (["run", "demo", "--set", "radio.discount=0"], "; did you mean learning.discount?"),
    "key without its section": (["run", "demo", "--set", "dicsount=0"], "; did you mean learning.discount?"),
    "section like another": (["run", "demo", "--set", "lerning.discount=0"], "; did you mean learning?"),
    "key like none": (["run", "demo", "--set", "xyzzy=3"], "xyzzy is not a setting; `cfmimo schema` lists"),
    "value like another": (["run", "demo", "--set", "cooperation.cluster=egos"], "(got 'egos'); did you mean ego?"),
    "policy like another": (["compare", "demo", "--policies", "never,local-mse"], "; did you mean local-mmse?"),
    "plan like another": (["run", "demo", "--faults", "chrun"], "; did you mean churn?"),
    "action like another": (["run", "demo", "--faults", "typo.toml"], "(got 'kil'); did you mean kill?"),
    "key of a plan": (
        ["run", "demo", "--faults", "typo.toml"],
        "faults.0.slt is not a setting; did you mean faults.slot?",
    ),
    "no AP": (["run", "demo", "--set", "radio.num_aps=0"], "radio.num_aps"),
    "negative power": (["run", "demo", "--set", "radio.ap_power_w=-1"], "radio.ap_power_w"),
    "NaN": (["run", "demo", "--set", "radio.ap_power_w=nan"], "finite"),
    "no TOML": (["run", "bad.toml"], "bad.toml is not TOML"),
    "no file": (["run", "missing.toml"], "cannot read missing.toml"),
    "no equals sign": (["run", "demo", "--set", "radio"], "section.key=value"),
    "value as section": (["run", "demo", "--set", "seed=1", "seed.x=3"], "seed is a value"),
    "pilots fill the block": (["run", "demo", "--set", "radio.pilot_length=200"], "leaves no symbol for payload"),
    "impossible agreement": (["run", "demo", "--set", "cooperation.cluster=directed"], "goes with acceptance"),
    "frames too long": (
        ["run", "demo", "--set", "run.blocks_per_slot=1000000", "radio.antennas=64"],
        "run.blocks_per_slot",
    ),
    "does not fit memory": (["run", "demo", "--set", "radio.num_aps=5000", "run.episodes=1"], "use --runtime local"),
    "too many records": (["run", "demo", "--set", "run.episodes=1000000"], "lower run.episodes"),
    "power beyond reason": (["run", "demo", "--set", "radio.ap_power_w=1e30"], "radio.ap_power_w"),
    "address of no use": (["run", "demo", "--runtime", "local", "--address", "here:1"], "goes with --runtime ray"),
    "folder under a file": (["run", "demo", "--out", "bad.toml/run"], "not a folder"),
    "used folder": (["run", "demo", "--out", "used"], "already holds"),
    "no such slot": (["snapshot", "demo", "--slot", "99999", "--out", "x.npz"], "there is no slot 99999"),
    "snapshot name": (["snapshot", "demo", "--out", "x.txt"], ".npz"),
    "no run": (["report", "used"], "holds no finished run"),
}


@pytest.mark.parametrize("case", BAD)
def test_misuse_gets_a_sentence_and_status_2_and_writes_nothing(
    case: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bad.toml").write_text("not [ toml")
    (here / "typo.toml").write_text('[[faults]]\nslt = 3\ntarget = "ap/3"\naction = "kil"\n')
    (here / "used").mkdir()
    (here / "used/keep").touch()
    before = sorted(here.rglob("*"))
    arguments, sentence = BAD[case]
    assert run_cfmimo(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("cfmimo: ")
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert sorted(here.rglob("*")) == before


def test_unknown_command_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_cfmimo(["frobnicate"])
    assert exit_.value.code == 2


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_cfmimo(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"cfmimo {metadata.version('cfmimo')}\n"
