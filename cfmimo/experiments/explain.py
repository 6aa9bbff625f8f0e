"""Why an AP decided as it did in a slot: the run is replayed up to there, and the AP asked before it acts.

A run in one process gives what any run of the same config and seed gave, so nothing needs to be kept for it. Where
faults struck on real machines the replay may differ: the answer says whether the AP did the same there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apnode.access_point import AccessPoint
from apnode.agent.forecast import Outlook
from apnode.agent.observation import shares
from apnode.agent.policies import Ddqn, Reasoned, make_policy
from apnode.agent.view import View
from apnode.config import Config
from apnode.episode import Episode
from apnode.protocol.messages import FloatArray, PilotBlock
from apnode.slot import Slot
from cfmimo.errors import ConfigError
from cfmimo.experiments.agents import trained
from cfmimo.experiments.run import PLAN
from cfmimo.presets import load
from cfmimo.records.agents_file import AGENTS, read_agents
from cfmimo.records.own_code import check_own_code
from cfmimo.records.rundir import RunDir
from cfmimo.runtime.fault_plan import Faults, load_plan, resolve
from cfmimo.runtime.local import LocalNetwork

_REASONS = 3


class _Asked(AccessPoint):
    """An AP that is asked for its reasons when a slot opens."""

    wanted = (-1, -1)  # AP, slot
    view: View | None = None
    worth: FloatArray | None = None
    best: int | None = None  # what it would do without exploring
    shown: Slot | None = None

    def _open(self, pilots: PilotBlock, episode: Episode) -> None:
        asked = self.wanted == (self.ap, pilots.slot)
        if asked and episode.neighbours:
            self.view = episode.view(self._config, pilots.slot)
            if isinstance(self.policy, Reasoned):
                self.worth = self.policy.worth(self.view)
            if isinstance(self.policy, Ddqn):
                self.best = self.policy.network.best_action(self.view.observation, len(episode.neighbours))
        super()._open(pilots, episode)
        if asked:
            self.shown = self.slot


def explain(run_dir: str, ap: int, slot: int) -> dict[str, Any]:
    """What an AP knew in a slot, what it took links to be worth, whom it asked, who agreed, and what came of it.

    Args:
        run_dir: of a finished run.
        ap: number of the AP.
        slot: number of the slot.

    Returns:
        what `cfmimo explain --json` prints.

    Raises:
        ConfigError: if there is no such AP or slot, or the AP took no part in it.
        RunDirError: if there is no such run.
    """
    folder = RunDir.open(Path(run_dir))
    config = load(folder.path / "config.toml")
    check_own_code(config, folder.path)
    if not 0 <= ap < config.radio.num_aps or not 0 <= slot < config.num_slots:
        there = f"APs 0 to {config.radio.num_aps - 1} and slots 0 to {config.num_slots - 1}"
        raise ConfigError(f"this run has {there}, not AP {ap} and slot {slot}")
    network = _replayed(folder, config, ap, slot)
    node, record = network.aps[ap], network.coordinator.record
    assert isinstance(node, _Asked)
    if node.shown is None or not record.reported[slot, ap]:
        raise ConfigError(f"AP {ap} took no part in slot {slot}: it was down, or came too late")
    neighbours = _neighbours(config, node, node.shown)
    feedback = node.shown.feedback
    rates = [] if feedback is None else zip(node.shown.episode.ues, feedback.rate, feedback.rate_alone, strict=True)
    least = node.policy.least() if isinstance(node.policy, Reasoned) else None
    gain, earned, _, epsilon = record.floats[slot, ap].tolist()
    return {
        "run_dir": str(folder.path),
        "ap": ap,
        "slot": slot,
        "episode": slot // config.run.slots_per_episode,
        "policy": config.cooperation.policy,
        "as_recorded": _is_recorded(folder, ap, slot, neighbours),
        "asks_above": least,
        "explored": None if node.best is None else node.shown.action != node.best,
        "epsilon": epsilon,
        "neighbours": neighbours,
        "reasons": _reasons(neighbours, least),
        "ues": [{"ue": int(ue), "rate": float(rate), "rate_alone": float(alone)} for ue, rate, alone in rates],
        "gain": gain,
        "reward": earned,
        "messages": int(record.fronthaul[slot, ap, 0]),
        "bytes": int(record.fronthaul[slot, ap, 1]),
    }


def _replayed(folder: RunDir, config: Config, ap: int, slot: int) -> LocalNetwork:
    """The run up to what came of an AP's slot."""

    class Asked(_Asked):
        wanted = (ap, slot)

    class Network(LocalNetwork):
        kind = Asked

    faults = resolve(load_plan(str(folder.path / PLAN)), config) if (folder.path / PLAN).is_file() else Faults()
    agents = folder.manifest().get("agents")
    policy_of = trained(read_agents(folder.path / AGENTS).weights) if agents else make_policy
    network = Network(config, policy_of=policy_of, faults=faults)
    for _ in network.frames():
        record = network.coordinator.record
        if record.closed[slot] and (record.reported[slot, ap] or network.channel.opened > slot + 1):
            break
    return network


def _neighbours(config: Config, node: _Asked, slot: Slot) -> list[dict[str, Any]]:
    """What the AP knew of each neighbour, and what came of asking it."""
    if node.view is None:
        return []
    view, known = node.view, config.looks_around
    interference = shares(view.interference)
    outlook = slot.episode.outlook or (Outlook(node._config, node.ap, view.association) if known else None)
    forecast = outlook.gains() if outlook else np.full(len(view.neighbours), np.nan)
    return [
        {
            "ap": neighbour,
            "interference": float(interference[position]),
            "mastered": int(view.mastered[position]) if len(view.mastered) else None,
            "forecast": float(forecast[position]) if outlook else None,
            "worth": None if node.worth is None else float(node.worth[position]),
            "asked": neighbour in slot.chosen,
            "answer": _answer(slot, neighbour),
            "linked": neighbour in slot.partners,
        }
        for position, neighbour in enumerate(view.neighbours)
    ]


def _answer(slot: Slot, neighbour: int) -> str:
    if neighbour not in slot.chosen:
        return "suspected" if neighbour in slot.suspects else ""
    return "yes" if neighbour in slot.blocks else "no" if neighbour in slot.declined else "none"


def _reasons(neighbours: list[dict[str, Any]], least: float | None) -> list[str]:
    """What spoke most clearly for or against asking."""
    if least is None or not neighbours or neighbours[0]["worth"] is None:
        return []
    clearest = sorted(neighbours, key=lambda row: -abs(row["worth"] - least))[:_REASONS]
    said = []
    for row in clearest:
        pays = row["worth"] > least
        so = "so" if row["asked"] == pays else "yet"
        asked = "it was asked" if row["asked"] else "it was not asked"
        beside = f"{'above' if pays else 'not above'} {least:.3g}"
        said.append(f"AP {row['ap']}: worth {row['worth']:.3g}, {beside}, {so} {asked}")
    return said


def _is_recorded(folder: RunDir, ap: int, slot: int, neighbours: list[dict[str, Any]]) -> bool:
    """Whether the AP asked the same neighbours in the run, and got the same links."""
    links = folder.table("links")
    here = (links["slot"] == slot) & (links["ap"] == ap)
    told = {
        int(n): (bool(asked), bool(linked))
        for n, asked, linked in zip(links["neighbour"][here], links["asked"][here], links["linked"][here], strict=True)
    }
    return told == {row["ap"]: (row["asked"], row["linked"]) for row in neighbours}
