"""What an AP knows of a layout: how fast channels change in it, from the first pilots that it heard there."""

from collections.abc import Iterator

import numpy as np

from apnode.config import Config
from apnode.episode import Episode
from apnode.protocol.messages import Association, ComplexArray
from apnode.radio.precoding import Precoder
from cfmimo.presets import load
from channel_server.fading import channels, received_pilots, ue_speeds
from channel_server.topology import associations, make_layout

SMALL = ("radio.num_aps=20", "radio.num_ues=10", "radio.area_m=450")


def episode(config: Config, ap: int, association: Association, y: ComplexArray) -> Episode:
    return Episode.begin(config, ap, association, Precoder(ap, config, association), y)


def heard(config: Config) -> Iterator[tuple[int, Association, list[ComplexArray]]]:
    """By AP what it is told of the first layout, and the pilots of two slots there."""
    layout = make_layout(config, 0)
    pilots = [received_pilots(config, layout, channels(config, layout, slot), slot) for slot in (0, 7)]
    for ap, association in enumerate(associations(config, layout, 0)):
        yield ap, association, [y[:, ap] for y in pilots]


def test_agents_that_believe_see_how_fast_the_channels_of_their_users_change() -> None:
    config = load("hidden", (*SMALL, "cooperation.policy=belief"))
    speeds, changes = ue_speeds(config, 0), dict[float, list[float]]()
    for ap, association, (y, _) in heard(config):
        observation = episode(config, ap, association, y).observation
        assert len(observation) == len(association.reach)
        for ue in association.ues:
            changes.setdefault(speeds[ue], []).append(observation[association.reach.index(ue)])
    assert np.mean(changes[3.0]) < 0.15
    assert np.mean(changes[30.0]) > 0.4


def test_who_comes_back_in_a_layout_sees_what_it_saw_at_first() -> None:
    """Other blocks tell something else of it, and what an AP expects of its groups would change."""
    config = load("hidden", (*SMALL, "cooperation.policy=belief"))
    for ap, association, (first, later) in heard(config):
        stayed, back = episode(config, ap, association, first), episode(config, ap, association, later)
        assert (stayed.observation != back.observation).any()
        assert back.recall(config, stayed.state())
        np.testing.assert_array_equal(back.observation, stayed.observation)
