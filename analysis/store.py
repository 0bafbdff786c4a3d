"""How a run folder is laid out; the only writer and reader of its files.

runs/NAME/
  config.toml                 the resolved config; `rlkit train --config` takes it back
  metrics.jsonl               one line per step: {"step": 1, "reward": ..., ...}
  tensorboard/                the same numbers as events
  rollouts/step-000001.parquet  one row per rollout: tokens, log-probs, advantages, verdict with reason
  dynamics/                   where probability went, at tracked steps (tracks.py)
  evaluations.jsonl           one line per evaluation, with its interval
  checkpoints/step-000100/    model folders with the state to resume from
  bad_updates/update-000014/  updates that were skipped, for `rlkit replay` (rlkit/learner/dump.py)
  summary.json                what the run came to
  .lock                       held while a process writes here
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlkit.errors import RunError
from rlkit.printable import printable
from rlkit.types import Credit, FinishReason, Group, Rollout, Segment

from . import tracks

TABLES = ("metrics.jsonl", "evaluations.jsonl")
"""Files of one line per record, which a run goes on writing."""


class Reporter(Protocol):
    """Somebody else who is told every number (--report-to; rlkit/build/reporting.py makes them)."""

    name: str

    def log(self, values: dict[str, float], step: int) -> None: ...
    def finish(self) -> None: ...


class Store:
    """An open run folder; one process at a time.

    Raises RunError when the folder holds another run, is in use, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume_from: int | None = None,
        config: str = "",
        tensorboard: bool = True,
        held: Any = None,
    ) -> None:
        """resume_from: keep what belongs to the steps up to this one and drop the rest (-1: all of it); None: a new run.

        config: the text of config.toml;  held: the folder's `lock`, from who has it already
        """
        self.folder = folder
        self._events: Any = None
        self._reporters: list[Reporter] = []
        self._unsynced: list[Path] = []
        with _writable(folder):
            self._lock = held or lock(folder)
            try:
                if resume_from is None:
                    _require_new(folder)
                else:
                    self._truncate(resume_from)
                if config:  # before the first table: what has tables can be resumed
                    _replace(folder / "config.toml", config)
                (folder / "rollouts").mkdir(exist_ok=True)
                self._written = {name: _lines(folder / name) for name in TABLES}
                self._written["rollouts"] = len(list((folder / "rollouts").glob("step-*.parquet")))
                self._metrics = (folder / "metrics.jsonl").open("a")
            except BaseException:
                self._lock.release()
                raise
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # TensorBoard drops events of the purge step too, and the step resumed from stays.
            purge = None if resume_from is None else resume_from + 1
            self._events = SummaryWriter(folder / "tensorboard", purge_step=purge)

    def report_to(self, reporters: Sequence["Reporter"]) -> None:
        """Tell these too, from now on, and end with them."""
        self._reporters += reporters

    def written(self) -> dict[str, int]:
        """How far the tables have come: lines of the jsonl files, number of rollout files."""
        return dict(self._written)

    def sync(self) -> None:
        """Wait until all that was written is on the disk: a checkpoint that says so must not outlive it."""
        tables = [path for name in TABLES if (path := self.folder / name).exists()]
        files, self._unsynced = [*tables, *self._unsynced], []
        with _refused_disk(self.folder):
            for path in dict.fromkeys([*files, *(p.parent for p in files)]):
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, on disk before this returns, and the same as TensorBoard events."""
        with _refused_disk(self.folder / "metrics.jsonl"):
            self._metrics.write(json.dumps({"step": step, **metrics}) + "\n")
            self._metrics.flush()
        self._written["metrics.jsonl"] += 1
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)
        for reporter in list(self._reporters):
            self._tell(reporter, partial(reporter.log, dict(metrics), step=step))

    def _tell(self, reporter: "Reporter", what: Callable[[], None]) -> None:
        try:
            what()
        except (
            Exception
        ) as error:  # a service that is down, or a full quota: every package has its own names for it
            self._reporters.remove(reporter)
            words = f"rlkit: --report-to {reporter.name}: {printable(str(error))}; the run goes on without it"
            print(words, file=sys.stderr)

    def _histogram(self, name: str, values: Any, step: int) -> None:
        if self._events is not None and len(values):
            self._events.add_histogram(name, values, step)

    def write_rollouts(self, step: int, groups: Sequence[Group], credits: Sequence[Credit]) -> None:
        """Every verified or trained rollout of a step as one parquet file."""
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.Table.from_pylist(_rows(step, groups, credits), schema=_schema())
        path = self.folder / "rollouts" / f"step-{step:06d}.parquet"
        draft = path.with_name(f".{path.name}.draft")  # who reads along sees whole files only
        with _refused_disk(path):
            pyarrow.parquet.write_table(table, draft)
            draft.replace(path)
        self._written["rollouts"] += 1
        self._unsynced.append(path)
        answers = [r for g in groups for role, r in everyone(g) if role == "answer"]
        self._histogram("completions/lengths", np.array([len(r.completion_ids) for r in answers]), step)
        self._histogram("rewards", np.array([r.value for r in answers if r.value is not None]), step)

    def write_track(self, table: tracks.Table, step: int, columns: Mapping[str, Sequence[Any]]) -> None:
        """One tracked step's table (tracks.COLUMNS names its columns)."""
        path = tracks.step_file(self.folder, table, step)
        with _refused_disk(path):
            tracks.write(path, table, columns)
        self._unsynced.append(path)
        if table == "tokens":
            self._track_histograms(step, columns)

    def _track_histograms(self, step: int, columns: Mapping[str, Sequence[Any]]) -> None:
        """Sampled tokens before and after the update, by the sign of their advantage, as TensorBoard histograms."""
        advantage_N = np.asarray(columns["advantage"], np.float64)
        for when in ("before", "after"):
            p_N = np.exp(np.asarray(columns[f"logp_{when}"], np.float64))
            for sign, which_N in (("positive", advantage_N > 0), ("negative", advantage_N < 0)):
                self._histogram(f"dynamics/probs/{sign}_{when}", p_N[which_N], step)
            self._histogram(
                f"dynamics/entropies/{when}", np.asarray(columns[f"entropy_{when}"], np.float64), step
            )

    def probe_answers(self) -> list[Rollout]:
        """The answers that are looked at again and again; none yet: an empty list."""
        path = self.folder / tracks.FOLDER / "probe" / tracks.ANSWERS
        if not path.is_file():
            return []
        columns = tracks.read(path)
        return [
            _probe_rollout(*row)
            for row in zip(*(columns[name] for name in tracks.COLUMNS["answers"]), strict=True)
        ]

    def write_probe_answers(self, rollouts: Sequence[Rollout]) -> None:
        path = self.folder / tracks.FOLDER / "probe" / tracks.ANSWERS
        rows = [
            (encodable(r.prompt_id), r.prompt_tokens, r.token_ids, r.finish_reason, encodable(r.text or ""))
            for r in rollouts
        ]
        with _refused_disk(path):
            tracks.write(
                path, "answers", dict(zip(tracks.COLUMNS["answers"], zip(*rows, strict=True), strict=True))
            )

    def write_evaluation(self, row: Mapping[str, Any]) -> None:
        path = self.folder / "evaluations.jsonl"
        with _refused_disk(path), path.open("a") as file:
            file.write(json.dumps(dict(row)) + "\n")
        self._written["evaluations.jsonl"] += 1

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        path = self.folder / "summary.json"
        with _refused_disk(path):
            _replace(path, json.dumps(dict(summary), indent=2) + "\n")

    def close(self) -> None:
        with suppress(OSError):  # every line was flushed; what a full disk refused has been told
            self._metrics.close()
        if self._events is not None:
            self._events.close()
        for reporter in list(self._reporters):
            self._tell(reporter, reporter.finish)
        self._lock.release()

    def _truncate(self, steps: int) -> None:
        for name in TABLES:
            path = self.folder / name
            if path.is_file():
                lines = path.read_text(errors="replace").splitlines()  # a damaged line belongs to no step
                kept = [line for line in lines if _step_of(line) <= steps]
                _replace(path, "".join(f"{line}\n" for line in kept))
        (self.folder / "summary.json").unlink(missing_ok=True)  # of a run that has not ended
        for path in (self.folder / "rollouts").glob("step-*.parquet"):
            if int(path.stem.removeprefix("step-")) > steps:
                path.unlink()
        for draft in (self.folder / "rollouts").glob(".step-*.draft"):
            draft.unlink()
        tracks.drop_after(self.folder, steps)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, oldest first. A last line cut by a crash is left out."""
    path = folder / "metrics.jsonl"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); is {folder} a run folder?") from error
    try:
        lines = content.decode().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: holds a line that is not JSON ({error}); was it edited?") from error


def read_rollouts(folder: Path, step: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of one step's rollouts, as written. Raises RunError when they are missing or damaged.

    columns: only these, which is quicker; None: all
    """
    import pyarrow
    import pyarrow.parquet

    path = folder / "rollouts" / f"step-{step:06d}.parquet"
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(
            path, columns=None if columns is None else list(columns)
        ).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise RunError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); was the run made with --log.rollouts?"
        ) from error
    return rows


@contextmanager
def _refused_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror or error}); is the disk full? "
            "Make room and continue with --resume from the last checkpoint"
        ) from error


def missing(before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """What `Store.written` counted at a checkpoint and a resume did not find, in words.

    >>> missing({"metrics.jsonl": 9, "rollouts": 4}, {"metrics.jsonl": 7, "rollouts": 4})
    ['metrics.jsonl had 9 lines and has 7']
    """
    units = {name: f"{name} had {{}} lines and has {{}}" for name in TABLES}
    units["rollouts"] = "rollouts/ had {} files and has {}"
    lost = [name for name in before if name in units and now.get(name, 0) < before[name]]
    return [units[name].format(before[name], now.get(name, 0)) for name in lost]


def hold(folder: Path) -> Any:
    """The lock of a run folder, for `Store`. Raises RunError when another process has it or the folder cannot be written."""
    with _writable(folder):
        return lock(folder)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder}: cannot write a run here ({error.strerror or error}); choose another --output-dir"
        ) from error


def lock(folder: Path) -> Any:
    """The folder's lock, held. Raises RunError when another process has it, OSError when it cannot be written."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    held = FileLock(folder / ".lock")
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"{folder}: another rlkit process is writing there; choose another --output-dir"
        ) from error
    return held


def _replace(path: Path, text: str) -> None:
    """One whole file or the one before: a crash here costs no line."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.replace(path)


def _lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _require_new(folder: Path) -> None:
    """A folder whose process ended before it had written anything is new."""
    if _lines(folder / "metrics.jsonl") or _lines(folder / "evaluations.jsonl"):
        raise RunError(
            f"{folder}: holds a run already; continue it with `rlkit train --resume {folder}`, or choose another --output-dir"
        )


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 1 << 62  # a line cut by a crash belongs to no step


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("step", pa.int32()),
            ("prompt_id", pa.string()),
            ("role", pa.string()),
            ("prompt_tokens", pa.int32()),
            ("token_ids", pa.list_(pa.int32())),
            ("logprobs", pa.list_(pa.float32())),
            ("advantages", pa.list_(pa.float32())),
            (
                "segments",
                pa.list_(pa.struct([("kind", pa.string()), ("start", pa.int32()), ("end", pa.int32())])),
            ),
            ("text", pa.string()),
            ("outcome", pa.string()),
            ("score", pa.float32()),
            ("reason", pa.string()),
            ("parts", pa.map_(pa.string(), pa.float32())),
            ("finish_reason", pa.string()),
            ("policy_version", pa.int32()),
            ("later_versions", pa.list_(pa.struct([("start", pa.int32()), ("version", pa.int32())]))),
        ]
    )


def _rows(step: int, groups: Sequence[Group], credits: Sequence[Credit]) -> list[dict[str, Any]]:
    advantages = {id(c.rollout): c.advantages for c in credits}
    return [_row(step, role, r, advantages.get(id(r))) for g in groups for role, r in everyone(g)]


def rows_of(groups: Sequence[Group]) -> dict[int, tuple[int, str]]:
    """id of a rollout -> its row in the step's parquet file, and its role there."""
    walked = [pair for g in groups for pair in everyone(g)]
    return {id(r): (row, role) for row, (role, r) in enumerate(walked)}


def _probe_rollout(
    prompt_id: str, prompt_tokens: int, token_ids: list[int], finish_reason: FinishReason, text: str
) -> Rollout:
    return Rollout(
        prompt_id=prompt_id,
        token_ids=token_ids,
        logprobs=[0.0] * len(token_ids),
        segments=[
            Segment(kind="prompt", start=0, end=prompt_tokens),
            Segment(kind="completion", start=prompt_tokens, end=len(token_ids)),
        ],
        policy_version=0,
        finish_reason=finish_reason,
        text=text,
    )


def everyone(group: Group) -> list[tuple[str, Rollout]]:
    """Every rollout of a group with its role: answer, or segment when others continue it."""
    role = "segment" if group.children else "answer"
    return [(role, r) for r in group.rollouts] + [
        pair for child in group.children for pair in everyone(child)
    ]


def _row(step: int, role: str, r: Rollout, advantages: list[float] | None) -> dict[str, Any]:
    return {
        "step": step,
        "prompt_id": encodable(r.prompt_id),
        "role": role,
        "prompt_tokens": r.prompt_tokens,
        "token_ids": r.token_ids,
        "logprobs": r.logprobs,
        "advantages": advantages,  # null: the rollout was not trained (skip, error, or nothing to compare)
        "segments": [{"kind": s.kind, "start": s.start, "end": s.end} for s in r.segments],
        "text": None if r.text is None else encodable(r.text),
        "outcome": r.score.outcome if r.score else None,
        "score": r.value,
        "reason": encodable(r.score.reason) if r.score else None,
        "parts": [(encodable(n), v) for n, v in r.score.parts.items()] if r.score else None,
        "finish_reason": r.finish_reason,
        "policy_version": r.policy_version,
        "later_versions": [{"start": start, "version": version} for start, version in r.later_versions],
    }


def encodable(text: str) -> str:
    """`text` with lone surrogates (a user's JSON may hold them) as U+FFFD: parquet keeps UTF-8 only."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
