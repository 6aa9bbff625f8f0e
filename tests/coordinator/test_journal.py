"""The journal keeps every whole frame, whatever happens while one is written."""

from pathlib import Path

import pytest

from benchmarks.checkpoints import largest_file
from coordinator.journal import Journal

FRAMES = [bytes([number]) * (number + 1) for number in range(5)]


def filled(path: Path) -> Journal:
    journal = Journal(path)
    for frame in FRAMES:
        journal.append(frame)
    return journal


def test_frames_come_back_in_order_and_more_can_be_added(tmp_path: Path) -> None:
    filled(tmp_path / "journal").close()
    journal = Journal(tmp_path / "journal")
    journal.append(b"more")
    assert list(journal.frames()) == [*FRAMES, b"more"]


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_torn_end_is_cut_off(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path).close()
    path.write_bytes(path.read_bytes()[:-cut])
    journal = Journal(path)
    assert list(journal.frames()) == FRAMES[:4]
    journal.append(b"more")
    assert list(Journal(path).frames()) == [*FRAMES[:4], b"more"]


def test_what_is_not_wanted_is_dropped(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal")
    journal.keep(lambda frame: len(frame) % 2 == 0)
    journal.append(b"more")
    assert list(journal.frames()) == [FRAMES[1], FRAMES[3], b"more"]
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


def test_a_frame_that_does_not_fit_on_the_disk_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = filled(path)
    with largest_file(path.stat().st_size + 2), pytest.raises(OSError, match="too large"):
        journal.append(b"more")
    assert list(Journal(path).frames()) == FRAMES


def test_what_is_dropped_stays_if_the_rest_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal")
    with largest_file(10), pytest.raises(OSError, match="too large"):
        journal.keep(lambda frame: len(frame) > 1)
    assert list(journal.frames()) == FRAMES
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]
