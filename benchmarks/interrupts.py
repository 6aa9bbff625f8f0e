"""Ctrl-C during the start of a run on Ray, at many moments: each ends with status 130, a sentence, and nothing left.

python -m benchmarks.interrupts [--tries 40]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cfmimo.runtime.session import processes_of, processes_with

FIRST_S, LAST_S = 0.1, 20.0
_MARK = "CFMIMO_TRY"  # in the environment of all processes of a try
_END_S = 60.0
_UNWANTED = ("Traceback", "Fatal", "Exception ignored", "***")


def attempt(moment_s: float, folder: Path) -> list[str]:
    """What is wrong with how a run ends that is interrupted so long after its start."""
    mark, out, before = str(uuid.uuid4()), folder / "run", _sessions()
    run = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "cfmimo", "run", "demo", "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, _MARK: mark},
        start_new_session=True,  # as a shell does: a terminal interrupts all processes of the group
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a background job
    )
    time.sleep(moment_s)
    began = time.monotonic()
    os.killpg(run.pid, signal.SIGINT)
    try:
        said = run.communicate(timeout=_END_S)[1]
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        return [f"still running {_END_S:.0f} s later"]
    took = time.monotonic() - began
    wrong = {
        f"status {run.returncode}": run.returncode != 130,
        f"said {said!r}": "cfmimo: interrupted" not in said or any(word in said for word in _UNWANTED),
        f"took {took:.1f} s": took > _END_S / 2,
        "left processes": bool(_processes_with(mark)),
        "left a session's folder": any(not processes_of(made) for made in _sessions() - before),
        "left a run's folder": out.exists() and "cfmimo resume" not in said,
    }
    return [text for text, is_so in wrong.items() if is_so]


def _sessions() -> set[Path]:
    return set(Path("/tmp").glob("cfmimo-*"))  # noqa: S108


def _processes_with(mark: str) -> list[int]:
    give_up = time.monotonic() + 5
    while (left := processes_with(_MARK, mark)) and time.monotonic() < give_up:
        time.sleep(0.1)
    return left


def main(arguments: Sequence[str] | None = None) -> int:
    """Interrupt as many runs as wanted; returns 1 if one of them ended in another way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=40)
    tries = parser.parse_args(arguments).tries
    held = 0
    for moment in np.linspace(FIRST_S, LAST_S, tries):
        with tempfile.TemporaryDirectory() as folder:
            wrong = attempt(float(moment), Path(folder))
        held += not wrong
        print(f"{moment:5.1f} s: {'; '.join(wrong) or 'as it should be'}", flush=True)
    print(f"{held} of {tries}")
    return int(held < tries)


if __name__ == "__main__":
    sys.exit(main())
