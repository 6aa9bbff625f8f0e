"""CPU time of an update and of a slot in `local`, against another commit in the same run; and what `hidden` costs.

Both versions take turns, each time in a process of its own; the least of all rounds counts, since other work on the
machine only ever adds. An update is what an agent does with a slot's lesson: it keeps the transition, draws a batch and
takes a step; alone, or as one of a hundred that learn at once. A slot is the median of the second half of a short run.
What an older version does not have it is not asked for.
Example: python -m benchmarks.against f531368 --rounds 3
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
import json, time
from statistics import median
import numpy as np
from apnode.config import Config
try:  # where things were at f531368
    from apnode import policies
    from apnode.observation import observation_size
    from apnode.replay import Transition
    from coordinator.local import LocalNetwork
    from coordinator.presets import load, preset_names
except ImportError:
    from apnode.agent import policies
    from apnode.agent.replay import Transition
    from cfmimo.presets import load, preset_names
    from cfmimo.runtime.local import LocalNetwork
    def observation_size(config):
        return config.observed

def updates(count, rounds):
    of, rng = Config(), np.random.default_rng(0)
    agents = [policies.Ddqn(ap, of) for ap in range(count)]
    getattr(policies, "put_together", lambda agents: None)(agents)
    def lesson(slot):
        before, after = rng.standard_normal((2, observation_size(of)))
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

def slots(preset, episodes, per_episode, *settings):
    length = [f"run.episodes={episodes}", f"run.slots_per_episode={per_episode}"]
    network, marks = LocalNetwork(load(preset, [*length, *settings])), {}
    for _ in network.frames():
        marks.setdefault(network.channel.opened, time.process_time())
    took = {slot: 1e3 * (marks[slot + 1] - marks[slot]) for slot in marks if slot >= 0 and slot + 1 in marks}
    later = [slot for slot in took if slot >= episodes * per_episode // 2]
    within, first = ([took[slot] for slot in later if (slot % per_episode == 0) == new] for new in (False, True))
    return median(within), median(first or [0])

found = {
    "update, alone [us]": updates(1, 200),
    "update, one of 100 [us]": updates(100, 10),
    "slot of hundred [ms]": slots("hundred", 4, 20)[0],
}
found["slot of selective [ms]"], found["first in a layout [ms]"] = slots("selective", 2, 10)
if "hidden" in preset_names():
    from channel_server import server, ue_reports
    stream_levels, reported = server.stream_levels, []
    def heard(*args):
        reported.append(stream_levels(*args))
        return reported[-1]
    server.stream_levels = heard
    found["slot of hidden [ms]"], _ = slots("hidden", 1, 10)
    found["hidden, belief [ms]"], _ = slots("hidden", 1, 10, "cooperation.policy=belief")
    if hasattr(ue_reports, "report_bytes"):
        sizes = ue_reports.report_bytes(np.concatenate(reported))
        found["UE reports, mean [B]"], found["UE reports, most [B]"] = float(sizes.mean()), int(sizes.max())
print(json.dumps(found))
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
        git("worktree", "add", "--quiet", "--detach", str(before), options.commit)
        try:
            rounds = [(measured(before), measured(ROOT)) for _ in range(options.rounds)]
        finally:
            git("worktree", "remove", "--force", str(before))
    print(f"{'CPU time':26}{options.commit:>10}{'now':>10}{'ratio':>8}")
    old, new = ({name: min(times[name] for times in of) for name in of[0]} for of in zip(*rounds, strict=True))
    for name in new:
        was = f"{old[name]:10.1f}{new[name]:10.1f}{new[name] / old[name]:8.2f}" if name in old else f"{new[name]:20.1f}"
        print(f"{name:26}{was}")
    selective = new["slot of selective [ms]"]
    print(f"hidden : selective {new['slot of hidden [ms]'] / selective:.2f}", end="")
    print(f", with policy belief {new['hidden, belief [ms]'] / selective:.2f}")


if __name__ == "__main__":
    main()
