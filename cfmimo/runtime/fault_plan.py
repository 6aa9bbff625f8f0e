"""Fault plans: what a person writes (TOML), checked, and what becomes of it for each node of a run."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from apnode.config import Config
from apnode.config.section import Count, Fraction, Section
from apnode.protocol.node import CHANNEL, COORDINATOR, ap_address
from apnode.protocol.rng import Purpose, generator
from apnode.runtime.injector import LASTING, Fault, LinkFault, NodeFaults
from cfmimo.errors import ConfigError, did_you_mean
from cfmimo.presets import sentences

_Slot = Annotated[int, Field(ge=0, le=10**9)]
_TARGETS = {"kill_channel_server": CHANNEL, "kill_coordinator": COORDINATOR}
_ANY_AP = "ap/*"
_PLANS = Path(__file__).parents[1] / "presets/faults"


class FaultArgs(Section):
    """How a fault goes about it."""

    slots: Count | None = Field(
        None, description="how long it lasts (lie, disk_full, partition), or a node stays down in --runtime local"
    )
    times: Count = Field(1, description="crash_on_start: how many starts fail")
    kind: Literal["random", "scaled", "conjugate", "eager", "innocent"] = Field(
        "random", description="lie: what is told"
    )
    others: tuple[str, ...] = Field((), strict=False, description="partition: the other side; default: all others")


class PlannedFault(Section):
    """One fault, or several of a kind."""

    slot: _Slot = Field(description="in which it strikes")
    target: str = Field("", description='"ap/3", "ap/*", "ap/0-4", "node/1"')
    action: Literal[
        "kill",
        "hang",
        "restart",
        "crash_on_start",
        "lie",
        "disk_full",
        "corrupt_checkpoint",
        "kill_channel_server",
        "kill_coordinator",
        "kill_node",
        "partition",
    ] = Field(description="what happens")
    args: FaultArgs = FaultArgs()
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="of the targets, so many are drawn; all get their turn before one is drawn again"
    )
    every: Count | None = Field(None, description="again after so many slots")
    until: _Slot | None = Field(None, description="every: the slot before which it ends; default: the run's end")

    @model_validator(mode="after")
    def _target_fits_the_action(self) -> Self:
        implied = _TARGETS.get(self.action)
        if implied and self.target not in {"", implied}:
            raise ValueError(f"{self.action} always strikes {implied}; leave target away")
        if not implied and not self.target:
            raise ValueError(f'{self.action} needs a target, as "ap/3"')
        if (self.action == "kill_node") != self.target.startswith("node/"):
            raise ValueError('kill_node strikes "node/0", "node/1", ...; other actions strike APs')
        if self.until is not None and self.every is None:
            raise ValueError("until goes with every")
        return self


class PlannedLinks(Section):
    """Chances of what happens to each frame on some links."""

    senders: str = Field(_ANY_AP, description='"ap/*", "ap/3", "ap/0-4", "channel"')
    receivers: str = Field(_ANY_AP, description="likewise")
    first: _Slot = Field(0, description="slot in which it begins")
    last: _Slot = Field(10**9, description="slot in which it ends, as far as the sender hears of slots")
    loss: Fraction = Field(0.0, description="the frame never arrives")
    duplication: Fraction = Field(0.0, description="it arrives twice")
    reordering: Fraction = Field(0.0, description="it leaves after what its sender sends next")
    corruption: Fraction = Field(0.0, description="up to eight of its bits flip")
    delay: Fraction = Field(0.0, description="it leaves some slots later")
    delay_slots: Count = Field(1, description="so many at most")
    frames: tuple[_Slot, ...] = Field(
        (),
        strict=False,
        description="only to these frames of each link, counted from 0, and to them for certain where a chance is 1",
    )


class FaultPlan(Section):
    """What is to go wrong in a run. Same plan, same seed, same faults."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="of what is drawn")
    faults: tuple[PlannedFault, ...] = Field((), strict=False)
    links: tuple[PlannedLinks, ...] = Field((), strict=False)


@dataclass(frozen=True)
class Faults:
    """A plan as it applies to one network."""

    faults: tuple[Fault, ...] = ()  # in order of their slots
    links: tuple[LinkFault, ...] = ()
    seed: int = 0
    nodes: tuple[Fault, ...] = field(default=(), repr=False)  # kill_node: of machines, by the launcher

    def of(self, *addresses: str) -> NodeFaults:
        """What the nodes of one process need to know."""
        links = tuple(link for link in self.links if not link.senders.isdisjoint(addresses))
        return NodeFaults(tuple(fault for fault in self.faults if fault.node in addresses), links, self.seed)

    @property
    def planned(self) -> list[dict[str, Any]]:
        """For `faults.json`."""
        struck = sorted((*self.faults, *self.nodes), key=lambda fault: (fault.slot, fault.node))
        return [{"slot": fault.slot, "node": fault.node, "action": fault.action} for fault in struck]

    def not_as_planned(self, fired: Iterable[dict[str, Any]]) -> list[str]:
        """How the faults that fired differ from those planned; nothing if they do not."""
        wanted, happened = ({tuple(fault.values()) for fault in faults} for faults in (self.planned, fired))
        differ = {"planned but not fired": wanted - happened, "fired but not planned": happened - wanted}
        return [
            f"{action} of {node} in slot {slot} {how}"
            for how, of in differ.items()
            for slot, node, action in sorted(of)
        ]


def plan_names() -> list[str]:
    """The fault plans that ship, in alphabetical order."""
    return sorted(path.stem for path in _PLANS.glob("*.toml"))


def plan_text(source: str) -> str:
    """A fault plan as written: one that ships, or a file.

    Raises:
        ConfigError: if there is none.
    """
    path = _PLANS / f"{source}.toml" if source in plan_names() else Path(source)
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        known, guess = ", ".join(plan_names()), did_you_mean(source, plan_names())
        raise ConfigError(
            f"no fault plan {source:.300}: {error}; there are {known}, or name a .toml file{guess}"
        ) from None


def load_plan(source: str) -> FaultPlan:
    """A fault plan that ships, or from a TOML file.

    Raises:
        ConfigError: says in a sentence what is wrong and where.
    """
    try:
        tree = tomllib.loads(plan_text(source))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the fault plan {source:.300} is not TOML: {error}") from None
    try:
        return FaultPlan.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: {sentences(error, FaultPlan)}") from None


def resolve(plan: FaultPlan, config: Config) -> Faults:
    """The plan for the APs that there are and the slots that there will be.

    Raises:
        ConfigError: if it names an AP or a slot that there is not.
    """
    faults: list[Fault] = []
    links = [_link(planned, config) for planned in plan.links]
    for number, planned in enumerate(plan.faults):
        if planned.slot >= config.num_slots:
            raise ConfigError(f"{planned.action} in slot {planned.slot}: the run has slots 0 to {config.num_slots - 1}")
        rng = generator(plan.seed, Purpose.FAULTS, number)
        targets = [planned.target] if planned.action == "kill_node" else _addresses(planned.target, config)
        for slot, struck in _strikes(planned, targets or [_TARGETS.get(planned.action, "")], config, rng):
            if planned.action == "partition":
                links += _cut(planned, struck, slot, config)
            else:
                faults += [_fault(planned, node, slot) for node in struck]
    faults = list({(fault.slot, fault.node, fault.action): fault for fault in faults}.values())
    faults.sort(key=lambda fault: (fault.slot, fault.node))
    of_machines = tuple(fault for fault in faults if fault.action == "kill_node")
    return Faults(tuple(f for f in faults if f not in of_machines), tuple(links), plan.seed, of_machines)


def _strikes(
    planned: PlannedFault, targets: Sequence[str], config: Config, rng: np.random.Generator
) -> Iterable[tuple[int, list[str]]]:
    """(slot, whom it strikes), as often as it does."""
    end = min(planned.until or config.num_slots, config.num_slots) if planned.every else planned.slot + 1
    count = max(1, round(planned.share * len(targets)))
    waiting: list[str] = []
    for slot in range(planned.slot, end, planned.every or 1):
        if len(waiting) < count:
            again = [target for target in targets if target not in waiting]
            waiting += [again[at] for at in rng.permutation(len(again))]
        struck, waiting = waiting[:count], waiting[count:]
        yield slot, struck


def _fault(planned: PlannedFault, node: str, slot: int) -> Fault:
    lasts = planned.args.slots or (10 if planned.action in LASTING else 3)
    kind = planned.args.kind if planned.action == "lie" else ""
    return Fault(slot, node, planned.action, lasts, planned.args.times, kind)


def _cut(planned: PlannedFault, side: Sequence[str], slot: int, config: Config) -> list[LinkFault]:
    """No frame passes between two sides, either way."""
    everybody = {CHANNEL, COORDINATOR, *_addresses(_ANY_AP, config)}
    here = frozenset(side)
    named = {node for other in planned.args.others for node in _addresses(other, config)}
    there = frozenset(named or everybody) - here
    last = slot + (planned.args.slots or 10) - 1
    return [LinkFault(a, b, slot, last, loss=1.0) for a, b in ((here, there), (there, here))]


def _link(planned: PlannedLinks, config: Config) -> LinkFault:
    return LinkFault(
        senders=frozenset(_addresses(planned.senders, config)),
        receivers=frozenset(_addresses(planned.receivers, config)),
        frames=frozenset(planned.frames),
        **planned.model_dump(exclude={"senders", "receivers", "frames"}),
    )


def _addresses(target: str, config: Config) -> list[str]:
    """The nodes that a target names."""
    if target in {"", CHANNEL, COORDINATOR}:
        return [target] if target else []
    kind, _, which = target.partition("/")
    bounds = ["0", str(config.radio.num_aps - 1)] if which == "*" else which.split("-")
    if kind != "ap" or len(bounds) > 2 or not all(bound.isdecimal() for bound in bounds):
        raise ConfigError(f'{target!r:.60} names no AP: write "ap/3", "ap/0-4" or "ap/*"')
    first, last = int(bounds[0]), int(bounds[-1])
    if not first <= last < config.radio.num_aps:
        raise ConfigError(f"{target}: the network has APs 0 to {config.radio.num_aps - 1}")
    return [ap_address(ap) for ap in range(first, last + 1)]
