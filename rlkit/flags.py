"""Flags before the parser sees them: short forms written in full, every name known, every value of its type.

tyro makes the flags and their help from the dataclasses; what is wrong with them is told here, in one sentence.
"""

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rlkit.algo_presets import ALGO_CONFIGS
from rlkit.errors import ConfigError
from rlkit.toml import owners_of

POSITIONAL = ("file", "verifier", "subject", "subjects")
"""Settings of a command that are not flags: what stands without one."""


def flag_types(kind: type[Any], default: Any) -> dict[str, Any]:
    """Every flag of a command, written in full, with the type of its value; `--no-...` of a switch is left out.

    >>> from rlkit.config import TrainConfig
    >>> flag_types(TrainConfig, TrainConfig())["--learner.learning-rate"]
    float | None
    """
    hints = get_type_hints(kind)
    flags = {f.name: hints[f.name] for f in fields(kind) if f.name not in ("cfg", *POSITIONAL)}
    hints = get_type_hints(type(default))
    for f in fields(default):
        room = getattr(default, f.name)
        if is_dataclass(room):
            inner = get_type_hints(type(room))
            flags |= {f"{f.name}.{g.name}": inner[g.name] for g in fields(room)}
        else:
            flags[f.name] = hints[f.name]
    return {f"--{name.replace('_', '-')}": hint for name, hint in flags.items()}


def split_words(args: Sequence[str], known: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What stands without a flag, and the rest: flags (full ones) with their values.

    >>> split_words(["a.jsonl", "--by", "level", "--json"], {"--by": str, "--json": bool})
    (['a.jsonl'], ['--by', 'level', '--json'])
    """
    words: list[str] = []
    flags: list[str] = []
    rest = iter(args)
    for word in rest:
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        flags.append(word)
        flag = word.replace("_", "-")
        switch = known.get(flag, known.get(_positive(flag))) is bool or flag in ("-h", "--help")
        if not switch and "=" not in word:  # a flag that nobody knows has a value too: `checked` tells it
            flags += itertools.islice(rest, 1)
    return words, flags


def _positive(flag: str) -> str:
    """A switch without its no."""
    return flag.replace(".no-", ".").replace("--no-", "--")


def asks_help(args: Sequence[str]) -> bool:
    return "-h" in args or "--help" in args


def checked(args: Sequence[str], known: Mapping[str, Any], where: str) -> list[str]:
    """Full flags as `--flag=value`, each known and its value of the flag's type. Raises ConfigError that names `where`.

    >>> checked(["--steps", "3", "--data.no-shuffle"], {"--steps": int, "--data.shuffle": bool}, "rlkit train")
    ['--steps=3', '--data.no-shuffle']
    """
    out, words = [], iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if word in ("-h", "--help"):
            return ["--help"]
        positive = _positive(flag)
        if known.get(flag, known.get(positive)) is bool:
            if equals:
                raise ConfigError(f"{where}: {word}: a switch takes no value; {_switch(positive)}")
            out.append(flag)
            continue
        if flag not in known:
            raise ConfigError(f"{where}: {_unknown(word, flag, known, out)}")
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise ConfigError(f"{where}: {flag} has no value; expected {_expected(known[flag])}")
        if value == "none" and NoneType in get_args(known[flag]):
            value = "None"
        if not _fits(known[flag], value):
            raise ConfigError(f"{where}: {flag} {value!r}: expected {_expected(known[flag])}")
        out.append(f"{flag}={value}")
    return out


def _switch(flag: str) -> str:
    room, dot, name = flag.removeprefix("--").rpartition(".")
    return f"write {flag} or --{room}{dot}no-{name}"


def _unknown(word: str, flag: str, known: Mapping[str, Any], before: Sequence[str]) -> str:
    """The sentence for a word that is no flag."""
    if not word.startswith("-"):
        switch = next((f for f in reversed(before) if "=" not in f), None)
        hint = f"; {_switch(switch)}" if switch is not None and before[-1] == switch else ""
        return f"{word!r} is not a flag; every setting is written --name value{hint}"
    name = flag.removeprefix("--").replace("-", "_")
    rooms = [f for f in known if f.endswith(f".{flag.removeprefix('--')}")]
    if len(rooms) > 1:
        return f"{flag} is a setting of several rooms; did you mean {' or '.join(rooms)}?"
    owners = [algo for algo, config in ALGO_CONFIGS.items() if name.removeprefix("algo.") in _names(config)]
    if owners:
        return f"flag {flag} is a setting of --algo {', '.join(owners)}, which this run does not use"
    short = {f"--{f.rpartition('.')[2].removeprefix('--')}" for f in known}
    near = difflib.get_close_matches(flag, sorted(short | known.keys()), n=1, cutoff=0.75)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"flag {flag} is not known{hint} Add --help for all of them"


def _names(config: type[Any]) -> set[str]:
    return {f.name for f in fields(config)}


def _fits(hint: Any, text: str) -> bool:
    """Whether a value can be read as its flag's type."""
    if get_origin(hint) is Literal:
        return text in get_args(hint)
    kinds = get_args(hint) or (hint,)
    if NoneType in kinds and text == "None":
        return True
    for kind in (int, float):
        if kind in kinds:
            try:
                kind(text)
            except ValueError:
                return False
    return True


def _expected(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    words = {int: "a whole number", float: "a number", str: "a text", Path: "a path", NoneType: "none"}
    return " or ".join(words[kind] for kind in get_args(hint) or (hint,))


def expand(args: Sequence[str], default: Any) -> list[str]:
    """Short forms to full flags: `--algo skpo`, `--learning-rate 1e-4`.

    >>> from rlkit.config import TrainConfig
    >>> expand(["--algo", "skpo", "--learning-rate=1e-4", "--steps", "3"], TrainConfig())
    ['--algo.name', 'skpo', '--learner.learning-rate=1e-4', '--steps', '3']
    """
    own = {f.name for f in fields(default)} | {"config", "resume", "allow_changes", "dry_run", "json"}
    owners = owners_of(default)
    out = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        name = flag.removeprefix("--").replace("-", "_") if flag.startswith("--") else ""
        bare = name.removeprefix("no_")
        if is_dataclass(getattr(default, name, None)):
            flag = f"--{flag.removeprefix('--')}.name"
        elif bare not in own and len(owners.get(bare, [])) == 1:
            flag = f"--{owners[bare][0]}.{flag.removeprefix('--')}"
        out.append(f"{flag}{equals}{value}")
    return out
