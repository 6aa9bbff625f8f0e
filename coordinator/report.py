"""One self-contained page per run or comparison."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from coordinator import figures
from coordinator.rundir import RunDir


def write_report(path: Path) -> Path:
    """Draw every figure of a finished run into `figures/` (SVG, PDF and PNG) and write `report.html`.

    Returns:
        the page.

    Raises:
        RunDirError: if the folder holds no finished run.
    """
    folder = RunDir.open(path)
    slots, aps, summary = folder.table("slots"), folder.table("aps"), folder.summary()
    drawn = {
        "rate": figures.rate(slots),
        "sinr": figures.sinr(slots),
        "links": figures.links(slots),
        "learning": figures.learning(slots, aps),
    }
    (path / "figures").mkdir(exist_ok=True)
    drawings = {name: figures.save(figure, path / "figures" / name) for name, figure in drawn.items()}
    page = path / "report.html"
    page.write_text(_page(summary, (path / "config.toml").read_text(), drawings), encoding="utf-8")
    return page


def write_comparison(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write `comparison.json` and draw sum rate against links and against bytes into `figures/`."""
    (path / "comparison.json").write_text(json.dumps(rows, indent=2) + "\n")
    (path / "figures").mkdir(exist_ok=True)
    figures.save(figures.pareto(rows), path / "figures" / "pareto")


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
    shown = "".join(
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
{shown}
<h2>Messages</h2>
<table><tr><th>type</th><th>sent</th><th>bytes</th></tr>{traffic}</table>
<h2>Config</h2><pre>{html.escape(config)}</pre>
</body></html>
"""
