"""Frames: CRC32 of the rest (4 bytes, big endian), then msgpack [version, tag, field, field, ...].

Ids travel as packed 16-bit integers, arrays as [shape, raw little-endian bytes], never as lists. Whatever a
peer sends, `decode` returns a valid message or raises WireError in bounded time and memory.

One launcher starts all nodes of a run, so one version is read: any change of kinds or fields is another version.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from apnode.protocol.fields import MAX_TEXT, Array, Message, MessageError, array_over, specs
from apnode.protocol.messages import KINDS, TAGS

VERSION = 12
MAX_FRAME = 65536  # [B] where no network is known: see `limits`
_MAX_TEXTS = 64  # in one field
_BYTES_PER_ID = 10  # of the longest frame: an id takes 40 in memory; where ids are many, reports have 10 for each

Readers = list[Callable[[Any, int], Any]]  # of the fields of a kind: from an unpacker that has come to it, most ids


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
        raise WireError("oversized", f"{name} takes {len(body) + 4} B, more than the {max_bytes} B of a frame")
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
    unpacker = msgpack.Unpacker(
        read_size=len(body),
        strict_map_key=True,
        max_array_len=0,  # of what no field says is an array: a frame of nested arrays takes 60 times its length
        max_map_len=0,
        max_str_len=MAX_TEXT,
        max_bin_len=max_bytes,
        max_ext_len=0,
    )
    unpacker.feed(body)
    kind, readers = _begun(unpacker)
    try:
        message = kind(*[read(unpacker, max_bytes // _BYTES_PER_ID) for read in readers])
    except (MessageError, ValueError, TypeError, OverflowError, struct.error, msgpack.UnpackException) as error:
        raise WireError("malformed", f"{kind.__name__}: {error}") from None
    if unpacker.tell() != len(body):
        raise WireError("malformed", f"{kind.__name__}: bytes after the message")
    return message


def _begun(unpacker: Any) -> tuple[type[Message], Readers]:
    """The kind of the message that an unpacker is fed with, and what reads its fields, which come next."""
    try:
        length, version, tag = unpacker.read_array_header(), unpacker.unpack(), unpacker.unpack()
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError("malformed", f"not msgpack within limits: {error}") from None
    if length < 2 or type(version) is not int or type(tag) is not int:
        raise WireError("malformed", "frame does not begin with a version and a tag")
    if version != VERSION:
        raise WireError("version", f"frame of version {version}; this node speaks {VERSION}")
    if not 0 <= tag < len(KINDS):
        known = ", ".join(f"{tag} {kind.__name__}" for kind, tag in TAGS.items())
        raise WireError("malformed", f"unknown message tag {tag}; there are {known}")
    kind = KINDS[tag]
    readers = _READERS[kind]
    if length != 2 + len(readers):
        raise WireError("malformed", f"{kind.__name__} of {length - 2} fields, expected {len(readers)}")
    return kind, readers


def _packer(spec: Any) -> Callable[[Any], Any]:
    if isinstance(spec, Array):
        return _pack_array
    return _pack_ids if spec == "ids" else _as_it_is  # a tuple of texts is a list to msgpack


def _reader(spec: Any) -> Callable[[Any, int], Any]:
    if isinstance(spec, Array):
        return partial(_read_array, np.dtype(spec.dtype), spec.ndim)
    return {"ids": _read_ids, "endpoints": _read_texts}.get(spec, _read)


def _as_it_is(value: Any) -> Any:
    return value


def _pack_array(array: NDArray[Any]) -> list[Any]:
    return [array.shape, array.tobytes()]


def _read(unpacker: Any, most: int) -> Any:
    return unpacker.unpack()


def _read_array(dtype: np.dtype[Any], ndim: int, unpacker: Any, most: int) -> NDArray[Any]:
    if unpacker.read_array_header() != 2 or unpacker.read_array_header() != ndim:
        raise MessageError(f"an array is [shape, bytes], its shape {ndim} numbers")
    shape = [unpacker.unpack() for _ in range(ndim)]
    raw = unpacker.unpack()
    if {*map(type, shape)} != {int} or min(shape) < 0 or type(raw) is not bytes:
        raise MessageError("an array is [shape, bytes]")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise MessageError(f"{len(raw)} B do not make an array of shape {shape}")
    return array_over(raw, dtype, tuple(shape))


def _pack_ids(ids: tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(ids)}H", *ids)


def _read_ids(unpacker: Any, most: int) -> tuple[int, ...]:
    value = unpacker.unpack()
    if type(value) is not bytes or len(value) > 2 * most:
        raise MessageError(f"ids travel as bytes, at most {most} of them")
    ids: tuple[int, ...] = struct.unpack(f"<{len(value) // 2}H", value)
    return ids


def _read_texts(unpacker: Any, most: int) -> tuple[Any, ...]:
    count = unpacker.read_array_header()
    if count > _MAX_TEXTS:
        raise MessageError(f"{count} texts; at most {_MAX_TEXTS} are read")
    return tuple([unpacker.unpack() for _ in range(count)])


_PACKERS = {kind: [(name, _packer(spec)) for name, spec in specs(kind).items()] for kind in KINDS}
_READERS: dict[type[Message], Readers] = {kind: [_reader(spec) for spec in specs(kind).values()] for kind in KINDS}
