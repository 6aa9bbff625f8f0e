"""The agents of a run in one file: their weights, where they come from, and a digest that shows any damage."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from apnode.config import Config
from apnode.protocol.messages import FloatArray
from apnode.runtime.whole_file import write_whole
from cfmimo.errors import ConfigError

AGENTS = "agents.npz"  # in a run's folder
_DIGEST_BYTES = 32
_Seed = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class Origin:
    """Where agents come from."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    seed: _Seed  # of the run that trained them
    ap_seed: _Seed  # of the places of the APs in that run
    slots: _Seed  # for which they have learned; the fewest, where they differ

    @classmethod
    def of(cls, config: Config, slots: int) -> Origin:
        """Of agents that a run has trained for so many slots."""
        return cls(config.seed, config.hardware_seed, slots)


@dataclass(frozen=True, eq=False)  # eq=False: arrays
class Agents:
    """What the agent of every AP has learned."""

    weights: Weights
    origin: Origin

    def told(self, run_dir: str) -> dict[str, Any]:
        """Who they are, for a manifest."""
        return {"from": run_dir, "number": len(self.weights), **asdict(self.origin)}


def write_agents(path: Path, agents: Agents) -> None:
    """Write agents into one file, whole or not at all: an .npz, with its SHA-256 after its end."""
    arrays = {
        f"{agent}.{layer}": array.astype(np.float32)  # as exactly as the networks compute
        for agent, layers in enumerate(agents.weights)
        for layer, array in enumerate(layers)
    }
    content = io.BytesIO()
    np.savez(content, origin=np.array(json.dumps(asdict(agents.origin))), **arrays)  # type: ignore[arg-type]
    write_whole(path, [content.getvalue(), hashlib.sha256(content.getvalue()).digest()])


def read_agents(path: Path) -> Agents:
    """What `write_agents` wrote.

    Raises:
        ConfigError: if the file is not, to the last bit, what was written; or was written by something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the agents in {path}: {error}") from None
    content, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ConfigError(f"{path} is damaged; put back a good copy, or remove it to take the newest checkpoints")
    try:
        return _agents_in(content)
    except (ValueError, KeyError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} holds no agents that a run has written: {str(error).splitlines()[0]:.200}") from None


def _agents_in(content: bytes) -> Agents:
    with zipfile.ZipFile(io.BytesIO(content)) as packed:  # before anything is unpacked
        if sum(entry.file_size for entry in packed.infolist()) > len(content):
            raise ValueError("it is compressed")
    weights: Weights = []
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        try:
            origin = TypeAdapter(Origin).validate_json(str(file["origin"]))
        except ValidationError as error:
            raise ValueError(f"where they come from is not said: {error.errors()[0]['msg']}") from None
        for name in file.files[1:]:  # in the order of writing
            if name.endswith(".0"):
                weights.append([])
            array = file[name]
            if name != f"{len(weights) - 1}.{len(weights[-1]) if weights else 0}" or array.dtype != np.float32:
                raise ValueError(f"{name[:40]!r} of type {array.dtype} is out of place")
            weights[-1].append(array.astype(float))
    if not weights:
        raise ValueError("it holds none")
    return Agents(weights, origin)


Weights = list[list[FloatArray]]  # of each AP: its network, layer by layer; or its beliefs, in one array
