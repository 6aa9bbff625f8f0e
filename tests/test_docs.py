"""Pages say what the code says, and what was measured."""

import importlib.util
import os
import pty
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from apnode.config import Config
from cfmimo.cli.main import parser
from cfmimo.presets import settings
from results.__main__ import MANIFEST, PAGES, ROOT, names_of, regenerate, shown, typed

DRAWN_BY_HAND: set[str] = set()
RESULTS: dict[str, Any] = tomlkit.parse(MANIFEST.read_text("utf-8")).unwrap()


def test_the_readme_fits_two_screens() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("option", [name for name in settings(Config) if name not in Config.model_fields])
def test_every_option_is_used_by_a_preset_or_named_on_a_page(option: str) -> None:
    """So that one which nobody needs is found, and goes."""
    section, key = option.split(".")
    presets = [tomlkit.parse(path.read_text("utf-8")).unwrap() for path in (ROOT / "cfmimo/presets").glob("*.toml")]
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    named = re.search(rf"\b{section}\.{key}\b|`\.?{key}`|`{key} =", text)
    assert named or any(key in preset.get(section, ()) for preset in presets)


def test_every_result_of_the_pages_is_in_the_manifest() -> None:
    markers = sum(page.read_text("utf-8").count("<!-- result:") for page in PAGES)
    assert len(shown(PAGES)) == markers, "a marker is followed by neither a block nor a picture"
    printed = {place.name for place in shown(PAGES) if place.text is not None}
    drawn = {place.name for place in shown(PAGES) if place.picture}
    assert printed == {name for entry in RESULTS.values() for name in entry.get("prints", ())}
    assert drawn == {name for entry in RESULTS.values() for name in entry.get("figures", ())}


def test_every_output_of_a_command_in_the_pages_is_a_result() -> None:
    blocks = sum(page.read_text("utf-8").count("```\n$ ") for page in PAGES)
    assert blocks == sum(place.text is not None for place in shown(PAGES))


def test_every_figure_of_the_pages_is_a_result_or_drawn_by_hand() -> None:
    results = {place.picture.name for place in shown(PAGES) if place.picture}
    pictures = {path.name for kind in ("png", "svg", "jpg") for path in (ROOT / "docs").glob(f"*.{kind}")}
    assert pictures - DRAWN_BY_HAND == results


@pytest.mark.parametrize("name", RESULTS)
def test_the_commands_of_a_result_are_commands(name: str) -> None:
    for command in (*RESULTS[name].get("needs", ()), *RESULTS[name]["commands"]):
        match shlex.split(re.sub(r"^[A-Z_]+=\S+ ", "", command.partition(" | ")[0])):
            case ["cfmimo", *arguments]:
                parser().parse_args(arguments)  # exits if it does not understand them
            case ["python", "-m", module, *_]:
                assert importlib.util.find_spec(module), module
            case ["make", target]:
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            case other:
                pytest.fail(f"neither of cfmimo, nor of this checkout: {other}")


def test_a_result_is_from_a_commit_and_shows_the_commands_that_it_came_from() -> None:
    for entry in (entry for entry in RESULTS.values() if "commit" in entry):
        assert re.fullmatch("[0-9a-f]{10}", entry["commit"]), f"made from code that is in no commit: {entry}"
        lines = "".join(typed(command) for command in (*entry.get("needs", ()), *entry["commands"])).splitlines()
        for place in shown(PAGES):
            if place.name in names_of(entry) and place.text is not None:
                assert [line for line in place.text.splitlines() if line.startswith("$ ")] == lines


def test_a_page_shows_the_table_that_the_aps_run_by(tmp_path: Path) -> None:
    page, manifest = tmp_path / "protocol.md", tmp_path / "manifest.toml"
    before = (ROOT / "docs/protocol.md").read_text("utf-8")
    page.write_text(before.replace("AGREEING  ", "QUARRELLING"), "utf-8")
    shutil.copy(MANIFEST, manifest)
    assert regenerate(manifest, [page], ["phases"]) == 0
    assert page.read_text("utf-8") == before


PAGE = """\
<!-- result: all -->
```
stale
```
<!-- result: some -->
```
stale
```
<!-- result: figure -->
![A figure](old.png)
<!-- result: broken -->
```
stays
```
"""
ENTRIES = """\
[broken]
commands = ["echo fresh; false"]
prints.broken = "all"

[works]
needs = ["echo drawn > new.png; echo hidden"]
commands = ["test -t 2 && echo one terminal; printf 'one ± 1\\n\\ntwo\\none 2\\npage: . (open report.html)\\n'"]
prints.all = "all"
prints.some = { until = "two", keep = "one" }
figures.figure = "new.png"

[unwanted]
commands = ["echo fresh"]
prints.unwanted = "all"
"""


@contextmanager
def terminal() -> Iterator[None]:
    """Standard error is a terminal."""
    before, ends = os.dup(2), pty.openpty()
    os.dup2(ends[1], 2)
    yield
    os.dup2(before, 2)
    for descriptor in (before, *ends):
        os.close(descriptor)


def test_results_are_put_where_they_are_shown_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    page, manifest = tmp_path / "page.md", tmp_path / "manifest.toml"
    page.write_text(PAGE, "utf-8")
    manifest.write_text(ENTRIES, "utf-8")
    (tmp_path / "old.png").write_text("stale")
    with terminal():
        assert regenerate(manifest, [page], ["broken", "some"]) == 1
    entries = tomlkit.parse(manifest.read_text("utf-8")).unwrap()
    assert ["commit" in entry for entry in entries.values()] == [False, True, False]
    typed_in = "".join(typed(command) for command in (*entries["works"]["needs"], *entries["works"]["commands"]))
    assert {place.name: place.text for place in shown([page])} == {
        "all": f"{typed_in}one ± 1\n\ntwo\none 2\npage: . (open report.html)\n",
        "some": f"{typed_in}one ± 1\n",
        "figure": None,
        "broken": "stays\n",
    }
    assert (tmp_path / "old.png").read_text() == "drawn\n"


def test_a_picture_that_was_regenerated_has_all_its_colours() -> None:
    regenerated = {name for entry in RESULTS.values() if "commit" in entry for name in entry.get("figures", ())}
    for place in shown(PAGES):
        if place.picture and place.name in regenerated:
            assert place.picture.read_bytes()[25] in (2, 6), f"{place.picture} is reduced to a palette"


def test_an_unknown_result_is_refused() -> None:
    with pytest.raises(SystemExit, match="unknown: nothing"):
        regenerate(MANIFEST, PAGES, ["demo", "nothing"])
