"""CPU time of an update and of a slot in `local`, against another commit in the same run.

Both versions take turns, each time in a process of its own; the least of all rounds counts, since other work on the
machine only ever adds. An update is what an agent does with a slot's lesson: it keeps the transition, draws a batch and
takes a step; alone, or as one of a hundred that learn at once. A slot is the mean of the second half of a short run.
The commit is to be no older than 909399a, whose agents each learnt for themselves.
Example: python -m benchmarks.against 909399a --rounds 3
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
MEASURE = """
import json, sys, time
import numpy as np
from apnode.agent import policies
from apnode.agent.replay import Transition
from apnode.config import Config
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork

def updates(count, rounds):
    of, rng = Config(), np.random.default_rng(0)
    agents = [policies.Ddqn(ap, of) for ap in range(count)]
    getattr(policies, "put_together", lambda agents: None)(agents)
    def lesson(slot):
        before, after = rng.standard_normal((2, of.observed))
        return Transition(before, int(rng.integers(16)), float(rng.normal()), after, 16, False), slot
    def learn(slot):
        lessons = [lesson(slot) for _ in agents]
        began = time.process_time()
        if hasattr(policies, "learn_together"):
            policies.learn_together(agents, lessons)
        else:
            for agent, told in zip(agents, lessons):
                agent.learn(*told)
        return time.process_time() - began
    for slot in range(of.learning.batch_size):
        learn(slot)
    return 1e6 * min(learn(50 + slot) for slot in range(rounds)) / count

def slots(preset, episodes, per_episode):
    network = LocalNetwork(load(preset, [f"run.episodes={episodes}", f"run.slots_per_episode={per_episode}"]))
    marks = {}
    for _ in network.frames():
        marks.setdefault(network.channel.opened, time.process_time())
    first, last = episodes * per_episode // 2, max(marks)
    return 1e3 * (marks[last] - marks[first]) / (last - first)

print(json.dumps({
    "update, alone [us]": updates(1, 200),
    "update, one of 100 [us]": updates(100, 10),
    "slot of hundred [ms]": slots("hundred", 4, 20),
    "slot of selective [ms]": slots("selective", 1, 20),
}))
"""


def measured(tree: Path) -> dict[str, float]:
    """What the version in a folder takes."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=tree, env=environment, capture_output=True, check=True)  # noqa: S603  own code
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


def git(*arguments: str) -> None:
    """Let git do something in this repository."""
    subprocess.run(["git", *arguments], cwd=ROOT, check=True)  # noqa: S603, S607  the user's own


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder, "before")
        git("worktree", "add", "--detach", str(before), options.commit)
        try:
            rounds = [(measured(before), measured(ROOT)) for _ in range(options.rounds)]
        finally:
            git("worktree", "remove", "--force", str(before))
    print(f"{'CPU time':26}{options.commit:>10}{'now':>10}{'ratio':>8}")
    for name in rounds[0][1]:
        old, new = (min(times[name] for times in of) for of in zip(*rounds, strict=True))
        print(f"{name:26}{old:10.1f}{new:10.1f}{new / old:8.2f}")


if __name__ == "__main__":
    main()
