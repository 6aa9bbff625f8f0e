"""Frames: what goes round, and that nothing a peer can send is anything but a message or a WireError."""

import dataclasses
import timeit
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack
import numpy as np
import pytest

from apnode.protocol.fields import MAX_ID, MAX_MAGNITUDE, MAX_SLOT, Array, Message, MessageError, specs
from apnode.protocol.messages import (
    KINDS,
    NOBODY,
    ApReport,
    Association,
    ChannelBlock,
    ClusterBlock,
    CommonLinks,
    CoopDecline,
    CoopRequest,
    Deadline,
    GainReport,
    Hello,
    LinkState,
    PilotBlock,
    SelfReport,
    SlotFeedback,
    SlotReport,
    Tick,
    Transmission,
)
from apnode.protocol.wire import MAX_FRAME, VERSION, WireError, decode, encode
from benchmarks.frames import bombs
from tests.apnode.examples import EXAMPLES, anatomy, golden

BOMBS: dict[str, list[bytes]] = {}  # by what they are of
for _name, _frame in bombs([encode(example) for example in EXAMPLES.values()]):
    BOMBS.setdefault(_name.split(":")[0], []).append(_frame)
BY_KIND = [pytest.param(kind, id=kind.__name__) for kind in KINDS]


def sealed(body: bytes) -> bytes:
    """A frame whose checksum holds, whatever is in it."""
    return zlib.crc32(body).to_bytes(4, "big") + body


def framed(content: object) -> bytes:
    return sealed(msgpack.packb(content))


def content(message: Message) -> list[Any]:
    """What a message's frame packs: version, tag, then fields."""
    unpacked: list[Any] = msgpack.unpackb(encode(message)[4:])
    return unpacked


def with_field(kind: type[Message], name: str, raw: object) -> bytes:
    """The example's frame with one field replaced by raw msgpack content."""
    fields = content(EXAMPLES[kind])
    fields[2 + list(specs(kind)).index(name)] = raw
    return framed(fields)


def fate(frame: bytes, max_bytes: int = MAX_FRAME) -> Message | str:
    """The message in a frame, or the reason for which there is none; any other error is one of `decode`."""
    try:
        return decode(frame, max_bytes)
    except WireError as error:
        return error.reason


# --- what goes round ---------------------------------------------------------------------------------------


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == set(KINDS)


@pytest.mark.parametrize("kind", BY_KIND)
def test_a_message_goes_round_unchanged(kind: type[Message]) -> None:
    message = EXAMPLES[kind]
    back = decode(encode(message))
    assert type(back) is kind
    assert anatomy(back) == anatomy(message)
    assert encode(back) == encode(message)


@pytest.mark.parametrize("kind", BY_KIND)
def test_whatever_a_message_is_made_of_it_holds_what_its_frame_says(kind: type[Message]) -> None:
    """Of numpy's numbers, wider arrays, parts of others, and such as lie in memory in another order."""
    plain = EXAMPLES[kind]
    wide = {"f": np.float64, "c": np.complex128, "u": np.int64}
    given: dict[str, Any] = {}
    for name, spec in specs(kind).items():
        value = getattr(plain, name)
        if isinstance(spec, Array):
            given[name] = np.asfortranarray(np.repeat(value, 2, axis=0).astype(wide[value.dtype.kind]))[::2]
        else:
            given[name] = {"real": np.float64, "text": np.str_}.get(spec, lambda same: same)(value)
    assert anatomy(kind(**given)) == anatomy(decode(encode(kind(**given)))) == anatomy(plain)


@pytest.mark.parametrize("kind", BY_KIND)
def test_who_made_a_message_may_go_on_with_what_it_is_made_of(kind: type[Message]) -> None:
    own = {
        name: np.array(getattr(EXAMPLES[kind], name)) for name, spec in specs(kind).items() if isinstance(spec, Array)
    }
    message = dataclasses.replace(EXAMPLES[kind], **own)
    for array in own.values():
        array[...] = 0
    assert anatomy(message) == anatomy(EXAMPLES[kind])


@pytest.mark.parametrize("kind", BY_KIND)
@pytest.mark.parametrize("decoded", [True, False])
def test_arrays_of_a_message_are_read_only(kind: type[Message], decoded: bool) -> None:
    message = decode(encode(EXAMPLES[kind])) if decoded else EXAMPLES[kind]
    for array in (getattr(message, name) for name, spec in specs(kind).items() if isinstance(spec, Array)):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


@pytest.mark.parametrize("kind", BY_KIND)
def test_a_message_is_frozen(kind: type[Message]) -> None:
    for name in specs(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(EXAMPLES[kind], name, 0)


@pytest.mark.parametrize(
    "message",
    [
        Association(0, (), [], [], (), (), []),
        PilotBlock(0, 0, np.zeros((0, 0, 0))),
        ChannelBlock(0, 0, (), np.zeros((4, 2, 0)), [], np.zeros((0, 2, 2))),
        Transmission(0, 0, (), np.zeros((4, 0, 2)), np.zeros((4, 0, 2)), ()),
        SlotFeedback(0, [], [], np.zeros((0, 8), np.uint16), np.zeros((0, 8))),
        LinkState(0, 0, 1, (), np.zeros((0, 2), int), [], np.zeros((0, 2), int)),
        ClusterBlock(0, 0, 0, (), np.zeros((4, 2, 0)), [], np.zeros((0, 2, 2))),
        CommonLinks(0, 0, 1, np.zeros((0, 3), int)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_empty_arrays_keep_their_shape(message: Message) -> None:
    back = decode(encode(message))
    for name, spec in specs(type(message)).items():
        if isinstance(spec, Array):
            assert getattr(back, name).shape == getattr(message, name).shape


def test_local_events_have_no_tag() -> None:
    assert Tick not in KINDS
    with pytest.raises(KeyError):
        encode(Tick())


# --- what does not arrive as it was sent -------------------------------------------------------------------


@pytest.mark.parametrize("kind", BY_KIND)
def test_a_frame_cut_at_any_length_is_fate(kind: type[Message]) -> None:
    frame = encode(EXAMPLES[kind])
    assert {fate(frame[:length]) for length in range(len(frame))} == {"checksum"}


@pytest.mark.parametrize("kind", [ApReport, CoopRequest, Hello])
def test_a_frame_with_any_one_bit_flipped_is_fate(kind: type[Message]) -> None:
    frame = encode(EXAMPLES[kind])
    for bit in range(8 * len(frame)):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        assert fate(bytes(flipped)) == "checksum"


@pytest.mark.parametrize("kind", BY_KIND)
def test_the_wire_has_not_changed_without_a_new_version(kind: type[Message]) -> None:
    assert encode(EXAMPLES[kind]) == golden(VERSION)[kind.__name__]


@pytest.mark.parametrize("version", [VERSION - 1, VERSION + 1, -1, 2**40])
def test_another_version_is_fate(version: int) -> None:
    assert fate(framed([version, *content(EXAMPLES[CoopDecline])[1:]])) == "version"


def test_a_frame_over_the_limit_is_neither_sent_nor_read() -> None:
    frame = encode(EXAMPLES[PilotBlock])
    assert encode(EXAMPLES[PilotBlock], max_bytes=len(frame)) == frame
    assert encode(decode(frame, max_bytes=len(frame))) == frame
    assert fate(frame, max_bytes=len(frame) - 1) == "oversized"
    with pytest.raises(WireError, match="of a frame") as caught:
        encode(EXAMPLES[PilotBlock], max_bytes=len(frame) - 1)
    assert caught.value.reason == "oversized"


def test_without_a_limit_of_its_own_a_node_reads_64_kib() -> None:
    assert MAX_FRAME == 2**16
    assert fate(bytes(2**16 + 1)) == "oversized"
    assert fate(bytes(2**16)) == "checksum"


# --- the checksum holds, but the content is hostile --------------------------------------------------------

BODIES = {
    "nothing in it": b"\xc0",
    "an integer": b"\x05",
    "a string": msgpack.packb("hello"),
    "a map": msgpack.packb({"version": VERSION}),
    "an empty array": b"\x90",
    "a version only": msgpack.packb([VERSION]),
    "an array that claims 2^32 - 1 entries": b"\xdd\xff\xff\xff\xff",
    "an array that claims 65535 entries": b"\xdc\xff\xff",
    "a map that claims 2^32 - 1 entries": b"\xdf\xff\xff\xff\xff",
    "a string that claims 4 GiB": b"\xdb\xff\xff\xff\xff",
    "bytes that claim 4 GiB": b"\xc6\xff\xff\xff\xff",
    "an extension that claims 4 GiB": b"\xc9\xff\xff\xff\xff\x01",
    "an array of 65 entries": msgpack.packb([VERSION, 5, *range(63)]),
    "a map of 17 entries": msgpack.packb([VERSION, 5, 0, {str(key): 0 for key in range(17)}]),
    "a map with integer keys": msgpack.packb([VERSION, 5, 0, {1: 0}]),
    "a map with an array for a key": b"\x94%c\x05\x00\x81\x90\x00" % VERSION,
    "a string of 65 bytes": msgpack.packb([VERSION, 0, 0, 0, 65 * "x"]),
    "a string that is not UTF-8": b"\x97%c\x00\x00\x00\xa2\xff\xfe\x00\x00" % VERSION,
    "an extension": b"\x94%c\x05\x00\xd4\x05\x00" % VERSION,
    "an empty extension": b"\x94%c\x05\x00\xc7\x00\x05" % VERSION,
    "a timestamp": b"\x94%c\x05\x00\xd6\xff\x00\x00\x00\x00" % VERSION,
    "a byte that msgpack never uses": b"\xc1",
    "arrays in arrays without end": b"\x91" * 60_000,
    "maps in maps without end": b"\x81\xa1a" * 20_000,
    "something after the message": msgpack.packb([VERSION, 5, 0, 0]) + b"\x00",
    "half a message": msgpack.packb([VERSION, 5, 0, 0])[:-1],
    "a version that is true": msgpack.packb([True, 5, 0, 0]),
    "a version that is a float": msgpack.packb([float(VERSION), 5, 0, 0]),
    "a tag that is false": msgpack.packb([VERSION, False, 0, 0, ""]),
    "a tag that is a float": msgpack.packb([VERSION, 5.0, 0, 0]),
    "a tag that is a string": msgpack.packb([VERSION, "CoopDecline", 0, 0]),
    "the first tag that there is not": msgpack.packb([VERSION, len(KINDS), 0]),
    "a negative tag": msgpack.packb([VERSION, -1, 0]),
    "a tag of 64 bits": msgpack.packb([VERSION, 2**64 - 1, 0]),
    "a field too few": msgpack.packb([VERSION, 5, 0]),
    "a field too many": msgpack.packb([VERSION, 5, 0, 0, 0]),
}


@pytest.mark.parametrize("name", BODIES)
def test_hostile_msgpack_is_malformed(name: str) -> None:
    assert fate(sealed(BODIES[name])) == "malformed"


def test_more_endpoints_than_a_frame_may_list_are_malformed() -> None:
    neighbours = tuple(range(65))
    crowded = Association(0, (), [], [], neighbours, 65 * ("",), np.ones(65))
    assert fate(encode(crowded)) == "malformed"
    assert isinstance(fate(encode(Association(0, (), [], [], neighbours[:64], 64 * ("",), np.ones(64)))), Association)


NO_ID = (-1, MAX_ID + 1, 2**63, True, False, 1.0, "1", b"\x01", None, [], {})
NO_SLOT = (-1, MAX_SLOT + 1, 2**64 - 1, True, 0.0, "0", None, [0])
NO_IDS = (
    [0, 2],  # ids travel packed
    "02",
    None,
    3,
    b"\x00",  # half an id
    b"\x01\x00\x01\x00",  # one id twice
    b"\xff\xff",  # NOBODY
    {},
)
NO_REAL = (float("nan"), float("inf"), -1.001 * MAX_MAGNITUDE, 1e300, 0, True, "0", None, b"")
NO_TEXT = (65 * "x", 33 * "é", "two\nlines", "\x00", b"bytes", 5, None, ["a"])
HOSTILE: list[tuple[type[Message], str, tuple[Any, ...]]] = [
    (CoopDecline, "ap", NO_ID),
    (Hello, "ap", NO_ID),
    (CoopDecline, "slot", NO_SLOT),
    (Hello, "incarnation", NO_SLOT),
    (SlotReport, "pairs", NO_SLOT),
    (CoopRequest, "ues", NO_IDS),
    (Transmission, "partners", NO_IDS),
    (SlotReport, "silent", NO_IDS),
    (GainReport, "gain", NO_REAL),
    (ApReport, "loss", NO_REAL),
    (SelfReport, "ap", NO_ID),
    (Hello, "endpoint", NO_TEXT),
    (Association, "endpoints", (None, 5, b"ab", [5, 6], ["a"], ["a", "b", "c"], [["a"], "b"], ["a", 65 * "x"], "ab")),
]


@pytest.mark.parametrize(
    ("kind", "name", "raw"),
    [
        pytest.param(kind, name, raw, id=f"{kind.__name__}.{name}={raw!r:.24}")
        for kind, name, values in HOSTILE
        for raw in values
    ],
)
def test_a_field_of_a_wrong_type_or_value_is_malformed(kind: type[Message], name: str, raw: object) -> None:
    assert fate(with_field(kind, name, raw)) == "malformed"


def array(shape: object, values: Any, dtype: str = "<f8") -> list[object]:
    return [shape, np.array(values, dtype).tobytes()]


NAN, INF = float("nan"), float("inf")
NO_ARRAY = {
    "a list of numbers": [1.0, 2.0],
    "no array at all": None,
    "bytes without a shape": bytes(16),
    "three parts": [[2], bytes(16), 0],
    "one part": [[2]],
    "a shape of a wrong rank": array([2, 1], [1, 1]),
    "no shape": array([], [1, 1]),
    "a shape that is a number": array(2, [1, 1]),
    "a shape of booleans": array([True], [1]),
    "a shape of floats": array([2.0], [1, 1]),
    "a negative shape": array([-2], [1, 1]),
    "a shape too large for the bytes": array([3], [1, 1]),
    "a shape too small for the bytes": array([1], [1, 1]),
    "a shape of 2^63": [[2**63], b""],
    "half an element": [[2], bytes(15)],
    "a string for bytes": [[2], 16 * "x"],
    "a map": {"a": 1, "b": bytes(16)},
    "not a number": array([2], [1, NAN]),
    "infinity": array([2], [INF, 1]),
    "minus infinity": array([2], [1, -INF]),
    "above what any number on the wire is": array([2], [1, 1.001 * MAX_MAGNITUDE]),
    "below what any number on the wire is": array([2], [-1.001 * MAX_MAGNITUDE, 1]),
}


@pytest.mark.parametrize("name", NO_ARRAY)
def test_an_array_that_is_none_is_malformed(name: str) -> None:
    assert fate(with_field(SlotFeedback, "rate", NO_ARRAY[name])) == "malformed"


@pytest.mark.parametrize("bad", [complex(NAN, 0), complex(0, NAN), complex(INF, 0), complex(0, -INF), 2e18, 2e18j])
def test_a_complex_array_must_be_finite_in_both_parts(bad: complex) -> None:
    values = [1, 2, bad, 4]
    assert fate(with_field(PilotBlock, "y", array([1, 2, 2], values, "<c8"))) == "malformed"


@pytest.mark.parametrize("shape", [[0, 2**63, 1], [2**64 - 1, 0, 0], [2**62, 2**62, 0], [2**32, 2**32, 0]])
def test_a_huge_shape_over_no_bytes_harms_nobody(shape: list[int]) -> None:
    message = fate(with_field(PilotBlock, "y", [shape, b""]))
    assert message == "malformed" or (isinstance(message, PilotBlock) and message.y.size == 0)


NO_SERVICE = np.zeros((0, 0), int), np.zeros(0, int)
OF_TWO = np.zeros((2, 0), int), np.zeros((2, 0)), np.zeros((0, 0), int), np.zeros((0, 0, 0)), *NO_SERVICE
FITTING: dict[str, tuple[Callable[..., Message], tuple[Any, ...]]] = {
    "fewer endpoints than neighbours": (Association, (0, (), [1.0], [0], (1, 2), ("a",), [1.0, 1.0])),
    "fewer powers than neighbours": (Association, (0, (), [1.0], [0], (1, 2), ("a", "b"), [1.0])),
    "a stranger that is away": (partial(Association, away=(2,)), (0, (), [1.0], [0], (1,), ("a",), [1.0])),
    "fewer pilots than beta": (Association, (0, (), [1.0, 1.0], [0], (), (), [])),
    "a served UE without beta": (Association, (0, (2,), [1.0, 1.0], [0, 1], (), (), [])),
    "a served UE out of reach": (Association, (0, (0,), [1.0], [0], (), (), [], (), (), (1,))),
    "more betas than UEs in reach": (Association, (0, (), [1.0, 1.0], [0, 1], (), (), [], (), (), (1,))),
    "UEs in reach in any order": (Association, (0, (), [1.0, 1.0], [0, 1], (), (), [], (), (), (2, 1))),
    "a negative beta": (Association, (0, (0,), [-1.0], [0], (), (), [])),
    "negative interference": (Association, (0, (), [1.0], [0], (1,), ("a",), [-1.0])),
    "a negative rate": (SlotFeedback, (0, [-1.0], [1.0], np.zeros((1, 0)), np.zeros((1, 0)))),
    "a negative rate alone": (SlotFeedback, (0, [1.0], [-1.0], np.zeros((1, 0)), np.zeros((1, 0)))),
    "negative interference reported": (SlotFeedback, (0, [1.0], [1.0], [[1]], [[-1.0]])),
    "hearers of fewer streams than UEs": (SlotFeedback, (0, [1.0] * 2, [1.0] * 2, *OF_TWO, [1], [0], [40])),
    "fewer levels than hearers": (SlotFeedback, (0, [1.0] * 2, [1.0] * 2, *OF_TWO, [1, 1], [0, 1], [40])),
    "more hearers than a stream has": (SlotFeedback, (0, [1.0] * 2, [1.0] * 2, *OF_TWO, [1, 0], [0, 1], [40, 40])),
    "a stream heard twice at a UE": (SlotFeedback, (0, [1.0] * 2, [1.0] * 2, *OF_TWO, [0, 2], [3, 3], [40, 50])),
    "links of negative weight": (LinkState, (0, 0, 1, (1,), [[1, 2]], [-1.0], [[1, 0]])),
    "more columns than UEs": (ChannelBlock, (0, 0, (1,), np.zeros((2, 4, 2)), [0.0], np.zeros((0, 4, 4)))),
    "more powers than UEs": (ChannelBlock, (0, 0, (1,), np.zeros((2, 4, 1)), [0.0, 0.0], np.zeros((0, 4, 4)))),
    "a negative power": (ChannelBlock, (0, 0, (1,), np.zeros((2, 4, 1)), [-1.0], np.zeros((0, 4, 4)))),
    "a covariance of fewer antennas": (ChannelBlock, (0, 0, (1,), np.zeros((2, 4, 1)), [0.0], np.zeros((2, 3, 3)))),
    "more rows than UEs": (Transmission, (0, 0, (1,), np.zeros((2, 2, 4)), np.zeros((2, 2, 4)), ())),
    "a baseline of another shape": (Transmission, (0, 0, (1,), np.zeros((2, 1, 4)), np.zeros((2, 1, 3)), ())),
    "rates for different UEs": (SlotFeedback, (0, [1.0], [1.0, 1.0], np.zeros((1, 0)), np.zeros((1, 0)))),
    "fewer powers than interferers": (SlotFeedback, (0, [1.0], [1.0], np.zeros((1, 2)), np.zeros((1, 1)))),
    "a block of a cluster with more columns than UEs": (
        ClusterBlock,
        (0, 0, 1, (1,), np.zeros((2, 4, 2)), [0.0], np.zeros((0, 4, 4))),
    ),
    "a round before the first": (LinkState, (0, 0, 0, (1,), [[1, 2]], [1.0], [[1, 0]])),
    "common links before the first round": (CommonLinks, (0, 0, 0, [[0, 1, 2]])),
    "common links of no UE": (CommonLinks, (0, 0, 1, [[1, 2]])),
    "links of three ends": (LinkState, (0, 0, 1, (1,), [[1, 2, 3]], [1.0], [[1, 0]])),
    "links without a weight": (LinkState, (0, 0, 1, (1,), [[1, 2], [1, 3]], [1.0], [[1, 0]])),
    "links of an AP without an entry": (LinkState, (0, 0, 1, (1,), [[2, 1]], [1.0], [[1, 0]])),
    "service of an AP without an entry": (LinkState, (0, 0, 1, (1,), [[1, 2]], [1.0], [[2, 0]])),
    "fewer reports than UEs": (SlotFeedback, (0, [1.0, 1.0], [1.0, 1.0], np.zeros((1, 2)), np.zeros((1, 2)))),
}


@pytest.mark.parametrize("name", FITTING)
def test_fields_that_do_not_fit_each_other_make_no_message(name: str) -> None:
    kind, fields = FITTING[name]
    with pytest.raises(MessageError):
        kind(*fields)


MISMADE: dict[str, tuple[Callable[..., Message], tuple[Any, ...]]] = {
    "a negative id": (CoopDecline, (0, -1)),
    "an id of numpy": (CoopDecline, (0, np.int64(1))),
    "true for an id": (CoopDecline, (0, True)),
    "a negative slot": (Deadline, (-1,)),
    "a slot beyond the last": (Deadline, (MAX_SLOT + 1,)),
    "an id twice": (CoopRequest, (0, 0, (1, 1))),
    "NOBODY asked": (CoopRequest, (0, 0, (NOBODY,))),
    "ids that are no tuple": (CoopRequest, (0, 0, 5)),
    "no ids": (CoopRequest, (0, 0, None)),
    "text too long": (Hello, (0, 0, 65 * "x")),
    "text that is no UTF-8": (Hello, (0, 0, "\ud800")),
    "one text for several": (Association, (0, (), [], [], (1, 2), "ab", [1.0, 1.0])),
    "a gain that is not a number": (GainReport, (0, 0, NAN)),
    "an integer for a gain": (GainReport, (0, 0, 1)),
    "an array of a wrong rank": (PilotBlock, (0, 0, np.zeros((2, 2)))),
    "a number for an array": (Association, (0, (), 1.0, [0], (), (), [])),
    "a ragged array": (Association, (0, (), [[1.0], [1.0, 2.0]], [0], (), (), [])),
    "words for an array": (Association, (0, (), ["a"], [0], (), (), [])),
    "NaN in an array": (PilotBlock, (0, 0, np.full((1, 1, 1), NAN))),
    "infinity in an array": (PilotBlock, (0, 0, np.full((1, 1, 1), 1j * INF))),
    "a number too large in an array": (PilotBlock, (0, 0, np.full((1, 1, 1), 1.1 * MAX_MAGNITUDE))),
    "an index that 16 bits cannot hold": (Association, (0, (), [1.0], np.array([70_000]), (), (), [])),
    "a negative index": (Association, (0, (), [1.0], np.array([-1]), (), (), [])),
    "a fraction for an index": (Association, (0, (), [1.0], np.array([0.5]), (), (), [])),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", MISMADE)
def test_a_malformed_message_cannot_be_made(name: str) -> None:
    kind, fields = MISMADE[name]
    with pytest.raises(MessageError):
        kind(*fields)


# --- fuzz --------------------------------------------------------------------------------------------------


def goes_round(frame: bytes) -> bool:
    """Whether there is a message in a frame; if so, it must go round."""
    message = fate(frame)
    if isinstance(message, str):
        assert message in {"malformed", "version"}
        return False
    assert encode(decode(encode(message))) == encode(message)
    return True


def mutated(body: bytes, rng: np.random.Generator) -> bytes:
    """The body with a few bytes changed, cut out, doubled or put in."""
    text = bytearray(body)
    for _ in range(rng.integers(1, 5)):
        at, length = int(rng.integers(len(text) + 1)), int(rng.integers(1, 9))
        match rng.integers(4):
            case 0:
                text[at : at + 1] = rng.bytes(1)
            case 1:
                del text[at : at + length]
            case 2:
                text[at:at] = text[at : at + length]
            case _:
                text[at:at] = rng.bytes(length)
    return bytes(text)


def test_mutated_frames_with_a_good_checksum_are_messages_or_fate() -> None:
    rng = np.random.default_rng(0)
    bodies = [frame[4:] for frame in golden(VERSION).values()]
    there = [goes_round(sealed(mutated(bodies[n % len(bodies)], rng) or b"\xc0")) for n in range(15_000)]
    assert 500 < sum(there) < 14_500  # both happen, or the fuzz tests nothing


def test_fields_swapped_for_anything_msgpack_can_say_are_messages_or_fate() -> None:
    rng = np.random.default_rng(1)
    oddities: list[Any] = [None, True, -1, 0, 2**40, 2**64 - 1, 0.5, NAN, "", "x", b"", bytes(16), [], [[], b""]]
    oddities += [[[2], bytes(16)], [[0], b""], [[0, 0], b""], [[1, 1, 1], bytes(8)], {}, {"a": b"", "b": b""}]
    oddities += [[b"\x01", bytes(8)], [[2**62, 0], b""], msgpack.ExtType(5, b""), [[[[[]]]]], b"\x01\x00\x02\x00"]
    kinds = list(KINDS)
    there = []
    for n in range(6_000):
        fields = content(EXAMPLES[kinds[n % len(kinds)]])
        for _ in range(rng.integers(1, 3)):
            fields[int(rng.integers(1, len(fields)))] = oddities[rng.integers(len(oddities))]
        there.append(goes_round(framed(fields)))
    assert 100 < sum(there) < 5_900


@pytest.mark.parametrize("name", BOMBS)
def test_a_frame_made_to_be_expensive_takes_at_most_a_megabyte_and_five_milliseconds(name: str) -> None:
    """Of everything that fits into a frame, whether there is a message in it or not."""
    for frame in BOMBS[name]:
        tracemalloc.start()
        try:
            fate(frame)
            assert tracemalloc.get_traced_memory()[1] <= 2**20
        finally:
            tracemalloc.stop()
        assert min(timeit.repeat(lambda frame=frame: fate(frame), number=1, repeat=5)) <= 5e-3  # type: ignore[misc]


def test_memory_grows_no_faster_than_the_frame() -> None:
    """Where longer frames are allowed, an array of empty arrays must not take 60 times its length."""
    frame = sealed(b"\xdc\x00\x40" + 64 * (b"\xdc\x00\x40" + 64 * (b"\xdc\x00\x40" + 64 * b"\x90")))
    tracemalloc.start()
    try:
        assert fate(frame, max_bytes=2**20) == "malformed"
        assert tracemalloc.get_traced_memory()[1] < 4 * len(frame)
    finally:
        tracemalloc.stop()


def test_no_more_ids_are_read_than_other_frames_have_room_for() -> None:
    fits = encode(CoopRequest(0, 0, tuple(range(MAX_FRAME // 10))))
    assert isinstance(fate(fits), CoopRequest)
    assert fate(encode(CoopRequest(0, 0, tuple(range(MAX_FRAME // 10 + 1))))) == "malformed"
