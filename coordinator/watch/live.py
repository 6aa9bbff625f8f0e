"""The live map: what a browser receives about a run, slot by slot, and the page that shows it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channel_server.geometry import period
from channel_server.impairments import described_defects
from channel_server.recorded import ROOF_M, refuse_without_positions, roofs_of
from channel_server.topology import make_layout
from coordinator.collector import Coordinator
from coordinator.tables import decibels
from coordinator.watch.looks import GLYPHS, look_of

PAGE = (Path(__file__).parent / "live.html").read_text()


def _hashes(element: str) -> str:
    inside = re.findall(f"<{element}>(.*?)</{element}>", PAGE, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in inside)


POLICY = (  # nothing but what the page itself has, and what it is told from here
    f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@dataclass
class Seen:
    """The newest episode and slot that one browser has received."""

    episode: int = -1
    slot: int = -1


class LiveMap:
    """Yields what is new; each slot is computed once, for any number of browsers."""

    def __init__(self, coordinator: Callable[[], Coordinator]) -> None:
        self._coordinator = coordinator  # the present one: it may have been replaced after a death
        self._at = Seen()
        self._episode = self._slot = ""

    def news(self, seen: Seen) -> Iterator[str]:
        """JSON texts that a browser has not received yet; marks them as received."""
        coordinator = self._coordinator()
        slot = coordinator.newest - 1  # of the newest one, reports are still coming in
        if slot >= 0 and slot != self._at.slot and coordinator.record.closed[slot]:
            self._work_out(coordinator, slot)
        if self._at.episode != seen.episode:
            yield self._episode
        if self._at.slot != seen.slot:
            yield self._slot
        seen.episode, seen.slot = self._at.episode, self._at.slot

    def _work_out(self, coordinator: Coordinator, slot: int) -> None:
        episode = slot // coordinator.config.run.slots_per_episode
        if episode != self._at.episode:
            self._episode = _text({"episode": _episode(coordinator, episode)})
        self._slot = _text({"slot": _slot(coordinator, slot)})
        self._at = Seen(episode, slot)


def _episode(coordinator: Coordinator, episode: int) -> dict[str, Any]:
    """Positions of APs and UEs [m], the serving pairs, and what no AP is told: defects."""
    config = coordinator.config
    policy, alone = look_of(config.cooperation.policy), look_of("never")
    about: dict[str, Any] = {"number": episode, "slots": config.num_slots, "policy": config.cooperation.policy}
    about |= {"colour": policy.colour, "glyph": GLYPHS[policy.marker], "colour_alone": alone.colour}
    try:
        refuse_without_positions(config)
    except ValueError as error:
        return {**about, "nowhere": str(error)}
    layout = make_layout(config, episode)
    return {
        **about,
        "side": config.radio.area_m,
        "torus": period(config.radio) is not None,
        "defects": described_defects(config),
        "ap": layout.ap_xy.round(1).tolist(),
        "ue": layout.ue_xy.round(1).tolist(),
        "serving": np.argwhere(layout.serving).tolist(),
        "roofs": _outline(roofs_of(config)),
        "roof_m": ROOF_M,
    }


def _outline(roofs: NDArray[np.bool_] | None) -> str:
    """Buildings as the data of an SVG path whose unit is a side of their squares, a rectangle for each row of some."""
    if roofs is None:
        return ""
    edges = np.diff(np.pad(roofs.astype(int), ((0, 0), (1, 1))), axis=1)
    begins, ends = np.argwhere(edges == 1).tolist(), np.argwhere(edges == -1).tolist()
    return "".join(f"M{x} {y}h{end - x}v1h{x - end}z" for (y, x), (_, end) in zip(begins, ends, strict=True))


def _slot(coordinator: Coordinator, slot: int) -> dict[str, Any]:
    """Results of a slot, and the state of every AP."""
    record = coordinator.record
    row = coordinator.latest()
    comebacks = Counter(comeback["ap"] for comeback in record.comebacks)
    suspicions, gone = record.suspicions(slot).sum(axis=0), coordinator.given_up
    checkpoints, episode = record.newest_checkpoint, slot // coordinator.config.run.slots_per_episode
    known = record.beliefs[episode, :, 0] if coordinator.config.believes else None
    aps = [
        {
            "up": bool(record.reported[slot, ap]),
            "given_up": ap in gone,
            "suspected": int(suspicions[ap]),
            "reward": float(record.floats[slot, ap, 1]),
            "loss": float(record.floats[slot, ap, 2]),
            "epsilon": float(record.floats[slot, ap, 3]),
            "restarts": comebacks[ap],
            "believes": None if known is None else known[ap].tolist(),
            "age": int(max(slot + 1 - checkpoints[ap], 0)),
        }
        for ap in range(record.reported.shape[1])
    ]
    sinr_db = decibels(record.sinr[slot]).mean(axis=0)
    return {
        "at": slot,
        "row": row,
        "ue": sinr_db.round(1).tolist(),
        "aps": aps,
        "formed": _pairs(record.neighbours[slot], record.linked[slot]),
        "asked": _pairs(record.neighbours[slot], record.requested[slot]),
    }


def _pairs(neighbours: NDArray[Any], chosen: NDArray[Any]) -> list[list[int]]:
    """Pairs of APs, each once, of which at least one chose the other."""
    m, column = np.nonzero(chosen)
    ends = np.sort(np.stack([m, neighbours[m, column]], axis=1), axis=1)
    pairs: list[list[int]] = np.unique(ends, axis=0).tolist()
    return pairs


def _text(value: dict[str, Any]) -> str:
    """JSON; NaN and infinities become null."""
    return json.dumps(_without_nan(value), separators=(",", ":"))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
