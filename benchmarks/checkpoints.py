"""Whether checkpoints survive what happens to files, and what writing one takes; exits 1 if a bar is broken.

An AP of the preset `paper`, its replay buffer full, has two generations on disk. Each trial harms them once (a bit
flipped or the end cut off in either generation, a disk that is full at any byte, on a file system of that size if one
may be mounted, a writer killed at any moment) and then loads: `wrong` is a state other than the one that was saved for
that slot, or one older than what was known to be written; `lost` is no state. `harmed` counts the trials that a reader
or writer noticed; kills: those that left half a file behind.
Example: python -m benchmarks.checkpoints --trials 400 --kills 200 --folder /var/tmp
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import contextlib
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from apnode.protocol.state import Checkpoint, State
from apnode.runtime.checkpoint import Checkpoints

EVERY = 50  # slots
NAME = "ap-0"
RECOVERED, WRITE_P99_MS = 0.99, 20.0
_MARK = "completed"  # the array that tells of which slot a state is


@dataclass
class Tally:
    """What came of the trials of one kind."""

    trials: int = 0
    harmed: int = 0
    wrong: int = 0
    lost: int = 0

    def add(self, loaded: Checkpoint | None, state: State, at_least: int) -> None:
        """One more trial, after which this was loaded."""
        self.trials += 1
        if loaded is None:
            self.lost += 1
        elif loaded.completed < at_least or not same(loaded.state, marked(state, loaded.completed).state):
            self.wrong += 1

    @property
    def broken(self) -> bool:
        return self.wrong > 0 or self.lost > (1 - RECOVERED) * self.trials


def main() -> None:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--writes", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    options = parser.parse_args()
    state, rng = agent_state(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        tallies = {
            "bit flips": damaged(root / "flips", state, options.trials, flip(rng), rng),
            "truncations": damaged(root / "cuts", state, options.trials, cut(rng), rng),
            "disk full": disk_full(root / "full", state, options.trials, rng),
            "kills": killed(root / "kills", state, options.kills, rng),
        }
        times_ms = [1000 * seconds for seconds in writes(root / "writes", state, options.writes)]
        size = (root / "writes" / f"{NAME}.a.ckpt").stat().st_size
    print(f"{'':12}{'trials':>8}{'harmed':>8}{'wrong':>8}{'lost':>8}")
    for kind, tally in tallies.items():
        print(f"{kind:12}{tally.trials:8}{tally.harmed:8}{tally.wrong:8}{tally.lost:8}")
    p50, p99 = np.percentile(times_ms, [50, 99])
    print(f"a file has {size / 1000:.0f} kB; {len(times_ms)} writes took p50 {p50:.1f} ms, p99 {p99:.1f} ms each")
    sys.exit(p99 > WRITE_P99_MS or any(tally.broken for tally in tallies.values()))


def agent_state() -> State:
    """The state of an AP of the preset `paper` after a slot, its replay buffer then filled at random."""
    from apnode.agent.replay import Transition  # not at the top: the writers that are killed need none of this
    from cfmimo.presets import load
    from cfmimo.runtime.local import LocalNetwork

    config = load("paper", ["run.checkpoint_every_slots=1"])
    network, rng = LocalNetwork(config), np.random.default_rng(1)
    ap = network.aps[0]
    for _ in network.frames():
        if ap.take_checkpoint() is not None:
            break
    size = len(ap.state()["lesson.observation"][0])
    for slot in range(config.learning.replay_capacity):
        before, after = rng.random((2, size))
        if ap.learner is not None:
            ap.learner.learn(Transition(before, int(rng.integers(2)), float(rng.normal()), after, 2, False), slot)
    return ap.state()


def marked(state: State, completed: int) -> Checkpoint:
    """A checkpoint of these arrays, told apart from those of other slots."""
    return Checkpoint(completed, {**state, _MARK: np.array(completed)})


def same(one: State, other: State) -> bool:
    """Whether two states are, to the last bit."""
    return one.keys() == other.keys() and all(
        (array.dtype, array.shape, array.tobytes()) == (other[name].dtype, other[name].shape, other[name].tobytes())
        for name, array in one.items()
    )


def generations(folder: Path, state: State) -> tuple[Checkpoints, list[Path]]:
    """Checkpoints with both generations there, and where they are; the older one first."""
    checkpoints = Checkpoints(folder, NAME)
    for number in (1, 2):
        checkpoints.save(marked(state, number * EVERY))
    return checkpoints, [folder / f"{NAME}.{generation}.ckpt" for generation in "ab"]


def flip(rng: np.random.Generator) -> Callable[[bytes], bytes]:
    """Flips one bit: of the first hundred bytes, where the header is, in every other trial."""

    def flipped(file: bytes) -> bytes:
        at, harmed = int(rng.integers(rng.choice([100, len(file)]))), bytearray(file)
        harmed[at] ^= 1 << int(rng.integers(8))
        return bytes(harmed)

    return flipped


def cut(rng: np.random.Generator) -> Callable[[bytes], bytes]:
    """Keeps any number of bytes, but not all; less than a header in every other trial."""
    return lambda file: file[: int(rng.integers(rng.choice([100, len(file)])))]


def damaged(folder: Path, state: State, trials: int, harm: Callable[[bytes], bytes], rng: np.random.Generator) -> Tally:
    """Harm either generation, load, and mend it."""
    tally, (checkpoints, paths) = Tally(), generations(folder, state)
    for _ in range(trials):
        which = int(rng.integers(2))
        good = paths[which].read_bytes()
        paths[which].write_bytes(harm(good))
        noticed = checkpoints.failures.total()
        tally.add(checkpoints.load(), state, at_least=EVERY if which else 2 * EVERY)
        tally.harmed += checkpoints.failures.total() > noticed
        paths[which].write_bytes(good)
    return tally


def disk_full(folder: Path, state: State, trials: int, rng: np.random.Generator) -> Tally:
    """Save where no more than some part of the file has room; then load."""
    tally = Tally()
    with contextlib.ExitStack() as stack:
        checkpoints, paths = generations(folder, state)
        size = paths[0].stat().st_size
        disk = stack.enter_context(small_disk(folder, 3 * size))
        checkpoints, paths = generations(folder, state)
        for _ in range(trials):
            room = int(rng.integers(size - 4096))
            if disk:
                fill(folder / "other", room)
            failed = checkpoints.failures["disk"]
            with contextlib.nullcontext() if disk else largest_file(room):
                checkpoints.save(marked(state, 3 * EVERY))
            tally.harmed += checkpoints.failures["disk"] > failed
            tally.add(checkpoints.load(), state, at_least=2 * EVERY)
            (folder / "other").unlink(missing_ok=True)
    return tally


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of some bytes on a folder, if one may be mounted; says whether it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0  # noqa: S603
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond some bytes: a write across them is short, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(path: Path, room: int) -> None:
    """Write a file that leaves no more than some bytes on its disk."""
    status = os.statvfs(path.parent)
    path.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - room)))


def killed(folder: Path, state: State, kills: int, rng: np.random.Generator) -> Tally:
    """Kill writers (SIGKILL) one after the other on the same files, each while it saves; after each, load."""
    tally = Tally()
    Checkpoints(folder, NAME).save(marked(state, 0))
    for _ in range(kills):
        acknowledged = kill_while_saving(folder, after_s=float(rng.uniform(0, 0.05)))
        tally.harmed += any(folder.glob("*.tmp"))
        tally.add(Checkpoints(folder, NAME).load(), state, at_least=acknowledged)
    return tally


def kill_while_saving(folder: Path, after_s: float) -> int:
    """Start a writer, kill it so long after its first save; returns what it last knew to be saved."""
    context = multiprocessing.get_context("spawn")
    reader, said = context.Pipe(duplex=False)
    writer = context.Process(target=save_without_end, args=(folder, said))
    writer.start()
    said.close()
    saved: int = reader.recv()
    time.sleep(after_s)
    writer.kill()
    with contextlib.suppress(EOFError):  # it has said all that it could
        while True:
            saved = reader.recv()
    writer.join()
    return saved


def save_without_end(folder: Path, said: Connection) -> None:
    """Save one checkpoint after the other, and say after each which one it was."""
    checkpoints = Checkpoints(folder, NAME)
    newest = checkpoints.load()
    while newest is not None and not checkpoints.failures:
        newest = marked(newest.state, newest.completed + EVERY)
        checkpoints.save(newest)
        said.send(newest.completed)


def writes(folder: Path, state: State, count: int) -> Iterator[float]:
    """Seconds of each save, all that it does included."""
    checkpoints, _ = generations(folder, state)
    for number in range(count):
        checkpoint = marked(state, (number + 3) * EVERY)
        began = time.monotonic()
        checkpoints.save(checkpoint)
        yield time.monotonic() - began
    if checkpoints.failures:
        raise OSError(f"not every checkpoint was written: {dict(checkpoints.failures)}")


if __name__ == "__main__":
    main()
