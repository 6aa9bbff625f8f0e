"""False channel blocks: what an AP says that lies about its channels, and does all else by the protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from apnode.protocol.messages import ChannelBlock
from apnode.protocol.rng import Purpose, generator

KINDS = ("random", "scaled", "conjugate")
FACTOR = 10.0  # scaled: amplitudes are told too large by this


def false_block(block: ChannelBlock, kind: str, rng: np.random.Generator) -> ChannelBlock:
    """The block with other estimates.

    `random`: independent draws that have each UE's mean power in this block, so that no statistic of the block gives
    them away; `scaled`: too large by FACTOR; `conjugate`: of the other sign of phase, which leaves every power and the
    magnitude of every correlation between UEs as it was.

    Args:
        block: the true one.
        kind: of lie.
        rng: where draws come from.
    """
    h_hat = block.h_hat.astype(complex)
    match kind:
        case "random":
            draws = rng.standard_normal((2, *h_hat.shape))
            told = (draws[0] + 1j * draws[1]) * np.sqrt((np.abs(h_hat) ** 2).mean(axis=(0, 1)) / 2)
        case "scaled":
            told = h_hat * FACTOR
        case "conjugate":
            told = h_hat.conj()
        case _:
            raise ValueError(f"no lie is called {kind!r}; there are {', '.join(KINDS)}")
    return replace(block, h_hat=told)


def liar(kind: str, seed: int, ap: int) -> Callable[[ChannelBlock], ChannelBlock]:
    """What AP `ap` makes of its channel blocks, the same for all whom it tells in a slot about the same UEs."""
    return lambda block: false_block(block, kind, generator(seed, Purpose.LIES, ap, block.slot))
