"""Regenerates the printed results and the figures of README.md and docs/, as results/manifest.toml says.

The commands of a result run as a person types them, in a scratch folder that looks like the checkout but has no runs.
What they print replaces the block after the marker `<!-- result: NAME -->`; a figure replaces the file of the picture
after its marker. A command that several results share runs once. A result whose commands fail leaves its pages as they
are, the others follow, and the exit status is 1.
Example: python -m results --only demo,loss
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import tomlkit

ROOT = Path(__file__).parent.parent
MANIFEST = ROOT / "results/manifest.toml"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_ELSEWHERE = {".git", "docs", "runs"}  # of the checkout's entries, what the scratch folder has for itself
_RUN_DIR = re.compile(r": (\S+) \(open report\.html\)$", re.MULTILINE)
_SHOWN = re.compile(r"<!-- result: (\S+) -->\n(?:```\n(.*?)^```$|!\[[^]]*\]\(([^)]+)\))", re.DOTALL | re.MULTILINE)


class FailedError(Exception):
    """A result did not come about."""


@dataclass(frozen=True)
class Shown:
    """What stands after a marker."""

    page: Path
    name: str
    text: str | None  # of a block
    picture: Path | None


@dataclass(frozen=True)
class Output:
    """What came of a command."""

    text: str
    seconds: float


Run = Callable[[str], Output]


def shown(pages: Sequence[Path]) -> list[Shown]:
    """Everything that stands after a marker in pages."""
    return [
        Shown(page, found[1], found[2], page.parent / found[3] if found[3] else None)
        for page in pages
        for found in _SHOWN.finditer(page.read_text("utf-8"))
    ]


def names_of(entry: Mapping[str, Any]) -> set[str]:
    """The markers that an entry of the manifest serves."""
    return {*entry.get("prints", ()), *entry.get("figures", ())}


def typed(command: str) -> str:
    """A command as a block shows it."""
    return f"$ {command}\n"


def excerpt(text: str, part: Any) -> str:
    """What a block shows of an output: all, or what comes before a pattern, of which the lines that match another."""
    if part == "all":
        return text
    lines = text.splitlines(keepends=True)
    last = next((i for i, line in enumerate(lines) if "until" in part and re.search(part["until"], line)), len(lines))
    return "".join(line for line in lines[:last] if re.search(part.get("keep", ""), line))


def regenerate(manifest: Path, pages: Sequence[Path], only: Sequence[str] = ()) -> int:
    """Run the commands of results and put what they bring into pages; returns how many failed.

    Args:
        manifest: what there is; the commit, the date and the seconds of what succeeds are written there.
        pages: to change.
        only: names of results, or of markers; all if empty.

    Raises:
        SystemExit: if one of the names is unknown.
    """
    entries = tomlkit.parse(manifest.read_text("utf-8"))
    if unknown := set(only) - entries.keys() - set().union(*map(names_of, entries.values())):
        sys.exit(f"results: unknown: {', '.join(sorted(unknown))}; there are {', '.join(entries)}")
    wanted = [name for name in entries if not only or {name, *names_of(entries[name])} & set(only)]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        run = commands_in(scratch)
        for number, name in enumerate(wanted, start=1):
            _say(f"{number} of {len(wanted)}: {name}")
            made_from = commit()
            try:
                seconds = _regenerate(entries[name], scratch, run, pages)
            except FailedError as error:
                failed += 1
                _say(f"{name} failed, its pages stay as they are: {error}")
                continue
            entries[name].update(commit=made_from, date=date.today().isoformat(), seconds=round(seconds))
            manifest.write_text(tomlkit.dumps(entries), "utf-8")
            _say(f"{name} took {seconds:.0f} s")
    return failed


def _regenerate(entry: Mapping[str, Any], scratch: Path, run: Run, pages: Sequence[Path]) -> float:
    """One result; returns the seconds of its commands."""
    needs = {command: run(command) for command in entry.get("needs", ())}
    outputs = {command: run(command) for command in entry["commands"]}
    texts = {}
    for name, part in entry.get("prints", {}).items():
        blocks = [typed(command) for command in needs]
        blocks += [typed(command) + excerpt(output.text, part) for command, output in outputs.items()]
        texts[name] = "".join(blocks)
    figures = {name: _figure(scratch, source, outputs) for name, source in entry.get("figures", {}).items()}
    for page in pages:
        page.write_text(_SHOWN.sub(lambda found: _replaced(found, texts), page.read_text("utf-8")), "utf-8")
    for place in shown(pages):
        if place.picture and place.name in figures:
            shutil.copy(figures[place.name], place.picture)
    return sum(output.seconds for output in (*needs.values(), *outputs.values()))


def _figure(scratch: Path, source: str, outputs: Mapping[str, Output]) -> Path:
    """The file of a figure: drawn into docs/, or in the run directory that the last command named."""
    if source.startswith("docs/"):
        path = scratch / source
    else:
        named = _RUN_DIR.findall(list(outputs.values())[-1].text)
        if not named:
            raise FailedError(f"{source} is in a run directory, but the command printed none")
        path = scratch / named[-1] / source
    if not path.is_file():
        raise FailedError(f"no figure {source}")
    return path


def _replaced(found: re.Match[str], texts: Mapping[str, str]) -> str:
    if found[2] is None or found[1] not in texts:
        return found[0]
    return f"<!-- result: {found[1]} -->\n```\n{texts[found[1]]}```"


def commands_in(scratch: Path) -> Run:
    """Make a folder look like the checkout, without its runs and pages; returns how commands run there, each once."""
    for path in ROOT.iterdir():
        if path.name not in _ELSEWHERE:
            (scratch / path.name).symlink_to(path)
    (scratch / "docs").mkdir()
    ours = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "FORCE_COLOR", "COLUMNS"}  # of `make results` and of its terminal
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    binaries = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment |= {"PATH": binaries, "PYTHONPATH": str(ROOT), "MAKEFLAGS": "--silent"}

    @cache
    def run(command: str) -> Output:
        _say(command)
        began = time.monotonic()
        # standard error passes through `cat`, so that what is printed does not depend on a terminal
        script = f"set -o pipefail; exec 2> >(cat >&2); {command}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=scratch,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            raise FailedError(f"exit status {done.returncode} of {command}\n{done.stdout}")
        text = "".join(f"{line.rstrip()}\n" for line in done.stdout.strip("\n").splitlines())
        return Output(text, time.monotonic() - began)

    return run


def commit() -> str:
    """What HEAD is, and whether code was changed since."""
    git = ("git", "-C", str(ROOT))
    head = subprocess.check_output([*git, "rev-parse", "--short=10", "HEAD"], text=True).strip()
    pages = [f":!{path.relative_to(ROOT)}" for path in (*PAGES, MANIFEST)]
    changed = subprocess.check_output([*git, "status", "--porcelain", "--", ".", ":!docs/*.png", *pages], text=True)
    return head + "-dirty" * bool(changed)


def _say(text: str) -> None:
    print(f"[results] {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Regenerate what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME,NAME", help="results, or markers (default: all)")
    names = [name for name in parser.parse_args().only.split(",") if name]
    sys.exit(regenerate(MANIFEST, PAGES, names) > 0)


if __name__ == "__main__":
    main()
