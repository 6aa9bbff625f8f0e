"""The reports of an unfinished run, on disk in order of arrival: a restarted coordinator reads them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from apnode.runtime.whole_file import write_whole

JOURNAL = "journal"  # in a run's folder
_LENGTH_BYTES = 4


class Journal:
    """Frames one after the other, each after its length (4 bytes, big endian). A torn end is cut off when it opens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._file.truncate(sum(len(_entry(frame)) for frame in self.frames()))

    def append(self, frame: bytes) -> None:
        """Add a frame; it survives the death of the process, but not of the machine.

        Raises:
            OSError: if it cannot be written whole; nothing may be added after it.
        """
        left = _entry(frame)
        while left:
            left = left[self._file.write(left) :]

    def frames(self) -> Iterator[bytes]:
        """All frames, up to the first that is not complete."""
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            while len(head := file.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
                length = int.from_bytes(head, "big")
                frame = file.read(length) if length <= size else b""
                if len(frame) < length or not frame:
                    return
                yield frame

    def keep(self, wanted: Callable[[bytes], bool]) -> None:
        """Drop all other frames."""
        write_whole(self._path, (_entry(frame) for frame in self.frames() if wanted(frame)))
        self._file.close()
        self._file = self._path.open("ab", buffering=0)

    def close(self) -> None:
        """Write no more."""
        self._file.close()


def _entry(frame: bytes) -> bytes:
    return len(frame).to_bytes(_LENGTH_BYTES, "big") + frame
