"""What tests of runs that are interrupted and resumed share."""

from typing import Any

from cfmimo.cli.console import Console


class Interrupting(Console):
    """Somebody who presses Ctrl-C as soon as a slot is there."""

    due = True  # type: ignore[assignment]

    def __init__(self, slot: int) -> None:
        super().__init__(None, quiet=True)
        self._slot = slot

    def progress(self, newest: int, row: dict[str, Any] | None) -> None:
        if newest >= self._slot:
            raise KeyboardInterrupt
