"""What nodes say to each other: every message, who sends it to whom, and what may come back.

A message is a frozen dataclass that cannot exist malformed: its constructor checks every field as `fields` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from apnode.protocol.fields import Array, Counter, Endpoint, Endpoints, Id, Ids, Message, Real, Slot, Text, expect

NOBODY = 2**16 - 1  # pads arrays of ids: no id
SILENT = 2**8 - 1  # in place of a group: an AP that was not heard
LEVELS_PER_DB = 2  # UEs tell the level of a stream in steps of 0.5 dB
LEAST_LEVEL = 5 * LEVELS_PER_DB  # streams below 5 dB over noise go unreported
HEARD_STREAM = np.dtype([("stream", "|u1"), ("level", "|u1")])  # entry of a UE's report: reference signal, level
MOST_STREAMS = (40 - 1) // HEARD_STREAM.itemsize  # a report takes 40 B a slot at most; 1 B says how many entries

ComplexArray = NDArray[np.complex128]  # in computation; complex64 on the wire
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Hello(Message):
    """AP -> channel server and coordinator. "I am here (again); reach me there." Answered by an Association."""

    ap: Id
    incarnation: Counter  # 0 at the start of the run, then one more with every restart
    endpoint: Endpoint
    slot: Slot = 0  # the one this AP is in, or waits for
    restored: Slot = 0  # slots it had completed by the checkpoint it came back with; 0: none


@dataclass(frozen=True, slots=True, eq=False)
class Association(Message):
    """Channel server -> AP, each episode and on Hello: whom you serve, whose pilots you hear, whom you may ask.

    Of UEs out of its reach an AP is told nothing. The neighbour relation (11) is set up by the network from the UEs'
    long-term reports; an AP is told only its own neighbours, strongest interferer first, and what its own UEs reported
    of them.
    """

    episode: Counter
    ues: Ids  # K_m, the UEs this AP serves
    beta: Annotated[FloatArray, Array("<f8", 1)]  # (R,) own large-scale fading coefficients [power gain]
    pilots: Annotated[IntArray, Array("<u2", 1)]  # (R,) pilot index of every UE in reach
    neighbours: Ids
    endpoints: Endpoints  # of the neighbours, same order, where they were heard of last; "": nowhere yet
    interference: Annotated[FloatArray, Array("<f8", 1)]  # (len(neighbours),) reported long-term power [W]
    askers: Ids = ()  # who else may ask this AP, where neighbour sets are not reciprocal
    asker_endpoints: Endpoints = ()
    reach: Ids = ()  # the R UEs that beta and pilots are of, ascending; not given: UEs 0 to R - 1
    mastered: Annotated[IntArray, Array("<u2", 1)] = field(default_factory=lambda: np.zeros(0, np.uint16))
    # (len(neighbours),) UEs that both serve and whose master, their strongest AP, is one of the two; or not given
    around: Ids = ()  # U UEs in reach of neighbours, ascending; none if this AP forecasts nothing
    around_pilots: Annotated[IntArray, Array("<u2", 1)] = field(default_factory=lambda: np.zeros(0, np.uint16))  # (U,)
    neighbour_beta: Annotated[FloatArray, Array("<f4", 2)] = field(default_factory=lambda: np.zeros((0, 0), "<f4"))
    # (len(neighbours), U) large-scale fading coefficients of neighbours, 0 out of their reach [power gain]
    neighbour_serves: Annotated[IntArray, Array("|u1", 2)] = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    # (len(neighbours), U) 1 where a neighbour serves a UE
    away: Ids = ()  # neighbours and askers that let a deadline pass: nobody is to wait for them
    served_by: Annotated[IntArray, Array("<u2", 2)] = field(default_factory=lambda: np.zeros((0, 0), np.uint16))
    # (|K_m|, A) all APs that serve each of your UEs, NOBODY pads; not given where all of them transmit in any case

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        count = len(self.neighbours)
        expect(len(self.endpoints) == count == len(self.interference), "one endpoint and power per neighbour")
        expect(len(self.asker_endpoints) == len(self.askers), "one endpoint per asker")
        expect({*self.away} <= {*self.neighbours, *self.askers}, "only neighbours and askers can be away")
        if not len(self.mastered):
            object.__setattr__(self, "mastered", np.zeros(count, np.uint16))
        expect(len(self.mastered) == count, "one number of mastered UEs per neighbour")
        if not self.reach:
            object.__setattr__(self, "reach", tuple(range(len(self.beta))))
        expect(len(self.beta) == len(self.pilots) == len(self.reach), "one beta and pilot per UE in reach")
        reach, around = np.array(self.reach, int), np.array(self.around, int)
        expect(bool((reach[1:] > reach[:-1]).all() and (around[1:] > around[:-1]).all()), "UEs in reach must ascend")
        expect(bool(np.isin(self.ues, reach).all()), "a served UE must be in reach")
        _expect_not_negative(self.beta, self.interference, self.neighbour_beta)
        expect(len(self.around_pilots) == len(self.around), "one pilot per UE around")
        rows = (count, len(self.around)) if self.around else (0, 0)
        expect(self.neighbour_beta.shape == self.neighbour_serves.shape == rows, "a row around per neighbour")
        expect(len(self.served_by) in {0, len(self.ues)}, "the APs of every UE")

    def columns(self, ues: Sequence[int]) -> list[int]:
        """Where UEs in reach are in beta and pilots, and in estimates."""
        columns: list[int] = np.searchsorted(self.reach, ues).tolist()
        return columns


def _expect_not_negative(*arrays: FloatArray) -> None:
    for array in arrays:
        expect(bool(array.min(initial=0) >= 0), "powers, gains, ratios and rates must not be negative")


@dataclass(frozen=True, slots=True, eq=False)
class PilotBlock(Message):
    """Channel server -> AP. The slot opens: what your antennas heard in each coherence block, eq. (3)."""

    episode: Counter
    slot: Slot
    y: Annotated[ComplexArray, Array("<c8", 3)]  # (B, L, tau_p) [sqrt W]


@dataclass(frozen=True, slots=True, eq=False)
class CoopRequest(Message):
    """AP -> AP. Will you precode with me for these UEs? Answered by a ChannelBlock or a CoopDecline."""

    slot: Slot
    ap: Id
    ues: Ids  # those the sender serves, and others whose channels it would like to know


@dataclass(frozen=True, slots=True, eq=False)
class ChannelBlock(Message):
    """AP -> AP. "Yes": my channel estimates for the UEs in my reach that you asked about, or that matter to me."""

    slot: Slot
    ap: Id
    ues: Ids  # column order of h_hat
    h_hat: Annotated[ComplexArray, Array("<c8", 3)]  # (S, L, len(ues)) in S coherence blocks, in turn [sqrt power gain]
    rho: Annotated[FloatArray, Array("<f8", 1)]  # (len(ues),) what I spend on each, 0 where I do not serve it [W]
    untold: Annotated[ComplexArray, Array("<c8", 3)]  # (S, L, L) covariance of what else I hear; S = 0 if nobody asks
    learned: Annotated[FloatArray, Array("<f4", 1)] = field(default_factory=lambda: np.zeros(0, "<f4"))
    # my agent's weights, once an episode, where agents share what they learn
    age: Counter = 0  # coherence blocks between the last of h_hat and the last of the slot

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        _expect_estimates(self)


def in_time(block: ChannelBlock, late: int) -> ChannelBlock:
    """What of a block a fronthaul has delivered that is so many coherence blocks late: all but the newest estimates."""
    told = max(len(block.h_hat) - late, 0)
    return replace(block, h_hat=block.h_hat[:told], untold=block.untold[:told], age=late) if late else block


def _expect_estimates(block: ChannelBlock | ClusterBlock) -> None:
    expect(block.h_hat.shape[2] == len(block.ues) == len(block.rho), "one column of h_hat and one power per UE")
    _expect_not_negative(block.rho)
    expect(block.untold.shape[1:] == 2 * block.h_hat.shape[1:2], "the covariance must be L x L")


@dataclass(frozen=True, slots=True, eq=False)
class CoopDecline(Message):
    """AP -> AP. "No", in answer to a CoopRequest."""

    slot: Slot
    ap: Id


@dataclass(frozen=True, slots=True, eq=False)
class LinkState(Message):
    """AP -> partners, where clusters reach beyond them. What I learnt of the graph of agreed links in the last round.

    An entry for each AP of `known`: whom it serves, its partners, and what its UEs report of their interference.
    """

    slot: Slot
    ap: Id
    round: Counter  # 1: my own entry; r: what came in round r - 1
    known: Ids
    links: Annotated[IntArray, Array("<u2", 2)]  # (links, 2) AP of `known`, its partner
    interference: Annotated[FloatArray, Array("<f8", 1)]  # (links,) from the partner at the AP's UEs [W]
    serves: Annotated[IntArray, Array("<u2", 2)]  # (served, 2) AP of `known`, UE

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        expect(self.round >= 1, "rounds are counted from 1")
        expect(self.links.shape[1] == self.serves.shape[1] == 2, "links and serves are pairs")
        expect(len(self.links) == len(self.interference), "one interference per link")
        _expect_not_negative(self.interference)
        known = np.zeros(NOBODY + 1, bool)  # sets of what a hostile frame can name would take megabytes
        known[list(self.known)] = True
        expect(bool(known[self.links[:, 0]].all() and known[self.serves[:, 0]].all()), "links and serves of known APs")


@dataclass(frozen=True, slots=True, eq=False)
class CommonLinks(Message):
    """AP -> partners with a common UE, in clusters `serving`. What I learnt in the last round that is due to you.

    Entries, one for each AP and UE that occur in the first two columns: its partners that serve this UE as well.
    """

    slot: Slot
    ap: Id
    round: Counter  # 1: my own entries; r: of those who are r links away from you
    links: Annotated[IntArray, Array("<u2", 2)]  # (links, 3) UE, AP that serves it, its partner that does so too
    age: Counter = 0  # of your estimates, as they came to me: you cannot know how late they are

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        expect(self.round >= 1, "rounds are counted from 1")
        expect(self.links.shape[1] == 3, "links are of a UE and two APs")


@dataclass(frozen=True, slots=True, eq=False)
class ClusterBlock(Message):
    """AP -> AP, where clusters reach beyond partners. The owner's estimates, for all UEs of the cluster in its reach.

    In clusters `serving` as one of the owner's partners was told: for the UEs that matter to the two.
    """

    slot: Slot
    ap: Id  # who passes it on, the owner first
    owner: Id
    ues: Ids  # this and what follows as in the owner's ChannelBlock
    h_hat: Annotated[ComplexArray, Array("<c8", 3)]
    rho: Annotated[FloatArray, Array("<f8", 1)]
    untold: Annotated[ComplexArray, Array("<c8", 3)]
    age: Counter = 0

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        _expect_estimates(self)


@dataclass(frozen=True, slots=True, eq=False)
class Transmission(Message):
    """AP -> channel server. What I radiate, and what I would have radiated alone (the paired baseline of (12))."""

    slot: Slot
    ap: Id
    ues: Ids
    w: Annotated[ComplexArray, Array("<c8", 3)]  # (B, len(ues), L) [sqrt W]
    w_alone: Annotated[ComplexArray, Array("<c8", 3)]  # (B, len(ues), L) [sqrt W]
    partners: Ids  # whose channel blocks this AP precoded with
    group: Annotated[IntArray, Array("<u2", 1)] = field(default_factory=lambda: np.zeros(0, np.uint16))
    # (len(ues),) the first of the APs with which this one precodes for each UE, itself included; or not given
    chosen: Annotated[IntArray, Array("|u1", 1)] = field(default_factory=lambda: np.zeros(0, np.uint8))
    # (len(ues),) of UEs whose strongest AP I am, who of a UE's APs, by id, is to transmit to it (bit i: the i-th); 0 if
    # all are, and for other UEs; or not given

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        expect(self.w.shape == self.w_alone.shape, "w and w_alone must have the same shape")
        expect(self.w.shape[1] == len(self.ues), "w must have one row per UE")
        expect(len(self.group) == len(self.chosen) and len(self.group) in {0, len(self.ues)}, "a group for every UE")


@dataclass(frozen=True, slots=True, eq=False)
class SlotFeedback(Message):
    """Channel server -> AP. The slot closes: the reports of your own UEs, in the order of Association.ues.

    `rate_alone` is a counterfactual that only an emulation can know; the baseline of (12) asks for it.
    """

    slot: Slot
    rate: Annotated[FloatArray, Array("<f8", 1)]  # (|K_m|,) mean over blocks [bit/s/Hz]
    rate_alone: Annotated[FloatArray, Array("<f8", 1)]  # (|K_m|,) had no AP cooperated [bit/s/Hz]
    interferers: Annotated[IntArray, Array("<u2", 2)]  # (|K_m|, R) strongest non-partner APs at each UE, NOBODY pads
    interference: Annotated[FloatArray, Array("<f8", 2)]  # (|K_m|, R) their power, as eq. (7) counts it [W]
    partners: Annotated[IntArray, Array("<u2", 2)] = field(default_factory=lambda: np.zeros((0, 0), np.uint16))
    # (|K_m|, P) the strongest of the partners I named, P <= R
    partner_gain: Annotated[FloatArray, Array("<f4", 3)] = field(default_factory=lambda: np.zeros((0, 0, 0), "<f4"))
    # (|K_m|, P, L) |h|^2 from each of their antennas in block (slot mod B), by their reference signals [power gain]
    group: Annotated[IntArray, Array("|u1", 2)] = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    # (|K_m|, A) of each UE's APs, by id, the place of the first with which it precodes for the UE; SILENT if unheard
    chosen: Annotated[IntArray, Array("|u1", 1)] = field(default_factory=lambda: np.zeros(0, np.uint8))
    # (|K_m|,) who of them is to transmit to the UE, as its strongest AP says (bit i: the i-th); 0: all
    hearers: Annotated[IntArray, Array("<u2", 1)] = field(default_factory=lambda: np.zeros(0, np.uint16))
    # (|K_m|,) UEs that report to hear the stream of each of your UEs; none if this AP does not ask for it
    heard_at: Annotated[IntArray, Array("<u2", 1)] = field(default_factory=lambda: np.zeros(0, np.uint16))
    # (E,) these UEs, stream after stream
    level: Annotated[IntArray, Array("|u1", 1)] = field(default_factory=lambda: np.zeros(0, np.uint8))
    # (E,) the stream's power over noise, mean over the blocks, in steps of 0.5 dB

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        expect(self.rate.shape == self.rate_alone.shape, "rate and rate_alone must have the same shape")
        expect(self.interferers.shape == self.interference.shape, "one power per interferer")
        expect(len(self.interferers) == len(self.rate), "one report per UE")
        expect(self.partner_gain.shape[:2] == self.partners.shape, "one gain per partner")
        expect(len(self.partners) in {0, len(self.rate)}, "partners of every UE")
        expect(len(self.group) == len(self.chosen) and len(self.group) in {0, len(self.rate)}, "a group for every UE")
        expect(len(self.hearers) in {0, len(self.rate)}, "hearers of every stream")
        expect(int(self.hearers.sum()) == len(self.heard_at) == len(self.level), "one level per hearer of a stream")
        if len(self.level):
            heard = self.stream.astype(int) << 16 | self.heard_at
            expect(len(np.unique(heard)) == len(heard), "a UE hears a stream at one level")
        _expect_not_negative(self.rate, self.rate_alone, self.interference, self.partner_gain)

    @property
    def stream(self) -> IntArray:
        """(E,) which of your UEs each entry of `heard_at` and `level` is about: a position in Association.ues."""
        return np.repeat(np.arange(len(self.hearers)), self.hearers)


@dataclass(frozen=True, slots=True, eq=False)
class GainReport(Message):
    """AP -> partners, with reward scope `neighbourhood`: my UEs' relative gain in this slot."""

    slot: Slot
    ap: Id
    gain: Real


@dataclass(frozen=True, slots=True, eq=False)
class SelfReport(Message):
    """AP -> neighbours, in the first slot of an episode, where agents find out about APs. What mine makes of me."""

    slot: Slot
    ap: Id
    levels: Annotated[FloatArray, Array("<f4", 1)]  # as the agents' policy has them


@dataclass(frozen=True, slots=True, eq=False)
class Deadline(Message):
    """Channel server -> AP. Transmit with what you have."""

    slot: Slot


@dataclass(frozen=True, slots=True, eq=False)
class RunOver(Message):
    """Channel server -> APs and coordinator. There is no slot with this number or above."""

    slot: Slot


@dataclass(frozen=True, slots=True, eq=False)
class ApReport(Message):
    """AP -> coordinator, fire and forget: how the slot went for me, and what I sent in it."""

    slot: Slot
    ap: Id
    neighbours: Ids  # whom I could have asked
    requested: Ids  # whom I asked
    partners: Ids  # whose channel blocks I precoded with
    gain: Real  # (sum R - sum R_alone) / sum R_alone over my UEs
    reward: Real
    loss: Real  # of the update made in this slot, on what the slot before taught; 0 if none, -1 if it was skipped
    epsilon: Real
    sent: Annotated[IntArray, Array("<u4", 2)]  # (2, kinds) messages and bytes sent since my last report, by tag
    dropped: Annotated[IntArray, Array("<u4", 1)]  # (reasons,) frames dropped since my last report
    cluster_size: Counter  # APs in the cluster I was in, or that was refused for its size; 1 alone
    incarnation: Counter = 0
    checkpoint: Slot = 0  # slots completed by the newest checkpoint that was written; 0: none
    accepted: Counter = 0  # frames accepted since my last report
    suspects: Ids = ()  # neighbours whose channels I do not believe
    unsaved: Counter = 0  # checkpoints that could not be written since my last report
    # what I have told neighbours of myself in this slot, as in SelfReport
    levels: Annotated[FloatArray, Array("<f4", 1)] = field(default_factory=lambda: np.zeros(0, "<f4"))


@dataclass(frozen=True, slots=True, eq=False)
class SlotReport(Message):
    """Channel server -> coordinator, fire and forget: what every UE got in the slot."""

    slot: Slot
    episode: Counter
    sinr: Annotated[FloatArray, Array("<f8", 2)]  # (B, K) linear, eq. (9)
    sinr_alone: Annotated[FloatArray, Array("<f8", 2)]  # (B, K) had no AP cooperated
    gain: Annotated[ComplexArray, Array("<c8", 2)]  # (B, K) effective gain sum_m h_mk^H w_mk [sqrt W]
    gain_alone: Annotated[ComplexArray, Array("<c8", 2)]  # (B, K) had no AP cooperated [sqrt W]
    power: Annotated[FloatArray, Array("<f4", 2)]  # (M, 2) of every AP: mean over the blocks, and in its busiest [W]
    pairs: Counter  # AP pairs with a common UE
    silent: Ids  # APs that did not transmit
    sent: Annotated[IntArray, Array("<u4", 2)]  # (2, kinds) messages and bytes sent since the last report, by tag
    dropped: Annotated[IntArray, Array("<u4", 1)]  # (reasons,) frames dropped since the last report
    accepted: Counter = 0  # frames accepted since the last report

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        _expect_not_negative(self.sinr, self.sinr_alone, self.power)


@dataclass(frozen=True, slots=True, eq=False)
class FaultFired(Message):
    """Node -> coordinator, in runs with a fault plan: I am about to suffer this."""

    slot: Slot
    node: Text
    action: Text


@dataclass(frozen=True, slots=True, eq=False)
class Resend(Message):
    """Coordinator -> AP, channel server. Not all came: report again what you reported of this slot and later ones."""

    slot: Slot


@dataclass(frozen=True, slots=True, eq=False)
class Tick(Message):
    """A node's own runtime -> node, never on the wire: time has passed and nothing came."""


FRONTHAUL = (  # AP -> AP: the price of cooperation
    CoopRequest,
    ChannelBlock,
    CoopDecline,
    LinkState,
    ClusterBlock,
    CommonLinks,
    GainReport,
    SelfReport,
)
KINDS: tuple[type[Message], ...] = (  # position = tag on the wire: another order is another VERSION
    Hello,
    Association,
    PilotBlock,
    CoopRequest,
    ChannelBlock,
    CoopDecline,
    Transmission,
    SlotFeedback,
    GainReport,
    Deadline,
    RunOver,
    ApReport,
    SlotReport,
    LinkState,
    ClusterBlock,
    CommonLinks,
    FaultFired,
    Resend,
    SelfReport,
)
TAGS = {kind: tag for tag, kind in enumerate(KINDS)}
