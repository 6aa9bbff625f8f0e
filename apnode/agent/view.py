"""What an AP knows when it chooses whom to ask: all that a policy sees."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

from apnode.agent.observation import traits_of
from apnode.protocol.messages import Association, FloatArray, IntArray

_NOTHING = np.zeros(0)


class PolicyError(Exception):
    """A policy has done what no policy may; the text says what."""


@dataclass(frozen=True, eq=False)
class View:
    """One AP at the beginning of a slot. N neighbours, strongest interferer first; it serves |K_m| UEs."""

    observation: FloatArray  # what learning agents are given: (10), or what `learning.values` and the policy say
    association: Association  # all that the AP has been told of this layout
    slot: int
    interference: FloatArray = field(default_factory=_NOTHING.copy)  # (N,) running mean of (7) per neighbour [W]
    linked: Collection[bool] = ()  # N flags, whether the link was formed in the slot before
    gain: FloatArray = field(default_factory=_NOTHING.copy)  # (N,) mean relative gain in slots linked with each
    forecasts: bool = True  # whether the observation holds a forecast

    @property
    def neighbours(self) -> tuple[int, ...]:
        """Numbers of the APs that can be asked."""
        return self.association.neighbours

    @property
    def ues(self) -> tuple[int, ...]:
        """Numbers of the UEs that the AP serves."""
        return self.association.ues

    @property
    def beta(self) -> FloatArray:
        """(|K_m|,) large-scale fading of these [power gain]."""
        return self.association.beta[self.association.columns(self.ues)]

    @property
    def mastered(self) -> IntArray:
        """(N,) UEs that both ends of a link serve and whose strongest AP is one of the two."""
        return self.association.mastered

    @property
    def forecast(self) -> FloatArray:
        """(N,) what the link with each neighbour promises to bring [bit/s/Hz].

        Raises:
            PolicyError: if the policy does not say that it needs this.
        """
        return self._traits[:, 0]

    @property
    def common(self) -> FloatArray:
        """(N,) UEs that both ends of a link serve; raises as `forecast`."""
        return self._traits[:, 1]

    @property
    def _traits(self) -> FloatArray:
        if not self.forecasts:
            raise PolicyError('the policy does not say that it needs a forecast: give it needs = ("forecast",)')
        return traits_of(self.observation, len(self.neighbours))


def action_of(chosen: int | Iterable[int], neighbours: tuple[int, ...]) -> int:
    """The bit mask over an AP's neighbours of what a policy has chosen: such a mask, or numbers of neighbours.

    Raises:
        PolicyError: if it is neither.
    """
    if isinstance(chosen, (int, np.integer)) and not isinstance(chosen, bool):
        if not 0 <= chosen < 2 ** len(neighbours):
            raise PolicyError(f"the policy chose {chosen}, which is no subset of {len(neighbours)} neighbours")
        return int(chosen)
    try:
        asked = {*chosen}  # type: ignore[misc]  # what a person's policy returns may be anything
        unknown = asked - {*neighbours}
    except TypeError:
        raise PolicyError(f"the policy returned {chosen!r:.80}; it should return the neighbours to ask") from None
    if unknown:
        others = ", ".join(map(repr, [*unknown][:3]))
        raise PolicyError(f"the policy chose {others}, not among the neighbours {', '.join(map(str, neighbours))}")
    return sum(1 << position for position, n in enumerate(neighbours) if n in asked)
