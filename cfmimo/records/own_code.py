"""Policies and path losses that are no part of this package: checked before a run, and kept in the run's folder."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from apnode.agent.policies import make_policy
from apnode.config import Config
from apnode.config.network import Propagation
from apnode.config.own_policy import CODE, find_code_in, is_own, own_policy
from apnode.protocol.rng import config_for_aps
from apnode.runtime.whole_file import write_whole
from cfmimo.errors import ConfigError
from channel_server.propagation import own_loss


def check_own_code(config: Config, folder: Path | None = None) -> None:
    """See that the config's policy and path loss can be had, if they are no part of this package.

    Modules are looked for in `folder`, where a run keeps them, among what is installed, and in the working folder.

    Raises:
        ConfigError: says in a sentence why not.
    """
    policy, model = config.cooperation.policy, config.propagation.model
    if not (is_own(policy) or is_own(model)):
        return
    if folder is not None:
        find_code_in(folder)
    if os.getcwd() not in sys.path:  # as in a script that lies there
        sys.path.append(os.getcwd())
    try:
        if is_own(policy):
            own_policy(policy)
        if is_own(model):
            _try_own_loss(model, config.propagation)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not is_own(policy):
        return
    if config.hears_streams and config.cooperation.cluster != "serving":
        raise ConfigError(f'policy {policy} needs streams, so cooperation.cluster = "serving": they are of one UE each')
    try:
        make_policy(0, config_for_aps(config))
    except (Exception, SystemExit) as error:  # noqa: BLE001  somebody's class may do anything
        said = f"{type(error).__name__}: {error}"
        raise ConfigError(f"policy {policy} cannot be made with (ap, config): {said}") from None


def _try_own_loss(model: str, propagation: Propagation) -> None:
    """Raise ValueError, in a sentence, if a path loss is none."""
    loss, distances = own_loss(model), np.array([[1.0, 10.0, 100.0], [1e3, 1e4, 1e5]])
    try:
        loss(distances, propagation)
    except (Exception, SystemExit) as error:
        if str(error).startswith("path loss"):
            raise
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"path loss {model} cannot be had of (distances, propagation): {said}") from None


def keep_code(config: Config, folder: Path) -> None:
    """Copy the modules of the config's policy and path loss into a run's folder, if they are files of the user's own.

    Every machine of the run finds them there, and so does who resumes the run. What is installed is left where it is.
    """
    for own in filter(is_own, (config.cooperation.policy, config.propagation.model)):
        module = own.partition(":")[0]
        spec = None if "." in module else find_spec(module)
        source = None if spec is None or spec.origin is None else Path(spec.origin)
        if source is not None and "site-packages" not in source.parts and source.name != "__init__.py":
            (folder / CODE).mkdir(exist_ok=True)
            write_whole(folder / CODE / source.name, [source.read_bytes()])
