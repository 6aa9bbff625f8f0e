"""Nodes in the middle of a run, and frames that nobody honest sends."""

import pytest

from benchmarks.frames import WAYS, with_mutations


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mutated_frames_neither_stop_nor_hold_up_a_node_and_are_counted_once() -> None:
    findings = with_mutations(30_000, every=60)
    assert not findings.broken
    assert findings.holds
    assert findings.fates.total() == findings.frames.total() == 30_000
    assert findings.frames.keys() == {*WAYS}
    assert findings.fates.keys() >= {"accepted", "kept", "checksum", "version", "malformed", "unexpected", "late"}
    assert {way for way in WAYS if findings.taken[way]} >= {"ids, slots, shapes, sealed", "numbers changed, sealed"}
