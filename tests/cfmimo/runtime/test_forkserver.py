"""A forked process is what a plain Python would have been, for its client and in every way that it can end."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from apnode.config.cooperation import POLICIES
from cfmimo.runtime import forkclient
from cfmimo.runtime.forkserver import Request, py_executable

CLIENT = [sys.executable, "-I", "-S", forkclient.__file__]
LIGHT = "never"  # a policy without torch
SELF = (
    "import json, os, random, sys; import numpy as np; print(json.dumps({'argv': sys.argv, 'path': sys.path[0],"
    "'pid': os.getpid(), 'parent': os.getppid(), 'session': os.getsid(0), 'cwd': os.getcwd(), 'X': os.environ.get('X'),"
    "'variables': len(os.environ), 'input': sys.stdin.read(), 'random': [random.random(), np.random.random()],"
    "'warm': 'apnode.access_point' in sys.modules, 'main': __name__, "
    "'name': open('/proc/self/comm').read().strip(), 'files': len(os.listdir('/proc/self/fd'))}))"
)


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with made_folder() as made:
        yield made


class made_folder:  # noqa: N801  # like contextlib's
    """A folder for a fork server, which must end once it is gone."""

    def __enter__(self) -> str:
        self._above = tempfile.mkdtemp(prefix="fork-", dir="/tmp")  # short
        return f"{self._above}/fork"

    def __exit__(self, *failure: object) -> None:
        shutil.rmtree(self._above)
        wait_until(lambda: not servers(self._above))


def servers(folder: str) -> list[int]:
    """Process ids of the fork servers in a folder."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # ended meanwhile
            called = cmdline.with_name("comm").read_text().strip()
            if called == "cfmimo-fork" and any(word.startswith(folder) for word in cmdline.read_text().split("\0")):
                found.append(int(cmdline.parent.name))
    return found


def wait_until(condition: Any, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def start(folder: str, script: Path, *arguments: str, policy: str = LIGHT, **options: Any) -> subprocess.Popen[str]:
    command = [*CLIENT, folder, policy, str(script), *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, text=True, **{**pipes, **options})


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def itself(process: subprocess.Popen[str], text: str = "") -> dict[str, Any]:
    """What the script SELF says of its process."""
    out, _ = process.communicate(text, timeout=120)
    assert process.returncode == 0
    result: dict[str, Any] = json.loads(out)
    return result


def test_it_is_started_as_a_plain_python_would_be_but_warm(folder: str, tmp_path: Path) -> None:
    path, own = script(tmp_path / "self.py", SELF), {"cwd": tmp_path, "env": {"X": "ü = 1", "PATH": os.environ["PATH"]}}
    said = itself(start(folder, path, "a", "b c", **own), "in")
    plain = [sys.executable, str(path), "a", "b c"]
    as_plain = json.loads(subprocess.run(plain, input="in", capture_output=True, text=True, **own).stdout)
    same = ("argv", "path", "cwd", "X", "variables", "input", "main")
    assert {key: said[key] for key in same} == {key: as_plain[key] for key in same}
    assert said["warm"]
    assert not as_plain["warm"]
    assert [said["parent"]] == servers(folder)
    assert said["name"] == "cfmimo-ap"
    assert said["session"] == said["pid"]  # no signal meant for others' process groups reaches it
    assert said["files"] == as_plain["files"] + 2  # its client's life and its own, and nobody else's


def test_who_comes_at_once_gets_one_server_and_randomness_of_its_own(folder: str, tmp_path: Path) -> None:
    path = script(tmp_path / "self.py", SELF)
    started = [start(folder, path) for _ in range(8)]
    said = [itself(process) for process in started]
    assert len({each["parent"] for each in said}) == 1
    assert len({each["pid"] for each in said}) == 8
    assert len({number for each in said for number in each["random"]}) == 16


ENDS = {
    "": 0,
    "import sys; sys.exit(7)": 7,
    "raise ValueError": 1,
    "import os; os._exit(3)": 3,
    "import os; os.kill(os.getpid(), 9)": -signal.SIGKILL,
    "import os; os.kill(os.getpid(), 15)": -signal.SIGTERM,
    "import os; os.abort()": -signal.SIGABRT,
    "import signal; signal.raise_signal(signal.SIGINT)": -signal.SIGINT,  # as a plain Python ends by Ctrl-C
}


@pytest.mark.parametrize("text", ENDS)
def test_the_client_ends_as_the_forked_process_did(folder: str, tmp_path: Path, text: str) -> None:
    assert start(folder, script(tmp_path / "end.py", text)).wait(timeout=120) == ENDS[text]


WAITING = """
import os, signal, sys, time
def told(number, frame):
    os.write(1, str(number).encode())  # print() is not to be entered twice
    sys.exit(5)
signal.signal(signal.SIGTERM, told)
print(os.getpid(), flush=True)
while True:
    time.sleep(0.01)
"""


def waiting(folder: str, path: Path) -> tuple[subprocess.Popen[str], int]:
    """A client of a process that waits for a signal, ready to pass one on; and that process."""
    process = start(folder, script(path / "waiting.py", WAITING))
    assert process.stdout
    child = int(process.stdout.readline())
    wait_until(lambda: catches(process.pid, signal.SIGUSR2))  # the last that it prepares for
    return process, child


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigCgt"], 16) >> (number - 1) & 1)


def test_a_signal_to_the_client_reaches_the_forked_process(folder: str, tmp_path: Path) -> None:
    process, child = waiting(folder, tmp_path)
    assert Path(f"/proc/{process.pid}/comm").read_text().strip() == f"for {child}"
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert (int(out), process.returncode, running(child)) == (signal.SIGTERM, 5, False)


@pytest.mark.parametrize("stopped", [False, True], ids=["at work", "stopped"])
def test_killing_the_client_kills_the_forked_process(folder: str, tmp_path: Path, stopped: bool) -> None:
    process, child = waiting(folder, tmp_path)
    if stopped:
        os.kill(child, signal.SIGSTOP)
    process.kill()
    process.wait(timeout=60)
    wait_until(lambda: not running(child))


def test_killing_the_server_ends_nothing_and_the_next_start_brings_another(tmp_path: Path) -> None:
    with made_folder() as folder:
        process, child = waiting(folder, tmp_path)
        (server,) = servers(folder)
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: not running(server))
        assert running(child)
        assert process.poll() is None
        said = itself(start(folder, script(tmp_path / "self.py", SELF)))
        assert said["warm"]
        assert said["parent"] != server
        process.terminate()
        assert process.wait(timeout=60) == 1  # how it ended, only the server could have said
        assert not running(child)


def test_killing_the_client_of_a_killed_server_kills_the_forked_process(tmp_path: Path) -> None:
    with made_folder() as folder:
        process, child = waiting(folder, tmp_path)
        (server,) = servers(folder)
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: not running(server))
        process.kill()
        process.wait(timeout=60)
        wait_until(lambda: not running(child))


def test_the_last_client_of_a_killed_server_clears_up(tmp_path: Path) -> None:
    with made_folder() as folder:
        process, _ = waiting(folder, tmp_path)
        (server,) = servers(folder)
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: not running(server))
        process.terminate()
        process.wait(timeout=60)
        assert not Path(folder).exists()


def test_a_server_without_anybody_ends_and_leaves_nothing(tmp_path: Path) -> None:
    with made_folder() as folder:
        itself(start(folder, script(tmp_path / "self.py", SELF)))
        assert len(servers(folder)) == 1
        wait_until(lambda: not servers(folder), seconds=40)
        assert not Path(folder).exists()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_server_can_warm_up_any_policy(policy: str) -> None:
    warming = "import os; from cfmimo.runtime.forkserver import _NO_THREADS, warm_up; os.environ |= _NO_THREADS; "
    warming += f"warm_up({policy!r})"
    subprocess.run([sys.executable, "-c", warming], check=True)


def test_without_a_server_the_start_is_plain(tmp_path: Path) -> None:
    with made_folder() as folder:
        process = start(folder, script(tmp_path / "self.py", SELF), policy="a policy that no server can warm up")
        said = itself(process)
    assert not said["warm"]
    assert said["pid"] == process.pid
    assert said["parent"] == os.getpid()


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_folder_open_to_others_is_not_trusted(tmp_path: Path, mode: int) -> None:
    with made_folder() as folder:
        os.mkdir(folder)
        os.chmod(folder, mode)
        assert not itself(start(folder, script(tmp_path / "self.py", SELF)))["warm"]
        assert os.listdir(folder) == []


def test_the_folder_and_the_socket_are_this_users_alone(folder: str, tmp_path: Path) -> None:
    itself(start(folder, script(tmp_path / "self.py", SELF)))
    assert os.stat(folder).st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_process_is_refused() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as open_to_all, socket.socket(socket.AF_UNIX) as listener:
        os.chmod(open_to_all, 0o755)  # noqa: S103
        listener.bind(f"{open_to_all}/socket")
        os.chmod(f"{open_to_all}/socket", 0o777)  # noqa: S103
        listener.listen()
        os.seteuid(65534)
        try:
            stranger = socket.socket(socket.AF_UNIX)
            stranger.connect(f"{open_to_all}/socket")
        finally:
            os.seteuid(0)
        connection, _ = listener.accept()
        with stranger, connection, pytest.raises(PermissionError, match="65534"):
            Request.receive(connection)


def test_a_client_that_says_nothing_sensible_costs_the_server_nothing(folder: str, tmp_path: Path) -> None:
    path = script(tmp_path / "self.py", SELF)
    server = itself(start(folder, path))["parent"]
    for nonsense in (b"", b"nonsense", bytes(range(256)), b"\0".join([b"/", b"9", b"x"])):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(f"{folder}/socket")
            stranger.sendall(nonsense)
    assert itself(start(folder, path))["parent"] == server


def test_the_words_for_ray_start_it_by_fork_through_a_shell(folder: str, tmp_path: Path) -> None:
    path = script(tmp_path / "it's self.py", SELF)
    assert itself(shell(py_executable(folder, LIGHT), path))["warm"]


def test_the_words_for_ray_start_it_plainly_where_cfmimo_is_not(folder: str, tmp_path: Path) -> None:
    words = py_executable(folder, LIGHT).replace("forkclient.py", "elsewhere.py")
    beside = tmp_path / "lib/python3/site-packages/ray"
    beside.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(sys.executable)
    own = script(beside / "own.py", "import sys; print(sys.argv)")
    process = shell(words, own)
    assert process.communicate(timeout=60)[0] == f"{[str(own), 'a b']}\n"


def shell(words: str, path: Path) -> subprocess.Popen[str]:
    """Start a script as Ray does."""
    line = f"exec {words} {shlex.join([str(path), 'a b'])}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(["/bin/bash", "-c", line], text=True, **pipes)
