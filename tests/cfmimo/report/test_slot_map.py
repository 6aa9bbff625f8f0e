"""Maps: lines that take the shortest way over the torus without crossing the square, and show what the tables say."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from apnode.config import Config
from cfmimo.errors import ConfigError
from cfmimo.presets import load
from cfmimo.report import figures
from cfmimo.report.slot_map import SlotMap, lines, slot_map
from cfmimo.runtime.local import LocalNetwork
from channel_server.geometry import distances, offsets
from channel_server.impairments import oscillator_levels
from channel_server.topology import make_layout
from coordinator import tables
from coordinator.record import Record

SIDE = 100.0
EGO = ("cooperation.policy=random", "run.episodes=2", "run.slots_per_episode=3", "run.blocks_per_slot=1")
DIRECTED = (*EGO, "cooperation.cluster=directed", "cooperation.acceptance=all")
SERVING = (*EGO, "cooperation.cluster=serving", "precoding.joint=selective", "cooperation.request_rate=0.7")
place = st.floats(0, SIDE, exclude_max=True, allow_subnormal=False)


def recorded_run(*overrides: str) -> tuple[Config, Record]:
    config = load("demo", overrides)
    network = LocalNetwork(config)
    network.run()
    return config, network.coordinator.record


def map_of(config: Config, record: Record, slot: int) -> SlotMap:
    return slot_map(config, slot, tables.aps(record), tables.ues(record), tables.links(record))


def length(pieces: np.ndarray) -> float:
    return float(np.linalg.norm(pieces[:, 1] - pieces[:, 0], axis=1).sum())


# --- lines on a torus -------------------------------------------------------------------------------------


@given(place, place, place, place)
def test_a_line_over_the_border_is_stubs_that_never_cross_the_square(x: float, y: float, u: float, v: float) -> None:
    start, end = np.array([[x, y]]), np.array([[u, v]])
    assume(distances(start, end, SIDE)[0, 0] > 1e-6)
    pieces = lines(start, offsets(start, end, SIDE), np.ones((1, 1), bool), SIDE)
    assert 1 <= len(pieces) <= 3
    assert ((pieces >= 0) & (pieces <= SIDE)).all()
    assert length(pieces) == pytest.approx(distances(start, end, SIDE)[0, 0], abs=1e-6)  # the shortest way
    for found, meant in ((pieces[0, 0], start[0]), (pieces[-1, 1], end[0])):
        away = np.abs(found - meant)
        np.testing.assert_allclose(np.minimum(away, SIDE - away), 0, atol=1e-6)  # a border is the opposite one, too
    for one, other in pairwise(pieces):  # out by one border, in by the opposite one
        jump = np.abs(other[0] - one[1])
        np.testing.assert_allclose(np.minimum(jump, SIDE - jump), 0, atol=1e-6)
        assert jump.max() == pytest.approx(SIDE)


def test_a_line_through_a_corner_leaves_by_both_borders() -> None:
    start, end = np.array([[90.0, 80.0]]), np.array([[10.0, 10.0]])
    pieces = lines(start, offsets(start, end, SIDE), np.ones((1, 1), bool), SIDE)
    np.testing.assert_allclose(pieces, [[[90, 80], [100, 95]], [[0, 95], [10 / 3, 100]], [[10 / 3, 0], [10, 10]]])


def test_on_a_plane_a_line_is_one_piece() -> None:
    start, end = np.array([[5.0, 5.0]]), np.array([[95.0, 5.0]])
    assert lines(start, offsets(start, end, None), np.ones((1, 1), bool), None).tolist() == [[[5, 5], [95, 5]]]
    assert lines(start, offsets(start, end, None), np.zeros((1, 1), bool), None).shape == (0, 2, 2)


# --- the map of a slot ------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [EGO, DIRECTED, SERVING], ids=["ego", "directed", "serving"])
def test_lines_are_as_many_as_the_tables_say(overrides: tuple[str, ...]) -> None:
    config, record = recorded_run(*overrides, "radio.wrap_around=false")
    for slot, row in enumerate(zip(tables.slots(record)["formed"], tables.slots(record)["union_asked"], strict=True)):
        formed, union = row
        shown = map_of(config, record, slot)
        assert len(shown.formed) == formed
        assert len(shown.asked) == union - formed  # whoever agreed had been asked
        assert len(shown.serving) == make_layout(config, slot // 3).serving.sum()
        if shown.by_asker is None:
            assert config.cooperation.cluster != "directed"
        else:
            assert len(shown.by_asker) == record.linked[slot].sum()
            links = tables.links(record)
            askers = shown.ap_xy[links["ap"][(links["slot"] == slot) & links["linked"]]]
            assert {tuple(end) for end in shown.by_asker[:, 0]} == {tuple(xy) for xy in askers}
    assert tables.slots(record)["formed"].sum() > 0


@pytest.mark.parametrize("overrides", [EGO, DIRECTED], ids=["ego", "directed"])
def test_links_keep_their_length_over_the_border(overrides: tuple[str, ...]) -> None:
    config, record = recorded_run(*overrides)
    shown = map_of(config, record, 0)
    apart = distances(shown.ap_xy, shown.ap_xy, config.radio.area_m)
    table = {name: column[tables.links(record)["slot"] == 0] for name, column in tables.links(record).items()}
    linked = np.zeros(apart.shape, bool)
    linked[table["ap"], table["neighbour"]] = table["linked"]
    together = linked | linked.T if shown.by_asker is not None else linked & linked.T
    assert length(shown.formed) == pytest.approx(apart[np.triu(together)].sum())
    assert len(shown.formed) > np.triu(together).sum()  # some went over the border
    if shown.by_asker is not None:
        assert length(shown.by_asker) == pytest.approx(apart[linked].sum() / 2)


def test_a_map_shows_its_own_slot_and_episode() -> None:
    config, record = recorded_run(*EGO)
    first, last = map_of(config, record, 0), map_of(config, record, 5)
    np.testing.assert_array_equal(last.ue_xy, make_layout(config, 1).ue_xy)
    np.testing.assert_array_equal(first.ap_xy, last.ap_xy)
    assert (first.ue_xy != last.ue_xy).any()
    np.testing.assert_allclose(last.sinr_db, 10 * np.log10(record.sinr[5, 0]))


def test_dead_aps_look_dead() -> None:
    config, record = recorded_run(*EGO)
    record.reported[0, 4], record.silent[0, 7] = False, True
    labels = [
        [text.get_text() for text in figures.network_map(map_of(config, record, slot), (0, 20)).legends[0].get_texts()]
        for slot in (0, 1)
    ]
    assert {"AP", "AP, too late", "AP, down"} <= set(labels[0])
    assert {name for name in labels[1] if name.startswith("AP")} == {"AP"}


def test_aps_with_defects_are_ringed() -> None:
    """A map knows nature, as no AP does."""
    config, record = recorded_run(*EGO, "impairments.oscillator_deg=[[0.7, 5], [0.3, 90]]")
    shown = map_of(config, record, 0)
    np.testing.assert_array_equal(shown.defective, oscillator_levels(config) == 90)
    drawn = figures.network_map(shown, (0, 20))
    rings = next(dots for dots in drawn.axes[0].collections if str(dots.get_label()).startswith("AP with a defect"))
    np.testing.assert_array_equal(rings.get_offsets(), shown.ap_xy[shown.defective])
    assert not map_of(*recorded_run(*EGO), 0).defective.any()


# --- positions from a file --------------------------------------------------------------------------------


def from_file(path: Path, **positions: np.ndarray) -> tuple[Config, Record]:
    np.savez(path, beta=np.full((20, 8), 1e-9) * np.arange(1, 21)[:, None], **positions)
    return recorded_run(*EGO, f"propagation.channel_file='{path}'")


def test_positions_of_a_file_are_all_in_the_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ap_xy, ue_xy = rng.uniform(-2000, -1000, (20, 2)), rng.uniform(3000, 4000, (8, 2))
    config, record = from_file(tmp_path / "scene.npz", ap_xy=ap_xy, ue_xy=ue_xy)
    shown = map_of(config, record, 0)
    everybody = np.concatenate([ap_xy, ue_xy])
    assert ((everybody > shown.bounds[0]) & (everybody < shown.bounds[1])).all()
    aps, ues = np.nonzero(make_layout(config, 0).serving)
    np.testing.assert_allclose(shown.serving, np.stack([ap_xy[aps], ue_xy[ues]], axis=1))  # outside it is no torus


def test_buildings_of_a_file_lie_under_its_map(tmp_path: Path) -> None:
    """Square (x, y) of 2 m is row y, column x of the file."""
    rng, roofs = np.random.default_rng(0), np.zeros((30, 40), np.uint8)
    roofs[3, 7] = 1
    config, record = from_file(
        tmp_path / "scene.npz", ap_xy=rng.uniform(0, 60, (20, 2)), ue_xy=rng.uniform(0, 60, (8, 2)), roofs=roofs
    )
    axes = figures.network_map(map_of(config, record, 0), (0, 20)).axes[0]
    (city,) = axes.images
    left, right, bottom, top = city.get_extent()
    assert (left, right, bottom, top) == (0, 80, 0, 60)
    assert city.origin == "lower"
    np.testing.assert_array_equal(city.get_array(), roofs)
    assert axes.get_xlim() == (0, config.radio.area_m)  # of the network, not of the picture of buildings
    assert not figures.network_map(map_of(*recorded_run(*EGO), 0), (0, 20)).axes[0].images


def test_channels_without_positions_have_no_map(tmp_path: Path) -> None:
    config, record = from_file(tmp_path / "scene.npz", ap_xy=np.zeros((20, 2)))
    with pytest.raises(ConfigError, match=r"scene\.npz does not say where"):
        map_of(config, record, 0)
