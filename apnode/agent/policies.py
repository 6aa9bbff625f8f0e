"""How an AP decides which neighbours to ask: one class per policy.

A policy of one's own needs `act` and nothing else: docs/python.md shows one. One that ships is added here and to
`POLICIES` in config/cooperation.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from apnode.agent.beliefs import Belief
from apnode.agent.factors import Factor, Ratio
from apnode.agent.observation import interference_position, shares
from apnode.agent.replay import Batch, Lesson, Replay, Transition
from apnode.agent.streams import Watcher
from apnode.agent.view import View
from apnode.config import Config
from apnode.config.learning import Learning
from apnode.config.own_policy import is_own, own_policy
from apnode.protocol.messages import Association, FloatArray, SlotFeedback
from apnode.protocol.rng import Purpose, generator, integer_seed
from apnode.protocol.state import State, joined, layout_of, part, refuse_other

if TYPE_CHECKING:
    from apnode.agent.ddqn import DoubleDqn


NOTHING: FloatArray = np.zeros(0, np.float32)
_LARGEST_WEIGHT = 1e3  # of what partners tell
_EPISODES_APART = 4  # for which two networks may have learned in opposite directions since their means were taken
_ABSURD = 2  # an AP whose network is further away than that many times this has not learned it


class Policy(Protocol):
    """Chooses for one AP which neighbours to ask; all that a policy needs that does not learn."""

    def act(self, view: View) -> int | Iterable[int]:
        """Whom to ask in this slot: numbers of neighbours, or a bit mask over `view.neighbours`."""


@runtime_checkable
class Judge(Protocol):
    """What a policy has besides if it knows or guesses how defective APs are: it counts for sets and precoders, too."""

    def levels(self, association: Association) -> FloatArray:
        """(1 + N, 3) levels of the AP and its neighbours, as `Prospects` has them."""


@runtime_checkable
class Learner(Protocol):
    """What a policy has besides if it learns from rewards."""

    def learn(self, transition: Transition, slot: int) -> float:
        """Take in what came of the slot's action; returns the loss of an update, 0 if there was none, -1 if skipped."""

    def epsilon(self, slot: int) -> float:
        """Chance to explore in this slot."""

    def shared(self, slot: int) -> FloatArray:
        """What partners are told in this slot of what it has learned; often nothing."""

    def understands(self, learned: FloatArray) -> bool:
        """Whether a partner may have told this."""

    def take_in(self, learned: Mapping[int, FloatArray]) -> Collection[int]:
        """Learn from what partners told, by AP; returns those of whom nobody who learns can have come to this."""


@runtime_checkable
class Observer(Protocol):
    """What a policy has besides if it finds out about APs from what UEs report of their streams."""

    learns: bool  # or is to act on what it has found out

    def tells(self, slot: int) -> FloatArray:
        """What all neighbours are told of this AP in this slot; nothing but in an episode's first."""

    def credible(self, told: FloatArray) -> bool:
        """Whether a neighbour may have told this of itself."""

    def hear(self, told: Mapping[int, FloatArray]) -> None:
        """Take in what neighbours have told of themselves in a slot."""

    def observe(
        self,
        feedback: SlotFeedback,
        groups: Mapping[int, Collection[int]],
        left_out: Mapping[int, Collection[int]],
        late: bool | None = None,
    ) -> None:
        """Take in what UEs report of this AP's streams.

        Args:
            feedback: of a slot.
            groups: as in `Slot`.
            left_out: as in `Slot`.
            late: whether partners got this AP's estimates late, as they said; None if there were none to say it.
        """


@runtime_checkable
class Reasoned(Protocol):
    """What a policy has besides if it can say why it asks: `cfmimo explain` shows it."""

    def worth(self, view: View) -> FloatArray:
        """(N,) what it takes the link with each neighbour to be worth, in units of its own."""

    def least(self) -> float:
        """The worth above which it asks."""


@runtime_checkable
class Lasting(Protocol):
    """What a policy has besides if an AP that is restarted must not forget what it knows."""

    def state(self) -> State:
        """Copies of all that it has learnt; what is keyed by the slot it need not keep."""

    def restore(self, state: State) -> None:
        """Take over what `state` gave; a StateError, before anything has changed, if that was another policy's."""


class Fixed:
    """Asks nobody, or everybody."""

    def __init__(self, ask: bool) -> None:
        self._ask = ask

    def act(self, view: View) -> int:
        return 2 ** len(view.neighbours) - 1 if self._ask else 0


class Random:
    """Asks each neighbour with a given chance, drawn once an episode: the baseline that a learner has to beat.

    Drawn anew in every slot the mean SINR (9) would be the same, but a UE that knows only the mean of its effective
    gain (the hardening bound) would lose a tenth of its rate to the changes.
    """

    def __init__(self, ap: int, config: Config) -> None:
        self._ap, self._seed, self._rate = ap, config.seed, config.cooperation.request_rate
        self._slots_per_episode = config.run.slots_per_episode

    def act(self, view: View) -> int:
        num_neighbours, episode = len(view.neighbours), view.slot // self._slots_per_episode
        draws = generator(self._seed, Purpose.EXPLORATION, self._ap, episode).random(num_neighbours)
        return int((draws < self._rate) @ 2 ** np.arange(num_neighbours))


class Threshold:
    """Asks the neighbours who cause most of the interference: those with at least a given share of it."""

    def __init__(self, config: Config) -> None:
        self._at, self._share = interference_position(config), config.cooperation.request_share

    def worth(self, view: View) -> FloatArray:
        """(N,) part of the interference that each neighbour causes."""
        return shares(view.observation[self._at : self._at + len(view.neighbours)])

    def least(self) -> float:
        return self._share

    def act(self, view: View) -> int:
        return int((self.worth(view) >= self._share) @ 2 ** np.arange(len(view.neighbours)))


class Master:
    """Asks those with whom one serves a UE whose master, its strongest AP, is one of the two.

    Both ends know, so both ask. Where clusters join over links, as `serving` ones do, the links of a UE's master with
    all who serve it join these as well as all links among them would.
    """

    def act(self, view: View) -> int:
        return int((view.mastered > 0) @ 2 ** np.arange(len(view.neighbours)))


class Forecast:
    """Asks those whose link it expects to bring more than the price of a link."""

    def __init__(self, config: Config) -> None:
        self._price = config.cooperation.link_price

    def act(self, view: View) -> int:
        return int((view.forecast > self._price) @ 2 ** np.arange(len(view.neighbours)))

    def worth(self, view: View) -> FloatArray:
        """(N,) what each link promises [bit/s/Hz]."""
        return view.forecast

    def least(self) -> float:
        return self._price


class Given:
    """Asks the same neighbours in every slot, whoever chose them, and takes APs to be as defective as it is told."""

    def __init__(self, ap: int, action: int, levels: FloatArray | None = None) -> None:
        self._ap, self._action, self._levels = ap, action, levels

    def levels(self, association: Association) -> FloatArray:
        aps = [self._ap, *association.neighbours]
        return np.zeros((len(aps), 3)) if self._levels is None else self._levels[aps]

    def act(self, view: View) -> int:
        return self._action


class Trained:
    """An agent that has learned: takes the best action it knows, explores no more and learns no more."""

    def __init__(self, config: Config, weights: list[FloatArray]) -> None:
        from apnode.agent.ddqn import make_network

        self._network: DoubleDqn = make_network(config, seed=0)
        self._least = config.cooperation.link_price if config.learning.values == "neighbours" else 0.0
        self._network.load(weights)

    def act(self, view: View) -> int:
        return self._network.best_action(view.observation, len(view.neighbours))

    def worth(self, view: View) -> FloatArray:
        """(N,) as `DoubleDqn.worth`."""
        return self._network.worth(view.observation, len(view.neighbours))

    def least(self) -> float:
        return self._least


class Ddqn:
    """The AP's own Double DQN: epsilon-greedy over joint actions, at most one update a slot."""

    def __init__(self, ap: int, config: Config) -> None:
        from apnode.agent.ddqn import make_network  # torch: seconds and 170 MB that other policies need not pay

        self._ap, self._seed, self._learning = ap, config.seed, config.learning
        self._price = config.cooperation.link_price
        self._slots_per_episode = config.run.slots_per_episode
        whose = () if config.learning.share else (ap,)  # networks whose mean is to mean something begin alike
        self.network: DoubleDqn = make_network(config, integer_seed(config.seed, Purpose.WEIGHTS, *whose))
        self.replay = Replay(config.learning.replay_capacity, config.observed)
        most_of_a_weight = config.learning.learning_rate * config.run.slots_per_episode  # in an episode, by Adam
        self.reach = _EPISODES_APART * most_of_a_weight * math.sqrt(self.network.size)
        self._synced = 0  # period of the target network

    def act(self, view: View) -> int:
        num_neighbours = len(view.neighbours)
        if self._learning.values == "neighbours":
            best = self.network.best_action(view.observation, num_neighbours)
            return self._explored_link_by_link(best, view.neighbours, view.slot)
        rng = generator(self._seed, Purpose.EXPLORATION, self._ap, view.slot)
        if rng.random() < self.epsilon(view.slot):
            return int(rng.integers(2**num_neighbours))
        return self.network.best_action(view.observation, num_neighbours)

    def worth(self, view: View) -> FloatArray:
        """(N,) as `DoubleDqn.worth`."""
        return self.network.worth(view.observation, len(view.neighbours))

    def least(self) -> float:
        return self._price if self._learning.values == "neighbours" else 0.0

    def _explored_link_by_link(self, action: int, neighbours: Sequence[int], slot: int) -> int:
        """With chance epsilon a link is asked for, or not, by a coin that both its ends see: so both try it at once."""
        epsilon = self.epsilon(slot)
        for position, neighbour in enumerate(neighbours):
            ends = min(self._ap, neighbour), max(self._ap, neighbour)
            luck, coin = _luck_of_link(self._seed, *ends, slot)
            if luck < epsilon:
                action = action & ~(1 << position) | (coin < 0.5) << position
        return action

    def learn(self, transition: Transition, slot: int) -> float:
        return learn_together([self], [(transition, slot)])[0]

    @property
    def has_batch(self) -> bool:
        """Whether there is enough to learn from."""
        return len(self.replay) >= self._learning.batch_size

    def batch_for(self, slot: int) -> tuple[Batch, np.random.Generator]:
        """What to learn from in this slot, and what draws the rest."""
        rng = generator(self._seed, Purpose.UPDATE, self._ap, slot)
        return self.replay.sample(self._learning.batch_size, rng), rng

    def sync(self, slot: int) -> None:
        """Renew the target network if that is due."""
        period = (slot + 1) // (self._learning.target_update_episodes * self._slots_per_episode)
        if period != self._synced:  # not "if due in this slot": an AP without neighbours does not learn in every slot
            self.network.sync_target()
            self._synced = period

    def epsilon(self, slot: int) -> float:
        return epsilon_at(self._learning, slot // self._slots_per_episode)

    def shared(self, slot: int) -> FloatArray:
        due = self._learning.share and (slot + 1) % self._slots_per_episode == 0
        return self.network.flat() if due else NOTHING

    def understands(self, learned: FloatArray) -> bool:
        size = self.network.size if self._learning.share else 0
        return len(learned) in {0, size} and bool(np.abs(learned).max(initial=0) <= _LARGEST_WEIGHT)

    def take_in(self, learned: Mapping[int, FloatArray]) -> Collection[int]:
        """The mean of the partners' networks and one's own replaces one's own, as in decentralised gossip averaging.

        A network that is further from one's own than learning goes counts as one on the same line that is as far. So
        nobody moves an agent far: self-centred clipping (He, Karimireddy and Jaggi, arXiv 2202.01545).
        """
        own = self.network.flat()
        away = {ap: float(np.linalg.norm(told - own)) for ap, told in learned.items()}
        near = [
            told if away[ap] <= self.reach else own + (told - own) * (self.reach / away[ap])
            for ap, told in learned.items()
        ]
        if near:
            self.network.set_flat(np.mean([own, *near], axis=0))
        return [ap for ap, distance in away.items() if distance > _ABSURD * self.reach]

    def state(self) -> State:
        own = {"synced": np.array(self._synced)}
        return {**own, **joined(network=self.network.state(), replay=self.replay.state())}

    def restore(self, state: State) -> None:
        refuse_other(state, layout_of(self.state()))
        self.network.restore(part(state, "network"))
        self.replay.restore(part(state, "replay"))
        self._synced = int(state["synced"])


def trained_policy(ap: int, config: Config, learned: list[FloatArray]) -> Policy:
    """The policy that the config names, for AP `ap`, with what an agent has learned; it learns no more."""
    return finding_out(ap, config, learned) if config.hears_streams else Trained(config, learned)


def finding_out(ap: int, config: Config, learned: Sequence[FloatArray] = ()) -> Watcher:
    """The policy of AP `ap` that the config names, of those that find out about APs."""
    kinds: Mapping[str, Callable[..., Watcher]] = {"belief": Belief, "ratio": Ratio, "factor": Factor}
    return kinds[config.cooperation.policy](ap, config, *learned)


def learn_together(agents: Sequence[Ddqn], lessons: Sequence[Lesson]) -> list[float]:
    """What each agent's `learn` does and returns, with one pass for all updates that are due."""
    from apnode.agent.ddqn import update

    for agent, (transition, _) in zip(agents, lessons, strict=True):
        agent.replay.store(transition)
    due = [n for n, agent in enumerate(agents) if agent.has_batch]
    batches = [agents[n].batch_for(lessons[n][1]) for n in due]
    losses = [0.0] * len(agents)
    updated = update([agents[n].network for n in due], [b for b, _ in batches], [rng for _, rng in batches])
    for n, loss in zip(due, updated, strict=True):
        losses[n] = loss
    for agent, (_, slot) in zip(agents, lessons, strict=True):
        agent.sync(slot)
    return losses


def put_together(policies: Iterable[Policy]) -> None:
    """Prepare the agents among the policies of one run's APs for `learn_together`."""
    agents = [policy for policy in policies if type(policy) is Ddqn]
    if agents:
        from apnode.agent.ddqn import put_together as put_networks_together

        put_networks_together([agent.network for agent in agents])


@lru_cache(maxsize=2**13)  # both ends ask, in one process one after the other
def _luck_of_link(seed: int, one: int, other: int, slot: int) -> tuple[float, float]:
    """Two draws from U(0, 1), the same at both ends of a link."""
    luck, coin = generator(seed, Purpose.EXPLORATION, one, other, slot).random(2).tolist()
    return luck, coin


def epsilon_at(learning: Learning, episode: int) -> float:
    """Chance to explore: falls by epsilon_decay each episode, never below epsilon_end."""
    return max(learning.epsilon_end, learning.epsilon_start - learning.epsilon_decay * episode)


def make_policy(ap: int, config: Config) -> Policy:
    """The policy that the config names, for AP `ap`."""
    match config.cooperation.policy:
        case "never":
            return Fixed(ask=False)
        case "always":
            return Fixed(ask=True)
        case "random":
            return Random(ap, config)
        case "threshold":
            return Threshold(config)
        case "master":
            return Master()
        case "forecast":
            return Forecast(config)
        case "ddqn":
            return Ddqn(ap, config)
        case own if is_own(own):
            made: Policy = own_policy(own)(*[ap, config] * (own_policy(own).__init__ is not object.__init__))
            return made
        case _:
            return finding_out(ap, config)
