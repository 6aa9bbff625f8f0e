"""A container engine of the tests' own, and stand-ins for public images, which cannot be pulled on every machine.

A stand-in for python:3.11-slim-bookworm is Debian with its own Python 3.11; Prometheus and Alertmanager come from
Debian's packages. If an engine answers already (DOCKER_HOST, or the usual socket), it is used, with the images it has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import compose

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BASE = "cfmimo-test-base"
NEEDED = ("/usr/bin/docker", "dockerd", "containerd", "runc", "mmdebstrap", "prometheus", "prometheus-alertmanager")
_START_S = 60.0


class Engine:
    """A Docker engine, and the commands that go to it."""

    def __init__(self, host: str | None, folder: Path) -> None:
        self.folder = folder  # for the command's own configuration, with docker compose as its plugin
        plugins = folder / "client/cli-plugins"
        plugins.mkdir(parents=True, exist_ok=True)
        (plugins / "docker-compose").unlink(missing_ok=True)
        (plugins / "docker-compose").symlink_to(Path(compose.__file__).parent / "docker-compose")
        self.env = {**os.environ, "DOCKER_CONFIG": str(folder / "client"), "DOCKER_BUILDKIT": "1"}
        if host is not None:
            self.env["DOCKER_HOST"] = host

    def docker(self, *arguments: str, timeout_s: float = 120.0, **options: object) -> str:
        """Run a docker command; returns its standard output, without the white space around it."""
        done = self.attempt(*arguments, timeout_s=timeout_s, **options)
        assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
        return done.stdout.strip()

    def attempt(self, *arguments: str, timeout_s: float = 120.0, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a docker command that may fail."""
        command = ["/usr/bin/docker", *arguments]
        options = {"env": self.env, "cwd": ROOT, **options}
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, **options)  # type: ignore[call-overload, no-any-return]

    def build(self, tag: str, dockerfile: Path, context: Path, *arguments: str) -> float:
        """Build an image, with the host's network; returns how long it took [s]."""
        began = time.monotonic()
        file = ("--file", str(dockerfile))
        self.docker("build", "--network=host", "--tag", tag, *file, *arguments, str(context), timeout_s=900)
        return time.monotonic() - began

    @property
    def images(self) -> set[str]:
        return set(self.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """The engine that answers, or one of our own, which ends with all that it holds."""
    running = Engine(None, folder)
    if running.attempt("info").returncode == 0:
        try:
            yield running
        finally:
            shutil.rmtree(folder)
        return
    socket, state = f"unix://{folder}/socket", folder / "exec"
    quiet = ("--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false")
    where = ("--data-root", str(folder / "data"), "--exec-root", str(state), "--pidfile", str(folder / "pid"))
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(["/usr/sbin/dockerd", "--host", socket, *where, *quiet], stdout=log, stderr=log)
    try:
        own = Engine(socket, folder)
        give_up = time.monotonic() + _START_S
        while own.attempt("info").returncode:
            assert daemon.poll() is None, (folder / "log").read_text()[-4000:]
            assert time.monotonic() < give_up, (folder / "log").read_text()[-4000:]
            time.sleep(0.5)
        yield own
    finally:
        daemon.terminate()
        daemon.wait(60)
        subprocess.run(["/usr/bin/umount", str(state / "netns/default")], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def missing() -> str | None:
    """What this machine lacks for containers, as a sentence; None: nothing."""
    if os.geteuid():
        return "containers: needs root, for an engine of its own"
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    return f"containers: needs Debian's {', '.join(lacking)}" if lacking else None


# --- stand-ins --------------------------------------------------------------------------------------------


def make_stand_ins(engine: Engine, wanted: Sequence[str]) -> None:
    """Make those of the images that are not there; `wanted`: BASE, and names that docker-compose.yml has."""
    for image in wanted:
        if image in engine.images or f"{image}:latest" in engine.images:
            continue
        if image == BASE:
            _make_base(engine)
        else:
            _package(engine, image)


def _make_base(engine: Engine) -> None:
    """Debian with Python; trusting whom this machine trusts, and knowing where its pip looks for packages."""
    tar = engine.folder / "rootfs.tar"
    packages = "python3,python3-venv,python3-pip,ca-certificates,procps,iproute2"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", "bookworm", str(tar)]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    engine.docker("import", str(tar), f"{BASE}-debian", timeout_s=300)
    tar.unlink()
    context = engine.folder / "base"
    context.mkdir()
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", context)
    wheels = Path(os.environ.get("PIP_FIND_LINKS", "/nowhere"))
    shutil.copytree(wheels, context / "wheels") if wheels.is_dir() else (context / "wheels").mkdir()
    (context / "Dockerfile").write_text(
        f"FROM {BASE}-debian\n"
        "COPY ca-certificates.crt /etc/ssl/certs/\n"
        "COPY wheels /wheels\n"
        "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt "
        "PIP_FIND_LINKS=/wheels\n"
    )
    engine.build(BASE, context / "Dockerfile", context)
    shutil.rmtree(context)


def _package(engine: Engine, image: str) -> None:
    """An image with the programs of one of Debian's packages, and nothing else but the base."""
    programs = {
        "prom/prometheus": ("/usr/bin/prometheus", "/usr/bin/promtool"),
        "prom/alertmanager": ("/usr/bin/prometheus-alertmanager", "/usr/bin/amtool"),
    }[image.split(":")[0]]
    context = engine.folder / "package"
    (context / "bin").mkdir(parents=True)
    for program in programs:
        shutil.copy(program, context / "bin" / Path(program).name.removeprefix("prometheus-"))
    shutil.copytree("/usr/share/prometheus", context / "share")
    name = image.split(":")[0].removeprefix("prom/")
    (context / "Dockerfile").write_text(
        f"FROM {BASE}-debian\nCOPY bin /bin\nCOPY share /usr/share/prometheus\n"
        f'RUN install -d -o nobody -g nogroup /{name}\nUSER nobody\nENTRYPOINT ["/bin/{name}"]\n'
    )
    engine.build(image, context / "Dockerfile", context)
    shutil.rmtree(context)
