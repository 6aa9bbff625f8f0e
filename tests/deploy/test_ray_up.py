"""`ray up` for real: three hosts with sshd, each with processes of its own; all is typed on a fourth."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.engine import ROOT, Engine

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

HOSTS = ("head", "worker-1", "worker-2")
RUN = ("demo", "--set", "radio.num_aps=24", "run.episodes=5")
CFMIMO = "$HOME/cfmimo/.venv/bin/cfmimo"
SLOTS = 100
RAY = (
    "RAY_UP_enable_autoscaler_v2=0 RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=deploy/secrets/ray_token "
    "~/cfmimo/.venv/bin/ray"
)
HOST_IMAGE = """\
FROM cfmimo
USER root
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends openssh-server rsync python3-venv \
 && rm -rf /var/lib/apt/lists/* && install -d /run/sshd
RUN useradd --create-home --shell /bin/bash someone
COPY --chown=someone key key.pub /home/someone/.ssh/
RUN cd /home/someone/.ssh && cp key.pub authorized_keys && chmod 700 . && chmod 600 key \
 && chown someone . authorized_keys \
 && install -d -o someone /home/someone/cfmimo && ln -s /opt/cfmimo /home/someone/cfmimo/.venv \
 && cd /opt/cfmimo/lib/python3.11/site-packages && chown -R someone apnode channel_server coordinator cfmimo cfmimo-* \
 && chown someone . /opt/cfmimo/bin /opt/cfmimo/bin/cfmimo
CMD ["/usr/sbin/sshd", "-D"]
"""
# On these hosts, which reach no package index, the project is installed over what the image has.
OFFLINE = "~/cfmimo/.venv/bin/pip install --quiet --no-index --no-deps --no-build-isolation ~/cfmimo/src"
SOMEONE = ("--user", "someone", "--env", "HOME=/home/someone", "--env", "USER=someone")


class Hosts:
    """Containers that are machines to `ray up`; one more, `laptop`, has the checkout."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name

    def start(self) -> None:
        self.engine.docker("network", "create", self.name)
        for host in (*HOSTS, "laptop"):
            named = ("--network", self.name, "--name", self.container(host), "--hostname", host)
            self.engine.docker("run", "--detach", "--init", "--shm-size=512m", *named, "cfmimo-test-host")

    def stop(self) -> None:
        for host in (*HOSTS, "laptop"):
            self.engine.attempt("rm", "--force", self.container(host))
        self.engine.attempt("network", "rm", self.name)

    def container(self, host: str) -> str:
        return f"{self.name}-{host}"

    def address(self, host: str) -> str:
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.engine.docker("inspect", self.container(host), "--format", template)

    def on(self, host: str, command: str, timeout_s: float = 300.0) -> str:
        """What a command that someone types on a host prints."""
        shell = ("bash", "-c", f"cd ~/checkout 2>/dev/null; {command}")
        return self.engine.docker("exec", *SOMEONE, self.container(host), *shell, timeout_s=timeout_s)

    def ray_processes(self, host: str) -> int:
        return int(self.on(host, "pgrep -c raylet || true").splitlines()[-1])


@pytest.fixture(scope="module")
def hosts(engine: Engine, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    context = tmp_path_factory.mktemp("host")
    subprocess.run(["/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(context / "key")], check=True)
    (context / "Dockerfile").write_text(HOST_IMAGE)
    engine.build("cfmimo-test-host", context / "Dockerfile", context)
    hosts = Hosts(engine, "cfmimo-ray-up")
    try:
        hosts.start()
        checkout = context / "checkout"
        unwanted = shutil.ignore_patterns(".venv*", ".git", "runs", ".*_cache", "secrets", "tests", "__pycache__")
        shutil.copytree(ROOT, checkout, ignore=unwanted)
        cluster = yaml.safe_load((ROOT / "deploy/ray/cluster.yaml").read_text())
        cluster["provider"] |= {"head_ip": hosts.address("head")}
        cluster["provider"]["worker_ips"] = [hosts.address(host) for host in HOSTS[1:]]
        cluster["auth"] = {"ssh_user": "someone", "ssh_private_key": "~/.ssh/key"}
        installs = [" install " in command for command in cluster["setup_commands"]]
        assert installs.count(True) == 1
        cluster["setup_commands"][installs.index(True)] = OFFLINE
        (checkout / "deploy/ray/cluster.yaml").write_text(yaml.safe_dump(cluster))
        engine.docker("cp", str(checkout), f"{hosts.container('laptop')}:/home/someone/checkout")
        engine.docker("exec", hosts.container("laptop"), "chown", "-R", "someone", "/home/someone/checkout")
        hosts.on("laptop", "umask 077; mkdir deploy/secrets; echo -n some-token-0123 > deploy/secrets/ray_token")
        hosts.on("laptop", f"{RAY} up --yes --no-config-cache deploy/ray/cluster.yaml", 420)
        yield hosts
    finally:
        hosts.stop()


def test_a_run_over_three_hosts_gives_the_digest_of_local(hosts: Hosts, tmp_path: Path) -> None:
    wait_for_workers(hosts)
    command = f"cfmimo run {' '.join(RUN)} --address auto --json --out $HOME/runs/first"
    printed = hosts.on("laptop", f"{RAY} exec deploy/ray/cluster.yaml '{command}' 2>/dev/null", 400)
    result = json.loads(printed[printed.index("{\n") : printed.rindex("}") + 1])
    nodes = {process["node"] for process in result["processes"]}
    assert nodes == {hosts.address(host) for host in HOSTS}
    assert result["slots"] == SLOTS
    assert result["ap_processes"] == 24
    local = [sys.executable, "-m", "cfmimo", "run", *RUN, "--runtime", "local", "--json", "--out"]
    out = subprocess.run([*local, str(tmp_path / "local")], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result["digest"] == json.loads(out.stdout)["digest"]


def test_the_run_directory_is_fetched(hosts: Hosts) -> None:
    hosts.on("laptop", f"{RAY} rsync-down deploy/ray/cluster.yaml '~/runs/' runs/")
    assert "report.html" in hosts.on("laptop", "ls runs/first")


def test_a_run_goes_on_when_a_host_is_cut_off(hosts: Hosts) -> None:
    wait_for_workers(hosts)
    slowly = (*RUN, "run.episodes=15", "run.slot_s=0.2", "run.slot_deadline_s=2", "run.checkpoint_every_slots=5")
    command = f"RAY_AUTH_MODE=token {CFMIMO} run {' '.join(slowly)} --address auto --json --out $HOME/runs/second"
    run = ["/usr/bin/docker", "exec", *SOMEONE, hosts.container("head"), "bash", "-c", command]
    cut_off = hosts.address("worker-2")
    pipe = subprocess.PIPE
    with subprocess.Popen(run, env=hosts.engine.env, stdout=pipe, stderr=pipe, text=True) as running:
        give_up = time.monotonic() + 120
        while not hosts.on("worker-2", "ls ~/runs/second/checkpoints 2>/dev/null || true"):  # of its APs
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < give_up
            time.sleep(1)
        hosts.engine.docker("network", "disconnect", hosts.name, hosts.container("worker-2"))
        printed, complaints = running.communicate(timeout=400)
    assert running.returncode == 0, complaints[-4000:]
    result = json.loads(printed)
    assert result["slots"] == 300
    its_aps = {process["ap"] for process in result["processes"] if process["node"] == cut_off}
    assert its_aps
    assert {restart["ap"] for restart in result["restarts"]} >= its_aps


def test_ray_down_stops_all(hosts: Hosts) -> None:
    hosts.engine.docker("network", "connect", hosts.name, hosts.container("worker-2"))
    assert hosts.ray_processes("head")
    hosts.on("laptop", f"{RAY} down --yes deploy/ray/cluster.yaml")
    give_up = time.monotonic() + 120
    while any(hosts.ray_processes(host) for host in ("head", "worker-1")):
        assert time.monotonic() < give_up, "Ray still runs"
        time.sleep(2)


def wait_for_workers(hosts: Hosts) -> None:
    give_up = time.monotonic() + 180
    while not all(hosts.ray_processes(host) for host in HOSTS):
        assert time.monotonic() < give_up, "not all workers came up"
        time.sleep(2)
