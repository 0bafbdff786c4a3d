"""rlkit train | eval | sft | tasks | algos: arguments -> config -> one call.

Every field of a config is a flag: `--learner.learning-rate 1e-4`. Two shorthands, also in TOML: the name of a room alone
(`--algo skpo` is `--algo.name skpo`), and a setting that only one room has (`--learning-rate 1e-4`).
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rlkit import __version__
from rlkit.config import EvalConfig, SftConfig, TrainConfig
from rlkit.errors import ConfigError, RlkitError, RunError, unknown_name

if TYPE_CHECKING:
    from rich.console import Console

COMMANDS = {
    "train": "reinforcement learning on verifiable rewards (--dry-run shows the plan)",
    "eval": "score a model on held-out prompts, with an interval",
    "sft": "warm-start a model on demonstrations",
    "tasks": "list the procedural tasks",
    "algos": "list the algorithms",
}
SHORT = (
    "Short forms, here and in TOML: `--algo skpo` for `--algo.name skpo`, and `--learning-rate 1e-4` for a setting that only "
    "one room has. `rlkit train --algo skpo --help` shows that algorithm's own settings."
)


@dataclass(frozen=True, kw_only=True)
class TrainArgs:
    __doc__ = f"Train a model by reinforcement learning on verifiable rewards.\n\n{SHORT}"

    cfg: Annotated[TrainConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TrainConfig)
    config: Path | None = None
    """A TOML file with settings; flags overrule it. The config.toml of a run folder is one."""
    resume: Path | None = None
    """Continue the run in this folder, bit for bit as if it had never stopped."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show the plan (batch, memory, disk, data, a prompt, a scored gold answer) and end before any weight loads."""


@dataclass(frozen=True, kw_only=True)
class EvalArgs:
    __doc__ = f"Score a model on held-out prompts: pass@1 with its 95 % interval.\n\n{SHORT}"

    cfg: Annotated[EvalConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=EvalConfig)
    config: Path | None = None
    """A TOML file with settings; flags overrule it."""


@dataclass(frozen=True, kw_only=True)
class SftArgs:
    __doc__ = f"Warm-start a model by imitating demonstrations.\n\n{SHORT}"

    cfg: Annotated[SftConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=SftConfig)
    config: Path | None = None
    """A TOML file with settings; flags overrule it."""


def main(argv: Sequence[str] | None = None) -> int:
    """The `rlkit` command. Errors that are the user's to mend end in one sentence and exit code 2, 3 or 130."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(args)
    except RlkitError as error:
        print(f"rlkit: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("rlkit: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        return 0


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if args[0] in ("-V", "--version"):
        print(f"rlkit {__version__}")
        return 0
    command, rest = args[0], args[1:]
    if command not in COMMANDS:
        raise ConfigError(f"{unknown_name('command', command, COMMANDS)}; see `rlkit --help`")
    if command == "train":
        return _train(rest)
    if command == "eval":
        from rlkit import commands

        parsed = parse(EvalArgs, EvalConfig(), rest, "rlkit eval")
        return commands.evaluate(parsed.cfg, _console())
    if command == "sft":
        from rlkit import commands

        return commands.sft(parse(SftArgs, SftConfig(), rest, "rlkit sft").cfg, _console())
    if rest and rest[0] not in ("-h", "--help"):
        raise ConfigError(f"rlkit {command} takes no arguments, but got {' '.join(rest)}")
    from rlkit import commands

    return commands.tasks() if command == "tasks" else commands.algos()


def _train(args: list[str]) -> int:
    resume = _value_of("--resume", args)
    if resume is None:
        parsed = parse(TrainArgs, _start(TrainConfig(), args), args, "rlkit train")
    else:
        path = Path(resume) / "config.toml"
        if not path.is_file():
            raise RunError(f"--resume {resume}: not a run folder (it has no config.toml)")
        kept = ["--config", str(path)]
        before = parse(TrainArgs, _start(TrainConfig(), kept), kept, "rlkit train").cfg
        parsed = parse(TrainArgs, before, args, "rlkit train")
        _require_same(before, parsed.cfg)
    from rlkit import commands

    return commands.train(parsed.cfg, _console(), resume=parsed.resume, dry_run=parsed.dry_run)


def _start(default: TrainConfig, args: Sequence[str]) -> TrainConfig:
    """The default config of the algorithm that the flags or the TOML file name: its class decides which flags there are."""
    name = _value_of("--algo", args) or _value_of("--algo.name", args)
    path = _value_of("--config", args)
    if name is None and path is not None:
        from rlkit.toml import load_toml

        algo = load_toml(Path(path)).get("algo", {})
        name = algo if isinstance(algo, str) else algo.get("name") if isinstance(algo, dict) else None
    if name is None:
        return default
    from rlkit.build import algo_config

    return replace(default, algo=algo_config(str(name)))


def parse(kind: type[Any], default: Any, args: Sequence[str], prog: str) -> Any:
    """Flags over a TOML file over `default`. tyro ends the process itself (exit code 2) on a flag it does not know."""
    path = _value_of("--config", args)
    if path is not None:
        from rlkit.toml import load_toml, to_flags

        flags = to_flags(load_toml(Path(path)), default, Path(path))
        default = _tyro(kind, default, flags, f"{path}:").cfg
    return _tyro(kind, default, expand(args, default), prog)


def _tyro(kind: type[Any], default: Any, flags: Sequence[str], prog: str) -> Any:
    return tyro.cli(kind, default=kind(cfg=default), args=list(flags), prog=prog)


def expand(args: Sequence[str], default: Any) -> list[str]:
    """Short forms to full flags: `--algo skpo`, `--learning-rate 1e-4`.

    >>> expand(["--algo", "skpo", "--learning-rate=1e-4", "--steps", "3"], TrainConfig())
    ['--algo.name', 'skpo', '--learner.learning-rate=1e-4', '--steps', '3']
    """
    rooms = {
        f.name: getattr(default, f.name) for f in fields(default) if is_dataclass(getattr(default, f.name))
    }
    own = {f.name for f in fields(default)} | {"config", "resume", "dry_run"}
    owners: dict[str, list[str]] = {}
    for room, value in rooms.items():
        for f in fields(value):
            owners.setdefault(f.name, []).append(room)
    out = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        name = flag.removeprefix("--").replace("-", "_") if flag.startswith("--") else ""
        bare = name.removeprefix("no_")
        if name in rooms:
            flag = f"--{flag.removeprefix('--')}.name"
        elif bare not in own and len(owners.get(bare, [])) == 1:
            flag = f"--{owners[bare][0]}.{flag.removeprefix('--')}"
        out.append(f"{flag}{equals}{value}")
    return out


def _value_of(flag: str, args: Sequence[str]) -> str | None:
    """The last value given for a flag, as `--flag value` or `--flag=value`."""
    found = None
    for i, arg in enumerate(args):
        if arg == flag and i + 1 < len(args):
            found = args[i + 1]
        elif arg.startswith(f"{flag}="):
            found = arg.partition("=")[2]
    return found


MAY_CHANGE = ("steps", "token_budget", "log", "output_dir")
"""What a resumed run may do differently without being another run."""


def _require_same(before: TrainConfig, after: TrainConfig) -> None:
    changed = [
        f.name
        for f in fields(TrainConfig)
        if f.name not in MAY_CHANGE and getattr(before, f.name) != getattr(after, f.name)
    ]
    if changed:
        raise ConfigError(
            f"--resume: {', '.join(changed)} would differ from the run that is continued; only {', '.join(MAY_CHANGE)} may. "
            "Start a new run for other settings"
        )


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {words}" for name, words in COMMANDS.items()]
    return "\n".join(
        [
            "rlkit: RL post-training of language models on verifiable rewards",
            "",
            *lines,
            "",
            "rlkit COMMAND --help     every setting, with its meaning and default",
            "rlkit --version",
            "",
            "Try, without a GPU:      rlkit train --algo skpo --model tiny --data task:chain --steps 60",
            "The real thing:          rlkit train --algo skpo --model Qwen2.5-Math-7B --data train.jsonl --reward math",
        ]
    )
