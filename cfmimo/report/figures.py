"""Drawing: the figures of runs, in the style of all figures, fit for a paper."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure as Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from apnode.agent.prospects import LEVEL_NAMES
from apnode.protocol.messages import FloatArray, IntArray
from cfmimo.report.outages import Marks
from cfmimo.report.slot_map import SlotMap
from channel_server.recorded import ROOF_M
from coordinator.tables import Table
from coordinator.watch.looks import LOOKS, look_of

# Okabe-Ito: told apart by colour-blind readers
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#777777"
ALONE = LOOKS["never"].colour
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
Slots = Mapping[str, Sequence[int]]  # by kind of fault
styled = mpl.rc_context(STYLE)  # a decorator for what draws


@styled
def save(figure: Figure, path: Path) -> str:
    """Write a figure as `path` with .png, .pdf and .svg, equal for equal figures; returns the SVG for a page."""
    figure.savefig(path.with_suffix(".png"), dpi=300)
    figure.set_layout_engine(None)  # once is enough, and without one nothing is drawn twice
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    drawing = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": path.stem}):  # two figures of a page must not share an id
        figure.savefig(drawing, format="svg", metadata=nothing)
    path.with_suffix(".svg").write_text(drawing.getvalue(), encoding="utf-8")
    svg = drawing.getvalue()[drawing.getvalue().index("<svg") :]
    return re.sub(r'<g id="[^"]*"', "<g", svg)  # numbered alike in every figure, and nobody refers to them


@styled
def pixels(figure: Figure) -> NDArray[np.uint8]:
    """(height, width, 3) of a figure on a screen."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba(), np.uint8)[..., :3]  # type: ignore[no-untyped-call]


# --- over the slots of a run ------------------------------------------------------------------------------


@styled
def rate(slots: Table, faults: Slots, policy: str) -> Figure:
    """Sum rate of a policy, and what it would have been without cooperation; `faults` marks slots, by kind of fault."""
    figure, axes = _axes("sum rate [bit/s/Hz]", faults)
    _over_episodes(axes, slots, "sum_rate_bps_hz", f"cooperation ({policy})", look_of(policy).colour)
    _over_episodes(axes, slots, "sum_rate_alone_bps_hz", "no cooperation, same slots", ALONE)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@styled
def sinr(slots: Table, faults: Slots, policy: str) -> Figure:
    """Mean and 5 %-UE SINR of a policy, and what they would have been without cooperation; `faults` as for `rate`."""
    figure, axes = _axes("SINR over UEs and blocks [dB]", faults)
    colour = look_of(policy).colour
    _over_episodes(axes, slots, "sinr_mean_db", f"mean ({policy})", colour)
    _over_episodes(axes, slots, "sinr_mean_alone_db", "mean, no cooperation", ALONE)
    _over_episodes(axes, slots, "sinr_p5_db", f"5 %-UE ({policy})", colour, dashed=True)
    _over_episodes(axes, slots, "sinr_p5_alone_db", "5 %-UE, no cooperation", ALONE, dashed=True)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled
def links(slots: Table) -> Figure:
    """The three numbers that papers call links."""
    figure, axes = _axes("number in a slot", {})
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


@styled
def held_out(agents: Table, rivals: Mapping[str, float], policy: str) -> Figure:
    """What the agents reached on layouts that training never sees, beside those who learn nothing, and their links.

    Args:
        agents: a row for each time that they were evaluated.
        rivals: sum rates of others on the same layouts [bit/s/Hz].
        policy: of the agents.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    best = agents["sum_rate_bps_hz"].argmax()
    colour = look_of(policy).colour
    if policy != "ddqn":  # until it has found out anything it is the forecast
        first = [0, agents["slots"][0]], [rivals["forecast"], agents["sum_rate_bps_hz"][0]]
        upper.plot(*first, "o-", color=colour, markersize=4)
    upper.plot(agents["slots"], agents["sum_rate_bps_hz"], "o-", color=colour, markersize=4, label=policy)
    upper.plot(agents["slots"][best], agents["sum_rate_bps_hz"][best], "*", color=colour, markersize=12, label="kept")
    for name, rate_of in rivals.items():
        shade = LOOKS[name].colour if name in LOOKS else SKY  # of fixed serving sets
        upper.axhline(rate_of, color=shade, linestyle="--", linewidth=1.2, label=name)
    upper.set_ylabel("sum rate [bit/s/Hz]")
    for name, label, shade in (("requests", "directed requests", ORANGE), ("formed", "undirected links formed", BLUE)):
        lower.plot(agents["slots"], agents[name], "o-", color=shade, markersize=4, label=label)
    lower.set_ylabel("number in a slot")
    lower.set_ylim(bottom=0)
    lower.set_xlim(left=0)
    lower.set_xlabel("slots of training")
    figure.legend(loc="outside upper center", ncols=4)
    return figure


@styled
def beliefs(rows: Table, truth: FloatArray) -> Figure:
    """What APs believe of their own defects: of each kind the worst AP, ± a standard deviation, and the means of all.

    Args:
        rows: what each AP has told in each episode, as `tables.beliefs` gives it.
        truth: (M, 3) levels, as `LEVEL_NAMES` names them; an AP above half of the worst counts as defective.
    """
    there = [column for column in range(len(LEVEL_NAMES)) if truth[:, column].any()]
    figure = Figure(figsize=(7, 3), layout="constrained")
    times, colour = np.unique(rows["slot"]), LOOKS["belief"].colour
    for axes, column in zip(figure.subplots(1, len(there), sharey=True, squeeze=False)[0], there, strict=True):
        kind, worst = LEVEL_NAMES[column], int(truth[:, column].argmax())
        defective = truth[rows["ap"], column] > truth[worst, column] / 2
        own = rows["ap"] == worst
        mean, off = rows[kind][own], rows[f"{kind}_sd"][own]
        axes.plot(times, mean, "o-", color=colour, markersize=4, label="its belief, ± a standard deviation")
        axes.fill_between(times, mean - off, mean + off, color=colour, alpha=0.25, linewidth=0)
        axes.axhline(truth[worst, column], color="black", linestyle=":", label="the truth about it")
        for who, style, label in ((defective, "--", "mean of all so defective"), (~defective, "-", "of the others")):
            axes.plot(times, _means(rows["slot"][who], rows[kind][who]), style, color=GREY, label=label)
        axes.set_title(f"{kind} of AP {worst}", fontsize=10)
        axes.set_xlabel("slot")
        axes.set_ylim(-0.05, 1.05)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _means(keys: IntArray, values: FloatArray) -> FloatArray:
    """The mean of the values of each key, in the keys' order."""
    _, group = np.unique(keys, return_inverse=True)
    return np.asarray(np.bincount(group, values) / np.bincount(group))


def _axes(label: str, faults: Slots, height: float = 2.6, margin: float = 0.6) -> tuple[Figure, Axes]:
    """Axes over slots, of a height [inch]; above them, where there were faults, a line for each kind."""
    figure = Figure(figsize=(7, height + margin + _LINE * len(faults)), layout="constrained")
    if faults:
        strip, axes = figure.subplots(2, 1, sharex=True, height_ratios=(_LINE * len(faults), height))
        _fault_lines(strip, faults, axes)
    else:
        axes = figure.subplots()
    axes.set_xlabel("slot")
    axes.set_ylabel(label)
    return figure, axes


_LINE = 0.17  # height of a line of faults [inch]
_FAULT_LOOKS = {
    "kill": (ORANGE, "x"),
    "died": (ORANGE, "+"),
    "hang": (PINK, "s"),
    "restart": (SKY, "v"),
    "crash_on_start": (ORANGE, "^"),
    "lie": (YELLOW, "D"),
    "disk_full": (GREY, "P"),
    "corrupt_checkpoint": (GREY, "d"),
    "kill_channel_server": ("black", "X"),
    "kill_coordinator": (GREY, "X"),
    "kill_node": (ORANGE, "X"),
}
_OTHER_FAULT = (GREY, "o")


def _fault_lines(strip: Axes, faults: Slots, axes: Axes) -> None:
    """A line for each kind of fault, with a mark in each slot, that goes faintly on in the axes below."""
    for line, (kind, slots) in enumerate(faults.items()):
        colour, marker = _FAULT_LOOKS.get(kind, _OTHER_FAULT)
        at = np.unique(slots)
        strip.plot(at, np.full(len(at), line), marker, color=colour, markersize=4, linestyle="", clip_on=False)
        across = axes.get_xaxis_transform()
        axes.vlines(at, 0, 1, transform=across, color=colour, linewidth=0.7, alpha=0.4, zorder=0.5)
    strip.set_yticks(range(len(faults)), [kind.replace("_", " ") for kind in faults], fontsize=8)
    strip.set_ylim(len(faults) - 0.5, -0.5)
    strip.tick_params(length=0, labelbottom=False)
    strip.grid(visible=False)
    strip.spines[:].set_visible(False)


@styled
def states(status: NDArray[Any], marks: Marks) -> Figure:
    """Which AP was late or down in which slot, and what happened to it.

    Args:
        status: (slots, M) `ok`, `stale` or `down`.
        marks: what happened.
    """
    slots, aps = status.shape
    above = {kind: at for kind, at in marks.slots.items() if kind not in marks.places}
    figure, axes = _axes("AP", above, height=min(max(1.2 + 0.11 * aps, 2), 8), margin=0.4)
    worst = _worst(np.select([status == "down", status == "stale"], [2, 1], 0).T)
    size = 4 if aps <= _FEW_APS else 2.5
    extent = (-0.5, slots - 0.5, aps - 0.5, -0.5)
    colours = ListedColormap(list(_STATE_COLOURS.values()))
    axes.imshow(worst, colours, vmin=0, vmax=2, aspect="auto", interpolation="none", extent=extent)
    for state, (label, colour) in enumerate(_STATE_COLOURS.items()):
        if (worst == state).any():
            axes.fill_between([], [], [], color=colour, label=label)
    for what, places in marks.places.items():
        colour, marker = {**_FAULT_LOOKS, **_RETURN_LOOKS}.get(what, _OTHER_FAULT)
        fill: dict[str, Any] = {"markerfacecolor": "none"} if what == "back" else {}
        label = _RETURN_LABELS.get(what, what.replace("_", " "))
        axes.plot(*np.array(places).T, marker, color=colour, markersize=size, linestyle="", label=label, **fill)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False)
    figure.legend(loc="outside upper center", ncols=4, markerscale=4 / size)
    return figure


_STATE_COLOURS = {"in time": "#e8f1f7", "late": YELLOW, "down": "#888888"}
_RETURN_LOOKS = {"restored": (GREEN, ">"), "back": (GREEN, ">"), "ended by the watchdog": (BLUE, "*")}
_RETURN_LABELS = {"restored": "back from a checkpoint", "back": "back without a checkpoint"}
_COLUMNS = 1500  # that the picture can show


def _worst(states: NDArray[Any]) -> NDArray[Any]:
    """(M, columns) the worst state in as many slots as share a column, so that none is lost between pixels."""
    width = -(-states.shape[1] // _COLUMNS)
    padded = np.pad(states, ((0, 0), (0, -states.shape[1] % width)))
    return np.asarray(padded.reshape(len(states), -1, width).max(axis=2))


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
    if shown.roofs is not None:
        rows, columns = shown.roofs.shape
        extent = (0.0, columns * ROOF_M, 0.0, rows * ROOF_M)
        axes.imshow(shown.roofs, cmap=_ROOFS, vmin=0, vmax=1, extent=extent, origin="lower", zorder=0)
        axes.set(xlim=shown.bounds[:, 0], ylim=shown.bounds[:, 1])
    _lines(axes, shown.serving, "serves", color=GREY, linewidth=0.6, alpha=0.7)
    _lines(axes, shown.asked, "request without agreement", color=ORANGE, linewidth=0.7, alpha=0.5, linestyle="--")
    if shown.by_asker is None:
        _lines(axes, shown.formed, "link formed", color=BLUE, linewidth=2)
    else:
        _lines(axes, shown.formed, None, color=BLUE, linewidth=0.8)
        _lines(axes, shown.by_asker, "link formed (bold end: it asked)", color=BLUE, linewidth=2.2)
    _aps(axes, shown)
    x, y = shown.ue_xy.T
    ues = axes.scatter(x, y, c=shown.sinr_db, vmin=low_db, vmax=high_db, plotnonfinite=True, **_UE)
    axes.scatter([], [], facecolor=ues.cmap(0.6), label="UE", **_UE)  # for the legend
    figure.colorbar(ues, ax=axes, label="SINR of the UE in this slot [dB]", extend="both", aspect=30)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


_FEW_APS = 30  # are numbered
_ROOFS = ListedColormap(["#FFFFFF00", "#E4E0D8"])
_UE: dict[str, Any] = {"s": 42, "edgecolor": "black", "linewidths": 0.8, "zorder": 5, "clip_on": False}
_RING: dict[str, Any] = {"s": 130, "facecolor": "none", "edgecolor": "#CC79A7", "linewidths": 1.6, "zorder": 3}
_AP: dict[str, Any] = {"marker": "^", "s": 34, "edgecolor": "black", "linewidths": 0.8, "zorder": 4, "clip_on": False}


def _lines(axes: Axes, pieces: FloatArray, label: str | None, **look: Any) -> None:
    """All of them as one path, which is interrupted between them: a fifth of the size of as many paths."""
    if len(pieces):
        ends = np.pad(pieces, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)  # (pieces, 3, 2)
        axes.plot(ends[..., 0].ravel(), ends[..., 1].ravel(), label=label, solid_capstyle="round", **look)


def _aps(axes: Axes, shown: SlotMap) -> None:
    """Full triangles; hollow if they transmitted too late to be heard, and crossed out if they were not there."""
    x, y = shown.ap_xy.T
    bad = shown.defective
    if bad.any():
        axes.scatter(x[bad], y[bad], label="AP with a defect (no AP is told)", **_RING)
    ok, stale, down = (shown.status == status for status in ("ok", "stale", "down"))
    axes.scatter(x[ok], y[ok], facecolor="black", label="AP", **_AP)
    if stale.any():
        axes.scatter(x[stale], y[stale], facecolor="white", label="AP, too late", **_AP)
    if down.any():
        axes.scatter(x[down], y[down], facecolor="white", **_AP)
        axes.scatter(x[down], y[down], marker="x", s=60, color=ORANGE, zorder=4, clip_on=False, label="AP, down")
    if len(shown.ap_xy) <= _FEW_APS:
        for ap, place in enumerate(shown.ap_xy):
            name = axes.annotate(str(ap), place, (4, 3), textcoords="offset points", fontsize=7, zorder=6)
            name.set_path_effects([withStroke(linewidth=2, foreground="white")])  # legible over lines
