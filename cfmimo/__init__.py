"""An emulation of autonomous access points in cell-free massive MIMO.

`load`, `run`, `resume`, `open_run`, `compare` and `snapshot` do what the commands do (`cfmimo.api`); `parallel_env` is
the network as an environment for multi-agent learning (`cfmimo.environment`).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would be a megabyte more, before the first signal can be handled
    from apnode.config import Config as Config
    from cfmimo.api import Comparison as Comparison
    from cfmimo.api import Run as Run
    from cfmimo.api import compare as compare
    from cfmimo.api import open_run as open_run
    from cfmimo.api import resume as resume
    from cfmimo.api import run as run
    from cfmimo.api import snapshot as snapshot
    from cfmimo.environment import parallel_env as parallel_env
    from cfmimo.errors import ConfigError as ConfigError
    from cfmimo.errors import RunDirError as RunDirError
    from cfmimo.errors import UnwrittenError as UnwrittenError
    from cfmimo.presets import load as load

_HOME = {  # imported when asked for: every AP's process imports this package
    "Config": "apnode.config",
    **dict.fromkeys(("Comparison", "Run", "compare", "open_run", "resume", "run", "snapshot"), "cfmimo.api"),
    "parallel_env": "cfmimo.environment",
    **dict.fromkeys(("ConfigError", "RunDirError", "UnwrittenError"), "cfmimo.errors"),
    "load": "cfmimo.presets",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(_HOME[name]), name)
    return found


def __dir__() -> list[str]:
    return [*_HOME]
