"""An alert's way: from a run in which an AP dies, over Prometheus and Alertmanager, to who is to be told."""

import shutil
import subprocess
from typing import Any

import pytest

from tests.deploy.boards import ROOT
from tests.deploy.watched import Watched, until

pytestmark = pytest.mark.deploy


def names_and_aps(alerts: list[dict[str, Any]]) -> set[tuple[str, str | None]]:
    return {(alert["labels"]["alertname"], alert["labels"].get("ap")) for alert in alerts}


def test_alertmanager_accepts_its_config() -> None:
    program = shutil.which("amtool")
    if program is None:
        pytest.skip("no amtool here: Debian's package prometheus-alertmanager has it")
    config = ROOT / "deploy/alertmanager/alertmanager.yml"
    result = subprocess.run([program, "check-config", config], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_who_is_to_be_told_hears_which_ap_has_died(watched: Watched) -> None:
    until(lambda: ("ApDown", "1") in names_and_aps(watched.alerts()))
    until(lambda: ("ApDown", "1") in names_and_aps(watched.told))
    (alert,) = [a for a in watched.alerts() if (a["labels"]["alertname"], a["labels"].get("ap")) == ("ApDown", "1")]
    assert alert["labels"]["severity"] == "warning"
    assert alert["annotations"]["summary"] == "AP 1 has been silent for more than 15 s"
    assert ("ApDown", "0") not in names_and_aps(watched.alerts())  # which nothing has befallen


def test_who_is_to_be_told_hears_who_lies(watched: Watched) -> None:
    liars = {("LiarFlagged", str(ap)) for ap in range(8, 16)}
    until(lambda: bool(liars & names_and_aps(watched.told)))


def test_what_explains_the_other_silences_it(watched: Watched) -> None:
    labels = {"job": "cfmimo", "instance": "elsewhere"}
    down = {"labels": {"alertname": "CoordinatorDown", **labels}}
    watched.post(
        down, *({"labels": {"alertname": "ApDown", "ap": "3", **labels, "instance": of}} for of in ("elsewhere", "b"))
    )

    def states() -> dict[str, str]:
        dead = [alert for alert in watched.alerts() if alert["labels"].get("ap") == "3"]
        return {alert["labels"]["instance"]: alert["status"]["state"] for alert in dead}

    until(states, wanted={"elsewhere": "suppressed", "b": "active"})
