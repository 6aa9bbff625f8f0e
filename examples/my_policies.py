"""Policies of one's own: `cfmimo compare demo --policies random,forecast,my_policies:Strongest` in this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apnode.agent.view import View
    from apnode.config import Config


class Strongest:
    """Asks the two strongest interferers."""

    def act(self, view: View) -> tuple[int, ...]:
        """The neighbours to ask in this slot."""
        return view.neighbours[:2]


class Loyal:
    """Asks where the forecast promises a gain, and stays with a partner as long as it promises no loss."""

    needs = ("forecast",)

    def __init__(self, ap: int, config: Config) -> None:
        self.price = config.cooperation.link_price

    def act(self, view: View) -> list[int]:
        """The neighbours to ask in this slot."""
        links = zip(view.neighbours, view.forecast, view.linked, strict=True)
        return [neighbour for neighbour, gain, linked in links if gain > (0 if linked else self.price)]
