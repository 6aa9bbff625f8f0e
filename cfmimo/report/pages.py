"""One self-contained page per run and per comparison: tables, figures, config."""

from __future__ import annotations

import html
import shlex
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cfmimo.errors import ConfigError, RunDirError
from cfmimo.presets import load
from cfmimo.records.held_out import HELD_OUT, RATE, Row, read_rows
from cfmimo.records.rundir import RunDir, flat_columns, write_json
from cfmimo.report import comparison_figures, figures
from cfmimo.report.figures import Figure
from cfmimo.report.markup import beside, figure, page, table
from cfmimo.report.outages import Outage, fault_costs, is_afflicted, marks, outages, status_of
from cfmimo.report.slot_map import slot_map
from channel_server.impairments import defect_levels
from coordinator.tables import Table


def write_report(path: Path, slots: Sequence[int] | None = None) -> Path:
    """Draw every figure of a finished run into `figures/` (SVG, PDF and PNG) and write `report.html`.

    Args:
        path: the run directory; all is drawn from what it holds.
        slots: to draw maps of; None for the first and the last.

    Returns:
        the page.

    Raises:
        RunDirError: if the folder holds no finished run, or the run has no such slot.
    """
    folder = RunDir.open(path)
    by_slot, aps = folder.table("slots"), folder.table("aps")
    last = len(by_slot["slot"]) - 1
    for slot in slots or ():
        if not 0 <= slot <= last:
            raise RunDirError(f"there is no slot {slot}; {path} holds slots 0 to {last}")
    policy = tomllib.loads((path / "config.toml").read_text("utf-8"))["cooperation"]["policy"]
    struck, status = folder.struck(), status_of(aps)
    deaths = outages(struck, status == "ok")
    marked = marks(struck, deaths)
    drawn = {
        "rate": figures.rate(by_slot, marked.slots, policy),
        "sinr": figures.sinr(by_slot, marked.slots, policy),
        "links": figures.links(by_slot),
        "learning": figures.learning(by_slot, aps),
    }
    if evaluated := read_rows(path / HELD_OUT):
        rivals = {row["policy"]: row[RATE] for row in evaluated if row["policy"] != policy}
        drawn["held-out"] = figures.held_out(_columns([r for r in evaluated if r["policy"] == policy]), rivals, policy)
    if (path / "beliefs.parquet").is_file():
        levels = defect_levels(load(str(path / "config.toml")))
        drawn["beliefs"] = figures.beliefs(folder.table("beliefs"), levels)
    captions = {**_CAPTIONS, **{name: _CAPTIONS[name] + _MARKED for name in ("rate", "sinr") if marked.slots}}
    over_slots = beside(_drawing(path, name, drawing, captions[name]) for name, drawing in drawn.items())
    faults = ""
    if is_afflicted(struck, status == "ok"):
        states = _drawing(path, "states", figures.states(status, marked), _CAPTIONS["states"])
        faults = _faults(fault_costs(by_slot, status == "ok", struck), deaths, states)
    maps = _maps(folder, dict.fromkeys(slots or (0, last)), by_slot, aps)
    summary = folder.summary()
    return _write_page(
        folder,
        "run",
        f"<p>{summary['slots']} slots, {summary['slots_per_second']:.1f} slots/s, "
        f"{summary['ap_processes'] or 'no separate'} AP processes.<br/>Digest <code>{summary['digest']}</code></p>\n"
        f"{_means(summary)}\n{_paragraphs(summary['cluster_notes'])}\n{over_slots}\n{faults}\n<h2>Maps</h2>\n{maps}\n<h2>Messages</h2>\n{_traffic(summary)}",
    )


def _columns(rows: list[Row]) -> Table:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def write_comparison(path: Path, rows: list[dict[str, Any]], notes: Sequence[str] = ()) -> None:
    """Write `comparison.json` and `.parquet`, draw sum rate against costs into `figures/`, and write `report.html`."""
    folder = RunDir(path)
    write_json(path / "comparison.json", rows)
    folder.write_rows("comparison", rows)
    pareto = _drawing(path, "pareto", comparison_figures.pareto(rows), _CAPTIONS["pareto"])
    lead = "<p>Means over layouts, ± half of the 95 % interval.</p>"
    _write_page(folder, "comparison", f"{lead}\n{_comparison(rows)}\n{_paragraphs(notes)}\n{pareto}")


def write_sweep(path: Path, rows: list[dict[str, Any]], axes: Sequence[str], command: str) -> None:
    """Write `sweep.json` and `.parquet`, draw gains into `figures/`, and write `report.html`.

    Args:
        path: the folder.
        rows: one for each point of the grid, with `axes` and intervals.
        axes: names of the settings that differ.
        command: as typed.
    """
    write_json(path / "sweep.json", rows)
    RunDir(path).write_rows("sweep", rows)
    drawn = _drawing(path, "sweep", comparison_figures.sweep(rows, axes), _CAPTIONS["sweep"])
    shown = [{**row, **{axis: comparison_figures.short(row[axis]) for axis in axes}} for row in rows]
    body = f"<p><code>{html.escape(command)}</code></p>\n{_comparison(shown)}\n{drawn}"
    (path / "report.html").write_text(page("cfmimo sweep", body), encoding="utf-8")


def write_reproduction(path: Path, rows: list[dict[str, Any]], drawn: dict[str, Any], commands: str) -> None:
    """Write `reproduction.json` and `.parquet`, draw figures 3 to 7 into `figures/`, and write `report.html`.

    Args:
        path: the folder.
        rows: of the table paper / ours.
        drawn: what `reproduce.figures_of` gives.
        commands: how the page came about, in a sentence.
    """
    write_json(path / "reproduction.json", rows)
    RunDir(path).write_rows("reproduction", rows)
    rates = comparison_figures.cooperation_rate(drawn["rates"], np.array([0.65, 0.75]), 0.565)
    pictures = [_drawing(path, "fig3-cooperation", rates, _CAPTIONS["fig3-cooperation"])]
    for name in (name for name in drawn if name != "rates"):
        pictures.append(_drawing(path, name, comparison_figures.beside_the_paper(*drawn[name]), _CAPTIONS[name]))
    body = f"<p>{html.escape(commands)}</p>\n{_verdicts(rows)}\n{_paragraphs(CANNOT_BE)}\n{beside(pictures)}"
    (path / "report.html").write_text(page("cfmimo: the seed paper, reproduced", body), encoding="utf-8")


def _verdicts(rows: list[dict[str, Any]]) -> str:
    """A table for each reading of the paper."""
    of: dict[str, list[tuple[str, ...]]] = {}
    for row in rows:
        heading, _, remark = row["reading"].partition("; ")
        found = row["ours"]
        cells = (
            row["quantity"],
            "" if row["paper"] is None else f"{row['paper']:g}",
            f"{found['mean']:.3g} ({found['low']:.3g} to {found['high']:.3g})",
            "" if row["difference"] is None else f"{row['difference']:+.3g}",
            row["verdict"] + (f" ({remark})" if remark else ""),
        )
        of.setdefault(heading, []).append(cells)
    header = ("quantity", "paper", "ours (95 % interval)", "difference", "verdict")
    return "\n".join(f"<h2>{html.escape(name)}</h2>{table(header, cells, ('verdict',))}" for name, cells in of.items())


CANNOT_BE = (
    "What cannot be reproduced, and why. 500 links of the central controller: 100 APs with at most 4 neighbours have "
    "at most 400, and the paper's number is a constant. Fig. 3's phase 1 of 65 to 75 % as a request rate: with epsilon "
    "= 0.8 and uniform actions no agent can ask so often; it fits a union rate (either end asks) over reciprocal "
    "neighbour sets, which the printed ones are not. The two efficiencies, 2.8 and 2.73 times, are gains per link in "
    "two units, bit/s/Hz and dB, over that constant of 500.",
    "The paper shows one layout; another one would differ by about half a dB, so a number counts as reproduced if it "
    "lies in the 95 % interval of our mean or within two standard deviations over layouts. Its figures were not "
    "digitised: crosses are the numbers that it prints, and figures 4 to 7 are in the order of its results.",
    "Requests at random, as many, are the baseline that the paper lacks. Where they reach what its agents reach, its "
    "gain is that of cooperating at all.",
)


def _write_page(folder: RunDir, what: str, body: str) -> Path:
    manifest, config = folder.manifest(), (folder.path / "config.toml").read_text("utf-8")
    command = html.escape(shlex.join(manifest["command"]))
    lead = f"<p><code>{command}</code>, seed {manifest['seed']}, {manifest['written']}</p>"
    shown = f"{lead}\n{body}\n<h2>Config</h2><pre>{html.escape(config)}</pre>"
    path = folder.path / "report.html"
    path.write_text(page(f"cfmimo {what}", shown), encoding="utf-8")
    return path


# --- figures ----------------------------------------------------------------------------------------------

_CAPTIONS = {
    "rate": "Sum rate: every slot faintly, episode means bold. Grey: the same slots had no AP cooperated.",
    "sinr": "SINR (9) of the precoders really transmitted over the true channels.",
    "states": "Which AP was late or down in which slot, what ended it and how it came back.",
    "links": "Links in three units: directed requests, AP pairs that precoded jointly, AP pairs with a common UE.",
    "learning": "What the agents earn, and how much they still explore.",
    "held-out": "What they reach without exploring, on layouts that they never learn from. Star: who are kept. Dashed: "
    "others on the same layouts; informed is the forecast that is told all defects, as no AP is.",
    "beliefs": "What APs have found out about their own defects, of each kind the worst AP. No AP is told the truth.",
    "fig3-cooperation": "Fig. 3: how much the agents cooperate while they learn. Black: what the paper shows at the "
    "start, and its rate at the end.",
    "fig4-sinr": "Fig. 4: mean SINR on layouts that no agent has seen; random, threshold and oracle at the agents' "
    "number of links.",
    "fig5-rate": "Fig. 5: sum rate, on the same layouts.",
    "fig6-links": "Fig. 6: number of links; the paper's 500 of a central controller beside all requests there can be. "
    "At mutual agreement the oracle asks only for links that form.",
    "fig7-rate-per-link": "Fig. 7: sum-rate gain over no cooperation, per link.",
    "fig7-db-per-link": "Fig. 7 in the paper's other unit: gain in mean SINR per link.",
    "sweep": "Gain over the same slots without cooperation: mean over seeds with its 95 % interval (Student's t).",
    "pareto": "Sum rate and its 95 % interval over layouts, against what it costs. Dotted: no links, so no such cost.",
}
_MARKED = " Above it: the faults that fired."
_MAP_KEY = (
    "Lines show which AP serves which UE, requests without agreement, and links formed. A line that leaves the square "
    "at one border continues at the opposite one. The colour scale is the same for all slots of the run."
)


def _drawing(path: Path, name: str, drawn: Figure, caption: str) -> str:
    (path / "figures").mkdir(exist_ok=True)
    return figure(figures.save(drawn, path / "figures" / name), caption)


def _maps(folder: RunDir, slots: Iterable[int], by_slot: Table, aps: Table) -> str:
    """Maps of some slots, or the reason why there are none."""
    try:
        config, ues, links = load(str(folder.path / "config.toml")), folder.table("ues"), folder.table("links")
        maps = [slot_map(config, slot, aps, ues, links) for slot in slots]
    except (ConfigError, RunDirError) as error:
        return f"<p>No map: {html.escape(str(error))}</p>"
    low, high = np.nanpercentile(ues["sinr_db"], (1, 99))
    sinr_range = float(np.floor(low)), float(np.ceil(high))  # of the run: its maps can be compared
    drawings = (
        _drawing(
            folder.path,
            f"map-slot{shown.slot}",
            figures.network_map(shown, sinr_range),
            f"Slot {shown.slot}: {by_slot['sum_rate_bps_hz'][shown.slot]:.1f} bit/s/Hz, "
            f"{by_slot['requests'][shown.slot]} requests, {by_slot['formed'][shown.slot]} links formed.",
        )
        for shown in maps
    )
    return f"<p>{_MAP_KEY}</p>\n{beside(drawings)}"


# --- tables -----------------------------------------------------------------------------------------------

_ROWS = (
    ("sum rate [bit/s/Hz]", "sum_rate_bps_hz"),
    ("sum rate net of pilots [bit/s/Hz]", "sum_rate_net_bps_hz"),
    ("sum rate, hardening bound [bit/s/Hz]", "sum_rate_hardening_bps_hz"),
    ("mean SINR [dB]", "sinr_mean_db"),
    ("5 %-UE SINR [dB]", "sinr_p5_db"),
    ("request rate", "request_rate"),
    ("union rate", "union_rate"),
    ("AP-to-AP messages per slot", "messages_per_slot"),
    ("AP-to-AP bytes per slot", "bytes_per_slot"),
)


def _means(summary: dict[str, Any]) -> str:
    columns = (summary, summary["no_cooperation"], summary["last_tenth"], summary["last_tenth"]["no_cooperation"])
    rows = [(label, [column[key] for column in columns]) for label, key in _ROWS]
    rows += [(f"links: {unit}", [column["links"][unit] for column in columns]) for unit in summary["links"]]
    return table(
        ("mean over slots", "cooperation", "no cooperation", "last tenth", "its no coop."),
        [(label, *("" if value is None else f"{value:,.2f}" for value in values)) for label, values in rows],
    )


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


def _faults(costs: dict[str, Any], deaths: Sequence[Outage], states: str) -> str:
    """Faults, their consequences, and a table of deaths."""
    kinds = [
        (kind.replace("_", " "), str(costs["planned"].get(kind, 0)), str(costs["fired"].get(kind, 0)))
        for kind in dict.fromkeys((*costs["planned"], *costs["fired"]))
    ]
    parts = [table(("fault", "planned", "fired"), kinds)] if kinds else []
    parts += [_paragraphs(_fault_notes(costs)), _durations(costs), _paragraphs([_TO_RECOVER])]
    parts += [_rates(costs), _paragraphs([_NO_TWIN]), states]
    if deaths:
        header = ("AP", "slot of death", "fault of its own", "slots lost", "checkpoint", "its age at death", "back in")
        parts += ["<h3>Deaths</h3>", table(header, map(_death, deaths))]
    return "<h2>Faults</h2>\n" + "\n".join(parts)


_TO_RECOVER = (
    "To recover: from a fault to the first slot in which the sum rate over that without cooperation is at least its "
    "median before the faults. It crosses its median all the time, so it is counted alike from each slot before them."
)
_NO_TWIN = (
    "During: from the first slot with a fault or without an AP to the last. A run has no twin without faults, and "
    "nothing that its sum rate is held against here is perfect. Before the faults, UEs were elsewhere and agents knew "
    "less. The same slots without cooperation lack the APs that are down as well, so they tell what became of "
    "cooperation and not of the power that is missing. Other slots of the same episodes have the same UEs in the same "
    "places."
)


def _fault_notes(costs: dict[str, Any]) -> list[str]:
    notes = [
        f"{costs['deaths']} deaths of APs; {costs['restored']} came back from a checkpoint.",
        f"Slots in which an AP was late or did not report, over all APs: {costs['ap_slots_not_ok']}. Reports "
        "that a dead AP had not sent are missing.",
    ]
    if costs["ended_by_watchdog"]:
        notes.append(f"The watchdog ended {costs['ended_by_watchdog']} hung processes.")
    if costs["given_up"]:
        given_up = ", ".join(map(str, costs["given_up"]))
        notes.append(f"Given up after too many deaths, and silent from then on: AP {given_up}.")
    return notes


def _durations(costs: dict[str, Any]) -> str:
    recovery = costs["slots_to_recover"] or {}
    spreads = {
        "lost by a death": costs["slots_lost"],
        "checkpoint's age at death": costs["checkpoint_age_slots"],
        "to recover from a fault": recovery if "median" in recovery else None,
        "likewise, without a fault": recovery.get("without_fault"),
    }
    ends = ("median", "p95", "max")
    rows = [(of, *(f"{spread[end]:.3g}" for end in ends)) for of, spread in spreads.items() if spread]
    if recovery.get("never"):
        rows.append((f"without recovery: {recovery['never']} slots with faults", "", "", ""))
    return table(("slots", *ends), rows) if rows else ""


def _rates(costs: dict[str, Any]) -> str:
    rates, before = costs["sum_rate_bps_hz"], costs["sum_rate_bps_hz"]["before"]
    lines = {
        "sum rate [bit/s/Hz]": (rates, ".2f"),
        "over that before": ({name: before and rate and rate / before for name, rate in rates.items()}, ".3f"),
        "over no cooperation in the same slots": (costs["over_no_cooperation"], ".3f"),
        "with APs missing, over other slots of the same episodes": ({"during": costs["with_aps_missing"]}, ".3f"),
    }
    periods = ("before", "during", "after")
    cells = [(name, [(values.get(period), form) for period in periods]) for name, (values, form) in lines.items()]
    return table(
        ("mean over slots", "before the faults", "during", "after"),
        [(name, *("" if value is None else format(value, form) for value, form in row)) for name, row in cells],
    )


def _death(outage: Outage) -> tuple[str, ...]:
    known = f"before slot {outage.restored}" if outage.restored else "none"
    return (
        str(outage.ap),
        str(outage.died),
        "none" if outage.action is None else outage.action.replace("_", " "),
        str(outage.lost),
        "unknown" if outage.restored is None else known,
        "" if outage.age is None else str(outage.age),
        "never" if outage.back is None else str(outage.back),
    )


def _traffic(summary: dict[str, Any]) -> str:
    sent = ((kind, count) for kind, count in summary["traffic"].items() if count["messages"])
    return table(
        ("type", "sent", "bytes"), [(kind, f"{count['messages']:,}", f"{count['bytes']:,}") for kind, count in sent]
    )


def _comparison(rows: list[dict[str, Any]]) -> str:
    cells = _cells(flat_columns(rows))
    return table(list(cells), list(zip(*cells.values(), strict=True)))


def _cells(columns: dict[str, list[Any]]) -> dict[str, list[str]]:
    """Text by column; what has a mean, a low and a high end is one column."""
    cells = {}
    for name, values in columns.items():
        base, _, part = name.rpartition("_")
        if part not in _ENDS or not {f"{base}_{end}" for end in _ENDS} <= columns.keys():
            cells[_label(name)] = _texts(values, _decimals(values, 3))
        elif part == "mean":
            ends = zip(columns[f"{base}_low"], columns[f"{base}_high"], strict=True)
            halves = [None if low is None else (high - low) / 2 for low, high in ends]
            decimals = _decimals(halves, 2)
            both = zip(_texts(values, decimals), _texts(halves, decimals), strict=True)
            cells[_label(base)] = [f"{mean} ± {half}" if half else mean for mean, half in both]
    return cells


_ENDS = ("mean", "low", "high")


def _decimals(values: list[Any], digits: int) -> int:
    """How many decimals give the largest number so many digits."""
    size = max((abs(value) for value in values if isinstance(value, float)), default=0)
    return max(digits - 1 - int(np.floor(np.log10(size))), 0) if size else digits


def _texts(values: list[Any], decimals: int) -> list[str]:
    return ["" if v is None else f"{v:,.{decimals}f}" if isinstance(v, float) else str(v) for v in values]


def _label(name: str) -> str:
    if "." in name:
        return name  # of a setting
    for suffix, unit in (("_bps_hz", " [bit/s/Hz]"), ("_db", " [dB]")):
        if name.endswith(suffix):
            name = name.removesuffix(suffix) + unit
    return name.replace("_", " ").replace("sinr", "SINR")
