"""States that follow from one another, in any order: replayed from the first, so pure functions of an index."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

State = TypeVar("State")

_last: dict[str, tuple[Hashable, int, Any]] = {}  # by chain: whose state, its index, the state


def replay(
    chain: str, key: Hashable, index: int, first: Callable[[], State], after: Callable[[State, int], State]
) -> State:
    """State number `index` of a chain.

    The state asked for last is kept, since the next question is mostly for its successor; as every state is a
    function of key and index alone, that saves time and changes nothing; states must not be written to.

    Args:
        chain: what it is a chain of; one state is kept of each.
        key: everything else that the states depend on.
        index: from 0.
        first: makes state 0.
        after: makes a state from the one before and its own index.
    """
    known, at, state = _last.get(chain, (None, 0, None))
    if known != key or at > index or state is None:
        at, state = 0, first()
    while at < index:
        at += 1
        state = after(state, at)
    _last[chain] = key, at, state
    kept: State = state
    return kept
