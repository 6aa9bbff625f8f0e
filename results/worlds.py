"""Draws what the defects of APs and the speeds of users do: the laws, and what they cost a network.

python -m results.worlds laws docs/world-laws.png
python -m results.worlds shares docs/world-shares.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from apnode.config import Config
from apnode.config.network import Impairments, Propagation, Radio, Run
from apnode.protocol.messages import FloatArray
from cfmimo.experiments.compare import compare
from cfmimo.presets import load
from cfmimo.report.figures import BLUE, ORANGE, Figure, styled
from channel_server.fading import SPEED_OF_LIGHT_M_S, small_scale_fading
from channel_server.impairments import phase_errors
from coordinator.watch.looks import LOOKS

SPEEDS_KMH = {3.0: BLUE, 30.0: ORANGE}
BLOCKS, BLOCK_MS = 41, 1.0
ANGLES_DEG = np.geomspace(1, 90, 12)
SHARES = (0.0, 0.1, 0.25, 0.5)
POLICIES = ("never", "forecast", "informed", "oracle")
HALF = ("radio.num_aps=50", "radio.num_ues=20", "radio.area_m=707")
LINKS, LAYOUTS = 25, 4


def autocorrelation(speed: float) -> FloatArray:
    """(BLOCKS,) of the fading in blocks so far apart, over 1,600 links of 4 antennas."""
    config = Config(
        run=Run(blocks_per_slot=BLOCKS),
        radio=Radio(num_aps=40, ue_speeds_kmh=((1.0, speed),)),
        propagation=Propagation(block_ms=BLOCK_MS),
    )
    g = small_scale_fading(config, 0)
    products = (g * g[0].conj()).real.mean(axis=(1, 2, 3))
    return np.asarray(products / products[0])


def bessel_j0(z: FloatArray) -> FloatArray:
    """(n,) J0 by its integral."""
    return np.asarray(np.cos(z[:, None] * np.cos(np.linspace(0, np.pi, 2001))).mean(axis=1))


def left_of_a_null(degrees: float) -> float:
    """What two APs with such phase errors leave of a null between them, relative to the power of the two apart."""
    config = Config(radio=Radio(num_aps=100), impairments=Impairments(oscillator_deg=((1.0, degrees),)))
    theta = np.array([phase_errors(config, slot) for slot in range(400)]).reshape(-1, 2)
    return float((np.abs(np.exp(1j * theta) @ [1, -1]) ** 2).mean() / 2)


@styled
def laws() -> Figure:
    """Measured against the formulas: fading over time, and nulls against phase errors."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    apart = np.arange(BLOCKS) * BLOCK_MS
    for speed, colour in SPEEDS_KMH.items():
        doppler = speed / 3.6 * Propagation().carrier_hz / SPEED_OF_LIGHT_M_S
        fine = np.linspace(0, apart[-1], 400)
        left.plot(fine, bessel_j0(2 * np.pi * doppler * fine / 1000), color=colour, label=f"J₀, {speed:g} km/h")
        left.plot(apart[::2], autocorrelation(speed)[::2], "o", color=colour, markersize=4, label="drawn")
    left.set(xlabel="time apart [ms]", ylabel="correlation of the fading")
    left.legend(loc="upper right", ncols=2)
    fine = np.geomspace(1, 90, 200)
    right.plot(fine, 10 * np.log10(1 - np.exp(-(np.radians(fine) ** 2))), color=BLUE, label="1 − exp(−σ²)")
    left_over = 10 * np.log10([left_of_a_null(degrees) for degrees in ANGLES_DEG])
    right.plot(ANGLES_DEG, left_over, "o", color=BLUE, markersize=4, label="drawn")
    right.set(xscale="log", xlabel="standard deviation σ of the phase error [degrees]", ylabel="left of a null [dB]")
    right.set_xticks([1, 2, 5, 10, 20, 50, 90], labels=["1", "2", "5", "10", "20", "50", "90"])
    right.legend()
    return figure


@styled
def shares() -> Figure:
    """Sum rate at 25 links of 50 APs against the share of APs with a defect, for each kind."""
    kinds = {
        "phase off by 90 degrees": ("oscillator_deg", 5.0, 90.0),
        "calibration error 0.5": ("calibration_error", 0.0, 0.5),
        "estimates a block (4 ms) late": ("fronthaul_blocks", 0, 1),
    }
    moving = ("propagation.block_ms=4", "radio.ue_speeds_kmh=[[0.6, 3], [0.4, 30]]", "cooperation.history_blocks=1")
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, (title, (key, good, bad)) in zip(figure.subplots(1, 3, sharey=True), kinds.items(), strict=True):
        rates: dict[str, list[float]] = {policy: [] for policy in POLICIES}
        for share in SHARES:
            defect = f"impairments.{key}=[[{1 - share}, {good}], [{share}, {bad}]]"
            config = load("selective", (*HALF, *moving, defect))
            for row in compare(config, POLICIES, LAYOUTS, [LINKS], 2):
                rates[row["policy"]].append(row["sum_rate_bps_hz"]["mean"])
            print(
                f"{title}, {share:.0%} of APs: " + ", ".join(f"{p} {r[-1]:.1f}" for p, r in rates.items()), flush=True
            )
        for policy, rate in rates.items():
            look = LOOKS[policy]
            axes.plot(100 * np.array(SHARES), rate, color=look.colour, marker=look.marker, label=policy)
        axes.set(title=title, xlabel="APs with the defect [%]")
    figure.axes[0].set_ylabel(f"sum rate at {LINKS} links [bit/s/Hz]")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(POLICIES))
    return figure


def main() -> None:
    """Draw one of the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", choices=("laws", "shares"))
    parser.add_argument("path", type=Path)
    asked = parser.parse_args()
    (laws if asked.figure == "laws" else shares)().savefig(asked.path, dpi=130)


if __name__ == "__main__":
    main()
