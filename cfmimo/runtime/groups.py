"""Which APs share a process, where `run.aps_per_actor` puts several into one: neighbours in space. No AP is told."""

from __future__ import annotations

import numpy as np

from apnode.config import Config
from apnode.protocol.messages import FloatArray, IntArray
from channel_server.geometry import ap_positions
from channel_server.recorded import recorded


def num_groups(config: Config) -> int:
    """How many processes hold the APs of a run."""
    return -(-config.radio.num_aps // config.run.aps_per_actor)


def groups_of(config: Config) -> list[tuple[int, ...]]:
    """The APs of each process, in ascending order: as few groups as can be, whose sizes differ by one at most.

    The square is halved across its longer side, and the halves again, each time with as many APs on either side as
    their groups hold. Where a file has channels but no positions, the APs' numbers stand for these.
    """
    file = recorded(config)
    if file is None:
        places = ap_positions(config)
    elif file.ap_xy is not None:
        places = file.ap_xy
    else:
        places = np.arange(config.radio.num_aps)[:, None].astype(float)
    return sorted(_halved(places, np.arange(config.radio.num_aps), num_groups(config)))


def _halved(places: FloatArray, aps: IntArray, groups: int) -> list[tuple[int, ...]]:
    if groups == 1:
        return [tuple(sorted(aps.tolist()))]
    longer = np.ptp(places[aps], axis=0).argmax()
    ordered = aps[np.argsort(places[aps, longer], kind="stable")]
    cut = len(aps) * (groups // 2) // groups
    return _halved(places, ordered[:cut], groups // 2) + _halved(places, ordered[cut:], groups - groups // 2)
