"""Prometheus' config and rules, by promtool: each rule where it is to speak, and where it is to be silent."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.watched import Watched, until

HERE = Path(__file__).parents[2] / "deploy/prometheus"
RULES = {
    rule.get("alert") or rule["record"]: rule
    for file in sorted((HERE / "rules").glob("*.yml"))
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
}
ALERTS = {name: rule for name, rule in RULES.items() if "alert" in rule}
UNIT_TESTS = sorted((HERE / "tests").glob("*.yml"))
pytestmark = pytest.mark.deploy


def promtool(*arguments: str | Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool here: Debian's package prometheus has it")
    result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_accepts_the_config_and_all_rules() -> None:
    promtool("check", "config", HERE / "prometheus.yml")
    assert len(RULES) >= len(ALERTS) > 0


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_rules_say_what_they_are_to_say(file: Path) -> None:
    promtool("test", "rules", file)


def unit_tested() -> list[dict[str, Any]]:
    files = [yaml.safe_load(file.read_text()) for file in UNIT_TESTS]
    return [case for file in files for test in file["tests"] for case in test["promql_expr_test"]]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_a_unit_test(name: str) -> None:
    cases = [case for case in unit_tested() if name in re.findall(r"[\w:]+", case["expr"])]
    assert any(case["exp_samples"] for case in cases), f"{name} is never to say anything"
    if name in ALERTS:
        assert not all(case["exp_samples"] for case in cases), f"{name} is never to be silent"


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_whom_it_concerns_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    whom = "$labels.ap" if "cfmimo_ap_" in alert["expr"] else "$labels.instance"
    assert whom in alert["annotations"]["summary"]
    assert len(alert["annotations"]["description"]) > 80


def test_all_rules_work_on_a_real_run(watched: Watched) -> None:
    until(watched.prometheus.wrong_rules, wanted=[])


def test_alerts_of_a_real_run_read_well(watched: Watched) -> None:
    def alerts() -> list[dict[str, Any]]:  # firing or pending
        known: list[dict[str, Any]] = watched.prometheus.get("alerts")["alerts"]
        return known

    wanted = {"ApDown", "SlotsMissed", "MessagesUnknown", "LiarFlagged"}
    until(lambda: wanted <= {alert["labels"]["alertname"] for alert in alerts()})
    for alert in alerts():
        assert not re.search("error|<no value>|%!", alert["annotations"]["summary"])


def test_a_run_that_is_killed_halfway_is_missed(watched: Watched) -> None:  # the last one: what it watches is gone
    until(lambda: bool(watched.prometheus.get("query", query="cfmimo:seconds_left > 60")["result"]))
    watched.run.kill()

    def told() -> list[str]:
        gone = {"alertname": "CoordinatorDown", "instance": watched.instance}.items()
        return [alert["annotations"]["summary"] for alert in watched.told if gone <= alert["labels"].items()]

    until(lambda: bool(told()))
    assert told()[0].startswith(f"The coordinator at {watched.instance} is gone, with ")
