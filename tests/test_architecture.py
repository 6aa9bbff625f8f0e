"""The direction of imports, and one place per library: read from the source, so it cannot drift."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("apnode", "channel_server", "coordinator")  # each may import those before it
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HOMES = {
    "torch": {"apnode/ddqn.py"},
    "msgpack": {"apnode/wire.py"},
    "zmq": {"apnode/transport.py"},
    "aiohttp": {"coordinator/web.py"},
    "prometheus_client": {"coordinator/metrics.py"},
    "ray": {
        "apnode/actor.py",
        "channel_server/actor.py",
        "coordinator/actor.py",
        "coordinator/cluster.py",
        "coordinator/session.py",
    },
    "matplotlib": {"coordinator/figures.py"},
    "pyarrow": {"coordinator/rundir.py"},
    "rich": {"coordinator/console.py"},
    "tensorboard": {"coordinator/scalars.py"},
    "tomlkit": {"coordinator/presets/__init__.py"},
}
HEAVY = {"torch", "ray", "zmq", "matplotlib", "pyarrow", "prometheus_client", "aiohttp", "tensorboard"}


def imported(path: Path) -> set[str]:
    """Every module that a file names in an import, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_downwards_only(path: Path) -> None:
    own = PACKAGES.index(path.relative_to(ROOT).parts[0])
    above = set(PACKAGES[own + 1 :])
    assert not {name for name in imported(path) if name.split(".")[0] in above}


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_in_its_own_place_only(library: str) -> None:
    users = {
        str(path.relative_to(ROOT)) for path in MODULES if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users <= HOMES[library]


@pytest.mark.parametrize("package", PACKAGES)
def test_package_init_imports_nothing_heavy(package: str) -> None:
    assert not imported(ROOT / package / "__init__.py")


def test_channel_server_and_coordinator_do_not_pay_for_torch() -> None:
    import subprocess
    import sys

    script = (
        "import sys, channel_server.server, coordinator.collector, coordinator.scalars, apnode.access_point; "
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "False"
