"""Pages say what the code says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_on_the_protocol_shows_the_table_that_the_aps_run_by() -> None:
    printed = subprocess.run(
        [sys.executable, str(ROOT / "docs/phases.py")], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert printed.strip() in (ROOT / "docs/protocol.md").read_text("utf-8")


def test_the_readme_fits_two_screens() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
