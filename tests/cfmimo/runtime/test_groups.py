"""Which APs share a process: all of them, each once, neighbours in space, and the same groups on every machine."""

from pathlib import Path

import numpy as np
import pytest

from apnode.config import Config
from cfmimo.presets import load
from cfmimo.runtime.groups import groups_of, num_groups
from cfmimo.runtime.local import LocalNetwork
from channel_server.geometry import ap_positions, distances
from tests.test_determinism import SMALL


def config_of(aps: int, together: int, *settings: str) -> Config:
    return load("demo", (f"radio.num_aps={aps}", f"run.aps_per_actor={together}", *settings))


@pytest.mark.parametrize("aps", [1, 2, 7, 100])
@pytest.mark.parametrize("together", [1, 3, 10, 50, 200])
def test_every_ap_is_in_one_group_and_none_is_too_large_or_needless(aps: int, together: int) -> None:
    config = config_of(aps, together)
    groups = groups_of(config)
    assert sorted(ap for group in groups for ap in group) == list(range(aps))
    sizes = [len(group) for group in groups]
    assert max(sizes) <= together
    assert max(sizes) - min(sizes) <= 1
    assert len(groups) == num_groups(config) == -(-aps // together)


def test_aps_that_share_a_process_are_near_each_other() -> None:
    config = config_of(400, 25)
    xy = ap_positions(config)
    near = distances(xy, xy, None)
    spread = np.mean([near[np.ix_(group, group)].mean() for group in groups_of(config)])
    assert spread < 0.3 * near.mean()


def test_where_a_file_has_no_positions_numbers_stand_for_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    beta, xy = rng.uniform(1e-12, 1e-9, (6, 3)), np.array([[5, 1], [0, 1], [9, 1], [1, 1], [6, 1], [8, 1.0]])
    found = {}
    for name, arrays in {"without": {}, "with": {"ap_xy": xy, "ue_xy": xy[:3]}}.items():
        np.savez(tmp_path / f"{name}.npz", beta=beta, **arrays)
        file = f"propagation.channel_file={tmp_path / name}.npz"
        found[name] = groups_of(config_of(6, 2, "radio.num_ues=3", "run.episodes=1", file))
    assert found == {"without": [(0, 1), (2, 3), (4, 5)], "with": [(0, 4), (1, 3), (2, 5)]}


def test_groups_change_no_digest_and_no_ap_knows_of_them() -> None:
    digests = set()
    for together in (1, 3, 10):
        network = LocalNetwork(load("demo", (*SMALL, "run.episodes=2", f"run.aps_per_actor={together}")))
        assert {ap._config.run.aps_per_actor for ap in network.aps} == {1}
        network.run()
        digests.add(network.coordinator.record.digest())
    assert len(digests) == 1
