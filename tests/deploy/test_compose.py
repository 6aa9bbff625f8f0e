"""docker-compose.yml for real: all healthy, a run that trains, machines added, killed and cut off, and nothing left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.deploy.boards import Prometheus, unanswered
from tests.deploy.engine import BASE, ROOT, Engine

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

NUM_APS = 20
RUN = "demo --faults /runs/plan.toml --set run.episodes=1000 run.slot_s=0.2 run.slot_deadline_s=1"
PLAN = """
[[faults]]
slot = 40
target = "ap/*"
action = "kill"
share = 0.3

[[faults]]
slot = 5
target = "ap/8-15"
action = "lie"
args = {slots = 1000000}

[[links]]
loss = 0.01
corruption = 0.01
last = 100
"""
FAULTS_END = 120  # slot
PROMETHEUS = "http://127.0.0.1:9090"
SERVED = {"127.0.0.1:9090", "127.0.0.1:9093", "127.0.0.1:9100"}  # Grafana's 3000 is published, too, where it runs
_PATIENCE_S = 240.0
WITHOUT_GRAFANA = "services: {grafana: {profiles: [not-here]}}\n"  # its image cannot be pulled on every machine


class Stack:
    """`docker compose` in a folder that has what a user has after a checkout, and `make secrets`."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder

    def compose(self, *arguments: str, timeout_s: float = 300.0) -> str:
        env = {**self.engine.env, "CFMIMO_RUN": RUN}
        return self.engine.docker("compose", *arguments, timeout_s=timeout_s, cwd=self.folder, env=env)

    def container(self, service: str, number: int) -> str:
        return f"{self.folder.name}-{service}-{number}"

    def state(self, container: str, template: str) -> str:
        return self.engine.docker("inspect", container, "--format", template)

    def logs(self) -> str:
        return self.compose("logs", "--tail", "30", "run", "head")


def query(expression: str) -> float:
    """The value of a PromQL expression of one sample; NaN if it has none."""
    address = f"{PROMETHEUS}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310  our own server
            result = json.load(answer)["data"]["result"]
    except OSError:
        return float("nan")
    return float(result[0]["value"][1]) if result else float("nan")


def wait_for(condition: Callable[[], bool], what: str, stack: Stack) -> None:
    give_up = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, f"not within {_PATIENCE_S:.0f} s: {what}\n{stack.logs()}"
        time.sleep(1)


def is_healthy(stack: Stack, container: str) -> bool:
    return stack.state(container, "{{.State.Health.Status}}") == "healthy"


def slots_go_on(stack: Stack) -> None:
    before = query("cfmimo_slot")
    wait_for(lambda: query("cfmimo_slot") > before + 10, f"ten slots after slot {before}", stack)


@pytest.fixture(scope="module")
def stack(engine: Engine, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("cfmimo-compose")
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("secrets"))
    for name in ("docker-compose.yml", "Makefile"):
        shutil.copy(ROOT / name, folder)
    (folder / "docker-compose.override.yml").write_text(WITHOUT_GRAFANA)
    subprocess.run(["/usr/bin/make", "secrets"], cwd=folder, check=True, capture_output=True)
    (folder / "runs/plan.toml").write_text(PLAN)
    stack = Stack(engine, folder)
    try:
        stack.compose("up", "--detach", "--no-build", timeout_s=400)
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "5")


def test_compose_says_so_when_the_secrets_were_forgotten(engine: Engine, tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    done = engine.attempt("compose", "up", "--no-build", cwd=tmp_path)
    assert done.returncode
    assert "make secrets" in done.stderr


def test_every_service_is_healthy_and_the_run_trains(stack: Stack) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    names = [stack.container(name, 1) for name in services if name not in {"run", "grafana"}]
    for container in [*names, stack.container("worker", 2)]:
        wait_for(partial(is_healthy, stack, container), f"{container} healthy", stack)
    wait_for(lambda: query("cfmimo_slot") > 30, "slot 30", stack)
    assert query("cfmimo_aps") == NUM_APS
    assert query("max(cfmimo_ap_epsilon)") < 1  # they explore less and less
    assert query("sum(cfmimo_sum_rate_bps_hz)") > 10
    assert query('count(up{job="ray"} == 1)') == 3


def test_containers_may_do_little(stack: Stack) -> None:
    for service in ("head", "worker", "prometheus", "alertmanager"):
        container = stack.container(service, 1)
        user = stack.engine.docker("exec", container, "id", "-u")
        assert user != "0", service
        assert stack.state(container, "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}") == "true [ALL]"
        assert stack.state(container, "{{.HostConfig.Memory}}") != "0"


def test_the_job_api_wants_the_token(stack: Stack) -> None:
    ask = (
        "import urllib.request as u, urllib.error, sys\n"
        "r = u.Request('http://head:8265/api/jobs/', headers=dict(a.split(': ') for a in sys.argv[1:]))\n"
        "try: print(u.urlopen(r, timeout=10).status)\n"
        "except urllib.error.HTTPError as e: print(e.code)"
    )
    worker = stack.container("worker", 1)
    token = (stack.folder / "deploy/secrets/ray_token").read_text()
    assert stack.engine.docker("exec", worker, "python3", "-c", ask) in {"401", "403"}
    assert stack.engine.docker("exec", worker, "python3", "-c", ask, "Authorization: Bearer wrong") in {"401", "403"}
    assert stack.engine.docker("exec", worker, "python3", "-c", ask, f"Authorization: Bearer {token}") == "200"


def test_outside_only_loopback_ports_answer(stack: Stack) -> None:
    ids = stack.compose("ps", "--quiet").split()
    published = "{{range $port, $to := .NetworkSettings.Ports}}{{range $to}}{{.HostIp}}:{{.HostPort}} {{end}}{{end}}"
    assert set(" ".join(stack.state(container, published) for container in ids).split()) == SERVED
    listening = subprocess.run(["/usr/bin/ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    ours = [line.split()[3] for line in listening.splitlines() if "docker-proxy" in line]
    assert set(ours) == SERVED
    head = stack.state(stack.container("head", 1), "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    stranger = f"{stack.folder.name}-stranger"
    stack.engine.docker("network", "create", stranger)
    knock = f"import socket; socket.setdefaulttimeout(3); socket.create_connection(('{head}', 8265))"
    try:
        run = ("run", "--rm", "--network", stranger, "cfmimo", "python3", "-c", knock)
        assert stack.engine.attempt(*run).returncode, "a container of another network reached the head"
    finally:
        stack.engine.docker("network", "rm", stranger)


def test_no_secret_is_in_the_image_or_an_environment(stack: Stack) -> None:
    secrets = [path.read_text() for path in (stack.folder / "deploy/secrets").iterdir()]
    told = [stack.engine.docker("history", "--no-trunc", "cfmimo"), stack.engine.docker("inspect", "cfmimo")]
    told += [stack.state(container, "{{json .}}") for container in stack.compose("ps", "--all", "--quiet").split()]
    assert len(secrets) == 2
    assert not [secret for secret in secrets for text in told if secret in text]


def test_every_query_of_the_boards_and_every_rule_has_data(stack: Stack) -> None:
    wait_for(lambda: query("cfmimo_slot") > FAULTS_END, "the end of the fault plan", stack)
    wait_for(lambda: not Prometheus(PROMETHEUS).wrong_rules(), "rules that record", stack)
    wait_for(lambda: not unanswered(PROMETHEUS, "head:9100"), str(unanswered(PROMETHEUS, "head:9100")), stack)


def test_more_workers_join(stack: Stack) -> None:
    stack.compose("up", "--detach", "--no-build", "--no-recreate", "--scale", "worker=3", "worker")
    wait_for(lambda: query('count(up{job="ray"} == 1)') == 4, "four Ray nodes", stack)
    slots_go_on(stack)


def test_a_killed_worker_is_seen_and_its_aps_go_on_elsewhere(stack: Stack) -> None:
    wait_for(lambda: query("sum(cfmimo_ap_up)") == NUM_APS, "all APs up", stack)
    restarts = query("sum(cfmimo_ap_restarts_total)")
    container = stack.container("worker", 1)
    os.kill(int(stack.state(container, "{{.State.Pid}}")), signal.SIGKILL)
    wait_for(lambda: query("sum(cfmimo_ap_up)") < NUM_APS, "APs down", stack)
    wait_for(lambda: query("sum(cfmimo_ap_up)") == NUM_APS, "all APs back", stack)
    slots_go_on(stack)
    assert query("sum(cfmimo_ap_restarts_total)") > restarts
    assert query("min_over_time(sum(cfmimo_ap_up)[5m:2s])") < NUM_APS
    wait_for(lambda: is_healthy(stack, container), "it is there again", stack)


def test_a_worker_that_is_cut_off_is_replaced_and_comes_back(stack: Stack) -> None:
    network, container = f"{stack.folder.name}_default", stack.container("worker", 2)
    stack.engine.docker("network", "disconnect", network, container)
    wait_for(lambda: query("sum(cfmimo_ap_up)") < NUM_APS, "APs down", stack)
    wait_for(lambda: query("sum(cfmimo_ap_up)") == NUM_APS, "all APs back", stack)
    slots_go_on(stack)
    stack.engine.docker("network", "connect", "--alias", "worker", network, container)
    wait_for(lambda: query('count(up{job="ray"} == 1)') == 4, "four Ray nodes again", stack)


def test_down_leaves_nothing(stack: Stack) -> None:
    stack.compose("down", "--volumes", "--timeout", "10")
    of_it = ("--filter", f"label=com.docker.compose.project={stack.folder.name}")
    for kind in ("container", "network", "volume"):
        listed = stack.engine.docker(kind, "ls", "--quiet", *(("--all",) if kind == "container" else ()), *of_it)
        assert not listed, kind
    assert [path for path in (stack.folder / "runs").iterdir() if re.fullmatch(r"\d{8}-\d{6}", path.name)]


def test_code_changes_are_built_in_seconds(engine: Engine, image: str, tmp_path: Path) -> None:
    """Only the last layers: what pip installed is not installed again."""
    context = tmp_path / "checkout"
    shutil.copytree(ROOT, context, ignore=shutil.ignore_patterns(".venv*", ".git", "runs", ".*_cache", "secrets"))
    with (context / "apnode/protocol/rng.py").open("a") as file:
        file.write("\n# changed\n")
    arguments = (f"--build-arg=BASE_IMAGE={BASE}", "--build-arg=TORCH_INDEX=", "--progress=plain")
    file = ("--file", str(context / "deploy/Dockerfile"))
    done = engine.attempt("build", "--network=host", "--tag", f"{image}-changed", *file, *arguments, str(context))
    assert done.returncode == 0, done.stderr
    cached = re.findall(r"#(\d+) CACHED", done.stderr)
    steps = dict(re.findall(r"#(\d+) \[(.+)\] RUN", done.stderr))
    ran = [step for number, step in steps.items() if number not in cached]
    assert cached
    assert not [step for step in ran if "packages" in step], done.stderr
