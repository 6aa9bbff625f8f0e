"""What an AP knows of the UE layout it is in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from apnode.agent.forecast import Outlook
from apnode.agent.observation import describe, observe, reported_interference
from apnode.agent.serving import NOTHING_SERVED, SERVED, Serving
from apnode.agent.view import View
from apnode.clusters.graph import Entry
from apnode.config import Config
from apnode.protocol.messages import (
    Association,
    ComplexArray,
    FloatArray,
    SlotFeedback,
)
from apnode.protocol.state import Layout, State, joined, part, refuse_other
from apnode.radio.csi import RECENT, Recent, sensed_change
from apnode.radio.power import AVERAGES
from apnode.radio.precoding import Precoder

_EPISODE: Layout = {
    "number": (np.int64, ()),
    "neighbours": (np.int64, ("N",)),
    "interference": (np.float64, ("N",)),
    "linked": (np.bool_, ("N",)),
    "gain": (np.float64, ("N",)),
    "times_linked": (np.float64, ("N",)),
    "change": (np.float64, ("U",)),  # U = R, or 0 where nobody asks
}


@dataclass
class Episode:
    """What an AP knows of the UE layout it is in."""

    association: Association
    precoder: Precoder
    interference: FloatArray  # (N,) running mean of (7) per neighbour [W]
    linked: list[bool]  # per neighbour, in the last slot
    gain: FloatArray  # (N,) running mean of own relative gain while linked, T_m of (10)
    times_linked: FloatArray  # (N,)
    observation: FloatArray  # (10), made of these; where APs forecast, what they expect of the episode, or the change
    change: FloatArray  # (R,) how fast channels change, seen in the episode's first pilots; where beliefs need it
    recent: Recent  # own estimates of the newest coherence blocks
    outlook: Outlook | None = None  # where APs forecast
    serving: Serving | None = None  # where a forecast tells which of a UE's APs transmit to it

    @classmethod
    def begin(cls, config: Config, ap: int, association: Association, precoder: Precoder, y: ComplexArray) -> Episode:
        """What it knows at the first pilots (B, L, tau_p) of a layout that it hears [sqrt W]."""
        count, change, outlook = len(association.neighbours), np.zeros(0), None
        known = association.interference.copy(), [False] * count, np.zeros(count)
        if config.hears_streams:
            seen = change = sensed_change(y, association.beta, association.pilots, config.radio)
        elif config.forecasts:
            outlook = Outlook(config, ap, association)
            seen = describe(config, association, outlook.gains())
        else:
            seen = _observation(config, association, *known)
        recent = Recent(config.cooperation.history_blocks, config.radio.antennas, len(association.reach))
        serving = Serving(config, ap, association) if config.selects_serving else None
        return cls(association, precoder, *known, np.zeros(count), seen, change, recent, outlook, serving)

    @property
    def ues(self) -> tuple[int, ...]:
        return self.association.ues

    @property
    def neighbours(self) -> tuple[int, ...]:
        return self.association.neighbours

    def view(self, config: Config, slot: int) -> View:
        """What there is to know before a choice in a slot."""
        forecasts = config.forecasts and not config.hears_streams
        known = self.interference.copy(), tuple(self.linked), self.gain.copy()
        return View(self.observation, self.association, slot, *known, forecasts)

    def entry(self, ap: int, partners: Collection[int]) -> Entry:
        """What this AP, `ap`, tells the others of itself when clusters form."""
        power = dict(zip(self.neighbours, self.interference.tolist(), strict=True))
        return Entry(ap, self.ues, {partner: power[partner] for partner in partners})

    def remember(self, config: Config, feedback: SlotFeedback, gain: float, partners: Collection[int]) -> None:
        """Update the running means, and so the observation."""
        weight = config.cooperation.interference_window
        reported = reported_interference(feedback, self.neighbours)
        self.linked = [n in partners for n in self.neighbours]
        for position, linked in enumerate(self.linked):
            if linked:  # partners are not in the UEs' reports
                self.times_linked[position] += 1
                self.gain[position] += (gain - self.gain[position]) / self.times_linked[position]
            else:
                self.interference[position] += weight * (reported[position] - self.interference[position])
        if self.serving is not None:
            self.serving.take_in(feedback)
        self._observe(config)

    def state(self) -> State:
        """Copies of the running means, and what they are of."""
        own = {
            "number": np.array(self.association.episode),
            "neighbours": np.array(self.neighbours, np.int64),
            "interference": self.interference.copy(),
            "linked": np.array(self.linked, bool),
            "gain": self.gain.copy(),
            "times_linked": self.times_linked.copy(),
            "change": self.change.copy(),
        }
        serving = NOTHING_SERVED if self.serving is None else self.serving.state()
        return {**own, **joined(power=self.precoder.average.state(), recent=self.recent.state(), serving=serving)}

    def recall(self, config: Config, state: State) -> bool:
        """Take over running means, as `state` gave them, if they are of this layout; returns whether they are."""
        if (int(state["number"]), tuple(state["neighbours"].tolist())) != (self.association.episode, self.neighbours):
            return False
        self.interference, self.gain = state["interference"].copy(), state["gain"].copy()
        self.linked, self.times_linked = state["linked"].tolist(), state["times_linked"].copy()
        self.precoder.average.restore(part(state, "power"))
        self.recent.restore(part(state, "recent"))
        if self.serving is not None:
            self.serving.restore(part(state, "serving"))
        if len(state["change"]) == len(self.change) > 0:
            self.observation = self.change = state["change"].copy()
        self._observe(config)
        return True

    def _observe(self, config: Config) -> None:
        if not config.forecasts:
            self.observation = _observation(config, self.association, self.interference, self.linked, self.gain)

    @staticmethod
    def refuse_other(state: State) -> None:
        """Refuse what no `state` gave.

        Raises:
            StateError: if it has other arrays, dtypes or shapes.
        """
        parts = {"power": AVERAGES, "recent": RECENT, "serving": SERVED}
        inside = {f"{name}.{key}": spec for name, layout in parts.items() for key, spec in layout.items()}
        refuse_other(state, {**_EPISODE, **inside})


def _observation(
    config: Config, association: Association, interference: FloatArray, linked: Sequence[bool], gain: FloatArray
) -> FloatArray:
    return observe(config, association.beta[association.columns(association.ues)], interference, linked, gain)
