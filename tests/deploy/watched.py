"""A real run with faults, watched by a real Prometheus and Alertmanager that have the configs that ship."""

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.boards import ROOT, Prometheus

PROGRAMS = ("prometheus", "prometheus-alertmanager")
PLAN = """\
[[faults]]
slot = 20
target = "ap/1"
action = "kill"
args = {slots = 1000000} # for good

[[faults]]
slot = 5
target = "ap/8-15"
action = "lie"
args = {slots = 1000000}

[[faults]]
slot = 30
target = "ap/2-4"
action = "kill"
share = 0.3
every = 40

[[links]]
loss = 0.15
corruption = 0.02
"""


def until(found: Callable[[], object], wanted: object = True, seconds: float = 120) -> None:
    """Wait until something is what is wanted."""
    give_up = time.monotonic() + seconds
    while (last := found()) != wanted:
        assert time.monotonic() < give_up, f"after {seconds} s it is still {last}"
        time.sleep(0.5)


@dataclass
class Watched:
    """What watches, and what is watched."""

    prometheus: Prometheus
    alertmanager: str  # its URL
    instance: str  # of the run
    run: subprocess.Popen[bytes]
    told: list[dict[str, Any]]  # what Alertmanager told its receiver

    def alerts(self) -> list[dict[str, Any]]:
        """All that Alertmanager knows of."""
        with urllib.request.urlopen(f"{self.alertmanager}/api/v2/alerts", timeout=10) as answer:  # noqa: S310
            alerts: list[dict[str, Any]] = json.load(answer)
        return alerts

    def post(self, *alerts: dict[str, Any]) -> None:
        """Tell Alertmanager of alerts, as Prometheus does."""
        request = urllib.request.Request(  # noqa: S310
            f"{self.alertmanager}/api/v2/alerts", json.dumps(alerts).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310


@contextmanager
def watched_run(folder: Path) -> Iterator[Watched]:
    """Start all of it; skips where a program is missing."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} here: Debian's packages of these names have them")
    with ExitStack() as stack:
        told: list[dict[str, Any]] = []
        receiver = stack.enter_context(_receiver(told))
        ports = dict(zip(("run", "prometheus", "alertmanager"), _free_ports(3), strict=True))
        _write_configs(folder, ports, receiver)
        (folder / "plan.toml").write_text(PLAN)
        run = [
            *(sys.executable, "-m", "cfmimo", "run", "demo", "--runtime", "local", "--quiet"),
            *("--set", "run.episodes=1000", "run.blocks_per_slot=1", "--faults", folder / "plan.toml"),
            *("--metrics-port", str(ports["run"]), "--out", folder / "run"),
        ]
        process = stack.enter_context(_running(run, folder / "run.log"))
        address = f"127.0.0.1:{ports['alertmanager']}"
        config, data = f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alertmanager"
        command = [
            "prometheus-alertmanager",
            config,
            data,
            f"--web.listen-address={address}",
            "--cluster.listen-address=",
        ]
        stack.enter_context(_running(command, folder / "alertmanager.log"))
        alertmanager = f"http://{address}"
        address = f"127.0.0.1:{ports['prometheus']}"
        config, data = f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/prometheus"
        command = ["prometheus", config, data, f"--web.listen-address={address}"]
        stack.enter_context(_running(command, folder / "prometheus.log"))
        for url in (f"{alertmanager}/-/ready", f"http://{address}/-/ready", f"http://127.0.0.1:{ports['run']}/metrics"):
            until(lambda url=url: _answers(url))
        instance = f"127.0.0.1:{ports['run']}"
        yield Watched(Prometheus(f"http://{address}"), alertmanager, instance, process, told)


def _write_configs(folder: Path, ports: dict[str, int], receiver: str) -> None:
    """The configs that ship, with addresses of here, and a receiver."""
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = {"cfmimo": ports["run"], "prometheus": ports["prometheus"]}
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] in targets]  # no Ray here
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{targets[job['job_name']]}"]}]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"127.0.0.1:{ports['alertmanager']}"]}]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copytree(ROOT / "deploy/prometheus/rules", folder / "rules")
    config = yaml.safe_load((ROOT / "deploy/alertmanager/alertmanager.yml").read_text())
    config["receivers"][0]["webhook_configs"] = [{"url": receiver, "send_resolved": True}]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))


@contextmanager
def _running(command: list[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


@contextmanager
def _receiver(told: list[dict[str, Any]]) -> Iterator[str]:
    """A server that remembers what is posted to it; its URL."""

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing of each request."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:  # not yet
        return False
