"""Slots/s of the agents of all APs as a distributed emulation, and as one process of a multi-agent library.

A slot is one environment step: every agent acts once and learns once, from a batch of 32 of its own transitions. The
experiment is that of benchmarks/throughput.py: the paper's densities, one block per slot, Double DQNs of 128-64-32.

local     the nodes of this project in one process; every frame between them is encoded and decoded.
ray       the same nodes as so many Ray actors over ZeroMQ, on all processors; starting them is not counted.
torchrl   TorchRL: the networks of all agents stacked and run as one, over benchmarks/peers/monolith.py.
rllib     RLlib's DQN: a module and an optimiser for each agent, one after the other, over benchmarks/peers/monolith.py.

What the libraries are spared: messages, their encoding, and processes; the monolith reads what it likes. What else
differs: they have no dropout, and no mask, so that an action's bits for neighbours that an AP has not are ignored; all
agents learn in every slot, whereas an AP of `local` and `ray` that has no neighbours in an episode does not, so mind
updates/s too. TorchRL draws the same 32 slots for all agents, RLlib for each its own. Nobody learns before there are
32 transitions. Updates are counted: of the libraries by Adam's own counters, of the nodes by the losses that they
report. All but ray have one thread. Every measurement has a fresh process; peers take turns, and ratios are taken
turn by turn, since absolute figures drift with the machine.

It needs `pip install .[marl]`, which `make bench-marl` does in an environment of its own.
Example: python -m benchmarks.peers.marl --aps 20 --slots 100 --rounds 1
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from apnode.config import Config
from benchmarks.throughput import experiment, runner

PEERS = ("local", "ray", "torchrl", "rllib")
NODES = ("local", "ray")  # those that benchmarks/throughput.py runs
Measured = tuple[float, int]  # slots/s, updates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aps", type=int, default=100)
    parser.add_argument("--slots", type=int, default=200, help="a multiple of 20, above 32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=",".join(PEERS), help="of these, the first is the measure of the others")
    options = parser.parse_args()
    names = options.peers.split(",")
    config = experiment(options.aps, options.slots, "ray")
    print(f"M = {options.aps}, K = {config.radio.num_ues}, {config.num_slots} slots, {options.rounds} rounds: medians")
    measured: dict[str, list[Measured]] = {name: [] for name in names}
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, fresh, max_tasks_per_child=1) as pool:
        for _ in range(options.rounds):
            for name in names:
                measured[name].append(pool.submit(measure, name, config).result())
    print(f"{'peer':8} {'slots/s':>8} {'slots/s : ' + names[0]:>16} {'updates/slot':>13} {'updates/s':>10}")
    for name, rows in measured.items():
        ratio = statistics.median(row[0] / base[0] for row, base in zip(rows, measured[names[0]], strict=True))
        rate, updates = statistics.median(row[0] for row in rows), rows[0][1] / config.num_slots
        print(f"{name:8} {rate:8.2f} {ratio:16.2f} {updates:13.1f} {rate * updates:10.0f}")


def measure(name: str, config: Config) -> Measured:
    """Slots/s of a peer, and the updates that it did, of all agents together.

    Raises:
        RuntimeError: if a library did not do one update per agent and slot, once there was a batch.
    """
    if name in NODES:
        outcome = runner(name)(config)
        losses = outcome.record.floats[:, :, 2]  # 0 where there was no update
        return config.num_slots / outcome.seconds, int(np.count_nonzero(losses))
    seconds, updates = library(name)(config, *schedules(config))
    due = config.num_slots - config.learning.batch_size + 1
    if updates != [due] * config.radio.num_aps:
        raise RuntimeError(f"{name}: {due} updates of each agent were due, not {updates}")
    return config.num_slots / seconds, sum(updates)


def library(name: str) -> Callable[[Config, int, int], tuple[float, list[int]]]:
    """How to run an experiment with a library.

    Returns:
        a function of the experiment, the slots in which epsilon falls from its first to its last value, and the slots
        between two copies into the target networks; it gives the seconds, without setting up, and each agent's updates.
    """
    match name:
        case "torchrl":
            from benchmarks.peers.torchrl import run
        case "rllib":
            from benchmarks.peers.rllib import run
        case _:
            raise ValueError(f"no peer {name!r}; there are {', '.join(PEERS)}")
    return run


def schedules(config: Config) -> tuple[int, int]:
    """Slots in which epsilon falls to its last value, and between two copies into the target networks."""
    learning, per_episode = config.learning, config.run.slots_per_episode
    annealed = (learning.epsilon_start - learning.epsilon_end) / learning.epsilon_decay
    return round(annealed * per_episode), learning.target_update_episodes * per_episode


if __name__ == "__main__":
    main()
