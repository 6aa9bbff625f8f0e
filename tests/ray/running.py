"""What the tests with real actors share: small networks on Ray, clusters of several nodes, and who is running."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
import ray.cluster_utils

from apnode.config import Config
from cfmimo.cli.console import Console
from cfmimo.runtime.cluster import Cluster
from cfmimo.runtime.fault_plan import Faults
from cfmimo.runtime.local import LocalNetwork
from cfmimo.runtime.request import RunRequest
from coordinator.record import Record
from coordinator.watch import Watch

SMALL = (
    "radio.num_aps=6",
    "radio.num_ues=4",
    "radio.area_m=250.0",
    "run.blocks_per_slot=2",
    "run.slots_per_episode=20",
)
QUIET = Console(1, quiet=True)


def local_record(config: Config) -> Record:
    network = LocalNetwork(config)
    network.run()
    return network.coordinator.record


def started(
    config: Config,
    session: str,
    faults: Faults = Faults(),  # noqa: B008  immutable
    folder: Path | None = None,
    watch: Watch = Watch(),  # noqa: B008  immutable
    go: bool = True,
) -> Cluster:
    cluster = Cluster(RunRequest(config, folder, faults=faults), "127.0.0.1", session)
    cluster.start(QUIET, watch)
    if go:
        cluster.launch()
    return cluster


def wait_for_slot(cluster: Cluster, slot: int) -> None:
    give_up = time.monotonic() + 60
    while ray.get(cluster.coordinator.latest.remote(), timeout=30)[0] < slot:
        assert time.monotonic() < give_up, f"slot {slot} never came"
        time.sleep(0.02)


@contextmanager
def nodes(count: int, folder: str) -> Iterator[ray.cluster_utils.Cluster]:
    """A cluster of several nodes on this machine.

    For a process of its own: a private session before it, in the same one, would have left Ray asking for a token.
    """
    Path("/tmp/ray").mkdir(exist_ok=True)  # noqa: S108  it writes its address there, whatever temp_dir is
    cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "temp_dir": folder})
    for _ in range(count - 1):
        cluster.add_node(num_cpus=1)
    try:
        yield cluster
    finally:
        cluster.shutdown()


# --- processes --------------------------------------------------------------------------------------------


def folders() -> set[Path]:
    """Of private sessions and fork servers."""
    return set(Path("/tmp").glob("cfmimo-*"))  # noqa: S108


def fork_servers(folder: str) -> set[int]:
    """Process ids of the fork servers of a folder."""
    found, named = set(), called("cfmimo-fork")
    for pid in named:
        with suppress(OSError):  # ended meanwhile
            if parent(pid) in named:
                continue  # just forked, and not renamed yet
            if any(word.startswith(folder) for word in Path(f"/proc/{pid}/cmdline").read_text().split("\0")):
                found.add(pid)
    return found


def fork_server(folder: str) -> int:
    """The one there is."""
    (server,) = fork_servers(folder)
    return server


def client_of(pid: int) -> int:
    """The process that stands for a forked one."""
    (client,) = called(f"for {pid}")
    return client


def called(name: str) -> set[int]:
    """Processes that show up under a name."""
    found = set()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # ended meanwhile
            if comm.read_text().strip() == name:
                found.add(int(comm.parent.name))
    return found


def children(pid: int) -> set[int]:
    """Process ids of the living children of a process."""
    return {child for child, above in parents().items() if above == pid}


def descendants(pid: int) -> set[int]:
    """Process ids of the living children of a process, their children, and so on."""
    above = parents()
    found, frontier = set[int](), {pid}
    while frontier:
        frontier = {child for child, parent in above.items() if parent in frontier} - found
        found |= frontier
    return found


def parents() -> dict[int, int | None]:
    """Of every living process its parent."""
    return {pid: parent(pid) for pid in (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))}


def parent(pid: int) -> int | None:
    """Process id of a process's parent; None if it has ended."""
    with suppress(OSError):
        state, above = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        return None if state == "Z" else int(above)
    return None


def alive(pid: int) -> bool:
    """Whether a process has not ended."""
    return parent(pid) is not None
