"""Every frame that a node receives is counted once: as accepted or, for one reason, as dropped."""

import zlib
from collections import Counter
from collections.abc import Iterator

import msgpack
import numpy as np
import pytest

from apnode.access_point import AccessPoint
from apnode.agent.policies import make_policy
from apnode.protocol.fields import Message
from apnode.protocol.messages import KINDS, ApReport, SlotReport, Tick
from apnode.protocol.node import CHANNEL, COORDINATOR, DROPS, Node, Send, ap_address, speaker_of
from apnode.protocol.rng import config_for_aps
from apnode.protocol.wire import VERSION, decode
from cfmimo.presets import load
from channel_server.server import ChannelServer
from coordinator.collector import Coordinator
from coordinator.record import Record
from tests.apnode.examples import EXAMPLES

SHORT = ("radio.num_aps=7", "radio.num_ues=4", "radio.area_m=250", "run.blocks_per_slot=1", "run.episodes=3")
ASKING = (*SHORT, "run.slots_per_episode=4", "cooperation.policy=random", "reward.scope=neighbourhood")
VARIANTS = {
    "mutual": ASKING,
    "directed": (*ASKING, "cooperation.cluster=directed", "cooperation.acceptance=all"),
    "components": (*ASKING, "cooperation.cluster=components", "cooperation.max_cluster_aps=7"),
    "serving": (*ASKING, "cooperation.cluster=serving", "precoding.joint=selective", "precoding.power=average"),
}


class Books:
    """A whole run: what its nodes have received, and what they have counted and reported of it."""

    def __init__(self, variant: str, order_seed: int | None) -> None:
        config = load("demo", VARIANTS[variant])
        known = config_for_aps(config)
        aps = [AccessPoint(ap, known, make_policy(ap, known)) for ap in range(config.radio.num_aps)]
        self.nodes: dict[str, Node] = {n.address: n for n in (ChannelServer(config), Coordinator(config), *aps)}
        self.received: Counter[str] = Counter()
        self.reported: dict[str, Counter[str]] = {address: Counter() for address in self.nodes}
        self.provoked: dict[str, Counter[str]] = {address: Counter() for address in self.nodes}
        self.order = None if order_seed is None else np.random.default_rng(order_seed)
        self.queue: list[Send] = []
        for ap in aps:
            self._post(ap, ap.start(ap.address))

    def run(self) -> Iterator[Send]:
        """Run until every node is done: each frame, just after it has been received."""
        while not all(node.done for node in self.nodes.values()):
            if self.queue:
                send = self.queue.pop(0 if self.order is None else int(self.order.integers(len(self.queue))))
                self.deliver(send.to, send.frame)
                yield send
            for node in () if self.queue else self.nodes.values():
                self._post(node, node.handle(Tick()))

    def deliver(self, to: str, frame: bytes, speakers: frozenset[str] | None = None) -> None:
        self.received[to] += 1
        self._post(self.nodes[to], self.nodes[to].receive(frame, speakers=speakers))

    def provoke(self, sent: Send) -> None:
        """Send frames that must be dropped, and the last one again: where it was received, and elsewhere."""
        damaged, old = bytes([sent.frame[0] ^ 1]) + sent.frame[1:], framed([VERSION - 1, 0])
        for frame, reason in ((damaged, "checksum"), (bytes(2**16 + 1), "oversized"), (old, "version")):
            self.deliver(sent.to, frame)
            self.provoked[sent.to][reason] += 1
        for to in (sent.to, CHANNEL, COORDINATOR, ap_address(3)):
            self.deliver(to, sent.frame)

    def _post(self, sender: Node, sends: list[Send]) -> None:
        self.queue += sends
        for send in sends:
            report = decode(send.frame)
            if isinstance(report, (ApReport, SlotReport)):
                self.reported[sender.address].update(fates(report))

    @property
    def record(self) -> Record:
        """What the coordinator has collected."""
        (coordinator,) = [node for node in self.nodes.values() if isinstance(node, Coordinator)]
        return coordinator.record

    def counted(self, address: str) -> Counter[str]:
        """What became of the frames that a node has received: what it has reported, and what not yet."""
        return self.reported[address] + fates(self.nodes[address]) + Counter(kept=self.nodes[address].kept)


def fates(counts: Node | ApReport | SlotReport) -> Counter[str]:
    return Counter(accepted=counts.accepted, **dict(zip(DROPS, counts.dropped.tolist(), strict=True)))


def framed(content: object) -> bytes:
    body: bytes = msgpack.packb(content)
    return zlib.crc32(body).to_bytes(4, "big") + body


@pytest.mark.parametrize("order_seed", [None, 1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_in_a_healthy_run_frames_are_accepted_unless_they_are_overtaken(variant: str, order_seed: int | None) -> None:
    books = Books(variant, order_seed)
    assert sum(1 for _ in books.run()) == books.received.total()
    for address in books.nodes:
        counted = books.counted(address)
        assert counted.total() == books.received[address]
        assert set(+counted) <= ({"accepted"} if order_seed is None else {"accepted", "late"})


@pytest.mark.parametrize("order_seed", [None, 1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_among_bad_frames_every_frame_is_accepted_or_dropped_once(variant: str, order_seed: int | None) -> None:
    books, fate_of = Books(variant, order_seed), Counter[str]()
    for number, send in enumerate(books.run()):
        if number % 5 == 0:
            books.provoke(send)
    for address in books.nodes:
        counted = books.counted(address)
        assert counted.total() == books.received[address]
        assert {reason: counted[reason] for reason in ("checksum", "oversized", "version")} == books.provoked[address]
        fate_of += counted
    assert {"accepted", "unexpected", "late", "duplicate", "malformed"} <= fate_of.keys()
    assert not fate_of["kept"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_whoever_has_an_aps_key_can_speak_for_no_other_node(variant: str) -> None:
    """Every frame of the run comes from AP 2 as well, to all nodes: true frames, and yet nothing comes of them."""
    books, quiet, forged = Books(variant, None), Books(variant, None), Counter[str]()
    for send in books.run():
        if speaker_of(decode(send.frame)) != ap_address(2):
            for to in books.nodes:
                books.deliver(to, send.frame, frozenset({ap_address(2)}))
                forged[to] += 1
    assert sum(1 for _ in quiet.run()) == quiet.received.total()
    assert [books.counted(address)["forged"] for address in books.nodes] == [forged[to] for to in books.nodes]
    assert books.record.digest() == quiet.record.digest()


@pytest.mark.parametrize("kind", KINDS)
def test_of_every_kind_of_message_there_is_one_speaker(kind: type[Message]) -> None:
    speaker = speaker_of(EXAMPLES[kind])
    assert speaker in (CHANNEL, COORDINATOR) or speaker.startswith("ap/")


def test_the_sum_is_right_at_any_time() -> None:
    """Also while frames wait for their slot."""
    books, waited = Books("mutual", order_seed=3), 0
    for _ in books.run():
        assert all(books.counted(address).total() == books.received[address] for address in books.nodes)
        waited += sum(node.kept for node in books.nodes.values())
    assert waited
