"""The boards as Grafana would use them: every query, its variables expanded, put to a Prometheus."""

import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BOARDS = {
    path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
}
_LABEL_VALUES = re.compile(r"label_values\((?P<series>.+), (?P<label>\w+)\)")


@dataclass(frozen=True)
class Query:
    """One query of a board, as written."""

    where: str  # board and panel
    expr: str
    instant: bool = False

    @property
    def of_ray(self) -> bool:
        """Whether it asks for what only a cluster started by `ray start` exports: the compose suite runs these."""
        return "ray_" in self.expr


def queries(board: dict[str, Any]) -> Iterator[Query]:
    """All queries of a board: of its variables, annotations and panels."""
    title = board["title"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield Query(f"{title}: variable {variable['name']}", variable["query"]["query"])
    for annotation in board["annotations"]["list"]:
        yield Query(f"{title}: annotation {annotation['name']}", annotation["target"]["expr"])
    for panel in board["panels"]:
        for target in panel["targets"]:
            where = f"{title}: {panel['title']} ({target['refId']})"
            yield Query(where, target["expr"], target.get("instant", False))


class Prometheus:
    """What Grafana and the tests ask a Prometheus server."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def get(self, path: str, **parameters: object) -> Any:
        """The data of an answer of its API.

        Raises:
            urllib.error.HTTPError: if it refuses, as for a query that it cannot parse.
        """
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310  our own server
            return json.load(response)["data"]

    def has(self, query: Query, instance: str, minutes: float = 15) -> bool:
        """Whether it has an answer to a board's query for the run at `instance`, in the time that the board shows."""
        expr = expanded(query.expr, instance)
        now = time.time()
        if match := _LABEL_VALUES.fullmatch(expr):
            return bool(
                self.get(f"label/{match['label']}/values", **{"match[]": match["series"], "start": now - 60 * minutes})
            )
        if query.instant:
            return bool(self.get("query", query=expr)["result"])
        return bool(self.get("query_range", query=expr, start=now - 60 * minutes, end=now, step=5)["result"])

    def wrong_rules(self) -> list[str]:
        """Rules that it could not evaluate, and recording rules that have recorded nothing."""
        rules = [rule for group in self.get("rules")["groups"] for rule in group["rules"]]
        sick = [
            f"{rule['name']}: {rule.get('lastError') or rule['health']}" for rule in rules if rule["health"] != "ok"
        ]
        names = sorted(rule["name"] for rule in rules if rule["type"] == "recording")
        now = time.time()
        silent = [
            f"{name}: records nothing"
            for name in names
            if not self.get("query_range", query=name, start=now - 900, end=now, step=5)["result"]
        ]
        return sick + silent if rules else ["there are no rules"]


def expanded(expr: str, instance: str) -> str:
    """The query with Grafana's variables replaced, as on a board that shows all APs of the run at `instance`."""
    values = {"instance": instance, "ap": ".*", "__rate_interval": "30s", "__interval": "5s", "__range": "900s"}
    for name, value in values.items():
        expr = re.sub(rf"\${name}\b|\$\{{{name}\}}", value, expr)
    assert "$" not in expr, f"a variable that no board has: {expr}"
    return expr


def unanswered(url: str, instance: str, of_ray: bool = True) -> list[str]:
    """The queries of all boards that a Prometheus has no data for, or refuses.

    Args:
        url: of the Prometheus, which scrapes a run with faults: kills, a liar, frames damaged.
        instance: under which it knows the run, as "head:9100".
        of_ray: also those of what Ray exports.
    """
    prometheus, failed = Prometheus(url), []
    for query in [query for board in BOARDS.values() for query in queries(board)]:
        if query.of_ray and not of_ray:
            continue
        try:
            if not prometheus.has(query, instance):
                failed.append(f"{query.where}: nothing for {query.expr}")
        except OSError as error:
            failed.append(f"{query.where}: {error}: {query.expr}")
    return failed
