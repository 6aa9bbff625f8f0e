"""Channels from a file: every form of it, and every refusal."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apnode.config import Config
from cfmimo.cli.main import run_cfmimo
from cfmimo.errors import ConfigError
from cfmimo.experiments.snapshot import snapshot, write_snapshot
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork
from channel_server.fading import channels
from channel_server.recorded import SCENES, file_of, recorded, roofs_of
from channel_server.topology import make_layout

M, K, L, B, SLOTS = 4, 3, 2, 2, 5
SIZES = (
    f"radio.num_aps={M}",
    f"radio.num_ues={K}",
    f"radio.antennas={L}",
    f"run.blocks_per_slot={B}",
    f"run.slots_per_episode={SLOTS}",
    "run.episodes=3",
    "radio.max_serving_aps=2",
)
RNG = np.random.default_rng(0)
BETA = 10 ** RNG.uniform(-12, -7, (2, M, K))
H = np.sqrt(BETA[0])[..., None] * (RNG.standard_normal((7, B, M, K, L)) + 1j * RNG.standard_normal((7, B, M, K, L)))


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "scene.npz"
    np.savez(path, **arrays)
    return path


def using(path: Path, *overrides: str) -> Config:
    return load("demo", [*SIZES, f"propagation.channel_file={path}", *overrides])


BLOCKED = ("radio.serving_threshold=0", "radio.power_split=sqrt-beta", "cooperation.policy=always")


# --- what a file may hold ---


def test_gains_of_several_layouts_serve_the_episodes_in_turn(tmp_path: Path) -> None:
    config = using(saved(tmp_path, beta=BETA))
    for episode in range(5):
        np.testing.assert_array_equal(make_layout(config, episode).beta, BETA[episode % 2])


def test_a_part_of_the_layouts_serves_where_the_config_says_so(tmp_path: Path) -> None:
    beta, ue_xy = np.concatenate([BETA, 0.5 * BETA]), RNG.uniform(0, 100, (4, K, 2))
    path = saved(tmp_path, beta=beta, ue_xy=ue_xy, ap_xy=ue_xy[0, [0, 1, 2, 0]], h=np.repeat(H[:4], 2, axis=0))
    part = using(path, "propagation.first_layout=1", "propagation.num_layouts=2")
    for episode in range(5):
        layout = make_layout(part, episode)
        np.testing.assert_array_equal(layout.beta, beta[1 + episode % 2])
        np.testing.assert_array_equal(layout.ue_xy, ue_xy[1 + episode % 2])
        np.testing.assert_array_equal(channels(part, layout, SLOTS * episode), H[1 + episode % 2])
    rest = using(path, "propagation.first_layout=3")
    np.testing.assert_array_equal(make_layout(rest, 7).beta, beta[3])


@pytest.mark.parametrize(("first", "count", "missing"), [(2, 0, 2), (1, 2, 2), (9, 1, 9)])
def test_layouts_that_a_file_does_not_have_are_refused(first: int, count: int, missing: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"holds 2 layouts, counted from 0, and not {missing}"):
        using(saved(tmp_path, beta=BETA), f"propagation.first_layout={first}", f"propagation.num_layouts={count}")


def test_a_file_that_comes_with_the_package_is_found_by_its_name(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(saved(tmp_path, beta=BETA).parent)
    assert file_of("canyon") == SCENES / "canyon.npz"
    for name in ("scene", "scene.npz", "../scenes/canyon", str(SCENES / "canyon")):
        assert file_of(name) == Path(name)
    assert load("munich").propagation.channel_file == "munich"  # also where the package is elsewhere
    with pytest.raises(ConfigError, match=r"cannot read .*/atlantis: No such file or directory"):
        using(Path("atlantis"))


def test_buildings_are_shown_and_change_nothing_else(tmp_path: Path) -> None:
    roofs = np.array([[0, 1, 1], [0, 0, 255]], np.uint8)
    (tmp_path / "with").mkdir()
    without, shown = using(saved(tmp_path, beta=BETA)), using(saved(tmp_path / "with", beta=BETA, roofs=roofs))
    assert roofs_of(load("demo")) is None
    assert roofs_of(without) is None
    np.testing.assert_array_equal(roofs_of(shown), [[False, True, True], [False, False, True]])
    np.testing.assert_array_equal(make_layout(shown, 0).beta, make_layout(without, 0).beta)


def test_gains_of_one_layout_serve_every_episode_with_fading_drawn(tmp_path: Path) -> None:
    config = using(saved(tmp_path, beta=BETA[0].astype(np.float32)))
    layout = make_layout(config, 2)
    np.testing.assert_allclose(layout.beta, BETA[0], rtol=1e-6)
    drawn = channels(load("demo", SIZES), layout, slot=3)
    np.testing.assert_array_equal(channels(config, layout, slot=3), drawn)


def test_gains_go_with_fading_that_remembers(tmp_path: Path) -> None:
    path = saved(tmp_path, beta=BETA)
    slow, redrawn = using(path, "propagation.block_ms=1"), using(path)
    layout = make_layout(slow, 0)
    assert not np.allclose(channels(slow, layout, 1), channels(redrawn, layout, 1))


def test_channels_of_every_block_serve_the_slots_in_turn(tmp_path: Path) -> None:
    config = using(saved(tmp_path, h=H))
    for slot in (0, 3, 6, 7, 14):
        np.testing.assert_array_equal(channels(config, make_layout(config, 0), slot), H[slot % 7])


def test_channels_of_several_layouts_serve_their_own_episodes_whatever_the_length_of_these(tmp_path: Path) -> None:
    """Of 6 slots, 3 are of each layout; those of layout 1 serve the episodes 1 and 3, of 2 slots each."""
    config = using(saved(tmp_path, beta=BETA, h=H[:6]), "run.slots_per_episode=2")
    served = [channels(config, make_layout(config, slot // 2), slot) for slot in (2, 3, 6, 7)]
    np.testing.assert_array_equal(served, H[[3, 4, 5, 3]])


def test_channels_of_a_slot_stay_constant_over_its_blocks(tmp_path: Path) -> None:
    config = using(saved(tmp_path, h=H[:, 0].astype(np.complex64)))
    h = channels(config, make_layout(config, 0), 9)
    assert h.shape == (B, M, K, L)
    np.testing.assert_allclose(h[0], H[2, 0], rtol=1e-6)
    np.testing.assert_array_equal(h[0], h[1])


def test_channels_without_gains_have_their_own_mean_power(tmp_path: Path) -> None:
    config = using(saved(tmp_path, h=H))
    np.testing.assert_allclose(make_layout(config, 1).beta, (np.abs(H) ** 2).mean(axis=(0, 1, 4)))


def test_gains_beside_channels_are_what_aps_are_told(tmp_path: Path) -> None:
    config = using(saved(tmp_path, h=H, beta=BETA[1]))
    np.testing.assert_array_equal(make_layout(config, 0).beta, BETA[1])
    np.testing.assert_array_equal(channels(config, make_layout(config, 0), 1), H[1])


def test_positions_are_taken_from_the_file_where_it_has_them(tmp_path: Path) -> None:
    ap_xy, ue_xy = RNG.uniform(0, 9, (M, 2)), RNG.uniform(0, 9, (2, K, 2))
    config = using(saved(tmp_path, beta=BETA, ap_xy=ap_xy, ue_xy=ue_xy))
    np.testing.assert_array_equal(make_layout(config, 3).ap_xy, ap_xy)
    np.testing.assert_array_equal(make_layout(config, 3).ue_xy, ue_xy[1])
    still = using(saved(tmp_path, beta=BETA, ue_xy=ue_xy[0]))
    np.testing.assert_array_equal(make_layout(still, 3).ue_xy, ue_xy[0])
    np.testing.assert_array_equal(make_layout(still, 3).ap_xy, make_layout(load("demo", SIZES), 3).ap_xy)


def test_a_link_that_is_blocked_serves_nobody(tmp_path: Path) -> None:
    blocked = BETA[0].copy()
    blocked[:, 0] = [0, 1e-9, 0, 0]
    config = using(saved(tmp_path, beta=blocked), *BLOCKED)
    assert make_layout(config, 0).serving[:, 0].tolist() == [False, True, False, False]
    LocalNetwork(config).run()


@pytest.mark.parametrize("form", ["beta", "h", "both"])
def test_a_network_runs_on_a_file_and_a_snapshot_of_it_can_be_such_a_file(form: str, tmp_path: Path) -> None:
    arrays = {"beta": {"beta": BETA}, "h": {"h": H}, "both": {"h": H, "beta": BETA[0]}}[form]
    config = using(saved(tmp_path, **arrays), "cooperation.policy=always")
    taken = snapshot(config, slot=12)
    np.testing.assert_array_equal(taken["beta"], make_layout(config, 2).beta)
    assert np.isfinite(taken["sinr"]).all()
    write_snapshot(config, 0, tmp_path / "taken.npz")
    again = using(tmp_path / "taken.npz")
    np.testing.assert_array_equal(make_layout(again, 0).beta, make_layout(config, 0).beta)


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    config = using(saved(tmp_path, beta=BETA))
    saved(tmp_path, beta=BETA[::-1], ap_xy=np.zeros((M, 2)))
    np.testing.assert_array_equal(make_layout(config, 0).beta, BETA[1])


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, beta=BETA)
    monkeypatch.chdir(tmp_path)
    config = load("demo", [*SIZES, "propagation.channel_file=scene.npz"])
    assert config.propagation.channel_file == str(tmp_path / "scene.npz")
    monkeypatch.chdir("/")
    assert recorded(config) is not None


def test_without_a_file_there_is_none() -> None:
    assert recorded(Config()) is None


# --- what it may not ---


def broken(array: Any, value: Any) -> Any:
    array = array.copy()
    array.flat[-1] = value
    return array


class Rude:
    """What unpickles into a call; it must never be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the file was unpickled",))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "other number of APs": ({"beta": BETA[:, :3]}, "holds beta of shape (2, 3, 3), expected (4, 3) or (any, 4, 3)"),
    "transposed": ({"beta": BETA[0].T}, "holds beta of shape (3, 4)"),
    "no layout": ({"beta": BETA[:0]}, "holds beta of shape (0, 4, 3)"),
    "other number of antennas": ({"h": H[..., :1]}, "holds h of shape (7, 2, 4, 3, 1), expected (any, 4, 3, 2) or"),
    "other number of blocks": ({"h": H[:, :1]}, "holds h of shape (7, 1, 4, 3, 2)"),
    "a number": ({"beta": 3.0}, "holds beta of shape ()"),
    "NaN": ({"beta": broken(BETA, np.nan)}, "holds NaN or infinity in beta"),
    "infinite": ({"h": broken(H, np.inf)}, "holds NaN or infinity in h"),
    "imaginary NaN": ({"h": broken(H, complex(0, np.nan))}, "holds NaN or infinity in h"),
    "negative": ({"beta": broken(BETA, -1e-9)}, "holds a negative gain, -1e-09, in beta"),
    "dB": ({"beta": 10 * np.log10(BETA)}, "gains are linear, not in dB"),
    "over noise": ({"beta": BETA * 1e13}, "so at most 1"),
    "strong channels": ({"h": H * 1e7}, "in |h|^2: gains are relative to what is sent, so at most 1"),
    "overflowing channels": ({"h": H * 1e200}, "so at most 1"),
    "a deaf UE": ({"beta": BETA * [1, 0, 1]}, "beta of UE 1 is 0 throughout in layout 0"),
    "complex gains": ({"beta": BETA.astype(complex)}, "holds beta of type complex128, expected real numbers"),
    "words": ({"beta": np.full((M, K), "loud")}, "holds beta of type <U4, expected real numbers"),
    "yes and no": ({"beta": BETA > 0}, "holds beta of type bool"),
    "pickled": ({"beta": np.full((M, K), Rude())}, "holds pickled objects; it must hold plain arrays"),
    "pickled positions": ({"beta": BETA, "ap_xy": np.full((M, 2), Rude())}, "holds pickled objects"),
    "nothing of use": ({"gains": BETA}, "holds neither beta nor h"),
    "layouts that do not fit slots": (
        {"beta": BETA, "h": H},
        "holds h of 7 slots, expected as many for each of its 2 layouts",
    ),
    "positions of others": ({"beta": BETA, "ap_xy": np.zeros((K, 2))}, "holds ap_xy of shape (3, 2), expected (4, 2)"),
    "positions of other layouts": ({"beta": BETA, "ue_xy": np.zeros((3, K, 2))}, "holds ue_xy of shape (3, 3, 2)"),
    "positions nowhere": ({"beta": BETA, "ue_xy": np.full((K, 2), np.nan)}, "holds NaN or infinity in ue_xy"),
}


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        using(path, *overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "channel_file" in sentence
    return sentence


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_used_is_refused_with_a_sentence_that_names_it(case: str, tmp_path: Path) -> None:
    arrays, expected = BAD[case]
    path = saved(tmp_path, **arrays)
    sentence = refusal(path)
    assert str(path) in sentence
    assert expected in sentence


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scene.npz"
    for content in (b"", b"hello", pickle.dumps(Rude())):
        path.write_bytes(content)
        assert f"{path} is not a .npz file" in refusal(path)
    np.save(tmp_path / "one.npy", BETA)
    assert "is not a .npz file" in refusal(tmp_path / "one.npy")
    assert "is not a .npz file" in refusal(tmp_path)
    assert "cannot read" in refusal(tmp_path / "none.npz")
    assert "cannot read" in refusal(tmp_path / ("x" * 3000))


def test_a_damaged_file_is_refused_or_read_as_it_was(tmp_path: Path) -> None:
    """The archive has checksums, so damage never becomes other channels."""
    path = tmp_path / "scene.npz"
    np.savez_compressed(path, beta=BETA)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path = tmp_path / f"{position}.npz"  # the same size and, maybe, time would be taken for the same file
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            config = using(path)
        except ConfigError:
            assert str(path) in refusal(path)
        else:
            np.testing.assert_array_equal(make_layout(config, 1).beta, BETA[1])
    for length in range(0, len(whole), 40):
        path.write_bytes(whole[:length])
        refusal(path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scene.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("beta.npy", b"not an array")
    assert f"{path} holds beta, which is not an array" in refusal(path)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("propagation.model=umi", "model = umi has no effect with a channel_file"),
        ("propagation.shadowing_db=4", "shadowing_db = 4.0 has no effect with a channel_file"),
        ("propagation.shadowing_correlation_m=9", "shadowing_correlation_m"),
        ("radio.ue_mobility=walk", "ue_mobility has no effect with a channel_file"),
    ],
)
def test_settings_of_a_model_are_refused_beside_a_file(override: str, named: str, tmp_path: Path) -> None:
    assert named in refusal(saved(tmp_path, beta=BETA), override)


def test_memory_of_fading_is_refused_beside_the_channels_of_every_block(tmp_path: Path) -> None:
    sentence = refusal(saved(tmp_path, h=H), "propagation.block_ms=1")
    assert "block_ms has no effect" in sentence


def test_the_command_refuses_a_bad_file_before_it_writes_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, beta=-BETA)
    arguments = ["run", "demo", "--runtime", "local", "--out", str(tmp_path / "r"), "--set", *SIZES]
    assert run_cfmimo([*arguments, f"propagation.channel_file={path}"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"cfmimo: propagation.channel_file: {path} holds a negative gain")
    assert shown.err.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["scene.npz"]


def test_a_file_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path,
) -> None:
    path = saved(tmp_path, beta=BETA)
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24  # the size in the archive's directory
    content[at : at + 4] = (3 * 2**30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"scene.npz is broken: it unpacks to 3.0 GiB, more than 2"):
        using(path)
