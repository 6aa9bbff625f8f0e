"""The presets that ship beside this file, and how a config is read: preset or file, then overrides, then checks."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any, get_args

import tomlkit
from pydantic import BaseModel, ValidationError

from apnode.config import Config
from cfmimo.errors import ConfigError, did_you_mean
from channel_server.recorded import SCENES, file_of, recorded

_FOLDER = Path(__file__).parent
_WIDTH = 120  # of a commented config


def preset_names() -> list[str]:
    """The presets that ship, in alphabetical order."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def summary(preset: str) -> str:
    """What a preset is, in a sentence: its first line."""
    return (_FOLDER / f"{preset}.toml").read_text("utf-8").splitlines()[0].removeprefix("# ")


def load(
    source: str | Path | Config, overrides: Iterable[str] = (), seed: int | None = None, **sections: Any
) -> Config:
    """The config of a preset or a TOML file, or a config itself, with other values for some settings.

    A file that says `preset = "selective"` changes values of that preset.
    Example: load("hundred", seed=3, radio={"num_aps": 36, "num_ues": 14}, run={"episodes": 2})

    Args:
        source: name of a preset, path of a file, or a config.
        overrides: `section.key=value`, as on the command line.
        seed: of everything random, in place of the config's.
        sections: by section, a dict of the values that change.

    Raises:
        ConfigError: says in a sentence what is wrong and where.
    """
    tree = source.model_dump() if isinstance(source, Config) else _read(str(source))
    for name, changes in sections.items():
        tree |= {name: {**tree.get(name, {}), **changes} if isinstance(changes, Mapping) else changes}
    for override in overrides:
        _override(tree, override)
    if seed is not None:
        tree["seed"] = seed
    try:
        return _with_channels(Config.model_validate(tree))
    except ValidationError as error:
        raise ConfigError(sentences(error)) from None


def _with_channels(config: Config) -> Config:
    """The config with its channel file, if any, read, checked and named so that it is found from any folder."""
    propagation = config.propagation
    if not propagation.channel_file:
        return config
    path = file_of(propagation.channel_file)
    if path.parent != SCENES:  # actors may run in another folder
        config = config.variant(propagation={"channel_file": str(path.absolute())})
    try:
        recorded(config)
    except ValueError as error:
        raise ConfigError(f"propagation.channel_file: {error}") from None
    return config


def _read(source: str) -> dict[str, Any]:
    path = Path(source)
    if source in preset_names():
        text = (_FOLDER / f"{source}.toml").read_text("utf-8")
    else:
        try:
            text = path.read_text("utf-8")
        except (OSError, ValueError) as error:
            if path.suffix != ".toml":
                known = f"{', '.join(preset_names())}, or name a .toml file{did_you_mean(source, preset_names())}"
                raise ConfigError(f"no preset {source!r:.300}; there are {known}") from None
            raise ConfigError(f"cannot read {source:.300}: {error}") from None
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib raises more than its own TOMLDecodeError
        raise ConfigError(f"{source} is not TOML: {error}") from None
    if (base := tree.pop("preset", None)) is None:
        return tree
    if base not in preset_names() or base == source:
        raise ConfigError(f"{source}: preset = {base!r:.300} is not one of {', '.join(preset_names())}")
    return _merged(_read(base), tree)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A preset with some of its values changed, section by section."""
    merged = base | changes
    for name, section in changes.items():
        if isinstance(section, dict) and isinstance(base.get(name), dict):
            merged[name] = base[name] | section
    return merged


def _override(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override!r} should read section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()  # a bare word is a string
    *sections, key = path.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override!r}: {section} is a value, not a section")
    tree[key] = value


def sentences(error: ValidationError, root: type[BaseModel] = Config) -> str:
    """All that pydantic complains of in a tree of settings, as a person would say it."""
    return "; ".join(_sentence(detail, root) for detail in error.errors())


def _sentence(detail: Mapping[str, Any], root: type[BaseModel]) -> str:
    """One complaint."""
    where = ".".join(str(part) for part in detail["loc"])
    what = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        named = ".".join(part for part in detail["loc"] if isinstance(part, str))
        guess = did_you_mean(named, settings(root))
        return f"{where} is not a setting{guess or '; `cfmimo schema` lists those of a config'}"
    value = detail["input"]
    shown = f" (got {value!r})" if isinstance(value, (int, float, str)) and len(str(value)) <= 60 else ""
    if detail["type"] == "literal_error" and isinstance(value, str):
        shown += did_you_mean(value, re.findall("'([^']*)'", detail["ctx"]["expected"]))
    return f"{where}: {what[:1].lower()}{what[1:]}{shown}" if where else what


def settings(section: type[BaseModel]) -> list[str]:
    """Dotted names of the settings of a section, and of the sections inside it."""
    names = []
    for name, field in section.model_fields.items():
        parts = [part for part in (field.annotation, *get_args(field.annotation)) if isinstance(part, type)]
        inside = [part for part in parts if issubclass(part, BaseModel)]
        names += [name, *(f"{name}.{inner}" for part in inside for inner in settings(part))]
    return names


def to_toml(config: Config) -> str:
    """The complete config as TOML, with what each setting means as a comment; `load` reads it back."""
    document = tomlkit.document()
    document.add("seed", tomlkit.item(config.seed))
    for name, section in config:
        if not isinstance(section, BaseModel):
            continue
        table = tomlkit.table()
        table.comment((type(section).__doc__ or "").splitlines()[0])
        for key, value in section:
            field = type(section).model_fields[key]
            item = tomlkit.item(list(value) if isinstance(value, tuple) else value)
            allowed = field.examples or get_args(field.annotation)
            values = " | ".join(f'"{name}"' for name in allowed if isinstance(name, str))
            comment = ": ".join(filter(None, (values, field.description)))
            if len(f"{key} = {item.as_string()} # {comment}") > _WIDTH:
                for line in wrap(comment, _WIDTH - len("# ")):
                    table.add(tomlkit.comment(line))
                comment = ""
            table.add(key, item.comment(comment) if comment else item)
        document.add(name, table)
    return tomlkit.dumps(document)
