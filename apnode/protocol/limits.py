"""The largest frame of a network: the bound on what a node reads, which nothing that a node sends exceeds."""

from __future__ import annotations

import itertools
import math
from typing import Any

from apnode.config import Config
from apnode.protocol.fields import MAX_TEXT, Array, Message, specs
from apnode.protocol.messages import (
    KINDS,
    MOST_STREAMS,
    ApReport,
    Association,
    ChannelBlock,
    ClusterBlock,
    CommonLinks,
    CoopRequest,
    LinkState,
    PilotBlock,
    SelfReport,
    SlotFeedback,
    SlotReport,
    Transmission,
)

MOST_BYTES = 2**32 - 1  # [B] of a frame in msgpack
MOST_ASKERS = 64  # an Association lists no more; about 15 is the most seen among 100 APs
_MOST_LEVELS = 6  # in a SelfReport
_REASONS = 16  # for which frames are dropped, at most
_HEADER = 9  # [B] of a number, or of the length of what follows, at most

Lengths = dict[str, tuple[int, ...]]  # of the fields that hold several values: their shapes


def largest_frame(config: Config) -> int:
    """The length of the longest frame that there may be, even of an AP that serves all UEs [B]."""
    lengths = _largest(config)
    return max(_bytes(kind, lengths.get(kind, {})) for kind in KINDS)


def _largest(config: Config) -> dict[type[Message], Lengths]:
    """The largest instance of each kind of message that has no fixed size."""
    radio, cooperation = config.radio, config.cooperation
    blocks, antennas, ues, aps = config.run.blocks_per_slot, radio.antennas, radio.num_ues, radio.num_aps
    neighbours, reported = cooperation.max_neighbours, cooperation.reported_interferers
    around = ues if config.looks_around else 0
    chosen, of_ue = ues * config.selects_serving, radio.most_serving_aps
    weights = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(config.layers))
    told = blocks + cooperation.history_blocks
    estimates = {"ues": (ues,), "h_hat": (told, antennas, ues), "rho": (ues,), "untold": (told, antennas, antennas)}
    counts = {"sent": (2, len(KINDS)), "dropped": (_REASONS,)}
    return {
        Association: {
            **dict.fromkeys(("ues", "beta", "pilots", "reach"), (ues,)),
            **dict.fromkeys(("neighbours", "endpoints", "interference", "mastered"), (neighbours,)),
            **dict.fromkeys(("askers", "asker_endpoints"), (min(MOST_ASKERS, aps),)),
            **dict.fromkeys(("around", "around_pilots"), (around,)),
            **dict.fromkeys(("neighbour_beta", "neighbour_serves"), (neighbours, around)),
            "away": (neighbours + min(MOST_ASKERS, aps),),
            "served_by": (chosen, of_ue),
        },
        PilotBlock: {"y": (blocks, antennas, radio.pilot_length)},
        CoopRequest: {"ues": (ues,)},
        ChannelBlock: {**estimates, "learned": (weights if config.learning.share else 0,)},
        ClusterBlock: estimates,
        LinkState: {
            "known": (aps,),
            "links": (aps * neighbours, 2),
            "interference": (aps * neighbours,),
            "serves": (radio.max_services, 2),
        }
        if cooperation.cluster == "components"
        else dict.fromkeys(("known", "links", "interference", "serves"), (0,)),
        CommonLinks: {
            "links": (radio.max_services * (radio.most_serving_aps - 1) * (cooperation.cluster == "serving"), 3)
        },
        Transmission: {
            "ues": (ues,),
            **dict.fromkeys(("w", "w_alone"), (blocks, ues, antennas)),
            "partners": (aps,),
            **dict.fromkeys(("group", "chosen"), (chosen,)),
        },
        SlotFeedback: {
            **dict.fromkeys(("rate", "rate_alone"), (ues,)),
            **dict.fromkeys(("interferers", "interference", "partners"), (ues, reported)),
            "partner_gain": (ues, reported, antennas),
            "group": (chosen, of_ue),
            "chosen": (chosen,),
            "hearers": (ues,),
            **dict.fromkeys(("heard_at", "level"), (ues * min(ues, MOST_STREAMS) * config.hears_streams,)),
        },
        SelfReport: {"levels": (_MOST_LEVELS,)},
        ApReport: {
            **dict.fromkeys(("neighbours", "requested", "suspects"), (neighbours,)),
            "partners": (aps,),
            "levels": (_MOST_LEVELS,),
            **counts,
        },
        SlotReport: {
            **dict.fromkeys(("sinr", "sinr_alone", "gain", "gain_alone"), (blocks, ues)),
            "power": (aps, 2),
            "silent": (aps,),
            **counts,
        },
    }


def _bytes(kind: type[Message], lengths: Lengths) -> int:
    """The most that a message with fields of these lengths takes as a frame: see `wire`."""
    return 4 * _HEADER + sum(_field_bytes(spec, lengths.get(name)) for name, spec in _FIELDS[kind].items())


def _field_bytes(spec: Any, shape: tuple[int, ...] | None) -> int:
    match spec, shape:
        case Array(), (*_,):
            return (spec.ndim + 3) * _HEADER + math.prod(shape) * int(spec.dtype[-1])
        case "ids", (count,):
            return _HEADER + 2 * count
        case "endpoints", (count,):
            return _HEADER + count * (_HEADER + MAX_TEXT)
        case "text" | "endpoint", None:
            return _HEADER + MAX_TEXT
        case "id" | "slot" | "real", None:
            return _HEADER
    raise AssertionError(f"no length of {spec} is known")


_FIELDS = {kind: specs(kind) for kind in KINDS}
