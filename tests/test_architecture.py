"""The direction of imports, one place per library, and how large things may be: read from the source."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("apnode", "channel_server", "coordinator", "cfmimo")  # each may import those before it
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# inside a package, each room may import those before it; a room is a folder, or a file that lies in none
ROOMS = {
    "apnode": (
        "apnode.config", "apnode.protocol", "apnode.radio", "apnode.clusters", "apnode.agent",
        "apnode.episode", "apnode.slot", "apnode.checks", "apnode.agreement", "apnode.access_point", "apnode.runtime",
    ),
    "cfmimo": (
        "cfmimo.errors", "cfmimo.interrupts", "cfmimo.workers", "cfmimo.scene", "cfmimo.presets", "cfmimo.records",
        "cfmimo.report", "cfmimo.runtime", "cfmimo.environment", "cfmimo.experiments", "cfmimo.cli", "cfmimo.api",
        "cfmimo.__main__",
    ),
}  # fmt: skip
HOMES = {
    "torch": {"apnode/agent/ddqn.py", "apnode/agent/mlp.py"},
    "msgpack": {"apnode/protocol/wire.py"},
    "zmq": {"apnode/runtime/transport.py"},
    "aiohttp": {"coordinator/watch/web.py"},
    "prometheus_client": {"coordinator/watch/metrics.py"},
    "ray": {
        "apnode/runtime/actor.py",
        "channel_server/actor.py",
        "coordinator/actor.py",
        "cfmimo/runtime/cluster.py",
        "cfmimo/runtime/session.py",
    },
    "matplotlib": {"cfmimo/report/figures.py"},
    "pettingzoo": {"cfmimo/environment.py"},
    "gymnasium": {"cfmimo/environment.py"},
    "pyarrow": {"cfmimo/records/rundir.py"},
    "rich": {"cfmimo/cli/console.py"},
    "mitsuba": {"cfmimo/scene.py"},
    "sionna": {"cfmimo/scene.py"},
    "tensorboard": {"coordinator/watch/tensorboard.py"},
    "tomlkit": {"cfmimo/presets/__init__.py"},
}
MOST_FILES, MOST_LINES_OF_COORDINATOR, MOST_LINES_OF_MODULE, MOST_LINES_OF_CLASS = 14, 1600, 450, 300


def module(path: Path) -> str:
    """Name of the module that a file holds."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """Every module that a file names in an import, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {node.module} | (submodules & MODULES.keys())
    return names


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("path", FILES, ids=module)
def test_packages_import_downwards_only(path: Path) -> None:
    own = PACKAGES.index(path.relative_to(ROOT).parts[0])
    above = set(PACKAGES[own + 1 :])
    assert not {name for name in imported(path) if name.split(".")[0] in above}


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_of_a_package_import_downwards_only(package: str) -> None:
    order = ROOMS[package]
    inside = {name: path for name, path in MODULES.items() if name.startswith(f"{package}.")}
    assert {room(name) for name in inside} == set(order)
    upwards = [
        (name, other)
        for name, path in inside.items()
        for other in imported(path) & inside.keys()
        if order.index(room(other)) > order.index(room(name))
    ]
    assert not upwards


def test_no_circle_of_imports() -> None:
    graph = {name: (imported(path) & MODULES.keys()) - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_in_its_own_place_only(library: str) -> None:
    users = {
        str(path.relative_to(ROOT)) for path in FILES if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users <= HOMES[library]


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda path: str(path.name))
def test_a_folder_is_seen_at_a_glance(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_FILES


def test_the_coordinator_is_thin() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / "coordinator").rglob("*.py"))
    assert lines <= MOST_LINES_OF_COORDINATOR


def test_classes_modules_and_functions_are_short() -> None:
    functions, classes, modules = [], Counter[str](), Counter[str]()
    for name, path in MODULES.items():
        text = path.read_text()
        modules[name] = len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if isinstance(node, ast.ClassDef):
                    classes[f"{name}.{node.name}"] = length
                else:
                    functions.append(length)
    assert median(functions) <= 8
    assert {name: lines for name, lines in modules.items() if lines > MOST_LINES_OF_MODULE} == {}
    assert {name: lines for name, lines in classes.items() if lines > MOST_LINES_OF_CLASS} == {}


def test_variants_of_a_config_are_made_where_they_are_checked() -> None:
    """By `Section.variant`; pydantic's `model_copy` takes any value."""
    assert [name for name, path in MODULES.items() if "model_copy" in path.read_text()] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_none_of_its_modules(package: str) -> None:
    script = f"import sys, {package}; print(*(m for m in sys.modules if m.split('.')[0] in {PACKAGES} and '.' in m))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.split() == []


def test_channel_server_and_coordinator_do_not_pay_for_torch() -> None:
    script = (
        "import sys, channel_server.server, coordinator.collector, coordinator.watch.tensorboard, apnode.access_point; "
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "False"
