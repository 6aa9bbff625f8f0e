"""What a map of one slot shows: where APs and UEs were, and the lines between them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.config import Config
from apnode.protocol.messages import FloatArray
from cfmimo.errors import ConfigError
from channel_server.geometry import offsets, period
from channel_server.impairments import described_defects
from channel_server.recorded import refuse_without_positions, roofs_of
from channel_server.topology import BoolArray, make_layout
from coordinator.tables import Table

_MARGIN = 0.05  # around positions that a file has, of their extent
_NEGLIGIBLE = 1e-9  # of a line's length


@dataclass(frozen=True, eq=False)
class SlotMap:
    """One slot; lines are (n, 2, 2) [m], the two ends of n straight pieces."""

    slot: int
    bounds: FloatArray  # (2, 2) [m] lower left and upper right corner
    ap_xy: FloatArray  # (M, 2) [m]
    ue_xy: FloatArray  # (K, 2) [m]
    roofs: BoolArray | None  # (Y, X) where buildings are: squares of ROOF_M from (0, 0) on
    sinr_db: FloatArray  # (K,); NaN if the slot did not close
    status: NDArray[Any]  # (M,) ok, stale or down
    defective: BoolArray  # (M,) whose hardware is worse than that of others
    serving: FloatArray  # from APs to the UEs they serve
    asked: FloatArray  # between APs of which one asked, with no link formed
    formed: FloatArray  # between APs that precoded together; of those that a cluster adds only who agreed
    by_asker: FloatArray | None  # directed clusters: the halves of `formed` beside who asked


def slot_map(config: Config, slot: int, aps: Table, ues: Table, links: Table) -> SlotMap:
    """The map of a slot, from a run's config and tables alone.

    Raises:
        ConfigError: if the channels come from a file that does not say where everybody is, or a path loss of the user's
            own cannot be imported; what lies in a run's folder is not run for a map.
    """
    try:
        refuse_without_positions(config)
        layout = make_layout(config, slot // config.run.slots_per_episode)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    bounds, torus = _square(config, layout.ap_xy, layout.ue_xy)
    here = {name: column[links["slot"] == slot] for name, column in links.items()}
    asked, linked = (_matrix(here, name, len(layout.ap_xy)) for name in ("asked", "linked"))
    directed = config.cooperation.cluster == "directed"
    together = np.triu(linked | linked.T if directed else linked & linked.T)
    if config.cooperation.is_transitive:
        together &= asked & asked.T
    between_aps = offsets(layout.ap_xy, layout.ap_xy, torus)
    return SlotMap(
        slot,
        bounds,
        layout.ap_xy,
        layout.ue_xy,
        roofs_of(config),
        sinr_db=ues["sinr_db"][ues["slot"] == slot],
        status=aps["status"][aps["slot"] == slot],
        defective=np.array([text != "" for text in described_defects(config)]),
        serving=lines(layout.ap_xy, offsets(layout.ap_xy, layout.ue_xy, torus), layout.serving, torus),
        asked=lines(layout.ap_xy, between_aps, np.triu(asked | asked.T) & ~together, torus),
        formed=lines(layout.ap_xy, between_aps, together, torus),
        by_asker=lines(layout.ap_xy, between_aps / 2, linked, torus) if directed else None,
    )


def _square(config: Config, ap_xy: FloatArray, ue_xy: FloatArray) -> tuple[FloatArray, float | None]:
    """Corners of what is shown, and the period of the torus; a file may have positions outside the square."""
    everybody = np.concatenate([ap_xy, ue_xy])
    if (everybody >= 0).all() and (everybody <= config.radio.area_m).all():
        return np.array([[0, 0], [config.radio.area_m] * 2], float), period(config.radio)
    low, high = everybody.min(axis=0), everybody.max(axis=0)
    margin = _MARGIN * (high - low).max()
    return np.stack([low - margin, high + margin]), None


def _matrix(links: Table, name: str, num_aps: int) -> BoolArray:
    """(M, M) of a column of a slot's links."""
    matrix = np.zeros((num_aps, num_aps), bool)
    matrix[links["ap"], links["neighbour"]] = links[name]
    return matrix


# --- lines on a torus -------------------------------------------------------------------------------------


def lines(starts: FloatArray, ways: FloatArray, wanted: BoolArray, torus: float | None) -> FloatArray:
    """Straight lines, each cut where it goes out by one border and in by the opposite one.

    Args:
        starts: (M, 2) [m].
        ways: (M, N, 2) from each start to each end [m].
        wanted: (M, N) which of them to draw.
        torus: its period [m], or None for a plane.

    Returns:
        (pieces, 2, 2) the two ends of each piece [m].
    """
    drawn = [piece for m, n in np.argwhere(wanted) for piece in _pieces(starts[m], ways[m, n], torus)]
    return np.array(drawn).reshape(-1, 2, 2)


def _pieces(start: FloatArray, way: FloatArray, torus: float | None) -> list[FloatArray]:
    if torus is None:
        return [np.stack([start, start + way])]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = np.concatenate([-start / way, (torus - start) / way])  # of the lower and upper borders
    cuts = [0.0, *sorted(crossings[(crossings > 0) & (crossings < 1)]), 1.0]
    pieces = []
    for begin, end in pairwise(cuts):
        if end - begin < _NEGLIGIBLE:
            continue  # through a corner, or to a place on the border
        square = np.floor((start + way * (begin + end) / 2) / torus)  # which copy of it this piece lies in
        pieces.append(np.clip(start + np.outer([begin, end], way) - square * torus, 0, torus))
    return pieces
