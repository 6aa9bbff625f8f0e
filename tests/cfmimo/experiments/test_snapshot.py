"""A snapshot must be checkable elsewhere: everything here is recomputed from its arrays alone."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cfmimo.cli.main import run_cfmimo
from cfmimo.experiments.snapshot import snapshot
from cfmimo.presets import load

Arrays = dict[str, NDArray[Any]]
SHAPES = {
    "ap_xy": "M2", "ue_xy": "K2", "beta": "MK", "serving": "MK", "reach": "MK", "pilot": "K", "rho": "MK", "h": "BMKL",
    "h_hat": "BMKL", "error_variance": "MK", "interference": "MM", "neighbours": "MM", "requests": "MM",
    "links": "MM", "w": "BMKL", "w_alone": "BMKL", "sinr": "BK", "noise_power": "", "config": "",
}  # fmt: skip


@pytest.fixture(scope="module", params=[0, 3])
def arrays(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    path = tmp_path_factory.mktemp("snapshot") / "x.npz"
    settings = ("cooperation.policy=random", "run.blocks_per_slot=2", "run.slots_per_episode=2")
    arguments = ["snapshot", "paper", "--seed", "1", "--slot", str(request.param), "--set", *settings]
    assert run_cfmimo([*arguments, "--out", str(path), "--json"]) == 0
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_every_array_is_there_in_its_shape(arrays: Arrays) -> None:
    sizes = {"M": 100, "K": 40, "L": 4, "B": 2, "2": 2}
    for name, shape in SHAPES.items():
        assert arrays[name].shape == tuple(sizes[letter] for letter in shape), name
    assert json.loads(str(arrays["config"]))["radio"]["num_aps"] == 100


def test_serving_sets_follow_from_beta(arrays: Arrays) -> None:
    beta = arrays["beta"]
    fifth = np.sort(beta, axis=0)[-5]
    assert (arrays["serving"] == ((beta >= fifth) & (beta >= 1e-6 * beta.max(axis=0)))).all()
    assert np.allclose(arrays["rho"], arrays["serving"] / np.maximum(arrays["serving"].sum(axis=1, keepdims=True), 1))


def test_ues_are_in_reach_whose_pilots_arrive_above_the_noise(arrays: Arrays) -> None:
    heard = 0.1 * 10 * arrays["beta"] >= arrays["noise_power"]
    assert (arrays["reach"] == heard | arrays["serving"]).all()
    assert arrays["reach"].mean() < 0.6
    assert ((arrays["h_hat"] != 0).all(axis=(0, 3)) == arrays["reach"]).all()


def test_error_variance_follows_from_beta_and_pilots_in_reach(arrays: Arrays) -> None:
    """To the true one the UEs out of reach contribute that train on the same pilot."""
    beta, reach, noise = arrays["beta"], arrays["reach"], float(arrays["noise_power"])
    known, same_pilot, energy = beta * reach, arrays["pilot"][:, None] == arrays["pilot"][None, :], 0.1 * 10
    heard = energy * known @ same_pilot + noise
    assert np.allclose(arrays["error_variance"], known - energy * known**2 / heard, rtol=1e-9, atol=0)
    unheard = energy * (beta - known) @ same_pilot
    true = arrays["error_variance"] + energy * known**2 / heard**2 * unheard
    error = (np.abs(arrays["h"] - arrays["h_hat"]) ** 2).mean(axis=(0, 3))
    assert abs((error[reach] / true[reach]).mean() - 1) < 0.05
    assert np.mean(true[reach] / arrays["error_variance"][reach]) < 1.2


def test_blocks_have_unit_norm_and_aps_their_power(arrays: Arrays) -> None:
    for name in ("w", "w_alone"):
        power = (np.abs(arrays[name].astype(complex)) ** 2).sum(axis=3)
        expected = np.broadcast_to(arrays["rho"], power.shape)
        assert np.allclose(power, expected, rtol=1e-6, atol=0)
        assert power.sum(axis=2).max() <= 1.0


def test_alone_is_mrt_and_who_has_no_link_transmits_it(arrays: Arrays) -> None:
    norm = np.linalg.norm(arrays["h_hat"], axis=3, keepdims=True)
    direction = arrays["h_hat"] / np.where(norm > 0, norm, 1)
    expected = direction * np.sqrt(arrays["rho"])[..., None]
    assert np.allclose(arrays["w_alone"], expected, rtol=0, atol=1e-6)
    unlinked = ~arrays["links"].any(axis=1)
    assert (arrays["w"][:, unlinked] == arrays["w_alone"][:, unlinked]).all()
    assert not (arrays["w"][:, ~unlinked] == arrays["w_alone"][:, ~unlinked]).all()


def test_sinr_follows_from_channels_and_precoders(arrays: Arrays) -> None:
    received = np.einsum("bmkl,bmjl->bkj", arrays["h"].conj(), arrays["w"])
    power = np.abs(received) ** 2
    wanted = np.einsum("bkk->bk", power)
    sinr = wanted / (power.sum(axis=2) - wanted + arrays["noise_power"])
    assert np.allclose(arrays["sinr"], sinr, rtol=1e-6, atol=0)


def test_interference_follows_from_channels_and_precoders(arrays: Arrays) -> None:
    power = (np.abs(np.einsum("bmkl,bmjl->bmkj", arrays["h"].conj(), arrays["w"])) ** 2).mean(axis=0)
    power[:, np.arange(40), np.arange(40)] = 0  # the own stream
    expected = np.einsum("mk,nkj->mn", arrays["serving"].astype(float), power)
    np.fill_diagonal(expected, 0)
    assert np.allclose(arrays["interference"], expected, rtol=1e-6, atol=0)


def test_links_are_mutual_requests_to_neighbours(arrays: Arrays) -> None:
    assert (arrays["neighbours"].sum(axis=1) <= 4).all()
    assert not (arrays["requests"] & ~arrays["neighbours"]).any()
    assert (arrays["links"] == (arrays["requests"] & arrays["requests"].T)).all()
    assert arrays["links"].any()


def test_power_split_by_sqrt_beta_is_what_the_aps_radiate_and_the_snapshot_says() -> None:
    config = load("demo", ["radio.power_split=sqrt-beta", "cooperation.policy=always"])
    taken = snapshot(config, slot=0)
    weight = np.sqrt(taken["beta"]) * taken["serving"]
    expected = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
    assert np.allclose(taken["rho"], expected, rtol=1e-12, atol=0)
    assert taken["links"].any()
    for name in ("w", "w_alone"):
        power = (np.abs(taken[name].astype(complex)) ** 2).sum(axis=3)
        assert np.allclose(power, np.broadcast_to(expected, power.shape), rtol=1e-6, atol=0)
        assert power.sum(axis=2).max() <= 1.0
