"""Where the settings of a command come from: flags over a TOML file over defaults, or over what a run folder holds."""

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from rlkit.config import TrainConfig
from rlkit.errors import RunError
from rlkit.flags import POSITIONAL, checked, expand, flag_types
from rlkit.toml import load_toml, to_flags

from .args import TrainArgs

if TYPE_CHECKING:
    from rich.console import Console


def parse(
    kind: type[Any], default: Any, args: Sequence[str], prog: str, words: Sequence[str] = ("FILE",)
) -> Any:
    """Flags over a TOML file over `default`. Raises ConfigError for a flag, a key or a value that cannot be meant.

    words: what stands without a flag, for a command that has such
    """
    known = flag_types(kind, default)
    path = value_of("--config", args)
    flags = checked(expand(args, default), known, prog.removeprefix("rlkit "))
    if path is not None:
        flags = [*checked(to_flags(load_toml(Path(path)), default, Path(path)), known, path), *flags]
    bare = {f.name: tyro.MISSING for f in fields(kind) if f.name in POSITIONAL}
    return tyro.cli(
        kind, default=kind(cfg=default, **bare), args=[*(words if bare else ()), *flags], prog=prog
    )


def with_algo(default: TrainConfig, args: Sequence[str]) -> TrainConfig:
    """The default config with the algorithm that the flags or the TOML file name: its class decides which flags there are."""
    name = value_of("--algo", args) or value_of("--algo.name", args)
    path = value_of("--config", args)
    if name is None and path is not None:
        algo = load_toml(Path(path)).get("algo", {})
        name = algo if isinstance(algo, str) else algo.get("name") if isinstance(algo, dict) else None
    if name is None:
        return default
    from rlkit.build import algo_config

    return replace(default, algo=algo_config(str(name)))


def value_of(flag: str, args: Sequence[str]) -> str | None:
    """The last value given for a flag, as `--flag value` or `--flag=value`."""
    found = None
    for i, arg in enumerate(args):
        if arg == flag and i + 1 < len(args):
            found = args[i + 1]
        elif arg.startswith(f"{flag}="):
            found = arg.partition("=")[2]
    return found


def settings_in(path: Path) -> TrainConfig:
    """Of a run, in its config.toml."""
    kept = ["--config", str(path)]
    cfg: TrainConfig = parse(TrainArgs, with_algo(TrainConfig(), kept), kept, "rlkit train").cfg
    return cfg


def resumed(name: str, args: Sequence[str], console: "Console") -> TrainArgs:
    """The run's settings with flags over them, held against those of its newest checkpoint: its config.toml may have been edited."""
    from rlkit.commands.resume import changes, find_run, require_same_maths, show_changes

    run = find_run(name)
    now = settings_in(_config_of(run))
    parsed: TrainArgs = parse(TrainArgs, now, args, "rlkit train")
    from rlkit.checkpoint import config_of

    saved = config_of(run / "checkpoints")
    found = changes(now if saved is None else settings_in(saved), parsed.cfg)
    if os.environ.get("RANK", "0") == "0":
        show_changes(found, console)
    require_same_maths(found, parsed.allow_changes)
    return replace(parsed, resume=run)


def _config_of(run: Path) -> Path:
    """The config.toml of a run folder."""
    if (run / "rlkit" / "state.json").is_file():
        raise RunError(f"--resume {run}: a checkpoint; pass the run folder it lies in, {run.parent.parent}")
    if not run.is_dir():
        raise RunError(
            f"--resume {run}: no such folder (looked from {Path.cwd()}); expected a run folder, as runs/NAME"
        )
    if not (run / "config.toml").is_file():
        raise RunError(
            f"--resume {run}: not a run folder, since it has no config.toml; expected a folder that a run wrote"
        )
    return run / "config.toml"
