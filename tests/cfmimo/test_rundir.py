"""The run's folder: what is in it is whole, and one process at a time fills it."""

import fcntl
import os
from pathlib import Path

import pytest

from apnode.config import Config
from benchmarks.checkpoints import largest_file
from cfmimo.records.rundir import RunDir, write_json


def test_a_summary_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with largest_file(10), pytest.raises(OSError, match="too large"):
        write_json(tmp_path / "summary.json", {"digest": "0" * 64})
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "summary.json", {"digest": "1"})
    with largest_file(10), pytest.raises(OSError, match="too large"):
        write_json(tmp_path / "summary.json", {"digest": "0" * 64})
    assert RunDir.open(tmp_path).summary() == {"digest": "1"}


def test_a_run_is_locked_by_a_file_open_for_writing_as_nfs_demands(tmp_path: Path) -> None:
    folder = RunDir.create(tmp_path, Config(), ["cfmimo"], "local")
    with folder.held():
        opened = [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if fd.resolve() == tmp_path / "config.toml"]
        assert [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE for fd in opened] == [os.O_RDWR]
