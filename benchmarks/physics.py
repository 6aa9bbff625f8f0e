"""Milliseconds per slot of the channel server's physics, part by part, and how they grow with the network.

The density is that of the preset `paper`, with 2 UEs to 5 APs, so M K grows with M^2. One thread, and its CPU time, so
that other work on the machine disturbs less; no messages are encoded or sent. All parts are timed in the same slots;
`total` is the median slot, `episode` what comes on top once an episode.
Example: python -m benchmarks.physics --aps 100,400 --blocks 4
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from apnode.config import Config
from apnode.protocol.messages import ComplexArray, Hello, Transmission
from apnode.protocol.wire import encode
from cfmimo.presets import load
from channel_server.fading import channels, received_pilots
from channel_server.server import Air, ChannelServer
from channel_server.sinr import received_interference, sinr
from channel_server.topology import long_term_interference, make_layout, neighbour_lists

DENSITY_AREA_M = 100.0  # sqrt of the area per AP, as in the preset `paper`
REFERENCE = 100  # APs; growth is against it
COPIES = 8  # memory at its peak, in sizes of a slot's channels; 7 measured at M = 1000
PARTS = ("channels", "pilots", "precoders", "SINR x 2", "interference", "reports", "total", "episode")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aps", default="25,100,400,1000", help="network sizes M; K = 2 M / 5")
    parser.add_argument("--blocks", default="1,4", help="coherence blocks per slot")
    parser.add_argument("--slots", type=int, default=15, help="to take medians over")
    options = parser.parse_args()
    for blocks in map(int, options.blocks.split(",")):
        print(f"B = {blocks} coherence blocks per slot, medians over {options.slots} slots, ms of CPU time")
        print(f"{'M':>5} {'K':>4} " + " ".join(f"{name:>12}" for name in PARTS))
        measured = {}
        for aps in map(int, options.aps.split(",")):
            config = experiment(aps, blocks)
            if lacking := lacking_memory(config):
                print(f"{aps:5} skipped: {lacking}")
                continue
            measured[aps] = medians(config, options.slots)
            print(f"{aps:5} {config.radio.num_ues:4} " + " ".join(f"{1e3 * t:12.2f}" for t in measured[aps]))
        print_growth(measured)


def experiment(aps: int, blocks: int) -> Config:
    """The preset `paper` at another size."""
    size = [f"radio.num_aps={aps}", f"radio.num_ues={max(1, aps * 2 // 5)}"]
    size += [f"radio.area_m={DENSITY_AREA_M * aps**0.5}", f"run.blocks_per_slot={blocks}"]
    return load("paper", [*size])


def lacking_memory(config: Config) -> str:
    """Why a slot would not fit into free memory; nothing if it does."""
    radio = config.radio
    needed = COPIES * 16 * config.run.blocks_per_slot * radio.num_aps * radio.num_ues * radio.antennas
    meminfo = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in meminfo if "MemAvailable" in line)
    return f"needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free" if needed > free else ""


def medians(config: Config, slots: int) -> list[float]:
    """Seconds of each of PARTS."""
    server = ChannelServer(config)
    for ap in range(config.radio.num_aps):
        server.receive(encode(Hello(ap, 0, "")))
    transmissions = dict(enumerate(random_transmissions(server, config)))
    rows = []
    for slot in range(slots):
        laps = list(one_slot(server, config, slot, transmissions))
        rows.append([*(after - before for before, after in pairwise(laps)), laps[-1] - laps[0]])
    return [statistics.median(column) for column in zip(*rows, strict=True)] + [episode_s(config)]


def one_slot(
    server: ChannelServer, config: Config, slot: int, transmissions: dict[int, Transmission]
) -> Iterator[float]:
    """What `ChannelServer` computes between two slots; yields the time before, between and after the parts."""
    layout, noise = server.layout, config.radio.noise_power_w
    yield time.process_time()
    h = channels(config, layout, slot)
    yield time.process_time()
    received_pilots(config, layout, h, slot)
    yield time.process_time()
    air = Air(slot, 0, h, set(), transmissions)
    precoders = server.precoders(air)
    yield time.process_time()
    sinr(h, precoders, noise, layout.serving)
    yield time.process_time()
    suffered = received_interference(h, precoders[0], layout.serving, config.cooperation.interference)
    yield time.process_time()
    list(server._ue_reports(air, h, suffered))
    yield time.process_time()


def episode_s(config: Config) -> float:
    """Seconds for a layout and what UEs report of it before its first slot."""
    began = time.process_time()
    for episode in range(3):
        layout = make_layout(config, episode)
        neighbour_lists(config, long_term_interference(config, layout), layout.serving)
    return (time.process_time() - began) / 3


def random_transmissions(server: ChannelServer, config: Config) -> Iterator[Transmission]:
    """Beams in random directions; every AP precodes with its two strongest neighbours."""
    layout, rng = server.layout, np.random.default_rng(0)
    for ap, ues in enumerate(layout.ues_of):
        shape = (config.run.blocks_per_slot, len(ues), config.radio.antennas)
        yield Transmission(
            0, ap, ues, random_beams(rng, shape), random_beams(rng, shape), server._told[ap].neighbours[:2]
        )


def random_beams(rng: np.random.Generator, shape: tuple[int, ...]) -> ComplexArray:
    """(B, |K_m|, L), some 1 W in each block."""
    beams: ComplexArray = rng.standard_normal((*shape, 2)).view(complex)[..., 0]
    return beams / math.sqrt(max(1, 2 * shape[1] * shape[2]))


def print_growth(measured: dict[int, list[float]]) -> None:
    """Each size as a multiple of REFERENCE, and the exponent of M from REFERENCE on."""
    if REFERENCE not in measured:
        return
    base = measured[REFERENCE]
    for aps, row in measured.items():
        ratios = [t / of_reference for t, of_reference in zip(row, base, strict=True)]
        print(f"{aps:5} : {REFERENCE:<3}" + " ".join(f"{ratio:12.2f}" for ratio in ratios))
        if aps > REFERENCE:
            exponents = [math.log(ratio) / math.log(aps / REFERENCE) for ratio in ratios]
            print("  as M to  " + " ".join(f"{exponent:12.2f}" for exponent in exponents))


if __name__ == "__main__":
    main()
