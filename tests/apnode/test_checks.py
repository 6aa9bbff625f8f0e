"""What an access point refuses: messages that do not fit, garbage, floods, and claims beyond reason."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from apnode.protocol.messages import (
    ChannelBlock,
    CoopRequest,
    Deadline,
    GainReport,
    Hello,
    PilotBlock,
    SelfReport,
    Transmission,
)
from apnode.protocol.node import CHANNEL
from apnode.protocol.wire import encode
from tests.apnode.driving import (
    DIRECTED,
    SHAPE,
    Driven,
    associated,
    association,
    block,
    feedback,
    kinds,
    only,
    opened,
    pilots,
    request,
    without_drops,
)

# --- what does not fit -------------------------------------------------------------------------------------

MISFITS = {
    "pilots of a block too many": pilots(shape=(3, 4, 10)),
    "pilots of an antenna too few": pilots(shape=(2, 3, 10)),
    "pilots of a symbol too few": pilots(shape=(2, 4, 9)),
    "next pilots of a block too few": pilots(1, shape=(1, 4, 10)),
    "a channel block of a block too many": block(1, shape=(3, 4)),
    "a channel block of an antenna too many": block(1, shape=(2, 5)),
    "a channel block for a UE that there is not": block(1, ues=(0, 3)),
    "an early channel block of a wrong shape": block(1, slot=1, shape=(3, 4)),
    "a request for a UE that there is not": request(1, ues=(3,)),
    "a request of an AP that there is not": request(5),
    "a request of itself": request(0),
    "feedback about a UE too many": feedback(rate=(1.0, 1.0, 1.0), alone=(1.0, 1.0, 1.0)),
    "feedback about a UE too few": feedback(rate=(1.0,), alone=(1.0,)),
    "pilots far louder than they were sent": PilotBlock(0, 1, 1e10 * pilots().y),
    "channels that amplify": replace(block(1), h_hat=1e10 * block(1).h_hat),
    "feedback of more power than was sent": replace(feedback(), interference=np.full((2, 2), 1e12)),
    "feedback of channels that amplify": replace(feedback(), partners=[[1]] * 2, partner_gain=np.full((2, 1, 4), 1e7)),
    "a gain that there cannot be": GainReport(0, 1, 1000.5),
    "a gain of less than nothing": GainReport(0, 1, -1.5),
    "levels of streams that nobody asked for": replace(feedback(), hearers=[1, 0], heard_at=[1], level=[40]),
    "a neighbour's opinion of itself that nobody asked for": SelfReport(0, 1, 6 * [0.5]),
    "the deadline of a slot that there is not": Deadline(2**40),
    "an association with too many neighbours": association(
        neighbours=(1, 2, 3, 4, 5), endpoints=5 * ("x",), interference=[1, 1, 1, 1, 1]
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_message_that_does_not_fit_is_counted_and_changes_nothing(name: str) -> None:
    rest = [request(1), block(1), feedback(), pilots(1), block(1, slot=1), feedback(1)]
    expected = opened(asks=[1]).give(*rest)
    driven = opened(asks=[1])
    assert driven.give(MISFITS[name]) == []
    assert driven.dropped == {"malformed": 1}
    assert without_drops(driven.give(*rest)) == without_drops(expected)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"beta": 4 * [1e-9], "pilots": [0, 1, 2, 3]}, id="a UE too many"),
        pytest.param({"reach": (0, 2, 3)}, id="a UE in reach that there is not"),
        pytest.param({"pilots": [0, 1, 10]}, id="a pilot that there is not"),
        pytest.param({"neighbours": (2, 1, 0)}, id="itself as a neighbour"),
        pytest.param({"neighbours": (2, 1, 5)}, id="a neighbour that there is not"),
        pytest.param({"beta": [1e-9, 1e7, 1e-9]}, id="a channel that amplifies"),
        pytest.param({"interference": [1e12, 1e-9, 1e-9]}, id="more interference than was sent"),
    ],
)
def test_an_association_that_does_not_fit_is_counted_and_changes_nothing(changed: dict[str, Any]) -> None:
    driven = Driven(asks=[1])
    assert driven.give(association(**changed)) == []
    assert driven.dropped == {"malformed": 1}
    assert kinds(driven.give(association(), pilots())) == [("ap/1", CoopRequest)]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "checksum"),
        (b"garbage", "checksum"),
        (encode(feedback())[:-1], "checksum"),
        (bytes(65537), "oversized"),
        (encode(Transmission(0, 1, (), np.zeros((2, 0, 4)), np.zeros((2, 0, 4)), ())), "unexpected"),
        (encode(Hello(1, 0, "")), "unexpected"),
    ],
    ids=["nothing", "garbage", "cut", "oversized", "a transmission", "a hello"],
)
def test_garbage_is_counted_and_dropped(frame: bytes, reason: str) -> None:
    driven = opened(asks=[1])
    assert driven.ap.receive(frame) == []
    assert driven.dropped == {reason: 1}
    assert kinds(driven.give(block(1))) == [("ap/1", ChannelBlock), (CHANNEL, Transmission)]


def test_a_flood_from_far_ahead_costs_no_memory() -> None:
    driven = opened()
    for slot in range(4, 500):
        driven.give(block(1, slot=slot))
    assert driven.dropped == {"flood": 496}


def test_a_flood_of_early_requests_does_not_push_out_the_pilots() -> None:
    driven = opened()
    frame = encode(request(1, slot=1))
    for _ in range(2000):
        driven.ap.receive(frame)
    assert (CHANNEL, Transmission) in kinds(driven.give(pilots(1), feedback()))


# --- numbers at the edge of what a message may hold ---------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1e-18, 1e7])
@pytest.mark.parametrize("heard", [0.0, 1.0, 1e7])
@pytest.mark.parametrize("overrides", [(), DIRECTED], ids=["ego", "directed"])
def test_whatever_the_channels_an_ap_radiates_no_more_than_its_power(
    overrides: tuple[str, ...], heard: float, scale: float
) -> None:
    """All zeros included: nobody sent pilots, or a partner knows nothing."""
    driven = associated(*overrides, asks=[1])
    driven.give(PilotBlock(0, 0, heard * pilots().y))
    sent = only(driven.give(replace(block(1), h_hat=scale * block(1).h_hat)), Transmission)
    for w in (sent.w, sent.w_alone):
        assert np.isfinite(w).all()
        assert (np.abs(w.astype(complex)) ** 2).sum(axis=(1, 2)).max() <= 1.0
    assert sent.partners == (1,)


def test_what_is_measured_of_a_near_partner_is_no_power_however_little_aps_send() -> None:
    driven = opened("radio.ap_power_w=1e-9")
    driven.give(replace(feedback(), interference=np.zeros((2, 2)), partners=[[1]] * 2, partner_gain=np.ones((2, 1, 4))))
    assert driven.dropped == {}


def test_a_partner_that_claims_the_same_channel_everywhere_cannot_stop_an_ap() -> None:
    """So strong that nothing else is left of the matrix to invert."""
    driven = associated("precoding.alone=mmse", "precoding.joint=selective", "precoding.power=average", asks=[1])
    driven.give(pilots())
    claimed = replace(block(1), h_hat=np.full((*SHAPE, 3), 1e3), untold=np.zeros((2, 4, 4)))
    assert np.isfinite(only(driven.give(claimed), Transmission).w).all()


# --- what partners have learned ---------------------------------------------------------------------------


def test_weights_of_another_network_than_ones_own_are_refused() -> None:
    driven = opened(asks=[1])
    driven.give(replace(block(1), learned=np.ones(3)))
    assert driven.dropped == {"malformed": 1}
