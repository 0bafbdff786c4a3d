"""rlkit train | eval | score | rewards | sft | serve | doctor | dash | replay | env | simulate | analyze | tasks | algos: arguments -> config -> one call.

Every field of a config is a flag: `--learner.learning-rate 1e-4`. Two shorthands, also in TOML: the name of a room alone
(`--algo skpo` is `--algo.name skpo`), and a setting that only one room has (`--learning-rate 1e-4`).
"""

import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tyro

from rlkit import __version__
from rlkit.config import EvalConfig, SftConfig, TrainConfig
from rlkit.errors import DISK_FULL_ERRORS, ConfigError, RlkitError, RunError, unknown_name
from rlkit.flags import asks_help, checked, expand, flag_types, split_words
from rlkit.score_config import CheckConfig, ScoreConfig
from rlkit.serve_config import ServeConfig
from rlkit.signals import quiet_threads, sigterm_as_ctrl_c
from rlkit.simulate_config import SimulateConfig

from .args import (
    DASH_FLAGS,
    DOCTOR_FLAGS,
    ENV_FLAGS,
    REWARDS_HELP,
    SIMULATE_FLAGS,
    CheckArgs,
    DashArgs,
    DoctorArgs,
    EnvArgs,
    EvalArgs,
    ReplayArgs,
    ScoreArgs,
    ServeArgs,
    SftArgs,
    TrainArgs,
)
from .settings import parse, resumed, settings_in, value_of, with_algo

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
    run = settings_in(path)
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
    from rlkit.commands.analyze_subjects import small, subjects, with_run

    found = subjects(name, words)
    run = None
    if found[0][1] is not None:
        run = settings_in(found[0][1] / "config.toml")
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
    run = None if folder is None else settings_in(folder / "config.toml")
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
    resume = value_of("--resume", args)
    if resume is None:
        parsed = parse(TrainArgs, with_algo(TrainConfig(), args), args, "rlkit train")
    else:
        parsed = resumed(resume, args, _console())
    from rlkit.commands.train import train

    return train(parsed.cfg, _console(), resume=parsed.resume, dry_run=parsed.dry_run)


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
