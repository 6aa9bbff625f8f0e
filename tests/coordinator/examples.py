"""Records that a person can check by hand: four APs, two UEs, two slots of two blocks."""

from typing import Any

import numpy as np

from apnode.config import Config
from apnode.protocol.messages import (
    KINDS,
    TAGS,
    ApReport,
    SlotReport,
)
from cfmimo.presets import load
from coordinator.record import Record

TINY = (
    "radio.num_aps=4",
    "radio.num_ues=2",
    "run.blocks_per_slot=2",
    "run.episodes=2",
    "run.slots_per_episode=1",
    "cooperation.max_neighbours=3",
)
DIRECTED = ("cooperation.cluster=directed", "cooperation.acceptance=all")
NEIGHBOURS = ((1, 2, 3), (0, 2), (0, 3), (2, 0))  # 9 entries, over 5 pairs
REQUESTED = ((1, 2), (0,), (), (2,))
PARTNERS = ((1, 2), (0,), (), ())


def sent(**counts: tuple[int, int]) -> Any:
    """Messages and bytes by kind."""
    table = np.zeros((2, len(KINDS)), np.uint32)
    for kind in KINDS:
        table[:, TAGS[kind]] = counts.get(kind.__name__, (0, 0))
    return table


def slot_report(slot: int, **changed: Any) -> SlotReport:
    """Slot 0: rates of 1 and 2 bit; slot 1: of 2 bit in the first block and 4 in the second. Alone 1 bit each."""
    fields: dict[str, Any] = {
        "slot": slot,
        "episode": slot,
        "sinr": [[1, 3], [1, 3]] if slot == 0 else [[3, 3], [15, 15]],
        "sinr_alone": np.ones((2, 2)),
        "gain": [[1, 1j], [1, 1j]],
        "gain_alone": np.ones((2, 2)),
        "power": [[0.5, 0.75], [0.25, 0.25 + slot], [0, 0], [0, 0]],
        "pairs": 5 - slot,
        "silent": (),
        "sent": sent(SlotReport=(1, 100)),
        "dropped": [0] * 9,
    }
    return SlotReport(**{**fields, **changed})


def ap_report(slot: int, ap: int, **changed: Any) -> ApReport:
    """In slot 0 they ask and agree as above, in slot 1 nobody asks."""
    fields: dict[str, Any] = {
        "slot": slot,
        "ap": ap,
        "neighbours": NEIGHBOURS[ap],
        "requested": REQUESTED[ap] if slot == 0 else (),
        "partners": PARTNERS[ap] if slot == 0 else (),
        "gain": 0.5 * ap,
        "reward": 0.25 * ap,
        "loss": 0.125,
        "epsilon": 0.8 - 0.1 * slot,
        "sent": sent(CoopRequest=(ap, 20 * ap), ChannelBlock=(1, 300), PilotBlock=(7, 7)),
        "dropped": np.array([0, 0, 0, 0, 0, 0, ap, 1, 0]),
        "cluster_size": 1 + (len(PARTNERS[ap]) if slot == 0 else 0),
    }
    return ApReport(**{**fields, **changed})


def filled(*overrides: str, slots: range = range(2), aps: range = range(4)) -> Record:
    record = Record(config(*overrides))
    for slot in slots:
        record.add_slot(slot_report(slot))
        for ap in aps:
            record.add_ap(ap_report(slot, ap))
    return record


def config(*overrides: str) -> Config:
    return load("demo", (*TINY, *overrides))


def with_change(kind: type[Any], **changed: Any) -> Record:
    """Slot 0 as ever, but for one field of one report."""
    record = Record(config())
    record.add_slot(slot_report(0, **(changed if kind is SlotReport else {})))
    for ap in range(4):
        record.add_ap(ap_report(0, ap, **(changed if kind is ApReport and ap == 0 else {})))
    return record


CLUSTERS = (  # 0-1 and 1-2 have agreed; 0 and 2 are neighbours as well, and 3 believes what nobody else does
    {"neighbours": (1, 2), "requested": (1,), "partners": (1, 2), "cluster_size": 3},
    {"neighbours": (0, 2), "requested": (0, 2), "partners": (0, 2), "cluster_size": 3},
    {"neighbours": (0, 1, 3), "requested": (1,), "partners": (0, 1), "cluster_size": 3},
    {"neighbours": (2, 0), "requested": (2,), "partners": (2,), "cluster_size": 2},
)


def clustered(*overrides: str, sizes: tuple[int, ...] = (3, 3, 3, 2)) -> Record:
    record = Record(config(*overrides))
    for slot in range(2):
        record.add_slot(slot_report(slot))
    for ap, fields in enumerate(CLUSTERS):
        record.add_ap(ap_report(0, ap, **{**fields, "cluster_size": sizes[ap]}))
        record.add_ap(ap_report(1, ap))
    return record
