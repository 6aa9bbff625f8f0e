"""Which of a UE's APs transmit to it: those with which a forecast values its service most (`cooperation.serving`).

An AP that eq. (2) of the seed paper names may bring its UE less than its stream costs other UEs. So a UE is served by
those of its APs for which the forecast's value is largest, given who precodes jointly for it. Its strongest AP decides:

1. With what an AP transmits to a UE it says with whom it precodes for it: the first AP of the group, as a receiver must
   know it to tell reference signals apart. In its report the UE repeats this of all its APs that it hears.
2. The UE's strongest AP finds the best of the APs that are heard, and says who they are with what it transmits next.
3. The UE repeats that, too, unless it hears none of them; in the slot after, its APs obey.

So no AP waits for another, and all of a UE's APs obey the same choice. It costs a byte a UE of what its strongest AP
transmits, two of what every AP does, and six of its reports. Who is left out radiates nothing for the UE, but tells its
channels and agrees on links as before, and serves others. All of a UE's APs serve it until something is chosen, and
where its strongest AP is silent or does not know all the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from apnode.agent.prospects import Group, Prospects
from apnode.agent.surroundings import BoolArray, Surroundings
from apnode.config import Config
from apnode.protocol.messages import NOBODY, SILENT, Association, FloatArray, IntArray, SlotFeedback
from apnode.protocol.rng import Purpose, generator
from apnode.protocol.state import Layout, State

NO_CHANGE: FloatArray = np.zeros(0)
_ALL_CHANCE = 0.15  # that all APs of a UE transmit to it, where one finds out about APs
SERVED: Layout = {"group": (np.int64, ("K", "A")), "chosen": (np.int64, ("K",))}  # as in SlotFeedback
NOTHING_SERVED: State = {"group": np.zeros((0, 0), np.int64), "chosen": np.zeros(0, np.int64)}


class Serving:
    """What one AP knows, in one layout, of who transmits to its UEs, and what it says to that."""

    def __init__(self, config: Config, ap: int, association: Association) -> None:
        """All APs serve, each for itself.

        Args:
            config: as for `Prospects`.
            ap: this AP.
            association: what it has been told.
        """
        self._ap, self._ues, self._config, self._association = ap, association.ues, config, association
        self._aps = [[other for other in row if other != NOBODY] for row in association.served_by.tolist()]
        self._group = np.tile(np.arange(association.served_by.shape[1]), (len(self._ues), 1))  # all for themselves
        self._chosen = np.zeros(len(self._ues), np.int64)
        self._prospects: dict[int, Prospects] | None = None  # by row, of UEs whose strongest AP this is; not drawn yet
        self._last: dict[int, tuple[bytes, int]] = {}  # by row of a UE, what was known of its APs, and the choice then

    def _mastered(self, change: FloatArray) -> dict[int, Prospects]:
        """By row, of the UEs whose strongest AP this is, as far as it knows all the others."""
        around = Surroundings(self._ap, self._association, self._config.radio)
        column = {int(ue): at for at, ue in enumerate(around.ids)}
        changes = around.of_all(change) if len(change) else np.zeros(len(around.ids))
        return {
            row: Prospects(self._config, around, column[ue], changes)
            for row, ue in enumerate(self._ues)
            if set(self._aps[row]) <= set(around.aps) and around.beta[0, column[ue]] >= around.beta[:, column[ue]].max()
        }

    @property
    def transmits(self) -> BoolArray:
        """(|K_m|,) whether this AP is to transmit to each of its UEs."""
        return np.array([self._ap in self._among(row) for row in range(len(self._ues))], bool)

    @property
    def left_out(self) -> dict[int, list[int]]:
        """The APs of each UE that do not transmit to it."""
        return {ue: sorted({*self._aps[row]} - {*self._among(row)}) for row, ue in enumerate(self._ues)}

    def restricted(self, groups: Mapping[int, Collection[int]]) -> dict[int, Collection[int]]:
        """Of the APs with which one precodes for each UE those that are to transmit to it."""
        among = {ue: self._among(row) for row, ue in enumerate(self._ues)}
        return {ue: [ap for ap in group if ap in among[ue]] for ue, group in groups.items()}

    def _among(self, row: int) -> list[int]:
        """The APs that are to transmit to a UE of this AP."""
        mask = int(self._chosen[row])
        return [ap for place, ap in enumerate(self._aps[row]) if not mask or mask >> place & 1]

    def choice(
        self, levels: FloatArray | None = None, change: FloatArray = NO_CHANGE, tries: int | None = None
    ) -> IntArray:
        """Whom this AP chooses for each of the UEs whose strongest AP it is.

        Args:
            levels: (1 + N, 3) how defective it takes itself and its neighbours to be, as `Prospects` has them.
            change: (R,) how fast channels change, as far as it has seen that: what is late is worth less by it.
            tries: the slot, if all are to transmit to a UE now and then, so that what is thought of an AP can change.

        Returns:
            (|K_m|,) as in Transmission.
        """
        chosen = np.zeros(len(self._ues), np.uint8)
        if self._prospects is None:
            self._prospects = self._mastered(change)
        for row, prospects in self._prospects.items():
            known = self._group[row].tobytes() + (b"" if levels is None else levels[[*prospects.members]].tobytes())
            if row not in self._last or self._last[row][0] != known:
                self._last[row] = known, self._best(row, prospects, levels)
            chosen[row] = self._last[row][1]
            if tries is not None and self._luck(self._ues[row], tries) < _ALL_CHANCE:
                chosen[row] = 0
        return chosen

    def _luck(self, ue: int, slot: int) -> float:
        return float(generator(self._config.seed, Purpose.SERVING, ue, slot).random())

    def _best(self, row: int, prospects: Prospects, levels: FloatArray | None) -> int:
        """The choice, given the groups that were reported: a bit mask; 0 if nobody is heard."""
        groups: dict[int, Group] = {}
        for place, first in enumerate(self._group[row, : len(self._aps[row])].tolist()):
            if first != SILENT:
                groups[first] = groups.get(first, 0) | 1 << place
        return prospects.best_served(tuple(groups.values()), levels) if groups else 0

    def first_of(self, groups: Mapping[int, Collection[int]] | None) -> IntArray:
        """(|K_m|,) as in Transmission: the first AP of the group that this one precodes with for each of its UEs."""
        return np.array([min([self._ap, *(groups or {}).get(ue, ())]) for ue in self._ues], np.uint16)

    def take_in(self, feedback: SlotFeedback) -> None:
        """UEs report who precoded jointly for them, and who is to transmit from now on."""
        self._group, self._chosen = feedback.group.astype(np.int64), feedback.chosen.astype(np.int64)

    def state(self) -> State:
        """Copies of what was reported last, as SERVED."""
        return {"group": self._group.copy(), "chosen": self._chosen.copy()}

    def restore(self, state: State) -> None:
        """Take over what `state` gave, if it was of as many UEs and APs."""
        if state["group"].shape == self._group.shape:
            self._group, self._chosen = state["group"].copy(), state["chosen"].copy()
