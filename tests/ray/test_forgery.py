"""Frames that claim to be another's: who holds an AP's key can speak for that AP alone, who holds none for nobody."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import ray

from apnode.protocol.fields import Message
from apnode.protocol.messages import Deadline, Hello, RunOver
from apnode.protocol.node import CHANNEL, COORDINATOR, DROPS, Send, speaker_of
from apnode.protocol.wire import encode
from apnode.runtime.transport import CurveKeys, ZeroMqTransport
from cfmimo.presets import load
from tests.apnode.examples import EXAMPLES
from tests.ray.running import QUIET, SMALL, local_record, started

pytestmark = pytest.mark.ray

STOLEN = "ap/2"
TOOTHED: Sequence[Message] = (RunOver(0), Deadline(10), Hello(1, 2**40, "tcp://127.0.0.1:9"))
FORGED = [message for message in (*EXAMPLES.values(), *TOOTHED) if speaker_of(message) != STOLEN]


class Forger:
    """Sends what it has no right to say to every node, again and again."""

    def __init__(self, keys: CurveKeys, endpoints: dict[str, str]) -> None:
        self.transport = ZeroMqTransport("127.0.0.1", keys)
        self._endpoints = endpoints
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._forge)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *raised: Any) -> None:
        self._ended.set()
        self._thread.join()
        self.transport.close()

    def _forge(self) -> None:
        while not self._ended.wait(0.01):
            for message in FORGED:
                for node, endpoint in self._endpoints.items():
                    self.transport.send(endpoint, [Send(node, encode(message))])


@pytest.mark.parametrize("whose", ["a stolen AP's", "a stranger's"])
def test_what_is_forged_has_no_effect_with_any_key_but_the_right_one(session: str, whose: str) -> None:
    config = load("demo", (*SMALL, "run.episodes=8", "cooperation.policy=random"), seed=3)
    cluster = started(config, session, go=False)
    keys = cluster.networks[STOLEN].keys
    if whose == "a stranger's":
        (own,) = CurveKeys.of_processes([[STOLEN]])
        keys = CurveKeys(own.public, own.secret, keys.of_nodes)
    nodes = {**cluster.actors}
    endpoints = dict(zip(nodes, ray.get([actor.open.remote() for actor in nodes.values()], timeout=60), strict=True))
    assert {CHANNEL, COORDINATOR, STOLEN} < endpoints.keys()
    with Forger(keys, endpoints):
        cluster.launch()
        record = cluster.follow(QUIET)
    assert record.digest() == local_record(config).digest()
    assert record.reported.all()
    assert cluster.restarts == []
    rejected = dict(zip(DROPS, record.rejected.tolist(), strict=True))
    assert rejected.pop("forged") > 1000 if whose == "a stolen AP's" else rejected.pop("forged") == 0
    assert set(rejected.values()) == {0}
