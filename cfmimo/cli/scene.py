"""The command `scene`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cfmimo.cli.arguments import add_command, add_json, count, print_json


def add_scene(commands: Any) -> None:
    """Add the command `scene`."""
    traced = add_command(
        commands,
        "scene",
        scene_command,
        "trace the channels of a city by Sionna RT into a file for propagation.channel_file; started again after an "
        "interruption it goes on",
    )
    traced.add_argument(
        "scene", metavar="NAME|FILE.xml", help="a scene of Sionna RT (munich, etoile, ...) or of Mitsuba"
    )
    traced.add_argument("--out", required=True, help="file to write (.npz)")
    traced.add_argument("--aps", type=count, default=100, help="APs, on poles in the streets (default: 100)")
    traced.add_argument("--ues", type=count, default=40, help="users outdoors in each layout (default: 40)")
    traced.add_argument("--layouts", type=count, default=20, help="layouts of users (default: 20)")
    traced.add_argument("--side", type=float, default=500.0, metavar="M", help="of the square with all of them [m]")
    traced.add_argument(
        "--centre", type=float, nargs=2, metavar=("X", "Y"), help="of the square [m] (default: of the scene)"
    )
    traced.add_argument("--height", type=float, default=10.0, metavar="M", help="of APs above ground [m] (default: 10)")
    traced.add_argument("--carrier", type=float, default=3.5e9, metavar="HZ", help="[Hz] (default: 3.5e9)")
    traced.add_argument("--depth", type=int, default=3, help="most reflections of a path (default: 3)")
    traced.add_argument("--rays", type=count, default=10**6, help="from each AP (default: 1000000)")
    traced.add_argument("--seed", type=int, default=0, help="of the places and the rays (default: 0)")
    traced.add_argument("--quiet", action="store_true", help="no progress bar")
    add_json(traced)


def scene_command(options: argparse.Namespace) -> int:
    """Trace a scene; returns the exit status."""
    from cfmimo.cli.console import Console
    from cfmimo.errors import ConfigError
    from cfmimo.scene import Scene, trace

    out = Path(options.out)
    if out.suffix != ".npz":
        raise ConfigError(f"--out must name a .npz file, not {options.out}")
    if not (options.side >= 20 and options.height > 0 and options.carrier > 0 and options.depth >= 0):
        raise ConfigError("--side must be at least 20 m; --height and --carrier above 0; --depth at least 0")
    scene = Scene(
        name=options.scene,
        aps=options.aps,
        ues=options.ues,
        layouts=options.layouts,
        side_m=options.side,
        centre=None if options.centre is None else tuple(options.centre),
        height_m=options.height,
        carrier_hz=options.carrier,
        depth=options.depth,
        rays=options.rays,
        seed=options.seed,
    )
    console = Console(None, quiet=options.quiet or options.json)
    with console:
        about = trace(scene, out, console.stage("tracing: APs"))
    if options.json:
        print_json({"file": str(out), **about})
    else:
        heard = f"a user hears {about['aps_heard']:.1f} APs"
        print(f"{out}: {scene.aps} APs, {scene.ues} users in each of {scene.layouts} layouts; {heard}")
        print(f"{about['redrawn']} users whom nobody would hear were drawn again; {about['attribution']}.")
        print(f"use it: cfmimo run my.toml --set propagation.channel_file={out}")
    return 0
