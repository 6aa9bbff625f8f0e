"""The command `cfmimo`: parses, calls one function, prints one result. Misuse exits 2 with a sentence."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from pydantic import ValidationError

from cfmimo.cli.arguments import complain
from cfmimo.cli.compare import add_compare
from cfmimo.cli.inspect import add_explain, add_listings, add_report, add_snapshot
from cfmimo.cli.reproduce import add_reproduce
from cfmimo.cli.run import add_resume, add_run
from cfmimo.cli.scene import add_scene
from cfmimo.cli.sweep import add_sweep
from cfmimo.errors import ConfigError, Interrupted, RunDirError
from cfmimo.interrupts import interrupt, on_interrupt
from cfmimo.presets import sentences

_EPILOG = """\
examples:
  cfmimo run demo                                20 APs as 20 Ray actors, learning; a few minutes
  cfmimo run paper --runtime local               the seed paper's network in one process
  cfmimo run demo --set radio.num_aps=36 cooperation.policy=random --seed 7
  cfmimo run demo --faults churn                 the same, with APs killed by a fault plan
  cfmimo resume runs/demo-seed0-...              continue an interrupted run
  cfmimo run demo --policy runs/demo-seed0-...   with the agents of that run, without learning
  cfmimo explain runs/demo-seed0-... --ap 3 --slot 40    why that AP asked whom it asked, and what came of it
  cfmimo config paper > my.toml                  a commented config to edit, then: cfmimo run my.toml
  cfmimo compare paper --layouts 20              policies at equal numbers of links, with 95 % intervals
  cfmimo sweep selective --grid cooperation.link_price=0.1,0.2,0.4 --seeds 3   one table and figure of nine runs
  cfmimo reproduce --quick                       the seed paper's numbers beside ours
  cfmimo snapshot paper --seed 1 --out x.npz     all arrays of one slot, to check them elsewhere
  cfmimo scene munich --out city.npz             ray-traced channels of a city, for propagation.channel_file
"""


def run_cfmimo(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        with on_interrupt(interrupt):
            status: int = options.command(options)
        sys.stdout.flush()  # if its reader has gone, that shows here
    except (ConfigError, RunDirError) as error:
        return complain(str(error), 2)
    except ValidationError as error:  # of a variant of the config that a command makes
        return complain(sentences(error), 2)
    except Interrupted as error:
        return complain(f"interrupted; {error}", 130)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the process's end
        return complain("not all output was read: its reader closed the pipe", 1)
    except OSError as error:
        if error.filename is None:
            raise
        return complain(f"cannot read or write {error.filename}: {error.strerror}", 1)
    return status


def parser() -> argparse.ArgumentParser:
    """What all commands take."""
    arguments = argparse.ArgumentParser(
        prog="cfmimo",
        description="Autonomous access points in cell-free massive MIMO, emulated: each decides by itself, "
        "with its own Double DQN, which neighbours to cooperate with.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--version", action="version", version=f"cfmimo {version('cfmimo')}")
    commands = arguments.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_run,
        add_resume,
        add_report,
        add_explain,
        add_compare,
        add_sweep,
        add_reproduce,
        add_snapshot,
        add_scene,
        add_listings,
    ):
        add(commands)
    return arguments
