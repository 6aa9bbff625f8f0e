"""A private Ray session asks for a token and cleans up after itself."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from coordinator.cluster import Cluster
from coordinator.console import Console
from coordinator.presets import load
from coordinator.session import connected

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("killed", [False, True], ids=["", "its fork server killed"])
def test_a_private_session_leaves_neither_process_nor_folder(killed: bool) -> None:
    before = _folders()
    others = _descendants(os.getpid())  # what earlier tests have started stays, as multiprocessing's resource tracker

    with connected(None, num_aps=2) as fork_folder:
        (made,) = _folders() - before
        assert (made / "token").stat().st_mode & 0o777 == 0o600
        cluster = Cluster(load("demo", ["radio.num_aps=2", "cooperation.policy=never"]), "127.0.0.1", fork_folder)
        cluster.start(Console(1, quiet=True), metrics_port=None)
        (server,) = _fork_servers(fork_folder)
        children = _descendants(os.getpid()) - others | {server} | _descendants(server)
        assert len(children) > 6  # raylet, GCS, two clients, two processes that were forked, ...
        if killed:
            os.kill(server, signal.SIGKILL)
    give_up = time.monotonic() + 20
    while alive := [pid for pid in children if Path(f"/proc/{pid}").exists() and _state(pid) != "Z"]:
        assert time.monotonic() < give_up, f"still running: {alive}"
        time.sleep(0.1)
    assert not made.exists()


ON_A_CLUSTER = """
import sys
from collections import Counter
import ray.cluster_utils
from ray._private.state import actors
from coordinator.cluster import Cluster
from coordinator.console import Console
from coordinator.local import LocalNetwork
from coordinator.presets import load
from coordinator.session import connected

config = load("demo", ["radio.num_aps=6", "radio.num_ues=3", "run.episodes=3"])  # learns
console = Console(config.num_slots, quiet=True)
nodes = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "temp_dir": sys.argv[1]})
for _ in range(2):
    nodes.add_node(num_cpus=1)
try:
    with connected(nodes.address, config.radio.num_aps) as fork_folder:
        cluster = Cluster(config, None, fork_folder)
        cluster.start(console, None)
        aps_on = Counter(actor["Address"]["NodeID"] for actor in actors().values() if "-ap-" in actor["Name"])
        cluster.launch()
        record = cluster.follow(console)
finally:
    nodes.shutdown()
network = LocalNetwork(config)
network.run()
print(record.digest() == network.coordinator.record.digest(), len(aps_on) > 1, cluster.restarts)
"""


def test_a_run_over_three_nodes_gives_the_digest_of_local_and_leaves_neither_fork_server_nor_folder() -> None:
    before = _folders()
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        # in a process of its own: a private session before it, in the same one, would have left Ray asking for a token
        run = subprocess.Popen([sys.executable, "-c", ON_A_CLUSTER, folder], stdout=subprocess.PIPE, text=True)
        seen = set[int]()
        while run.poll() is None:
            for fork_folder in _folders() - before:
                seen |= _fork_servers(str(fork_folder))
            time.sleep(0.05)
        assert run.stdout
        assert run.stdout.read() == "True True []\n"
    assert len(seen) == 1  # all nodes are on this machine
    give_up = time.monotonic() + 40
    while left := _folders() - before or [server for server in seen if Path(f"/proc/{server}").exists()]:
        assert time.monotonic() < give_up, f"left: {left}"
        time.sleep(0.1)


def _folders() -> set[Path]:
    return set(Path("/tmp").glob("cfmimo-*"))  # noqa: S108


def _fork_servers(folder: str) -> set[int]:
    found = set()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # ended meanwhile
            words = comm.with_name("cmdline").read_text().split("\0")
            if comm.read_text().strip() == "cfmimo-fork" and any(word.startswith(folder) for word in words):
                found.add(int(comm.parent.name))
    return found


def _descendants(pid: int) -> set[int]:
    parent = {int(entry.name): _parent(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    found, frontier = set[int](), {pid}
    while frontier:
        frontier = {child for child, above in parent.items() if above in frontier} - found
        found |= frontier
    return found


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
