"""False channel blocks look like true ones."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from apnode.protocol.messages import ChannelBlock, ClusterBlock, SelfReport
from apnode.protocol.node import Send
from apnode.protocol.wire import decode, encode
from apnode.runtime.injector import EAGER, FACTOR, INNOCENT, LIES, Fault, Injector, NodeFaults, false_block
from tests.apnode.examples import anatomy


def gaussian(*shape: int) -> Any:
    rng = np.random.default_rng(3)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


BLOCK = ChannelBlock(7, 3, (1, 4, 5), 1e-5 * gaussian(500, 4, 3) * [1, 10, 0], [0.5, 0, 0.5], gaussian(500, 4, 4))


def told(kind: str) -> ChannelBlock:
    return false_block(BLOCK, kind, np.random.default_rng(0))


def said(block: ChannelBlock | ClusterBlock, to: str) -> Any:
    """What a liar's block says when it leaves."""
    address = f"ap/{block.ap}"
    injector = Injector(NodeFaults((Fault(0, address, "lie", slots=10, kind="random"),)), address)
    (send,) = injector.pass_on([Send(to, encode(block, 2**20), block)], 7)
    left = decode(send.frame, 2**20)
    assert send.message is not None
    assert anatomy(left) == anatomy(send.message)
    assert isinstance(left, ChannelBlock | ClusterBlock)
    return left.h_hat


def power(block: ChannelBlock) -> Any:
    return (np.abs(block.h_hat) ** 2).mean(axis=(0, 1))


@pytest.mark.parametrize("kind", LIES)
def test_only_the_estimates_are_false(kind: str) -> None:
    lie = told(kind)
    assert (lie.slot, lie.ap, lie.ues) == (BLOCK.slot, BLOCK.ap, BLOCK.ues)
    np.testing.assert_array_equal(lie.rho, BLOCK.rho)
    np.testing.assert_array_equal(lie.untold, BLOCK.untold)
    assert lie.h_hat.shape == BLOCK.h_hat.shape
    assert not np.allclose(lie.h_hat, BLOCK.h_hat, rtol=0.1)


@pytest.mark.parametrize(("kind", "factor"), [("random", 1), ("conjugate", 1), ("scaled", FACTOR**2)])
def test_a_lie_has_the_power_of_the_truth_unless_it_boasts(kind: str, factor: float) -> None:
    np.testing.assert_allclose(power(told(kind)), factor * power(BLOCK), rtol=0.1)


def test_random_estimates_tell_nothing_of_the_channel() -> None:
    lie, truth = told("random").h_hat[..., 1].ravel(), BLOCK.h_hat[..., 1].ravel()
    assert abs(np.vdot(lie, truth)) < 0.1 * np.linalg.norm(lie) * np.linalg.norm(truth)


def test_conjugates_leave_the_magnitude_of_every_correlation_between_ues() -> None:
    lie, truth = (block.h_hat.conj().swapaxes(-1, -2) @ block.h_hat for block in (told("conjugate"), BLOCK))
    np.testing.assert_allclose(np.abs(lie), np.abs(truth), rtol=1e-4)


def test_a_liar_tells_everybody_the_same_in_a_slot_and_something_else_in_the_next() -> None:
    first = said(BLOCK, "ap/1")
    np.testing.assert_array_equal(said(BLOCK, "ap/2"), first)
    assert (said(replace(BLOCK, slot=8), "ap/1") != first)[..., :2].all()
    assert (said(replace(BLOCK, ap=4), "ap/1") != first)[..., :2].all()


def test_a_liar_passes_on_what_others_told_as_it_came() -> None:
    other = ClusterBlock(7, 3, 4, BLOCK.ues, BLOCK.h_hat, BLOCK.rho, BLOCK.untold)
    np.testing.assert_array_equal(said(other, "ap/1"), other.h_hat)


def test_an_unknown_lie_is_refused() -> None:
    with pytest.raises(ValueError, match="random, scaled, conjugate"):
        told("white")


@pytest.mark.parametrize("kind", [*LIES, EAGER, INNOCENT])
def test_who_plays_innocent_lies_about_itself_only_and_others_about_channels_or_weights_only(kind: str) -> None:
    report = SelfReport(7, 3, [0.9, 0, 0, 0.1, 0, 0])
    injector = Injector(NodeFaults((Fault(0, "ap/3", "lie", slots=10, kind=kind),)), "ap/3")
    full = replace(BLOCK, learned=[0.5, -0.25, 0.125])
    sends = [Send("ap/1", encode(message, 2**20), message) for message in (report, full)]
    said, block = (decode(send.frame, 2**20) for send in injector.pass_on(sends, 7))
    assert isinstance(said, SelfReport)
    assert isinstance(block, ChannelBlock)
    assert said.levels.any() != (kind == INNOCENT)
    assert np.array_equal(block.h_hat, BLOCK.h_hat) == (kind in {EAGER, INNOCENT})
    assert block.learned.tolist() == [0.5, -0.25, 1000 if kind == EAGER else 0.125]
