"""Drawing: policies side by side, and beside the seed paper."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from apnode.protocol.messages import FloatArray
from cfmimo.report.figures import ALONE, BLUE, GREEN, GREY, ORANGE, PINK, SKY, YELLOW, Figure, styled
from coordinator.watch.looks import look_of

# --- of a comparison --------------------------------------------------------------------------------------


@styled
def pareto(rows: list[dict[str, Any]]) -> Figure:
    """Sum rate with its 95 % interval against what it costs; a policy without links is a level."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for policy in dict.fromkeys(row["policy"] for row in rows):
        look = {**_look(policy), "label": policy}
        own = sorted((r for r in rows if r["policy"] == policy), key=lambda row: row["links"]["formed"] or 0)
        mean, low, high = (np.array([row["sum_rate_bps_hz"][part] for row in own]) for part in ("mean", "low", "high"))
        for axes, costs in (
            (left, [row["links"]["formed"] for row in own]),
            (right, [bits and bits / 1e3 for bits in (row["fronthaul_bits_per_block"] for row in own)]),
        ):
            if None in costs:
                level = [mean[0]] * 2
                axes.plot((0, 1), level, transform=axes.get_yaxis_transform(), **_LEVEL, **look)
            else:
                error = (mean - low, high - mean)
                axes.errorbar(costs, mean, error, markersize=7, capsize=3, **look)
            look["label"] = None  # once is enough
    left.set_xlabel("undirected links formed")
    right.set_xlabel("fronthaul between APs [kbit per coherence block]")
    right.xaxis.set_major_formatter("{x:,.0f}")
    left.set_ylabel("sum rate [bit/s/Hz]")
    figure.legend(loc="outside upper center", ncols=7)
    return figure


@styled
def sweep(rows: list[dict[str, Any]], axes: Sequence[str]) -> Figure:
    """Paired gains in sum rate and 5 % SINR over the values of the last setting, a line for what the others are."""
    *others, along = axes
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    values = list(dict.fromkeys(row[along] for row in rows))
    numeric = all(isinstance(value, float) for value in values)
    place = dict(zip(values, values if numeric else range(len(values)), strict=True))
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        named = ", ".join(f"{name.rpartition('.')[2]} = {short(row[name])}" for name in others)
        lines.setdefault(named, []).append(row)
    for panel, (quantity, label) in zip(panels, _SWEPT.items(), strict=True):
        for (named, of_line), colour in zip(lines.items(), itertools.cycle(_COLOURS), strict=False):
            at = [place[row[along]] for row in of_line]
            ends = ([row[quantity][part] for row in of_line] for part in ("mean", "low", "high"))
            mean, low, high = (np.array(of_part, float) for of_part in ends)  # nan where there is no interval
            look: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 5, "capsize": 3}
            panel.errorbar(at, mean, (mean - low, high - mean), label=named if panel is panels[0] else None, **look)
        panel.axhline(0, color=ALONE, linewidth=1)
        panel.set(xlabel=along, ylabel=label)
        panel.set_xticks(list(place.values()), [short(value) for value in values])
    if others:
        figure.legend(loc="outside upper center", ncols=3)
    return figure


_SWEPT = {
    "gain_sum_rate_bps_hz": "gain in sum rate [bit/s/Hz]",
    "gain_sinr_p5_db": "gain in 5 % SINR [dB]",
}
_COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)


def short(value: float | str) -> str:
    """A setting's value."""
    return f"{value:g}" if isinstance(value, float) else value


def _look(policy: str) -> dict[str, Any]:
    look = look_of(policy)
    return {"color": look.colour, "marker": look.marker}


_LEVEL: dict[str, Any] = {"linestyle": ":", "markersize": 7, "markevery": [1], "clip_on": False}


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
    for number, (reading, of_one) in enumerate(ours.items()):
        fill: dict[str, Any] = {"markerfacecolor": "white"} if number else {}
        axes.plot([], [], "o", color=GREY, label=reading, **fill)  # for the legend
        for name, value in of_one.items():
            if value is not None:
                mean, at = value["mean"], names.index(name) + 0.16 * (2 * number - 1)
                error = [[mean - value["low"]], [value["high"] - mean]]
                axes.errorbar(at, mean, error, markersize=8, capsize=3, **_look(name), **fill)
    known = [(names.index(name), value) for name, value in paper.items()]
    axes.plot(*np.array(known).T, "kx", markersize=8, markeredgewidth=2, label="paper")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(label)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
