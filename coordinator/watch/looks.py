"""How figures and pages show a policy: the same colour and marker everywhere."""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32


class Look(NamedTuple):
    """Of one policy."""

    colour: str
    marker: str  # as matplotlib names it


def look_of(policy: str) -> Look:
    """Of any policy; those that are no part of this package share a few."""
    return LOOKS.get(policy) or _OTHERS[crc32(policy.encode()) % len(_OTHERS)]


LOOKS = {  # what APs run: the colours of Okabe and Ito, told apart by colour-blind readers
    "never": Look("#777777", "s"),
    "random": Look("#E69F00", "o"),
    "threshold": Look("#56B4E9", "v"),
    "master": Look("#CC79A7", "P"),
    "forecast": Look("#009E73", "D"),
    "ages": Look("#6CC0A0", "+"),
    "phases-and-ages": Look("#3FA37F", "x"),
    "informed": Look("#117733", "H"),
    "oracle": Look("#000000", "*"),
    "ddqn": Look("#0072B2", "^"),
    "belief": Look("#882255", "p"),
    "ratio": Look("#CC6677", "2"),
    "factor": Look("#AA8866", "3"),
    "always": Look("#D55E00", "X"),
    # references without links
    "mrt": Look("#DDCC77", "<"),
    "local-rzf": Look("#999933", ">"),
    "local-mmse": Look("#44AA99", "h"),
    "centralised": Look("#332288", "d"),
    "p-mmse": Look("#8C564B", "1"),
    "full-mmse": Look("#AA4499", "8"),
}
_OTHERS = (Look("#F0027F", "o"), Look("#1B9E77", "D"), Look("#7570B3", "^"), Look("#A6761D", "X"))
# markers of policies
GLYPHS = {"s": "■", "o": "●", "v": "▼", "P": "✚", "D": "◆", "^": "▲", "X": "✖", "p": "⬟", "2": "⅄", "3": "≺"}
