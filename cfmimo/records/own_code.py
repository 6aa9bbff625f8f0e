"""The code of a policy that is no part of this package: checked before a run, and kept in the run's folder."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from apnode.agent.policies import make_policy
from apnode.config import Config
from apnode.config.own_policy import CODE, find_code_in, is_own, own_policy
from apnode.protocol.rng import config_for_aps
from apnode.runtime.whole_file import write_whole
from cfmimo.errors import ConfigError


def check_own_policy(config: Config, folder: Path | None = None) -> None:
    """See that the config's policy can be had, if it is no part of this package.

    Its module is looked for in `folder`, where a run keeps it, among what is installed, and in the working folder.

    Raises:
        ConfigError: says in a sentence why not.
    """
    policy = config.cooperation.policy
    if not is_own(policy):
        return
    if folder is not None:
        find_code_in(folder)
    if os.getcwd() not in sys.path:  # as in a script that lies there
        sys.path.append(os.getcwd())
    try:
        own_policy(policy)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if config.hears_streams and config.cooperation.cluster != "serving":
        raise ConfigError(f'policy {policy} needs streams, so cooperation.cluster = "serving": they are of one UE each')
    try:
        make_policy(0, config_for_aps(config))
    except (Exception, SystemExit) as error:  # noqa: BLE001  somebody's class may do anything
        said = f"{type(error).__name__}: {error}"
        raise ConfigError(f"policy {policy} cannot be made with (ap, config): {said}") from None


def keep_code(config: Config, folder: Path) -> None:
    """Copy the module of the config's policy into a run's folder, if it is a file of the user's own.

    Every machine of the run finds it there, and so does who resumes the run. What is installed is left where it is.
    """
    policy = config.cooperation.policy
    module = policy.partition(":")[0]
    if not is_own(policy) or "." in module:
        return
    spec = find_spec(module)
    source = None if spec is None or spec.origin is None else Path(spec.origin)
    if source is None or "site-packages" in source.parts or source.name == "__init__.py":
        return
    (folder / CODE).mkdir(exist_ok=True)
    write_whole(folder / CODE / source.name, [source.read_bytes()])
