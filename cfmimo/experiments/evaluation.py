"""Agents that learn, judged meanwhile on layouts that training never sees; the best so far are kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future

import numpy as np

from apnode.config import Config
from apnode.protocol.rng import Purpose, integer_seed
from apnode.runtime.checkpoint import Checkpoints, forget_kept
from apnode.runtime.host import CHECKPOINTS
from cfmimo.errors import ConfigError
from cfmimo.experiments.agents import agents_of
from cfmimo.experiments.compare import drop_of, unit
from cfmimo.experiments.contenders import contender
from cfmimo.experiments.measure import Drop, measure
from cfmimo.records.agents_file import AGENTS, Weights, write_agents
from cfmimo.records.held_out import HELD_OUT, MEASURED, RATE, Row, read_rows, write_rows
from cfmimo.runtime.request import RunRequest

LAYOUTS, SLOTS = 4, 5  # slots that count on each


def held_out(config: Config) -> list[Drop]:
    """The layouts: APs where they learn; UEs and fading of other seeds than the run's, since of another parity."""
    drawn = [integer_seed(config.seed, Purpose.HELD_OUT, index) for index in range(LAYOUTS)]
    return [drop_of(config, seed - seed % 2 + (config.seed + 1) % 2, SLOTS, same_aps=True) for seed in drawn]


def evaluate(config: Config, agents: Weights) -> Row:
    """What agents reach that take the best action they know, and learn nothing: means over the layouts held out."""
    entrant = contender(config.cooperation.policy)
    reached = [measure(drop, [entrant], agents)[0] for drop in held_out(config)]
    return {column: float(np.mean([row[name] for row in reached])) for column, name in MEASURED.items()}


class HeldOut:
    """Evaluates the agents of a run as often as its config says, from the checkpoints that APs keep for that."""

    def __init__(self, request: RunRequest, say: Callable[[str], None]) -> None:
        """Take up the rows that are there.

        Args:
            request: the run, with a folder; what was evaluated after its first slot is to come again.
            say: tells the person.
        """
        assert request.folder is not None
        config, folder, first_slot = request.config, request.folder, request.first_slot
        self._config, self._folder, self._say = config, folder, say
        self._rows = [row for row in read_rows(folder / HELD_OUT) if row["slots"] <= first_slot]
        every, done = config.evaluate_every_slots, {row["slots"] for row in self._rows}
        boundaries = range(every, config.num_slots + 1, every) if every else ()
        self._due = deque(completed for completed in boundaries if completed not in done)
        forget_kept(folder / CHECKPOINTS, lambda completed: completed in done or completed > first_slot)
        self._looking: Future[None] = Future()
        self._looking.set_result(None)

    def look(self, newest: int) -> None:
        """Evaluate what is due when slot `newest` has closed: who transmitted in it has kept its checkpoint before."""
        while self._due and self._due[0] <= newest:
            self._evaluate(self._due.popleft())

    def look_beside(self, newest: int, thread: Executor) -> None:
        """Look in another thread, unless it is still looking; what went wrong there is raised here, the next time."""
        if self._looking.done() and self._due and self._due[0] <= newest:
            self._looking.result()
            self._looking = thread.submit(self.look, newest)

    def finish(self) -> None:
        """Evaluate what is left when the run is over."""
        self._looking.result()
        self.look(self._config.num_slots)

    def _worth(self, row: Row) -> float:
        """By which agents are the best: the sum rate, less the price of links for those that know one."""
        price = self._config.cooperation.link_price if self._config.forecasts else 0.0
        return row[RATE] - price * row[unit(self._config)]

    def _evaluate(self, completed: int) -> None:
        config, checkpoints = self._config, self._folder / CHECKPOINTS
        aps = range(config.radio.num_aps)
        saved = [Checkpoints(checkpoints, f"ap-{ap}").newest_until(completed) for ap in aps]
        try:
            agents = agents_of(saved, config, self._folder)
        except ConfigError as error:
            self._say(f"the agents are not evaluated after {completed} slots: {error}")
            return
        reached = evaluate(config, agents.weights)
        if all(self._worth(reached) > self._worth(row) for row in self._rows):
            write_agents(self._folder / AGENTS, agents)
        episode = completed // config.run.slots_per_episode
        self._rows.append({"episode": episode, "slots": completed, **reached})
        write_rows(self._folder / HELD_OUT, sorted(self._rows, key=lambda row: row["slots"]))
        forget_kept(checkpoints, lambda kept: kept <= completed)
