"""APs that report false channels: they are found out, and the others lose little by them."""

from typing import Any

import numpy as np
import pytest

from apnode.agent.policies import Fixed, Policy, make_policy
from apnode.config import Config
from apnode.protocol.messages import ChannelBlock, ClusterBlock, CoopRequest
from apnode.protocol.node import Send, ap_address
from apnode.protocol.wire import decode
from apnode.runtime.injector import EAGER, FACTOR, LIES, Fault
from cfmimo.presets import load
from cfmimo.runtime.fault_plan import Faults
from cfmimo.runtime.local import LocalNetwork
from channel_server.topology import make_layout
from coordinator import tables
from coordinator.record import Record
from coordinator.watch.metrics import RunMetrics

LIARS = (4, 11)
ONE_BLOCK = ("run.blocks_per_slot=1", "cooperation.policy=always", "run.episodes=2")
VARIANTS = {
    "ego": ONE_BLOCK,
    "directed": (*ONE_BLOCK, "cooperation.cluster=directed", "cooperation.acceptance=all"),
    "serving": (
        *("run.episodes=1", "cooperation.policy=always", "cooperation.cluster=serving", "precoding.alone=mmse"),
        *("cooperation.neighbour_sets=common-ue", "precoding.joint=selective", "precoding.power=average"),
    ),
}


def network(config: Config, kind: str, order: int | None = None, first: int = 0, slots: int = 10**6) -> LocalNetwork:
    """All APs, some of them liars."""
    lies = (Fault(first, ap_address(ap), "lie", slots, kind=kind) for ap in LIARS)
    return LocalNetwork(config, order, faults=Faults(tuple(lies)))


def without_liars(config: Config) -> LocalNetwork:
    """The same, but the liars cooperate with nobody."""

    def policy_of(ap: int, known: Config) -> Policy:
        return Fixed(ask=False) if ap in LIARS else make_policy(ap, known)

    return LocalNetwork(config, policy_of=policy_of)


def honest_rate(config: Config, record: Record) -> float:
    """Mean rate of the UEs that an honest AP serves [bit/s/Hz]."""
    rates, slots = [], config.run.slots_per_episode
    for episode in range(config.run.episodes):
        serving = make_layout(config, episode).serving.copy()
        serving[list(LIARS)] = False
        sinr = record.sinr[episode * slots : (episode + 1) * slots]
        rates.append(np.log2(1 + sinr[..., serving.any(axis=0)]).mean())
    return float(np.mean(rates))


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_ap_that_tells_anything_but_its_channels_is_flagged_and_no_other_is(variant: str) -> None:
    config = load("demo", VARIANTS[variant])
    local = network(config, "random")
    local.run()
    assert local.coordinator.record.flagged(config.num_slots - 1) == LIARS
    assert not local.coordinator.record.flagged(0)


@pytest.mark.parametrize("kind", LIES)
def test_the_ues_of_honest_aps_keep_nine_tenths_of_what_they_have_without_liars(kind: str) -> None:
    config = load("demo", VARIANTS["ego"])
    lying, absent = network(config, kind), without_liars(config)
    lying.run()
    absent.run()
    kept, had = (honest_rate(config, local.coordinator.record) for local in (lying, absent))
    assert kept >= 0.9 * had


def test_a_network_that_makes_others_ask_does_not_spread_and_who_tells_it_is_flagged() -> None:
    """The liars' networks want every link. Others ask for the links that they ask for without that."""
    small = ("radio.num_aps=20", "radio.num_ues=8", "radio.area_m=450", "run.episodes=6", "run.blocks_per_slot=1")
    config = load("selective", small)
    poisoned, honest = network(config, EAGER), LocalNetwork(config)
    poisoned.run()
    honest.run()
    links = []
    for local in (poisoned, honest):
        of_honest = np.delete(local.coordinator.record.requested, LIARS, axis=1)
        links.append(of_honest[config.num_slots // 2 :].sum())
    assert links[0] == pytest.approx(links[1], rel=0.15)
    record = poisoned.coordinator.record
    assert record.flagged(config.num_slots - 1) == tuple(sorted({*LIARS} & partners_when_sharing(record, config)))
    assert record.flagged(config.num_slots - 1)


def partners_when_sharing(record: Record, config: Config) -> set[int]:
    """APs that were partners when agents shared what they had learned, but for the last time."""
    last = np.arange(config.run.slots_per_episode - 1, config.num_slots - 1, config.run.slots_per_episode)
    at, ap, position = np.nonzero(record.linked[last] & record.requested[last])
    honest = ~np.isin(ap, LIARS)
    return set(record.neighbours[last[at], ap, position][honest].tolist())


Told = dict[tuple[int, int, str, tuple[int, ...]], Any]  # by slot, owner, receiver and UEs: estimates


def told(local: LocalNetwork) -> Told:
    """What APs tell each other of their channels in a run."""
    blocks: Told = {}

    def watch(send: Send) -> None:
        message = decode(send.frame)
        if isinstance(message, ChannelBlock | ClusterBlock):
            owner = message.owner if isinstance(message, ClusterBlock) else message.ap
            blocks[message.slot, owner, send.to, message.ues] = message.h_hat

    local.run(watch)
    return blocks


@pytest.mark.parametrize("variant", ["ego", "serving"])
def test_a_liar_lies_in_the_slots_of_its_fault_and_in_no_other(variant: str) -> None:
    config = load("demo", (*VARIANTS[variant], "run.episodes=1", "run.slots_per_episode=3"))
    honest, lying = told(LocalNetwork(config, order_seed=1)), told(network(config, "scaled", 1, first=1, slots=1))
    assert honest.keys() == lying.keys()
    for (slot, owner, *at), h_hat in lying.items():
        factor = FACTOR if owner in LIARS and slot == 1 else 1
        np.testing.assert_allclose(h_hat, factor * honest[slot, owner, *at], rtol=1e-6)


def test_a_suspect_is_not_asked() -> None:
    config = load("demo", VARIANTS["ego"])
    local, asked = network(config, "scaled"), set()

    def watch(send: Send) -> None:
        message = decode(send.frame)
        if isinstance(message, CoopRequest):
            asked.add((message.slot, message.ap, int(send.to.removeprefix("ap/"))))

    local.run(watch)
    record = local.coordinator.record
    suspicions = [record.suspicions(slot) for slot in range(config.num_slots)]
    assert suspicions[-1].sum() >= 2
    assert not any(suspicions[slot][ap, other] for slot, ap, other in asked)


@pytest.mark.parametrize("preset", ["demo", "selective"])
def test_nobody_is_suspected_where_nobody_lies(preset: str) -> None:
    config = load(preset, ("radio.num_aps=20", "radio.num_ues=8", "radio.area_m=450", "run.episodes=4"))
    local = LocalNetwork(config)
    local.run()
    assert not tables.aps(local.coordinator.record)["suspects"].any()


def test_the_order_of_delivery_does_not_change_who_is_suspected() -> None:
    config = load("demo", (*ONE_BLOCK, "run.episodes=1"))
    found = []
    for order_seed in (None, 1):
        local = network(config, "random", order_seed)
        local.run()
        found.append((tables.aps(local.coordinator.record)["suspects"] > 0).tolist())
    assert found[0] == found[1]
    assert any(found[0])


def test_a_scrape_tells_who_is_suspected_and_who_is_flagged() -> None:
    config = load("demo", VARIANTS["ego"])
    local = network(config, "scaled")
    local.run()
    families = {family.name: family.samples for family in RunMetrics(lambda: local.coordinator).collect()}
    shown = {sample.labels["ap"]: sample.value for sample in families["cfmimo_ap_flagged"]}
    assert shown == {str(ap): 1.0 for ap in LIARS}
    votes = local.coordinator.record.suspicions(config.num_slots - 2).sum(axis=0)
    assert {s.labels["ap"]: s.value for s in families["cfmimo_ap_suspected"]} == {str(a): votes[a] for a in LIARS}
