"""The channel server: the air between APs and UEs, the UEs themselves, and so the clock of the network.

It opens a slot by letting every AP hear the pilots, and closes it when all live APs have transmitted or the
deadline has passed twice: once to tell the late, once to go on without them. It knows every channel; what it
tells an AP is only what that AP's antennas heard and what that AP's own UEs report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from apnode.config import Config
from apnode.protocol.limits import largest_frame
from apnode.protocol.messages import (
    Association,
    ComplexArray,
    Deadline,
    FloatArray,
    Hello,
    IntArray,
    PilotBlock,
    Resend,
    RunOver,
    SlotFeedback,
    SlotReport,
    Tick,
    Transmission,
)
from apnode.protocol.node import ACCEPTED, CHANNEL, COORDINATOR, Fate, Node, ap_address, refuse_unless
from channel_server.fading import channels, received_pilots
from channel_server.impairments import downlink
from channel_server.sinr import received, received_interference, sinr_of, spectral_efficiency
from channel_server.topology import Layout, associations, make_layout
from channel_server.ue_reports import partner_gains, service_of, stream_levels, strongest_interferers

SLACK = 8.0  # standard deviations of about one AP's power: honest APs stay below 3 of them
_Reports = tuple[IntArray, FloatArray, IntArray, FloatArray]  # as in SlotFeedback


@dataclass
class Air:
    """One slot on the air."""

    index: int
    episode: int
    h: ComplexArray  # (B, M, K, L) true channels, as the uplink has them
    awaited: set[int]  # live APs that have not transmitted
    transmissions: dict[int, Transmission] = field(default_factory=dict)  # by AP
    reminded: bool = False  # the deadline has passed once


class ChannelServer(Node):
    """Pure state machine of the propagation physics; time comes in as Tick."""

    def __init__(self, config: Config, first_slot: int = 0, patience: int | None = None) -> None:
        """Wait for the APs.

        Args:
            config: the experiment.
            first_slot: to open, unless APs say that they are further.
            patience: of a server that was restarted, when not all APs may be alive: Ticks in which all live APs say
                hello, after which it goes on with those that have.
        """
        super().__init__(CHANNEL, largest_frame(config))
        self.layout: Layout
        self.air: Air | None = None
        self._config = config
        self._first_slot, self._patience = first_slot, patience
        self._episode: int | None = None  # that `layout` is of
        self._live: set[int] = set()
        self._said: dict[int, int] = {}  # by AP, the slot it was in when it said hello
        self._incarnation: dict[int, int] = {}  # by AP, as it said hello
        self._told: list[Association] = []  # by AP, but for endpoints
        self._radiated = np.zeros((2, config.radio.num_aps))  # in this episode, with partners and alone [W x slots]
        self._handlers = {
            Hello: self._on_hello,
            Transmission: self._on_transmission,
            Resend: self._on_resend,
            Tick: self._on_tick,
        }

    # --- APs come and go ----------------------------------------------------------------------------------

    def _on_hello(self, hello: Hello) -> Fate:
        """An AP is here (again). When all are, a slot opens; a later hello gets it back into the episode."""
        refuse_unless(hello.ap < self._config.radio.num_aps, f"no AP {hello.ap} in this network")
        refuse_unless(hello.slot <= self._config.num_slots, f"no slot {hello.slot} in this run")
        known = self._incarnation.get(hello.ap, -1)
        if hello.incarnation <= known:
            return "duplicate" if hello.incarnation == known else "late"
        self._incarnation[hello.ap] = hello.incarnation
        self.endpoints[ap_address(hello.ap)] = hello.endpoint
        self._live.add(hello.ap)
        if hello.slot or not hello.incarnation:  # who has just been restarted does not know
            self._said[hello.ap] = hello.slot
        if self.air is not None:
            self._readmit(hello.ap, self.air)
        elif self.done:
            self._send(ap_address(hello.ap), RunOver(self._config.num_slots))
        elif len(self._live) == self._config.radio.num_aps:
            self._begin()
        return ACCEPTED

    def _begin(self) -> None:
        """Open the slot that the APs are in: the first of a run, or where the last server has left them.

        What the last server sent while dying is lost: an AP may be a slot further because it was told the deadline, and
        nothing else of the slot before. So that slot is opened again if nobody has reported it. Its channels are the
        same, and who has transmitted in it transmits the same again.
        """
        self._go_on(max(self._first_slot, max(self._said.values(), default=0) - 1))

    def _readmit(self, ap: int, air: Air) -> None:
        """Bring a restarted AP and its peers in touch again; the open slot does not wait for it."""
        for near in (ap, *self._told[ap].neighbours, *self._told[ap].askers):
            self._associate(near)
        if ap not in air.transmissions:
            air.awaited.discard(ap)
            self._close_when_complete(air)

    def _on_tick(self, tick: Tick) -> Fate:
        """Half the slot's deadline: first a reminder to the late, then on without them until they are heard of again.

        A server that was restarted waits for all APs, as long as it takes those alive to say hello; then it goes on
        with those that there are.
        """
        air = self.air
        if air is None:
            if self._patience is not None and not self.done:
                self._patience -= 1
                if self._patience <= 0 and self._live:
                    self._begin()
        elif air.reminded:
            self._live -= air.awaited
            self._close(air)
        else:
            air.reminded = True
            for ap in sorted(air.awaited):
                self._associate(ap)  # perhaps it never heard of this episode
                self._send(ap_address(ap), Deadline(air.index))
        return ACCEPTED

    # --- a slot -------------------------------------------------------------------------------------------

    def _go_on(self, slot: int) -> None:
        """Open the next slot, if there is one."""
        if slot < self._config.num_slots:
            self._open(slot)
        else:
            self._finish(slot)

    def _open(self, slot: int) -> None:
        """Draw the slot's channels and let every AP hear the pilots; an episode's first slot comes with a layout."""
        episode, position = divmod(slot, self._config.run.slots_per_episode)
        if episode != self._episode:
            self._begin_episode(episode)
        h = channels(self._config, self.layout, slot)
        heard = received_pilots(self._config, self.layout, h, slot)
        self.air, self.opened = Air(slot, episode, h, awaited=set(self._live)), slot
        for ap in range(self._config.radio.num_aps):
            if ap not in self._live and position:
                self._associate(ap)  # perhaps it was cut off when the episode began
            self._send(ap_address(ap), PilotBlock(episode, slot, heard[:, ap]))

    def _begin_episode(self, episode: int) -> None:
        self._episode = episode
        self._radiated[:] = 0
        self.layout = make_layout(self._config, episode)
        self._told = associations(self._config, self.layout, episode)
        for ap in range(self._config.radio.num_aps):
            self._associate(ap)

    def _associate(self, ap: int) -> None:
        told = self._told[ap]
        endpoints, of_askers = (
            tuple(self.endpoints.get(ap_address(n), "") for n in peers) for peers in (told.neighbours, told.askers)
        )
        away = tuple(n for n in told.neighbours + told.askers if n not in self._live)
        self._send(ap_address(ap), replace(told, endpoints=endpoints, asker_endpoints=of_askers, away=away))

    def _on_transmission(self, transmission: Transmission) -> Fate:
        """An AP radiates. One that missed its slot is live again from the next one on."""
        ap, air = transmission.ap, self.air
        radio = self._config.radio
        refuse_unless(ap < radio.num_aps, "no AP of this network")
        self._live.add(ap)
        if air is None or transmission.slot != air.index:
            return "late"
        refuse_unless(transmission.ues == self.layout.ues_of[ap], "transmission for other UEs than the AP serves")
        shape = (self._config.run.blocks_per_slot, len(transmission.ues), radio.antennas)
        refuse_unless(transmission.w.shape == shape, "precoders of other blocks or antennas")
        told = self._config.selects_serving * len(transmission.ues)
        refuse_unless(len(transmission.group) == told, "groups for other UEs")
        powers = np.array([self._counted_power(w) for w in (transmission.w, transmission.w_alone)])
        if ap in air.transmissions:
            return "duplicate"
        refuse_unless(bool((powers <= self._allowed_power(air, ap)).all()), "more power than the AP has")
        self._radiated[:, ap] += powers
        air.transmissions[ap] = transmission
        air.awaited.discard(ap)
        self._close_when_complete(air)
        return ACCEPTED

    def _close_when_complete(self, air: Air) -> None:
        if not air.awaited:
            self._close(air)

    def _close(self, air: Air) -> None:
        """Superpose what was radiated, let the UEs report, and open the next slot."""
        serving, noise = self.layout.serving, self._config.radio.noise_power_w
        precoders = self.precoders(air)
        h = downlink(self._config, air.h, air.index)
        effective = received(h, precoders, serving)
        sinr_now, sinr_alone = sinr_of(effective, noise)
        rate, rate_alone = (spectral_efficiency(s).mean(axis=0) for s in (sinr_now, sinr_alone))
        suffered = received_interference(h, precoders[0], serving, self._config.cooperation.interference)
        reports = self._ue_reports(air, h, suffered)
        service = self._service(air)
        heard = stream_levels(effective[0], noise) if self._config.hears_streams else None
        for ap, (ues, report) in enumerate(zip(self.layout.ues_of, reports, strict=True)):
            own = list(ues)
            told = {name: of_all[own] for name, of_all in service.items()}
            told |= {} if heard is None else _own_streams(heard[:, own])
            self._send(ap_address(ap), SlotFeedback(air.index, rate[own], rate_alone[own], *report, **told))
        gain, gain_alone = np.diagonal(effective, axis1=-2, axis2=-1)
        self._report(air, precoders[0], sinr=sinr_now, sinr_alone=sinr_alone, gain=gain, gain_alone=gain_alone)
        self.air = None
        self._go_on(air.index + 1)

    def precoders(self, air: Air) -> ComplexArray:
        """(2, B, M, K, L) what is radiated, and what would be if every AP were alone; 0 where none [sqrt W]."""
        precoders = np.zeros((2, *air.h.shape), complex)
        for ap, sent in air.transmissions.items():
            precoders[0][:, ap, list(sent.ues)] = sent.w
            precoders[1][:, ap, list(sent.ues)] = sent.w_alone
        return precoders

    def _ue_reports(self, air: Air, h: ComplexArray, suffered: FloatArray) -> Iterator[_Reports]:
        """Of each AP, what its UEs hear: the strongest that are no partners, their power [W]; partners, their gains."""
        serving, sent = self.layout.serving, air.transmissions
        partners = [sent[ap].partners if ap in sent else () for ap in range(len(serving))]
        count = self._config.cooperation.reported_interferers
        interferers, powers = strongest_interferers(suffered, serving, partners, count)
        sounded, gains = partner_gains(h[air.index % len(h)], serving, partners, count)
        ends = np.cumsum(serving.sum(axis=1))  # of each AP's rows
        for ues, named, end in zip(self.layout.ues_of, partners, ends.tolist(), strict=True):
            rows, columns = slice(end - len(ues), end), slice(len(named))
            yield interferers[rows], powers[rows], sounded[rows, columns], gains[rows, columns]

    def _service(self, air: Air) -> dict[str, Any]:
        """What all UEs report of who serves them, as fields of SlotFeedback."""
        if not self._config.selects_serving:
            return {}
        group, chosen = service_of(self.layout.aps_of, self.layout.beta.argmax(axis=0), air.transmissions)
        return {"group": group, "chosen": chosen}

    def _report(self, air: Air, w: ComplexArray, **at_ues: Any) -> None:
        silent = tuple(ap for ap in range(self._config.radio.num_aps) if ap not in air.transmissions)
        radiated = radiated_power(w)
        report = SlotReport(
            slot=air.index,
            episode=air.episode,
            **at_ues,
            power=np.stack([radiated.mean(axis=0), radiated.max(axis=0)], axis=1),
            pairs=self.layout.pairs,
            silent=silent,
            **self._take_counts(),
        )
        self._tell_coordinator(air.index, report)

    def _counted_power(self, w: ComplexArray) -> float:
        """What counts of the power of one AP's precoders (B, UEs, L): the busiest block, or the mean over them [W]."""
        power = radiated_power(w.astype(complex)[:, None])
        return float(power.mean() if self._config.precoding.power == "average" else power.max())

    def _allowed_power(self, air: Air, ap: int) -> FloatArray:
        """(2,) what one AP may radiate in a slot, with partners and alone [W].

        On average over the episode so far. An AP that scales to its mean so far can at most catch up on what it did not
        radiate in the slots before, and is off by the error of that mean; so is what it has radiated over n blocks,
        of which more than `SLACK` / sqrt(n) of its power above its power is no error.
        """
        power = self._config.radio.ap_power_w
        if self._config.precoding.power != "average":
            return np.full(2, power)
        slots = air.index % self._config.run.slots_per_episode + 1
        most = slots * (1 + SLACK / math.sqrt(slots * self._config.run.blocks_per_slot))
        return np.minimum(power * slots, power * most - self._radiated[:, ap])

    def _finish(self, slot: int) -> None:
        for ap in range(self._config.radio.num_aps):
            self._send(ap_address(ap), RunOver(slot))
        self._send(COORDINATOR, RunOver(slot))
        self.done = True


def _own_streams(level: IntArray) -> dict[str, IntArray]:
    """What an AP is told of its n streams' levels (K, n), as in SlotFeedback."""
    stream, ue = np.nonzero(level.T)
    return {"hearers": (level > 0).sum(axis=0), "heard_at": ue, "level": level[ue, stream]}


def radiated_power(w: ComplexArray) -> FloatArray:
    """(B, M) power that each AP radiates in each block with precoders (B, M, UEs, L) [W]."""
    power: FloatArray = (np.abs(w) ** 2).sum(axis=(2, 3))
    return power
