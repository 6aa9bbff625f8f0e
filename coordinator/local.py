"""The local runtime: all nodes in one process, a queue of frames, virtual time. The reference mode."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from apnode.access_point import AccessPoint
from apnode.config import Config
from apnode.messages import Tick
from apnode.node import CHANNEL, COORDINATOR, Node, Send
from apnode.policies import Policy, make_policy
from apnode.rng import Purpose, generator, own_config
from channel_server.server import ChannelServer
from coordinator.collector import Coordinator


class LocalNetwork:
    """Delivers frames between pure nodes, in order of sending or shuffled; when no frame is left, time passes."""

    def __init__(
        self,
        config: Config,
        order_seed: int | None = None,
        policy_of: Callable[[int, Config], Policy] = make_policy,
    ) -> None:
        """Set up all nodes.

        Args:
            config: the experiment.
            order_seed: of the order of delivery; None for the order of sending.
            policy_of: makes an AP's policy, from its number and its config.
        """
        self.channel = ChannelServer(config)
        self.coordinator = Coordinator(config)
        own = [own_config(config, ap) for ap in range(config.radio.num_aps)]
        self.aps = [AccessPoint(ap, known, policy_of(ap, known)) for ap, known in enumerate(own)]
        self._nodes: dict[str, Node] = {node.address: node for node in (self.channel, self.coordinator, *self.aps)}
        self.channel.endpoints[COORDINATOR] = COORDINATOR
        for ap in self.aps:
            ap.endpoints |= {CHANNEL: CHANNEL, COORDINATOR: COORDINATOR}
        self.lost = 0  # frames to whom the sender did not know
        self._queue: deque[Send] = deque()
        self._order = None if order_seed is None else generator(order_seed, Purpose.DELIVERY_ORDER)

    def run(self, watch: Callable[[Send], None] = lambda send: None) -> None:
        """Run to the end; `watch` sees every frame just before it is delivered."""
        for send in self.frames():
            watch(send)

    def frames(self) -> Iterator[Send]:
        """Run to the end, or as long as the caller asks for more: each frame just before it is delivered."""
        for ap in self.aps:
            self._post(ap, ap.start(ap.address))
        while not self._over:
            if not self._queue:
                self._pass_time()
                continue
            send = self._take()
            yield send
            self._post(self._nodes[send.to], self._nodes[send.to].receive(send.frame))

    def _post(self, sender: Node, sends: Iterable[Send]) -> None:
        """Queue what a node sends, to peers whose endpoint it has been told; an endpoint is an address here."""
        for send in sends:
            if send.to in sender.endpoints:
                self._queue.append(send)
            else:
                self.lost += 1

    @property
    def _over(self) -> bool:
        return self.coordinator.done and all(ap.done for ap in self.aps)

    def _take(self) -> Send:
        if self._order is not None:
            self._queue.rotate(int(self._order.integers(len(self._queue))))
        return self._queue.popleft()

    def _pass_time(self) -> None:
        """Nothing is under way: every timer fires. If nothing comes of it, nothing ever will."""
        for node in self._nodes.values():
            self._post(node, node.handle(Tick()))
        if not self._queue and self.channel.air is None and not self._over:
            raise RuntimeError("no frame is under way and no slot is open, but not every node is done")
