"""The one import by string: the user's own `file.py:attr` or `pkg.mod:attr`."""

import difflib
import importlib
import sys
import traceback
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
        module = _import(module_name, module_name, flag, name)
    if not hasattr(module, attr):
        public = [
            n for n, v in vars(module).items() if not n.startswith("_") and not isinstance(v, ModuleType)
        ]
        near = difflib.get_close_matches(attr, public, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
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
    importlib.invalidate_caches()  # the file may be younger than what was seen of its folder
    return _import(path.stem, str(path), flag, name)


def _import(module: str, shown: str, flag: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{flag} {name}: cannot import {shown} ({error})") from error
    except (
        Exception,
        SystemExit,
    ) as error:  # user code may raise anything; say whose it is and keep the cause
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ConfigError(f"{flag} {name}: importing {shown} failed: {what}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """` at file:line`, where the imported code raised; nothing for a SyntaxError, which tells its own."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    if isinstance(error, SyntaxError) or len(frames) < 3:  # this file and importlib's own
        return ""
    return f" at {frames[-1].filename}:{frames[-1].lineno}"
