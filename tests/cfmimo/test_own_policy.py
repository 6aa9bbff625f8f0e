"""A policy or path loss in a file of the user's own: run, compared, resumed, and refused with a sentence."""

import html
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cfmimo
from apnode.agent.view import PolicyError, View, action_of
from apnode.config import Config
from apnode.config.own_policy import own_policy
from cfmimo.runtime.local import LocalNetwork
from channel_server.propagation import own_loss
from coordinator.watch.looks import GLYPHS, look_of

SMALL = ["run.episodes=2", "run.slots_per_episode=8", "radio.num_aps=9", "radio.num_ues=4", "radio.area_m=300.0"]
CODE = '''
class Strongest:
    def act(self, view):
        return view.neighbours[:2]


class Threshold:
    """As the policy that ships."""

    def __init__(self, ap, config):
        self.share = config.cooperation.request_share

    def act(self, view):
        total = view.interference.sum()
        return [n for n, power in zip(view.neighbours, view.interference) if total and power / total >= self.share]


class Forecast:
    """As the policy that ships."""

    needs = ("forecast",)

    def __init__(self, ap, config):
        self.price = config.cooperation.link_price

    def act(self, view):
        return [n for n, gain in zip(view.neighbours, view.forecast) if gain > self.price]


class Undeclared:
    def act(self, view):
        return [n for n, gain in zip(view.neighbours, view.forecast) if gain > 0]


class Greedy:
    needs = "everything"

    def act(self, view):
        return view.neighbours


class Silent:
    pass


class Leaving:
    def act(self, view):
        return ()

    def __init__(self, ap, config):
        raise SystemExit(3)


class Broken:
    def __init__(self, ap, config, more):
        pass

    def act(self, view):
        return ()
'''


def cli(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-c", "import sys; sys.path.remove(''); from cfmimo.__main__ import main; main()"]
    return subprocess.run([*whole, *command], cwd=folder, capture_output=True, text=True, timeout=240)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module that no test before has imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("mine", None)
    own_policy.cache_clear()
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


def digest(policy: str, preset: str, out: str) -> str:
    return cfmimo.run(cfmimo.load(preset, [*SMALL, f"cooperation.policy={policy}"]), out=out).digest


@pytest.mark.parametrize(
    ("own", "ships", "preset"),
    [("mine:Threshold", "threshold", "demo"), ("mine:Forecast", "forecast", "selective")],
)
def test_it_does_what_the_same_policy_of_the_package_does(folder: Path, own: str, ships: str, preset: str) -> None:
    assert digest(own, preset, "own") == digest(ships, preset, "ships")


def test_its_code_is_kept_and_a_resumed_run_needs_no_other(folder: Path) -> None:
    settings = [*SMALL, "cooperation.policy=mine:Strongest", "run.checkpoint_every_slots=4"]
    done = cli(folder, "run", "demo", "--runtime", "local", "--quiet", "--out", "whole", "--set", *settings)
    assert done.returncode == 0, done.stderr
    assert (folder / "whole/code/mine.py").read_text() == CODE
    killed = folder / "killed.py"
    killed.write_text(
        "import os, sys\nfrom cfmimo.runtime.local import LocalNetwork\nframes = LocalNetwork.frames\n"
        "def dying(self):\n    for send in frames(self):\n"
        "        if self.coordinator.newest > 10: os._exit(9)\n        yield send\n"
        "LocalNetwork.frames = dying\nfrom cfmimo.__main__ import main\nmain()\n"
    )
    command = [sys.executable, "killed.py", "run", "demo", "--runtime", "local", "--quiet", "--out", "half", "--set"]
    assert subprocess.run([*command, *settings], cwd=folder, check=False, timeout=120).returncode == 9
    (folder / "mine.py").unlink()
    (folder / "elsewhere").mkdir()
    done = cli(folder / "elsewhere", "resume", "../half", "--quiet")
    assert done.returncode == 0, done.stderr
    assert cfmimo.open_run("half").digest == cfmimo.open_run("whole").digest


def test_it_stands_beside_others_in_a_comparison(folder: Path) -> None:
    compared = cfmimo.compare(
        cfmimo.load("demo", SMALL), ["never", "random", "mine:Strongest"], layouts=3, slots=2, links=[]
    )
    own = next(row for row in compared.rows if row["policy"] == "mine:Strongest")
    assert own["aimed_at"] == round(own["links"]["formed"])
    assert own["over_random_bps_hz"] is not None  # random is tuned to as many links
    assert {row["policy"] for row in compared.rows} == {"never", "random", "mine:Strongest"}


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("nowhere:Policy", "policy nowhere:Policy cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("mine:Nobody", "policy mine:Nobody cannot be imported: mine has no class Nobody"),
        ("mine:Silent", "has no method act"),
        ("mine:Greedy", "needs 'everything'; a policy may need forecast or streams"),
        ("mine:Broken", "cannot be made with (ap, config): TypeError"),
        ("mine:Leaving", "cannot be made with (ap, config): SystemExit: 3"),
        ("mine:", "input should be 'ddqn'"),
        ("forcast", "did you mean forecast?"),
    ],
)
def test_one_that_cannot_be_had_is_refused_before_anything_starts(folder: Path, policy: str, said: str) -> None:
    out = ["--out", "run", "--set", *SMALL, f"cooperation.policy={policy}"]
    for command in (["run", "demo", "--runtime", "local", "--quiet", *out], ["compare", "demo", "--policies", policy]):
        done = cli(folder, *command)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert said.split(";")[-1] in done.stderr or command[0] == "compare"
    assert not (folder / "run").exists()


def test_one_that_an_installed_package_offers_is_found_by_its_name(folder: Path) -> None:
    package = folder / "offers-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: offers\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[cfmimo.policies]\nmine-of-all = mine:Strongest\n")
    sys.path.insert(0, str(folder))
    assert cfmimo.load("demo", ["cooperation.policy=mine-of-all"]).cooperation.policy == "mine:Strongest"


class Erring:
    """AP 4 raises in slot 5; AP 2 asks whom it cannot."""

    def __init__(self, ap: int, config: Config) -> None:
        self.ap = ap

    def act(self, view: View) -> Any:
        if self.ap == 4 and view.slot == 5:
            raise ZeroDivisionError("a bug")
        return [999] if self.ap == 2 and view.slot == 9 else view.neighbours


def test_what_it_does_wrong_is_said_and_costs_other_aps_no_slot() -> None:
    network = LocalNetwork(cfmimo.load("demo", [*SMALL, "run.slots_per_episode=20"]), policy_of=Erring)
    network.run()
    assert [(noted["ap"], noted["error"].split(":")[0]) for noted in network.errors] == [
        (4, "ZeroDivisionError"),
        (2, "PolicyError"),
    ]
    assert "999" in network.errors[1]["error"]
    others = [ap for ap in range(9) if ap not in {2, 4}]
    assert network.coordinator.record.reported[:, others].all()
    assert not network.coordinator.record.silent[:, others].any()


@pytest.mark.parametrize(("chosen", "mask"), [((), 0), ([5], 2), ({8, 3}, 5), ((8, 8), 4), (7, 7), (iter([3]), 1)])
def test_what_a_policy_may_return(chosen: Any, mask: int) -> None:
    assert action_of(chosen, (3, 5, 8)) == mask


@pytest.mark.parametrize("chosen", [None, [4], 8, -1, "3", True, 1.5, [[3]]])
def test_what_a_policy_may_not_return(chosen: Any) -> None:
    with pytest.raises(PolicyError, match="the policy"):
        action_of(chosen, (3, 5, 8))


def test_it_has_a_look_of_its_own() -> None:
    assert look_of("mine:Strongest").marker in GLYPHS
    assert look_of("mine:Strongest") == look_of("mine:Strongest")


# --- a path loss -------------------------------------------------------------------------------------------

LOSSES = """
import numpy as np

def umi(distance, propagation):
    return 30.5 + 36.7 * np.log10(np.maximum(distance, 1))

def lonely(distance, propagation):
    return float(distance.mean())

def wild(distance, propagation):
    return distance * np.nan

def broken(distance):
    return distance

constant = 3
"""


def text_of(run_dir: Path) -> str:
    return html.unescape((run_dir / "report.html").read_text())


@pytest.fixture
def losses(folder: Path) -> Path:
    sys.modules.pop("losses", None)
    own_loss.cache_clear()
    (folder / "losses.py").write_text(LOSSES)
    return folder


def test_a_path_loss_of_ones_own_gives_what_the_same_one_of_the_package_does(losses: Path) -> None:
    own, ships = (
        cfmimo.run(cfmimo.load("demo", [*SMALL, f"propagation.model={model}"]), out=model[:3]).digest
        for model in ("losses:umi", "umi")
    )
    assert own == ships


def test_its_code_is_kept_and_compare_finds_it_and_a_report_without_it_has_no_map(losses: Path) -> None:
    model = "propagation.model=losses:umi"
    done = cli(losses, "run", "demo", "--runtime", "local", "--quiet", "--out", "whole", "--set", *SMALL, model)
    assert done.returncode == 0, done.stderr
    assert (losses / "whole/code/losses.py").read_text() == LOSSES
    assert "No map" not in text_of(losses / "whole")
    done = cli(losses, "compare", "demo", "--policies", "never,random", "--layouts", "2", "--set", *SMALL, model)
    assert done.returncode == 0, done.stderr
    (losses / "losses.py").unlink()
    done = cli(losses, "report", "whole")
    assert done.returncode == 0, done.stderr
    assert "No map: path loss losses:umi cannot be imported: ModuleNotFoundError" in text_of(losses / "whole")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("losses:absent", "path loss losses:absent cannot be imported: losses has no function absent"),
        ("losses:constant", "path loss losses:constant cannot be imported: losses has no function constant"),
        ("nowhere:umi", "path loss nowhere:umi cannot be imported: ModuleNotFoundError"),
        ("losses:lonely", "path loss losses:lonely returns no finite number for each of (2, 3) distances"),
        ("losses:wild", "path loss losses:wild returns no finite number for each of (2, 3) distances"),
        ("losses:broken", "path loss losses:broken cannot be had of (distances, propagation): TypeError"),
        ("losses:", "input should be 'three-slope'"),
        ("free-space", "input should be 'three-slope'"),
    ],
)
def test_what_is_no_path_loss_is_refused_before_anything_is_written(name: str, said: str, losses: Path) -> None:
    done = cli(losses, "run", "demo", "--runtime", "local", "--out", "never", "--set", f"propagation.model={name}")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (losses / "never").exists()
