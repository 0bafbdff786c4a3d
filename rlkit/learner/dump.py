"""A skipped update on disk, with all that repeats it. Nothing is pickled.

    bad_updates/update-000014/
      dump.json              update, loss, norm, who wrote what, versions
      numbers.safetensors    token ids, log-probs, advantages, weights, rollout after rollout
      config.toml            of the run
      model/                 the weights that it was to move, as a checkpoint's model folder (adapter/ and reference/ in it)

Written beside its final name and renamed when it is whole.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from rlkit.batch import Batch, batch_of
from rlkit.errors import RunError
from rlkit.feed import Layout, make_feed
from rlkit.types import Credit, Rollout, Score, Segment

from .bad import BadUpdate
from .first import First

if TYPE_CHECKING:
    from .learner import Learner

FORMAT = 1
FOLDER = "bad_updates"
"""Of a run folder."""
MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One rollout of the mini-batch.

    index: which credit of the step it was
    old: log-probs before the step's first update, nats;  high: whether a token counts (top_entropy_quantile). None: no need of them
    """

    index: int
    credit: Credit
    old: list[float] | None
    high: list[bool] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """What a folder holds, apart from the weights.

    >>> Dump(update=14, loss=0.5, grad_norm=1.0, denominator=8.0, num_tokens=64, num_high=0, rows=[], versions={}).update
    14
    """

    update: int
    loss: float
    grad_norm: float
    denominator: float
    num_tokens: int
    num_high: int
    rows: list[Row]
    versions: Mapping[str, str]

    def mini(self, rows: Sequence[Row], layout: Layout, pad_id: int) -> tuple[Batch, First]:
        """Some of its rows as one micro-batch, with the denominators of the whole."""
        credits = [row.credit for row in rows]
        feed = make_feed([c.rollout for c in credits], layout, pad_id)
        batch = batch_of(credits, [row.index for row in rows], self.denominator, self.num_tokens, feed)
        olds = [row.old for row in rows if row.old is not None]
        highs = [row.high for row in rows if row.high is not None]
        return batch, First(
            old_BT=_padded(olds, batch.weight_BT) if olds else None,
            high_BT=_padded(highs, batch.mask_BT) if highs else None,
            num_high=self.num_high,
        )


def _padded(rows: Sequence[Sequence[float]], like_BT: Tensor) -> Tensor:
    out_BT = torch.zeros_like(like_BT)
    for b, row in enumerate(rows):
        out_BT[b, : len(row)] = torch.tensor(row, dtype=like_BT.dtype)
    return out_BT


def folder_of(run: Path, update: int) -> Path:
    return run / FOLDER / f"update-{update:06d}"


def write(folder: Path, bad: BadUpdate, learner: "Learner", tokenizer: Any, config: str) -> None:
    """Every rank calls it, the first one writes. Raises OSError when the disk refuses.

    config: config.toml of the run
    """
    from safetensors.torch import save_file

    rows = sorted((r for part in learner.ranks.gather(_rows(bad)) for r in part), key=lambda row: row.index)
    known = next((b for part in learner.ranks.gather(_known(bad)) for b in part), (0.0, 0, 0))
    draft = folder.with_name(f".{folder.name}.draft")
    if not learner.ranks.main:
        learner.save_model(draft / MODEL)
        return
    try:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / MODEL).mkdir(parents=True)
        learner.save_model(draft / MODEL)
        _save(lambda: tokenizer.save_pretrained(draft / MODEL))
        _save(lambda: save_file(_tensors(rows, known[0]), draft / "numbers.safetensors"))
        told = {
            "format": FORMAT,
            "update": bad.update,
            "loss": repr(bad.loss),  # JSON has no nan
            "grad_norm": repr(bad.grad_norm),
            "num_tokens": known[1],
            "num_high": known[2],
            "rollouts": [_told(row) for row in rows],
            "versions": {name: _version(name) for name in ("rlvrkit", "torch", "transformers")},
        }
        (draft / "dump.json").write_text(json.dumps(told, indent=1))
        (draft / "config.toml").write_text(config)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _save(write: Callable[[], object]) -> None:
    """tokenizers raises a bare Exception when the disk refuses, safetensors an error of its own."""
    from safetensors import SafetensorError

    try:
        write()
    except Exception as error:
        if type(error) is Exception or isinstance(error, SafetensorError):
            raise OSError(str(error)) from error
        raise


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _rows(bad: BadUpdate) -> list[Row]:
    """This rank's."""
    return [
        Row(
            index=i,
            credit=credit,
            old=None if seen.old_BT is None else seen.old_BT[b][batch.mask_BT[b]].tolist(),
            high=None if seen.high_BT is None else seen.high_BT[b][batch.mask_BT[b]].tolist(),
        )
        for batch, seen in zip(bad.mini, bad.first, strict=True)
        for b, (i, credit) in enumerate(zip(batch.rows, batch.credits, strict=True))
    ]


def _known(bad: BadUpdate) -> list[tuple[float, int, int]]:
    """Denominator, tokens and tokens of high entropy: the same of every micro-batch that has rows."""
    return [
        (batch.denominator, batch.num_tokens, seen.num_high)
        for batch, seen in zip(bad.mini, bad.first, strict=True)
        if batch.rows
    ][:1]


def _tensors(rows: Sequence[Row], denominator: float) -> dict[str, Tensor]:
    def flat(parts: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
        return torch.tensor([x for part in parts for x in part], dtype=dtype)

    credits = [row.credit for row in rows]
    tensors = {
        "token_ids": flat([c.rollout.token_ids for c in credits], torch.int64),
        "logprobs": flat([c.rollout.logprobs for c in credits], torch.float64),
        "advantages": flat([c.advantages for c in credits], torch.float64),
        "weight": torch.tensor([c.weight for c in credits], dtype=torch.float64),
        "share": torch.tensor([c.share for c in credits], dtype=torch.float64),
        "denominator": torch.tensor(denominator, dtype=torch.float64),
    }
    if rows and rows[0].old is not None:
        tensors["old"] = flat([row.old or [] for row in rows], torch.float64)
    if rows and rows[0].high is not None:
        tensors["high"] = flat([row.high or [] for row in rows], torch.bool)
    return tensors


def _told(row: Row) -> dict[str, Any]:
    rollout = row.credit.rollout
    score = rollout.score
    return {
        "row": row.index,
        "prompt_id": rollout.prompt_id,
        "tokens": len(rollout.token_ids),
        "segments": [asdict(s) for s in rollout.segments],
        "policy_version": rollout.policy_version,
        "finish_reason": rollout.finish_reason,
        "text": rollout.text,
        "score": None if score is None or score.value is None else repr(float(score.value)),
        "reason": None if score is None else score.reason,
        "surrogate": row.credit.surrogate,
        "group": row.credit.group,
    }


def read(folder: Path) -> Dump:
    """Raises RunError when the folder is no dump, of another format, or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "dump.json"
    try:
        told = json.loads(path.read_text())
        if not isinstance(told, dict) or told["format"] != FORMAT:
            raise RunError(f"{path}: not a dump of format {FORMAT}; replay it with the rlkit that wrote it")
        numbers = load_file(folder / "numbers.safetensors")
        return Dump(
            update=int(told["update"]),
            loss=float(told["loss"]),
            grad_norm=float(told["grad_norm"]),
            denominator=float(numbers["denominator"]),
            num_tokens=int(told["num_tokens"]),
            num_high=int(told["num_high"]),
            rows=_read_rows(told["rollouts"], numbers),
            versions=dict(told["versions"]),
        )
    except FileNotFoundError as error:
        raise RunError(
            f"{error.filename or path}: not there; expected the dump of a skipped update, as runs/NAME/{FOLDER}/update-000014"
        ) from error
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        ArithmeticError,
        RuntimeError,  # RecursionError too: brackets in brackets in brackets
        SafetensorError,
    ) as error:
        raise RunError(f"{folder}: not a readable dump ({type(error).__name__}: {error})") from error


def _read_rows(rollouts: Sequence[Mapping[str, Any]], numbers: Mapping[str, Tensor]) -> list[Row]:
    lengths = [int(r["tokens"]) for r in rollouts]
    answers = [n - int(r["segments"][-1]["start"]) for n, r in zip(lengths, rollouts, strict=True)]

    def parts(name: str, sizes: list[int]) -> list[list[Any]]:
        return [t.tolist() for t in torch.split(numbers[name], sizes)]

    ids, logprobs, advantages = (
        parts("token_ids", lengths),
        parts("logprobs", lengths),
        parts("advantages", answers),
    )
    old = parts("old", answers) if "old" in numbers else None
    high = parts("high", answers) if "high" in numbers else None
    return [
        Row(
            index=int(r["row"]),
            credit=Credit(
                rollout=Rollout(
                    prompt_id=str(r["prompt_id"]),
                    token_ids=ids[k],
                    logprobs=logprobs[k],
                    segments=[Segment(**s) for s in r["segments"]],
                    policy_version=int(r["policy_version"]),
                    finish_reason=cast(Any, r["finish_reason"]),
                    text=r["text"],
                    score=None if r["score"] is None else Score(float(r["score"]), reason=str(r["reason"])),
                ),
                advantages=advantages[k],
                weight=float(numbers["weight"][k]),
                share=float(numbers["share"][k]),
                surrogate=cast(Any, r["surrogate"]),
                group=int(r["group"]),
            ),
            old=None if old is None else old[k],
            high=None if high is None else high[k],
        )
        for k, r in enumerate(rollouts)
    ]
