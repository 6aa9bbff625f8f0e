"""Output in the terminal: progress on standard error, the closing table on standard output."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cfmimo.records.held_out import RATE, Row
from cfmimo.runtime.request import ERRORS

_REFRESH_S = 0.5
_LOG_LINE_S = 15.0  # where standard error is no terminal
_PIDS_SHOWN = 20


class Console:
    """Progress of one run; silent if `quiet`."""

    def __init__(self, num_slots: int | None, quiet: bool) -> None:
        self._error = RichConsole(stderr=True, quiet=quiet)
        self._live = self._error.is_terminal
        self.num_slots = num_slots
        self._shown = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._error,
            disable=quiet or not self._live,
        )
        self._task = self._bar.add_task("starting", total=None, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def due(self) -> bool:
        """Whether it is time to show something new."""
        interval = _REFRESH_S if self._live else _LOG_LINE_S
        return not self._error.quiet and time.monotonic() - self._shown >= interval

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._error.print(text, highlight=False)

    def starting(self, started: int, total: int) -> None:
        """Show how many AP processes are up."""
        self._bar.update(self._task, description="starting APs", completed=started, total=total)
        if self.due and not self._live:
            self._shown = time.monotonic()
            self.say(f"starting: {started} of {total} APs are up")

    def progress(self, newest: int, row: dict[str, Any] | None) -> None:
        """The newest slot, and the row of a recent one."""
        if not self.due:
            return
        self._shown = time.monotonic()
        figures = _figures(row)
        if self._live:
            self._bar.update(
                self._task, description="slot", completed=newest + 1, total=self.num_slots, figures=figures
            )
        else:
            self.say(f"slot {newest + 1} of {self.num_slots}  {figures}")

    def stage(self, what: str) -> Callable[[int, int], None]:
        """Begin a stage of long work; the function returned shows how much of it is done."""

        def show(done: int, total: int) -> None:
            if self._live:
                self._bar.update(self._task, description=what, completed=done, total=total, figures="")
            elif self.due:
                self._shown = time.monotonic()
                self.say(f"{what} {done} of {total}")

        return show

    def comparison_table(self, result: dict[str, Any]) -> None:
        """Print the gain and the cost of each policy at each number of links."""
        out = RichConsole(width=None if self._error.is_terminal else 120)
        title = f"{result['layouts']} layouts, the same for all rows; ± 95 % interval, paired"
        for heading, columns in ((title, _BRINGS), ("what it costs", _COSTS)):
            table = Table(title=heading, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
            table.add_column("policy", no_wrap=True)
            for name, _ in columns:
                table.add_column(name, justify="right", no_wrap=True)
            for row in result["rows"]:
                table.add_row(_name(row), *(value(row) for _, value in columns))
            out.print(table)
        for note in result["notes"]:
            out.print(note, highlight=False)
        out.print(f"tables and figure: {result['run_dir']} (open report.html)", highlight=False, soft_wrap=True)

    def explanation(self, result: dict[str, Any]) -> None:
        """Print why an AP did what it did in a slot."""
        out = RichConsole(width=None if self._error.is_terminal else 120)
        above = result["asks_above"]
        asks = "" if above is None else f"; asks where a link is worth more than {above:g}"
        out.print(f"AP {result['ap']}, slot {result['slot']}, policy {result['policy']}{asks}", highlight=False)
        table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name in ("neighbour", "interference", "mastered", "forecast", "worth", "asked", "answer", "linked"):
            table.add_column(name, justify="right")
        for row in sorted(result["neighbours"], key=lambda row: -(row["worth"] or 0.0)):
            known = [_number(row[name], ".3g") for name in ("forecast", "worth")]
            marks = ["yes" if row["asked"] else "", row["answer"], _linked(row)]
            table.add_row(str(row["ap"]), f"{row['interference']:.0%}", _number(row["mastered"], "d"), *known, *marks)
        out.print(table)
        for reason in result["reasons"]:
            out.print(reason, highlight=False)
        if result["explored"]:
            out.print("It explored: its network would have chosen otherwise.", highlight=False)
        for ue in result["ues"]:
            rates = f"{ue['rate']:.2f} bit/s/Hz, {ue['rate_alone']:.2f} without cooperation"
            out.print(f"UE {ue['ue']}: {rates}", highlight=False)
        cost = f"{result['messages']} messages to other APs, {result['bytes']} bytes"
        out.print(f"relative gain {result['gain']:+.3f}, reward {result['reward']:+.3f}; {cost}", highlight=False)
        if not result["as_recorded"]:
            out.print("In the run itself the AP asked others or got other links: faults struck it at other moments.")

    def sweep_table(self, result: dict[str, Any]) -> None:
        """Print what came of every point of a grid."""
        out = RichConsole(width=None if self._error.is_terminal else 120)
        title = "means over seeds, ± 95 % interval"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name in (*(axis.rpartition(".")[2] for axis in result["axes"]), *_SWEPT):
            table.add_column(name, justify="right", no_wrap=True)
        for row in result["rows"]:
            settings = [f"{row[axis]:g}" if isinstance(row[axis], float) else row[axis] for axis in result["axes"]]
            table.add_row(*settings, *(_with_interval(row[key], ".4g", ".2g") for key in _SWEPT.values()))
        out.print(table)
        out.print(f"table, figure and runs: {result['run_dir']} (open report.html)", highlight=False, soft_wrap=True)

    def reproduction_table(self, result: dict[str, Any]) -> None:
        """Print the paper's numbers beside ours, with verdicts."""
        out = RichConsole(width=None if self._error.is_terminal else 130)
        table = Table(title="± 95 % interval over layouts", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for name, justify in (("quantity", "left"), ("paper", "right"), ("ours", "right"), ("difference", "right")):
            table.add_column(name, justify=justify, no_wrap=justify == "right")  # type: ignore[arg-type]
        table.add_column("verdict", overflow="fold")
        heading = None
        for row in result["rows"]:
            reading = row["reading"].split(";")[0]
            if reading != heading:
                table.add_section()
                table.add_row(f"[italic]{escape(reading)}[/]")
                heading = reading
            table.add_row(
                escape(row["quantity"]),
                _number(row["paper"], "g"),
                _with_interval(row["ours"], ".3g", ".2g"),
                _number(row["difference"], "+.3g"),
                row["verdict"],
            )
        out.print(table)
        out.print(f"figures and page: {result['run_dir']} (open report.html)", highlight=False, soft_wrap=True)

    def closing_table(self, summary: dict[str, Any]) -> None:
        """Print the results of a run, beside the same slots without cooperation."""
        last = summary["last_tenth"]
        table = Table(title=f"{summary['slots']} slots, digest {summary['digest'][:16]}", title_justify="left")
        table.add_column("mean over slots")
        for title in ("cooperation", "no cooperation", "last tenth", "its no coop."):
            table.add_column(title, justify="right")
        columns = (summary, summary["no_cooperation"], last, last["no_cooperation"])
        for label, form, value in _ROWS:
            values = (value(column) for column in columns)
            table.add_row(escape(label), *("" if v is None else form.format(v) for v in values))
        out = RichConsole(width=None if self._error.is_terminal else 100)
        out.print(table)
        if summary["held_out"]:
            _print_held_out(out, summary["held_out"])
        for note in summary["cluster_notes"]:
            out.print(note, highlight=False)
        if summary["updates_skipped"]:
            skipped = f"{summary['updates_skipped']} updates of agents were skipped because they were not finite"
            out.print(f"{skipped}; lower learning.learning_rate", highlight=False)
        if summary["checkpoints_unsaved"]:
            unsaved = f"{summary['checkpoints_unsaved']} checkpoints could not be written: is the disk full?"
            out.print(unsaved, highlight=False)
        if summary["ap_processes"]:
            count, aps = summary["ap_processes"], len(summary["processes"])
            first = [*dict.fromkeys(str(process["pid"]) for process in summary["processes"])][:_PIDS_SHOWN]
            pids, shared = ", ".join(first + ["..."] * (count > len(first))), f", shared by {aps} APs" * (aps > count)
            out.print(f"{count} AP actors in as many processes{shared}: {pids}", highlight=False)
        late, lost = summary["traffic"]["Deadline"]["messages"], summary["frames_lost"]
        if late or any(lost.values()) or summary["restarts"]:
            troubles = (
                f"{late} reminders after a deadline, {len(summary['restarts'])} APs restarted; frames lost as planned: "
                f"{lost['planned']}, sent to nobody: {lost['to_nobody']}, unaccounted for: {lost['unaccounted']}"
            )
            if summary["ap_processes"]:  # and not virtual time
                troubles += ": this digest depends on timing"
            out.print(troubles, highlight=False)
        if summary["errors"]:
            out.print(_error_line(summary["errors"]), highlight=False, markup=False, soft_wrap=True)
        if summary["faults"]:
            out.print(_fault_line(summary["faults"]), highlight=False, soft_wrap=True)
        rate = f"{summary['slots_per_second']:.1f} slots/s"
        out.print(f"{rate}; run directory: {summary['run_dir']} (open report.html)", highlight=False, soft_wrap=True)


def _print_held_out(out: RichConsole, rows: list[Row]) -> None:
    """A table of who reached what on the layouts held out, and what the agents have learned, in a sentence."""
    of = {row["policy"]: row for row in rows if not row["slots"]}
    last = max(rows, key=lambda row: row["slots"])
    table = Table(title="on layouts that were never learned from", title_justify="left")
    table.add_column("policy")
    for title in ("bit/s/Hz", "mean dB", "5 % dB", "links"):
        table.add_column(title, justify="right")
    for name, row in sorted({**of, last["policy"]: last}.items(), key=lambda entry: entry[1][RATE]):
        values = (f"{row[column]:.{digits}f}" for column, digits in _HELD_OUT)
        table.add_row(f"{name}, after {last['slots']} slots" if row is last else name, *values)
    out.print(table)
    if "forecast" in of:
        ahead, most = last[RATE] - of["forecast"][RATE], of.get("informed", last)[RATE] - of["forecast"][RATE]
        sentence = f"What the agents have learned brings {ahead:+.1f} bit/s/Hz over the forecast that they began with"
        told = f", {ahead / most:.0%} of what knowing all defects would" if "informed" in of and most > 0 else ""
        out.print(f"{sentence}{told}.", highlight=False)


_HELD_OUT = ((RATE, 1), ("sinr_mean_db", 2), ("sinr_p5_db", 2), ("formed", 1))


def _error_line(errors: list[dict[str, Any]]) -> str:
    """Which exceptions ended processes of APs, in a sentence."""
    aps = ", ".join(map(str, sorted({error["ap"] for error in errors})))
    return (
        f"exceptions that ended a process: {len(errors)}, of AP {aps}; the last: {errors[-1]['error']} (see {ERRORS})"
    )


def _fault_line(faults: dict[str, Any]) -> str:
    """The faults of a run, in a sentence."""
    fired, planned = (sum(faults[name].values()) for name in ("fired", "planned"))
    line = f"{fired} of {planned} faults fired; {faults['deaths']} deaths of APs, {faults['restored']} restored"
    lost = faults["slots_lost"]
    if lost:
        line += f"; a death cost {lost['median']:.3g} slots, at most {lost['max']:.3g}"
    if faults["with_aps_missing"]:
        line += f"; sum rate with APs missing: {faults['with_aps_missing'] - 1:+.1%}"
    if faults["given_up"]:
        line += f"; given up: AP {', '.join(map(str, faults['given_up']))}"
    return line


def _name(row: dict[str, Any]) -> str:
    """A policy with the number of links or the request rate that it is tuned to."""
    if row["aimed_at"]:
        return f"{row['policy']} {row['aimed_at']}"
    return f"{row['policy']} {row['setting']:.1%}" if row["policy"] == "random" else str(row["policy"])


def _linked(row: dict[str, Any]) -> str:
    if not row["linked"]:
        return ""
    return "yes" if row["answer"] == "yes" else "through others"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _mean(interval: dict[str, float] | None, form: str) -> str:
    return "" if interval is None else format(interval["mean"], form)


_SWEPT = {  # columns of a sweep's table
    "bit/s/Hz": "sum_rate_bps_hz",
    "gain": "gain_sum_rate_bps_hz",
    "mean dB": "sinr_mean_db",
    "5 % dB": "sinr_p5_db",
    "links": "links_formed",
    "bytes/slot": "bytes_per_slot",
}


def _with_interval(interval: dict[str, Any] | None, form: str = "+.2f", half: str = ".2f") -> str:
    if interval is None:
        return ""
    if interval["low"] is None:  # of one run
        return f"{interval['mean']:{form}}"
    return f"{interval['mean']:{form}} ± {(interval['high'] - interval['low']) / 2:{half}}"


_Columns = tuple[tuple[str, Callable[[dict[str, Any]], str]], ...]
_BRINGS: _Columns = (
    ("bit/s/Hz", lambda row: _with_interval(row["sum_rate_bps_hz"], ".1f", ".1f")),
    ("hardening", lambda row: _mean(row["sum_rate_hardening_bps_hz"], ".1f")),
    ("pre-log", lambda row: _mean(row["sum_rate_net_bps_hz"], ".1f")),
    ("mean dB", lambda row: _mean(row["sinr_mean_db"], ".2f")),
    ("5 % dB", lambda row: _mean(row["sinr_p5_db"], ".2f")),
    ("Jain", lambda row: _number(row["jain"], ".3f")),
    ("gain dB", lambda row: _with_interval(row["gain_db"])),
    ("over random", lambda row: "" if row["policy"] == "random" else _with_interval(row["over_random_bps_hz"])),
    ("gap closed", lambda row: _gap(row)),
)
_COSTS: _Columns = (
    ("requests", lambda row: _number(row["links"]["requests"], ".1f")),
    ("formed", lambda row: _number(row["links"]["formed"], ".1f")),
    ("pairs", lambda row: _number(row["links"]["pairs"], ".1f")),
    ("messages", lambda row: _number(row["messages_per_slot"], ",.0f")),
    ("bytes/slot", lambda row: _number(row["bytes_per_slot"], ",.0f")),
    ("bits/block", lambda row: _number(row["fronthaul_bits_per_block"], ",.0f")),
    ("book count", lambda row: _number(row["fronthaul_scalars_per_block"], ",.0f")),
    ("peak W", lambda row: _number(row["peak_power_w"], ".1f")),
    ("bit/s/Hz/link", lambda row: _number(row["gain_per_link_bps_hz"], ".3f")),
    ("dB/link", lambda row: _number(row["gain_per_link_db"], ".4f")),
)


def _gap(row: dict[str, Any]) -> str:
    return "" if row["policy"] in {"random", "oracle"} else _with_interval(row["gap_closed"], ".0%", ".0%")


def _figures(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return (
        f"{row['sum_rate_bps_hz']:.1f} bit/s/Hz  {row['sinr_mean_db']:.1f} dB  "
        f"links {row['requests']} asked {row['formed']} formed"
    )


_ROWS: tuple[tuple[str, str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("sum rate [bit/s/Hz]", "{:.2f}", lambda s: s["sum_rate_bps_hz"]),
    ("hardening bound [bit/s/Hz]", "{:.2f}", lambda s: s["sum_rate_hardening_bps_hz"]),
    ("mean SINR [dB]", "{:.2f}", lambda s: s["sinr_mean_db"]),
    ("5 %-UE SINR [dB]", "{:.2f}", lambda s: s["sinr_p5_db"]),
    ("directed requests", "{:.1f}", lambda s: s["links"]["requests"]),
    ("undirected links formed", "{:.1f}", lambda s: s["links"]["formed"]),
    ("AP pairs with a common UE", "{:.1f}", lambda s: s["links"]["pairs"]),
    ("request rate", "{:.1%}", lambda s: s["request_rate"]),
    ("AP-to-AP messages per slot", "{:.1f}", lambda s: s["messages_per_slot"]),
    ("AP-to-AP bytes per slot", "{:,.0f}", lambda s: s["bytes_per_slot"]),
)
