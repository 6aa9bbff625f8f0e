"""What faults cost a run: which APs were down when, what they came back with, and what became of the sum rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.protocol.messages import FloatArray
from apnode.protocol.node import ap_address
from apnode.runtime.injector import DEADLY
from cfmimo.records.rundir import NOTHING
from coordinator.tables import Table

Struck = Mapping[str, Any]  # what `faults.json` holds


@dataclass(frozen=True)
class Outage:
    """One death of one AP."""

    ap: int
    died: int  # slot
    action: str | None  # the fault of its own that ended it; None: something else did, as its machine's death
    lost: int  # slots that it did not report, or in which it transmitted too late
    restored: int | None  # slots completed by the checkpoint that it came back with; 0: none; None: it never told
    back: int | None  # first slot in which it took part again; None: not before it died again, or the end

    @property
    def age(self) -> int | None:
        """Slots from that checkpoint to the death; None without a checkpoint."""
        return max(self.died - self.restored, 0) if self.restored else None


def status_of(aps: Table) -> NDArray[Any]:
    """(slots, M) `ok`, `stale` or `down`, from `aps.parquet`."""
    status = np.empty((aps["slot"].max() + 1, aps["ap"].max() + 1), "<U5")
    status[aps["slot"], aps["ap"]] = aps["status"]
    return status


def is_afflicted(struck: Struck, ok: NDArray[np.bool_]) -> bool:
    """Whether anything was to go wrong, or did."""
    return any(struck[name] for name in NOTHING) or not ok.all()


def outages(struck: Struck, ok: NDArray[np.bool_]) -> list[Outage]:
    """Every death of an AP, in order.

    Args:
        struck: what `faults.json` holds.
        ok: (slots, M) whether the AP took part in the slot as it should.
    """
    found = [outage for ap in range(ok.shape[1]) for outage in _outages_of(ap, struck, ok[:, ap])]
    return sorted(found, key=lambda outage: (outage.died, outage.ap))


def _outages_of(ap: int, struck: Struck, ok: NDArray[np.bool_]) -> list[Outage]:
    """Each comeback ends an outage, which began with the next deadly fault of the AP, if that came before it."""
    faults = [f for f in struck["fired"] if f["node"] == ap_address(ap) and f["action"] in DEADLY]
    faults.sort(key=lambda fault: fault["slot"])
    found: list[Outage] = []
    since, end = 0, len(ok)
    for comeback in sorted((c for c in struck["comebacks"] if c["ap"] == ap), key=lambda c: c["slot"]):
        hello = min(comeback["slot"], end)
        planned = faults.pop(0) if faults and faults[0]["slot"] <= hello else None
        died = max(planned["slot"], since) if planned else _last_missed(ok, since, hello)
        back = _back(ok, died, hello)
        found.append(_outage(ap, died, planned, ok, comeback["restored"], back))
        since = hello
    for planned in faults:  # and nobody heard that it came back
        died = max(planned["slot"], since)
        missed = died + int(ok[died:].argmin()) if not ok[died:].all() else died
        back = None if ap in struck["given_up"] else _back(ok, died, missed)
        found.append(_outage(ap, died, planned, ok, None, back))
        since = end if back is None else back
    if ap in struck["given_up"] and since < end:
        found.append(_outage(ap, _last_missed(ok, since, end), None, ok, None, None))
    return [
        one if one.back is not None and one.back <= other.died
        else replace(one, lost=int((~ok[one.died : other.died]).sum()), back=None)
        for one, other in pairwise(found)
    ] + found[-1:]  # fmt: skip


def _outage(
    ap: int, died: int, fault: Struck | None, ok: NDArray[np.bool_], restored: int | None, back: int | None
) -> Outage:
    lost = int((~ok[died:back]).sum())
    return Outage(ap, died, None if fault is None else fault["action"], lost, restored, back)


def _last_missed(ok: NDArray[np.bool_], since: int, until: int) -> int:
    """Where the slots that were missed last begin, if they reach up to slot `until`; else that slot."""
    start = until if until == len(ok) or ok[until] else until + 1
    if start > since and ok[start - 1]:
        start -= 1  # it was back before the coordinator heard of it
    if start == since or ok[start - 1]:
        return until
    while start > since and not ok[start - 1]:
        start -= 1
    return start


def _back(ok: NDArray[np.bool_], died: int, hello: int) -> int | None:
    """The first slot that an AP took part in which died and was heard of again in slot `hello`."""
    if not ok[hello:].any():
        return None
    back = hello + int(ok[hello:].argmax())
    while back > died and ok[back - 1]:
        back -= 1
    return back


@dataclass(frozen=True)
class Marks:
    """Where figures show that something happened."""

    slots: dict[str, list[int]]  # by kind of fault
    places: dict[str, list[tuple[int, int]]]  # by what happened, (slot, ap)


def marks(struck: Struck, deaths: Sequence[Outage]) -> Marks:
    """Faults that fired, deaths that no fault of the AP's own explains, and what was done about it."""
    slots: dict[str, list[int]] = {}
    places: dict[str, list[tuple[int, int]]] = {}
    happened = [(fault["action"], fault["slot"], fault["node"]) for fault in struck["fired"]]
    happened += [("died", death.died, ap_address(death.ap)) for death in deaths if death.action is None]
    for kind, slot, node in sorted(happened):
        slots.setdefault(kind, []).append(slot)
        if node.startswith("ap/"):
            places.setdefault(kind, []).append((slot, int(node.removeprefix("ap/"))))
    for ended in struck["watchdog"]:
        places.setdefault("ended by the watchdog", []).append((ended["after_slot"] + 1, ended["ap"]))
    for death in deaths:
        if death.back is not None:
            how = "restored" if death.restored else "back"
            places.setdefault(how, []).append((death.back, death.ap))
    return Marks(slots, places)


# --- numbers ----------------------------------------------------------------------------------------------


def fault_costs(slots: Table, ok: NDArray[np.bool_], struck: Struck) -> dict[str, Any]:
    """How often what went wrong, and what came of it; as `summary.json` holds it.

    There is no twin of the run without faults, so the sum rate is held against three things, none of them perfect:

    - `sum_rate_bps_hz`: itself before the first trouble. But UEs were elsewhere then, and agents knew less.
    - `over_no_cooperation`: the same slots without cooperation. But that lacks the APs that are down as well, so it
      tells what became of cooperation, not of the power that is missing.
    - `with_aps_missing`: in slots that an AP missed, the other slots of the same episodes, which have the same UEs in
      the same places; 1 if it made no difference. But agents have to adapt in those, too.

    `slots_to_recover` counts from each slot with a fault to the first one in which the sum rate over that without
    cooperation is at least its median before the first trouble, at best 0 slots. As it crosses its median all the time,
    and differs from one place of the UEs to the next, `without_fault` says how long that takes from the slots before.

    Args:
        slots: with `episode`, `sum_rate_bps_hz` and `sum_rate_alone_bps_hz`.
        ok: (slots, M) whether the AP took part in the slot as it should.
        struck: what `faults.json` holds.
    """
    deaths = outages(struck, ok)
    rate, alone = slots["sum_rate_bps_hz"], slots["sum_rate_alone_bps_hz"]
    struck_slots = {min(fault["slot"], len(ok) - 1) for fault in struck["fired"]} | {
        min(outage.died, len(ok) - 1) for outage in deaths
    }
    missing = np.asarray(~ok.all(axis=1))
    trouble = sorted(struck_slots.union(np.flatnonzero(missing).tolist()))
    first, last = (trouble[0], trouble[-1] + 1) if trouble else (len(ok), len(ok))
    periods = {"before": slice(0, first), "during": slice(first, last), "after": slice(last, None)}
    ratio = np.divide(rate, alone, out=np.full(len(ok), np.nan), where=alone > 0)  # nothing if every AP is down
    return {
        "planned": dict(Counter(fault["action"] for fault in struck["planned"])),
        "fired": dict(Counter(fault["action"] for fault in struck["fired"])),
        "deaths": len(deaths),
        "restored": sum(bool(outage.restored) for outage in deaths),
        "given_up": sorted(struck["given_up"]),
        "ended_by_watchdog": len(struck["watchdog"]),
        "ap_slots_not_ok": int((~ok).sum()),
        "slots_lost": _spread([outage.lost for outage in deaths]),
        "checkpoint_age_slots": _spread([outage.age for outage in deaths if outage.age is not None]),
        "sum_rate_bps_hz": {name: _mean(rate[period]) for name, period in periods.items()},
        "over_no_cooperation": {name: _ratio(rate[period], alone[period]) for name, period in periods.items()},
        "with_aps_missing": _against_same_episodes(rate, slots["episode"], missing),
        "slots_to_recover": _recovery(ratio, sorted(struck_slots), first),
    }


def _spread(values: Sequence[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": float(max(values)),
    }


def _mean(values: FloatArray) -> float | None:
    known = values[~np.isnan(values)]  # slots that closed
    return float(known.mean()) if len(known) else None


def _ratio(values: FloatArray, to: FloatArray) -> float | None:
    mean, mean_to = _mean(values), _mean(to)
    return mean / mean_to if mean is not None and mean_to else None


def _against_same_episodes(rate: FloatArray, episode: NDArray[Any], missing: NDArray[np.bool_]) -> float | None:
    """Sum rate in slots with APs missing, over that in the other slots of their episodes."""
    known, hit, expected = ~np.isnan(rate), 0.0, 0.0
    for number in np.unique(episode[missing & known]):
        with_all = rate[known & (episode == number) & ~missing]
        without = rate[known & (episode == number) & missing]
        if len(with_all):
            hit, expected = hit + without.sum(), expected + len(without) * with_all.mean()
    return float(hit / expected) if expected else None


def _recovery(ratio: FloatArray, faults: Sequence[int], first: int) -> dict[str, Any] | None:
    before = ratio[:first]
    if not faults or np.isnan(before).all():
        return None
    median = np.nanmedian(before)
    took = _slots_until(ratio >= median, faults)
    placebo = _spread(_slots_until(before >= median, range(first)))
    return {**(_spread(took) or {}), "never": len(faults) - len(took), "without_fault": placebo}


def _slots_until(reached: NDArray[np.bool_], starts: Sequence[int]) -> list[int]:
    """From each start to the first slot that has it, where there is one."""
    at = np.flatnonzero(reached)
    next_one = np.searchsorted(at, starts)
    return [int(at[index] - start) for start, index in zip(starts, next_one, strict=True) if index < len(at)]
