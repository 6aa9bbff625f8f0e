"""Channels from a file, so that measured or ray-traced scenes can be used in place of a model.

The file is a .npz (`numpy.savez` or `savez_compressed`) of plain arrays, for M APs, K UEs and L antennas:

| array   | shape                            | meaning |
| ------- | -------------------------------- | ------- |
| `beta`  | (M, K) or (E, M, K)              | large-scale power gains, linear, relative to transmit power; E layouts |
| `h`     | (S, M, K, L) or (S, B, M, K, L)  | channels of S slots [sqrt power gain], one or B blocks in each |
| `ap_xy` | (M, 2)                           | positions [m]; only for maps |
| `ue_xy` | (K, 2) or (E, K, 2)              | positions [m]; only for maps |
| `roofs` | (Y, X)                           | buildings: squares of 2 m from (0, 0) on that are not 0; only for maps |

`beta` or `h` must be there. With `beta` alone the fading is drawn as ever. With `h`, `beta` is what APs are
told and estimate by; without it that is the mean of |h|^2. Layout e serves the episodes e, e + E, ..., and
`h` has S / E slots of each layout, which follow one another in its episodes and then begin again. A config may take a
part of the layouts, such as some to learn in and others to compare in.
Four-dimensional `h` stays constant within a slot. Other arrays are ignored. Missing positions are drawn.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apnode.config import Config
from apnode.protocol.messages import ComplexArray, FloatArray

SCENES = Path(__file__).parent / "scenes"  # files that come with the package, found by their names
ROOF_M = 2.0  # side of a square of `roofs` [m]

_NAMES = ("beta", "h", "ap_xy", "ue_xy", "roofs")
_MOST_BYTES = 2**31  # of the arrays when they are unpacked
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError, RuntimeError, SyntaxError)

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a file holds, checked against a config."""

    beta: FloatArray  # (E, M, K)
    h: ComplexArray | None  # (S, B, M, K, L), or B = 1 if it stays constant within a slot
    ap_xy: FloatArray | None  # (M, 2)
    ue_xy: FloatArray | None  # (E, K, 2), or one for all
    roofs: NDArray[np.bool_] | None  # (Y, X) squares of ROOF_M

    def h_of(self, slot: int, slots_per_episode: int) -> ComplexArray | None:
        """(B or 1, M, K, L) of a slot, if the file holds channels."""
        if self.h is None:
            return None
        episode, position = divmod(slot, slots_per_episode)
        before, layout = divmod(episode, len(self.beta))
        length = len(self.h) // len(self.beta)
        return np.asarray(self.h[layout * length + (before * slots_per_episode + position) % length])


def file_of(name: str) -> Path:
    """Where a channel file is: one that comes with the package by its name alone, as "munich", or any by its path."""
    shipped = SCENES / f"{name}.npz"
    return shipped if Path(name).name == name and shipped.is_file() else Path(name)


def recorded(config: Config) -> Recorded | None:
    """The channels of the config's file, or None if there is none; read again only when the file changes.

    Raises:
        ValueError: in a sentence that names the file, if it cannot be read or does not fit the config.
    """
    path = config.propagation.channel_file
    if not path:
        return None
    try:
        known = file_of(path).stat()
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path:.300}: {_reason(error)}") from None
    return _recorded(config, known.st_mtime_ns, known.st_size)


@lru_cache(maxsize=2)
def _recorded(config: Config, changed_ns: int, size: int) -> Recorded:
    path = config.propagation.channel_file
    try:
        return _checked(_read(file_of(path)), config)
    except ValueError as error:
        raise ValueError(f"{path:.300} {error}") from None


def _read(path: Path) -> Arrays:
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise ValueError("is not a .npz file")
    try:
        size = _unpacked(path)
        if size > _MOST_BYTES:
            raise ValueError(f"it unpacks to {size / 2**30:.1f} GiB, more than {_MOST_BYTES / 2**30:.0f}")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in _NAMES if name in file.files}
    except (*_UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise ValueError("holds pickled objects; it must hold plain arrays of numbers") from None
        raise ValueError(f"is broken: {_reason(error)}") from None


def _unpacked(path: Path) -> int:
    """How many bytes the arrays are; none of them unpacks to more than the file says."""
    with zipfile.ZipFile(path) as packed:
        return sum(entry.file_size for entry in packed.infolist() if entry.filename.removesuffix(".npy") in _NAMES)


def _reason(error: BaseException) -> str:
    """What went wrong, on one line."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(said).splitlines()[0][:200]


# --- does it fit ------------------------------------------------------------------------------------------


def _checked(arrays: Arrays, config: Config) -> Recorded:
    if "beta" not in arrays and "h" not in arrays:
        raise ValueError("holds neither beta nor h")
    radio, blocks = config.radio, config.run.blocks_per_slot
    num_aps, num_ues, h = radio.num_aps, radio.num_ues, None
    if "h" in arrays:
        link = (num_aps, num_ues, radio.antennas)
        h = _shaped(arrays, "h", "iufc", (None, *link), (None, blocks, *link)).astype(complex, copy=False)
        h = h[:, None] if h.ndim == 4 else h
        with np.errstate(over="ignore"):
            measured = _gains("|h|^2", (np.abs(h) ** 2).mean(axis=(0, 1, 4))[None])
        if config.propagation.block_ms:
            raise ValueError("holds h, every block's channels, so that block_ms has no effect")
    if "beta" in arrays:
        beta = _shaped(arrays, "beta", "iuf", (num_aps, num_ues), (None, num_aps, num_ues)).astype(float)
        beta = _gains("beta", beta.reshape(-1, num_aps, num_ues))
    else:
        beta = measured
    if h is not None and len(h) % len(beta):
        raise ValueError(f"holds h of {len(h)} slots, expected as many for each of its {len(beta)} layouts")
    roofs = _shaped(arrays, "roofs", "biu", (None, None)) != 0 if "roofs" in arrays else None
    ap_xy = _shaped(arrays, "ap_xy", "iuf", (num_aps, 2)) if "ap_xy" in arrays else None
    ue_xy = _shaped(arrays, "ue_xy", "iuf", (num_ues, 2), (len(beta), num_ues, 2)) if "ue_xy" in arrays else None
    whole = Recorded(beta, h, ap_xy, None if ue_xy is None else ue_xy.reshape(-1, num_ues, 2), roofs)
    return _part(whole, config.propagation.first_layout, config.propagation.num_layouts)


def _part(file: Recorded, first: int, count: int) -> Recorded:
    """The layouts of a file from the first on, so many; 0: all that follow."""
    num_layouts = len(file.beta)
    end = first + count if count else num_layouts
    if first >= num_layouts or end > num_layouts:
        raise ValueError(f"holds {num_layouts} layouts, counted from 0, and not {max(first, end - 1)}")
    length = 0 if file.h is None else len(file.h) // num_layouts
    return replace(
        file,
        beta=file.beta[first:end],
        h=None if file.h is None else file.h[first * length : end * length],
        ue_xy=file.ue_xy if file.ue_xy is None or len(file.ue_xy) == 1 else file.ue_xy[first:end],
    )


def _shaped(arrays: Arrays, name: str, kinds: str, *shapes: tuple[int | None, ...]) -> NDArray[Any]:
    """An array of finite numbers in one of the shapes, where None is any length but 0."""
    array = arrays[name]
    if not isinstance(array, np.ndarray):  # numpy hands out what is no array as bytes
        raise ValueError(f"holds {name}, which is not an array")
    if array.dtype.kind not in kinds:
        wanted = "complex" if "c" in kinds else "real"
        raise ValueError(f"holds {name} of type {array.dtype}, expected {wanted} numbers")
    if not any(_fits(array.shape, shape) for shape in shapes):
        expected = " or ".join(_text(shape) for shape in shapes)
        raise ValueError(f"holds {name} of shape {_text(array.shape)}, expected {expected} as the config says")
    if not np.isfinite(array).all():
        raise ValueError(f"holds NaN or infinity in {name}")
    return array


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(f == s or (s is None and f > 0) for f, s in zip(found, shape, strict=True))


def _text(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"


def _gains(name: str, gain: FloatArray) -> FloatArray:
    """(E, M, K) power gains that can be: not negative, not above 1, and something from some AP for every UE."""
    if gain.min() < 0:
        raise ValueError(f"holds a negative gain, {gain.min():g}, in {name}: gains are linear, not in dB")
    if not gain.max() <= 1:
        raise ValueError(f"holds a gain of {gain.max():g} in {name}: gains are relative to what is sent, so at most 1")
    deaf = np.argwhere(gain.max(axis=1) == 0)
    if len(deaf):
        layout, ue = deaf[0]
        raise ValueError(f"holds a UE without any AP: {name} of UE {ue} is 0 throughout in layout {layout}")
    gain.flags.writeable = False  # it is remembered
    return gain


def roofs_of(config: Config) -> NDArray[np.bool_] | None:
    """(Y, X) where buildings are, if the channels come from a file that says so: squares of ROOF_M from (0, 0) on."""
    file = recorded(config)
    return None if file is None else file.roofs


def refuse_without_positions(config: Config) -> None:
    """Raise ValueError if the channels come from a file that does not hold the positions of APs and UEs."""
    file = recorded(config)
    if file is not None and (file.ap_xy is None or file.ue_xy is None):
        raise ValueError(f"{config.propagation.channel_file} does not say where APs and UEs are")
