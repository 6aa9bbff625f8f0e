"""What `examples/` and docs/python.md show runs as it is shown."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text("utf-8"), re.DOTALL)


def python(folder: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", [block for block in BLOCKS if "import cfmimo" in block])
def test_a_block_of_the_page_runs(block: str, tmp_path: Path) -> None:
    assert python(tmp_path, "-c", block)


def test_policies_of_page_and_example_can_be_compared(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(next(block for block in BLOCKS if "def act" in block))
    (tmp_path / "my_policies.py").write_text((ROOT / "examples/my_policies.py").read_text("utf-8"))
    own = ["shown:Strongest", "shown:Promising", "my_policies:Strongest", "my_policies:Loyal"]
    small = ["radio.num_aps=16", "radio.num_ues=8", "radio.area_m=400.0"]
    compare = ["compare", "selective", "--layouts", "2", "--slots", "1", "--links", "4", "--policies", ",".join(own)]
    printed = python(tmp_path, "-m", "cfmimo", *compare, "--set", *small)
    assert all(name in printed for name in own)


def test_learners_without_a_library_learn_and_draw(tmp_path: Path) -> None:
    printed = python(tmp_path, str(ROOT / "examples/bandits.py"), "--episodes", "3")
    assert printed.count("bit/s/Hz") == 3
    assert (tmp_path / "bandits.png").stat().st_size > 1000
