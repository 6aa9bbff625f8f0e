"""The environment against the nodes of a run, against PettingZoo's own tests, and with APs that die."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import max_cycles_test, parallel_api_test, parallel_seed_test, render_test
from pettingzoo.utils import parallel_to_aec

import cfmimo
from apnode.agent.view import View
from apnode.config import Config
from apnode.protocol.messages import FloatArray
from apnode.protocol.rng import Purpose, generator
from cfmimo.environment import ApEnv, parallel_env
from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork

SMALL = {"radio": {"num_aps": 9, "num_ues": 4, "area_m": 300.0}}
PRESETS = ("demo", "paper", "selective", "hidden")


def scripted(ap: int, slot: int) -> int:
    """A mask over up to 32 neighbours, of which few are asked."""
    return int(generator(7, Purpose.EXPLORATION, ap, slot).integers(2**32, size=2).prod() % 2**32)


class Scripted:
    """Asks as `scripted` says, and keeps what it saw."""

    def __init__(self, ap: int, known: Config) -> None:
        self.ap, self.seen = ap, list[FloatArray]()

    def act(self, view: View) -> int:
        self.seen.append(view.observation.copy())
        return scripted(self.ap, view.slot) & 2 ** len(view.neighbours) - 1


def as_action(env: ApEnv, agent: str, slot: int) -> Any:
    ap, position = (int(part) for part in [*agent.split("_")[1::2], "0"][:2])
    mask = scripted(ap, slot)
    if "neighbour" in agent:
        return mask >> position & 1
    size = env.action_space(agent).shape
    return np.array([mask >> n & 1 for n in range(size[0])]) if size else mask & env.action_space(agent).n - 1


@pytest.mark.parametrize("agents", ["aps", "links"])
@pytest.mark.parametrize("preset", PRESETS)
def test_observations_rewards_and_all_results_are_those_of_the_nodes(preset: str, agents: Any) -> None:
    env = parallel_env(preset, agents, max_cycles=12, **SMALL)
    observed, _ = env.reset(seed=3)
    config = env._running_config
    seen, earned, sent = [observed], [], []
    for slot in range(12):
        observed, rewards, terminated, truncated, infos = env.step({a: as_action(env, a, slot) for a in env.agents})
        seen.append(observed)
        earned.append(rewards)
        sent.append(infos)
        assert not any(terminated.values())
        assert {*truncated.values()} == {slot == 11}
    assert env.agents == []

    network = LocalNetwork(config, policy_of=Scripted)
    network.run()
    record = network.coordinator.record
    assert env._running().coordinator.record.digest() == record.digest()
    assert record.linked.any()
    for agent in env.possible_agents:
        ap, position = env._place[agent]
        for slot in range(12):
            assert earned[slot][agent] == record.floats[slot, ap, 1]
            assert sent[slot][agent]["bytes"] == record.fronthaul[slot, ap, 1]
        known = network.aps[ap].policy.seen  # type: ignore[attr-defined]  # nothing if it has no neighbours
        for slot, observation in enumerate(known):
            own = env._part(observation, position).astype(np.float32)
            np.testing.assert_array_equal(seen[slot][agent]["observation"], own)


@pytest.mark.parametrize("agents", ["aps", "links"])
@pytest.mark.parametrize("preset", PRESETS)
def test_pettingzoo_accepts_it(preset: str, agents: Any) -> None:
    def make(render_mode: str | None = None, max_cycles: int = 6) -> ApEnv:
        return parallel_env(preset, agents, max_cycles, render_mode=render_mode, **SMALL)

    parallel_api_test(make(), num_cycles=20)
    parallel_seed_test(make, num_cycles=10)
    module = SimpleNamespace(parallel_env=make, env=lambda max_cycles: parallel_to_aec(make(max_cycles=max_cycles)))
    max_cycles_test(module)


def test_a_map_is_drawn_as_pettingzoo_wants_it() -> None:
    render_test(lambda render_mode: parallel_to_aec(parallel_env("demo", render_mode=render_mode, **SMALL)))
    env = parallel_env("demo", render_mode="rgb_array", **SMALL)
    env.reset(seed=0)
    before = env.render()
    env.step(dict.fromkeys(env.agents, 1))
    after = env.render()
    assert before is not None
    assert after is not None
    assert (before != after).any()


def test_an_ap_that_is_down_stays_an_agent_that_can_do_nothing_and_comes_back(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[[faults]]\nslot = 3\ntarget = "ap/2"\naction = "kill"\n')
    env = parallel_env("demo", max_cycles=14, faults=str(plan), **SMALL)
    observed, _ = env.reset(seed=0)
    alive = []
    for _ in range(14):
        alive.append(int(observed["ap_2"]["alive"][0]))
        assert (observed["ap_2"]["action_mask"].sum() == 1) == (not alive[-1])
        observed, *_ = env.step(dict.fromkeys(env.agents, 15))
        assert np.isfinite(env.state()).all()
    assert alive[:3] == [1, 1, 1]
    assert 0 in alive
    assert alive[-1] == 1


def test_slots_in_which_no_ap_is_up_go_by(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[[faults]]\nslot = 3\ntarget = "ap/*"\naction = "kill"\nshare = 1.0\n')
    env = parallel_env("demo", max_cycles=12, faults=str(plan), **SMALL)
    env.reset(seed=0)
    steps, slots = 0, []
    while env.agents:
        slots.append(env._slot)
        _, rewards, _, _, infos = env.step(dict.fromkeys(env.agents, 1))
        assert np.isfinite([*rewards.values(), infos["ap_0"]["sum_rate"]]).all()
        steps += 1
    assert slots == sorted({*slots})
    assert slots[-1] == 11
    assert steps < 12


def test_episodes_have_new_users_and_the_same_aps() -> None:
    env = parallel_env("demo", max_cycles=2, **SMALL)
    layouts = []
    for seed in (None, None, 1):
        env.reset(seed=seed)
        layouts.append(env._layout)
    assert (layouts[0].ap_xy == layouts[1].ap_xy).all()
    assert (layouts[0].ue_xy != layouts[1].ue_xy).any()
    assert (layouts[1].ue_xy == layouts[2].ue_xy).all()  # the seed after the preset's 0


def test_what_is_wrong_is_said_in_a_sentence() -> None:
    with pytest.raises(cfmimo.ConfigError, match="no preset"):
        parallel_env("demmo")
    with pytest.raises(cfmimo.ConfigError, match=r"radio\.num_app is not a setting"):
        parallel_env("demo", radio={"num_app": 3})
    with pytest.raises(RuntimeError, match="reset"):
        parallel_env("demo").step({})
    env = parallel_env("demo", **SMALL)
    env.reset()
    with pytest.raises(ValueError, match="no action of ap_1 and 7 others"):
        env.step({"ap_0": 0})


def test_without_pettingzoo_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['pettingzoo'] = None; import cfmimo; cfmimo.parallel_env('demo')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.endswith("ModuleNotFoundError: cfmimo.parallel_env needs PettingZoo: pip install pettingzoo\n")


def test_a_config_is_taken_as_it_is() -> None:
    config = load("demo", radio={"num_aps": 4, "num_ues": 2})
    assert len(parallel_env(config).possible_agents) == 4
