"""Hostile frames against nodes in the middle of a run: what each costs, and whether all are counted.

Frames of a run, mutated in many ways, and frames made to be expensive go to an access point, a channel server and a
coordinator as they are at some moment of that run. No frame may raise anything, go uncounted, take more than 1 MB, or
more than 5 ms to be read or to be refused; exit 1 if one does. What a node does with a frame that it takes is told,
too: the work of a whole slot, if no other was missing. A frame that seems to be the slowest is timed three more times,
with the same frames before it, and the best counts. Memory is the peak above what there was before, of every frame made
to be expensive and of every 40th burst of mutated ones.
Example: python -m benchmarks.frames --frames 1000000
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import copy
import time
import traceback
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgpack
import numpy as np

from apnode.config import Config
from apnode.protocol.fields import Array, Message, specs
from apnode.protocol.limits import largest_frame
from apnode.protocol.messages import KINDS, ApReport, Deadline, FaultFired, Hello, Resend, SlotReport
from apnode.protocol.node import DROPS, Node
from apnode.protocol.wire import MAX_FRAME, WireError, decode, encode
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork

LIMIT_S = 5e-3
LIMIT_BYTES = 2**20
BURST = 100  # frames to a node before a fresh copy of it is taken
TRACED = 40  # bursts from one whose memory is traced to the next
TIMED = ("refused", "read", "taken")  # altogether; as far as decoding goes; altogether
NEAR = 80  # frames before and after a moment that are mutated
SMALL = ("radio.num_aps=7", "radio.num_ues=4", "radio.area_m=250", "run.blocks_per_slot=2", "run.episodes=2")
ASKING = (*SMALL, "run.slots_per_episode=3", "cooperation.policy=random", "reward.scope=neighbourhood")
VARIANTS = {
    "mutual": ASKING,
    "directed": (*ASKING, "cooperation.cluster=directed", "cooperation.acceptance=all"),
    "components": (*ASKING, "cooperation.cluster=components", "cooperation.max_cluster_aps=3"),
    "serving": (*ASKING, "cooperation.cluster=serving", "precoding.joint=selective", "precoding.power=average"),
    "mmse": (*ASKING, "precoding.alone=mmse", "precoding.joint=selective", "cooperation.policy=always"),
    "learning": (*ASKING, "cooperation.policy=ddqn", "learning.batch_size=2", "learning.hidden=[8]"),
}
UNSEEN = (Deadline(3), FaultFired(3, "ap/1", "kill"), Resend(2), Hello(1, 1, "ap/1", 3, 2))  # in a run without faults


@dataclass(frozen=True)
class Moment:
    """A node in the middle of a run, and frames that are under way about then."""

    node: Node
    config: Config
    frames: Sequence[bytes]

    def fresh(self) -> Node:
        """A copy of the node, to be done with as one likes."""
        return copy.deepcopy(self.node, {id(self.config): self.config})


def moments(overrides: Sequence[str], every: int) -> list[Moment]:
    """A run of a small network at every so many frames: the AP about to receive one, and the two servers."""
    config = load("demo", overrides)
    network = LocalNetwork(config)
    sends, nodes = [], []
    for number, send in enumerate(network.frames()):
        sends.append(send)
        if number % every == 0:
            of_ap = [ap for ap in network.aps if ap.address == send.to] or network.aps[:1]
            nodes += [(number, copy.deepcopy(node)) for node in (network.channel, network.coordinator, *of_ap)]
    rare = [*one_of_each_kind([send.frame for send in sends]).values(), *map(encode, UNSEEN)]
    met = []
    for number, node in nodes:
        near = sends[max(0, number - NEAR) : number + NEAR]
        fitting = [send.frame for send in near if send.to == node.address]
        met.append(Moment(node, config, [*(send.frame for send in near), *4 * fitting, *rare]))
    return met


def one_of_each_kind(frames: Sequence[bytes]) -> dict[type[Message], bytes]:
    """By kind, a frame of those given."""
    return {type(decode(frame)): frame for frame in frames}


def sealed(body: bytes) -> bytes:
    """A frame whose checksum holds, whatever is in it."""
    return zlib.crc32(body).to_bytes(4, "big") + body


# --- mutations ---------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
NUMBERS = (NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 1e18, -1e18, 1e17, 1e-18, 5e-324, 1e300)
INTEGERS = (-1, 0, 1, 2, 3, 4, 5, 6, 7, 2**16 - 2, 2**16 - 1, 2**31, 2**40, 2**40 + 1, 2**63, 2**64 - 1, -(2**63))
ODDITIES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "\x00", 64 * "é", b"", b"\x01", bytes(16), 0.5, NAN, [], {}, [[]], [[], b""]),
    *([[2], bytes(16)], [[0], b""], [[0, 0], b""], [[1, 1, 1], bytes(8)], [[2**62, 0], b""], [[-1], b""], {"a": b""}),
    *({"": {"": {}}}, [[[[[]]]]], [b"\x01", bytes(8)], msgpack.ExtType(5, b""), msgpack.Timestamp(0), [None] * 64),
)
LENGTHS = (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9")  # what claims 4 GiB: array, map, string, bytes, extension
Random = np.random.Generator


def flipped(body: bytes, rng: Random) -> bytes:
    """A few bits are others."""
    text = bytearray(body)
    for at in rng.integers(8 * len(text), size=rng.integers(1, 9)).tolist():
        text[at // 8] ^= 1 << at % 8
    return bytes(text)


def cut(body: bytes, rng: Random) -> bytes:
    """Some or all of it is missing at the end."""
    return body[: rng.integers(len(body))]


def extended(body: bytes, rng: Random) -> bytes:
    """Something is put in: noise, or a part that is there already."""
    at = int(rng.integers(len(body) + 1))
    more = rng.bytes(int(rng.integers(1, 64))) if rng.random() < 0.5 else body[: rng.integers(len(body))]
    return body[:at] + more + body[at:]


def swapped(content: list[Any], rng: Random) -> bytes:
    """One field or two are anything that msgpack can say."""
    for _ in range(rng.integers(1, 3)):
        content[rng.integers(len(content))] = ODDITIES[rng.integers(len(ODDITIES))]
    return packed(content)


def claimed(content: list[Any], rng: Random) -> bytes:
    """A field, or all from one on, gives way to something that claims to be longer than the frame."""
    at = int(rng.integers(len(content)))
    lie = LENGTHS[rng.integers(len(LENGTHS))] + b"\xff\xff\xff\xff"[: rng.integers(5)] + rng.bytes(int(rng.integers(4)))
    rest = content[at + 1 :] if rng.random() < 0.5 else []
    return packed(content)[:1] + b"".join(map(packed, content[:at])) + lie + b"".join(map(packed, rest))


def nested(content: list[Any], rng: Random) -> bytes:
    """A field lies under many arrays or maps."""
    at, depth = int(rng.integers(len(content))), int(10 ** rng.uniform(0, 4))
    wrapped = (b"\x91", b"\x81\xa1a", b"\xdc\x00\x40")[rng.integers(3)] * depth + packed(content[at])
    return (
        packed(content)[:1] + b"".join(map(packed, content[:at])) + wrapped + b"".join(map(packed, content[at + 1 :]))
    )


def renumbered(content: list[Any], rng: Random) -> bytes:
    """Floats of a field, alone or in an array, become zero, huge, infinite or none."""
    fields = [n for n, value in enumerate(content) if isinstance(value, (float, list))]
    if fields:
        at = fields[rng.integers(len(fields))]
        number = NUMBERS[rng.integers(len(NUMBERS))]
        content[at] = number if isinstance(content[at], float) else _with_numbers(content[at], number, rng)
    return packed(content)


def _with_numbers(value: list[Any], number: float, rng: Random) -> Any:
    if len(value) != 2 or not isinstance(value[1], bytes) or len(value[1]) % 4 or not value[1]:
        return [number]
    width = "<f4" if len(value[1]) % 8 or rng.random() < 0.5 else "<f8"
    array = np.frombuffer(value[1], width).copy()
    with np.errstate(all="ignore"):
        match rng.integers(3):
            case 0:
                array[rng.integers(len(array))] = number
            case 1:
                array[:] = number
            case _:
                array *= number
    return [value[0], array.tobytes()]


def renamed(content: list[Any], rng: Random) -> bytes:
    """Integers, ids and shapes become others; often such that there is still a message, but one that nobody sent."""
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(2, len(content))) if len(content) > 2 else 0
        value = content[at]
        match value:
            case bool():
                continue
            case int():
                near = rng.random() < 0.5
                moved = max(-(2**63), min(2**64 - 1, value + int(rng.integers(-2, 3))))
                content[at] = moved if near else INTEGERS[rng.integers(len(INTEGERS))]
            case bytes():
                ids = [value[n : n + 2] for n in range(0, len(value), 2)] + [bytes([rng.integers(9), 0])]
                content[at] = b"".join(ids[n] for n in rng.permutation(len(ids))[: rng.integers(len(ids) + 1)])
            case [[*shape], bytes(raw)] if shape:
                content[at] = [[shape[n] for n in rng.permutation(len(shape))], raw]
            case _:
                continue
    return packed(content)


def relabelled(content: list[Any], rng: Random) -> bytes:
    """Of another version, or of another kind."""
    content[rng.integers(2)] = int(rng.integers(-1, len(KINDS) + 1))
    return packed(content)


def packed(content: Any) -> bytes:
    """As msgpack."""
    body: bytes = msgpack.packb(content, use_bin_type=True)
    return body


ON_BYTES: dict[str, Callable[[bytes, Random], bytes]] = {"bits flipped": flipped, "cut": cut, "extended": extended}
ON_FIELDS: dict[str, Callable[[list[Any], Random], bytes]] = {
    "types swapped": swapped,
    "lengths claimed": claimed,
    "nested deep": nested,
    "numbers changed": renumbered,
    "ids, slots, shapes": renamed,
    "version or kind": relabelled,
}
WAYS = (
    *ON_BYTES,
    *(f"{way}, sealed" for way in ON_BYTES),
    "spliced, sealed",
    *(f"{w}, sealed" for w in ON_FIELDS),
    "none",
)


def mutated(frames: Sequence[bytes], way: str, rng: Random) -> bytes:
    """One of the frames, mutated in one of WAYS."""
    frame = frames[int(rng.integers(len(frames)))]
    change = way.removesuffix(", sealed")
    if change in ON_BYTES:
        return ON_BYTES[change](frame, rng) if change == way else sealed(ON_BYTES[change](frame[4:], rng))
    if change in ON_FIELDS:
        return sealed(ON_FIELDS[change](msgpack.unpackb(frame[4:]), rng))
    if change == "spliced":
        body, other = frame[4:], frames[int(rng.integers(len(frames)))][4:]
        return sealed(body[: rng.integers(len(body))] + other[rng.integers(len(other)) :])
    return frame


# --- frames made to be expensive ---------------------------------------------------------------------------

UNITS = {  # of which there are as many as fit, three arrays of 64 deep
    "empty arrays": b"\x9f" + 15 * b"\x90",
    "empty maps": b"\x80",
    "empty extensions": b"\xc7\x00\x05",
    "strings": b"\xa2ab",
    "bytes": b"\xc4\x02ab",
    "floats": b"\xca\x00\x00\x00\x01",
    "large integers": b"\xcf" + 8 * b"\xff",
}


def bombs(frames: Sequence[bytes], limit: int = MAX_FRAME) -> Iterator[tuple[str, bytes]]:
    """Frames that are about as long as they may be, and expand in memory or invite to much work, each with its name."""
    for name, unit in UNITS.items():
        yield f"{name} in arrays", sealed(_filled(unit, limit))
    yield "arrays in arrays", sealed(b"\x91" * (limit - 4))
    yield "arrays of 64 in arrays of 64", sealed(b"\xdc\x00\x40" * ((limit - 4) // 3))
    yield "maps in maps", sealed(b"\x81\xa1a" * ((limit - 4) // 3))
    yield "nothing", bytes(limit)
    yield "too long", bytes(limit + 1)
    for kind, frame in one_of_each_kind(frames).items():
        content = msgpack.unpackb(frame[4:])
        for at, (name, spec) in enumerate(specs(kind).items(), start=2):
            for unit in (UNITS["empty arrays"], UNITS["strings"]):
                fields = [
                    *map(packed, content[:at]),
                    _filled(unit, limit - len(frame) - 8),
                    *map(packed, content[at + 1 :]),
                ]
                yield f"{kind.__name__}.{name}: arrays", sealed(_headed(fields))
            for way, grown in _grown(spec, content[at], limit - len(frame) - 8):
                yield f"{kind.__name__}.{name}: {way}", sealed(packed([*content[:at], grown, *content[at + 1 :]]))
        if (tiled := _tiled(kind, content, limit)) is not None:
            yield f"{kind.__name__}: rows again and again", sealed(packed(tiled))


def _headed(fields: Sequence[bytes]) -> bytes:
    return b"\xdc" + len(fields).to_bytes(2, "big") + b"".join(fields)


def _filled(unit: bytes, limit: int) -> bytes:
    """An array of arrays of arrays of 64 units that is at most so long."""
    inner = b"\xdc\x00\x40" + 64 * unit
    middle = b"\xdc\x00\x40" + 64 * inner
    return _headed([middle] * min(64, (limit - 3) // len(middle)) or [inner] * ((limit - 3) // len(inner)))


def _grown(spec: Any, value: Any, room: int) -> Iterator[tuple[str, Any]]:
    """A field with as much in it as there is room for."""
    if isinstance(spec, Array):
        dtype, shape = np.dtype(spec.dtype), [max(1, length) for length in value[0]]
        for axis in {0, spec.ndim - 1}:
            others = int(np.prod(shape)) // shape[axis]
            long = [*shape[:axis], room // (dtype.itemsize * others), *shape[axis + 1 :]]
            many = np.arange(np.prod(long)).astype(dtype)
            yield f"axis {axis} long", [long, many.tobytes()]
            yield f"axis {axis} long, zeros", [long, bytes(many.nbytes)]
    elif spec == "ids":
        yield "as many as fit", np.arange(room // 2, dtype="<u2").tobytes()
        for per_id in (8, 10, 11, 16):
            yield f"one in {per_id} bytes", np.arange(room // per_id, dtype="<u2").tobytes()
    elif spec == "endpoints":
        yield "64 of 64", 64 * [64 * "x"]
        yield "many", (room // 2) * ["x"]


def _tiled(kind: type[Message], content: list[Any], limit: int) -> list[Any] | None:
    """The rows of all arrays repeated as often as fits: as valid as before, if only their number must agree."""
    arrays = [at for at, spec in enumerate(specs(kind).values(), start=2) if isinstance(spec, Array)]
    times = (limit - 1024) // (sum(len(content[at][1]) for at in arrays) or limit)
    if times < 2:
        return None
    tiled = list(content)
    for at in arrays:
        shape, raw = content[at]
        tiled[at] = [[shape[0] * times, *shape[1:]], raw * times]
    return tiled


# --- what they cost ----------------------------------------------------------------------------------------


@dataclass
class Findings:
    """What frames have cost, and what became of them."""

    frames: Counter[str] = field(default_factory=Counter)  # by name
    taken: Counter[str] = field(default_factory=Counter)  # of these, those that were not dropped
    fates: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, tuple[float, str]] = field(default_factory=lambda: dict.fromkeys(TIMED, (0.0, "")))  # [s]
    largest: tuple[int, str] = (0, "")  # [B]
    broken: Counter[str] = field(default_factory=Counter)

    def add(self, moment: Moment, burst: Sequence[tuple[str, bytes]], traced: bool) -> None:
        """Give a burst of named frames to a fresh copy of the node."""
        node = moment.fresh()
        before, reported = fates(node), Counter[str]()
        for number, (name, frame) in enumerate(burst):
            try:
                seconds, size, out = self._received(node, frame, traced)
            except Exception:  # noqa: BLE001  whatever it is, it must not be
                self.broken[f"{type(node).__name__}, {name}: {traceback.format_exc(limit=-3)}"] += 1
                return
            if not traced:
                handled = partial(self._last_of, moment, burst[: number + 1])
                self._time("taken" if node.took else "refused", seconds, handled, (node, name, frame))
                if node.took:
                    self._time("read", _reading(frame), partial(_reading, frame), (node, name, frame))
            if size > self.largest[0]:
                self.largest = size, _what(node, name, frame)
            self.frames[name] += 1
            self.taken[name] += node.took
            for send in () if out and _is_resend(frame) else out:  # what it repeats is counted already
                report = decode(send.frame, largest_frame(moment.config))
                if isinstance(report, (ApReport, SlotReport)):
                    reported += fates(report)
        after = fates(node) + reported + Counter(kept=node.kept)
        after.subtract(before + Counter(kept=moment.node.kept))
        if after.total() != len(burst):
            self.broken[f"{type(node).__name__}: {after.total()} of {len(burst)} frames counted"] += 1
        self.fates.update(after)

    def _time(self, what: str, seconds: float, again: Callable[[], float], frame: tuple[Node, str, bytes]) -> None:
        if seconds > self.slowest[what][0]:
            best = min(seconds, *(again() for _ in range(3)))
            self.slowest[what] = max(self.slowest[what], (best, _what(*frame)))

    def _received(self, node: Node, frame: bytes, traced: bool) -> tuple[float, int, list[Any]]:
        size = 0
        if traced:
            tracemalloc.start()
        began = time.perf_counter()
        out = node.receive(frame)
        seconds = time.perf_counter() - began
        if traced:
            size = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return seconds, size, out

    def _last_of(self, moment: Moment, burst: Sequence[tuple[str, bytes]]) -> float:
        """The time that the last frame of a burst takes [s]."""
        node = moment.fresh()
        return [self._received(node, frame, False)[0] for _, frame in burst][-1]

    @property
    def holds(self) -> bool:
        slowest = max(self.slowest["read"], self.slowest["refused"])
        return not self.broken and slowest[0] <= LIMIT_S and self.largest[0] <= LIMIT_BYTES


def fates(counts: Node | ApReport | SlotReport) -> Counter[str]:
    """Frames accepted, and dropped by reason, since the last report."""
    return Counter(accepted=counts.accepted, **dict(zip(DROPS, counts.dropped.tolist(), strict=True)))


def _is_resend(frame: bytes) -> bool:
    try:
        return isinstance(decode(frame), Resend)
    except WireError:
        return False


def _reading(frame: bytes) -> float:
    """The time that it takes to read a frame [s]."""
    began = time.perf_counter()
    decode(frame)
    return time.perf_counter() - began


def _what(node: Node, name: str, frame: bytes) -> str:
    try:
        return f"{type(node).__name__}, {name}, {type(decode(frame)).__name__}"
    except WireError as error:
        return f"{type(node).__name__}, {name}, {error}"


def with_mutations(frames: int, seed: int = 0, every: int = 20) -> Findings:
    """Give nodes so many mutated frames."""
    rng, findings = np.random.default_rng(seed), Findings()
    met = [moment for overrides in VARIANTS.values() for moment in moments(overrides, every)]
    for number in range(frames // BURST):
        moment = met[rng.integers(len(met))]
        ways = [WAYS[n] for n in rng.integers(len(WAYS), size=BURST)]
        burst = [(way, mutated(moment.frames, way, rng)) for way in ways]
        findings.add(moment, burst, traced=number % TRACED == 0)
    return findings


def with_bombs(every: int = 200) -> Findings:
    """Give nodes the frames that were made to be expensive, each by itself."""
    findings = Findings()
    for overrides in VARIANTS.values():
        for moment in moments(overrides, every):
            for bomb in bombs(moment.frames):
                findings.add(moment, [bomb], traced=True)
                findings.add(moment, [bomb], traced=False)
    return findings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10**6, help="mutated frames (default: 10^6)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    options = parser.parse_args()
    began = time.monotonic()
    mutations, expensive = with_mutations(options.frames, options.seed), with_bombs()
    print(f"{'mutation':<28} {'frames':>9} {'not dropped':>12}")
    for way in WAYS:
        print(f"{way:<28} {mutations.frames[way]:9} {mutations.taken[way]:12}")
    for title, findings in (("mutated", mutations), ("made to be expensive", expensive)):
        print(f"\n{findings.frames.total()} frames {title}: {dict(findings.fates.most_common())}")
        for what, (seconds, frame) in findings.slowest.items():
            print(f"slowest {what} {1e3 * seconds:.2f} ms: {frame}")
        print(f"largest {findings.largest[0] / 2**20:.2f} MB: {findings.largest[1]}")
        for what, times in findings.broken.most_common():
            print(f"BROKEN {times} times: {what}")
    print(f"\n{time.monotonic() - began:.0f} s")
    raise SystemExit(not (mutations.holds and expensive.holds))


if __name__ == "__main__":
    main()
