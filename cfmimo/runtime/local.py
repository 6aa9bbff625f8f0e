"""The local runtime: all nodes in one process, a queue of frames, virtual time. The reference mode.

Nodes fall together that would share a process on Ray.
"""

from __future__ import annotations

import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apnode.access_point import AccessPoint, use_leisure_together
from apnode.agent.policies import Policy, make_policy, put_together
from apnode.config import Config
from apnode.protocol.node import CHANNEL, COORDINATOR, Node, Send, ap_address
from apnode.protocol.rng import Purpose, config_for_aps, generator
from apnode.runtime.checkpoint import Checkpoints
from apnode.runtime.host import CHECKPOINTS, SILENT_SLOTS, Host, noted_faults, restore
from apnode.runtime.injector import Fault, Injector, Struck
from cfmimo.runtime.fault_plan import Faults
from cfmimo.runtime.groups import groups_of
from cfmimo.runtime.request import note_error
from channel_server.impairments import fronthaul_levels
from channel_server.server import ChannelServer
from coordinator.collector import Coordinator
from coordinator.journal import JOURNAL, Journal

_Link = tuple[str, str]  # from, to
_MAX_IDLE = 1000
_DOWN_SLOTS = 3  # an AP that raised an exception
_BUDGET_SLOTS = 300  # within which it may do so config.run.restart_budget times: on Ray, within a minute


@dataclass
class Ledger:
    """What became of every frame, by link: sent + doubled = lost + to_nobody + accepted + rejected + unknown."""

    sent: Counter[_Link] = field(default_factory=Counter)
    doubled: Counter[_Link] = field(default_factory=Counter)  # by the network
    lost: Counter[_Link] = field(default_factory=Counter)  # by the network, as planned
    to_nobody: Counter[_Link] = field(default_factory=Counter)  # the sender knew no such endpoint
    accepted: Counter[_Link] = field(default_factory=Counter)
    rejected: Counter[_Link] = field(default_factory=Counter)
    unknown: Counter[_Link] = field(default_factory=Counter)  # to who was down, or under way at the end

    @property
    def wrong(self) -> list[_Link]:
        """Links whose sums do not agree."""
        fates = (self.lost, self.to_nobody, self.accepted, self.rejected, self.unknown)
        links = self.sent.keys() | {link for fate in fates for link in fate}
        return [at for at in sorted(links) if self.sent[at] + self.doubled[at] != sum(fate[at] for fate in fates)]

    @property
    def frames_lost(self) -> dict[str, int]:
        """As an Outcome has it."""
        return {
            "planned": self.lost.total(),
            "to_nobody": self.to_nobody.total(),
            "unaccounted": self.unknown.total(),
        }


class LocalNetwork:
    """Delivers frames between pure nodes, in order of sending or shuffled; when no frame is left, time passes."""

    kind: type[AccessPoint] = AccessPoint

    def __init__(
        self,
        config: Config,
        order_seed: int | None = None,
        policy_of: Callable[[int, Config], Policy] = make_policy,
        faults: Faults = Faults(),  # noqa: B008  frozen
        folder: Path | None = None,
        first_slot: int = 0,
    ) -> None:
        """Set up all nodes.

        Args:
            config: the experiment.
            order_seed: of the order of delivery; None for the order of sending.
            policy_of: makes an AP's policy, from its number and its config.
            faults: what goes wrong.
            folder: for checkpoints and the journal; None: nowhere, and who is restarted begins anew.
            first_slot: to go on with, from what is in `folder`.
        """
        self.restarts: list[dict[str, int]] = []  # {"ap", "after_slot"}
        self.given_up: list[int] = []  # APs that raised too many exceptions
        self.errors: list[dict[str, Any]] = []  # exceptions of APs, as `note_error` returns them
        self.ledger = Ledger()  # without faults, only of frames to nobody
        self._config, self._policy_of, self._faults, self._folder = config, policy_of, faults, folder
        self._first_slot, self._known = first_slot, config_for_aps(config)
        self._faulty = faults != Faults()
        self._late = fronthaul_levels(config)
        self._together: dict[str, tuple[str, ...]] = {CHANNEL: (CHANNEL,), COORDINATOR: (COORDINATOR,)}
        for group in groups_of(config):  # by address, who shares its process
            self._together |= dict.fromkeys(map(ap_address, group), tuple(map(ap_address, group)))
        self._lives: Counter[str] = Counter()
        self._down: dict[str, int] = {}  # by address, the slot in which it is back
        self._frozen: dict[str, list[tuple[str, Send]]] = {}  # by address, what waits for it
        self._queue: deque[tuple[str, Send]] = deque()  # with the sender
        self._order = None if order_seed is None else generator(order_seed, Purpose.DELIVERY_ORDER)
        self.aps: list[AccessPoint] = []
        self._hosts: dict[str, Host] = {}
        self._clock = -1  # newest slot of the channel servers that have died
        self._idle = 0  # how often in a row time has passed and nothing came of it
        self._woken = -1  # the slot in which timers were looked at last
        self._learned = -1  # the newest slot in which APs have used their leisure
        self._heard: dict[str, int] = {}  # by address, the slot in which a node last got a frame
        self._start_channel()
        self._start_coordinator()
        self.aps += map(self._make_ap, range(config.radio.num_aps))
        put_together(ap.policy for ap in self.aps)

    def run(self, watch: Callable[[Send], None] = lambda send: None) -> None:
        """Run to the end; `watch` sees every frame just before it is delivered."""
        for send in self.frames():
            watch(send)

    def frames(self) -> Iterator[Send]:
        """Run to the end, or as long as the caller asks for more: each frame just before it is delivered."""
        for ap in self.aps:
            self._begin(ap)
        while not self._over:
            self._look_after_faults()
            if not self._queue:
                self._pass_time()
                continue
            sender, send = self._take()
            self._idle = 0
            yield send
            self._deliver(sender, send)
        self._close()

    def _look_after_faults(self) -> None:
        if self._faulty:
            self._bring_back()
            if self._now > self._woken:
                self._wake()

    # --- frames -------------------------------------------------------------------------------------------

    def _deliver(self, sender: str, send: Send) -> None:
        host = self._hosts.get(send.to)
        if sender == CHANNEL and host is not None and host.node.has_leisure and self._learned < host.node.opened:
            self._learned = host.node.opened  # the slot may close now, and by then all are to have learned
            running = self._hosts.keys() - self._frozen.keys()
            use_leisure_together(ap for ap in self.aps if ap.address in running)
        if send.to in self._frozen:
            self._frozen[send.to].append((sender, send))
        elif host is None:
            self.ledger.unknown[sender, send.to] += 1
        elif self._faulty:
            self._deliver_and_count(host, sender, send)
        else:
            self._let(host, host.receive, send.frame, send.message)

    def _deliver_and_count(self, host: Host, sender: str, send: Send) -> None:
        self._heard[send.to] = self._now
        self._let(host, host.receive, send.frame, send.message)
        outcome = self.ledger.accepted if host.node.took else self.ledger.rejected
        outcome[sender, send.to] += 1

    def _let(self, host: Host, act: Callable[..., list[Send]], *args: Any) -> None:
        """Let a node act; if it is struck meanwhile, it sends its last words and is down, or frozen."""
        try:
            self._post(host.node, act(*args))
        except Struck as struck:
            for each in (self._hosts[address] for address in self._together[host.node.address]):
                words = struck.last_words if each is host else each.strike(struck.fault.slot)[0]
                each.sent.update(send.to for send in words)
                self._post(each.node, words)
                self._fell(each.node.address, struck.fault)
        except Exception as error:
            if not isinstance(host.node, AccessPoint):
                raise
            self._raised(host.node, error)

    def _post(self, sender: Node, sends: Iterable[Send]) -> None:
        """Queue what a node sends, to peers whose endpoint it has been told; an endpoint is an address here."""
        for send in sends:
            if send.to in sender.endpoints:
                self._queue.append((sender.address, send))
            else:
                self.ledger.to_nobody[sender.address, send.to] += 1

    def _take(self) -> tuple[str, Send]:
        if self._order is not None:
            self._queue.rotate(int(self._order.integers(len(self._queue))))
        return self._queue.popleft()

    def _pass_time(self) -> None:
        """Nothing is under way: every timer fires, the slot's deadline first. If nothing comes of it, nothing will."""
        for address in (CHANNEL, *(address for address in self._hosts if address != CHANNEL)):
            if address in self._hosts and address not in self._frozen:
                self._let(self._hosts[address], self._hosts[address].tick)
            if address == CHANNEL and self._queue:
                return  # it did not take so long that others would have lost patience
        if CHANNEL in self._down:
            self._return(CHANNEL)
        elif not self._queue and self._down and self.channel.air is None:  # no slot goes by, but time does
            self._return(min(self._down, key=lambda address: self._down[address]))
        self._idle += 1
        if self._idle > _MAX_IDLE and not self._over:
            raise RuntimeError("no frame is under way, but not every node is done, and waiting changes nothing")

    def _wake(self) -> None:
        """Let APs know that time has passed who hear nothing while others go on."""
        self._woken = self._now
        for ap in self.aps:
            host = None if ap.address in self._frozen else self._hosts.get(ap.address)
            if host is not None and self._now - self._heard.setdefault(ap.address, self._now) >= SILENT_SLOTS:
                self._heard[ap.address] = self._now
                self._let(host, host.tick)

    # --- nodes --------------------------------------------------------------------------------------------

    @property
    def _now(self) -> int:
        """The newest slot that was opened, by whichever channel server."""
        return max(self._clock, self.channel.opened)

    @property
    def _over(self) -> bool:
        return (
            not self._down
            and not self._frozen
            and self.coordinator.done
            and all(ap.done for ap in self.aps if ap.ap not in self.given_up)
        )

    def _begin(self, ap: AccessPoint) -> None:
        host = self._hosts[ap.address]
        self._let(host, lambda: host.begin(ap.start(ap.address)))

    def _host(self, node: Node, checkpoints: Checkpoints | None = None, late: int = 0) -> None:
        injector = None
        if self._faulty:
            lives = self._lives[node.address]
            faults = self._faults.of(*self._together[node.address])
            injector = Injector(faults, node.address, lives, self._first_slot)
        notes = None if self._folder is None else self._folder / CHECKPOINTS
        self._hosts[node.address] = Host(node, checkpoints, injector, notes, late)

    def _start_channel(self) -> None:
        first_slot = self._first_slot
        if self._lives[CHANNEL]:
            first_slot = max(self.coordinator.newest + 1, first_slot)
        self.channel = ChannelServer(self._config, first_slot, patience=1 if self._lives[CHANNEL] else None)
        self.channel.endpoints[COORDINATOR] = COORDINATOR
        self._host(self.channel)

    def _start_coordinator(self) -> None:
        journal = None if self._folder is None else Journal(self._folder / JOURNAL)
        self.coordinator = Coordinator(self._config, journal)
        self.coordinator.given_up.update(self.given_up)
        self._host(self.coordinator)
        aps = map(ap_address, range(self._config.radio.num_aps))
        self.coordinator.endpoints |= {address: address for address in (CHANNEL, *aps)}

    def _make_ap(self, ap: int) -> AccessPoint:
        known, lives = self._known, self._lives[ap_address(ap)]
        node = self.kind(ap, known, self._policy_of(ap, known), lives)
        node.endpoints |= {CHANNEL: CHANNEL, COORDINATOR: COORDINATOR}
        checkpoints = None
        if self._folder is not None:
            checkpoints = Checkpoints(self._folder / CHECKPOINTS, f"ap-{ap}")
            restore(node, checkpoints, self._first_slot)
        self._host(node, checkpoints, int(self._late[ap]))
        return node

    # --- faults -------------------------------------------------------------------------------------------

    def _fell(self, address: str, fault: Fault) -> None:
        """A node's process ends, or freezes until the watchdog ends it."""
        if fault.action == "hang":
            self._frozen[address] = []
            self._down[address] = self._now + self._config.run.watchdog_slots
            return
        if address == CHANNEL:
            self._clock = self._now
        self._end(address)
        failing = fault.times if fault.action == "crash_on_start" else 0
        self._lives[address] += 1 + failing
        self._down[address] = self._now + fault.slots * (1 + failing)

    def _raised(self, node: AccessPoint, error: Exception) -> None:
        """An AP's exception ends that AP's process, and nothing else; one in which too many raise is given up."""
        self._faulty = True  # others may wait for it
        group = self._together[node.address]
        slots = [noted["after_slot"] for noted in self.errors if ap_address(noted["ap"]) in group]
        noted = note_error(self._folder, node.ap, self._now, error, "".join(traceback.format_exception(error)))
        self.errors.append(noted)
        budget = self._config.run.restart_budget
        for address in group:
            self._end(address)
            self._lives[address] += 1
            if len(slots) >= budget and self._now - slots[-budget] < _BUDGET_SLOTS:
                ap = _number(address)
                self.given_up.append(ap)
                self.coordinator.given_up.add(ap)
            else:
                self._down[address] = self._now + _DOWN_SLOTS

    def _end(self, address: str) -> None:
        host = self._hosts.pop(address)
        self._settle(host)
        for sender, _ in self._frozen.pop(address, ()):
            self.ledger.unknown[sender, address] += 1

    def _bring_back(self) -> None:
        """Start the processes anew whose time has come."""
        for address, slot in list(self._down.items()):
            if address not in self._down or (slot > self._now and not self.channel.done):
                continue
            for each in self._together[address]:
                if each in self._frozen:  # the watchdog
                    self._end(each)
                    self._lives[each] += 1
            self._return(address)

    def _return(self, address: str) -> None:
        for each in self._together[address]:
            del self._down[each]
        if address == CHANNEL:
            self._start_channel()
            self._let(self._hosts[CHANNEL], self._hosts[CHANNEL].begin, [])
        elif address == COORDINATOR:
            self._start_coordinator()
            host = self._hosts[address]
            self._let(host, host.begin, self.coordinator.ask_again())
        else:
            for ap in map(_number, self._together[address]):
                self.restarts.append({"ap": ap, "after_slot": self._now})
                self.aps[ap] = self._make_ap(ap)
                self._begin(self.aps[ap])

    def _settle(self, host: Host) -> None:
        """Enter what a node sent, and what became of it on its links, into the ledger."""
        address = host.node.address
        entries = [(self.ledger.sent, host.sent)]
        if host.injector is not None:
            injector = host.injector
            entries += [
                (self.ledger.lost, injector.lost),
                (self.ledger.doubled, injector.doubled),
                (self.ledger.unknown, injector.under_way),
            ]
        for book, by_receiver in entries:
            for receiver, count in by_receiver.items():
                book[address, receiver] += count

    def _close(self) -> None:
        for host in self._hosts.values():
            self._settle(host)
        for ap in self.aps:
            self.coordinator.record.unsaved[ap.ap] += ap.unsaved  # after its last report
        if self._folder is not None:
            for fired in noted_faults(self._folder):
                self.coordinator.record.add_fault(fired)
        for sender, send in self._queue:
            self.ledger.unknown[sender, send.to] += 1


def _number(address: str) -> int:
    """Of an AP."""
    return int(address.partition("/")[2])
