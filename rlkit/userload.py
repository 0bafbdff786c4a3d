"""The one import by string: the user's own `file.py:attr` or `pkg.mod:attr`."""

import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from rlkit.errors import ConfigError


def is_user_object(name: str) -> bool:
    """Whether a name reads as `file.py:attr` or `pkg.mod:attr` (and not as `task:chain` or a path on Windows)."""
    module, colon, attr = name.rpartition(":")
    return bool(colon) and attr.isidentifier() and (module.endswith(".py") or "." in module)


def load_user_object(name: str, flag: str) -> object:
    """The object behind `file.py:attr` or `pkg.mod:attr`; `flag` is named in errors.

    A file is loaded under a module name made from its stem, and stays importable in worker processes started by fork
    or by this process's path. Raises ConfigError that says which file, and what it does define.
    """
    module_name, _, attr = name.rpartition(":")
    if module_name.endswith(".py"):
        module = _load_file(Path(module_name), flag, name)
    else:
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ConfigError(f"{flag} {name}: cannot import {module_name} ({error})") from error
    if not hasattr(module, attr):
        public = [n for n in vars(module) if not n.startswith("_")]
        near = difflib.get_close_matches(attr, public, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"{flag} {name}: {module_name} has no {attr!r}{hint} It defines: {', '.join(public) or 'nothing'}"
        )
    return getattr(module, attr)


def _load_file(path: Path, flag: str, name: str) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{flag} {name}: no file {path} (looked from {Path.cwd()})")
    # Pickle finds a class by its module's name, so the module must be importable by that name in a worker process.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) != str(path.resolve()):
        raise ConfigError(
            f"{flag} {name}: a module named {path.stem!r} is loaded already; rename {path.name}"
        )
    try:
        return importlib.import_module(path.stem)
    except Exception as error:  # user code may raise anything; say whose it is and keep the cause
        raise ConfigError(f"{flag} {name}: running {path} failed: {type(error).__name__}: {error}") from error
