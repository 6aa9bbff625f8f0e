"""One run from config to run directory, on either runtime."""

from __future__ import annotations

import time
from typing import Any

from apnode.config import Config
from coordinator.console import Console
from coordinator.local import LocalNetwork
from coordinator.presets import ConfigError
from coordinator.record import Outcome
from coordinator.rundir import RunDir, new_folder

_MAX_RECORDS = 2 * 10**7  # slots x APs, or x UEs and blocks: about 1.5 GB


def run(
    config: Config,
    out: str,
    runtime: str,
    address: str | None,
    metrics_port: int | None,
    console: Console,
    command: list[str],
) -> dict[str, Any]:
    """Run an experiment and write its run directory; returns what `cfmimo run --json` prints."""
    path = new_folder(out)
    _refuse_if_too_long(config)
    if runtime == "ray":
        from coordinator.cluster import run_on_ray  # Ray: a second that the local runtime need not pay
        from coordinator.session import check_memory

        if address is None:
            check_memory(config)
    with console:
        if runtime == "local":
            outcome = run_local(config, metrics_port, console)
        else:
            outcome = run_on_ray(config, address, metrics_port, console)
        console.say(f"writing {path}")
        folder = RunDir.create(path, config, command, runtime)
        summary = {
            "run_dir": str(path),
            **outcome.record.summary(),
            "slots_per_second": config.num_slots / outcome.seconds,
            "ap_processes": len({(process["node"], process["pid"]) for process in outcome.processes}),
            "processes": outcome.processes,
            "restarts": outcome.restarts,
            "frames_lost": outcome.frames_lost,
        }
        folder.finish(outcome.record, summary)
    return summary


def _refuse_if_too_long(config: Config) -> None:
    if config.num_slots * max(config.radio.num_aps, config.radio.num_ues * config.run.blocks_per_slot) > _MAX_RECORDS:
        raise ConfigError(
            f"{config.num_slots} slots of {config.radio.num_aps} APs and {config.radio.num_ues} UEs are more than is "
            "kept of a run; lower run.episodes or run.slots_per_episode"
        )


def run_local(config: Config, metrics_port: int | None, console: Console) -> Outcome:
    """All nodes in this process."""
    network = LocalNetwork(config)
    if metrics_port is not None:
        from coordinator.metrics import serve

        try:
            serve(network.coordinator, metrics_port)
        except OSError as error:
            raise ConfigError(f"cannot serve metrics on port {metrics_port}: {error}") from None
    began = time.monotonic()
    for _ in network.frames():
        if console.due:
            console.progress(network.coordinator.newest, network.coordinator.latest())
    return Outcome(network.coordinator.record, time.monotonic() - began, frames_lost=network.lost)
