"""The oracle: gains that are true, links that are worth having, and nothing an AP could not do with them."""

import numpy as np
import pytest

from apnode.config import Config
from apnode.policies import Given
from channel_server.topology import Layout, make_layout
from coordinator.local import LocalNetwork
from coordinator.oracle import Link, candidate_links, greedy_links, requests
from coordinator.presets import ConfigError, load
from coordinator.reference import Sample, sample

LAYERS = {
    "ego": (),
    "directed": ("cooperation.cluster=directed", "cooperation.acceptance=all", "cooperation.neighbour_sets=row"),
    "grant": ("cooperation.acceptance=grant",),
    "selective": (
        "cooperation.neighbour_sets=common-ue",
        "precoding.alone=mmse",
        "precoding.joint=selective",
        "precoding.power=peak",
    ),
}


def drop(layer: str) -> tuple[Config, Layout, Sample]:
    overrides = ("run.episodes=1", "run.slots_per_episode=2", "cooperation.policy=never", "precoding.power=peak")
    config = load("demo", (*overrides, *LAYERS[layer]))
    layout = make_layout(config, 0)
    return config, layout, sample(config, layout, range(2))


def rate(config: Config, layout: Layout, links: list[Link]) -> float:
    """Sum rate of a whole run in which the APs form these links."""
    actions = requests(links, config, layout)
    network = LocalNetwork(config, policy_of=lambda ap, _: Given(actions[ap]))
    network.run()
    slots = network.coordinator.record.slots()
    unit = "requests" if config.cooperation.cluster == "directed" else "formed"
    assert (slots[unit] == len(links)).all()
    return float(slots["sum_rate_bps_hz"].mean())


@pytest.mark.parametrize("layer", LAYERS)
def test_its_first_link_is_the_best_of_all_and_each_adds_something(layer: str) -> None:
    config, layout, known = drop(layer)
    links = greedy_links(config, layout, known.h, known.h_hat, 4)
    alone = rate(config, layout, [])
    singles = {link: rate(config, layout, [link]) for link in candidate_links(config, layout)}
    assert max(singles, key=lambda link: singles[link]) == links[0]
    rates = [alone, *(rate(config, layout, links[: n + 1]) for n in range(4))]
    assert (np.diff(rates) > 0).all()


def test_it_chooses_distinct_candidates_up_to_all_of_them() -> None:
    config, layout, known = drop("ego")
    links = greedy_links(config, layout, known.h, known.h_hat, 10**6)
    assert sorted(links) == sorted(candidate_links(config, layout))
    assert greedy_links(config, layout, known.h, known.h_hat, 5) == links[:5]


def test_clusters_in_which_links_reach_further_are_refused() -> None:
    config, layout, known = drop("ego")
    pairs = config.model_copy(update={"cooperation": config.cooperation.model_copy(update={"cluster": "pairs"})})
    with pytest.raises(ConfigError, match='the oracle knows clusters "ego" and "directed", not "pairs"'):
        greedy_links(pairs, layout, known.h, known.h_hat, 5)
