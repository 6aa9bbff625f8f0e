"""One run from config to run directory, on either runtime."""

from __future__ import annotations

import time
from typing import Any

from apnode.config import Config
from coordinator.console import Console
from coordinator.local import LocalNetwork
from coordinator.record import Outcome
from coordinator.rundir import RunDir


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
    if runtime == "ray":
        from coordinator.cluster import check_memory, run_on_ray  # Ray: a second that the local runtime need not pay

        if address is None:
            check_memory(config)
    folder = RunDir.create(out, config, command, runtime)
    with console:
        if runtime == "local":
            outcome = run_local(config, metrics_port, console)
        else:
            outcome = run_on_ray(config, address, metrics_port, console)
        console.say(f"writing {folder.path}")
        summary = {
            "run_dir": str(folder.path),
            **outcome.record.summary(),
            "slots_per_second": config.num_slots / outcome.seconds,
            "ap_processes": len({(process["node"], process["pid"]) for process in outcome.processes}),
            "processes": outcome.processes,
            "restarts": outcome.restarts,
        }
        folder.finish(outcome.record, summary)
    return summary


def run_local(config: Config, metrics_port: int | None, console: Console) -> Outcome:
    """All nodes in this process."""
    network = LocalNetwork(config)
    if metrics_port is not None:
        from coordinator.metrics import serve

        serve(network.coordinator, metrics_port)
    began = time.monotonic()
    for _ in network.frames():
        if console.due:
            console.progress(network.coordinator.newest, network.coordinator.latest())
    return Outcome(network.coordinator.record, time.monotonic() - began)
