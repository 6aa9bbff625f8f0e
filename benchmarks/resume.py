"""Whether `resume` goes on at the last boundary after unplanned deaths on Ray; exits 1 if it once does not.

A run over three Ray nodes on this machine. In a random slot one to three APs, or one of the nodes with all its APs, are
killed without a fault plan. Up to 40 slots later the run is interrupted, at least four slots after a checkpoint was
due. Then `resume` has to go on at that checkpoint, or at a later one if all APs have it and the journal all their
reports, and to get as far as the run had.
Example: python -m benchmarks.resume --tries 20
"""

from __future__ import annotations

import os

os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "."  # Ray says of everybody that is killed that he died
os.environ |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ray._private.state import actors
from ray.cluster_utils import Cluster

from apnode.runtime.checkpoint import Checkpoints
from apnode.runtime.host import CHECKPOINTS
from cfmimo.cli.console import Console
from cfmimo.errors import Interrupted
from cfmimo.experiments.resume import resume
from cfmimo.experiments.run import run
from cfmimo.presets import load
from cfmimo.runtime.request import RunRequest
from coordinator.collector import Coordinator
from coordinator.journal import JOURNAL, Journal
from coordinator.watch import Watch

EVERY = 10  # slots from checkpoint to checkpoint
SETTINGS = (
    *("radio.num_aps=6", "radio.num_ues=4", "radio.area_m=250", "run.blocks_per_slot=1", "run.episodes=50"),
    *("run.slot_s=0.1", "run.slot_deadline_s=1", f"run.checkpoint_every_slots={EVERY}"),
)


class Interrupting(Console):
    """Calls `strike` once a slot is there, and interrupts once a later one is, between two checkpoints."""

    due = True

    def __init__(self, last: int, slot: int = 0, strike: Callable[[], None] = lambda: None) -> None:
        super().__init__(None, quiet=True)
        self.newest, self.said = -1, list[str]()
        self._last, self._slot, self._strikes = last, slot, [strike]

    def say(self, text: str) -> None:
        """Keep what is said."""
        self.said.append(text)

    def progress(self, newest: int, row: dict[str, Any] | None) -> None:
        """Strike, or interrupt."""
        self.newest = newest
        if newest >= self._slot and self._strikes:
            self._strikes.pop()()
        if newest >= self._last and (newest + 1) % EVERY >= 4:
            raise KeyboardInterrupt


def kill_aps(count: int, rng: np.random.Generator) -> None:
    """End the processes of some APs."""
    alive = [actor["Pid"] for actor in actors().values() if "-ap-" in actor["Name"] and actor["State"] == "ALIVE"]
    for pid in rng.choice(alive, count, replace=False).tolist():
        os.kill(pid, signal.SIGKILL)


def tried(cluster: Cluster, seed: int) -> bool:
    """Whether one run goes on where it should."""
    rng = np.random.default_rng(seed)
    slot, count = int(rng.integers(12, 30)), seed % 4
    last = slot + int(rng.integers(2, 40))

    def strike() -> None:
        if count:
            kill_aps(count, rng)
        else:
            node = cluster.list_all_nodes()[-1]  # type: ignore[no-untyped-call]
            cluster.remove_node(node, allow_graceful=False)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        first = Interrupting(last, slot, strike)
        interrupted(lambda: run(RunRequest(load("demo", SETTINGS, seed), out, address=cluster.address), first, []))
        if not count:
            cluster.add_node(num_cpus=1)
        boundary = max((first.newest + 1) // EVERY * EVERY, held_by_all(out))  # news takes its time: the run went on
        second = Interrupting(first.newest)
        interrupted(lambda: resume(str(out), cluster.address, Watch(), second))
    goes_on = [text for text in second.said if text.startswith("going on with slot ")]
    good = len(goes_on) == 1 and int(goes_on[0].split()[4]) >= boundary
    victims = f"{count} APs" if count else "a node"
    print(f"seed {seed}: {victims} killed in slot {slot}, Ctrl-C in {first.newest}: {goes_on}: {good}", flush=True)
    return good


def held_by_all(folder: Path) -> int:
    """The newest slot before which all APs have reported and of which all have a checkpoint; 0 if there is none."""
    config = load(str(folder / "config.toml"))
    journal = Journal(folder / JOURNAL)
    reported = Coordinator(config, journal).record.reported
    journal.close()
    saved = [{*Checkpoints(folder / CHECKPOINTS, f"ap-{ap}").boundaries()} for ap in range(config.radio.num_aps)]
    return max((slot for slot in set.intersection(*saved) if reported[slot - 1].all()), default=0)


def interrupted(act: Callable[[], Any]) -> None:
    """Do what ends by an interruption.

    Raises:
        RuntimeError: if it ends by itself.
    """
    try:
        act()
    except Interrupted:
        return
    raise RuntimeError("the run was over before it was interrupted")


def main() -> None:
    """Try, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20, help="(default: 20)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="of the first try (default: 0)")
    options = parser.parse_args()
    Path("/tmp/ray").mkdir(exist_ok=True)  # noqa: S108  Ray's cluster writes its address there, whatever temp_dir is
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "temp_dir": folder})
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1)
            good = [tried(cluster, seed) for seed in range(options.first, options.first + options.tries)]
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]
    print(f"{sum(good)} of {len(good)} went on at the last boundary")
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
