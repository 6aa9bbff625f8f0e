"""What AP processes take is known before any is started; and which processes are of a run's own session."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cfmimo.errors import ConfigError
from cfmimo.presets import load
from cfmimo.runtime.session import check_memory, memory_needed, processes_of, sweep_earlier


def test_a_hundred_forked_learners_fit_a_laptop() -> None:
    forked, plain = (memory_needed(load("paper", [f"run.start={start}"])) for start in ("fork", "plain"))
    assert forked < 8 * 2**30 < plain


def test_a_run_that_does_not_fit_is_refused_with_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"20000 AP processes need about 1\d{3}\.\d GiB"):
        check_memory(load("paper", ["radio.num_aps=20000"]))


def test_a_thousand_aps_fit_if_they_share_processes_and_the_refusal_says_so() -> None:
    alone, shared = (load("hundred", ["radio.num_aps=1000", f"run.aps_per_actor={count}"]) for count in (1, 50))
    assert memory_needed(shared) < 8 * 2**30 < 48 * 2**30 < memory_needed(alone)
    with pytest.raises(ConfigError, match=r"20000 AP processes .*run\.aps_per_actor=\.\.\., now 1\)"):
        check_memory(load("paper", ["radio.num_aps=20000"]))
    with pytest.raises(ConfigError, match=r"20000 AP processes .*run\.aps_per_actor=\.\.\., now 3\)"):
        check_memory(load("paper", ["radio.num_aps=60000", "run.aps_per_actor=3"]))


def sleeper(session: Path) -> subprocess.Popen[bytes]:
    """A process as a session in that folder would have started it, from inside the folder."""
    environment = {**os.environ, "RAY_AUTH_TOKEN_PATH": f"{session}/token", "PWD": str(session)}
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment)


@pytest.mark.parametrize("said", ["its own", "a prefix of all", "of another run", "of a copied run", "of nobody"])
def test_of_a_killed_run_its_own_session_is_swept_and_no_one_elses(said: str, tmp_path: Path) -> None:
    session = Path(tempfile.mkdtemp(prefix="cfmimo-", dir="/tmp"))
    run = tmp_path / "run"
    run.mkdir()
    whose = {"of another run": tmp_path / "other", "of a copied run": tmp_path / "original"}.get(said, run)
    if said != "of nobody":
        (session / "run").write_text(str(whose.resolve()))
    (run / "session").write_text(f"{session.parent}/cfmimo-" if said == "a prefix of all" else str(session))
    process = sleeper(session)
    try:
        assert processes_of(session) == [process.pid]
        sweep_earlier(run)
        assert (process.poll() is None) == (said != "its own")
        assert session.exists() == (said != "its own")
        assert not (run / "session").exists()
    finally:
        process.kill()
        process.wait()
        (session / "run").unlink(missing_ok=True)
        if session.exists():
            session.rmdir()


def test_what_was_only_started_inside_a_sessions_folder_is_not_of_the_session(tmp_path: Path) -> None:
    session = tmp_path / "cfmimo-abcdefgh"
    session.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, "PWD": str(session)}, cwd=session
    )
    try:
        assert processes_of(session) == []
    finally:
        process.kill()
        process.wait()


def test_of_processes_that_hide_what_they_were_started_with_those_of_ray_that_write_to_the_session_are_of_it(
    tmp_path: Path,
) -> None:
    """Ray's agents write their titles over their environment."""
    session = tmp_path / "session"
    session.mkdir()
    with (tmp_path / "elsewhere").open("w") as outside, (session / "log").open("w") as log:
        agents = [
            subprocess.Popen([title, "60"], executable="/bin/sleep", stdout=file, env={})
            for title, file in (("ray::Agent", log), ("ray::Agent", outside), ("tail", log))
        ]
        try:
            assert processes_of(session) == [agents[0].pid]
        finally:
            for agent in agents:
                agent.kill()
                agent.wait()
