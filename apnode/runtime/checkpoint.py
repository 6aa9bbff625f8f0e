"""Checkpoints on disk: an agent's state in an envelope that shows any damage, in two generations.

A file is a header (magic, version, slots completed, length of the payload), the SHA-256 of header and payload, and the
payload: the length of a table of contents, that table as JSON (whose state; name, dtype and shape of every array), and
the arrays' bytes. Nothing in it is executed, and no array is made before the digest is right.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.protocol.state import Checkpoint, State
from apnode.runtime.whole_file import write_whole

_MAGIC = b"cfmimock"
_VERSION = 3
_HEADER = struct.Struct("<8sIQQ")  # magic, version, slots completed, bytes of the payload
_DIGEST_BYTES = 32
_LENGTH = struct.Struct("<I")
_DTYPES = ("<f4", "<f8", "<i8", "<c16", "|b1")
_KEPT = "kept"
MAX_BYTES = 2**30


class CheckpointError(ValueError):
    """A file that must not be loaded; `reason` is one of few words, for counting."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def encode(owner: str, checkpoint: Checkpoint) -> bytes:
    """The file of a checkpoint whose AP is called `owner`."""
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.state.items()}
    contents = [(name, array.dtype.str, checkpoint.state[name].shape) for name, array in arrays.items()]
    assert {dtype for _, dtype, _ in contents} <= {*_DTYPES}, contents  # else it could not be loaded
    table = json.dumps({"owner": owner, "arrays": contents}).encode()
    payload = b"".join([_LENGTH.pack(len(table)), table, *(array.tobytes() for array in arrays.values())])
    header = _HEADER.pack(_MAGIC, _VERSION, checkpoint.completed, len(payload))
    return b"".join([header, _digest(header, payload), payload])


def decode(owner: str, file: bytes) -> Checkpoint:
    """The checkpoint in a file.

    Raises:
        CheckpointError: if it is not, to the last bit, what `encode` made for this owner.
    """
    start = _HEADER.size + _DIGEST_BYTES
    if len(file) < start:
        raise CheckpointError("truncated", f"{len(file)} bytes are no header")
    magic, version, completed, length = _HEADER.unpack_from(file)
    if magic != _MAGIC:
        raise CheckpointError("format", f"begins with {magic!r}, expected {_MAGIC!r}")
    if version != _VERSION:
        raise CheckpointError("version", f"version {version}, expected {_VERSION}")
    payload = memoryview(file)[start:]
    if len(payload) != length:
        reason = "truncated" if len(payload) < length else "format"
        raise CheckpointError(reason, f"{len(payload)} bytes of payload, expected {length}")
    if _digest(file[: _HEADER.size], payload) != file[_HEADER.size : start]:
        raise CheckpointError("digest", "the digest is another one")
    try:
        found, state = _contents(payload)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, struct.error) as error:
        raise CheckpointError("format", f"the payload is not what it should be: {error}") from None
    if found != owner:
        raise CheckpointError("foreign", f"of {found!r:.100}, expected {owner!r}")
    return Checkpoint(completed, state)


def _digest(header: bytes, payload: bytes | memoryview) -> bytes:
    sha = hashlib.sha256(header)
    sha.update(payload)
    return sha.digest()


def _contents(payload: memoryview) -> tuple[str, State]:
    (length,) = _LENGTH.unpack_from(payload)
    at = _LENGTH.size + length
    table = json.loads(bytes(payload[_LENGTH.size : at]))
    state: dict[str, NDArray[Any]] = {}
    for name, dtype, shape in table["arrays"]:
        if type(name) is not str or dtype not in _DTYPES or min(shape, default=0) < 0:
            raise ValueError(f"array {name} of dtype {dtype} and shape {shape}")
        state[name] = np.frombuffer(payload, dtype, math.prod(shape), at).reshape(shape)  # read-only
        at += state[name].nbytes
    if at != len(payload):
        raise ValueError(f"arrays of {at} bytes in a payload of {len(payload)}")
    return table["owner"], state


class Checkpoints:
    """The checkpoints of one AP: generations a and b, each with a file of its own in a folder.

    Saving replaces the older one, so that whatever happens meanwhile the newer one is left. No trouble with files is
    an exception: it is counted in `failures` by reason. The reasons are `missing` (neither generation is there),
    `unreadable`, `oversized`, `truncated`, `format`, `version`, `digest` and `foreign` (why a generation was not
    loaded) and `disk` (not saved).
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.failures: Counter[str] = Counter()
        self.disk_full = False  # as a fault plan says
        self._folder, self._name = folder, name
        self._paths = [folder / f"{name}.{generation}.ckpt" for generation in "ab"]

    def save(self, checkpoint: Checkpoint) -> bool:
        """Write a checkpoint, whole or not at all; returns whether it was written."""
        file = encode(self._name, checkpoint)
        if len(file) > MAX_BYTES:
            self.failures["oversized"] += 1
            return False
        targets = [self._least(checkpoint.completed)] + [self._kept(checkpoint.completed)] * checkpoint.kept
        try:
            if self.disk_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))
            self._folder.mkdir(parents=True, exist_ok=True)
            for target in targets:
                write_whole(target, [file])
        except OSError:
            self.failures["disk"] += 1
            return False
        return True

    def corrupt_newest(self) -> None:
        """Flip a bit in the middle of the newest file, as a bad disk would: for fault plans."""
        known = {boundary: path for path in self._paths if (boundary := self._boundary(path)) is not None}
        if known:
            path = known[max(known)]
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)

    def load(self) -> Checkpoint | None:
        """The newest checkpoint; None if there is none to be trusted."""
        found = [checkpoint for checkpoint in map(self._load, self._paths) if checkpoint is not None]
        if not any(path.exists() for path in self._paths):
            self.failures["missing"] += 1
        return max(found, key=lambda checkpoint: checkpoint.completed, default=None)

    def newest_until(self, completed: int) -> Checkpoint | None:
        """The one kept of so many slots, or else the newest of fewer; None if there is none to be trusted."""
        kept = self._load(self._kept(completed))
        if kept is not None:
            return kept
        found = [checkpoint for checkpoint in map(self._load, self._paths) if checkpoint is not None]
        before = [checkpoint for checkpoint in found if checkpoint.completed <= completed]
        return max(before, key=lambda checkpoint: checkpoint.completed, default=None)

    def boundaries(self) -> list[int]:
        """Slots completed, of each checkpoint that would load; ascending."""
        return sorted(boundary for path in self._paths if (boundary := self._boundary(path)) is not None)

    def forget_after(self, completed: int) -> None:
        """Remove what is newer: the network goes back to the slot after `completed` ones."""
        for path in self._paths:
            boundary = self._boundary(path)
            if boundary is not None and boundary > completed:
                try:
                    path.unlink()
                except OSError:
                    self.failures["disk"] += 1

    def _kept(self, completed: int) -> Path:
        return self._folder / f"{self._name}.{completed}.{_KEPT}"

    def _load(self, path: Path) -> Checkpoint | None:
        """A generation, if it is there and good."""
        try:
            return self._read(path)
        except FileNotFoundError:
            return None
        except OSError:
            self.failures["unreadable"] += 1
        except CheckpointError as error:
            self.failures[error.reason] += 1
        return None

    def _boundary(self, path: Path) -> int | None:
        try:
            return self._read(path).completed
        except (OSError, CheckpointError):
            return None  # whoever loads it counts it

    def _least(self, completed: int) -> Path:
        """The generation to replace: one that would not load or is of a future that did not come, else the older."""
        kept = {path: self._boundary(path) for path in self._paths}
        return min(self._paths, key=lambda path: -1 if (at := kept[path]) is None or at >= completed else at)

    def _read(self, path: Path) -> Checkpoint:
        with path.open("rb") as stream:
            file = stream.read(MAX_BYTES + 1) if os.fstat(stream.fileno()).st_size <= MAX_BYTES else None
        if file is None or len(file) > MAX_BYTES:
            raise CheckpointError("oversized", f"{path} is larger than {MAX_BYTES} bytes")
        return decode(self._name, file)


def forget_kept(folder: Path, of: Callable[[int], bool]) -> None:
    """Remove the checkpoints kept by all APs of some numbers of slots completed."""
    for path in folder.glob(f"*.{_KEPT}"):
        if of(int(path.stem.rpartition(".")[2])):
            path.unlink()
