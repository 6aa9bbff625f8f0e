"""The oracle: gains that are true, links that are worth having, and nothing an AP could not do with them."""

import numpy as np
import pytest

from apnode.agent.policies import Given
from apnode.clusters.graph import adjacency, layers
from apnode.config import Config
from cfmimo.errors import ConfigError
from cfmimo.experiments.central import Sample, sample
from cfmimo.experiments.oracle import Link, candidate_links, greedy_links, requests
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork
from channel_server.topology import Layout, make_layout
from coordinator import tables

LAYERS = {
    "ego": (),
    "directed": ("cooperation.cluster=directed", "cooperation.acceptance=all", "cooperation.neighbour_sets=row"),
    "selective": (
        "cooperation.neighbour_sets=common-ue",
        "precoding.alone=mmse",
        "precoding.joint=selective",
        "precoding.power=peak",
    ),
    "serving": (
        "cooperation.cluster=serving",
        "cooperation.max_neighbours=8",
        "cooperation.neighbour_sets=common-ue",
        "precoding.alone=mmse",
        "precoding.joint=selective",
    ),
}


def drop(layer: str, *settings: str) -> tuple[Config, Layout, Sample]:
    overrides = ("run.episodes=1", "run.slots_per_episode=2", "cooperation.policy=never", "precoding.power=peak")
    config = load("demo", (*overrides, *LAYERS[layer], *settings))
    layout = make_layout(config, 0)
    return config, layout, sample(config, layout, range(2))


def rate(config: Config, layout: Layout, links: list[Link]) -> float:
    """Sum rate of a whole run in which the APs form these links."""
    actions = requests(links, config, layout)
    network = LocalNetwork(config, policy_of=lambda ap, _: Given(ap, actions[ap]))
    network.run()
    slots = tables.slots(network.coordinator.record)
    unit = "requests" if config.cooperation.cluster == "directed" else "formed"
    assert (slots[unit] == len(links)).all()
    return float(slots["sum_rate_bps_hz"].mean())


@pytest.mark.parametrize("layer", LAYERS)
def test_its_first_link_is_the_best_of_all_and_each_adds_something(layer: str) -> None:
    config, layout, known = drop(layer)
    links = greedy_links(config, layout, known.h, known.h_hat_in_reach, 4)
    alone = rate(config, layout, [])
    singles = {link: rate(config, layout, [link]) for link in candidate_links(config, layout)}
    assert max(singles, key=lambda link: singles[link]) == links[0]
    rates = [alone, *(rate(config, layout, links[: n + 1]) for n in range(4))]
    assert (np.diff(rates) > 0).all()


@pytest.mark.parametrize("layer", ["ego", "serving"])
def test_it_chooses_distinct_candidates_until_no_other_adds_anything(layer: str) -> None:
    config, layout, known = drop(layer)
    links, candidates = (
        greedy_links(config, layout, known.h, known.h_hat_in_reach, 10**6),
        candidate_links(config, layout),
    )
    others = sorted({*candidates} - {*links})
    assert len({*links}) == len(links) == len(candidates) - len(others)
    assert others
    enough = rate(config, layout, links)
    assert all(rate(config, layout, [*links, other]) <= enough + 1e-6 for other in others[:: len(others) // 5])
    assert greedy_links(config, layout, known.h, known.h_hat_in_reach, 5) == links[:5]


def grouped(layout: Layout, links: list[Link]) -> list[set[frozenset[int]]]:
    """Of each UE the components of the links between the APs that serve it."""
    groups = []
    for serving in layout.serving.T:
        aps = np.flatnonzero(serving).tolist()
        graph = adjacency(aps, links)
        groups.append({frozenset().union(*layers(ap, graph)) for ap in aps})
    return groups


def test_where_components_of_a_ue_precode_together_links_that_join_some_come_first_and_are_enough() -> None:
    """Here partners tell each other all they know, so that it does not matter through whom they got to know.

    On some layouts, not on this one, a link that joins takes something away, and so is not among them.
    """
    config, layout, known = drop("serving", "seed=1")
    candidates = candidate_links(config, layout)
    links = greedy_links(config, layout, known.h, known.h_hat_in_reach, 10**6)
    assert grouped(layout, links) == grouped(layout, candidates)
    assert len(links) < len(candidates) / 2
    rates = [rate(config, layout, links[:count]) for count in (0, 8, 16, len(links))]
    assert (np.diff(rates) > 0).all()
    assert rate(config, layout, candidates) == pytest.approx(rates[-1], rel=1e-6)


def test_clusters_in_which_links_reach_further_are_refused() -> None:
    config, layout, known = drop("ego")
    joined = config.model_copy(update={"cooperation": config.cooperation.model_copy(update={"cluster": "components"})})
    with pytest.raises(
        ConfigError, match='the oracle knows clusters "ego", "directed" and "serving", not "components"'
    ):
        greedy_links(joined, layout, known.h, known.h_hat_in_reach, 5)
