"""What a field of a message may hold, and the check of it that no message can be made without.

The annotation of a field also tells `wire` how to encode it. Ids are 16 bits; arrays are little-endian. A message holds
exactly what is read from its frame, down to types and bits, and cannot be changed: nodes of one process may share it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

MAX_ID = 2**16 - 2
MAX_TEXT = 64
MAX_MAGNITUDE = 1e18  # of any number on the wire: channels, powers, SINRs and rates are far below
MAX_SLOT = 2**40


class MessageError(ValueError):
    """A message with this content must not exist."""


@dataclass(frozen=True, slots=True)
class Array:
    """How an array field looks: element type and number of dimensions."""

    dtype: str
    ndim: int


Ids = Annotated[tuple[int, ...], "ids"]  # AP or UE indices
Id = Annotated[int, "id"]
Slot = Annotated[int, "slot"]  # counted over the whole run
Counter = Annotated[int, "slot"]
Text = Annotated[str, "text"]
Endpoint = Annotated[str, "endpoint"]  # tcp://host:port, or the name by which a runtime finds a node
Endpoints = Annotated[tuple[str, ...], "endpoints"]  # "": nowhere yet
Real = Annotated[float, "real"]


Check = Callable[[str, Any], Any]
Checks = list[tuple[str, Check]]


class Message:
    """Base of all messages: checks each field on construction."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, check in _checks_of(type(self)):
            given = getattr(self, name)
            checked = check(name, given)
            if checked is not given:
                object.__setattr__(self, name, checked)


def specs(kind: type[Message]) -> dict[str, Any]:
    """Field name -> what its annotation says, in order of declaration."""
    hints = get_type_hints(kind, include_extras=True)
    assert all(get_origin(hints[f.name]) is Annotated for f in fields(kind)), kind  # type: ignore[arg-type]
    return {f.name: get_args(hints[f.name])[1] for f in fields(kind)}  # type: ignore[arg-type]


def _checks_of(kind: type[Message]) -> Checks:
    """Field names, and what checks each field's value: it returns the value to keep, or raises MessageError."""
    if kind not in _CHECKS_OF:
        _CHECKS_OF[kind] = [(name, _check_of(spec)) for name, spec in specs(kind).items()]
    return _CHECKS_OF[kind]


_CHECKS_OF: dict[type[Message], Checks] = {}  # reading annotations is slow


def _check_of(spec: Any) -> Check:
    if isinstance(spec, Array):
        return partial(_checked_array, np.dtype(spec.dtype), spec.ndim)
    return _CHECKS[spec]


def _checked_id(name: str, value: Any) -> int:
    return value if type(value) is int and 0 <= value <= MAX_ID else _refuse(name, f"an integer in 0..{MAX_ID}", value)


def _checked_slot(name: str, value: Any) -> int:
    if type(value) is int and 0 <= value <= MAX_SLOT:
        return value
    return _refuse(name, f"an integer in 0..{MAX_SLOT}", value)


def _checked_real(name: str, value: Any) -> float:
    if isinstance(value, float) and abs(value) <= MAX_MAGNITUDE:  # false for NaN
        return float(value)
    return _refuse(name, f"a float within {MAX_MAGNITUDE:g}", value)


def _checked_text(name: str, value: Any) -> str:
    if isinstance(value, str) and len(value.encode("utf-8", "replace")) <= MAX_TEXT and value.isprintable():
        return str(value)
    return _refuse(name, f"printable text of at most {MAX_TEXT} bytes", value)


_ENDPOINT = re.compile(r"tcp://([\w.-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}|[\w./-]*", re.ASCII)


def _checked_endpoint(name: str, value: Any) -> str:
    text = _checked_text(name, value)
    return text if _ENDPOINT.fullmatch(text) else _refuse(name, "tcp://host:port, or a name", value)


def _checked_ids(name: str, value: Any) -> tuple[int, ...]:
    items = _checked_tuple(name, value)
    if items and not ({*map(type, items)} == {int} and min(items) >= 0 and max(items) <= MAX_ID):
        for item in items:
            _checked_id(name, item)
    if not _all_differ(items):
        _refuse(name, "distinct", value)
    return items


def _all_differ(items: tuple[int, ...]) -> bool:
    if len(items) < 1000:
        return len({*items}) == len(items)
    in_order = np.sort(np.array(items, np.uint16))  # a set would take far more memory than the frame
    return bool((in_order[1:] != in_order[:-1]).all())


def _checked_endpoints(name: str, value: Any) -> tuple[str, ...]:
    return tuple([_checked_endpoint(name, item) for item in _checked_tuple(name, value)])


def _checked_tuple(name: str, value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else _refuse(name, "a tuple", value)


_CHECKS: dict[str, Check] = {
    "id": _checked_id,
    "slot": _checked_slot,
    "real": _checked_real,
    "text": _checked_text,
    "endpoint": _checked_endpoint,
    "ids": _checked_ids,
    "endpoints": _checked_endpoints,
}


def _refuse(name: str, allowed: str, value: Any) -> NoReturn:
    raise MessageError(f"{name} must be {allowed}, not {value!r:.60}")


_CASTS = {"u": "iu", "f": "iuf", "c": "iufc"}  # kind of a field -> kinds that it can hold without loss


def _checked_array(dtype: np.dtype[Any], ndim: int, name: str, value: Any) -> NDArray[Any]:
    array = value if type(value) is np.ndarray and value.dtype == dtype else _cast(name, dtype, value)
    if array.ndim != ndim:
        raise MessageError(f"{name} must have {ndim} dimensions, not {array.ndim}")
    if not isinstance(array.base, bytes):
        array = array_over(array.tobytes(), dtype, array.shape)
    if dtype.kind != "u" and not _within_magnitude(array):
        raise MessageError(f"{name} must be finite and within {MAX_MAGNITUDE:g}")
    return array


def array_over(raw: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The array that these bytes are: nobody can change it, or make it so that it can be changed."""
    return np.ndarray(shape, dtype, raw)


def _within_magnitude(array: NDArray[Any]) -> bool:
    """Whether all real and imaginary parts are; not so for NaN. If the sum of their squares is, there is no doubt."""
    if np.vdot(array, array).real <= MAX_MAGNITUDE:
        return True
    parts = array.reshape(-1).view(array.real.dtype)
    return not parts.size or bool(max(parts.max(), -parts.min()) <= MAX_MAGNITUDE)


def _cast(name: str, dtype: np.dtype[Any], value: Any) -> NDArray[Any]:
    """What is no array of that type yet, if it can be one without loss."""
    try:
        given = np.asarray(value)
    except ValueError:  # ragged
        raise MessageError(f"{name} must be an array") from None
    if given.size and given.dtype.kind not in _CASTS[dtype.kind]:
        raise MessageError(f"{name} must hold {dtype.name}, not {given.dtype.name}")
    if dtype.kind == "u" and given.size and (given.min() < 0 or given.max() > np.iinfo(dtype).max):
        raise MessageError(f"{name} must lie in 0..{np.iinfo(dtype).max}")
    return given.astype(dtype)


def expect(condition: bool, what: str) -> None:
    """Refuse to build a message whose fields do not fit each other.

    Raises:
        MessageError: saying `what`, unless `condition` holds.
    """
    if not condition:
        raise MessageError(what)
