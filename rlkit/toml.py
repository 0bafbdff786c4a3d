"""Configs <-> TOML. A file is turned into flags and read by the same parser, so there is one truth for names and types."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from rlkit.errors import ConfigError, unknown_name


def to_toml(config: Any) -> dict[str, Any]:
    """A config dataclass as TOML values. None is left out where it is the default, and the word "None" elsewhere."""
    out: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            out[f.name] = to_toml(value)
        elif value is not None:
            out[f.name] = value
        elif f.default is not None and f.default is not MISSING:
            out[f.name] = "None"
    return out


def load_toml(path: Path) -> dict[str, Any]:
    """Raises ConfigError with the place of the fault."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"--config {path}: no such file (looked from {Path.cwd()})") from error
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not TOML ({error})") from error


def to_flags(values: Mapping[str, Any], default: Any, path: Path) -> list[str]:
    """TOML values as flags of `default`'s class. `algo = "skpo"` is short for `[algo] name = "skpo"`, and a setting that
    only one room has may stand outside of it.

    Raises ConfigError for a key that no config knows, with the nearest that it does.
    """
    return list(_flags(values, default, path, ""))


def owners_of(default: Any) -> dict[str, list[str]]:
    """The rooms of a config that have a setting of some name.

    >>> from rlkit.config import TrainConfig
    >>> owners_of(TrainConfig())["learning_rate"]
    ['learner']
    """
    owners: dict[str, list[str]] = {}
    for f in fields(default):
        room = getattr(default, f.name)
        for inner in fields(room) if is_dataclass(room) else ():
            owners.setdefault(inner.name, []).append(f.name)
    return owners


def _flags(values: Mapping[str, Any], default: Any, path: Path, prefix: str) -> Iterator[str]:
    known = {f.name: getattr(default, f.name) for f in fields(default)}
    owners = owners_of(default)
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known and len(owners.get(name, [])) == 1:
            room = owners[name][0]
            yield from _flags({name: value}, known[room], path, f"{room}.")
            continue
        if name not in known:
            where = f"{path}, [{prefix.rstrip('.')}]" if prefix else f"{path}"
            raise ConfigError(f"{where}: {unknown_name('setting', key, known)}")
        if is_dataclass(known[name]):
            inner = value if isinstance(value, Mapping) else {"name": value}
            yield from _flags(inner, known[name], path, f"{prefix}{name}.")
        else:
            yield _flag(f"{prefix}{name}", value, known[name], path)


def _flag(name: str, value: Any, known: Any, path: Path) -> str:
    """One setting as a flag; text, numbers and switches only."""
    if isinstance(known, bool) != isinstance(value, bool) or not isinstance(value, str | int | float):
        expected = "true or false" if isinstance(known, bool) else "a text or a number"
        raise ConfigError(f"{path}: {name} = {value!r}: expected {expected}")
    room, dot, last = name.replace("_", "-").rpartition(".")
    if isinstance(value, bool):
        return f"--{room}{dot}{'' if value else 'no-'}{last}"
    return f"--{room}{dot}{last}={value}"
