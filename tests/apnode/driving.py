"""One access point by hand: real frames in, real frames out, and messages to give it."""

from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from apnode.access_point import AccessPoint
from apnode.agent.view import View
from apnode.clusters.formation import link_state
from apnode.clusters.graph import Entry
from apnode.protocol.fields import Message
from apnode.protocol.messages import (
    ApReport,
    Association,
    ChannelBlock,
    ClusterBlock,
    CoopDecline,
    CoopRequest,
    LinkState,
    PilotBlock,
    SlotFeedback,
)
from apnode.protocol.node import DROPS, Send
from apnode.protocol.wire import decode, encode
from cfmimo.presets import load

SMALL = (
    "radio.num_aps=5",
    "radio.num_ues=3",
    "run.blocks_per_slot=2",
    "run.episodes=2",
    "run.slots_per_episode=10",
    "cooperation.policy=never",
)
DIRECTED = ("cooperation.cluster=directed", "cooperation.acceptance=all")
COMPONENTS = ("cooperation.cluster=components", "cooperation.max_cluster_aps=3")
SERVING = ("cooperation.cluster=serving", "precoding.joint=selective", "precoding.power=peak")
NEIGHBOURHOOD = ("reward.scope=neighbourhood",)
NEIGHBOURS = (2, 1, 3)  # of AP 0, strongest first; AP 4 is none
UES = (0, 2)  # that AP 0 serves
SHAPE = (2, 4)  # blocks, antennas

Out = list[tuple[str, Message]]


class Asks:
    """Asks the same neighbours in every slot: all that a policy needs."""

    def __init__(self, neighbours: Iterable[int]) -> None:
        self._action = sum(1 << NEIGHBOURS.index(n) for n in neighbours)

    def act(self, view: View) -> int:
        return self._action


class Driven:
    """AP 0 of a small network, whose whole world is what the test gives it."""

    def __init__(self, *overrides: str, asks: Iterable[int] = (), incarnation: int = 0) -> None:
        config = load("demo", (*SMALL, *overrides))
        self.ap = AccessPoint(0, config, Asks(asks), incarnation)

    def frames(self, *messages: Message) -> list[Send]:
        """Every frame that the messages make it send."""
        return [send for message in messages for send in self.ap.receive(encode(message))]

    def give(self, *messages: Message) -> Out:
        """Every message that the messages make it send, and to whom."""
        return [(send.to, decode(send.frame)) for send in self.frames(*messages)]

    @property
    def dropped(self) -> dict[str, int]:
        """Frames dropped since the last report, by reason."""
        return {reason: int(count) for reason, count in zip(DROPS, self.ap.dropped, strict=True) if count}


def associated(*overrides: str, asks: Iterable[int] = ()) -> Driven:
    """AP 0 that knows its UEs and its neighbours."""
    driven = Driven(*overrides, asks=asks)
    assert driven.give(association()) == []
    return driven


def opened(*overrides: str, asks: Iterable[int] = ()) -> Driven:
    """AP 0 in slot 0, having said whom it asks."""
    driven = associated(*overrides, asks=asks)
    driven.give(pilots())
    return driven


def association(**changed: Any) -> Association:
    fields: dict[str, Any] = {
        "episode": 0,
        "ues": UES,
        "beta": [3e-10, 2e-12, 1e-9],
        "pilots": [0, 1, 2],
        "neighbours": NEIGHBOURS,
        "endpoints": tuple(f"tcp://ap{n}:1" for n in NEIGHBOURS),
        "interference": [3e-10, 2e-10, 1e-10],
    }
    return Association(**{**fields, **changed})


def gaussian(shape: Sequence[int], *key: int) -> Any:
    rng = np.random.default_rng(key)
    return 1e-5 * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


def pilots(slot: int = 0, episode: int = 0, shape: Sequence[int] = (*SHAPE, 10)) -> PilotBlock:
    return PilotBlock(episode, slot, gaussian(shape, slot))


def request(sender: int, slot: int = 0, ues: tuple[int, ...] = (1,)) -> CoopRequest:
    return CoopRequest(slot, sender, ues)


def block(sender: int, slot: int = 0, ues: tuple[int, ...] = (0, 1, 2), shape: Sequence[int] = SHAPE) -> ChannelBlock:
    h_hat = gaussian((*shape, len(ues)), slot, sender)
    return ChannelBlock(slot, sender, ues, h_hat, [0.1] * len(ues), np.zeros((0, shape[1], shape[1])))


def decline(sender: int, slot: int = 0) -> CoopDecline:
    return CoopDecline(slot, sender)


def entry(ap: int, *partners: int, ues: tuple[int, ...] = (1,), power: float = 1e-10) -> Entry:
    return Entry(ap, ues, dict.fromkeys(partners, power))


def state(sender: int, number: int, *entries: Entry, slot: int = 0) -> LinkState:
    return link_state(slot, sender, number, entries)


def cluster_block(sender: int, owner: int, ues: tuple[int, ...] = (0, 1, 2), slot: int = 0) -> ClusterBlock:
    told = block(owner, slot, ues)
    return ClusterBlock(slot, sender, owner, ues, told.h_hat, told.rho, told.untold)


def feedback(slot: int = 0, rate: Sequence[float] = (2.0, 1.0), alone: Sequence[float] = (1.0, 1.0)) -> SlotFeedback:
    heard = np.full((len(rate), 2), 4), np.full((len(rate), 2), 1e-11)
    return SlotFeedback(slot, rate, alone, *heard)


def kinds(out: Out) -> list[tuple[str, type[Message]]]:
    return [(to, type(message)) for to, message in out]


def only(out: Out, kind: type[Any]) -> Any:
    """The one message of a kind."""
    (found,) = (message for _, message in out if type(message) is kind)
    return found


def each_order(driven: Any, messages: Sequence[Message]) -> list[tuple[Any, ...]]:
    """The sorted frames that come of each order of arrival of the messages."""
    return [
        tuple(sorted((send.to, send.frame) for send in driven().frames(*order))) for order in permutations(messages)
    ]


def without_drops(out: Out) -> list[tuple[str, bytes]]:
    """Frames for comparison, of reports without the count of drops."""
    return [(to, encode(_forgiven(message))) for to, message in out]


def _forgiven(message: Message) -> Message:
    if not isinstance(message, ApReport):
        return message
    fields = {name: getattr(message, name) for name in ApReport.__slots__}
    return ApReport(**{**fields, "dropped": np.zeros_like(message.dropped)})
