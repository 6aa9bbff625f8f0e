"""Checkpoints on disk: what was saved is loaded to the last bit, or an older one is, or none; whatever happens."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apnode.protocol.state import Checkpoint, State
from apnode.runtime import checkpoint as files
from apnode.runtime.checkpoint import MAX_BYTES, CheckpointError, Checkpoints, decode, encode, forget_kept
from benchmarks.checkpoints import NAME, kill_while_saving, largest_file, marked, same, small_disk

STATE: State = {
    "completed": np.array(0),
    "policy.network.online.0": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32),
    "lesson.observation": np.zeros((0, 5)),
    "lesson.terminal": np.array([True, False]),
    "policy.replay.action": np.arange(6)[::2],  # not contiguous
    "episode.neighbours": np.zeros(0, np.int64),
}
FILE = encode(NAME, marked(STATE, 50))


def reason(file: bytes) -> str:
    """Why a file is refused."""
    with pytest.raises(CheckpointError) as caught:
        decode(NAME, file)
    return caught.value.reason


def envelope(payload: bytes) -> bytes:
    """A file with a right digest, whatever is in it."""
    header = struct.pack("<8sIQQ", b"cfmimock", 3, 50, len(payload))
    return header + files._digest(header, payload) + payload


def saved(folder: Path, *boundaries: int) -> Checkpoints:
    checkpoints = Checkpoints(folder, NAME)
    for completed in boundaries:
        checkpoints.save(marked(STATE, completed))
    return checkpoints


def assert_loads(checkpoints: Checkpoints, completed: int) -> None:
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.completed == completed
    assert same(loaded.state, marked(STATE, completed).state)


def generation(folder: Path, which: str) -> Path:
    return folder / f"{NAME}.{which}.ckpt"


# --- the envelope ------------------------------------------------------------------------------------------


def test_what_was_encoded_is_decoded_to_the_last_bit() -> None:
    decoded = decode(NAME, FILE)
    assert decoded.completed == 50
    assert same(decoded.state, marked(STATE, 50).state)


def test_no_bit_may_be_another_one() -> None:
    for bit in range(8 * len(FILE)):
        harmed = bytearray(FILE)
        harmed[bit // 8] ^= 1 << bit % 8
        assert reason(bytes(harmed)) in {"format", "version", "truncated", "digest"}


def test_no_byte_may_be_missing_and_none_be_there_too_many() -> None:
    assert {reason(FILE[:length]) for length in range(len(FILE))} == {"truncated"}
    assert reason(FILE + b"\0") == "format"


@pytest.mark.parametrize("file", [b"\x93NUMPY" + bytes(200), pickle.dumps(list(range(200))), b"x" * 500])
def test_another_kind_of_file_is_refused(file: bytes) -> None:
    assert reason(file) == "format"


def test_another_version_is_refused() -> None:
    for version in (2, 4):
        assert reason(FILE[:8] + struct.pack("<I", version) + FILE[12:]) == "version"


def test_the_checkpoint_of_another_ap_is_refused() -> None:
    assert reason(encode("ap-1", marked(STATE, 50))) == "foreign"


@pytest.mark.parametrize(
    "table",
    [
        None,
        [],
        {"arrays": []},
        {"owner": NAME},
        {"owner": NAME, "arrays": 7},
        {"owner": NAME, "arrays": [["a", "<f8"]]},
        {"owner": NAME, "arrays": [["a", "<f8", [4]]]},
        {"owner": NAME, "arrays": [["a", "<f8", [2**70]]]},
        {"owner": NAME, "arrays": [["a", "<f8", [-1]]]},
        {"owner": NAME, "arrays": [["a", "<f8", [1.5]]]},
        {"owner": NAME, "arrays": [["a", "<f8", 3]]},
        {"owner": NAME, "arrays": [["a", "|O", [2]]]},
        {"owner": NAME, "arrays": [["a", ["<f8"], [2]]]},
        {"owner": NAME, "arrays": [[7, "<f8", [2]]]},
        {"owner": NAME, "arrays": [["a", "<f8", [1]]]},
    ],
)
def test_a_payload_that_makes_no_sense_is_refused(table: Any) -> None:
    text = json.dumps(table).encode()
    assert reason(envelope(struct.pack("<I", len(text)) + text + bytes(16))) == "format"


@pytest.mark.parametrize("payload", [b"", b"\xff\xff\xff\xff", b"\x02\0\0\0{", b"\x02\0\0\0\xff\xff", b"\1" * 60])
def test_a_payload_without_a_table_is_refused(payload: bytes) -> None:
    assert reason(envelope(payload)) == "format"


# --- two generations ---------------------------------------------------------------------------------------


def test_the_newest_wins_and_the_older_one_is_replaced(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    kept = []
    for completed in (50, 100, 150, 200):
        checkpoints.save(marked(STATE, completed))
        assert_loads(checkpoints, completed)
        kept.append(checkpoints.boundaries())
    assert kept == [[50], [50, 100], [100, 150], [150, 200]]
    assert not checkpoints.failures
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{NAME}.a.ckpt", f"{NAME}.b.ckpt"]


def test_another_process_goes_on_with_the_same_files(tmp_path: Path) -> None:
    saved(tmp_path, 50, 100)
    assert saved(tmp_path, 150).boundaries() == [100, 150]


def test_the_newest_until_a_boundary_may_be_asked_for(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 50, 100)
    found = [checkpoints.newest_until(slot) for slot in (49, 50, 99, 100, 150)]
    assert [checkpoint and checkpoint.completed for checkpoint in found] == [None, 50, 50, 100, 100]


def test_before_the_first_checkpoint_there_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new", NAME)
    assert checkpoints.load() is None
    assert checkpoints.boundaries() == []
    assert checkpoints.failures == {"missing": 1}


def harm(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def enlarge(path: Path) -> None:
    os.truncate(path, MAX_BYTES + 1)  # sparse


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def take_from_another_ap(path: Path) -> None:
    path.write_bytes(encode("ap-1", marked(STATE, 150)))


HARMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a wrong byte": (harm, "digest"),
    "cut": (cut, "truncated"),
    "empty": (empty, "truncated"),
    "too large": (enlarge, "oversized"),
    "a folder": (make_a_folder, "unreadable"),
    "of another AP": (take_from_another_ap, "foreign"),
}


@pytest.mark.parametrize(("which", "left"), [("a", 100), ("b", 50)])
@pytest.mark.parametrize("kind", HARMS)
def test_what_is_harmed_is_not_loaded_but_the_other_generation_is(
    tmp_path: Path, kind: str, which: str, left: int
) -> None:
    checkpoints, (harmed, why) = saved(tmp_path, 50, 100), HARMS[kind]
    harmed(generation(tmp_path, which))
    assert checkpoints.boundaries() == [left]
    assert_loads(checkpoints, left)
    assert checkpoints.failures == {why: 1}


@pytest.mark.parametrize(("which", "left"), [("a", 100), ("b", 50)])
def test_a_harmed_generation_is_replaced_first(tmp_path: Path, which: str, left: int) -> None:
    checkpoints = saved(tmp_path, 50, 100)
    harm(generation(tmp_path, which))
    checkpoints.save(marked(STATE, 150))
    assert checkpoints.boundaries() == [left, 150]


def test_if_both_are_harmed_there_is_none_and_both_are_counted(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 50, 100)
    harm(generation(tmp_path, "a"))
    cut(generation(tmp_path, "b"))
    assert checkpoints.load() is None
    assert checkpoints.failures == {"digest": 1, "truncated": 1}
    checkpoints.save(marked(STATE, 150))
    assert_loads(checkpoints, 150)


def test_a_future_that_did_not_come_is_forgotten_or_replaced_first(tmp_path: Path) -> None:
    """The network goes back to slot 50, as not every AP has a checkpoint of slot 100."""
    assert saved(tmp_path / "replaced", 50, 100, 100).boundaries() == [50, 100]
    checkpoints = saved(tmp_path / "forgotten", 50, 100)
    checkpoints.forget_after(50)
    assert checkpoints.boundaries() == [50]
    checkpoints.forget_after(50)
    assert_loads(checkpoints, 50)


def test_what_is_kept_outlives_newer_ones_until_it_is_forgotten(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 40)
    checkpoints.save(replace(marked(STATE, 50), kept=True))
    for completed in (60, 70, 80):
        checkpoints.save(marked(STATE, completed))
    found = checkpoints.newest_until(50)
    assert found is not None
    assert same(found.state, marked(STATE, 50).state)
    assert_loads(checkpoints, 80)  # and does not count as one of the newest
    assert [checkpoints.newest_until(at) for at in (49, 69)] == [None, None]
    assert_loads_until(checkpoints, 79, 70)
    forget_kept(tmp_path, lambda completed: completed > 50)
    assert_loads_until(checkpoints, 50, 50)
    forget_kept(tmp_path, lambda completed: completed <= 50)
    assert checkpoints.newest_until(50) is None


def assert_loads_until(checkpoints: Checkpoints, completed: int, expected: int) -> None:
    found = checkpoints.newest_until(completed)
    assert found is not None
    assert found.completed == expected


# --- what happens while one is written ---------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.0, 0.1, 0.9, 1.0])
def test_when_the_disk_is_full_nothing_has_changed(tmp_path: Path, part: float) -> None:
    checkpoints = saved(tmp_path, 50, 100)
    with largest_file(int(part * (len(FILE) - 1))):
        checkpoints.save(marked(STATE, 150))
    assert checkpoints.failures == {"disk": 1}
    assert checkpoints.boundaries() == [50, 100]
    assert len(list(tmp_path.iterdir())) == 2
    checkpoints.save(marked(STATE, 150))
    assert_loads(checkpoints, 150)


def test_a_file_system_that_is_full_is_survived(tmp_path: Path) -> None:
    state = {**STATE, "policy.replay.reward": np.zeros(8192)}
    with small_disk(tmp_path, 256 * 1024) as mounted:
        if not mounted:
            pytest.skip("no file system may be mounted here")
        checkpoints = Checkpoints(tmp_path, NAME)
        for completed in (50, 100, 150, 200):  # three files of 65 kB fit
            checkpoints.save(marked(state, completed))
        assert not checkpoints.failures
        (tmp_path / "other").write_bytes(bytes(100 * 1024))
        checkpoints.save(marked(state, 250))
        assert checkpoints.failures == {"disk": 1}
        assert checkpoints.boundaries() == [150, 200]
        assert len(list(tmp_path.iterdir())) == 3
        (tmp_path / "other").unlink()
        checkpoints.save(marked(state, 250))
        assert checkpoints.boundaries() == [200, 250]


def test_a_folder_that_cannot_be_made_is_counted(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    checkpoints = saved(tmp_path / "taken", 50)
    assert checkpoints.failures == {"disk": 1}
    assert checkpoints.load() is None
    assert checkpoints.boundaries() == []


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 50, 100)
    left = tmp_path / f"{NAME}.a.ckpt.tmp"
    left.write_bytes(FILE[:100])
    assert_loads(checkpoints, 100)
    checkpoints.save(marked(STATE, 150))
    assert_loads(checkpoints, 150)
    assert not left.exists()


def test_a_writer_killed_at_any_moment_leaves_what_it_had_saved(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    state = {**STATE, "policy.replay.reward": rng.standard_normal(50_000)}
    Checkpoints(tmp_path, NAME).save(marked(state, 0))
    for _ in range(20):
        acknowledged = kill_while_saving(tmp_path, after_s=float(rng.uniform(0, 0.02)))
        checkpoints = Checkpoints(tmp_path, NAME)
        loaded: Checkpoint | None = checkpoints.load()
        assert loaded is not None
        assert loaded.completed >= acknowledged
        assert same(loaded.state, marked(state, loaded.completed).state)
        assert not checkpoints.failures
