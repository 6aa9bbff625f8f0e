"""A warm process per node, from which APs are forked: torch, numpy and our modules are imported and paged in once.

Started by the first `forkclient` of a run on a node; see there for what a client is. It ends when the last process
that it forked has ended and nobody has come for a while, or when its socket is gone. Killing it costs nothing but
speed: what it has forked goes on, and the next client starts another.

Ray must not be imported here: its threads do not survive a fork. The forked process imports it.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import random
import runpy
import select
import shlex
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_IDLE_S = 10.0  # without anybody: then the server ends
_POLL_S = 1.0
_REQUEST_S = 5.0  # a client sends its request at once
_STDIO = 3
_NO_THREADS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "CUDA_VISIBLE_DEVICES": "",  # torch has a thread per GPU, and an AP uses none
}
_OF_RAY = (  # what a worker imports besides Ray itself: 15 MB and 0.1 CPU-s per process
    "filelock",
    "google.protobuf.descriptor_pb2",
    "google.protobuf.timestamp_pb2",
    "jsonschema",
    "packaging.version",
    "pdb",
    "requests",
    "yaml",
)


def py_executable(folder: str, policy: str) -> str:
    """What Ray is to run in place of Python for an AP: a `forkclient`, as words for a shell.

    On a machine without cfmimo in the same place it is a plain Python: that beside the machine's own Ray.
    """
    client = str(Path(__file__).with_name("forkclient.py"))
    forked = shlex.join([sys.executable, "-I", "-S", client, folder, policy])
    script = (
        f'test -x {shlex.quote(sys.executable)} && test -r {shlex.quote(client)} && exec {forked} "$@"; '
        'own="${1%/lib/python*}/bin/python3"; test -x "$own" && exec "$own" "$@"; exec python3 "$@"'
    )
    return f"sh -c {shlex.quote(script)} cfmimo"


@dataclass(frozen=True)
class Request:
    """What a client wants to have run, and how."""

    connection: socket.socket  # takes the process id from the forked process, and in the end its status from the server
    folder: str  # to work in
    command: list[str]  # a script and its arguments
    environ: dict[str, str]
    files: list[int]  # standard input, output and error; and a pipe that ends when the client does

    @classmethod
    def receive(cls, connection: socket.socket) -> Request:
        """Read a request, as `forkclient` sends it.

        Raises:
            OSError: if it is not of this user, or stops halfway.
            ValueError: if it is no request.
        """
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, user, _ = struct.unpack("3i", credentials)
        if user != os.geteuid():
            raise PermissionError(f"a process of user {user} asked")
        connection.settimeout(_REQUEST_S)
        text, files, _, _ = socket.recv_fds(connection, 2**16, _STDIO + 1)
        while more := connection.recv(2**16):
            text += more
        folder, count, *rest = os.fsdecode(text).split("\0")
        command, variables = rest[: int(count)], rest[int(count) :]
        return cls(connection, folder, command, dict(variable.split("=", 1) for variable in variables), files)

    def close(self) -> None:
        """Give back the files, which the forked process has now."""
        for file in self.files:
            os.close(file)


class ForkServer:
    """Forks a process for every client, and tells the client how it ended."""

    def __init__(self, listener: socket.socket, path: Path) -> None:
        self._listener = listener
        self._path, self._socket = path, _identity(path)
        self._clients: dict[int, socket.socket] = {}  # by the process id of what was forked for them
        self._busy = time.monotonic()  # when there was somebody
        self._awake, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno())
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # to be woken, not to be told

    def serve(self) -> Request | None:
        """Serve until nobody is left; in a forked process, returns at once what that is to do."""
        while not self._over():
            ready, _, _ = select.select([self._listener, self._awake], [], [], _POLL_S)
            if self._awake in ready:
                self._awake.recv(4096)
            self._reap()
            if self._listener in ready and (request := self._accept()) is not None and self._fork(request):
                return request
        return None

    def _over(self) -> bool:
        """Whether nobody is left and nobody can come; once nobody has come for long, takes care that nobody can."""
        if self._clients:
            self._busy = time.monotonic()
            return False
        open_to_all = _identity(self._path) == self._socket
        if open_to_all and time.monotonic() - self._busy > _IDLE_S:
            self._path.unlink()
            with suppress(OSError):  # not empty, or gone
                self._path.parent.rmdir()
            open_to_all = False
        return not open_to_all and not select.select([self._listener], [], [], 0)[0]

    def _accept(self) -> Request | None:
        connection, _ = self._listener.accept()
        try:
            return Request.receive(connection)
        except (OSError, ValueError) as error:  # that client starts plainly
            _say(f"refused: {error}")
            connection.close()
            return None

    def _fork(self, request: Request) -> bool:
        """Fork for a client; returns whether this is the new process."""
        child = os.fork()
        if not child:
            self._leave()
            return True
        self._clients[child] = request.connection
        request.close()
        return False

    def _leave(self) -> None:
        """In a forked process: let go of what is the server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in (self._listener, self._awake, self._wake, *self._clients.values()):
            other.close()

    def _reap(self) -> None:
        """Tell the clients of processes that have ended."""
        while self._clients:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            with self._clients.pop(child) as connection:
                _tell(connection, -1 - status)


def _tell(connection: socket.socket, number: int) -> None:
    """Send a process id, or -1 - status of one that has ended."""
    with suppress(OSError):  # the client is dead, and what was forked for it is dying
        connection.sendall(number.to_bytes(4, sys.byteorder, signed=True))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def run(request: Request) -> None:
    """In a forked process: become what the client would have been, and run its script."""
    *stdio, lifeline = request.files
    _die_at_the_end_of(lifeline)
    os.setsid()
    _be_called("cfmimo-ap")  # until Ray names it
    for number, file in enumerate(stdio):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environ)
    _reseed()
    gc.enable()
    sys.argv = request.command
    sys.path[0] = str(Path(sys.argv[0]).parent)
    _tell(request.connection, os.getpid())  # until here the client may still start plainly
    request.connection.detach()  # stays open: if the server is killed, its end tells the client that this has ended
    runpy.run_path(sys.argv[0], run_name="__main__")


def _die_at_the_end_of(pipe: int) -> None:
    """Have the kernel kill this process when the last writer of a pipe is gone, whatever this process is doing."""
    os.set_inheritable(pipe, False)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    if select.select([pipe], [], [], 0)[0]:  # gone before that
        os._exit(1)


def _be_called(name: str) -> None:
    """Show up under a name in `top` and `ps`."""
    Path("/proc/self/comm").write_text(name)


def _reseed() -> None:
    """As in a fresh process: not as in its siblings."""
    import numpy as np

    random.seed()
    np.random.seed()  # noqa: NPY002  # the global one


def warm_up(policy: str) -> None:
    """Import and run once whatever an AP of this policy will need, and keep the garbage collector off it.

    Nothing is collected either: what that frees leaves holes in every page, and what a forked process puts into
    them costs a copy of the page (10 MB per process).

    Raises:
        RuntimeError: if that has started threads, which would be missing after a fork.
    """
    import numpy as np

    import apnode.access_point
    import apnode.runtime.transport  # noqa: F401
    from apnode.agent.policies import Learner, make_policy
    from apnode.agent.replay import Transition
    from apnode.agent.view import View
    from apnode.config import Config
    from apnode.protocol.messages import Association

    for module in _OF_RAY:
        with suppress(ImportError):  # then Ray needs it no more
            importlib.import_module(module)
    any_policy = {"cooperation": {"policy": policy, "cluster": "serving"}, "precoding": {"joint": "selective"}}
    config = Config.model_validate(any_policy)
    agent, nothing = make_policy(0, config), np.zeros(config.observed)
    if isinstance(agent, Learner):
        alone = Association(0, (), nothing[:0], nothing[:0].astype(int), (1,), ("",), nothing[:1])
        agent.act(View(nothing, alone, slot=10**6))
        for slot in range(config.learning.batch_size):  # the last one brings an update
            agent.learn(Transition(nothing, 0, 0.0, nothing, 1, terminal=False), slot)
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise RuntimeError(f"{threads} threads after importing, where one is wanted: cannot fork")
    gc.freeze()


def _say(text: str) -> None:
    sys.stderr.write(f"cfmimo fork server: {text}\n")
    sys.stderr.flush()


def main() -> None:
    """Serve on a socket that is listening already; in a forked process, run what its client wants."""
    descriptor, folder, policy = sys.argv[1:]
    listener = socket.socket(fileno=int(descriptor))
    listener.set_inheritable(False)
    _be_called("cfmimo-fork")
    os.environ |= _NO_THREADS
    gc.disable()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the same modules as the launcher's
    warm_up(policy)
    request = ForkServer(listener, Path(folder) / "socket").serve()
    if request is not None:
        run(request)


if __name__ == "__main__":
    main()
