"""Whatever the network does to a frame, and whenever an AP restarts, the run goes on to its end."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from apnode.access_point import AccessPoint
from apnode.agent.policies import make_policy
from apnode.config import Config
from apnode.protocol.fields import Message
from apnode.protocol.messages import KINDS, Deadline, Hello, PilotBlock, RunOver, Tick
from apnode.protocol.node import CHANNEL, COORDINATOR, Node, Send, ap_address
from apnode.protocol.rng import config_for_aps
from apnode.protocol.wire import decode
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork
from channel_server.server import ChannelServer
from coordinator.collector import Coordinator

SHORT = ("radio.num_aps=4", "radio.num_ues=3", "radio.area_m=200", "run.blocks_per_slot=1", "run.episodes=2")
ASKING = (*SHORT, "run.slots_per_episode=2", "cooperation.policy=random", "cooperation.request_rate=0.7")
SERVING = ("cooperation.cluster=serving", "precoding.joint=selective", "precoding.power=peak")
DIRECTED = ("cooperation.cluster=directed", "cooperation.acceptance=all")
VARIANTS = {
    "mutual": ASKING,
    "mutual, neighbourhood": (*ASKING, "reward.scope=neighbourhood"),
    "directed": (*ASKING, *DIRECTED),
    "components": (*ASKING, "cooperation.cluster=components"),
    "serving": (*ASKING, *SERVING),
}
MAX_FRAMES = 3000  # a run here takes a few hundred
VICTIM = 1
OTHERS = [0, 2, 3]
MORE_VARIANTS = {
    **VARIANTS,
    "mutual, rows": (*ASKING, "cooperation.neighbour_sets=row"),
    "directed, rows": (*ASKING, *DIRECTED, "cooperation.neighbour_sets=row"),
    "components, neighbourhood": (*ASKING, "cooperation.cluster=components", "reward.scope=neighbourhood"),
    "components, refused": (*ASKING, "cooperation.cluster=components", "cooperation.max_cluster_aps=2"),
    "directed, neighbourhood": (*ASKING, *DIRECTED, "reward.scope=neighbourhood"),
    "serving, neighbourhood": (*ASKING, *SERVING, "reward.scope=neighbourhood"),
}


@dataclass
class Unreliable:
    """All nodes of a run, over a network of which the test decides how often each frame arrives."""

    config: Config
    copies: Callable[[int, Send], int] = lambda number, send: 1  # by number of the frame
    order: np.random.Generator | None = None  # which of the frames under way is next; None: the oldest
    nodes: dict[str, Node] = field(init=False)
    frames: list[Send] = field(default_factory=list)  # all that were sent
    silences: int = 0  # how often nothing was under way

    def __post_init__(self) -> None:
        self.channel, self.coordinator = ChannelServer(self.config), Coordinator(self.config)
        self.nodes = {CHANNEL: self.channel, COORDINATOR: self.coordinator}
        self.queue: deque[Send] = deque()
        for ap in range(self.config.radio.num_aps):
            self.start(ap)

    def start(self, ap: int, incarnation: int = 0) -> None:
        """Put a fresh AP in the place of whatever was there."""
        known = config_for_aps(self.config)
        node = AccessPoint(ap, known, make_policy(ap, known), incarnation)
        self.nodes[node.address] = node
        self.queue.extend(node.start(f"tcp://ap{ap}:{incarnation}"))

    def run(self) -> "Unreliable":
        """Run until everybody is done, or so long in silence, or in chatter, that nothing will ever come."""
        while not all(node.done for node in self.nodes.values()) and self.silences < 4 * self.config.num_slots + 4:
            if len(self.frames) > MAX_FRAMES:
                break
            if self.queue:
                self.deliver()
            else:
                self.silences += 1
                for node in self.nodes.values():
                    self.queue.extend(node.handle(Tick()))
        return self

    def deliver(self) -> None:
        if self.order is not None:
            self.queue.rotate(int(self.order.integers(len(self.queue))))
        send = self.queue.popleft()
        self.frames.append(send)
        for _ in range(self.copies(len(self.frames) - 1, send)):
            self.queue.extend(self.nodes[send.to].receive(send.frame))

    @property
    def unfinished(self) -> list[str]:
        return [address for address, node in self.nodes.items() if not node.done]

    @property
    def reminded(self) -> list[int]:
        """The slots in which somebody was told that the deadline has passed."""
        messages = (decode(send.frame) for send in self.frames)
        return sorted({message.slot for message in messages if isinstance(message, Deadline)})

    def numbers(self, kind: type[Message]) -> list[int]:
        """The numbers of the frames of a kind."""
        return [number for number, send in enumerate(self.frames) if isinstance(decode(send.frame), kind)]


@pytest.mark.parametrize("variant", MORE_VARIANTS)
def test_without_faults_nobody_ever_waits(variant: str) -> None:
    """The deadline is for faults: a protocol that needs it in a healthy network costs seconds a slot."""
    network = Unreliable(load("demo", MORE_VARIANTS[variant])).run()
    assert network.unfinished == []
    assert network.numbers(Deadline) == []
    assert network.silences == 0


def test_this_network_is_the_local_one_when_nothing_goes_wrong() -> None:
    config = load("demo", VARIANTS["mutual"])
    local = LocalNetwork(config)
    local.run()
    assert Unreliable(config).run().coordinator.record.digest() == local.coordinator.record.digest()


# --- a frame is lost ---------------------------------------------------------------------------------------

# Nobody repeats a hello or the end of the run: a transport that loses those needs help of the runtime.
LOSABLE = [kind for kind in KINDS if kind not in (Hello, RunOver)]


@pytest.fixture(
    scope="module",
    params=["mutual, neighbourhood", "directed", "components, neighbourhood", "components, refused", "serving"],
)
def losses(request: pytest.FixtureRequest) -> dict[int, tuple[type[Message], Unreliable]]:
    """One run for each frame that can be lost: its number, its kind, and how the run without it went."""
    config = load("demo", MORE_VARIANTS[request.param])
    kinds = {number: type(decode(send.frame)) for number, send in enumerate(Unreliable(config).run().frames)}
    return {number: (kind, losing(config, number)) for number, kind in kinds.items() if kind in LOSABLE}


def losing(config: Config, lost: int) -> Unreliable:
    return Unreliable(config, lambda number, send: number != lost).run()


@pytest.mark.parametrize("kind", LOSABLE, ids=lambda kind: kind.__name__)
def test_a_lost_frame_strands_nobody(losses: dict[int, tuple[type[Message], Unreliable]], kind: type[Message]) -> None:
    stranded = {n: run.unfinished for n, (lost, run) in losses.items() if lost is kind and run.unfinished}
    assert stranded == {}


def test_a_lost_frame_costs_a_deadline_in_one_slot_at_most(losses: dict[int, tuple[type[Message], Unreliable]]) -> None:
    costly = {number: (kind.__name__, run.reminded) for number, (kind, run) in losses.items() if len(run.reminded) > 1}
    assert costly == {}


# --- an AP is cut off --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("slots", [1, 5])
@pytest.mark.parametrize("ways", ["to", "from", "to and from"])
def test_an_ap_that_was_cut_off_for_some_slots_takes_part_again(variant: str, slots: int, ways: str) -> None:
    """Its network was down for so long that the channel server stopped waiting for it, and told it so in vain."""
    config = load("demo", (*VARIANTS[variant], "run.slots_per_episode=10"))
    dark = range(2, 2 + slots)

    def copies(number: int, send: Send) -> int:
        message: Any = decode(send.frame)
        sender = getattr(message, "ap", None)
        cut = ("to" in ways and send.to == ap_address(VICTIM)) or ("from" in ways and sender == VICTIM)
        return not (cut and getattr(message, "slot", -1) in dark)

    network = Unreliable(config, copies).run()
    assert network.unfinished == []
    silent = network.coordinator.record.silent
    assert not silent[:, OTHERS].any()
    back = dark.stop + 2  # two slots to be heard of, waited for and in step again
    assert not silent[back:].any()
    assert [slot for slot in network.reminded if slot >= back] == []


# --- a frame is doubled ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=VARIANTS)
def healthy(request: pytest.FixtureRequest) -> Unreliable:
    return Unreliable(load("demo", VARIANTS[request.param])).run()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_frames_that_come_twice_change_nothing(healthy: Unreliable, kind: type[Message]) -> None:
    doubled = Unreliable(healthy.config, lambda number, send: 1 + isinstance(decode(send.frame), kind)).run()
    assert doubled.unfinished == []
    assert doubled.reminded == []
    assert doubled.coordinator.record.digest() == healthy.coordinator.record.digest()


# --- an AP restarts ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=VARIANTS)
def restarts(request: pytest.FixtureRequest) -> dict[int, Unreliable]:
    """One run for every third moment at which an AP can restart, from the first slot's pilots on."""
    config = load("demo", VARIANTS[request.param])
    whole = Unreliable(config).run()
    return {moment: restarted(config, moment) for moment in range(whole.numbers(PilotBlock)[0], len(whole.frames), 3)}


def restarted(config: Config, moment: int) -> Unreliable:
    """A run in which an AP dies after so many frames, with what is under way to it, and is back at once."""

    def copies(number: int, send: Send) -> int:
        if number == moment:
            network.queue = deque(waiting for waiting in network.queue if waiting.to != ap_address(VICTIM))
            network.start(VICTIM, incarnation=1)
        return not (number == moment and send.to == ap_address(VICTIM))

    network = Unreliable(config, copies)
    return network.run()


def test_an_ap_may_restart_at_any_moment(restarts: dict[int, Unreliable]) -> None:
    assert {moment: run.unfinished for moment, run in restarts.items() if run.unfinished} == {}


def test_a_restart_silences_nobody_else(restarts: dict[int, Unreliable]) -> None:
    silenced = {moment: run.coordinator.record.silent[:, OTHERS] for moment, run in restarts.items()}
    assert [moment for moment, silent in silenced.items() if silent.any()] == []


def test_a_restart_costs_nobody_a_deadline_but_in_clusters_beyond_partners_one(restarts: dict[int, Unreliable]) -> None:
    """Peers learn that it is elsewhere; who is farther away in a cluster hears nothing of it and waits, in one slot."""
    allowed = next(iter(restarts.values())).config.cooperation.is_transitive
    assert {moment: run.reminded for moment, run in restarts.items() if len(run.reminded) > allowed} == {}


@pytest.mark.parametrize("variant", MORE_VARIANTS)
@pytest.mark.parametrize("victims", [(0, 1), (1, 3)])
def test_two_aps_may_restart_together(variant: str, victims: tuple[int, int]) -> None:
    """A machine with several APs on it is gone and back. Some of their last frames are still under way."""
    config = load("demo", MORE_VARIANTS[variant])
    runs = {moment: restarted_together(config, moment, victims) for moment in range(9, 150, 10)}
    assert {moment: (run.unfinished, len(run.frames)) for moment, run in runs.items() if run.unfinished} == {}


def restarted_together(config: Config, moment: int, victims: tuple[int, int]) -> Unreliable:
    def copies(number: int, send: Send) -> int:
        for ap in victims if number == moment else ():
            network.start(ap, incarnation=1)
        return 1

    network = Unreliable(config, copies)
    return network.run()


# --- all at once -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", MORE_VARIANTS)
@pytest.mark.parametrize("seed", range(3))
def test_a_run_with_faults_of_every_kind_comes_to_its_end(variant: str, seed: int) -> None:
    """Frames lost, doubled and out of order, and APs that restart."""
    rng = np.random.default_rng(seed)
    incarnation = Counter[int]()

    def copies(number: int, send: Send) -> int:
        if number > 20 and rng.random() < 0.01:
            ap = int(rng.integers(4))
            incarnation[ap] += 1
            network.queue = deque(waiting for waiting in network.queue if waiting.to != ap_address(ap))
            network.start(ap, incarnation[ap])
        if type(decode(send.frame)) not in LOSABLE:
            return 1
        return int(rng.choice([0, 1, 2], p=[0.05, 0.9, 0.05]))

    config = load("demo", (*MORE_VARIANTS[variant], "run.slots_per_episode=4"))
    network = Unreliable(config, copies, np.random.default_rng(seed + 100))
    assert network.run().unfinished == []
    assert network.channel.done
