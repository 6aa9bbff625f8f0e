"""A private Ray session asks for a token and cleans up after itself."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.interrupts import attempt
from cfmimo.cli.console import Console
from cfmimo.presets import load
from cfmimo.runtime.cluster import Cluster
from cfmimo.runtime.request import RunRequest
from cfmimo.runtime.session import connected
from tests.ray.running import alive, descendants, folders, fork_servers

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("killed", [False, True], ids=["", "its fork server killed"])
def test_a_private_session_leaves_neither_process_nor_folder(killed: bool) -> None:
    before = folders()
    others = descendants(os.getpid())  # what earlier tests have started stays, as multiprocessing's resource tracker

    with connected(None, num_aps=2) as fork_folder:
        (made,) = folders() - before
        assert (made / "token").stat().st_mode & 0o777 == 0o600
        cluster = Cluster(
            RunRequest(load("demo", ["radio.num_aps=2", "cooperation.policy=never"])), "127.0.0.1", fork_folder
        )
        cluster.start(Console(1, quiet=True))
        (server,) = fork_servers(fork_folder)
        children = descendants(os.getpid()) - others | {server} | descendants(server)
        assert len(children) > 6  # raylet, GCS, two clients, two processes that were forked, ...
        if killed:
            os.kill(server, signal.SIGKILL)
    give_up = time.monotonic() + 20
    while left := [pid for pid in children if alive(pid)]:
        assert time.monotonic() < give_up, f"still running: {left}"
        time.sleep(0.1)
    assert not made.exists()


@pytest.mark.parametrize("moment_s", [0.5, 3.0, 6.0])  # while it imports, starts Ray, starts APs
def test_an_interrupt_at_any_moment_of_a_start_ends_it_with_a_sentence(tmp_path: Path, moment_s: float) -> None:
    assert attempt(moment_s, tmp_path) == []


ON_A_CLUSTER = """
import sys
from collections import Counter
from ray._private.state import actors
from cfmimo.runtime.cluster import Cluster
from cfmimo.presets import load
from cfmimo.runtime.session import connected
from cfmimo.runtime.request import RunRequest
from tests.ray.running import QUIET, local_record, nodes

config = load("demo", ["radio.num_aps=6", "radio.num_ues=3", "run.episodes=3"])  # learns
with nodes(3, sys.argv[1]) as machines, connected(machines.address, config.radio.num_aps) as fork_folder:
    cluster = Cluster(RunRequest(config), None, fork_folder)
    cluster.start(QUIET)
    aps_on = Counter(actor["Address"]["NodeID"] for actor in actors().values() if "-ap-" in actor["Name"])
    cluster.launch()
    record = cluster.follow(QUIET)
print(record.digest() == local_record(config).digest(), len(aps_on) > 1, cluster.restarts)
"""


def test_a_run_over_three_nodes_gives_the_digest_of_local_and_leaves_neither_fork_server_nor_folder() -> None:
    before = folders()
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        run = subprocess.Popen([sys.executable, "-c", ON_A_CLUSTER, folder], stdout=subprocess.PIPE, text=True)
        seen = set[int]()
        while run.poll() is None:
            for fork_folder in folders() - before:
                seen |= fork_servers(str(fork_folder))
            time.sleep(0.05)
        assert run.stdout
        assert run.stdout.read() == "True True []\n"
    assert len(seen) == 1  # all nodes are on this machine
    give_up = time.monotonic() + 40
    while left := folders() - before or [server for server in seen if alive(server)]:
        assert time.monotonic() < give_up, f"left: {left}"
        time.sleep(0.1)
