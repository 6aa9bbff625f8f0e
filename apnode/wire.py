"""Frames: CRC32 of the rest (4 bytes, big endian), then msgpack [version, tag, field, field, ...].

Ids travel as packed 16-bit integers, arrays as [shape, raw little-endian bytes], never as lists. Whatever a
peer sends, `decode` returns a valid message or raises WireError in bounded time and memory.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from apnode.fields import Array, Message, MessageError, specs
from apnode.messages import KINDS, TAGS

VERSION = 1
MAX_FRAME = 65536  # [B] unless the config says more


class WireError(ValueError):
    """These bytes are not a message; `reason` is the word they are counted under."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def encode(message: Message, max_bytes: int = MAX_FRAME) -> bytes:
    """The frame of a message.

    Raises:
        WireError: if the frame would be longer than `max_bytes`.
    """
    values = [pack(getattr(message, name)) for name, pack in _PACKERS[type(message)]]
    body: bytes = msgpack.packb([VERSION, TAGS[type(message)], *values])
    if len(body) + 4 > max_bytes:
        name = type(message).__name__
        raise WireError("oversized", f"{name} takes {len(body) + 4} B; raise run.max_frame_bytes above {max_bytes}")
    return zlib.crc32(body).to_bytes(4, "big") + body


def decode(frame: bytes, max_bytes: int = MAX_FRAME) -> Message:
    """The message in a frame.

    Raises:
        WireError: if there is none; never anything else.
    """
    if len(frame) > max_bytes:
        raise WireError("oversized", f"frame of {len(frame)} B; at most {max_bytes} B are read")
    body = frame[4:]
    if not body or zlib.crc32(body) != int.from_bytes(frame[:4], "big"):
        raise WireError("checksum", "frame is damaged: its CRC32 does not match")
    kind, values = _opened(body, max_bytes)
    try:
        return kind(*[unpack(value) for unpack, value in zip(_UNPACKERS[kind], values, strict=True)])
    except (MessageError, ValueError, TypeError, OverflowError, struct.error) as error:
        raise WireError("malformed", f"{kind.__name__}: {error}") from None


def _opened(body: bytes, max_bytes: int) -> tuple[type[Message], Sequence[Any]]:
    """The kind of message in a body whose checksum holds, and its raw field values."""
    try:
        content = msgpack.unpackb(
            body,
            strict_map_key=True,
            max_array_len=64,
            max_map_len=16,
            max_str_len=64,
            max_bin_len=max_bytes,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError("malformed", f"not msgpack within limits: {error}") from None
    if not isinstance(content, list) or len(content) < 2 or any(type(v) is not int for v in content[:2]):
        raise WireError("malformed", "frame does not begin with a version and a tag")
    version, tag, *values = content
    if version != VERSION:
        raise WireError("version", f"frame of version {version}; this node speaks {VERSION}")
    if not 0 <= tag < len(KINDS):
        known = ", ".join(f"{t} {kind.__name__}" for t, kind in enumerate(KINDS))
        raise WireError("malformed", f"unknown message tag {tag}; this node speaks {known}")
    return KINDS[tag], values


def _packer(spec: Any) -> Callable[[Any], Any]:
    if isinstance(spec, Array):
        return _pack_array
    return _pack_ids if spec == "ids" else _as_it_is  # a tuple of texts is a list to msgpack


def _unpacker(spec: Any) -> Callable[[Any], Any]:
    if isinstance(spec, Array):
        return partial(_unpack_array, np.dtype(spec.dtype), spec.ndim)
    return {"ids": _unpack_ids, "texts": _unpack_texts}.get(spec, _as_it_is)


def _as_it_is(value: Any) -> Any:
    return value


def _pack_array(array: NDArray[Any]) -> list[Any]:
    return [array.shape, array.tobytes()]


def _unpack_array(dtype: np.dtype[Any], ndim: int, value: Any) -> NDArray[Any]:
    shape, raw = value
    if len(shape) != ndim or {*map(type, shape)} != {int} or min(shape) < 0 or type(raw) is not bytes:
        raise MessageError("an array is [shape, bytes]")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise MessageError(f"{len(raw)} B do not make an array of shape {shape}")
    return np.frombuffer(raw, dtype).reshape(shape)


def _pack_ids(ids: tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(ids)}H", *ids)


def _unpack_ids(value: Any) -> tuple[int, ...]:
    if type(value) is not bytes:
        raise MessageError("ids travel as bytes")
    ids: tuple[int, ...] = struct.unpack(f"<{len(value) // 2}H", value)
    return ids


def _unpack_texts(value: Any) -> Any:
    return tuple(value) if type(value) is list else value


_PACKERS = {kind: [(name, _packer(spec)) for name, spec in specs(kind).items()] for kind in KINDS}
_UNPACKERS = {kind: [_unpacker(spec) for spec in specs(kind).values()] for kind in KINDS}
