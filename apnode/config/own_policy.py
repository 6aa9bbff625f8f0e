"""What is no part of this package: a policy or a path loss of the user's own, or a policy that a package offers."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

CODE = "code"  # in a run's folder: modules of the user's own, for all machines
NEEDS = ("forecast", "streams")  # what a policy may say that it needs
_GROUP = "cfmimo.policies"  # of entry points


def is_own(name: str) -> bool:
    """Whether a policy or path loss is no part of this package."""
    return ":" in name


def is_well_formed(name: str) -> bool:
    """Whether something can be called so, as `module:name`."""
    module, _, inside = name.partition(":")
    return all(part.isidentifier() for part in module.split(".")) and inside.isidentifier()


def imported(name: str, what: str) -> Any:
    """What `module:name` is; None if the module has nothing of that name.

    Raises:
        ValueError: says in a sentence that begins with `what` why the module cannot be imported.
    """
    module, _, inside = name.partition(":")
    try:
        return getattr(import_module(module), inside, None)
    except (Exception, SystemExit) as error:  # noqa: BLE001  somebody's module may do anything
        raise ValueError(f"{what} {name} cannot be imported: {type(error).__name__}: {error}") from None


def full_name(policy: str) -> str | None:
    """Module and class of a policy that is no part of this package; None if it is neither given so nor offered."""
    if is_own(policy):
        return policy if is_well_formed(policy) else None
    offered = entry_points(group=_GROUP, name=policy)
    return next(iter(offered)).value if offered else None


def find_code_in(folder: Path) -> None:
    """From now on modules are looked for in a run's folder first."""
    code = str((folder / CODE).absolute())
    if code not in sys.path:
        sys.path.insert(0, code)


@lru_cache
def own_policy(policy: str) -> type[Any]:
    """The class of a policy that is no part of this package.

    Raises:
        ValueError: says in a sentence why there is none.
    """
    found = imported(policy, "policy")
    if not isinstance(found, type):
        module, _, name = policy.partition(":")
        raise ValueError(f"policy {policy} cannot be imported: {module} has no class {name}")
    if not callable(getattr(found, "act", None)):
        raise ValueError(f"policy {policy} has no method act(view), which returns the neighbours to ask")
    unknown = [need for need in needs_of(found) if need not in NEEDS]
    if unknown:
        raise ValueError(f"policy {policy} needs {unknown[0]!r:.80}; a policy may need {' or '.join(NEEDS)}")
    return found


def needs_of(found: type[Any]) -> tuple[str, ...]:
    """What a policy says that it needs."""
    needs = getattr(found, "needs", ())
    return (needs,) if isinstance(needs, str) else tuple(needs)
