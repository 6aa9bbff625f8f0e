"""Agents that have learned: found in the directory of the run that trained them, kept in one file, put to work."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apnode.checkpoint import Checkpoint, Checkpoints
from apnode.config import Config
from apnode.host import CHECKPOINTS
from apnode.messages import FloatArray
from apnode.policies import Policy, Trained
from apnode.state import part
from coordinator.presets import ConfigError, load
from coordinator.training import Weights

AGENTS = "agents.npz"  # in a run's folder
# what an agent observes, what its actions mean and how large its network is follows from these
_FITTING = (
    "cooperation.policy",
    "cooperation.max_neighbours",
    *(f"learning.{key}" for key in ("values", "observed_ues", "hidden")),
)
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Origin:
    """Where agents come from."""

    seed: int  # of the run that trained them
    ap_seed: int  # of the places of the APs in that run
    slots: int  # for which they have learned; the fewest, where they differ

    @classmethod
    def of(cls, config: Config, slots: int) -> Origin:
        """Of agents that a run has trained for so many slots."""
        ap_seed = config.seed if config.radio.ap_seed < 0 else config.radio.ap_seed
        return cls(config.seed, ap_seed, slots)


@dataclass(frozen=True, eq=False)  # eq=False: arrays
class Agents:
    """What the agent of every AP has learned."""

    weights: Weights
    origin: Origin

    def told(self, run_dir: str) -> dict[str, Any]:
        """Who they are, for a manifest."""
        return {"from": run_dir, "number": len(self.weights), **asdict(self.origin)}


def trained(weights: Weights) -> Callable[[int, Config], Policy]:
    """Makes the policy of an AP: AP m has agent m modulo their number, so that networks of other sizes can use them."""
    return lambda ap, config: Trained(config, weights[ap % len(weights)])


def load_agents(run_dir: str, config: Config) -> Agents:
    """The agents that a run has trained: those in its `agents.npz`, if there are any, or in its newest checkpoints.

    Args:
        run_dir: its directory.
        config: the experiment that is to use them.

    Raises:
        ConfigError: if there are none, or they do not fit the config.
    """
    folder = Path(run_dir)
    if not (folder / "config.toml").is_file():
        raise ConfigError(f"{folder} holds no run; name the directory of one that has trained agents")
    theirs = load(str(folder / "config.toml"))
    if theirs.cooperation.policy != "ddqn":
        raise ConfigError(f'the run in {folder} has trained nobody: its policy is "{theirs.cooperation.policy}"')
    differing = [key for key in _FITTING if _setting(theirs, key) != _setting(config, key)]
    if differing:
        needed = ", ".join(f"{key} = {_setting(theirs, key)} (here {_setting(config, key)})" for key in differing)
        raise ConfigError(f"the agents in {folder} do not fit this experiment; they need {needed}")
    found = read_agents(folder / AGENTS) if (folder / AGENTS).is_file() else _newest(folder, theirs)
    try:
        trained(found.weights)(0, config)
    except ValueError as error:
        raise ConfigError(f"the agents in {folder} do not fit this experiment: {error}") from None
    return found


def where_they_learned(config: Config, agents: Agents, layouts: int) -> Config:
    """The experiment of a comparison with its APs where the agents have learned, if they are as many.

    Raises:
        ConfigError: if one of its layouts is of the seed that the agents have learned with.
    """
    first, origin = config.seed + 1, agents.origin
    if origin.seed in range(first, first + layouts):
        raise ConfigError(
            f"the agents have learned with seed {origin.seed}, and the layouts have the seeds from {first} to "
            f"{config.seed + layouts}; set --seed so that they have not seen any"
        )
    if len(agents.weights) != config.radio.num_aps:
        return config
    return config.model_copy(update={"radio": config.radio.model_copy(update={"ap_seed": origin.ap_seed})})


def _setting(config: Config, key: str) -> Any:
    section, name = key.split(".")
    value = getattr(getattr(config, section), name)
    return list(value) if isinstance(value, tuple) else value


def _newest(folder: Path, config: Config) -> Agents:
    """From the newest checkpoint of every AP."""
    saved = [Checkpoints(folder / CHECKPOINTS, f"ap-{ap}").load() for ap in range(config.radio.num_aps)]
    return agents_of(saved, config, folder)


def agents_of(saved: Sequence[Checkpoint | None], config: Config, folder: Path) -> Agents:
    """The agents in a checkpoint of every AP of a run.

    Raises:
        ConfigError: if an AP has none.
    """
    weights = [[] if checkpoint is None else _weights_of(checkpoint) for checkpoint in saved]
    missing = [ap for ap, layers in enumerate(weights) if not layers]
    if missing:
        aps = f"AP {missing[0]}" + f" and {len(missing) - 1} others" * (len(missing) > 1)
        raise ConfigError(f"{folder} holds no good checkpoint of an agent of {aps}; let the run go on to its first one")
    return Agents(weights, Origin.of(config, min(checkpoint.completed for checkpoint in saved if checkpoint)))


def _weights_of(checkpoint: Checkpoint) -> list[FloatArray]:
    """Of the online network, layer by layer; nothing if there is none."""
    layers = part(checkpoint.state, "policy.network.online")
    return [layers[number].astype(float) for number in sorted(layers, key=int)]


# --- one file ---------------------------------------------------------------------------------------------


def write_agents(path: Path, agents: Agents) -> None:
    """Write agents into one file, whole or not at all: an .npz, with its SHA-256 after its end."""
    arrays = {
        f"{agent}.{layer}": array.astype(np.float32)  # as exactly as the networks compute
        for agent, layers in enumerate(agents.weights)
        for layer, array in enumerate(layers)
    }
    content = io.BytesIO()
    np.savez(content, origin=np.array(json.dumps(asdict(agents.origin))), **arrays)  # type: ignore[arg-type]
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_agents(path: Path) -> Agents:
    """What `write_agents` wrote.

    Raises:
        ConfigError: if the file is not, to the last bit, what was written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the agents in {path}: {error}") from None
    content, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ConfigError(f"{path} is damaged; put back a good copy, or remove it to take the newest checkpoints")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        weights: Weights = []
        for name in file.files[1:]:  # in the order of writing
            agent, _, layer = name.partition(".")
            if layer == "0":
                weights.append([])
            weights[int(agent)].append(file[name].astype(float))
        return Agents(weights, Origin(**json.loads(str(file["origin"]))))
