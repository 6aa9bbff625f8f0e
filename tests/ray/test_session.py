"""A private Ray session asks for a token and cleans up after itself."""

import os
import time
from pathlib import Path

import pytest

from coordinator.session import connected

pytestmark = pytest.mark.ray


def test_a_private_session_leaves_neither_process_nor_folder() -> None:
    before = set(Path("/tmp").glob("cfmimo-*"))  # noqa: S108
    others = _descendants(os.getpid())  # what earlier tests have started stays, as multiprocessing's resource tracker

    with connected(None, num_aps=1):
        (made,) = set(Path("/tmp").glob("cfmimo-*")) - before  # noqa: S108
        assert (made / "token").stat().st_mode & 0o777 == 0o600
        children = _descendants(os.getpid()) - others
        assert children
    give_up = time.monotonic() + 20
    while alive := [pid for pid in children if Path(f"/proc/{pid}").exists() and _state(pid) != "Z"]:
        assert time.monotonic() < give_up, f"still running: {alive}"
        time.sleep(0.1)
    assert not made.exists()


def _descendants(pid: int) -> set[int]:
    parent = {int(entry.name): _parent(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    found, frontier = set[int](), {pid}
    while frontier:
        frontier = {child for child, above in parent.items() if above in frontier} - found
        found |= frontier
    return found


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
