"""`import cfmimo`, as a script or a notebook uses it."""

import subprocess
import sys
from pathlib import Path

import pytest

import cfmimo

SMALL = {
    "radio": {"num_aps": 6, "num_ues": 3, "area_m": 250.0},
    "run": {"episodes": 2, "slots_per_episode": 4},
}
SCRIPT = """
import cfmimo
config = cfmimo.load("demo", seed=1, radio={"num_aps": 6, "num_ues": 3}, run={"episodes": 2, "slots_per_episode": 4})
run = cfmimo.run(config)
table = run.slots.to_pandas()
axes = table.plot(x="slot", y=["sum_rate_bps_hz", "sum_rate_alone_bps_hz"])
axes.figure.savefig("rate.png")
compared = cfmimo.compare(config, ["never", "random", "oracle"], layouts=3, links=[4], slots=2)
print(len(table), run.digest[:8], len(compared.table))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> cfmimo.Run:
    return cfmimo.run(cfmimo.load("demo", **SMALL), out=tmp_path_factory.mktemp("api") / "run")


def test_a_run_is_read_as_tables(run: cfmimo.Run) -> None:
    assert (run.path / "report.html").is_file()
    assert len(run.slots) == 8
    assert len(run.aps.to_pandas()) == 8 * 6
    assert len(run.ues) == 8 * 3
    assert {"ap", "neighbour", "linked"} <= {*run.links.column_names}
    assert run.config == cfmimo.load("demo", **SMALL)
    assert run.digest[:16] in repr(run)
    assert cfmimo.open_run(run.path).summary == run.summary


def test_the_same_config_gives_the_same_as_the_command(run: cfmimo.Run, tmp_path: Path) -> None:
    config = str(run.path / "config.toml")
    command = [sys.executable, "-m", "cfmimo", "run", config, "--runtime", "local", "--quiet", "--out", "again"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert cfmimo.open_run(tmp_path / "again").digest == run.digest


def test_a_script_runs_compares_and_plots_and_its_own_lines_run_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=200
    )
    slots, _, rows = done.stdout.split()
    assert (slots, rows) == ("8", "4")
    assert done.stderr == ""
    assert (tmp_path / "rate.png").stat().st_size > 1000
    assert len([*(tmp_path / "runs").iterdir()]) == 2


def test_what_is_wrong_is_an_exception_that_says_it(tmp_path: Path) -> None:
    with pytest.raises(cfmimo.RunDirError, match="holds no finished run"):
        cfmimo.open_run(tmp_path)
    with pytest.raises(cfmimo.ConfigError, match="did you mean"):
        cfmimo.load("demo", radio={"num_apps": 3})
    with pytest.raises(cfmimo.ConfigError, match="there is no slot"):
        cfmimo.snapshot("demo", -1)
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        cfmimo.runn  # noqa: B018
    (tmp_path / "file").write_text("")
    with pytest.raises(cfmimo.RunDirError, match="already holds"):
        cfmimo.run("demo", out=tmp_path)


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {cfmimo.run(cfmimo.load("demo", **SMALL, seed=5)).path for _ in range(2)}
    assert len(paths) == 2


def test_importing_it_imports_little() -> None:
    code = "import sys, cfmimo; dir(cfmimo); assert not {'torch', 'ray', 'matplotlib', 'pyarrow'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", [name for name in dir(cfmimo) if not name.startswith("_")])
def test_every_name_is_documented(name: str) -> None:
    assert getattr(cfmimo, name).__doc__
