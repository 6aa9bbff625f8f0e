"""The record of a run: arrays over slots, filled in from reports, and their digest."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.agent.prospects import LEVELS
from apnode.config import Config
from apnode.protocol.fields import Ids
from apnode.protocol.messages import FRONTHAUL, KINDS, NOBODY, TAGS, ApReport, FaultFired, Hello, IntArray, SlotReport
from apnode.protocol.node import DROPS
from apnode.radio.trust import LAPSES_AFTER

SINR_BOUNDS_DB = tuple(range(-10, 45, 5))  # bounds of the histogram of SINR
_SINR_BOUNDS = 10 ** (np.array(SINR_BOUNDS_DB) / 10)
_FRONTHAUL_TAGS = [TAGS[kind] for kind in FRONTHAUL]
_DIGESTED = (  # not `dropped` and `traffic`: they count late frames and hellos, which depend on timing
    "closed", "episode", "pairs", "sinr", "sinr_alone", "silent", "reported",
    "neighbours", "requested", "linked", "floats", "messages",
)  # fmt: skip


class Record:
    """Arrays over (slots, ...); reports fill them in, in any order."""

    def __init__(self, config: Config) -> None:
        slots, aps, ues = config.num_slots, config.radio.num_aps, config.radio.num_ues
        blocks, cap = config.run.blocks_per_slot, config.cooperation.max_neighbours
        self.config = config
        self.closed = np.zeros(slots, bool)
        self.episode = np.zeros(slots, np.int64)
        self.pairs = np.zeros(slots, np.int64)
        self.sinr = np.full((slots, blocks, ues), np.nan)
        self.sinr_alone = np.full((slots, blocks, ues), np.nan)
        self.sinr_counts = np.zeros(
            len(SINR_BOUNDS_DB) + 1, np.int64
        )  # (UE, block) pairs up to each bound, then above the last
        self.gain = np.zeros((slots, blocks, ues), np.complex64)
        self.gain_alone = np.zeros((slots, blocks, ues), np.complex64)
        self.power = np.zeros((slots, aps, 2), np.float32)  # mean over the blocks, and in the busiest block [W]
        self.silent = np.zeros((slots, aps), bool)
        self.reported = np.zeros((slots, aps), bool)
        self.neighbours = np.full((slots, aps, cap), NOBODY, np.uint16)
        self.requested = np.zeros((slots, aps, cap), bool)  # per entry of `neighbours`
        self.linked = np.zeros((slots, aps, cap), bool)
        self.cluster_size = np.zeros((slots, aps), np.int64)  # 1: the AP is alone; a refused cluster has its full size
        self.floats = np.zeros((slots, aps, 4))  # gain, reward, loss, epsilon
        self.fronthaul = np.zeros((slots, aps, 2), np.int64)  # messages, bytes between APs
        self.dropped = np.zeros((slots, aps), np.int64)
        self.traffic = np.zeros((2, len(KINDS)), np.int64)  # messages, bytes of the whole run, by tag
        self.accepted = 0  # frames accepted in the whole run, according to the reports
        self.rejected = np.zeros(len(DROPS), np.int64)  # frames rejected, by reason, according to the reports
        self.back_since = np.full(aps, -1)  # slot of the AP's last hello after a restart; -1: it had none
        self.checkpoint = np.zeros((slots, aps), np.int64)  # slots completed by the newest checkpoint; 0: none
        self.cut_short = ""  # why nothing more was taken in, if the run was not over
        told = config.run.episodes * config.believes
        self.beliefs = np.full((told, aps, 2, len(LEVELS)), np.nan)  # told in an episode: mean, variance
        self.unsaved = np.zeros(aps, np.int64)  # checkpoints that could not be written
        self.comebacks: list[dict[str, int]] = []  # {"ap", "incarnation", "slot", "restored"}
        self.fired: list[dict[str, Any]] = []  # faults of the plan: {"slot", "node", "action"}
        self._told: set[tuple[Any, ...]] = set()  # events in `comebacks` and `fired`
        self.suspects: dict[tuple[int, int], Ids] = {}  # by (slot, AP); only APs that suspect another

    def add_slot(self, report: SlotReport) -> None:
        """Take in the channel server's report on a slot."""
        at = report.slot
        self.closed[at] = True
        self.episode[at], self.pairs[at] = report.episode, report.pairs
        self.sinr[at], self.sinr_alone[at] = report.sinr, report.sinr_alone
        self.sinr_counts += np.bincount(
            np.searchsorted(_SINR_BOUNDS, report.sinr.ravel()), minlength=len(self.sinr_counts)
        )
        self.gain[at], self.gain_alone[at] = report.gain, report.gain_alone
        self.power[at] = report.power
        self.silent[at, list(report.silent)] = True
        self._add_counts(report)

    def add_ap(self, report: ApReport) -> None:
        """Take in one AP's report on a slot."""
        at = report.slot, report.ap
        known = len(report.neighbours)
        self.reported[at] = True
        self.neighbours[at][:known] = report.neighbours
        self.requested[at][:known] = [n in report.requested for n in report.neighbours]
        self.linked[at][:known] = [n in report.partners for n in report.neighbours]
        self.cluster_size[at] = report.cluster_size
        self.floats[at] = report.gain, report.reward, report.loss, report.epsilon
        self.fronthaul[at] = report.sent[:, _FRONTHAUL_TAGS].sum(axis=1)
        self.dropped[at] = report.dropped.sum()
        self.checkpoint[at] = report.checkpoint
        self.unsaved[report.ap] += report.unsaved
        if len(report.levels):
            self.beliefs[report.slot // self.config.run.slots_per_episode, report.ap].flat = report.levels
        if report.suspects:
            self.suspects[at] = report.suspects
        self._add_counts(report)

    def _add_counts(self, report: ApReport | SlotReport) -> None:
        self.traffic += report.sent
        self.accepted += report.accepted
        self.rejected += report.dropped

    def add_comeback(self, hello: Hello, slot: int) -> None:
        """An AP is back in a slot after its process died; a repeated hello counts once."""
        comeback = {"ap": hello.ap, "incarnation": hello.incarnation, "restored": hello.restored}
        if self._is_news(*comeback.values()):
            self.back_since[hello.ap] = slot
            self.comebacks.append({**comeback, "slot": slot})

    def add_fault(self, fault: FaultFired) -> None:
        """A planned fault has struck; a repeated message counts once."""
        fired = {"slot": fault.slot, "node": fault.node, "action": fault.action}
        if self._is_news(*fired.values()):
            self.fired.append(fired)

    def _is_news(self, *event: Any) -> bool:
        told = event in self._told
        self._told.add(event)
        return not told

    @property
    def newest_checkpoint(self) -> NDArray[np.int64]:
        """(M,) slots completed by the newest checkpoint that each AP reported; 0: none."""
        newest = len(self.reported) - 1 - self.reported[::-1].argmax(axis=0)  # the last row if the AP never reported
        return np.asarray(self.checkpoint[newest, np.arange(len(newest))])

    @property
    def downtime(self) -> NDArray[np.int64]:
        """(M,) consecutive slots that each AP missed, up to the newest closed slot; 0: the AP is up."""
        backwards = ~self.silent[self.closed][::-1]  # True: the AP transmitted
        return (
            np.where(backwards.any(axis=0), backwards.argmax(axis=0), len(backwards))
            if len(backwards)
            else (np.zeros(self.silent.shape[1], np.int64))
        )

    def missing(self, slots: slice = slice(None)) -> NDArray[np.bool_]:
        """(slots, M) whether an AP's report is missing: the slot closed, and the AP transmitted in it."""
        return self.closed[slots, None] & ~self.reported[slots] & ~self.silent[slots]

    @property
    def pending(self) -> int:
        """Number of missing reports."""
        return int(self.missing().sum())

    @property
    def first_incomplete(self) -> int:
        """The first slot that lacks a report; the number of slots if none does."""
        missing = ~(self.closed & self.reported.all(axis=1))
        return int(missing.argmax()) if missing.any() else len(missing)

    @property
    def complete(self) -> bool:
        """Whether every report of every slot is in."""
        return bool(self.closed.all() and self.reported.all())

    # --- suspicions -----------------------------------------------------------------------------------

    def suspicions(self, slot: int) -> NDArray[np.bool_]:
        """(M, M) whether AP m suspects AP n in a slot."""
        aps = self.reported.shape[1]
        suspects = np.zeros((aps, aps), bool)
        for ap in range(aps):
            suspects[ap, list(self.suspects.get((slot, ap), ()))] = True
        return suspects

    def flagged(self, slot: int) -> Ids:
        """The APs suspected, in a slot, by at least half of the APs that recently precoded with their channels.

        Recently: within the LAPSES_AFTER slots that a suspicion lasts. In these slots a suspect is no partner. Where
        agents share what they learn, only those count who have asked it in the last slot of an episode, when they do.
        """
        since = max(0, slot + 1 - LAPSES_AFTER)
        suspects = self.suspicions(slot)
        heard = suspects.copy()
        at, ap, position = np.nonzero(self.linked[since : slot + 1])
        if self.config.learning.share and self.config.cooperation.policy == "ddqn":
            told = ((since + at + 1) % self.config.run.slots_per_episode == 0) & (since + at < slot)
            told &= self.requested[since + at, ap, position]
            at, ap, position = at[told], ap[told], position[told]
        heard[ap, self.neighbours[since + at, ap, position]] = True
        votes = suspects.sum(axis=0)
        return tuple(np.flatnonzero((votes > 0) & (2 * votes >= heard.sum(axis=0))).tolist())

    @property
    def messages(self) -> IntArray:
        """(slots, M) messages to other APs; their bytes are a matter of the encoding."""
        return self.fronthaul[..., 0]

    def digest(self) -> str:
        """SHA-256 over the arrays that do not depend on wall-clock time: equal for equal runs, on any runtime."""
        sha = hashlib.sha256()
        for name in _DIGESTED:
            array = getattr(self, name)
            sha.update(f"{name} {array.dtype} {array.shape}\0".encode() + array.tobytes())
        return sha.hexdigest()
