"""rlkit train | eval | score | rewards | sft | serve | doctor | dash | replay | env | simulate | analyze | tasks | algos: arguments -> config -> one call.

Every field of a config is a flag: `--learner.learning-rate 1e-4`. Two shorthands, also in TOML: the name of a room alone
(`--algo skpo` is `--algo.name skpo`), and a setting that only one room has (`--learning-rate 1e-4`).
"""

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import tyro

from rlkit import __version__
from rlkit.config import EvalConfig, SftConfig, TrainConfig
from rlkit.errors import DISK_FULL_ERRORS, ConfigError, RlkitError, RunError, unknown_name
from rlkit.flags import POSITIONAL, asks_help, checked, expand, flag_types, split_words
from rlkit.score_config import CheckConfig, ScoreConfig
from rlkit.serve_config import ServeConfig
from rlkit.signals import quiet_threads, sigterm_as_ctrl_c
from rlkit.simulate_config import SimulateConfig
from rlkit.toml import load_toml, to_flags

if TYPE_CHECKING:
    from rich.console import Console

COMMANDS = {
    "train": "reinforcement learning on verifiable rewards (--dry-run shows the plan)",
    "eval": "score a model on held-out prompts, with an interval",
    "score": "score completions in a file with any --reward",
    "rewards": "list the verifiers, explain one, check one on a data set's gold answers",
    "sft": "warm-start a model on demonstrations",
    "serve": "start vLLM servers that `train --sampler vllm-server` uses",
    "doctor": "say in words what is wrong with a run",
    "replay": "repeat an update that was skipped, and say where its first bad value appears",
    "env": "what this machine has, for a bug report: versions, devices, extras, a self-test",
    "dash": "look at runs in a browser, live, or write them as one page",
    "simulate": "watch an algorithm move the probability of a few actions",
    "analyze": "study a model's credit: mc-credit, skip, implicit",
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
    """Continue the run in this folder (latest: the last of runs/), bit for bit as if it had never stopped: docs/resume.md."""
    allow_changes: bool = False
    """With --resume: go on although changed settings make it another run."""
    dry_run: bool = False
    """Show the plan (batch, memory, disk, data, a prompt, a scored gold answer) and end before any weight loads."""


@dataclass(frozen=True, kw_only=True)
class EvalArgs:
    __doc__ = (
        "Score a model on held-out prompts: pass@k, avg@k and maj@k with 95 % intervals, alone or against another model.\n\n"
        f"{SHORT}"
    )

    cfg: Annotated[EvalConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=EvalConfig)
    config: Path | None = None
    """A TOML file with settings; flags overrule it."""
    json: bool = False
    """Print everything as JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class SftArgs:
    __doc__ = f"Warm-start a model by imitating demonstrations.\n\n{SHORT}"

    cfg: Annotated[SftConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=SftConfig)
    config: Path | None = None
    """A TOML file with settings; flags overrule it."""


@dataclass(frozen=True, kw_only=True)
class ServeArgs:
    """Start vLLM servers for `rlkit train --sampler vllm-server --sampler.urls ...`, and start again those that end.

    $ rlkit serve --model Qwen2.5-Math-7B --replicas 4 --gpus 4,5,6,7
    $ rlkit serve --model Qwen2.5-Math-7B --host 10.0.0.7 --announce /shared/servers.jsonl

    They listen on loopback and ask for a key on every path, since their routes can replace weights and run code. docs/scaling.md.
    """

    cfg: Annotated[ServeConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ServeConfig)
    config: Path | None = None
    """A TOML file with settings; flags overrule it."""


@dataclass(frozen=True, kw_only=True)
class ScoreArgs:
    """Score the completions in a file with any --reward, and say what the verdicts come to.

    FILE is jsonl, jsonl.gz, csv, parquet or json, a folder of them, a run folder (its rollouts are judged anew), or - for JSON
    lines on stdin. Its columns are recognised by name and shown; --completion, --gold and --prompt name others.

    $ rlkit score outputs.jsonl --reward math
    $ rlkit score outputs.parquet --reward "math+0.1*format" --gold solution --out verdicts.parquet --by dataset
    $ rlkit score graded.jsonl.gz --reward math --label correct --out verdicts.jsonl
    $ rlkit score runs/NAME --reward exact
    $ zcat outputs.jsonl.gz | rlkit score - --reward math --out - --limit 100 | jq .reason

    With --out a verdict for each completion is written (value, outcome, reason, parts, beside the file's columns), and a command
    that was stopped, even by kill -9, goes on when it is given again.

    Exit code 0; 1: more errors than --reward.max-error-share, or nothing could be judged; 2: an input that cannot be used.
    """

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    """What holds the completions."""
    cfg: Annotated[ScoreConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ScoreConfig)
    config: Path | None = None
    """A TOML file with settings; flags overrule it."""
    json: bool = False
    """Print the summary as JSON."""


@dataclass(frozen=True, kw_only=True)
class CheckArgs:
    """Check that a verifier reads a data set's gold answers: each must be right by itself, and not right for another row.

    $ rlkit rewards check math --data train.jsonl
    $ rlkit rewards check "math+0.1*format" --data train.parquet --gold solution --out findings.jsonl
    $ rlkit rewards check auto --data task:chain

    A gold answer that fails would count right answers as wrong in training. One that is right for another row is only suspicious:
    it may be the same answer in other words, or the verifier accepts too much.

    Exit code 0; 1: more gold answers than --max-failures are not right, or missing; 2: an input that cannot be used.
    """

    verifier: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="REWARD")]
    """What --reward would name."""
    cfg: Annotated[CheckConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=CheckConfig)
    json: bool = False
    """Print the result as JSON."""


REWARDS_HELP = """usage: rlkit rewards [NAME | check REWARD --data DATA]

The verifiers that --reward knows.

rlkit rewards                                     all of them, a line each
rlkit rewards math                                one explained: options, range, examples
rlkit rewards check math --data train.jsonl       does it read the gold answers? (--help for its settings)"""


@dataclass(frozen=True, kw_only=True)
class DoctorArgs:
    """Say in words what is wrong with a run: what is so, why it is likely so, and what to try.

    It reads the folder of a run that is finished, crashed or still going.

    Exit code 0: nothing, warnings or hints; 1: something serious (the run does not learn, or learns something wrong);
    2: the folder is no run. docs/diagnosis.md has every check with its thresholds.
    """

    run: tyro.conf.Positional[Path]
    """The run folder, as runs/NAME."""
    json: bool = False
    """Print the findings as JSON."""


@dataclass(frozen=True, kw_only=True)
class ReplayArgs:
    """Repeat an update that was skipped, since its loss or gradient was not finite, and say where the first bad value appears:
    in which rollout, at which token, in which layer.

    Exit code 0: repeated; 1: here loss and gradient are finite; 2: the folder is no dump.
    """

    dump: tyro.conf.Positional[Path]
    """The dump, as runs/NAME/bad_updates/update-000014. Its config.toml may name code of yours, which is run."""
    json: bool = False
    """Print everything as JSON."""


@dataclass(frozen=True, kw_only=True)
class EnvArgs:
    """What a bug report needs: versions, devices, memory, extras and what each would enable, known bad pairs, and a self-test.

    Exit code 0; 1: a part of the self-test failed, or two packages that are here do not work together. Secrets are never printed.
    """

    self_test: bool = True
    """Try it, in some 20 seconds: a training step, a verdict, a sandboxed program, vLLM's import."""
    json: bool = False
    """Print everything as JSON."""


@dataclass(frozen=True, kw_only=True)
class DashArgs:
    """Look at runs in a browser: diagnosis in words, where probability goes, token by token, pass@k, the answers, timing.

    RUNS are run folders, folders of `rlkit eval`, or folders of them; none: `runs`. The page is live while a run writes.

    $ rlkit dash runs/NAME
    $ rlkit dash runs evals
    $ rlkit dash runs/a runs/b --export page.html

    Only this machine can open the page. With another --host the address that is printed holds a token, and nobody gets in without
    it; the variable RLKIT_DASH_TOKEN sets one of your own. docs/dashboard.md shows the page.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Run folders, or folders of them."""
    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 8050
    """0: any that is free."""
    export: Path | None = None
    """Write one self-contained file (.html) and end."""


DOCTOR_FLAGS = {"--json": bool}
ENV_FLAGS = {"--json": bool, "--self-test": bool}
DASH_FLAGS = {"--host": str, "--port": int, "--export": Path}
SIMULATE_FLAGS = {
    f"--{f.name.replace('_', '-')}": get_type_hints(SimulateConfig)[f.name] for f in fields(SimulateConfig)
}


def main(argv: Sequence[str] | None = None) -> int:
    """The `rlkit` command. Errors that are the user's to mend end in one sentence and exit code 2, 3 or 130."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        with sigterm_as_ctrl_c(), quiet_threads():
            code = _dispatch(args)
        if sys.stdout is not None:  # None: started with it closed
            sys.stdout.flush()  # here, so that a reader that left is met below and not at the interpreter's end
        return code
    except RlkitError as error:
        from rlkit.printable import printable

        # The same words came to every rank; what did not was told by rlkit.ranks.
        if os.environ.get("RANK", "0") == "0":
            print(f"rlkit: {printable(' '.join(str(error).splitlines()))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("rlkit: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        _drop_stdout()
        return 0
    except OSError as error:
        if error.errno not in DISK_FULL_ERRORS:
            raise
        _drop_stdout()
        print(
            f"rlkit: {error.filename or 'output'}: cannot be written ({error.strerror}); make room",
            file=sys.stderr,
        )
        return RlkitError.exit_code


def _drop_stdout() -> None:
    """What is still in its buffer would be written once more at the interpreter's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        from rlkit.commands.evaluate import evaluate

        parsed = parse(EvalArgs, EvalConfig(), rest, "rlkit eval")
        return evaluate(parsed.cfg, _console(), as_json=parsed.json)
    if command == "sft":
        from rlkit.commands.sft import sft

        return sft(parse(SftArgs, SftConfig(), rest, "rlkit sft").cfg, _console())
    if command == "serve":
        from rlkit.commands.serve import serve

        return serve(parse(ServeArgs, ServeConfig(), rest, "rlkit serve").cfg, _console())
    if command == "doctor":
        return _doctor(rest)
    if command == "replay":
        return _replay(rest)
    if command == "env":
        parsed = tyro.cli(EnvArgs, args=checked(rest, ENV_FLAGS, "env"), prog="rlkit env")
        from rlkit.commands.env import env

        return env(self_test=parsed.self_test, as_json=parsed.json)
    if command == "dash":
        return _dash(rest)
    if command == "simulate":
        return _simulate(rest)
    if command == "analyze":
        return _analyze(rest)
    if command == "score":
        return _score(rest)
    if command == "rewards":
        return _rewards(rest)
    if rest and rest[0] not in ("-h", "--help"):
        raise ConfigError(f"rlkit {command} takes no arguments, but got {' '.join(rest)}")
    from rlkit.commands import lists

    return lists.tasks() if command == "tasks" else lists.algos()


def _doctor(args: list[str]) -> int:
    flags = checked([arg for arg in args if arg.startswith("-")], DOCTOR_FLAGS, "doctor")
    runs = [arg for arg in args if not arg.startswith("-")]
    if flags != ["--help"] and len(runs) != 1:
        raise ConfigError(
            f"rlkit doctor takes one run folder, as runs/NAME, but got {' '.join(runs) or 'none'}"
        )
    parsed = tyro.cli(DoctorArgs, args=[*runs, *flags], prog="rlkit doctor")
    from rlkit.examine import examine

    return examine(parsed.run, as_json=parsed.json)


def _replay(args: list[str]) -> int:
    words, flags = split_words(args, DOCTOR_FLAGS)
    flags = checked(flags, DOCTOR_FLAGS, "replay")
    if flags != ["--help"] and len(words) != 1:
        raise ConfigError(
            f"rlkit replay takes one dump, as runs/NAME/bad_updates/update-000014, but got {' '.join(words) or 'none'}"
        )
    parsed = tyro.cli(ReplayArgs, args=[*words, *flags], prog="rlkit replay")
    from rlkit.commands.replay import replay

    path = parsed.dump / "config.toml"
    if not path.is_file():
        raise RunError(
            f"{parsed.dump}: not a dump, since it has no config.toml; expected a folder in runs/NAME/bad_updates"
        )
    kept = ["--config", str(path)]
    run = parse(TrainArgs, _start(TrainConfig(), kept), kept, "rlkit train").cfg
    return replay(parsed.dump, run, _console(), as_json=parsed.json)


def _dash(args: list[str]) -> int:
    words, rest = split_words(args, DASH_FLAGS)
    flags = checked(rest, DASH_FLAGS, "dash")
    parsed = tyro.cli(DashArgs, args=[*words, *flags], prog="rlkit dash")
    if not 0 <= parsed.port < 1 << 16:
        raise ConfigError(f"rlkit dash: --port {parsed.port}: expected 0 to 65535")
    from rlkit.commands.dash import dash
    from rlkit.examine import cases_of

    return dash(parsed.runs, host=parsed.host, port=parsed.port, export=parsed.export, examine=cases_of)


def _simulate(args: list[str]) -> int:
    words = checked(args, SIMULATE_FLAGS, "simulate")
    names = [word.removeprefix("--algo=") for word in words if word.startswith("--algo=")]
    if len(names) > 1:  # given several times: all of them
        words = [word for word in words if not word.startswith("--algo=")] + [f"--algo={','.join(names)}"]
    cfg = tyro.cli(SimulateConfig, args=words, prog="rlkit simulate")
    from rlkit.simulate import simulate

    return simulate(cfg, _console())


def study_args(args: Sequence[str]) -> tuple[str, Any]:
    """The study's name, and everything about it. Settings that nobody names are those of the subject's run, if it has one."""
    from rlkit.analyze_args import STUDIES

    name, *rest = args
    if name not in STUDIES:
        raise ConfigError(f"{unknown_name('study', name, STUDIES)}; see `rlkit analyze --help`")
    kind, default = STUDIES[name]
    words, flags = split_words(expand(rest, default), flag_types(kind, default))
    if asks_help(rest):
        return name, parse(kind, default, ["--help"], f"rlkit analyze {name}", words or ["tiny"])
    from rlkit.commands.analyze import small, subjects, with_run

    found = subjects(name, words)
    run = None
    if found[0][1] is not None:
        kept = ["--config", str(found[0][1] / "config.toml")]
        run = parse(TrainArgs, _start(TrainConfig(), kept), kept, "rlkit train").cfg
    if "--small" in flags:
        default = small(default)
    default = with_run(default, found[0][0], run)
    models = [model for model, _ in found]
    return name, parse(kind, default, flags, f"rlkit analyze {name}", models)


def _analyze(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        from rlkit.analyze_args import ANALYZE_HELP

        print(ANALYZE_HELP)
        return 0
    name, parsed = study_args(args)
    from rlkit.commands.analyze import analyze

    return analyze(name, parsed, _console())


def score_args(args: Sequence[str]) -> ScoreArgs:
    default = ScoreConfig()
    words, flags = split_words(expand(args, default), flag_types(ScoreArgs, default))
    if not asks_help(args) and len(words) != 1:
        raise ConfigError(
            f"rlkit score takes one file or folder of completions, or - for stdin, but got {' '.join(words) or 'none'}"
        )
    parsed: ScoreArgs = parse(ScoreArgs, default, flags, "rlkit score", words)
    return parsed


def _score(args: list[str]) -> int:
    parsed = score_args(args)
    from rlkit.commands.score import run_folder, score

    folder = run_folder(parsed.file)
    kept = [] if folder is None else ["--config", str(folder / "config.toml")]
    run = parse(TrainArgs, _start(TrainConfig(), kept), kept, "rlkit train").cfg if kept else None
    command = shlex.join(["rlkit", "score", *args])
    return score(parsed.cfg, parsed.file, _console(), run=run, as_json=parsed.json, command=command)


def _rewards(args: list[str]) -> int:
    if args[:1] == ["check"]:
        checked_args = check_args(args[1:])
        from rlkit.commands.rewards import check

        return check(checked_args.verifier, checked_args.cfg, _console(), as_json=checked_args.json)
    if asks_help(args):
        print(REWARDS_HELP)
        return 0
    if len(args) > 1 or args[:1] and args[0].startswith("-"):
        raise ConfigError(
            f"rlkit rewards takes nothing, a NAME, or `check REWARD --data DATA`, but got {' '.join(args)}"
        )
    from rlkit.commands.rewards import explain_reward, list_rewards

    return explain_reward(args[0]) if args else list_rewards()


def check_args(args: Sequence[str]) -> CheckArgs:
    default = CheckConfig()
    words, flags = split_words(args, flag_types(CheckArgs, default))
    if not asks_help(args) and len(words) != 1:
        raise ConfigError(
            f"rlkit rewards check takes one reward, as math or math+0.1*format, but got {' '.join(words) or 'none'}"
        )
    parsed: CheckArgs = parse(CheckArgs, default, flags, "rlkit rewards check", words)
    if not parsed.cfg.data:
        raise ConfigError("rlkit rewards check: which gold answers? Name the data with --data train.jsonl")
    return parsed


def _train(args: list[str]) -> int:
    resume = _value_of("--resume", args)
    if resume is None:
        parsed = parse(TrainArgs, _start(TrainConfig(), args), args, "rlkit train")
    else:
        parsed = _resumed(resume, args)
    from rlkit.commands.train import train

    return train(parsed.cfg, _console(), resume=parsed.resume, dry_run=parsed.dry_run)


def _resumed(name: str, args: Sequence[str]) -> TrainArgs:
    """The run's settings with flags over them, held against those of its newest checkpoint: its config.toml may have been edited."""
    from rlkit.commands.resume import changes, find_run, require_same_maths, show_changes

    run = find_run(name)
    now = _settings_in(_config_of(run))
    parsed: TrainArgs = parse(TrainArgs, now, args, "rlkit train")
    from rlkit.checkpoint import config_of

    saved = config_of(run / "checkpoints")
    found = changes(now if saved is None else _settings_in(saved), parsed.cfg)
    if os.environ.get("RANK", "0") == "0":
        show_changes(found, _console())
    require_same_maths(found, parsed.allow_changes)
    return replace(parsed, resume=run)


def _settings_in(path: Path) -> TrainConfig:
    kept = ["--config", str(path)]
    cfg: TrainConfig = parse(TrainArgs, _start(TrainConfig(), kept), kept, "rlkit train").cfg
    return cfg


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


def _start(default: TrainConfig, args: Sequence[str]) -> TrainConfig:
    """The default config of the algorithm that the flags or the TOML file name: its class decides which flags there are."""
    name = _value_of("--algo", args) or _value_of("--algo.name", args)
    path = _value_of("--config", args)
    if name is None and path is not None:
        algo = load_toml(Path(path)).get("algo", {})
        name = algo if isinstance(algo, str) else algo.get("name") if isinstance(algo, dict) else None
    if name is None:
        return default
    from rlkit.build import algo_config

    return replace(default, algo=algo_config(str(name)))


def parse(
    kind: type[Any], default: Any, args: Sequence[str], prog: str, words: Sequence[str] = ("FILE",)
) -> Any:
    """Flags over a TOML file over `default`. Raises ConfigError for a flag, a key or a value that cannot be meant.

    words: what stands without a flag, for a command that has such
    """
    known = flag_types(kind, default)
    path = _value_of("--config", args)
    flags = checked(expand(args, default), known, prog.removeprefix("rlkit "))
    if path is not None:
        flags = [*checked(to_flags(load_toml(Path(path)), default, Path(path)), known, path), *flags]
    bare = {f.name: tyro.MISSING for f in fields(kind) if f.name in POSITIONAL}
    return tyro.cli(
        kind, default=kind(cfg=default, **bare), args=[*(words if bare else ()), *flags], prog=prog
    )


def _value_of(flag: str, args: Sequence[str]) -> str | None:
    """The last value given for a flag, as `--flag value` or `--flag=value`."""
    found = None
    for i, arg in enumerate(args):
        if arg == flag and i + 1 < len(args):
            found = args[i + 1]
        elif arg.startswith(f"{flag}="):
            found = arg.partition("=")[2]
    return found


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
