"""Nodes in the middle of a run, and frames that nobody honest sends; or somebody who speaks the version before."""

import zlib
from dataclasses import replace

import msgpack
import pytest

from apnode.protocol.messages import APPENDED, TAGS, ApReport, SlotReport, kinds_of
from apnode.protocol.node import CHANNEL, COORDINATOR, Node, Send, ap_address
from apnode.protocol.wire import VERSION, decode, encode
from benchmarks.frames import VARIANTS, WAYS, with_mutations
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mutated_frames_neither_stop_nor_hold_up_a_node_and_are_counted_once() -> None:
    findings = with_mutations(30_000, every=60)
    assert not findings.broken
    assert findings.holds
    assert findings.fates.total() == findings.frames.total() == 30_000
    assert findings.frames.keys() == {*WAYS}
    assert findings.fates.keys() >= {"accepted", "kept", "checksum", "version", "malformed", "unexpected", "late"}
    assert {way for way in WAYS if findings.taken[way]} >= {"ids, slots, shapes, sealed", "numbers changed, sealed"}


def as_before(frame: bytes) -> bytes:
    """What the frame would be in the version before."""
    message = decode(frame)
    if isinstance(message, (ApReport, SlotReport)):
        message = replace(message, sent=message.sent[:, : len(kinds_of(VERSION - 1))])
    _, _, *values = msgpack.unpackb(encode(message)[4:])
    appended = sum(since == VERSION for since in APPENDED.get(type(message), {}).values())
    body: bytes = msgpack.packb([VERSION - 1, TAGS[type(message)], *values[: len(values) - appended]])
    return zlib.crc32(body).to_bytes(4, "big") + body


@pytest.mark.parametrize("variant", ["grant", "capped", "serving"])
def test_what_is_said_in_the_version_before_is_understood(variant: str) -> None:
    """Each node does the same with the frames of a run whether they are of this version or of the one before.

    All UEs are in reach here: the version before knows nothing else.
    """
    config = load("demo", (*VARIANTS[variant], "radio.pilot_power_w=1000.0"))
    network, now, before = (LocalNetwork(config) for _ in range(3))
    for send in network.frames():
        assert said(now, send.to, send.frame) == said(before, send.to, as_before(send.frame))
    assert before.coordinator.record.digest() == now.coordinator.record.digest() == network.coordinator.record.digest()
    assert before.coordinator.done
    assert not before.coordinator.dropped.any()


def said(network: LocalNetwork, to: str, frame: bytes) -> list[Send]:
    nodes: dict[str, Node] = {CHANNEL: network.channel, COORDINATOR: network.coordinator}
    return (nodes | {ap_address(ap.ap): ap for ap in network.aps})[to].receive(frame)
