"""What an agent must know to go on as if it had never stopped: named arrays, and the check that they are its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

State = Mapping[str, NDArray[Any]]  # names of parts and their arrays joined by dots: "network.online.0"
Layout = Mapping[str, tuple[DTypeLike, tuple[int | str, ...]]]  # dtype and shape; a length with a name may be any


class StateError(ValueError):
    """A state that is not one of this agent, as its config is now."""


def joined(**parts: State) -> State:
    """The arrays of all parts, each under the name of its part."""
    return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def part(state: State, name: str) -> State:
    """The arrays of one part, as they were before `joined`."""
    return {key.removeprefix(f"{name}."): array for key, array in state.items() if key.startswith(f"{name}.")}


def layout_of(state: State) -> Layout:
    """The layout that this state has."""
    return {name: (array.dtype, array.shape) for name, array in state.items()}


def refuse_other(state: State, layout: Layout) -> None:
    """Refuse a state before anything of it is used.

    Raises:
        StateError: if it has other arrays than the layout, or of other dtypes or shapes; lengths of one name agree.
    """
    if state.keys() != layout.keys():
        raise StateError(f"arrays not in common with what was expected: {', '.join(sorted(state.keys() ^ layout))}")
    lengths: dict[str, int] = {}
    for name, (dtype, shape) in layout.items():
        array = state[name]
        if array.dtype == dtype and array.ndim == len(shape):
            expected = tuple(
                lengths.setdefault(length, found) if isinstance(length, str) else length
                for length, found in zip(shape, array.shape, strict=True)
            )
            if array.shape == expected:
                continue
        raise StateError(f"{name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")


@dataclass(frozen=True, eq=False)  # eq=False: arrays
class Checkpoint:
    """All that an AP must know when it has completed the slots before slot number `completed`."""

    completed: int
    state: State
    kept: bool = False  # beside the newest two, until somebody has made use of it
