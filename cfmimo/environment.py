"""The network as an environment of PettingZoo, in which any library of multi-agent learning can train.

The APs of a run in one process decide nothing by themselves: who trains decides for them. All else is the run: the
same propagation, frames, agreement, precoding, feedback and faults; so observations, rewards and SINRs are those of its
APs, to the last bit, and what a choice costs in messages and bytes was really sent.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

try:
    import gymnasium
    from gymnasium import spaces
    from pettingzoo import ParallelEnv
except ModuleNotFoundError:
    raise ModuleNotFoundError("cfmimo.parallel_env needs PettingZoo: pip install pettingzoo") from None

from apnode.agent.observation import interference_position
from apnode.config import Config
from apnode.config.learning import TRAITS
from cfmimo.presets import load
from cfmimo.records.own_code import check_own_code
from cfmimo.runtime.fault_plan import Faults, load_plan, resolve
from cfmimo.runtime.stepped import SteppedNetwork
from channel_server.recorded import recorded
from channel_server.topology import Layout, make_layout
from coordinator import tables

Observation = dict[str, NDArray[Any]]
_MOST_SUBSETS = 8  # neighbours whose subsets are actions; of more, an action says of each whether to ask it
_SINR_RANGE_DB = (-10.0, 40.0)  # of the colours of a map


class ApEnv(ParallelEnv[str, Observation, Any]):  # type: ignore[misc]  # PettingZoo is not typed
    """Every AP, or every link of an AP to a neighbour, is an agent that chooses in every slot whom to ask.

    An episode is one layout of UEs: `run.slots_per_episode` slots. APs stay where they are, as agents belong to them;
    UEs and fading are new in each. An observation is a dict of

    - `observation`: (D,) float32, what the AP's own agent would see; of a link, the part that is about it;
    - `alive`: (1,) 1 if the AP's process runs. One that is down stays an agent, since it may come back;
    - `action_mask`: int8, what may be chosen, as `action_space(agent).sample(mask)` takes it; in a space of one bit for
      each neighbour it is 2 where the bit is free. An AP that is down can only ask nobody.

    A reward is the AP's, eq. (12) as the config has it; all links of an AP get the same. `infos` hold `messages` and
    `bytes` that the AP sent to others in the slot, `rate` (sum of its UEs' [bit/s/Hz]), and `sum_rate` of the network.
    """

    def __init__(
        self,
        config: Config,
        agents: Literal["aps", "links"] = "aps",
        faults: str | None = None,
        name: str = "network",
        render_mode: str | None = None,
    ) -> None:
        """See `parallel_env`."""
        self.metadata = {"name": f"cfmimo/{name}_v0", "render_modes": ["rgb_array"], "is_parallelizable": True}
        self.render_mode = render_mode
        self._config = _deciding_nothing(config)
        self._faults = faults
        self._of_links = agents == "links"
        radio, self._most = config.radio, config.cooperation.max_neighbours
        aps = [f"ap_{ap}" for ap in range(radio.num_aps)]
        links = [f"{ap}_neighbour_{position}" for ap in aps for position in range(self._most)]
        self.possible_agents = links if self._of_links else aps
        self.agents: list[str] = []
        at = [divmod(n, self._most) if self._of_links else (n, 0) for n in range(len(self.possible_agents))]
        self._place = dict(zip(self.possible_agents, at, strict=True))  # of an agent: AP, position of the neighbour
        choice = 2 if self._of_links else 2**self._most
        self._in_subsets = self._of_links or self._most <= _MOST_SUBSETS
        act: spaces.Space[Any] = spaces.Discrete(choice) if self._in_subsets else spaces.MultiBinary(self._most)
        width = len(self._part(np.zeros(self._config.observed), 0))
        see = spaces.Dict(
            {
                "observation": spaces.Box(-np.inf, np.inf, (width,), np.float32),
                "alive": spaces.MultiBinary(1),
                "action_mask": spaces.MultiBinary(choice)
                if self._in_subsets
                else spaces.Box(0, 2, (self._most,), np.int8),
            }
        )
        self.action_spaces = {agent: copy.deepcopy(act) for agent in self.possible_agents}
        self.observation_spaces = {agent: copy.deepcopy(see) for agent in self.possible_agents}
        size = radio.num_aps * (self._config.observed + 1 + radio.num_ues)
        self.state_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self._seed = config.seed - 1
        self._network: SteppedNetwork | None = None
        self._layout: Layout

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        """Begin with new UEs: those of `seed`, by default the one after the last."""
        self._seed = self._seed + 1 if seed is None else seed
        self._running_config = config = self._with_layout_of(self._seed)
        faults = Faults() if self._faults is None else resolve(load_plan(self._faults), config)
        self._slot = config.num_slots - config.run.slots_per_episode
        self._layout = make_layout(config, config.run.episodes - 1)
        self._network = SteppedNetwork(config, faults, self._slot)
        self._waiting = self._network.run_on()
        self.agents = [*self.possible_agents]
        return self._observations(), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, Observation], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """One slot. Bits of neighbours that an AP has not, and actions of APs that are down, have no effect."""
        network, agents = self._running(), self.agents
        if missing := [agent for agent in agents if agent not in actions]:
            raise ValueError(f"no action of {missing[0]} and {len(missing) - 1} others; all agents act in every slot")
        masks = dict.fromkeys(self._waiting, 0)
        for agent in agents:
            ap, position = self._place[agent]
            if ap in masks:
                chosen = actions[agent]
                mask = int(chosen) if self._in_subsets else int(np.asarray(chosen, bool) @ 2 ** np.arange(self._most))
                masks[ap] |= mask << position
        network.decide({ap: mask & 2 ** len(network.aps[ap].neighbours) - 1 for ap, mask in masks.items()})
        self._waiting = network.run_on()
        slot, self._slot = self._slot, max(self._slot + 1, network.channel.opened)  # with no AP up slots go by
        over = not self._waiting
        told = self._told(slot)
        rewards = network.coordinator.record.floats[slot, :, 1].tolist()
        observations = self._observations()
        if over:
            self.agents = []
        return (
            observations,
            {agent: rewards[self._place[agent][0]] for agent in agents},
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, over),
            {agent: {**told[self._place[agent][0]]} for agent in agents},
        )

    def state(self) -> NDArray[np.float32]:
        """What a central critic may see: all observations, who is up, and the SNR of every link [dB / 50]."""
        network, radio = self._running(), self._config.radio
        seen = [node.observation for node in network.aps]
        up = [network.is_up(node.ap) for node in network.aps]
        snr = np.maximum(self._layout.beta, 1e-30) * radio.ap_power_w / radio.noise_power_w
        return np.concatenate([np.ravel(seen), up, 10 * np.log10(snr).ravel() / 50]).astype(np.float32)

    def render(self) -> NDArray[np.uint8] | None:
        """(height, width, 3) the map of the newest slot, with `render_mode="rgb_array"`."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() without render_mode draws nothing")
            return None
        from cfmimo.report.figures import network_map, pixels  # matplotlib: a second, for who renders
        from cfmimo.report.slot_map import slot_map

        record = self._running().coordinator.record
        rows = [tables.aps(record), tables.ues(record), tables.links(record)]
        first = self._running_config.num_slots - self._running_config.run.slots_per_episode
        shown = slot_map(self._running_config, max(self._slot - 1, first), *rows)
        return pixels(network_map(shown, _SINR_RANGE_DB))

    def close(self) -> None:
        self._network, self.agents = None, []

    @property
    def unwrapped(self) -> ApEnv:
        return self

    # --- what agents see ----------------------------------------------------------------------------------

    def _running(self) -> SteppedNetwork:
        if self._network is None:
            raise RuntimeError("the environment has no episode: call reset() first")
        return self._network

    def _with_layout_of(self, seed: int) -> Config:
        """The experiment whose last episode has the layout of a seed; those of a channel file are taken in turn."""
        file = recorded(self._config)
        episodes = 1 if file is None else 1 + seed % len(file.beta)
        return self._config.variant(seed=seed, run={"episodes": episodes})

    def _observations(self) -> dict[str, Observation]:
        network = self._running()
        up = [network.is_up(ap) for ap in range(len(network.aps))]
        found = dict[str, Observation]()
        for agent in self.agents:
            ap, position = self._place[agent]
            node = network.aps[ap]
            found[agent] = {
                "observation": self._part(node.observation, position).astype(np.float32),
                "alive": np.array([up[ap]], np.int8),
                "action_mask": self._mask(len(node.neighbours) if up[ap] else 0, position),
            }
        return found

    def _mask(self, count: int, position: int) -> NDArray[Any]:
        """What may be chosen of an AP with `count` neighbours to ask."""
        if self._of_links:
            return np.array([1, position < count], np.int8)
        if self._in_subsets:
            return np.array(np.arange(2**self._most) < 2**count, np.int8)
        return np.array(2 * (np.arange(self._most) < count), np.int8)

    def _part(self, observation: NDArray[Any], position: int) -> NDArray[Any]:
        """Of an AP's observation what is about itself and one of its links, if links are agents; otherwise all."""
        if not self._of_links:
            return observation
        if self._config.forecasts:
            return observation[TRAITS * position : TRAITS * (position + 1)]
        own = interference_position(self._config)
        return np.concatenate([observation[:own], observation[own + position :: self._most]])

    def _told(self, slot: int) -> list[dict[str, Any]]:
        """By AP, what came of its choice and what it cost."""
        record = self._running().coordinator.record
        rate = np.log2(1 + record.sinr[slot]).mean(axis=0)
        sent, of_ap = record.fronthaul[slot].tolist(), (self._layout.serving @ rate).tolist()
        return [
            {"messages": messages, "bytes": size, "rate": own, "sum_rate": float(rate.sum())}
            for (messages, size), own in zip(sent, of_ap, strict=True)
        ]


def _deciding_nothing(config: Config) -> Config:
    """The experiment in which APs see what theirs would, but decide nothing: one layout, APs where they are."""
    policy = "forecast" if config.forecasts else "never"
    return config.variant(
        run={"episodes": 1},
        radio={"ap_seed": config.hardware_seed},
        cooperation={"policy": policy},
        learning={"evaluate_every_episodes": 0},
    )


def parallel_env(
    preset: str | Config = "demo",
    agents: Literal["aps", "links"] = "aps",
    max_cycles: int | None = None,
    faults: str | None = None,
    render_mode: str | None = None,
    **sections: Any,
) -> ApEnv:
    """The network as a PettingZoo `ParallelEnv`; needs `pip install pettingzoo`.

    Args:
        preset: a preset, a TOML file, or a config.
        agents: `aps`: an agent is an AP; with up to 8 neighbours its action is the subset to ask, bit n for neighbour
            n, otherwise a bit for each. `links`: an agent is one link of an AP, and says whether to ask.
        max_cycles: slots of an episode, in place of `run.slots_per_episode`.
        faults: a fault plan, as `cfmimo run --faults` takes it.
        render_mode: None or `rgb_array`.
        sections: settings to change, section by section, as `cfmimo.load` takes them.

    Raises:
        ConfigError: says in a sentence what is wrong with the config.
    """
    config = load(preset, **sections)
    if max_cycles is not None:
        config = load(config, run={"slots_per_episode": max_cycles})
    check_own_code(config)  # it decides nothing here, but says what APs are told
    return ApEnv(config, agents, faults, preset if isinstance(preset, str) else "config", render_mode)
