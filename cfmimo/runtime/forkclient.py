"""What Ray runs in place of Python to start an AP: asks the node's fork server for a process that is warm already.

Usage: python -I -S forkclient.py FOLDER POLICY script.py arguments...

It stays as the raylet's child and stands for the forked process: it passes signals on, and ends as that one ends;
if this process is killed, the kernel kills the forked one. If no fork server can be had, it becomes a plain Python
that runs the script: no start fails for want of one. Of the standard library it imports little, since there is one
such process per AP.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would be another megabyte
    from typing import NoReturn

_PATIENCE_S = 40.0  # for a server that is still importing; Ray waits 60 s for a worker
_WAITING = 1024  # clients that may queue meanwhile
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def main() -> NoReturn:
    """Start the script by fork, or plainly if that cannot be."""
    folder, policy, *command = sys.argv[1:]
    try:
        connection, child = _forked(folder, policy, command)
    except OSError as error:
        sys.stderr.write(f"cfmimo: no fork server ({error}): started plainly\n")
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *command])  # noqa: S606  # the interpreter that runs this
    _stand_for(child, connection, folder)


def _forked(folder: str, policy: str, command: list[str]) -> tuple[socket.socket, int]:
    """Have the script forked; returns the connection that will tell how it ended, and its process id.

    Raises:
        OSError: if that cannot be, for whatever reason.
    """
    connection = _connection(folder, policy)
    connection.settimeout(_PATIENCE_S)
    lifeline, _ = os.pipe()  # the other end stays open as long as this process lives, and no longer
    fields = [os.getcwd(), str(len(command)), *command, *(f"{name}={value}" for name, value in os.environ.items())]
    request = os.fsencode("\0".join(fields))
    sent = socket.send_fds(connection, [request], [0, 1, 2, lifeline])
    connection.sendall(request[sent:])
    connection.shutdown(socket.SHUT_WR)
    os.close(lifeline)
    child = _number(connection)
    if child < 0:
        raise ChildProcessError("the forked process ended before it began")
    return connection, child


def _stand_for(child: int, connection: socket.socket, folder: str) -> NoReturn:
    """Pass signals on to the forked process; end with its exit status, or by the signal that ended it."""

    def pass_on(number: int, frame: object) -> None:
        try:
            os.kill(child, number)
        except ProcessLookupError:  # it has just ended, and the server is about to say so
            return

    with open("/proc/self/comm", "w") as name:
        name.write(f"for {child}")  # what `ps` and `top` show
    told, tell = socket.socketpair()
    tell.setblocking(False)
    signal.set_wakeup_fd(tell.fileno())  # a signal just before a plain recv would be handled only after it
    for number in _FORWARDED:
        signal.signal(number, pass_on)
    while told in select.select([connection, told], [], [])[0]:
        told.recv(64)
    try:
        code = os.waitstatus_to_exitcode(-1 - _number(connection))
    except OSError:  # the server was killed; the child, which held the connection too, has now ended, how nobody knows
        _clear(folder)
        sys.exit(1)
    if code >= 0:
        sys.exit(code)
    if -code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    sys.exit(128 - code)  # that signal is blocked


def _number(connection: socket.socket) -> int:
    """What comes next: the process id, from the forked process; -1 - status, from the server, once that has ended.

    Raises:
        OSError: if nothing comes in time, or nobody is left to say anything.
    """
    number = connection.recv(4, socket.MSG_WAITALL)
    if len(number) < 4:
        raise ConnectionResetError("it ended")
    return int.from_bytes(number, sys.byteorder, signed=True)


def _connection(folder: str, policy: str) -> socket.socket:
    """A connection to the node's fork server, which the first who asks starts."""
    _own(folder)
    try:
        return _to(folder)
    except (FileNotFoundError, ConnectionRefusedError):  # none yet, or it was killed
        lock = _lock(folder)
        try:
            return _to(folder)  # somebody was faster
        except (FileNotFoundError, ConnectionRefusedError):
            _start_server(folder, policy)
            return _to(folder)
        finally:
            os.close(lock)


def _own(folder: str) -> None:
    """Make the folder, or make sure that nobody else could have put anything into it."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(f"{folder} is not a folder of this user alone") from None


def _to(folder: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"{folder}/socket")
    except OSError:
        connection.close()
        raise
    return connection


def _lock(folder: str) -> int:
    """Only one process at a time starts a server, or removes what one left: whoever has this file open."""
    import fcntl

    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _start_server(folder: str, policy: str) -> None:
    """Start a fork server on a socket made here, so that everybody can queue while it is importing."""
    path = f"{folder}/socket"
    if os.path.lexists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(_WAITING)
    middle = os.fork()
    if not middle:
        try:
            os.setsid()
            if not os.fork():  # an orphan: neither this process nor Ray has to wait for it
                _become_server(listener, folder, policy)
        finally:
            os._exit(1)
    os.waitpid(middle, 0)
    listener.close()


def _become_server(listener: socket.socket, folder: str, policy: str) -> NoReturn:
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    listener.set_inheritable(True)
    server = os.path.join(os.path.dirname(os.path.realpath(__file__)), "forkserver.py")
    os.execv(sys.executable, [sys.executable, "-P", server, str(listener.fileno()), folder, policy])  # noqa: S606


def _clear(folder: str) -> None:
    """Remove what a killed server left, unless there is a new one."""
    try:
        lock = _lock(folder)
        try:
            _to(folder).close()
        except ConnectionRefusedError:
            os.unlink(f"{folder}/socket")
            os.rmdir(folder)
        finally:
            os.close(lock)
    except FileNotFoundError:  # somebody else has done it
        return


if __name__ == "__main__":
    main()
