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
    """TOML values as flags of `default`'s class. `algo = "skpo"` is short for `[algo] name = "skpo"`.

    Raises ConfigError for a key that no config knows, with the nearest that it does.
    """
    return list(_flags(values, default, path, ""))


def _flags(values: Mapping[str, Any], default: Any, path: Path, prefix: str) -> Iterator[str]:
    known = {f.name: getattr(default, f.name) for f in fields(default)}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            where = f"{path}, [{prefix.rstrip('.')}]" if prefix else f"{path}"
            raise ConfigError(f"{where}: {unknown_name('setting', key, known)}")
        if is_dataclass(known[name]):
            room = value if isinstance(value, Mapping) else {"name": value}
            yield from _flags(room, known[name], path, f"{prefix}{name}.")
        elif isinstance(value, Mapping):
            raise ConfigError(f"{path}: [{prefix}{name}] is a setting, not a room; write {name} = ...")
        elif isinstance(value, bool):
            flag = f"{prefix}{name}" if value else f"{prefix}no_{name}"
            yield f"--{flag.replace('_', '-')}"
        else:
            yield f"--{prefix}{name}".replace("_", "-")
            yield str(value)
