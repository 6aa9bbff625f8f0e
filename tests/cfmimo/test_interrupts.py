"""How a signal stops a command."""

import subprocess
import sys
from pathlib import Path

import cfmimo

HANDLED = "import sys; sys.path.insert(0, sys.argv[1]); import cfmimo.interrupts; print(*sys.modules)"


def test_little_is_imported_before_signals_are_handled() -> None:
    """Until then Ctrl-C leaves Python's traceback: a fifth of a second after the start, on a busy machine."""
    root = str(Path(cfmimo.__file__).parents[1])
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", HANDLED, root], capture_output=True, text=True).stdout
    assert "cfmimo.interrupts" in loaded.split()
    assert not {"typing", "threading", "numpy", "pathlib"} & {*loaded.split()}
