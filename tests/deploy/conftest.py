"""What the tests of a deployment share: one watched run, one container engine, and one image of the project."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.engine import BASE, ROOT, Engine, engine, make_stand_ins, missing
from tests.deploy.watched import Watched, watched_run

STAND_INS = (BASE, "prom/prometheus:v3.5.0", "prom/alertmanager:v0.28.1")


@pytest.fixture(scope="module")  # not longer: it takes a whole core
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_run(tmp_path_factory.mktemp("watched")) as watched:
        yield watched


@pytest.fixture(scope="session", name="engine")
def _engine() -> Iterator[Engine]:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    with engine(Path(tempfile.mkdtemp(prefix="cfmimo-engine-"))) as started:
        make_stand_ins(started, STAND_INS)
        yield started


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The project's image, built from this checkout."""
    arguments = (f"--build-arg=BASE_IMAGE={BASE}", "--build-arg=TORCH_INDEX=")
    engine.build("cfmimo", ROOT / "deploy/Dockerfile", ROOT, *arguments)
    return "cfmimo"
