"""The replay buffer: a ring of an AP's own latest transitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.protocol.messages import FloatArray, IntArray
from apnode.protocol.state import Layout, State, layout_of, refuse_other

Floats = NDArray[np.floating[Any]]  # float32 as kept, which is how exactly the network computes


@dataclass(frozen=True, slots=True)
class Transition:
    """One decision and what came of it."""

    observation: FloatArray  # (D,)
    action: int
    reward: float
    next_observation: FloatArray  # (D,)
    num_actions: int  # actions open to the AP, in both observations
    terminal: bool  # the episode ended: what follows is another layout


Lesson = tuple[Transition, int]  # and its slot


@dataclass(frozen=True, slots=True)
class Batch:
    """n transitions, field by field; or n of each of G agents, with a first axis for the agents."""

    observation: Floats  # (n, D)
    action: IntArray  # (n,)
    reward: Floats  # (n,)
    next_observation: Floats  # (n, D)
    num_actions: IntArray  # (n,)
    terminal: Floats  # (n,) 1 where the episode ended

    @classmethod
    def stacked(cls, batches: Sequence[Batch]) -> Batch:
        """Those of several agents, as one."""
        fields = [[getattr(batch, name) for batch in batches] for name in cls.__slots__]
        return cls(*[np.stack(arrays) if len(arrays) > 1 else arrays[0][None] for arrays in fields])


class Replay:
    """Keeps the newest `capacity` transitions."""

    def __init__(self, capacity: int, observation_size: int) -> None:
        self._observation = np.zeros((capacity, observation_size), np.float32)
        self._next_observation = np.zeros((capacity, observation_size), np.float32)
        self._action = np.zeros(capacity, np.int64)
        self._reward = np.zeros(capacity, np.float32)
        self._num_actions = np.zeros(capacity, np.int64)
        self._terminal = np.zeros(capacity, np.float32)
        self.stored = 0  # ever

    def __len__(self) -> int:
        return min(self.stored, len(self._action))

    def store(self, transition: Transition) -> None:
        """Add a transition; the oldest goes if the ring is full."""
        at = self.stored % len(self._action)
        self._observation[at] = transition.observation
        self._action[at] = transition.action
        self._reward[at] = transition.reward
        self._next_observation[at] = transition.next_observation
        self._num_actions[at] = transition.num_actions
        self._terminal[at] = transition.terminal
        self.stored += 1

    def sample(self, size: int, rng: np.random.Generator) -> Batch:
        """`size` transitions drawn uniformly with replacement.

        Raises:
            ValueError: if nothing is stored.
        """
        if not self.stored:
            raise ValueError("cannot sample from an empty replay buffer")
        at = rng.integers(len(self), size=size)
        return Batch(
            observation=self._observation[at],
            action=self._action[at],
            reward=self._reward[at],
            next_observation=self._next_observation[at],
            num_actions=self._num_actions[at],
            terminal=self._terminal[at],
        )

    def state(self) -> State:
        """Copies of all that is kept."""
        return {name: array.copy() for name, array in self._arrays().items()} | {"stored": np.array(self.stored)}

    def restore(self, state: State) -> None:
        """Take over what `state` gave.

        Raises:
            StateError: if it is that of a buffer of another size.
        """
        refuse_other(state, layout_of(self.state()))
        for name, array in self._arrays().items():
            array[:] = state[name]
        self.stored = int(state["stored"])

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "observation": self._observation,
            "next_observation": self._next_observation,
            "action": self._action,
            "reward": self._reward,
            "num_actions": self._num_actions,
            "terminal": self._terminal,
        }


def lesson_layout(observation_size: int) -> Layout:
    """Of what `lesson_arrays` makes."""
    return {
        "observation": (np.float64, ("lessons", observation_size)),
        "action": (np.int64, ("lessons",)),
        "reward": (np.float64, ("lessons",)),
        "next_observation": (np.float64, ("lessons", observation_size)),
        "num_actions": (np.int64, ("lessons",)),
        "terminal": (np.bool_, ("lessons",)),
        "slot": (np.int64, ("lessons",)),
    }


def lesson_arrays(lesson: Lesson | None, observation_size: int) -> State:
    """A transition that is still to be learned, and its slot, as arrays of one row; of none if there is none."""
    values = {name: [] if lesson is None else [getattr(lesson[0], name)] for name in Transition.__dataclass_fields__}
    values["slot"] = [] if lesson is None else [lesson[1]]
    return {
        name: np.array(values[name], dtype).reshape(len(values[name]), *shape[1:])
        for name, (dtype, shape) in lesson_layout(observation_size).items()
    }


def lesson_of(arrays: State) -> Lesson | None:
    """What `lesson_arrays` was made from."""
    if not len(arrays["slot"]):
        return None
    transition = Transition(
        observation=arrays["observation"][0].copy(),
        action=int(arrays["action"][0]),
        reward=float(arrays["reward"][0]),
        next_observation=arrays["next_observation"][0].copy(),
        num_actions=int(arrays["num_actions"][0]),
        terminal=bool(arrays["terminal"][0]),
    )
    return transition, int(arrays["slot"][0])
