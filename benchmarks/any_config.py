"""Random variants of a small experiment that validation accepts, run for two slots: no node may fail or refuse.

python -m benchmarks.any_config --variants 10000
"""

from __future__ import annotations

import argparse
import traceback
from collections import Counter
from typing import Any, Literal, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ValidationError

from apnode.config import Config
from apnode.protocol.node import DROPS
from cfmimo.runtime.local import LocalNetwork

_SIZES = {"num_aps": 6, "num_ues": 6, "antennas": 3, "pilot_length": 4, "blocks_per_slot": 3, "hidden": 0}  # at most
_FIXED: dict[str, dict[str, Any]] = {
    "run": {"episodes": 2, "slots_per_episode": 1},
    "learning": {"hidden": (3,), "batch_size": 1},
}
_NOT_DRAWN = {"channel_file", "episodes", "slots_per_episode", "hidden", "replay_capacity", "transport", "start"}


def random_config(rng: np.random.Generator) -> Config:
    """A variant that validation accepts: a few settings drawn over all their range, often from its ends."""
    while True:
        tree: dict[str, Any] = {name: dict(section) for name, section in _FIXED.items()}
        for name, field in Config.model_fields.items():
            section = field.annotation
            if not (isinstance(section, type) and issubclass(section, BaseModel)):
                continue
            for key, setting in section.model_fields.items():
                if key in _SIZES and key not in _NOT_DRAWN:
                    tree.setdefault(name, {})[key] = int(rng.integers(1, _SIZES[key] + 1))
                elif key not in _NOT_DRAWN and rng.random() < 0.12:
                    drawn = _drawn(setting.annotation, setting.metadata, rng)
                    if drawn is not None:
                        tree.setdefault(name, {})[key] = drawn
        try:
            return Config.model_validate({"seed": int(rng.integers(2**63)), **tree})
        except ValidationError:
            continue


def _drawn(kind: Any, limits: list[Any], rng: np.random.Generator) -> Any:
    """A value of a setting's type within its limits; None where it has another type."""
    if get_origin(kind) is Literal:
        return str(rng.choice(get_args(kind)))
    if get_origin(kind) is tuple:  # a mixture of two kinds
        share, values = float(rng.choice([0, 0.3, 1])), rng.choice([0, 0.5, 1, 3, 10, 180, 1000], 2)
        return (share, float(values[0])), (1 - share, float(values[1]))
    if kind is bool:
        return bool(rng.integers(2))
    bound = {name: value for limit in limits for name, value in _bounds(limit).items()}
    low = bound.get("ge", bound.get("gt", -1e3))
    high = bound.get("le", bound.get("lt", 1e3))
    if kind is int:
        return int(rng.choice([low, low + 1, high, rng.integers(low, min(high, low + 40) + 1)]))
    if kind is float:
        some = rng.choice([low, high, rng.uniform(low, high), low + 10 ** rng.uniform(-12, 3), 1.0])
        return float(np.clip(some, low, high))
    return None


def _bounds(limit: Any) -> dict[str, Any]:
    parts = getattr(limit, "metadata", [limit])
    return {name: getattr(part, name) for part in parts for name in ("ge", "gt", "le", "lt") if hasattr(part, name)}


def failure(config: Config) -> str | None:
    """What went wrong in a run of two slots, if anything did: an exception, a refused message, a missing report."""
    try:
        network = LocalNetwork(config)
        network.run()
    except Exception as error:  # noqa: BLE001  of any kind: that is what is looked for
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({frame.filename}:{frame.lineno})"
    record = network.coordinator.record
    if network.errors:
        return f"of an AP: {network.errors[0]['error']:.200}"
    if record.rejected.any():
        return f"refused: {', '.join(reason for reason, count in zip(DROPS, record.rejected, strict=True) if count)}"
    return None if record.complete else "the record is not complete"


def main() -> None:
    """Try variants and print what failed, each kind once."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--variants", type=int, default=10_000)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    failed = Counter[str]()
    for index in range(options.variants):
        config = random_config(np.random.default_rng((options.seed, index)))
        found = failure(config)
        if found is not None:
            if found not in failed:
                print(index, found, config.model_dump_json(exclude_defaults=True), flush=True)
            failed[found] += 1
    print(f"{options.variants} variants, {failed.total()} failed")


if __name__ == "__main__":
    main()
