"""The boards: such as Grafana's own types allow, well laid out, and with data behind every query."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.boards import BOARDS, ROOT, Query, expanded, queries, unanswered
from tests.deploy.watched import Watched, until

SCHEMA = json.loads((Path(__file__).parent / "grafana_schema/schema.json").read_text())
ANNOTATION = {"titleFormat", "tagKeys"}  # are of Grafana's plugin for Prometheus, whose types are not in the schema
QUERY = {"expr", "interval", "legendFormat"}  # likewise
GRAFANA = ROOT / "deploy/grafana"
pytestmark = pytest.mark.deploy
each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def problems(board: dict[str, Any]) -> list[str]:
    """What Grafana's types do not allow in a board."""
    board = copy.deepcopy(board)
    for annotation in board["annotations"]["list"]:
        for part, keys in ((annotation, ANNOTATION), (annotation["target"], QUERY)):
            assert part.keys() >= keys
            for key in keys:
                del part[key]
    parts = [("board", board)]
    for panel in board["panels"]:
        custom = panel["fieldConfig"]["defaults"].get("custom", {})
        parts.append((panel["type"], {"options": panel["options"], "custom": custom}))
    types = SCHEMA["definitions"]["Boards"]["properties"]
    return [
        f"{name}: {error.json_path}: {error.message:.300}"
        for name, part in parts
        for error in jsonschema.Draft7Validator(types[name]).iter_errors(part)
    ]


@each_board
def test_a_board_is_of_grafanas_types(board: dict[str, Any]) -> None:
    assert problems(board) == []


@each_board
def test_the_schema_finds_misspelt_keys(board: dict[str, Any]) -> None:
    for where in (lambda b: b, lambda b: b["panels"][0], lambda b: b["panels"][0]["options"]):
        damaged = copy.deepcopy(board)
        where(damaged)["colour"] = "red"
        assert problems(damaged)


def test_ids_are_unique() -> None:
    uids = [board["uid"] for board in BOARDS.values()]
    assert len(set(uids)) == len(uids) == len({board["title"] for board in BOARDS.values()})
    for board in BOARDS.values():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in board["panels"]:
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references) > 0


@each_board
def test_panels_do_not_overlap_and_fill_their_rows(board: dict[str, Any]) -> None:
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells, panel["title"]
        cells |= own
    assert cells == {(x, y) for x in range(24) for y in range(max(y for _, y in cells) + 1)}


@each_board
def test_data_come_from_the_source_that_is_chosen(board: dict[str, Any]) -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    variables = [variable for variable in board["templating"]["list"] if variable["type"] == "query"]
    assert board["templating"]["list"][0]["name"] == "datasource"
    for part in (*board["panels"], *board["annotations"]["list"], *variables):
        assert part["datasource"] == chosen
    known = {variable["name"] for variable in board["templating"]["list"]}
    used = {name for name in ("instance", "ap") for query in queries(board) if f"${name}" in query.expr}
    assert used | {"datasource"} == known


@each_board
def test_every_panel_says_what_it_shows(board: dict[str, Any]) -> None:
    for panel in board["panels"]:
        assert panel["title"]
        assert len(panel["description"]) >= 10, panel["title"]


def test_cooperation_has_the_same_colour_everywhere() -> None:
    colours: dict[str, set[str]] = {}
    for panel in (panel for board in BOARDS.values() for panel in board["panels"]):
        for override in panel["fieldConfig"]["overrides"]:
            for change in (change for change in override["properties"] if change["id"] == "color"):
                colours.setdefault(override["matcher"]["options"], set()).add(change["value"]["fixedColor"])
    assert len(colours["with cooperation"]) == len(colours["no cooperation"]) == 1
    assert colours["with cooperation"] != colours["no cooperation"]


@each_board
def test_overrides_name_series_that_the_panel_has(board: dict[str, Any]) -> None:
    for panel in board["panels"]:
        names = {target["legendFormat"] for target in panel["targets"]}
        assert {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]} <= names


def test_what_is_provisioned_is_there() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/cfmimo.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"  # where compose mounts the folder
    assert len(BOARDS) == 4


def test_a_variable_that_is_not_expanded_is_found() -> None:
    with pytest.raises(AssertionError, match="a variable"):
        expanded("cfmimo_ap_up{ap=~'$aps'}", "a")


def test_every_query_of_every_board_has_data(watched: Watched) -> None:
    until(lambda: unanswered(watched.prometheus.url, watched.instance, of_ray=False), wanted=[])


def test_a_query_for_a_metric_that_there_is_not_is_found(watched: Watched) -> None:
    for expr in ("cfmimo_no_such_metric", "label_values(cfmimo_no_such_metric, ap)"):
        assert not watched.prometheus.has(Query("nowhere", expr), watched.instance)
