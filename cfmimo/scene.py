"""Ray-traced channels of a city as a channel file: Sionna RT traces, AP by AP, what users in the streets would hear.

Sionna RT is the extra `scenes`. Nothing else of cfmimo needs it, and files that were traced once need it no more.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.protocol.messages import FloatArray
from apnode.runtime.whole_file import write_whole
from cfmimo.errors import ConfigError, did_you_mean
from channel_server.recorded import ROOF_M

BoolArray = NDArray[np.bool_]

CELL_M = 4.0  # side of the squares within which a gain is the mean [m]
HEARD = 1e-13  # least gain of a user's strongest AP [power gain]
LEAST = 1e-15  # gains below are 0 [power gain]
_UE_M = 1.5  # height of users [m]
_FLAT_M = 2.0  # by which the ground of a scene may rise within the area [m]
_LOW_M = 0.5  # what is no higher than this above ground is no building [m]
_FREE_M = 30.0  # as far as an AP must see at its height in some direction, so not in a courtyard [m]
_DIRECTIONS = 32
_CANDIDATES = 20  # places drawn for each AP; the one furthest from other APs is taken (Mitchell 1991)
_STEPS_PER_DB = 100  # gains are rounded, since the order of sums in the tracer's threads is not always the same
_MOST_SURFACES = 64  # above one another

_OF_OPENSTREETMAP = ("etoile", "florence", "munich", "san_francisco")
_ATTRIBUTION = "made from the scene {} of Sionna RT, which is made from data of OpenStreetMap contributors (ODbL 1.0)"
_MISSING = """tracing scenes needs Sionna RT: pip install 'cfmimo[scenes]'"""
_NO_LLVM = """Sionna RT finds no LLVM that it can use; install Debian's package libllvm19, or another LLVM 16 to 20, and
if it is in an unusual place set DRJIT_LIBLLVM_PATH to its library"""


@dataclass(frozen=True)
class Scene:
    """What is traced; as the file says it, too."""

    name: str  # of a scene of Sionna RT, or path of a Mitsuba file
    aps: int
    ues: int
    layouts: int
    side_m: float = 500.0  # of the square in which APs and users are
    centre: tuple[float, float] | None = None  # of the square, in the scene's coordinates; None: the scene's own
    height_m: float = 10.0  # of APs above ground
    carrier_hz: float = 3.5e9
    depth: int = 3  # most reflections of a path
    rays: int = 10**6  # from each AP
    seed: int = 0


class Tracer:
    """A scene in Sionna RT: what stands in it, and what it makes of radio waves."""

    def __init__(self, scene: Scene) -> None:
        """Load a scene.

        Raises:
            ConfigError: if Sionna RT or LLVM is not there, or the scene is none, or not flat.
        """
        self.scene, self._rt, self._mi = scene, *_sionna()
        self._loaded = self._load(scene.name)
        box = self._loaded.mi_scene.bbox()
        if not box.valid():
            raise ConfigError(f"scene {scene.name} is empty")
        low, high = np.array(box.min).ravel(), np.array(box.max).ravel()
        middle = (low + high)[:2] / 2 if scene.centre is None else np.array(scene.centre)
        self._origin, self._sky = (middle - scene.side_m / 2).astype(float), float(high[2]) + 100
        self.num_cells = round(scene.side_m / CELL_M)
        _, ground = self._surfaces(self.cells().reshape(-1, 2))
        if np.isnan(ground).all():
            raise ConfigError(f"there is no ground in the square of {scene.name}: choose another --centre or --side")
        self.ground_m = float(np.nanmedian(ground))
        if np.nanmax(np.abs(ground - self.ground_m)) > _FLAT_M:
            rise = np.nanmax(ground) - np.nanmin(ground)
            raise ConfigError(f"the ground of scene {scene.name} rises by {rise:.0f} m; only flat ones can be traced")
        isotropic = {"vertical_spacing": 0.5, "horizontal_spacing": 0.5, "pattern": "iso", "polarization": "V"}
        self._loaded.tx_array = self._loaded.rx_array = self._rt.PlanarArray(num_rows=1, num_cols=1, **isotropic)
        self._loaded.frequency = scene.carrier_hz

    def cells(self) -> FloatArray:
        """(Y, X, 2) their centres, from the area's lower left corner [m]."""
        along = (np.arange(self.num_cells) + 0.5) * CELL_M
        return np.stack(np.meshgrid(along, along), axis=-1)

    def roofs(self) -> BoolArray:
        """(Y, X) squares of ROOF_M that are built over."""
        along = (np.arange(round(CELL_M / ROOF_M) * self.num_cells) + 0.5) * ROOF_M
        squares = np.stack(np.meshgrid(along, along), axis=-1)
        return ~self.outdoors(squares.reshape(-1, 2)).reshape(squares.shape[:2])

    def streets(self) -> FloatArray:
        """(N, 2) centres of the cells over no part of which anything is built [m]."""
        cells, within = self.cells(), round(CELL_M / ROOF_M)
        built = self.roofs().reshape(self.num_cells, within, self.num_cells, within).any(axis=(1, 3))
        open_cells = cells[~built]
        return open_cells[self.outdoors(open_cells)]

    def outdoors(self, places: FloatArray) -> BoolArray:
        """(N,) whether nothing stands on places (N, 2) or above them: found by rays from the sky."""
        top, ground = self._surfaces(places)
        return np.asarray(np.abs(top - ground) <= _LOW_M)  # not where there is no ground

    def sees_far(self, places: FloatArray) -> BoolArray:
        """(N,) whether there is a free view from places (N, 2), at the height of APs, in some direction."""
        angle = 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
        from_each = np.repeat(places, _DIRECTIONS, axis=0)
        ways = np.tile(np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1), (len(places), 1))
        free = self._distances(from_each, np.full(len(from_each), self.ground_m + self.scene.height_m), ways)
        return np.asarray((free.reshape(-1, _DIRECTIONS) > _FREE_M).any(axis=1))

    def gains(self, ap: int, place: FloatArray) -> FloatArray:
        """(Y, X) path gain of an AP at (2,) to users in each cell, mean over the cell and incoherent over paths."""
        transmitter = f"ap-{ap}"
        x, y = place + self._origin
        point, area = self._mi.Point3f, self.num_cells * CELL_M
        self._loaded.add(
            self._rt.Transmitter(transmitter, position=point(float(x), float(y), self.ground_m + self.scene.height_m))
        )
        try:
            traced = self._rt.RadioMapSolver()(
                self._loaded,
                center=point(*map(float, self._origin + area / 2), self.ground_m + _UE_M),
                orientation=point(0.0, 0.0, 0.0),
                size=self._mi.Point2f(area, area),
                cell_size=self._mi.Point2f(CELL_M, CELL_M),
                samples_per_tx=self.scene.rays,
                max_depth=self.scene.depth,
                refraction=False,
                diffraction=True,
                seed=1 + self.scene.seed * self.scene.aps + ap,
            )
            gains: FloatArray = np.array(traced.path_gain, float)[0]
            return gains
        finally:
            self._loaded.remove(transmitter)

    def _load(self, name: str) -> Any:
        known = sorted(n for n in dir(self._rt.scene) if isinstance(getattr(self._rt.scene, n), str) and n[0] != "_")
        path = Path(name)
        if path.suffix != ".xml" and name not in known:
            there = f"{', '.join(known)}, or name a Mitsuba file (.xml){did_you_mean(name, known)}"
            raise ConfigError(f"no scene {name!r:.300}; Sionna RT has {there}")
        if path.suffix == ".xml" and not path.is_file():
            raise ConfigError(f"there is no file {name:.300}")
        try:
            return self._rt.load_scene(str(path) if path.suffix == ".xml" else getattr(self._rt.scene, name))
        except Exception as error:  # whatever Mitsuba and Sionna raise for a file that is no scene
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise ConfigError(f"{name:.300} cannot be loaded as a scene: {reason:.300}") from error

    def _surfaces(self, places: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(N,) heights of the highest and the lowest surface at places (N, 2); NaN where there is none [m]."""
        down = np.tile([0.0, 0.0, -1.0], (len(places), 1))
        height = np.full(len(places), self._sky)
        top = bottom = np.full(len(places), np.nan)
        for surface in range(_MOST_SURFACES):
            below = height - self._distances(places, height, down)
            hit = np.isfinite(below)
            if not hit.any():
                break
            bottom = np.where(hit, below, bottom)
            top = bottom if surface == 0 else top
            height = np.where(hit, below - 0.01, -np.inf)
        return top, bottom

    def _distances(self, places: FloatArray, height: FloatArray, ways: FloatArray) -> FloatArray:
        """(N,) how far it is from places (N, 2) at heights (N,) to what is in the way (N, 3); infinite if nothing."""
        here = np.where(np.isfinite(height), height, -1e6)
        single, x, y = self._mi.Float, places[:, 0] + self._origin[0], places[:, 1] + self._origin[1]
        origin = self._mi.Point3f(*(single(np.ascontiguousarray(v, np.float32)) for v in (x, y, here)))
        way = self._mi.Vector3f(*(single(np.ascontiguousarray(v, np.float32)) for v in ways.T))
        found = self._loaded.mi_scene.ray_intersect(self._mi.Ray3f(origin, way))
        far = np.where(np.array(found.is_valid()), np.array(found.t, float), np.inf)
        return np.where(np.isfinite(height), far, np.inf)


def _sionna() -> tuple[Any, Any]:
    """Sionna RT and Mitsuba."""
    try:
        import mitsuba
        import sionna.rt

        mitsuba.Float([0.0]) + 1  # only now is LLVM looked for
    except ImportError as error:
        raise ConfigError(_MISSING if "llvm" not in str(error).lower() else _NO_LLVM) from error
    except (AttributeError, RuntimeError) as error:  # without LLVM nothing is there to compute with
        raise ConfigError(_NO_LLVM) from error
    return sionna.rt, mitsuba


def trace(scene: Scene, out: Path, progress: Callable[[int, int], object] = lambda done, of: None) -> dict[str, Any]:
    """Trace a scene into a channel file; what is traced is kept beside it until all is there, and not traced again.

    Args:
        scene: what to trace.
        out: the file to write (.npz): arrays as in `channel_server.recorded`, and `about`, a text of JSON.
        progress: told how many APs have been traced, and of how many.

    Returns:
        what `about` says.

    Raises:
        ConfigError: if the scene cannot be traced, or parts of another are beside the file.
    """
    tracer = Tracer(scene)
    parts = _folder_of_parts(out, scene)
    rng = np.random.default_rng([scene.seed, scene.aps])
    ap_xy = _places_of_aps(tracer, rng)
    maps = []
    for ap, place in enumerate(ap_xy):
        part = parts / f"ap-{ap}.npy"
        if not part.exists():
            write_whole(part, _bytes(np.save, rounded(tracer.gains(ap, place))))
        maps.append(np.load(part))
        progress(ap + 1, scene.aps)
    places = tracer.streets()
    column, row = (places // CELL_M).astype(int).T
    gains = np.stack(maps)[:, row, column]  # (M, places)
    users, redrawn = draw_users(gains, scene.layouts, scene.ues, rng)
    beta = gains[:, users].swapaxes(0, 1)  # (E, M, K)
    about = {
        **asdict(scene),
        "cell_m": CELL_M,
        "tracer": f"Sionna RT {_version()}",
        "aps_heard": float((beta >= HEARD).sum(axis=1).mean()),
        "redrawn": redrawn,
        "attribution": (_ATTRIBUTION if scene.name in _OF_OPENSTREETMAP else "made from the scene {}").format(
            Path(scene.name).name
        ),
    }
    arrays = {"beta": beta.astype(np.float32), "ap_xy": ap_xy.astype(np.float32)}
    arrays |= {"ue_xy": places[users].astype(np.float32), "roofs": tracer.roofs().astype(np.uint8)}
    write_whole(out, _bytes(np.savez_compressed, about=json.dumps(about), **arrays))
    shutil.rmtree(parts)
    return about


def rounded(gains: FloatArray) -> FloatArray:
    """Gains in steps of 0.01 dB, 0 below LEAST: so runs of the tracer that differ in the last bits give the same."""
    heard = gains >= LEAST
    steps = np.round(10 * _STEPS_PER_DB * np.log10(np.where(heard, gains, 1)))
    return np.where(heard, 10 ** (steps / (10 * _STEPS_PER_DB)), 0).astype(np.float32)


def draw_users(gains: FloatArray, layouts: int, ues: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], int]:
    """Where users stand, drawn evenly; who is heard by no AP is drawn again.

    Args:
        gains: (M, N) of M APs at N places where a user can stand.
        layouts: E.
        ues: K.
        rng: draws them.

    Returns:
        (E, K) places, and how often one was drawn again.

    Raises:
        ConfigError: if there are fewer places with any AP than users.
    """
    heard = gains.max(axis=0, initial=0) >= HEARD
    if heard.sum() < ues:
        raise ConfigError(f"only {heard.sum()} places outdoors hear an AP, fewer than {ues} users")
    users, redrawn = np.empty((layouts, ues), np.int64), 0
    for layout in range(layouts):
        order = rng.permutation(len(heard))
        chosen = np.flatnonzero(heard[order])[:ues]
        users[layout] = order[chosen]
        redrawn += int(chosen[-1]) + 1 - ues
    return users, redrawn


def _places_of_aps(tracer: Tracer, rng: np.random.Generator) -> FloatArray:
    """(M, 2) on poles in the streets, spread by Mitchell's best candidate: outdoors, and not in a courtyard."""
    free = tracer.streets()
    free = free[tracer.sees_far(free)] if len(free) else free
    if len(free) < tracer.scene.aps:
        raise ConfigError(
            f"only {len(free)} places for APs in the streets of {tracer.scene.name}, fewer than {tracer.scene.aps}: "
            "choose another centre, a larger side, or another height"
        )
    places: list[FloatArray] = []
    for _ in range(tracer.scene.aps):
        candidates = rng.choice(free, _CANDIDATES)
        if places:
            near = np.linalg.norm(candidates[:, None] - np.array(places), axis=2).min(axis=1)
            candidates = candidates[near.argmax()][None]
        places.append(candidates[0])
    if len(np.unique(places, axis=0)) < len(places):
        raise ConfigError(f"{tracer.scene.aps} APs do not fit into the streets: take fewer, or a larger side")
    return np.array(places)


def _folder_of_parts(out: Path, scene: Scene) -> Path:
    """Beside the file, where parts are kept; of the same scene with the same settings."""
    parts = out.with_name(out.name + ".parts")
    about = parts / "scene.json"
    wanted = json.dumps(asdict(scene), indent=1)
    parts.mkdir(parents=True, exist_ok=True)
    if not about.exists():
        write_whole(about, [wanted.encode()])
    if about.read_text("utf-8") != wanted:
        raise ConfigError(f"{parts} has parts of another scene; delete it, or name another --out")
    return parts


def _bytes(save: Callable[..., object], *arrays: Any, **named: Any) -> list[bytes]:
    """What a function of numpy would write to a file."""
    file = io.BytesIO()
    save(file, *arrays, **named)
    return [file.getvalue()]


def _version() -> str:
    from importlib.metadata import version

    return version("sionna-rt")
