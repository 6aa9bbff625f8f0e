"""How long `compare` takes with every policy that does not learn, and how that grows with the network.

One process, CPU time, per layout; links are tuned to the same numbers per AP at every size. What each contender costs
is timed apart, so that one sees where the time goes. Example: python -m benchmarks.comparison --preset selective
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import math
import time

from apnode.config import Config
from cfmimo.experiments.compare import drop_of
from cfmimo.experiments.contenders import NAMES, contenders
from cfmimo.experiments.measure import measure
from cfmimo.presets import load

SIZES = ((25, 10), (100, 40), (400, 160))
LINKS_PER_AP = (0.2, 0.5, 1.0, 1.5, 1.94)  # 20 to 194 at M = 100
DENSITY_AREA_M = 100.0  # sqrt of the area per AP, as in the preset `paper`


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper-directed")
    parser.add_argument("--layouts", type=int, default=2)
    parser.add_argument("--slots", type=int, default=5, help="on each layout, as by default in compare")
    options = parser.parse_args()
    taken = {size: seconds(options.preset, *size, options.layouts, options.slots) for size in SIZES}
    print(f"{options.preset}, {options.slots} slots on each of {options.layouts} layouts: s of CPU time per layout")
    print(f"{'policy':14}" + "".join(f"{f'M = {aps}':>10}" for aps, _ in SIZES) + f"{'400 : 100':>12}{'as M to':>9}")
    totals = {policy: [of[policy] for of in taken.values()] for policy in taken[SIZES[0]]}
    for policy, row in {**totals, "all": [sum(of.values()) for of in taken.values()]}.items():
        growth = row[2] / row[1]
        print(f"{policy:14}" + "".join(f"{s:10.2f}" for s in row) + f"{growth:12.1f}{math.log(growth, 4):9.2f}")
    print(f"20 layouts on 2 processors at M = 100: about {sum(taken[SIZES[1]].values()) * 20 / 2:.0f} s")


def seconds(preset: str, aps: int, ues: int, layouts: int, slots: int) -> dict[str, float]:
    """Per layout, by policy, over all numbers of links."""
    settings = (f"radio.num_aps={aps}", f"radio.num_ues={ues}", f"radio.area_m={DENSITY_AREA_M * aps**0.5}")
    config: Config = load(preset, settings)
    drops = [drop_of(config, 1 + index, slots, same_aps=False) for index in range(layouts)]
    links = [round(aps * share) for share in LINKS_PER_AP]
    policies = [name for name in NAMES if name != "ddqn"]
    entered = list(contenders([drop.config for drop in drops], policies, links))
    taken = dict.fromkeys(policies, 0.0)
    for policy in policies:  # together, since the oracle chooses once for all numbers of links
        own = [contender for contender in entered if contender.policy == policy]
        began = time.process_time()
        for drop in drops:
            measure(drop, own, None)
        taken[policy] += (time.process_time() - began) / layouts
    return taken


if __name__ == "__main__":
    main()
