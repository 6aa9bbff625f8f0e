"""Nodes of one process hand messages over: to the last bit what a node elsewhere would read from the frame."""

from pathlib import Path

import pytest

from apnode.config import Config
from apnode.protocol.fields import Message
from apnode.protocol.limits import largest_frame
from apnode.protocol.messages import KINDS, Deadline, FaultFired, Resend
from apnode.protocol.wire import WireError, decode
from cfmimo.presets import load
from cfmimo.runtime.fault_plan import FaultPlan, resolve
from cfmimo.runtime.local import LocalNetwork
from tests.apnode.examples import anatomy
from tests.test_determinism import SMALL, VARIANTS

SHORT = (*SMALL, "run.episodes=2", "run.slots_per_episode=2", "learning.batch_size=2")
LATE = (
    "propagation.block_ms=4",
    "impairments.fronthaul_blocks=[[0.5,0],[0.5,1]]",
    "cooperation.history_blocks=1",
)


def compared(network: LocalNetwork, config: Config) -> tuple[set[type[Message]], int]:
    """The kinds of messages that were handed over, each compared with its frame, and how many frames were damaged."""
    kinds, damaged = set[type[Message]](), 0
    for send in network.frames():
        if send.message is None:
            damaged += 1
            with pytest.raises(WireError):
                decode(send.frame, largest_frame(config))
        else:
            kinds.add(type(send.message))
            assert anatomy(send.message) == anatomy(decode(send.frame, largest_frame(config)))
    return kinds, damaged


def test_what_is_handed_over_is_what_the_frame_says() -> None:
    kinds = set[type[Message]]()
    for settings in (*VARIANTS.values(), (*VARIANTS["serving"], *LATE)):
        config = load("demo", (*SHORT, *settings))
        found, damaged = compared(LocalNetwork(config), config)
        kinds |= found
        assert not damaged
    assert kinds == {*KINDS} - {Deadline, FaultFired, Resend}


def test_a_damaged_frame_is_not_handed_over_and_a_lie_is_as_it_left(tmp_path: Path) -> None:
    config = load("demo", (*SHORT, "run.slots_per_episode=8", "cooperation.policy=always"))
    plan = {
        "links": [{"corruption": 0.3}, {"senders": "ap/*", "receivers": "coordinator", "corruption": 0.3}],
        "faults": [{"slot": 0, "action": "lie", "target": "ap/0-4", "args": {"kind": "random", "slots": 9}}],
    }
    (tmp_path / "checkpoints").mkdir()
    faults = resolve(FaultPlan.model_validate(plan), config)
    kinds, damaged = compared(LocalNetwork(config, faults=faults, folder=tmp_path), config)
    assert damaged > 50
    assert {Deadline, FaultFired, Resend} <= kinds
