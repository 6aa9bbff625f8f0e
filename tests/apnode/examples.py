"""One message of every kind, and the frames they made in each version of the wire (`golden/`).

After a change of the wire, with a new VERSION: `python -m tests.apnode.examples` writes the frames of that version.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from apnode.protocol.fields import MAX_ID, MAX_SLOT, Message, specs
from apnode.protocol.messages import (
    KINDS,
    NOBODY,
    SILENT,
    ApReport,
    Association,
    ChannelBlock,
    ClusterBlock,
    CommonLinks,
    CoopDecline,
    CoopRequest,
    Deadline,
    FaultFired,
    GainReport,
    Hello,
    LinkState,
    PilotBlock,
    Resend,
    RunOver,
    SelfReport,
    SlotFeedback,
    SlotReport,
    Transmission,
)
from apnode.protocol.wire import VERSION, encode

GOLDEN = Path(__file__).parent / "golden"


def gaussian(*shape: int) -> Any:
    rng = np.random.default_rng(1)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


LEVELS = [0.25, 0.0, 0.5, 0.05, 0.0625, 0.01]
COUNTS = np.arange(2 * len(KINDS)).reshape(2, len(KINDS))
EXAMPLES: dict[type[Message], Message] = {
    type(message): message
    for message in (
        Hello(3, 1, "tcp://10.0.0.7:45123", 41, 40),
        Association(
            episode=2,
            ues=(0, 5),
            beta=[1e-9, 0.0, 3e-12],
            pilots=[0, 9, 1],
            neighbours=(7, 1),
            endpoints=("tcp://a:1", ""),
            interference=[2e-10, 1e-10],
            away=(1,),
            reach=(0, 2, 5),
            mastered=[2, 0],
            around=(0, 4),
            around_pilots=[0, 3],
            neighbour_beta=[[1e-9, 0.0], [0.0, 2e-10]],
            neighbour_serves=[[1, 0], [0, 0]],
            served_by=[[3, 7], [3, NOBODY]],
        ),
        PilotBlock(2, 41, gaussian(2, 4, 10)),
        CoopRequest(41, MAX_ID, (2, 0)),
        ChannelBlock(41, 7, (0, 2, 5), gaussian(2, 4, 3), [0.5, 0.0, 0.25], gaussian(2, 4, 4), [0.5, -2.0]),
        CoopDecline(MAX_SLOT, 0),
        Transmission(41, 7, (0, 2), gaussian(2, 2, 4), -gaussian(2, 2, 4), (1, 3), [1, 7], [0, 5]),
        SlotFeedback(
            slot=41,
            rate=[1.5, 0.0],
            rate_alone=[1.25, 2.0],
            interferers=[[3, NOBODY], [4, 5]],
            interference=[[1e-9, 0.0], [2e-9, 1e-9]],
            partners=[[1], [1]],
            partner_gain=np.abs(gaussian(2, 1, 4)),
            group=[[0, 0, SILENT], [0, 1, 2]],
            chosen=[0, 6],
            hearers=[2, 1],
            heard_at=[0, 5, 5],
            level=[120, 10, 255],
        ),
        GainReport(41, 7, -0.125),
        Deadline(41),
        RunOver(0),
        ApReport(41, 7, (1, 3, 5), (3, 5), (3,), 0.5, 0.25, 1e-3, 0.8, COUNTS, range(9), 2, 1, 40, 17, (3,), 1, LEVELS),
        SlotReport(
            slot=41,
            episode=2,
            sinr=gaussian(2, 3).real ** 2,
            sinr_alone=gaussian(2, 3).imag ** 2,
            gain=gaussian(2, 3),
            gain_alone=-gaussian(2, 3),
            power=[[0.5, 0.75], [0.0, 0.0]],
            pairs=12,
            silent=(4, 9),
            sent=COUNTS,
            dropped=np.arange(9),
            accepted=19,
        ),
        LinkState(41, 7, 2, (3, 9), [[3, 7], [3, 9], [9, 3]], [1e-10, 0.0, 3e-11], [[3, 0], [3, 5]]),
        ClusterBlock(41, 7, 3, (0, 2, 5), gaussian(2, 4, 3), [0.5, 0.0, 0.25], gaussian(2, 4, 4)),
        CommonLinks(41, 7, 2, [[0, 3, 7], [0, 3, 9], [5, 9, 3]]),
        FaultFired(41, "ap/7", "kill"),
        Resend(41),
        SelfReport(41, 7, LEVELS),
    )
}


def anatomy(message: Message) -> list[Any]:
    """All that there is to know of a message: kind, types and values of its fields, bits and layout of its arrays."""
    values = [getattr(message, name) for name in specs(type(message))]
    return [
        type(message),
        *(
            (value.dtype, value.shape, value.strides, value.flags.aligned, value.flags.writeable, value.tobytes())
            if isinstance(value, np.ndarray)
            else (type(value), value, *(map(type, value) if isinstance(value, tuple) else ()))
            for value in values
        ),
    ]


def golden(version: int) -> dict[str, bytes]:
    """The frames of EXAMPLES, by kind, as that version of the wire made them."""
    frames = json.loads((GOLDEN / f"v{version}.json").read_text())
    return {kind: bytes.fromhex(frame) for kind, frame in frames.items()}


if __name__ == "__main__":
    made = {kind.__name__: encode(message).hex() for kind, message in EXAMPLES.items()}
    (GOLDEN / f"v{VERSION}.json").write_text(json.dumps(made, indent=1) + "\n")
