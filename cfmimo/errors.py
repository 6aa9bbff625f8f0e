"""What stops a command: each text is a sentence for the person who typed it."""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration cannot be used; the text is meant for the person who typed it."""


class RunDirError(Exception):
    """The folder cannot hold, or does not hold, a run; the text is meant for the person who named it."""


class Interrupted(KeyboardInterrupt):
    """A run was interrupted that can be resumed; the text says how."""


class ClusterError(RuntimeError):
    """The run cannot go on; the text says why."""
