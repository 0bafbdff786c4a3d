"""`rlkit score`: verdicts on the completions in a file, written, summed up, and gone on with after a kill."""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit import __version__, build
from rlkit.config import DataConfig, RewardConfig, TrainConfig
from rlkit.errors import DISK_FULL_ERRORS, DataError, Interrupted, RunError
from rlkit.printable import printable
from rlkit.score_config import ScoreConfig
from rlkit.types import Prompt, Task

from .progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.rows import Example
    from rlkit.scoring.completions import Completions
    from rlkit.scoring.tally import Tally
    from rlkit.scoring.verdicts import Sink


def score(
    cfg: ScoreConfig,
    file: str,
    console: "Console",
    *,
    run: TrainConfig | None,
    as_json: bool,
    command: str,
) -> int:
    """Judge what is in `file`; 1 when too many verdicts are errors, or none is a score.

    run: the settings of the run whose rollouts these are; None: of no run
    command: what was typed, for whoever wants to go on after Ctrl-C
    """
    from rlkit.scoring.judging import Disagreements, judge_all
    from rlkit.scoring.tally import Tally
    from rlkit.sources import count_rows, find_files

    reward = cfg.reward
    if run is not None and reward.name == "auto":
        reward = replace(reward, name=run.reward.name)
    task = build.make_task(cfg.data or (run.data.name if run is not None else ""))
    verifier = build.make_verifier(reward, task)
    files = find_files(str(Path(file) / "rollouts") if run_folder(file) == Path(file) else file)
    completions = _completions(cfg, file, files, run, task)
    shown = printable(f"{file}: {completions.columns}; reward {reward.name}")
    console.print(shown, soft_wrap=True, highlight=False, markup=False)
    tally = Tally(right_at=cfg.right_at, by=cfg.by is not None, labelled=cfg.label is not None)
    listed = _disagreements_path(cfg)
    with ExitStack() as stack:
        sink = _sink(cfg, reward, completions)
        stack.callback(sink.close)
        if sink.num_kept:
            words = f"going on after {sink.num_kept:,} verdicts in {cfg.out}.partial"
            console.print(printable(words), soft_wrap=True, highlight=False, markup=False)
        disagreements = Disagreements(listed)
        stack.callback(disagreements.discard)
        pool = stack.enter_context(closing(build.make_pool(reward, verifier)))
        total = cfg.limit or _total(completions, count_rows(files) if files else None)
        before = sink.num_kept
        try:
            with Progress("scored", total, console) as progress:
                seconds = judge_all(completions, pool, sink, tally, disagreements, progress)
        except KeyboardInterrupt as error:
            raise Interrupted(_stopped(cfg, sink, tally, command)) from error
        except OSError as error:
            if error.errno not in DISK_FULL_ERRORS or cfg.out == "-":
                raise
            raise RunError(
                f"{error.filename or listed or cfg.out}: the disk is full ({error.strerror})"
            ) from error
    told: dict[str, Any] = {"file": file, "reward": reward.name, **tally.told()}
    told |= {
        "rows_skipped": completions.num_skipped,
        "first_row_skipped": completions.first_skipped,
        "items_per_second": (tally.completions - before) / seconds if seconds > 0 else None,
        "out": cfg.out,
        "disagreements": None if listed is None else str(listed),
    }
    stream = sys.stderr if cfg.out == "-" else sys.stdout
    if as_json:
        print(json.dumps(told, indent=2), file=stream)
    else:
        from .score_summary import summary

        print(summary(told), end="", file=stream)
    return _exit_code(tally, told, reward)


def _total(completions: "Completions", rows: int | None) -> int | None:
    return None if rows is None else round(rows * completions.per_row)


def _exit_code(tally: "Tally", told: dict[str, Any], reward: RewardConfig) -> int:
    problem = None
    if tally.error_share > reward.max_error_share:
        first = told["reasons"]["error"][0]["example"]
        problem = (
            f"{told['errors']:,} of {tally.completions:,} verdicts are errors, more than --reward.max-error-share "
            f"{reward.max_error_share}. The first of the commonest: {first}"
        )
    elif tally.scores == 0:
        first = told["reasons"].get("skip", told["reasons"].get("error", [{"example": "no reason"}]))[0][
            "example"
        ]
        problem = (
            f"none of {tally.completions:,} completions could be judged ({first}); check --reward and --gold"
        )
    if problem is not None:
        print(f"rlkit: {printable(' '.join(problem.splitlines()))}", file=sys.stderr)
    return int(problem is not None)


def _stopped(cfg: ScoreConfig, sink: "Sink", tally: "Tally", command: str) -> str:
    if cfg.out is None or cfg.out == "-":
        return f"stopped by Ctrl-C after {tally.completions:,} completions; with --out FILE the verdicts would be kept"
    return f"stopped by Ctrl-C after {sink.num_kept:,} verdicts, which are kept; continue with `{command}`"


# -- what is judged --------------------------------------------------------------------------------------------------------


def run_folder(file: str) -> Path | None:
    """The run folder that `file` is, or whose rollouts it is or holds; None: neither."""
    path = Path(file)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "config.toml").is_file() and (folder / "rollouts").is_dir():
            inside = path.resolve().is_relative_to((folder / "rollouts").resolve())
            return folder if inside or folder == path else None
    return None


def _completions(
    cfg: ScoreConfig, file: str, files: list[Path], run: TrainConfig | None, task: Task | None
) -> "Completions":
    from rlkit.scoring.completions import ROLLOUT_COLUMNS, Completions
    from rlkit.sources import read_files

    lookup: Callable[[str], Prompt | None] | None = None
    if cfg.data is not None:
        data = DataConfig(name=cfg.data, prompt_column=cfg.prompt, answer_column=cfg.gold)
        lookup = _lookup(data, cfg.reward, task, distinct=False)
    elif run is not None:
        lookup = _lookup(run.data, run.reward, task, distinct=True)
    if file == "-" and sys.stdin.isatty():
        raise DataError("-: stdin is the terminal; pipe JSON lines into rlkit score, or name a file")
    name = str(Path(file) / "rollouts") if run is not None and run_folder(file) == Path(file) else file
    raw = read_files(name, files, ROLLOUT_COLUMNS if run is not None else None)
    return Completions("stdin" if file == "-" else file, raw, cfg, lookup)


def _lookup(
    data: DataConfig, reward: RewardConfig, task: Task | None, *, distinct: bool
) -> Callable[[str], Prompt | None]:
    """Prompts by id. distinct: as a run names them, which leaves out repeated questions"""
    from rlkit.rows import load_rows, task_example

    if task is not None and data.pool == 0:
        number = re.compile(re.escape(task.name) + r"-train-(\d+)")

        def of_task(name: str) -> Prompt | None:
            match = number.fullmatch(name)
            return None if match is None else _prompt(task_example(task, "train", int(match[1])))

        return of_task
    if task is not None or distinct:
        rows = build.load_training_rows(data, reward, task)
    else:
        rows = load_rows(data, need_answer=False)
    prompts = {example.id: _prompt(example) for example in rows.examples}
    return prompts.get


def _prompt(example: "Example") -> Prompt:
    return Prompt(
        id=example.id,
        token_ids=[],
        text=example.question,
        question=example.question,
        reference=example.reference,
        row=example.row,
    )


# -- where the verdicts go -------------------------------------------------------------------------------------------------


def _sink(cfg: ScoreConfig, reward: RewardConfig, completions: "Completions") -> "Sink":
    from rlkit.scoring.verdicts import NoSink, VerdictFile

    if cfg.out is None:
        return NoSink()
    if cfg.out == "-":
        return NoSink(sys.stdout.buffer)
    settings = {
        "rlkit": __version__,
        "reward": reward.name,
        "reward code": _code_digest(reward.name),
        "timeout": str(reward.timeout),
        "columns": str(completions.columns),
        "keep": cfg.keep,
        "data": str(cfg.data),
    }
    return VerdictFile(Path(cfg.out), settings, overwrite=cfg.overwrite)


def _code_digest(reward: str) -> str:
    """Of the user's own files that a reward names: changed code is another reward."""
    digest = hashlib.blake2b(digest_size=8)
    for name in re.findall(r"[\w./~-]+\.py(?=:)", reward):
        digest.update(Path(name).read_bytes())
    return digest.hexdigest()


def _disagreements_path(cfg: ScoreConfig) -> Path | None:
    if cfg.disagreements is not None:
        return Path(cfg.disagreements)
    if cfg.label is None or cfg.out is None or cfg.out == "-":
        return None
    out = Path(cfg.out)
    return out.with_name(f"{out.stem}-disagreements.jsonl")
