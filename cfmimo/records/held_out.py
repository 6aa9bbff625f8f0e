"""What a run's agents reached on layouts held out, beside others, as a table in its folder."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from apnode.runtime.whole_file import write_whole
from cfmimo.errors import RunDirError

HELD_OUT = "held_out.csv"  # in a run's folder
RATE = "sum_rate_bps_hz"
MEASURED = {
    RATE: "sum_rate",
    "sinr_mean_db": "sinr_mean",
    "sinr_p5_db": "sinr_p5",
    "formed": "formed",
    "requests": "requests",
}
_COUNTS = ("episode", "slots")  # completed; 0 for who learns nothing
Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """What was evaluated, in order; nothing if no file is there.

    Raises:
        RunDirError: if it is not what was written.
    """
    columns: dict[str, Any] = {"policy": str, **dict.fromkeys(_COUNTS, int), **dict.fromkeys(MEASURED, float)}
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


def write_rows(path: Path, rows: list[Row]) -> None:
    """All of them, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["policy", *_COUNTS, *MEASURED])
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, [text.getvalue().encode()])
