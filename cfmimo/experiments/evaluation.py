"""Agents that learn, judged meanwhile on layouts that training never sees; the best so far are kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future

import numpy as np

from apnode.config import Config
from apnode.protocol.rng import Purpose, integer_seed
from apnode.runtime.checkpoint import Checkpoints, forget_kept
from apnode.runtime.host import CHECKPOINTS
from cfmimo.errors import ConfigError
from cfmimo.experiments.agents import agents_of
from cfmimo.experiments.compare import drop_of, unit
from cfmimo.experiments.contenders import Contender, contender, rivals_of_agents
from cfmimo.experiments.measure import Drop, measure
from cfmimo.records.agents_file import AGENTS, Weights, write_agents
from cfmimo.records.held_out import HELD_OUT, MEASURED, RATE, Row, read_rows, write_rows
from cfmimo.runtime.request import RunRequest
from cfmimo.workers import processors, spread

LAYOUTS, SLOTS = 4, 5  # slots that count on each
_WORTH_PROCESSES = 50  # APs from which a layout takes longer than the start of a process


def held_out(config: Config) -> list[Drop]:
    """The layouts: APs where they learn; UEs and fading of other seeds than the run's, since of another parity."""
    drawn = [integer_seed(config.seed, Purpose.HELD_OUT, index) for index in range(LAYOUTS)]
    return [drop_of(config, seed - seed % 2 + (config.seed + 1) % 2, SLOTS, same_aps=True) for seed in drawn]


def evaluate(config: Config, entrants: Mapping[str, Contender], agents: Weights | None, workers: int = 1) -> list[Row]:
    """What contenders reach: means over the layouts held out, which `workers` processes share.

    Agents take the best action they know, and learn nothing.
    """
    reached = spread(measure, [(drop, [*entrants.values()], agents) for drop in held_out(config)], workers)
    return [
        {"policy": policy, **{column: float(np.mean([row[name] for row in rows])) for column, name in MEASURED.items()}}
        for policy, rows in zip(entrants, zip(*reached, strict=True), strict=True)
    ]


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
        self._policy = config.cooperation.policy
        self._rows = [row for row in read_rows(folder / HELD_OUT) if row["slots"] <= first_slot]
        every, done = config.evaluate_every_slots, {row["slots"] for row in self._rows}
        boundaries = range(every, config.num_slots + 1, every) if every else ()
        self._due = deque(completed for completed in boundaries if completed not in done)
        forget_kept(folder / CHECKPOINTS, lambda completed: completed in done or completed > first_slot)
        self._looking: Future[None] = Future()
        self._looking.set_result(None)

    def look(self, newest: int, workers: int = 1) -> None:
        """Evaluate what is due when slot `newest` has closed: who transmitted in it has kept its checkpoint before."""
        while self._due and self._due[0] <= newest:
            self._evaluate(self._due.popleft(), workers)

    def look_beside(self, newest: int, thread: Executor) -> None:
        """Look in another thread, unless it is still looking; what went wrong there is raised here, the next time."""
        if self._looking.done() and self._due and self._due[0] <= newest:
            self._looking.result()
            self._looking = thread.submit(self.look, newest)

    def finish(self) -> None:
        """Evaluate what is left when the run is over, and once those who do not learn."""
        self._looking.result()
        workers = processors() if self._config.radio.num_aps >= _WORTH_PROCESSES else 1
        if self._due:
            self._say("evaluating the agents, and beside them those who learn nothing")
        self.look(self._config.num_slots, workers)
        if self._rows and not any(row["policy"] != self._policy for row in self._rows):
            rivals = evaluate(self._config, rivals_of_agents(self._config), None, workers)
            self._rows = [{**row, "episode": 0, "slots": 0} for row in rivals] + self._rows
            write_rows(self._folder / HELD_OUT, self._rows)

    def _worth(self, row: Row) -> float:
        """By which agents are the best: the sum rate, less the price of links for those that know one."""
        price = self._config.cooperation.link_price if self._config.forecasts else 0.0
        return float(row[RATE] - price * row[unit(self._config)])

    def _evaluate(self, completed: int, workers: int) -> None:
        config, checkpoints = self._config, self._folder / CHECKPOINTS
        aps = range(config.radio.num_aps)
        saved = [Checkpoints(checkpoints, f"ap-{ap}").newest_until(completed) for ap in aps]
        try:
            agents = agents_of(saved, config, self._folder)
        except ConfigError as error:
            self._say(f"the agents are not evaluated after {completed} slots: {error}")
            return
        [reached] = evaluate(config, {self._policy: contender(self._policy)}, agents.weights, workers)
        if all(self._worth(reached) > self._worth(row) for row in self._rows if row["policy"] == self._policy):
            write_agents(self._folder / AGENTS, agents)
        episode = completed // config.run.slots_per_episode
        self._rows.append({**reached, "episode": episode, "slots": completed})
        self._rows.sort(key=lambda row: row["slots"])
        write_rows(self._folder / HELD_OUT, self._rows)
        forget_kept(checkpoints, lambda kept: kept <= completed)
