"""What each command takes. A docstring is the command's --help, a field a flag; every field of a `cfg` is one too.

`rlkit analyze` has its own in rlkit/analyze_args.py.
"""

import dataclasses
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, get_type_hints

import tyro

from rlkit.config import EvalConfig, SftConfig, TrainConfig
from rlkit.score_config import CheckConfig, ScoreConfig
from rlkit.serve_config import ServeConfig
from rlkit.simulate_config import SimulateConfig

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
