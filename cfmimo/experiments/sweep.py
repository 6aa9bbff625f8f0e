"""The same experiment with other settings and seeds: one run each, in parallel processes, and one table of all."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from apnode.config import Config
from apnode.protocol.messages import FloatArray
from cfmimo.errors import ConfigError, RunDirError
from cfmimo.experiments.resume import resume
from cfmimo.experiments.run import run
from cfmimo.presets import load
from cfmimo.records.rundir import SUMMARY, RunDir
from cfmimo.runtime.request import RunRequest
from cfmimo.workers import advance, spread
from coordinator.journal import JOURNAL
from coordinator.watch import Watch

RUNS = "runs"  # in a sweep's folder
_QUANTITIES = ("sum_rate_bps_hz", "sinr_p5_db", "sinr_mean_db")  # of a run's summary
# 97.5 % quantiles of Student's t, by degrees of freedom from 1
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
Point = dict[str, str]  # by setting, its value as typed


def grid_of(options: Sequence[str]) -> list[Point]:
    """Every combination of the values of `section.key=value,value` options.

    Raises:
        ConfigError: if an option reads otherwise, or a setting comes twice.
    """
    axes: dict[str, list[str]] = {}
    for option in options:
        key, equals, values = option.partition("=")
        if not equals or not values or key in axes:
            raise ConfigError(f"--grid {option!r} should read section.key=value,value, each setting once")
        axes[key] = _parts(values)
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _parts(text: str) -> list[str]:
    """The values between commas that are in no brackets and no quotes."""
    parts, depth, quoted = [""], 0, False
    for sign in text:
        quoted ^= sign == '"'
        depth += (sign in "[{") - (sign in "]}")
        if sign == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def configs_of(source: str, overrides: Sequence[str], grid: Sequence[Point], seeds: Sequence[int]) -> list[Config]:
    """The config of every point and seed, point by point.

    Raises:
        ConfigError: naming the first point that makes no sense.
    """
    configs = []
    for point, seed in itertools.product(grid, seeds):
        settings = [f"{key}={value}" for key, value in point.items()]
        try:
            configs.append(load(source, [*overrides, *settings], seed))
        except ConfigError as error:
            raise ConfigError(f"{' '.join(settings)}: {error}") from None
    return configs


def sweep(
    configs: Sequence[Config],
    grid: Sequence[Point],
    folder: Path,
    workers: int,
    command: list[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Run every config once, in one process each; what is in the folder already is not run again.

    Args:
        configs: of every point and seed, point by point, as `configs_of` gives them.
        grid: the points.
        folder: for the runs; a run that was interrupted goes on where it was.
        workers: processes that share the runs.
        command: as typed, for the manifests.
        progress: told how many slots are done, of how many.

    Returns:
        a row per point: its settings, and means over seeds as {mean, low, high} with a 95 % interval (Student's t).

    Raises:
        RunDirError: if the folder holds a run of another config at one of these points.
    """
    seeds = len(configs) // len(grid)
    paths = [folder / RUNS / _name(grid[n // seeds], config.seed) for n, config in enumerate(configs)]
    for path, config in zip(paths, configs, strict=True):
        if (path / "config.toml").is_file() and load(path / "config.toml") != config:
            raise RunDirError(f"{path} is a run of another experiment; name a new folder with --out")
    total = sum(config.num_slots for config in configs)
    arguments = [(config, path, command) for config, path in zip(configs, paths, strict=True)]
    spread(_carry_out, arguments, workers, lambda done: progress(done, total))
    found = [RunDir.open(path).summary() for path in paths]
    return [_row(point, found[seeds * n : seeds * (n + 1)]) for n, point in enumerate(grid)]


def _name(point: Point, seed: int) -> str:
    """Of a run's folder."""
    parts = [*(f"{key}={value}" for key, value in point.items()), f"seed={seed}"]
    return "+".join("".join(sign if sign.isalnum() or sign in "=.-_" else "_" for sign in part) for part in parts)


class _Counted:
    """Progress that another process sums up."""

    num_slots: int | None = None
    due = True

    def __init__(self) -> None:
        self._told = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Nothing: the sweep's own table says what came of it."""

    def starting(self, started: int, total: int) -> None:
        """Nothing: all APs are in this process."""

    def progress(self, newest: int, row: dict[str, Any] | None) -> None:
        """So many more slots are done."""
        advance(newest + 1 - self._told)
        self._told = newest + 1


def _carry_out(config: Config, path: Path, command: list[str]) -> None:
    """One run, from where it is to its end."""
    console = _Counted()
    if (path / SUMMARY).is_file():
        pass
    elif (path / JOURNAL).is_file():
        try:
            resume(str(path), None, Watch(), console, report=False)
        except RunDirError:  # it had no checkpoint yet
            resume(str(path), None, Watch(), console, from_start=True, report=False)
    else:
        shutil.rmtree(path, ignore_errors=True)  # it had not begun
        run(RunRequest(config, path, "local", report=False), console, command)
    console.progress(config.num_slots - 1, None)


def _row(point: Point, summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {**{key: _value(value) for key, value in point.items()}, "runs": len(summaries)}
    for name in _QUANTITIES:
        own = np.array([summary[name] for summary in summaries], float)
        alone = np.array([summary["no_cooperation"][name] for summary in summaries], float)
        row |= {name: interval(own), f"alone_{name}": interval(alone), f"gain_{name}": interval(own - alone)}
    row["links_formed"] = interval(np.array([summary["links"]["formed"] for summary in summaries], float))
    row["bytes_per_slot"] = interval(np.array([summary["bytes_per_slot"] for summary in summaries], float))
    return row


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip('"')


def interval(values: FloatArray) -> dict[str, Any]:
    """Mean over independent runs and its 95 % interval (Student's t); None for its ends if there is one run only."""
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return {"mean": mean, "low": None, "high": None}
    quantile = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else 1.96 + 2.5 / (count - 1)
    half = quantile * float(values.std(ddof=1)) / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half}
