"""The command line: its flags, its help, its short forms, and how little it loads."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlkit import __version__
from rlkit.algo_own import SkpoConfig
from rlkit.algo_presets import ALGO_CONFIGS
from rlkit.analyze_args import STUDIES
from rlkit.cli import main
from rlkit.cli.args import (
    DASH_FLAGS,
    DOCTOR_FLAGS,
    ENV_FLAGS,
    SIMULATE_FLAGS,
    CheckArgs,
    EvalArgs,
    ScoreArgs,
    ServeArgs,
    SftArgs,
    TrainArgs,
)
from rlkit.cli.settings import parse, with_algo
from rlkit.config import EvalConfig, SftConfig, TrainConfig
from rlkit.errors import ConfigError
from rlkit.flags import flag_types
from rlkit.score_config import CheckConfig, ScoreConfig
from rlkit.serve_config import ServeConfig

ROOT = Path(__file__).parents[2]
FLAGS = Path(__file__).with_name("flags.txt")
HEAVY = ("torch", "vllm", "transformers", "datasets", "trl", "accelerate", "pyarrow", "numpy", "rich")


def train(*args: str) -> TrainConfig:
    cfg: TrainConfig = parse(TrainArgs, with_algo(TrainConfig(), args), args, "rlkit train").cfg
    return cfg


def help_of(*args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rlkit", *args, "--help"],
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands() -> dict[str, tuple[type[Any], Any]]:
    found: dict[str, tuple[type[Any], Any]] = {
        f"train --algo {name}": (TrainArgs, TrainConfig(algo=config()))
        for name, config in ALGO_CONFIGS.items()
    }
    return found | {
        "eval": (EvalArgs, EvalConfig()),
        "sft": (SftArgs, SftConfig()),
        "serve": (ServeArgs, ServeConfig()),
        "score": (ScoreArgs, ScoreConfig()),
        "rewards check": (CheckArgs, CheckConfig()),
        **{f"analyze {name}": study for name, study in STUDIES.items()},
    }


def listing() -> str:
    """Every flag of every command with its type; those of all algorithms once."""
    lines, seen = [], set()
    for command, (kind, default) in commands().items():
        for flag, hint in flag_types(kind, default).items():
            line = f"{command.partition(' --')[0]} {flag} {_words(hint)}"
            if line not in seen:
                lines.append(line)
            seen.add(line)
    lines += [f"doctor {flag} {_words(hint)}" for flag, hint in DOCTOR_FLAGS.items()]
    lines += [f"replay {flag} {_words(hint)}" for flag, hint in DOCTOR_FLAGS.items()]
    lines += [f"env {flag} {_words(hint)}" for flag, hint in ENV_FLAGS.items()]
    lines += [f"dash {flag} {_words(hint)}" for flag, hint in DASH_FLAGS.items()]
    lines += [f"simulate {flag} {_words(hint)}" for flag, hint in SIMULATE_FLAGS.items()]
    return "\n".join(lines) + "\n"


def _words(hint: Any) -> str:
    return re.sub(r"typing\.|pathlib\._local\.|pathlib\.|<class '(.*)'>", r"\1", str(hint))


def test_the_flags_are_the_agreed_ones():
    """A flag that comes, goes or changes its type is a change for users: say it in CHANGELOG.md."""
    assert FLAGS.read_text() == listing(), (
        f"new flags? python -c 'from tests.unit.test_cli import *; FLAGS.write_text(listing())' writes {FLAGS.name}"
    )


@pytest.mark.parametrize("command", list(commands()))
def test_the_help_explains_every_flag(command: str):
    kind, default = commands()[command]
    told = help_of(*command.split())
    text = "\n".join(line.strip("│ ") for line in told.splitlines() if line.startswith("│"))
    entries = [entry.split() for entry in re.split(r"^(?=--)", text, flags=re.MULTILINE)[1:]]
    shown = {entry[0].rstrip(","): " ".join(entry) for entry in entries}
    assert set(shown) == set(flag_types(kind, default))
    for words in shown.values():
        # `--flag TYPE  Meaning. (default: 1)`
        meaning = re.fullmatch(r"(?:--[\w.-]+,? ?)+(?:[A-Z{]\S* )?(.{10,}?) ?\(default: .*\).*", words)
        assert meaning, f"no help: {words!r}"
        assert meaning[1].endswith((".", ")")), words


def test_an_algorithm_shows_its_own_settings():
    assert "--algo.split-low" in help_of("train", "--algo", "skpo")
    assert "--algo.split-low" not in help_of("train")


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("--algo skpo", "--algo.name skpo"),
        ("--algo=skpo", "--algo.name=skpo"),
        (
            "--model m --data d --reward exact --sampler hf",
            "--model.name=m --data.name=d --reward.name=exact --sampler.name=hf",
        ),
        ("--learning-rate 1e-4", "--learner.learning-rate 1e-4"),
        ("--learning_rate=1e-4", "--learner.learning-rate=1e-4"),
        ("--no-shuffle --num-generations 4", "--data.no-shuffle --algo.num-generations 4"),
        ("--algo skpo --epsilon-high none", "--algo.name skpo --algo.epsilon-high None"),
        ("--algo skpo --split-low 0.25", "--algo.name skpo --algo.split-low 0.25"),
    ],
)
def test_short_forms_are_the_full_ones(short: str, full: str):
    assert train(*short.split()) == train(*full.split()) != train()


def test_the_last_of_two_flags_counts():
    assert train("--steps", "3", "--steps=4").steps == 4
    assert train("--no-shuffle", "--data.shuffle").data.shuffle


def test_values_may_look_like_anything():
    assert train("--system=--help", "--seed", "-3").data.system == "--help"
    assert train("--system", "").data.system == ""
    assert train("--template", "Q: {question}\nA:").data.template == "Q: {question}\nA:"


def test_flags_overrule_the_file(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text('algo = "skpo"\nsteps = 7\nlearning_rate = 1e-4\n[data]\nshuffle = false\n')
    args = ("--config", str(file))
    assert train(*args) == train(*"--algo skpo --steps 7 --learning-rate 1e-4 --no-shuffle".split())
    over = train(*args, "--steps", "8", "--shuffle", "--learning-rate", "none")
    assert (over.steps, over.data.shuffle, over.learner.learning_rate) == (8, True, None)
    assert train(*args, "--algo", "grpo").algo.name == "grpo"


def test_the_algorithm_of_the_file_decides_which_flags_there_are(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text('[algo]\nname = "skpo"\nsplit_low = 0.2\n')
    found = train("--config", str(file), "--split-high", "0.4").algo
    assert isinstance(found, SkpoConfig) and (found.split_low, found.split_high) == (0.2, 0.4)
    with pytest.raises(ConfigError, match="'split_low' is not known"):
        train("--config", str(file), "--algo", "grpo")


def test_bounds_that_only_hold_together_may_come_from_two_places(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text("mini_batches = 64\n")
    with pytest.raises(ConfigError, match="mini_batches = 64"):
        train("--config", str(file))
    assert train("--config", str(file), "--prompts-per-step", "64").mini_batches == 64


@pytest.mark.parametrize(
    "command",
    [
        "",
        "train",
        "eval",
        "sft",
        "score",
        "rewards",
        "rewards check",
        "doctor",
        "dash",
        "simulate",
        "train --algo skpo",
    ],
)
def test_help_is_light(command: str):
    program = (
        "import sys, rlkit.cli\n"
        f"try: rlkit.cli.main({[*command.split(), '--help']})\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        f"loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_lists_are_light():
    program = f"import sys; from rlkit.cli import main; main(['tasks']); print([n for n in {HEAVY[:3]} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("[]\n") and "task:chain" in done.stdout


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(flag: str, capsys: pytest.CaptureFixture[str]):
    assert main([flag]) == 0
    assert capsys.readouterr().out == f"rlkit {__version__}\n"


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_the_overview_names_every_command(args: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(args) == 0
    told = capsys.readouterr().out
    assert all(
        f"\n  {name} " in told
        for name in ("train", "eval", "score", "sft", "doctor", "dash", "simulate", "tasks", "algos")
    )


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "rlkit", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"rlkit {__version__}\n")


def test_the_lists_name_what_there_is(capsys: pytest.CaptureFixture[str]):
    assert main(["algos"]) == 0
    told = capsys.readouterr().out
    header, *lines = told.splitlines()[: 1 + len(ALGO_CONFIGS)]
    assert header.split() == "name sample baseline signs surrogate clip normalizer source".split()
    assert [line.split()[0] for line in lines] == list(ALGO_CONFIGS)
    assert re.split(r"\s{2,}", lines[list(ALGO_CONFIGS).index("gspo_n")].strip()) == [
        *("gspo_n", "G answers", "group / std", "+0 -1", "ppo, sequence", "0.9997 to 1.0004", "sequence"),
        "arXiv:2510.04028",
    ]
    assert "--algo file.py:MyAlgorithm" in told
    assert main(["tasks"]) == 0
    assert "task:countdown" in capsys.readouterr().out


ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202e[red][/bold]"
"""Clear the screen, set the title, overwrite the line, colour, turn the text round, and two tags of rich's markup."""


def untouched(told: str) -> bool:
    """No control character but line ends and tabs."""
    return all(c in "\n\t" or c.isprintable() for c in told)


@pytest.mark.parametrize(
    "args",
    [
        ["train", "--config", "evil.toml"],
        ["train", "--config", "path.toml"],
        ["train", "--data", "evil.jsonl"],
        ["train", "--data", "columns.jsonl"],
        ["train", f"--{ESCAPES}"],
        ["train", "--algo", ESCAPES],
        ["train", "--model", f"./{ESCAPES}"],
        ["train", "--resume", ESCAPES],
        [ESCAPES],
    ],
    ids=["key", "value", "row", "columns", "flag", "algorithm", "model", "folder", "command"],
)
def test_an_error_hands_no_control_character_to_the_terminal(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import json

    import tomli_w

    (tmp_path / "evil.toml").write_text(tomli_w.dumps({ESCAPES: 1}))
    (tmp_path / "path.toml").write_text(tomli_w.dumps({"data": {"name": f"./{ESCAPES}"}}))
    (tmp_path / "evil.jsonl").write_text(f'{{"question": "{ESCAPES}\n')
    (tmp_path / "columns.jsonl").write_text(json.dumps({ESCAPES: "1"}))
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    told = capsys.readouterr().err
    assert untouched(told) and "\\x1b[2J" in told, told


def test_rows_and_answers_hand_nothing_to_the_terminal():
    """Neither as control characters nor as markup, wherever the view shows them."""
    import io

    from rich.console import Console

    from rlkit.show import Terminal
    from rlkit.types import Group, Prompt, Rollout, Score, Segment

    prompt = Prompt(id=f"{ESCAPES}\n", token_ids=[1], text=ESCAPES, question=ESCAPES)
    rollouts = [
        Rollout(
            prompt_id=prompt.id,
            token_ids=[1, 2],
            logprobs=[0.0, -1.0],
            segments=[Segment(kind="prompt", start=0, end=1), Segment(kind="completion", start=1, end=2)],
            policy_version=0,
            finish_reason="stop",
            text=ESCAPES,
            score=Score(value, reason=ESCAPES),
        )
        for value in (0.0, 1.0)
    ]
    out = io.StringIO()
    with Terminal(ESCAPES, 3, console=Console(file=out, width=200)) as view:
        view.sample(1, [Group(prompt=prompt, rollouts=rollouts)])
        view.step(1, {"reward": 0.5})
        view.say(ESCAPES)
    told = out.getvalue()
    assert untouched(told), told
    assert told.count("[red][/bold]") == told.count("\\x1b[2J") == 8
