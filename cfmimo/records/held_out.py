"""What a run's agents reached on layouts held out, beside others, and what they believed meanwhile: two tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apnode.protocol.messages import FloatArray
from apnode.runtime.whole_file import write_whole
from cfmimo.errors import RunDirError

HELD_OUT, BELIEFS = "held_out.csv", "beliefs.csv"  # in a run's folder
RATE = "sum_rate_bps_hz"
MEASURED = {
    RATE: "sum_rate",
    "sinr_mean_db": "sinr_mean",
    "sinr_p5_db": "sinr_p5",
    "formed": "formed",
    "requests": "requests",
}
_COUNTS = ("episode", "slots")  # completed; 0 for who learns nothing
KINDS = ("incoherence", "staleness", "wrongness")  # defect levels of an AP, in the order of `Prospects`
_BELIEVED = tuple(f"{kind}{part}" for kind in KINDS for part in ("", "_sd"))
Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """What was evaluated, in order; nothing if no file is there.

    Raises:
        RunDirError: if it is not what was written.
    """
    return _read(path, {"policy": str, **dict.fromkeys(_COUNTS, int), **dict.fromkeys(MEASURED, float)})


def write_rows(path: Path, rows: list[Row]) -> None:
    """All of them, whole or not at all."""
    _write(path, ["policy", *_COUNTS, *MEASURED], rows)


def beliefs_of(completed: int, agents: Sequence[Sequence[FloatArray]]) -> list[Row]:
    """What each AP believed of itself after so many slots: means and standard deviations of its defect levels."""
    return [
        {"slots": completed, "ap": ap}
        | dict(zip(_BELIEVED, [x for mean, variance in own.T.tolist() for x in (mean, variance**0.5)], strict=True))
        for ap, [own] in enumerate(agents)
    ]


def read_beliefs(path: Path) -> list[Row]:
    """As `read_rows`."""
    return _read(path, {"slots": int, "ap": int, **dict.fromkeys(_BELIEVED, float)})


def write_beliefs(path: Path, rows: list[Row]) -> None:
    """As `write_rows`."""
    _write(path, ["slots", "ap", *_BELIEVED], rows)


def _read(path: Path, columns: dict[str, Any]) -> list[Row]:
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            return [
                {name: of_text(row[name]) for name, of_text in columns.items()}
                for row in csv.DictReader(file, strict=True)
            ]
    except (ValueError, TypeError, KeyError, csv.Error):  # no number, a row or a file cut off, no text
        raise RunDirError(f"{path} is damaged; remove it to go on without what it said") from None


def _write(path: Path, columns: list[str], rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, [text.getvalue().encode()])
