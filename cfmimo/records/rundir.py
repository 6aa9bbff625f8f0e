"""The run directory: what was asked for, and what came of it."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from apnode.config import Config
from apnode.runtime.host import CHECKPOINTS
from apnode.runtime.whole_file import write_whole
from cfmimo.errors import RunDirError
from cfmimo.presets import to_toml
from coordinator import tables
from coordinator.journal import JOURNAL
from coordinator.record import Record
from coordinator.tables import Table

ArrowTable: TypeAlias = pa.Table
SUMMARY = "summary.json"  # in a run's folder, once it is finished
_PACKAGES = ("cfmimo", "ray", "torch", "numpy", "msgpack", "pyzmq", "pydantic")


def new_folder(out: str) -> Path:
    """The folder that a run may fill, not made yet: a run that is refused or interrupted leaves nothing.

    Raises:
        RunDirError: if it holds anything already, or cannot be made.
    """
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunDirError(f"{path} already holds a run or other files; name a new folder with --out")
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RunDirError(f"cannot write to {path}: {existing} is not a folder that one may write to")
    return path


def started_folder(out: str, inner: str) -> Path:
    """The folder of long work that may have been started before, with its inner folder, which tells it from others.

    Raises:
        RunDirError: if it holds other files, or cannot be made.
    """
    path = Path(out)
    if not (path / inner).is_dir():
        path = new_folder(out)
    with writing(path):
        (path / inner).mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """While a folder is written to.

    Raises:
        RunDirError: if it cannot be.
    """
    try:
        yield
    except OSError as error:
        raise RunDirError(f"cannot write to {path}: {error}") from None


class RunDir:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls, path: Path, config: Config, command: list[str], runtime: str, agents: dict[str, Any] | None = None
    ) -> RunDir:
        """The folder, made if need be, with `config.toml` and `manifest.json`.

        Args:
            path: of the folder.
            config: the experiment.
            command: as typed.
            runtime: `ray` or `local`.
            agents: who decided, if these were agents of an earlier run.

        Raises:
            RunDirError: if it cannot be made.
        """
        manifest = {
            "command": command,
            "runtime": runtime,
            "seed": config.seed,
            "agents": agents,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": {name: version(name) for name in _PACKAGES},
        }
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            (path / CHECKPOINTS).mkdir(exist_ok=True)
            write_whole(path / "config.toml", [to_toml(config).encode()])
            write_json(path / "manifest.json", manifest)
        return cls(path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """While one process fills the folder, no other may.

        Raises:
            RunDirError: if another does, or the folder cannot be written to.
        """
        with ExitStack() as stack:
            with writing(self.path):
                file = stack.enter_context((self.path / "config.toml").open("r+b"))  # NFS: a lock is for who may write
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RunDirError(f"the run in {self.path} is still going on, in another process") from None
            yield

    @classmethod
    def open_unfinished(cls, path: Path) -> RunDir:
        """A folder that holds a run that was interrupted.

        Raises:
            RunDirError: if it does not.
        """
        if (path / SUMMARY).is_file():
            raise RunDirError(f"the run in {path} is finished; `cfmimo report {path}` draws its figures again")
        if not all((path / name).is_file() for name in ("config.toml", "manifest.json", JOURNAL)):
            raise RunDirError(f"{path} holds no run that could go on")
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """A folder that holds a finished run.

        Raises:
            RunDirError: if it does not.
        """
        if not (path / SUMMARY).is_file():
            raise RunDirError(f"{path} holds no finished run: it has no {SUMMARY}")
        return cls(path)

    def write_results(self, record: Record, summary: dict[str, Any], faults: dict[str, Any]) -> None:
        """Write the tables, the faults and the summary."""
        written = {
            "slots": tables.slots(record),
            "aps": tables.aps(record),
            "ues": tables.ues(record),
            "links": tables.links(record),
        }
        if len((believed := tables.beliefs(record))["ap"]):
            written["beliefs"] = believed
        for name, table in written.items():
            self._write_table(name, table)
        write_json(self.path / "faults.json", faults)
        write_json(self.path / SUMMARY, summary)  # last: with it the run is finished

    def forget_journal(self) -> None:
        """Remove the journal of a run whose results are written."""
        (self.path / JOURNAL).unlink(missing_ok=True)

    def write_rows(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Rows as a table of their flat columns; a column without any value is one of numbers."""
        columns = {
            column: pa.array(values, None if any(value is not None for value in values) else pa.float64())
            for column, values in flat_columns(rows).items()
        }
        self._write_table(name, columns)

    def _write_table(self, name: str, columns: dict[str, Any]) -> None:
        content = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), content, compression="zstd")
        write_whole(self.path / f"{name}.parquet", [content.getvalue()])

    def arrow(self, name: str) -> ArrowTable:
        """`slots`, `aps`, `ues`, `links`, or `beliefs` where APs have any, as an Arrow table.

        Raises:
            RunDirError: if it is not there.
        """
        file = self.path / f"{name}.parquet"
        if not file.is_file():
            raise RunDirError(f"{self.path} holds no {file.name}")
        return pq.read_table(file)

    def table(self, name: str) -> Table:
        """The same as arrays by column."""
        table = self.arrow(name)
        return {column: table[column].to_numpy() for column in table.column_names}

    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds."""
        return self._json("summary")

    def struck(self) -> dict[str, Any]:
        """What `faults.json` holds; empty lists for what it does not tell."""
        return {**NOTHING, **(self._json("faults") if (self.path / "faults.json").is_file() else {})}

    def manifest(self) -> dict[str, Any]:
        """What `manifest.json` holds."""
        return self._json("manifest")

    def _json(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / f"{name}.json").read_text())
        return content


def write_json(path: Path, content: Any) -> None:
    """Write a file of JSON, whole or not at all."""
    write_whole(path, [json.dumps(content, indent=2).encode(), b"\n"])


def flat_columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """By column, a value per row; {"rate": {"mean": 1}} is column rate_mean, and what a row lacks is None."""
    nested = {name for row in rows for name, value in row.items() if isinstance(value, dict)}
    columns: dict[str, list[Any]] = {}
    for index, row in enumerate(rows):
        for name, value in row.items():
            if name not in nested:
                parts = {name: value}
            else:
                parts = {f"{name}_{part}": inner for part, inner in (value or {}).items()}
            for column, part in parts.items():
                columns.setdefault(column, [None] * len(rows))[index] = part
    return columns


def _commit() -> str | None:
    """The commit of the checkout that this code runs from; None outside one."""
    try:
        git = subprocess.run(  # noqa: S603
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return git.stdout.strip()


NOTHING: dict[str, Any] = dict.fromkeys(("planned", "fired", "restarts", "comebacks", "given_up", "watchdog"), ())
