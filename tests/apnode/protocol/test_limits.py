"""The bound on frames counts all that a frame may carry, in every network."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apnode.config import Config
from apnode.config.cooperation import Cooperation, Precoding
from apnode.config.network import Radio, Run
from apnode.protocol.fields import MAX_TEXT, Message
from apnode.protocol.limits import largest_frame
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
from apnode.protocol.wire import decode, encode
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork

SELECTIVE = ("precoding.joint=selective", "precoding.alone=mmse")
WAYS = {  # to cooperate
    "ego": (),
    "directed": ("cooperation.cluster=directed", "cooperation.acceptance=all"),
    "components": ("cooperation.cluster=components", "cooperation.policy=always"),
    "serving": ("cooperation.cluster=serving", "cooperation.policy=always", *SELECTIVE),
    "selective": ("cooperation.policy=forecast", *SELECTIVE),
    "belief": ("cooperation.cluster=serving", "cooperation.policy=belief", *SELECTIVE),
    "shared subsets": ("learning.share=true",),
    "shared neighbours": ("learning.share=true", "learning.values=neighbours", "learning.hidden=[300,200]"),
}


def longest_frame(config: Config) -> int:
    """Of a run; a node would raise a WireError rather than send a longer one than its bound."""
    return max(len(send.frame) for send in LocalNetwork(config).frames())


def test_agents_that_share_large_networks_do_so() -> None:
    """What a ChannelBlock of an episode's last slot carries, too, counts."""
    sizes = ("radio.num_aps=5", "radio.num_ues=4", "run.episodes=1", "run.slots_per_episode=2")
    config = load("demo", ("learning.share=true", "cooperation.max_neighbours=8", *sizes))
    assert 2**16 < longest_frame(config) <= largest_frame(config)


def test_a_frame_may_be_as_long_as_it_takes() -> None:
    sizes = ("radio.num_aps=2", "radio.num_ues=3", "run.blocks_per_slot=60000")
    assert longest_frame(load("demo", (*sizes, "run.episodes=1", "run.slots_per_episode=1"))) > 2**24


SIZES = st.fixed_dictionaries(
    {
        "radio.num_aps": st.integers(1, 9),
        "radio.num_ues": st.integers(1, 12),
        "radio.antennas": st.integers(1, 8),
        "radio.pilot_length": st.integers(1, 30),
        "radio.max_serving_aps": st.integers(1, 9),
        "run.blocks_per_slot": st.integers(1, 6),
        "cooperation.max_neighbours": st.integers(1, 8),
        "cooperation.reported_interferers": st.integers(1, 20),
    }
)


@settings(max_examples=25, deadline=None)
@given(way=st.sampled_from(sorted(WAYS)), sizes=SIZES, seed=st.integers(0, 1000))
def test_no_frame_of_a_run_is_longer_than_the_bound(way: str, sizes: dict[str, Any], seed: int) -> None:
    overrides = [*WAYS[way], *(f"{key}={value}" for key, value in sizes.items())]
    config = load("demo", [*overrides, "run.episodes=1", "run.slots_per_episode=2"], seed)
    assert longest_frame(config) <= largest_frame(config)


def largest_messages(config: Config) -> list[Message]:
    """The messages whose size grows with the config, as long as they can be: one AP serves all UEs."""
    blocks, radio, cooperation = config.run.blocks_per_slot, config.radio, config.cooperation
    partners = tuple(range(min(cooperation.max_cluster_aps, radio.num_aps)))
    ues, aps = tuple(range(radio.num_ues)), tuple(range(radio.num_aps))
    others = tuple(range(60_000, 60_000 + cooperation.max_neighbours))
    per_ue = np.ones(radio.num_ues)
    w = np.ones((blocks, radio.num_ues, radio.antennas), complex)
    interferers = np.ones((radio.num_ues, min(cooperation.reported_interferers, radio.num_aps)), int)
    gains = np.ones((*interferers.shape, radio.antennas))
    hearers = np.full(radio.num_ues, min(radio.num_ues, MOST_STREAMS) * config.hears_streams)
    at = np.concatenate([np.arange(count) for count in hearers])
    heard = {"hearers": hearers, "heard_at": at, "level": np.full(len(at), 255)}
    far, sent, dropped = 2**40, np.full((2, len(KINDS)), 2**32 - 1), np.full(16, 2**32 - 1)
    endpoints = ("x" * MAX_TEXT,) * len(others)
    shape = (blocks, radio.antennas)
    estimates = np.ones((*shape, radio.num_ues), complex), per_ue, np.ones((*shape, radio.antennas), complex)
    return [
        Association(far, ues, per_ue, np.zeros(len(ues), int), others, endpoints, np.ones(len(others)), reach=ues),
        PilotBlock(far, far, np.ones((blocks, radio.antennas, radio.pilot_length), complex)),
        CoopRequest(far, 0, ues),
        ChannelBlock(far, 0, ues, *estimates),
        ClusterBlock(far, 0, 0, ues, *estimates),
        Transmission(far, 0, ues, w, w, partners),
        SlotFeedback(far, per_ue, per_ue, interferers, interferers.astype(float), interferers, gains, **heard),
        SelfReport(far, 0, np.ones(6)),
        ApReport(
            far, 0, others, others, partners, *4 * (0.1,), sent, dropped, 65534, far, far, far, others, far, np.ones(6)
        ),
        SlotReport(
            far,
            far,
            *4 * (np.ones((blocks, len(ues))),),
            np.ones((len(aps), 2)),
            far,
            aps,
            sent,
            dropped,
            far,
        ),
    ]


def is_read(message: Message, max_bytes: int) -> bool:
    """Whether a frame of the message is, where none may be longer than that."""
    return type(decode(encode(message, 2**24), max_bytes)) is type(message)


@pytest.mark.parametrize(
    "radio",
    [
        Radio(),
        Radio(num_aps=1, num_ues=1, antennas=1, pilot_length=1),
        Radio(num_aps=5000, num_ues=2, antennas=1),
        Radio(num_aps=3, num_ues=3000, antennas=1),
        Radio(num_aps=70, num_ues=60, antennas=16, pilot_length=150),
    ],
)
@pytest.mark.parametrize("reported", [1, 64])
@pytest.mark.parametrize("cluster", [{}, {"policy": "belief", "cluster": "serving"}], ids=["ego", "belief"])
def test_no_frame_is_longer_than_the_config_foresees(radio: Radio, reported: int, cluster: dict[str, Any]) -> None:
    config = Config(
        radio=radio,
        cooperation=Cooperation(max_neighbours=8, reported_interferers=reported, max_cluster_aps=2000, **cluster),
        precoding=Precoding(joint="selective"),
    )
    for message in largest_messages(config):
        assert is_read(message, largest_frame(config))


@pytest.mark.parametrize(
    "radio",
    [
        Radio(num_aps=1, num_ues=1, antennas=1, pilot_length=1),
        Radio(num_aps=2000, num_ues=2, antennas=1),
        Radio(num_aps=3, num_ues=3000, antennas=1, max_serving_aps=3),
    ],
)
def test_the_whole_graph_of_links_fits_a_frame_where_it_is_told(radio: Radio) -> None:
    """Every AP has all the partners that it may have, and every UE all the APs that may serve it."""
    aps, ues = np.arange(radio.num_aps), np.arange(radio.num_ues)
    links = np.stack([np.repeat(aps, 8), np.zeros(8 * len(aps), int)], axis=1)
    served = min(radio.max_serving_aps, radio.num_aps)
    serves = np.stack([np.tile(aps[:served], len(ues)), np.repeat(ues, served)], axis=1)
    state = LinkState(2**40, 0, 2**40, tuple(aps.tolist()), links, np.ones(len(links)), serves)
    cooperation = Cooperation(max_neighbours=8, reported_interferers=1, cluster="components")
    config = Config(radio=radio, run=Run(blocks_per_slot=1), cooperation=cooperation)
    assert is_read(state, largest_frame(config))


@pytest.mark.parametrize(
    "radio",
    [
        Radio(num_aps=1, num_ues=1, antennas=1, pilot_length=1),
        Radio(num_aps=3, num_ues=2000, antennas=1, max_serving_aps=2),
        Radio(num_aps=300, num_ues=20, antennas=1, max_serving_aps=30),
    ],
)
def test_all_links_between_aps_that_serve_a_ue_fit_a_frame_where_they_are_told(radio: Radio) -> None:
    """One neighbour is told of all links of all UEs at once, and whoever precodes names all other APs."""
    ues, most = range(radio.num_ues), range(radio.most_serving_aps)
    links = [(ue, ap, partner) for ue in ues for ap in most for partner in most if partner != ap]
    messages = [CommonLinks(2**40, 0, 2**40, np.array(links, int).reshape(-1, 3))]
    partners, w = tuple(range(radio.num_aps)), np.ones((1, radio.num_ues, 1), complex)
    messages.append(Transmission(2**40, 0, tuple(ues), w, w, partners))
    config = Config(
        radio=radio,
        run=Run(blocks_per_slot=1),
        cooperation=Cooperation(cluster="serving", reported_interferers=1),
        precoding=Precoding(joint="selective"),
    )
    assert all(is_read(message, largest_frame(config)) for message in messages)


def test_who_transmits_to_each_ue_fits_a_frame_where_it_is_told() -> None:
    """Where many APs may serve a UE, messages of links are longer."""
    config = Config(
        radio=Radio(num_aps=6, num_ues=3000, antennas=1, pilot_length=1, max_serving_aps=1),
        run=Run(blocks_per_slot=1),
        cooperation=Cooperation(cluster="serving", serving="forecast", reported_interferers=1, max_neighbours=1),
        precoding=Precoding(joint="selective"),
    )
    per_ue, one = np.ones(3000), np.ones((3000, 1), int)
    feedback = SlotFeedback(0, per_ue, per_ue, one, one.astype(float), one, one[..., None], one, one[:, 0])
    assert is_read(feedback, largest_frame(config))
