"""Figures of a run, and one self-contained page that shows them."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from coordinator.record import Table
from coordinator.rundir import RunDir

# Okabe-Ito: told apart by colour-blind readers
_BLUE, _ORANGE, _GREEN, _PINK, _GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cfmimo",
}


def write_report(path: Path) -> Path:
    """Draw every figure of a finished run into `figures/` (SVG and PNG) and write `report.html`.

    Returns:
        the page.

    Raises:
        RunDirError: if the folder holds no finished run.
    """
    folder = RunDir.open(path)
    slots, aps, summary = folder.table("slots"), folder.table("aps"), folder.summary()
    with mpl.rc_context(_STYLE):
        figures = {
            "rate": _rate(slots),
            "sinr": _sinr(slots),
            "links": _links(slots),
            "learning": _learning(slots, aps),
        }
        (path / "figures").mkdir(exist_ok=True)
        drawings = {name: _save(figure, path / "figures" / name) for name, figure in figures.items()}
    page = path / "report.html"
    page.write_text(_page(summary, (path / "config.toml").read_text(), drawings), encoding="utf-8")
    return page


def write_comparison(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write `comparison.json` and draw sum rate against links and against bytes into `figures/`."""
    (path / "comparison.json").write_text(json.dumps(rows, indent=2) + "\n")
    (path / "figures").mkdir(exist_ok=True)
    with mpl.rc_context(_STYLE):
        _save(_pareto(rows), path / "figures" / "pareto")


# --- figures ----------------------------------------------------------------------------------------------


def _rate(slots: Table) -> Figure:
    figure, axes = _axes("sum rate [bit/s/Hz]")
    _over_episodes(axes, slots, "sum_rate_bps_hz", "cooperation", _BLUE)
    _over_episodes(axes, slots, "sum_rate_alone_bps_hz", "no cooperation, same slots", _GREY)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _sinr(slots: Table) -> Figure:
    figure, axes = _axes("SINR over UEs and blocks [dB]")
    _over_episodes(axes, slots, "sinr_mean_db", "mean", _BLUE)
    _over_episodes(axes, slots, "sinr_mean_alone_db", "mean, no cooperation", _GREY)
    _over_episodes(axes, slots, "sinr_p5_db", "5 %-UE", _ORANGE)
    _over_episodes(axes, slots, "sinr_p5_alone_db", "5 %-UE, no cooperation", _GREY, dashed=True)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _links(slots: Table) -> Figure:
    figure, axes = _axes("number in a slot")
    _over_episodes(axes, slots, "pairs", "AP pairs with a common UE", _GREY)
    _over_episodes(axes, slots, "requests", "directed requests", _ORANGE)
    _over_episodes(axes, slots, "formed", "undirected links formed", _BLUE)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _learning(slots: Table, aps: Table) -> Figure:
    """Mean over the APs that had someone to ask."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    deciding = aps["neighbours"] > 0
    for axes, name, colour in ((upper, "reward", _GREEN), (lower, "epsilon", _ORANGE)):
        total = np.bincount(aps["slot"], weights=aps[name] * deciding)
        mean = total / np.maximum(np.bincount(aps["slot"], weights=deciding), 1)
        _over_episodes(axes, {**slots, name: mean}, name, "", colour)
    upper.set_ylabel("reward (12), mean over APs")
    lower.set_ylabel("ε")
    lower.set_xlabel("slot")
    return figure


def _pareto(rows: list[dict[str, Any]]) -> Figure:
    """Sum rate with its 95 % interval against what it costs; a policy without links is a level."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for colour, policy in zip(
        (_GREY, _ORANGE, _BLUE, _GREEN, _PINK), dict.fromkeys(r["policy"] for r in rows), strict=False
    ):
        own = [row for row in rows if row["policy"] == policy]
        rate = [row["sum_rate_bps_hz"]["mean"] for row in own]
        error = [[r["sum_rate_bps_hz"]["mean"] - r["sum_rate_bps_hz"]["low"] for r in own]]
        error += [[r["sum_rate_bps_hz"]["high"] - r["sum_rate_bps_hz"]["mean"] for r in own]]
        for axes, cost in ((left, [r["links"]["formed"] for r in own]), (right, [r["bytes_per_slot"] for r in own])):
            label = policy if axes is left else None
            if cost[0] is None:
                axes.axhline(rate[0], color=colour, linestyle=":", label=label)
            else:
                axes.errorbar(cost, rate, error, color=colour, marker="o", capsize=3, label=label)
    left.set_xlabel("undirected links formed")
    right.set_xlabel("bytes between APs in a slot")
    left.set_ylabel("sum rate [bit/s/Hz]")
    figure.legend(loc="outside upper center", ncols=5)
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


def _save(figure: Figure, path: Path) -> str:
    """Write both formats; returns the SVG to put into a page."""
    figure.savefig(path.with_suffix(".png"), dpi=160)
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})
    path.with_suffix(".svg").write_text(drawing.getvalue(), encoding="utf-8")
    return drawing.getvalue()[drawing.getvalue().index("<svg") :]


# --- page -------------------------------------------------------------------------------------------------

_CAPTIONS = {
    "rate": "Sum rate: every slot faintly, episode means bold. Grey: the same slots had no AP cooperated.",
    "sinr": "SINR (9) of the precoders really transmitted over the true channels.",
    "links": "Links in the three units: who asked, who precoded jointly, who shares a UE anyway.",
    "learning": "What the agents earn, and how much they still explore.",
}
_ROWS = (
    ("sum rate [bit/s/Hz]", "sum_rate_bps_hz"),
    ("sum rate net of pilots [bit/s/Hz]", "sum_rate_net_bps_hz"),
    ("mean SINR [dB]", "sinr_mean_db"),
    ("5 %-UE SINR [dB]", "sinr_p5_db"),
    ("request rate", "request_rate"),
    ("union rate", "union_rate"),
    ("AP-to-AP messages per slot", "messages_per_slot"),
    ("AP-to-AP bytes per slot", "bytes_per_slot"),
)


def _page(summary: dict[str, Any], config: str, drawings: dict[str, str]) -> str:
    columns = (summary, summary["no_cooperation"], summary["last_tenth"], summary["last_tenth"]["no_cooperation"])
    rows = [(label, [column[key] for column in columns]) for label, key in _ROWS]
    rows += [(f"links: {unit}", [column["links"][unit] for column in columns]) for unit in summary["links"]]
    body = "".join(
        f"<tr><th>{label}</th>{''.join(f'<td>{v:,.2f}</td>' for v in values)}</tr>" for label, values in rows
    )
    traffic = "".join(
        f"<tr><th>{kind}</th><td>{count['messages']:,}</td><td>{count['bytes']:,}</td></tr>"
        for kind, count in summary["traffic"].items()
        if count["messages"]
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in summary["cluster_notes"])
    figures = "".join(
        f"<figure>{drawing}<figcaption>{_CAPTIONS[name]}</figcaption></figure>" for name, drawing in drawings.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>cfmimo run {summary["digest"][:12]}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }}
th, td {{ padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child {{ text-align: left; font-weight: normal }}
figure {{ margin: 1.5rem 0 }} svg {{ max-width: 100%; height: auto }}
figcaption {{ color: #555 }} pre {{ background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 13px }}
</style></head><body>
<h1>cfmimo run</h1>
<p>{summary["slots"]} slots, {summary["slots_per_second"]:.1f} slots/s, {summary["ap_processes"] or "no separate"} AP
processes.<br>Digest <code>{summary["digest"]}</code></p>
<table><tr><th>mean over slots</th><th>cooperation</th><th>no cooperation</th><th>last tenth</th>
<th>its no coop.</th></tr>{body}</table>
{notes}
{figures}
<h2>Messages</h2>
<table><tr><th>type</th><th>sent</th><th>bytes</th></tr>{traffic}</table>
<h2>Config</h2><pre>{html.escape(config)}</pre>
</body></html>
"""
