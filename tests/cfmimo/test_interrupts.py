"""How a signal stops a command."""

import subprocess
import sys
from pathlib import Path

import pytest

import cfmimo

HANDLED = "import sys; sys.path.insert(0, sys.argv[1]); import cfmimo.interrupts; print(*sys.modules)"


def test_little_is_imported_before_signals_are_handled() -> None:
    """Until then Ctrl-C leaves Python's traceback: a fifth of a second after the start, on a busy machine."""
    root = str(Path(cfmimo.__file__).parents[1])
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", HANDLED, root], capture_output=True, text=True).stdout
    assert "cfmimo.interrupts" in loaded.split()
    assert not {"typing", "threading", "numpy", "pathlib"} & {*loaded.split()}


ONCE_WRITTEN = """
import os, signal, sys
from cfmimo.cli.main import run_cfmimo

def interrupted(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(interrupted)
sys.exit(run_cfmimo(["run", "demo", "--runtime", "local", "--out", sys.argv[1]]))
"""


@pytest.mark.parametrize("file", ["config.toml", "manifest.json"])
def test_a_run_interrupted_before_any_node_has_begun_leaves_no_folder(file: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ONCE_WRITTEN, str(tmp_path / "run"), file]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (130, "cfmimo: interrupted")
    assert not (tmp_path / "run").exists()
