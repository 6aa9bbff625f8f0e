"""Drawing: the figures of runs and of comparisons, in one style, fit for a paper."""

from __future__ import annotations

import io
import re
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure
from numpy.typing import NDArray

from apnode.messages import FloatArray
from coordinator.map import SlotMap
from coordinator.record import Table

# Okabe-Ito: told apart by colour-blind readers
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#777777"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # publishers refuse the Type 3 fonts that are matplotlib's default
    "svg.fonttype": "none",
}
styled = mpl.rc_context(STYLE)  # a decorator for what draws


@styled
def save(figure: Figure, path: Path) -> str:
    """Write a figure as `path` with .png, .pdf and .svg, equal for equal figures; returns the SVG for a page."""
    figure.savefig(path.with_suffix(".png"), dpi=300)
    figure.set_layout_engine("none")  # once is enough
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    drawing = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": path.stem}):  # two figures of a page must not share an id
        figure.savefig(drawing, format="svg", metadata=nothing)
    path.with_suffix(".svg").write_text(drawing.getvalue(), encoding="utf-8")
    svg = drawing.getvalue()[drawing.getvalue().index("<svg") :]
    return re.sub(r'<g id="[^"]*"', "<g", svg)  # numbered alike in every figure, and nobody refers to them


# --- over the slots of a run ------------------------------------------------------------------------------


@styled
def rate(slots: Table) -> Figure:
    """Sum rate, and what it would have been without cooperation."""
    figure, axes = _axes("sum rate [bit/s/Hz]")
    _over_episodes(axes, slots, "sum_rate_bps_hz", "cooperation", BLUE)
    _over_episodes(axes, slots, "sum_rate_alone_bps_hz", "no cooperation, same slots", GREY)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@styled
def sinr(slots: Table) -> Figure:
    """Mean and 5 %-UE SINR, and what they would have been without cooperation."""
    figure, axes = _axes("SINR over UEs and blocks [dB]")
    _over_episodes(axes, slots, "sinr_mean_db", "mean", BLUE)
    _over_episodes(axes, slots, "sinr_mean_alone_db", "mean, no cooperation", GREY)
    _over_episodes(axes, slots, "sinr_p5_db", "5 %-UE", ORANGE)
    _over_episodes(axes, slots, "sinr_p5_alone_db", "5 %-UE, no cooperation", GREY, dashed=True)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled
def links(slots: Table) -> Figure:
    """The three numbers that papers call links."""
    figure, axes = _axes("number in a slot")
    _over_episodes(axes, slots, "pairs", "AP pairs with a common UE", GREY)
    _over_episodes(axes, slots, "requests", "directed requests", ORANGE)
    _over_episodes(axes, slots, "formed", "undirected links formed", BLUE)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@styled
def learning(slots: Table, aps: Table) -> Figure:
    """Reward and exploration, means over the APs that had someone to ask."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    deciding = aps["neighbours"] > 0
    for axes, name, colour in ((upper, "reward", GREEN), (lower, "epsilon", ORANGE)):
        total = np.bincount(aps["slot"], weights=aps[name] * deciding)
        mean = total / np.maximum(np.bincount(aps["slot"], weights=deciding), 1)
        _over_episodes(axes, {**slots, name: mean}, name, "", colour)
    upper.set_ylabel("reward (12), mean over APs")
    lower.set_ylabel("ε, mean over APs")
    lower.set_ylim(-0.02, 1.02)
    lower.set_xlabel("slot")
    return figure


def _axes(label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("slot")
    axes.set_ylabel(label)
    return figure, axes


def _over_episodes(axes: Axes, slots: Table, name: str, label: str, colour: str, dashed: bool = False) -> None:
    """Every slot faintly, and the mean of every episode."""
    axes.plot(slots["slot"], slots[name], color=colour, alpha=0.15, linewidth=0.6)
    episodes, first = np.unique(slots["episode"], return_index=True)
    means = _episode_means(slots[name], slots["episode"])[episodes]
    edges = np.append(slots["slot"][first], slots["slot"][-1] + 1)
    axes.stairs(
        means, edges, baseline=None, color=colour, linewidth=1.6, linestyle="--" if dashed else "-", label=label
    )


def _episode_means(values: NDArray[Any], episode: NDArray[Any]) -> NDArray[Any]:
    means: NDArray[Any] = np.bincount(episode, weights=values) / np.maximum(np.bincount(episode), 1)
    return means


# --- one slot ---------------------------------------------------------------------------------------------


@styled
def network_map(shown: SlotMap, sinr_range: tuple[float, float]) -> Figure:
    """Where APs and UEs were in a slot, who served whom, who asked whom and who precoded together.

    Args:
        shown: what is to be seen.
        sinr_range: ends of the colour scale [dB], the same for all maps of a run.
    """
    low_db, high_db = sinr_range
    figure = Figure(figsize=(6.4, 5.7), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    axes.set(xlabel="x [m]", ylabel="y [m]", aspect="equal", xlim=shown.bounds[:, 0], ylim=shown.bounds[:, 1])
    _lines(axes, shown.serving, "serves", color=GREY, linewidth=0.6, alpha=0.7)
    _lines(axes, shown.asked, "asked in vain", color=ORANGE, linewidth=0.7, alpha=0.5, linestyle="--")
    if shown.by_asker is None:
        _lines(axes, shown.formed, "link formed", color=BLUE, linewidth=2)
    else:
        _lines(axes, shown.formed, None, color=BLUE, linewidth=0.8)
        _lines(axes, shown.by_asker, "link formed (bold end: who asked)", color=BLUE, linewidth=2.2)
    _aps(axes, shown)
    x, y = shown.ue_xy.T
    ues = axes.scatter(x, y, c=shown.sinr_db, vmin=low_db, vmax=high_db, plotnonfinite=True, **_UE)
    axes.scatter([], [], facecolor=ues.cmap(0.6), label="UE", **_UE)  # for the legend
    figure.colorbar(ues, ax=axes, label="SINR of the UE in this slot [dB]", extend="both", aspect=30)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


_FEW_APS = 30  # are numbered
_UE: dict[str, Any] = {"s": 42, "edgecolor": "black", "linewidths": 0.8, "zorder": 5, "clip_on": False}
_AP: dict[str, Any] = {"marker": "^", "s": 34, "edgecolor": "black", "linewidths": 0.8, "zorder": 4, "clip_on": False}


def _lines(axes: Axes, pieces: FloatArray, label: str | None, **look: Any) -> None:
    """All of them as one path, which is interrupted between them: a fifth of the size of as many paths."""
    if len(pieces):
        ends = np.pad(pieces, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)  # (pieces, 3, 2)
        axes.plot(ends[..., 0].ravel(), ends[..., 1].ravel(), label=label, solid_capstyle="round", **look)


def _aps(axes: Axes, shown: SlotMap) -> None:
    """Full triangles; hollow if they transmitted too late to be heard, and crossed out if they were not there."""
    x, y = shown.ap_xy.T
    ok, stale, down = (shown.status == status for status in ("ok", "stale", "down"))
    axes.scatter(x[ok], y[ok], facecolor="black", label="AP", **_AP)
    if stale.any():
        axes.scatter(x[stale], y[stale], facecolor="white", label="AP, too late", **_AP)
    if down.any():
        axes.scatter(x[down], y[down], facecolor="white", **_AP)
        axes.scatter(x[down], y[down], marker="x", s=60, color=ORANGE, zorder=4, clip_on=False, label="AP, down")
    if len(shown.ap_xy) <= _FEW_APS:
        for ap, place in enumerate(shown.ap_xy):
            axes.annotate(str(ap), place, (4, 3), textcoords="offset points", fontsize=7, zorder=6)


# --- of a comparison --------------------------------------------------------------------------------------


@styled
def pareto(rows: list[dict[str, Any]]) -> Figure:
    """Sum rate with its 95 % interval against what it costs; a policy without links is a level."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    looks = cycle(zip((GREY, ORANGE, BLUE, GREEN, PINK, YELLOW, SKY), "osD^vPX", strict=True))
    for policy, (colour, marker) in zip(dict.fromkeys(row["policy"] for row in rows), looks, strict=False):
        own = sorted((r for r in rows if r["policy"] == policy), key=lambda row: row["links"]["formed"] or 0)
        mean, low, high = (np.array([row["sum_rate_bps_hz"][part] for row in own]) for part in ("mean", "low", "high"))
        for axes, costs in (
            (left, [row["links"]["formed"] for row in own]),
            (right, [bits and bits / 1e3 for bits in (row["fronthaul_bits_per_block"] for row in own)]),
        ):
            label = policy if axes is left else None
            if None in costs:
                axes.axhline(mean[0], color=colour, linestyle=":", label=label)
            else:
                error = (mean - low, high - mean)
                axes.errorbar(costs, mean, error, color=colour, marker=marker, markersize=5, capsize=3, label=label)
    left.set_xlabel("undirected links formed")
    right.set_xlabel("fronthaul between APs [kbit per coherence block]")
    right.xaxis.set_major_formatter("{x:,.0f}")
    left.set_ylabel("sum rate [bit/s/Hz]")
    figure.legend(loc="outside upper center", ncols=6)
    return figure


# --- of the seed paper ------------------------------------------------------------------------------------


@styled
def cooperation_rate(curves: dict[str, dict[str, FloatArray]], paper_start: FloatArray, paper_end: float) -> Figure:
    """Request and union rate over the training, one panel a reading; mean over trainings, band from least to most.

    Args:
        curves: by reading, then by rate, (trainings, episodes).
        paper_start: (2,) what the paper shows in its first phase.
        paper_end: and at the end.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (reading, rates) in zip(panels, curves.items(), strict=True):
        for (name, values), colour in zip(rates.items(), (BLUE, ORANGE), strict=True):
            episodes = np.arange(values.shape[1])
            axes.plot(episodes, values.mean(axis=0), color=colour, label=name if axes is panels[0] else None)
            axes.fill_between(episodes, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        last = values.shape[1] - 1
        axes.errorbar(0, paper_start.mean(), np.ptp(paper_start) / 2, color="black", capsize=4, marker="_")
        axes.plot(last, paper_end, "kx", label="paper" if axes is panels[0] else None, clip_on=False, zorder=5)
        axes.set_title(reading)
        axes.set_xlabel("episode of the training")
    panels[0].set_ylabel("part of the possible links")
    panels[0].set_ylim(0, 1)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@styled
def beside_the_paper(
    label: str, ours: dict[str, dict[str, dict[str, float] | None]], paper: dict[str, float], from_zero: bool
) -> Figure:
    """What each policy reached, with its 95 % interval, and what the paper says.

    Args:
        label: of the values, with unit.
        ours: by reading, then by policy, {mean, low, high}; None where there is none.
        paper: by policy.
        from_zero: whether the axis begins there.
    """
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for of_one in ours.values() for name in of_one))
    for number, ((reading, of_one), colour) in enumerate(zip(ours.items(), (BLUE, ORANGE), strict=False)):
        found = [(names.index(name), value) for name, value in of_one.items() if value is not None]
        mean, low, high = (np.array([value[part] for _, value in found]) for part in ("mean", "low", "high"))
        at = np.array([position for position, _ in found]) + 0.16 * (number - 0.5) * 2
        marker = "os"[number]
        axes.errorbar(
            at, mean, (mean - low, high - mean), color=colour, marker=marker, linestyle="", capsize=3, label=reading
        )
    known = [(names.index(name), value) for name, value in paper.items()]
    axes.plot(*np.array(known).T, "kx", markersize=8, markeredgewidth=2, label="paper")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(label)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
