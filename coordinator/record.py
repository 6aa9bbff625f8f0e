"""What a run leaves behind: one row per slot, per AP and slot, per UE and slot; their summary and digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.config import Config
from apnode.protocol.fields import Ids
from apnode.protocol.messages import FRONTHAUL, KINDS, NOBODY, TAGS, ApReport, FaultFired, Hello, SlotReport
from apnode.protocol.node import DROPS
from apnode.radio.trust import LAPSES_AFTER
from channel_server.sinr import hardening_sinr

_COSTS = ("request_rate", "union_rate", "messages_per_slot", "bytes_per_slot")
Table = dict[str, NDArray[Any]]
SINR_BOUNDS_DB = tuple(range(-10, 45, 5))  # of the histogram
_SINR_BOUNDS = 10 ** (np.array(SINR_BOUNDS_DB) / 10)
_FRONTHAUL_TAGS = [TAGS[kind] for kind in FRONTHAUL]
_DIGESTED = (  # not `dropped` and `traffic`: frames that come late and hellos say when, not what was computed
    "closed", "episode", "pairs", "sinr", "sinr_alone", "silent", "reported",
    "neighbours", "requested", "linked", "floats", "fronthaul",
)  # fmt: skip


class Record:
    """Arrays over (slots, ...) that reports fill in, in any order."""

    def __init__(self, config: Config) -> None:
        slots, aps, ues = config.num_slots, config.radio.num_aps, config.radio.num_ues
        blocks, cap = config.run.blocks_per_slot, config.cooperation.max_neighbours
        self._config = config
        self.closed = np.zeros(slots, bool)
        self.episode = np.zeros(slots, np.int64)
        self.pairs = np.zeros(slots, np.int64)
        self.sinr = np.full((slots, blocks, ues), np.nan)
        self.sinr_alone = np.full((slots, blocks, ues), np.nan)
        self.sinr_counts = np.zeros(len(SINR_BOUNDS_DB) + 1, np.int64)  # of UEs and blocks, at most so many dB; more
        self.gain = np.zeros((slots, blocks, ues), np.complex64)
        self.gain_alone = np.zeros((slots, blocks, ues), np.complex64)
        self.power = np.zeros((slots, aps, 2), np.float32)  # mean over the blocks, and in the busiest
        self.silent = np.zeros((slots, aps), bool)
        self.reported = np.zeros((slots, aps), bool)
        self.neighbours = np.full((slots, aps, cap), NOBODY, np.uint16)
        self.requested = np.zeros((slots, aps, cap), bool)  # of those neighbours
        self.linked = np.zeros((slots, aps, cap), bool)
        self.cluster_size = np.zeros((slots, aps), np.int64)  # 1 alone; that of a refused cluster is its own
        self.floats = np.zeros((slots, aps, 4))  # gain, reward, loss, epsilon
        self.fronthaul = np.zeros((slots, aps, 2), np.int64)  # messages, bytes from AP to AP
        self.dropped = np.zeros((slots, aps), np.int64)
        self.traffic = np.zeros((2, len(KINDS)), np.int64)  # messages, bytes of the whole run, by tag
        self.accepted = 0  # frames of the whole run, as far as reports tell
        self.rejected = np.zeros(len(DROPS), np.int64)  # likewise, by reason
        self.back_since = np.zeros(aps, np.int64)  # slot in which it said hello
        self.checkpoint = np.zeros((slots, aps), np.int64)  # slots completed by the newest checkpoint; 0: none
        self.comebacks: list[dict[str, int]] = []  # {"ap", "incarnation", "slot", "restored"}
        self.fired: list[dict[str, Any]] = []  # faults of the plan: {"slot", "node", "action"}
        self._told: set[tuple[Any, ...]] = set()  # what is in these two
        self._suspects: dict[tuple[int, int], Ids] = {}  # by slot and AP, where it suspects anybody

    def add_slot(self, report: SlotReport) -> None:
        """Take in how a slot went."""
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
        """Take in how a slot went for one AP."""
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
        if report.suspects:
            self._suspects[at] = report.suspects
        self._add_counts(report)

    def _add_counts(self, report: ApReport | SlotReport) -> None:
        self.traffic[:, : report.sent.shape[1]] += report.sent  # of the version before: fewer kinds
        self.accepted += report.accepted
        self.rejected += report.dropped

    def add_comeback(self, hello: Hello, slot: int) -> None:
        """An AP is back in some slot, after its process has died; what it says twice counts once."""
        comeback = {"ap": hello.ap, "incarnation": hello.incarnation, "restored": hello.restored}
        if self._is_news(*comeback.values()):
            self.back_since[hello.ap] = slot
            self.comebacks.append({**comeback, "slot": slot})

    def add_fault(self, fault: FaultFired) -> None:
        """A fault of the plan has struck; what is told twice counts once."""
        fired = {"slot": fault.slot, "node": fault.node, "action": fault.action}
        if self._is_news(*fired.values()):
            self.fired.append(fired)

    def _is_news(self, *event: Any) -> bool:
        told = event in self._told
        self._told.add(event)
        return not told

    @property
    def newest_checkpoint(self) -> NDArray[np.int64]:
        """(M,) slots completed by the checkpoint that each AP told of last; 0: none."""
        newest = len(self.reported) - 1 - self.reported[::-1].argmax(axis=0)  # the last row if it never reported
        return np.asarray(self.checkpoint[newest, np.arange(len(newest))])

    @property
    def downtime(self) -> NDArray[np.int64]:
        """(M,) slots in a row that each AP has let pass, up to the newest that closed; 0: it is up."""
        backwards = ~self.silent[self.closed][::-1]  # True: it transmitted
        return (
            np.where(backwards.any(axis=0), backwards.argmax(axis=0), len(backwards))
            if len(backwards)
            else (np.zeros(self.silent.shape[1], np.int64))
        )

    def missing(self, slots: slice = slice(None)) -> NDArray[np.bool_]:
        """(slots, M) reports of APs on slots that closed, and that they did not let pass, which have not come in."""
        return self.closed[slots, None] & ~self.reported[slots] & ~self.silent[slots]

    @property
    def pending(self) -> int:
        """How many are missing."""
        return int(self.missing().sum())

    @property
    def first_incomplete(self) -> int:
        """The first slot of which a report is missing; the number of slots if none is."""
        missing = ~(self.closed & self.reported.all(axis=1))
        return int(missing.argmax()) if missing.any() else len(missing)

    @property
    def complete(self) -> bool:
        """Whether every report of every slot is in."""
        return bool(self.closed.all() and self.reported.all())

    # --- who is suspected -----------------------------------------------------------------------------------

    def suspicions(self, slot: int) -> NDArray[np.bool_]:
        """(M, M) whether AP m does not believe AP n in a slot."""
        aps = self.reported.shape[1]
        suspects = np.zeros((aps, aps), bool)
        for ap in range(aps):
            suspects[ap, list(self._suspects.get((slot, ap), ()))] = True
        return suspects

    def flagged(self, slot: int) -> Ids:
        """The APs not believed, in a slot, by half or more of those who precoded with their channels of late.

        Of late: in so many slots as a suspicion lasts. For that long suspects are no partners.
        """
        since = max(0, slot + 1 - LAPSES_AFTER)
        suspects = self.suspicions(slot)
        heard = suspects.copy()
        at, ap, position = np.nonzero(self.linked[since : slot + 1])
        heard[ap, self.neighbours[since + at, ap, position]] = True
        votes = suspects.sum(axis=0)
        return tuple(np.flatnonzero((votes > 0) & (2 * votes >= heard.sum(axis=0))).tolist())

    # --- tables -------------------------------------------------------------------------------------------

    def slots(self, index: NDArray[np.intp] | None = None) -> Table:
        """One row per slot, or per slot of `index`: rates, SINR, links, and what cooperation cost."""
        index = np.arange(len(self.closed)) if index is None else index
        links = [self._links(at) for at in index]
        by_slot: Table = {
            "slot": index,
            "episode": self.episode[index],
            "sum_rate_bps_hz": _sum_rate(self.sinr[index]),
            "sum_rate_alone_bps_hz": _sum_rate(self.sinr_alone[index]),
            "sinr_mean_db": _db(self.sinr[index]).mean(axis=(1, 2)),
            "sinr_mean_alone_db": _db(self.sinr_alone[index]).mean(axis=(1, 2)),
            "sinr_p5_db": np.percentile(_db(self.sinr[index]), 5, axis=(1, 2)),
            "sinr_p5_alone_db": np.percentile(_db(self.sinr_alone[index]), 5, axis=(1, 2)),
            "requests": self.requested[index].sum(axis=(1, 2)),
            "candidates": (self.neighbours[index] != NOBODY).sum(axis=(1, 2)),
            "formed": np.array([link.formed for link in links]),
            "pairs": self.pairs[index],
            "union_asked": np.array([link.union for link in links]),
            "union_candidates": np.array([link.candidates for link in links]),
            "disagreements": np.array([link.disagreements for link in links]),
            "largest_cluster": self.cluster_size[index].max(axis=1),
            "clusters_refused": self._clusters_refused(self.cluster_size[index]),
            "messages": self.fronthaul[index, :, 0].sum(axis=1),
            "bytes": self.fronthaul[index, :, 1].sum(axis=1),
            "aps_silent": self.silent[index].sum(axis=1),
        }
        return by_slot

    def aps(self) -> Table:
        """Exactly APs x slots rows: `ok`, `down` (no report) or `stale` (reported, but transmitted too late)."""
        slots, aps = self.reported.shape
        status = np.where(self.reported, np.where(self.silent, "stale", "ok"), "down")
        suspects = np.zeros(self.reported.shape, np.int64)
        for at, of_ap in self._suspects.items():
            suspects[at] = len(of_ap)
        columns = {
            "slot": np.repeat(np.arange(slots), aps),
            "ap": np.tile(np.arange(aps), slots),
            "status": status.ravel(),
            "neighbours": (self.neighbours != NOBODY).sum(axis=2).ravel(),
            "requests": self.requested.sum(axis=2).ravel(),
            "partners": self.linked.sum(axis=2).ravel(),
            "cluster_size": self.cluster_size.ravel(),
            "suspects": suspects.ravel(),
        }
        for index, name in enumerate(("gain", "reward", "loss", "epsilon")):
            columns[name] = self.floats[..., index].ravel()
        return {
            **columns,
            "messages": self.fronthaul[..., 0].ravel(),
            "bytes": self.fronthaul[..., 1].ravel(),
            "dropped": self.dropped.ravel(),
        }

    def ues(self) -> Table:
        """One row per UE and slot: mean over the blocks of SINR in dB and of rate."""
        slots, _, ues = self.sinr.shape
        return {
            "slot": np.repeat(np.arange(slots), ues),
            "ue": np.tile(np.arange(ues), slots),
            "sinr_db": _db(self.sinr).mean(axis=1).ravel(),
            "sinr_alone_db": _db(self.sinr_alone).mean(axis=1).ravel(),
            "rate_bps_hz": np.log2(1 + self.sinr).mean(axis=1).ravel(),
            "rate_alone_bps_hz": np.log2(1 + self.sinr_alone).mean(axis=1).ravel(),
        }

    def links(self) -> Table:
        """One row per slot, AP and neighbour it could ask: whether it asked, and precoded with its channels."""
        slot, ap, position = np.nonzero(self.neighbours != NOBODY)
        return {
            "slot": slot.astype(np.uint32),
            "ap": ap.astype(np.uint16),
            "neighbour": self.neighbours[slot, ap, position],
            "asked": self.requested[slot, ap, position],
            "linked": self.linked[slot, ap, position],
        }

    def digest(self) -> str:
        """SHA-256 over all records without wall-clock fields: equal for equal runs, on any runtime."""
        sha = hashlib.sha256()
        for name in _DIGESTED:
            array = getattr(self, name)
            sha.update(f"{name} {array.dtype} {array.shape}\0".encode() + array.tobytes())
        return sha.hexdigest()

    # --- figures of merit ---------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """Means over the slots that closed, over the last tenth of the episodes, and without cooperation."""
        first_of_last = (self._config.run.episodes - max(1, self._config.run.episodes // 10)) * (
            self._config.run.slots_per_episode
        )
        closed = np.flatnonzero(self.closed)
        last = closed[closed >= first_of_last]
        status = self.aps()["status"]
        return {
            "digest": self.digest(),
            "slots": len(closed),
            **self._means(closed),
            "last_tenth": self._means(last if len(last) else closed),
            "traffic": {
                kind.__name__: {"messages": int(self.traffic[0, tag]), "bytes": int(self.traffic[1, tag])}
                for tag, kind in enumerate(KINDS)
            },
            "rows": {state: int((status == state).sum()) for state in ("ok", "stale", "down")},
            "updates_skipped": int((self.floats[..., 2] < 0).sum()),
            "largest_cluster": int(self.cluster_size.max()),
            "clusters_refused": int(self._clusters_refused(self.cluster_size).sum()),
            "cluster_notes": self.cluster_notes(),
        }

    def cluster_notes(self) -> list[str]:
        """What a person should know of the clusters that formed, where that is not plain from the config."""
        cooperation, largest = self._config.cooperation, int(self.cluster_size.max())
        refused = self._clusters_refused(self.cluster_size)
        if cooperation.cluster not in {"capped", "components"}:
            return []
        if not refused.any():
            return [f"{cooperation.cluster}: the largest cluster had {largest} APs."]
        slot = self.cluster_size.max(axis=1).argmax()
        return [
            f"{cooperation.cluster}: a cluster of {largest} APs in slot {slot} exceeds cooperation.max_cluster_aps = "
            f"{cooperation.max_cluster_aps}; its APs precoded alone ({refused.sum()} such clusters in "
            f"{np.count_nonzero(refused)} of {self.closed.sum()} slots). Links percolate: use ego or capped clusters, "
            "or fewer links."
        ]

    def _clusters_refused(self, size: NDArray[np.int64]) -> NDArray[np.int64]:
        """(slots,) clusters whose APs precoded alone, as they were too large; one of s APs is reported s times.

        Args:
            size: (slots, M) of the cluster that each AP reported.
        """
        cooperation = self._config.cooperation
        too_large = (size > cooperation.max_cluster_aps) & (cooperation.cluster == "components")
        clusters = np.where(too_large, 1 / np.maximum(size, 1), 0).sum(axis=1)
        return np.asarray(np.ceil(clusters - 1e-9), np.int64)  # rounded up where a report is missing

    def _means(self, index: NDArray[np.intp]) -> dict[str, Any]:
        """Of the slots of `index`, with `no_cooperation` in the same slots."""
        total = {name: column.sum() for name, column in self.slots(index).items()}
        mean = {name: float(value / len(index)) for name, value in total.items()}
        no_links = {"requests": 0.0, "formed": 0.0, "pairs": mean["pairs"]}
        return {
            **self._rates(index, self.sinr, self.gain),
            "power_w": {
                "mean_of_busiest_ap": float(self.power[index, :, 0].mean(axis=0).max()),
                "peak": float(self.power[index, :, 1].max()),
            },
            "links": {unit: mean[unit] for unit in no_links},
            "request_rate": float(total["requests"] / max(total["candidates"], 1)),
            "union_rate": float(total["union_asked"] / max(total["union_candidates"], 1)),
            "messages_per_slot": mean["messages"],
            "bytes_per_slot": mean["bytes"],
            "no_cooperation": {
                **self._rates(index, self.sinr_alone, self.gain_alone),
                "links": no_links,
                **dict.fromkeys(_COSTS, 0.0),
            },
        }

    def _rates(self, index: NDArray[np.intp], sinr: NDArray[Any], gain: NDArray[Any]) -> dict[str, float | None]:
        radio, sum_rate = self._config.radio, float(np.mean(_sum_rate(sinr[index])))
        return {
            "sum_rate_bps_hz": sum_rate,
            "sum_rate_net_bps_hz": sum_rate * (1 - radio.pilot_length / radio.coherence_symbols),
            "sum_rate_hardening_bps_hz": self._hardening(index, sinr, gain),
            "sinr_mean_db": float(np.mean(_db(sinr[index]))),
            "sinr_p5_db": float(np.percentile(_db(sinr[index]), 5)),
        }

    def _hardening(self, index: NDArray[np.intp], sinr: NDArray[Any], gain: NDArray[Any]) -> float | None:
        """Sum rate of the hardening bound, mean over the episodes of the slots of `index`; None from single blocks."""
        episodes = [index[self.episode[index] == episode] for episode in np.unique(self.episode[index])]
        ues = sinr.shape[2]
        bounds = [hardening_sinr(gain[of].reshape(-1, ues), sinr[of].reshape(-1, ues)) for of in episodes]
        rate = float(np.log2(1 + np.array(bounds)).sum(axis=1).mean())
        return None if np.isnan(rate) else rate

    def _links(self, at: int) -> Links:
        """Counted between neighbours. A cluster that reaches beyond partners has only the links agreed within it."""
        aps = self.reported.shape[1]
        asked, linked = self._matrix(self.requested[at], at), self._matrix(self.linked[at], at)
        candidate = self._matrix(self.neighbours[at] != NOBODY, at)
        both, either, eligible = linked & linked.T, linked | linked.T, candidate & candidate.T
        upper = np.triu(np.ones((aps, aps), bool), 1)
        cooperation = self._config.cooperation
        directed = cooperation.cluster == "directed"
        agreed = both & asked & asked.T if cooperation.is_transitive else both
        return Links(
            formed=int(((either if directed else agreed) & upper).sum()),
            union=int(((asked | asked.T) & upper).sum()),
            candidates=int(((candidate | candidate.T) & upper).sum()),
            disagreements=0 if directed else int(((both != either) & eligible & upper).sum()),
        )

    def _matrix(self, flags: NDArray[Any], at: int) -> NDArray[Any]:
        """(M, M) of flags (M, cap) over the neighbours in a slot."""
        aps = self.reported.shape[1]
        matrix = np.zeros((aps, aps), bool)
        ap, position = np.nonzero(flags)
        matrix[ap, self.neighbours[at, ap, position]] = True
        return matrix


@dataclass(frozen=True)
class Links:
    """Undirected AP pairs of one slot."""

    formed: int  # that precoded together
    union: int  # of which either asked
    candidates: int  # of which either could ask
    disagreements: int  # that only one end believes in


def _db(ratio: NDArray[Any]) -> NDArray[Any]:
    level: NDArray[Any] = 10 * np.log10(np.maximum(ratio, 1e-12))
    return level


def _sum_rate(sinr: NDArray[Any]) -> NDArray[Any]:
    """(slots,) sum over UEs of the mean over blocks of log2(1 + SINR) [bit/s/Hz]."""
    rate: NDArray[Any] = np.log2(1 + sinr).mean(axis=1).sum(axis=1)
    return rate
