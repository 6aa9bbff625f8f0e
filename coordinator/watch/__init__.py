"""Watching a run while it goes on: live map, metrics and TensorBoard, in the coordinator's process."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coordinator.collector import Coordinator
from coordinator.watch.stopwatch import Stopwatch

SCALARS = "tensorboard"  # in a run's folder
_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104


@dataclass(frozen=True)
class Watch:
    """How a run can be watched."""

    port: int | None = None  # of live map and metrics; None: neither is served
    host: str = "127.0.0.1"  # address of this machine to serve them at
    scalars: Path | None = None  # folder for TensorBoard; None: nothing is written

    @property
    def wanted(self) -> bool:
        """Whether anything is served or written."""
        return self.port is not None or self.scalars is not None

    @property
    def url(self) -> str:
        """Address of the live map, for a browser."""
        host = socket.gethostname() if self.host in _EVERYWHERE else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def where(self) -> str:
        """Where a person finds it all."""
        served = () if self.port is None else (f"live map: {self.url}", f"metrics: {self.url}metrics")
        written = () if self.scalars is None else (f"to watch: tensorboard --logdir {self.scalars.parent}",)
        return "   ".join((*served, *written))

    @property
    def complaint(self) -> str:
        """The complaint if serving or writing fails."""
        served = () if self.port is None else (f"serve metrics on {self.host}, port {self.port}",)
        written = () if self.scalars is None else ("write for TensorBoard",)
        return f"cannot {' or '.join((*served, *written))}"


class Watcher:
    """Serves and writes what a Watch says; `look` is called after every frame of the coordinator.

    An error in that is said once, and ends nothing but the writing.
    """

    def __init__(self, watch: Watch, coordinator: Callable[[], Coordinator], say: Callable[[str], None]) -> None:
        """Begin.

        Args:
            watch: what to serve and write.
            coordinator: returns the present one, as it may be replaced after a death.
            say: tells a person.

        Raises:
            OSError: if the port is taken, there is no such host, or the folder cannot be written.
        """
        self._coordinator, self._stopwatch, self._scalars = coordinator, Stopwatch(), None
        self._say, self._failed = say, set[str]()
        if watch.scalars is not None:
            from coordinator.watch.tensorboard import Scalars  # tensorboard: only if wanted

            self._scalars = Scalars(watch.scalars, coordinator().record)
        if watch.port is not None:
            from coordinator.watch.web import serve  # aiohttp and prometheus-client: only if wanted

            serve(coordinator, self._stopwatch, watch.host, watch.port, self._complain)

    def look(self) -> None:
        """Take note of the newest slot, and write it if scalars are wanted."""
        self._stopwatch.see(self._coordinator().newest)
        if self._scalars is not None:
            try:
                self._scalars.look(self._coordinator())
            except Exception as error:  # noqa: BLE001  whatever it is: the run goes on
                self._complain("writing for TensorBoard", error)
                self._scalars = None

    def _complain(self, what: str, error: Exception) -> None:
        if what not in self._failed:
            self._failed.add(what)
            self._say(f"{what} failed ({type(error).__name__}: {error}); the run goes on")
