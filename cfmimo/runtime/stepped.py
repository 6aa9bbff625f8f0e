"""A network in this process in which somebody outside decides for the APs, slot by slot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from apnode.access_point import AccessPoint
from apnode.agent.policies import Policy
from apnode.agent.view import View
from apnode.config import Config
from apnode.episode import Episode
from apnode.protocol.messages import FloatArray, PilotBlock
from apnode.protocol.node import Send
from cfmimo.runtime.fault_plan import Faults
from cfmimo.runtime.local import LocalNetwork


class Told:
    """A policy that does what it was told last."""

    action = 0

    def act(self, view: View) -> int:
        """As `Policy` has it."""
        return self.action


class SteppedAp(AccessPoint):
    """An AP that opens a slot when it is told whom to ask, and not before."""

    policy: Told

    def __init__(self, ap: int, config: Config, policy: Policy, incarnation: int = 0) -> None:
        super().__init__(ap, config, policy, incarnation)
        self._undecided: tuple[PilotBlock, Episode] | None = None

    @property
    def is_undecided(self) -> bool:
        """Whether it has heard the pilots of a slot, and waits to be told whom to ask in it."""
        return self._undecided is not None

    @property
    def neighbours(self) -> tuple[int, ...]:
        """Of the newest layout that it has been told of; strongest interferer first."""
        return self._episode.neighbours if self._episode else ()

    @property
    def observation(self) -> FloatArray:
        """(D,) what its agent sees at this moment; zeros if it knows nothing yet."""
        return self._episode.observation if self._episode else np.zeros(self._config.observed)

    def decide(self, action: int) -> list[Send]:
        """Open the slot that it waits in, and ask the neighbours of an action in it."""
        assert self._undecided is not None
        undecided, self._undecided = self._undecided, None
        self.policy.action = action
        super()._open(*undecided)
        return self._take_out()

    def _open(self, pilots: PilotBlock, episode: Episode) -> None:
        self._undecided = pilots, episode


class SteppedNetwork(LocalNetwork):
    """Runs until every AP that is up waits to be told whom to ask; all else is as in any run in one process."""

    kind = SteppedAp
    aps: list[SteppedAp]  # type: ignore[assignment]  # all that `kind` makes

    def __init__(self, config: Config, faults: Faults, first_slot: int = 0) -> None:
        super().__init__(config, policy_of=lambda ap, known: Told(), faults=faults, first_slot=first_slot)
        for ap in self.aps:
            self._begin(ap)

    def run_on(self) -> list[int]:
        """Go on until there is nothing left to do but to decide; returns the APs that wait, none at the end."""
        while not self._over:
            self._look_after_faults()
            if self._queue:
                self._idle = 0
                self._deliver(*self._take())
            elif waiting := [ap.ap for ap in self.aps if ap.is_undecided and self.is_up(ap.ap)]:
                return waiting
            else:
                self._pass_time()
        self._close()
        return []

    def is_up(self, ap: int) -> bool:
        """Whether an AP's process runs."""
        return self.aps[ap].address in self._hosts.keys() - self._frozen.keys()

    def decide(self, actions: Mapping[int, int]) -> None:
        """Tell the APs that wait whom to ask: by AP, a bit mask over its neighbours."""
        for ap, action in actions.items():
            node, host = self.aps[ap], self._hosts[self.aps[ap].address]
            self._let(host, lambda node=node, host=host, action=action: host.after(node.decide(action)))
