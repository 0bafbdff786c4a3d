"""What the tables of a run's looks at itself (dynamics/) hold for one step or one answer."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import tables
from .figures.base import Floats
from .run import Run

MAP_COLUMNS, MAP_ROWS = 60, 20
"""Of the map of entropy: steps and parts of an answer."""
TOKEN = (
    *("row", "position", "token_id", "token", "advantage", "logp_before", "logp_after", "entropy_before"),
    *("entropy_after", "top_ids", "top_tokens", "top_logp_before", "top_logp_after"),
)
VERDICT = (
    "text",
    "score",
    "outcome",
    "reason",
    "finish_reason",
    "prompt_id",
    "prompt_tokens",
    "token_ids",
    "role",
)


@dataclass(frozen=True, slots=True)
class Moved:
    """Sampled tokens of a step, before and after its update. N tokens, probabilities."""

    before_N: Floats
    after_N: Floats
    advantage_N: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of an answer as it is shown. Probabilities in [0, 1], entropies in nats; None: not known there."""

    text: str
    before: float
    after: float
    advantage: float | None
    entropy: float | None
    entropy_after: float | None
    top: list[tuple[str, float, float]]
    """The likeliest before: text, probability before and after."""
    top_mass: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One of the answers that a step looked at."""

    row: int
    role: str
    prompt_id: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    text: str
    role: str
    count: int
    value: float
    pull: float
    before: float
    after: float
    predicted: float
    measured: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where answers of one prompt part."""

    position: int
    prefix: str
    members: int
    mean: float
    source: str
    candidates: list[Candidate]


def moved(run: Run, step: int) -> Moved | None:
    """None: there is no such table, or it cannot be read."""
    columns = tables.track(run.folder, "tokens", step, ("advantage", "logp_before", "logp_after"))
    if not columns:
        return None
    arrays = [np.asarray(columns[name], np.float64) for name in ("logp_before", "logp_after", "advantage")]
    return Moved(np.exp(arrays[0]), np.exp(arrays[1]), arrays[2])


def entropy_map(run: Run) -> tuple[list[int], Floats]:
    """Tracked steps, evenly spread, and mean entropy before the update by relative position in the answer. [P, S], nats"""
    known = run.tracked("tokens")
    if not known:
        return [], np.empty((MAP_ROWS, 0))
    chosen = sorted(
        {known[i] for i in np.linspace(0, len(known) - 1, min(MAP_COLUMNS, len(known))).round().astype(int)}
    )
    steps, nats = [], []
    for step in chosen:
        columns = tables.track(run.folder, "tokens", step, ("row", "position", "entropy_before"))
        if columns and columns["row"]:
            steps.append(step)
            nats.append(
                _by_position(*(np.asarray(columns[n]) for n in ("row", "position", "entropy_before")))
            )
    return steps, np.array(nats).T if nats else np.empty((MAP_ROWS, 0))


def _by_position(row_N: Any, position_N: Any, nats_N: Any) -> Floats:
    """Mean over answers of the token at each of MAP_ROWS places in it, from its first to its last. [P]"""
    order = np.lexsort((position_N, row_N))
    starts = np.flatnonzero(np.diff(row_N[order], prepend=row_N[order][0] - 1))
    places_P = (np.arange(MAP_ROWS) + 0.5) / MAP_ROWS
    nats = [some[(places_P * len(some)).astype(int)] for some in np.split(nats_N[order], starts[1:])]
    return np.asarray(np.mean(nats, axis=0), np.float64)


def answers(run: Run, step: int) -> list[Answer]:
    """The answers that a step looked at, in the order of their rows."""
    columns = tables.track(run.folder, "tokens", step, ("row", "role", "prompt_id"))
    found: dict[int, Answer] = {}
    for row, role, prompt_id in zip(*columns.values(), strict=True) if columns else ():
        tokens = found[row].tokens + 1 if row in found else 1
        found[row] = Answer(row=row, role=role, prompt_id=prompt_id, tokens=tokens)
    return [found[row] for row in sorted(found)]


def tokens(run: Run, step: int, row: int) -> list[Token]:
    """One answer, token by token."""
    columns = tables.track(run.folder, "tokens", step, TOKEN)
    if not columns:
        return []
    places = sorted(
        (i for i, r in enumerate(columns["row"]) if r == row), key=lambda i: int(columns["position"][i])
    )
    return [_token({name: columns[name][i] for name in TOKEN}) for i in places]


def _token(c: dict[str, Any]) -> Token:
    top = [
        (text, _p(before), _p(after))
        for text, before, after in zip(
            c["top_tokens"] or [], c["top_logp_before"] or [], c["top_logp_after"] or [], strict=False
        )
    ]
    return Token(
        text=c["token"] or "",
        before=_p(c["logp_before"]),
        after=_p(c["logp_after"]),
        advantage=c["advantage"],
        entropy=c["entropy_before"],
        entropy_after=c["entropy_after"],
        top=top,
    )


def probe_answers(run: Run) -> list[Answer]:
    """The answers of the first policy that are looked at again and again."""
    columns = tables.track(run.folder, "probe", next(iter(run.tracked("probe")), 0), ("answer", "prompt_id"))
    found: dict[int, Answer] = {}
    for answer, prompt_id in zip(*columns.values(), strict=True) if columns else ():
        count = found[answer].tokens + 1 if answer in found else 1
        found[answer] = Answer(row=answer, role="answer", prompt_id=prompt_id, tokens=count)
    return [found[answer] for answer in sorted(found)]


def probe_tokens(run: Run, step: int, answer: int) -> list[Token]:
    """One probe answer: `before` is under the first policy, `after` under the weights after this step."""
    known = run.tracked("probe")
    if not known:
        return []
    names = ("answer", "position", "token", "logp", "entropy", "top_mass")
    first, now = (tables.track(run.folder, "probe", s, names) for s in (known[0], step))
    starts = {
        position: (logp, entropy)
        for a, position, _, logp, entropy, _ in (zip(*first.values(), strict=True) if first else ())
        if a == answer
    }
    rows = sorted(
        (row for row in (zip(*now.values(), strict=True) if now else ()) if row[0] == answer),
        key=lambda row: int(row[1]),
    )
    return [
        Token(
            text=token or "",
            before=_p(starts.get(position, (logp, 0.0))[0]),
            after=_p(logp),
            advantage=None,
            entropy=starts[position][1] if position in starts else None,
            entropy_after=entropy,
            top=[],
            top_mass=top_mass,
        )
        for _, position, token, logp, entropy, top_mass in rows
    ]


def decisions(run: Run, step: int, prompt_id: str | None = None) -> list[Decision]:
    """Where the answers looked at part; of one prompt, or of all."""
    names = (
        *(
            "prompt_id",
            "position",
            "prefix",
            "members",
            "mean",
            "source",
            "tokens",
            "roles",
            "counts",
            "values",
        ),
        *("pulls", "logp_before", "logp_after", "predicted"),
    )
    columns = tables.track(run.folder, "decisions", step, names)
    found = []
    for row in zip(*columns.values(), strict=True) if columns else ():
        c = dict(zip(names, row, strict=True))
        if prompt_id is not None and c["prompt_id"] != prompt_id:
            continue
        lists = ("tokens", "roles", "counts", "values", "pulls", "logp_before", "logp_after", "predicted")
        candidates = [
            Candidate(
                text=text or "",
                role=role or "other",
                count=count,
                value=value,
                pull=pull,
                before=_p(old),
                after=_p(new),
                predicted=said,
                measured=new - old,
            )
            for text, role, count, value, pull, old, new, said in zip(*(c[n] for n in lists), strict=False)
        ]
        found.append(
            Decision(
                position=c["position"],
                prefix=c["prefix"] or "",
                members=c["members"],
                mean=c["mean"],
                source=c["source"] or "",
                candidates=candidates,
            )
        )
    return sorted(found, key=lambda d: d.position)


def verdict(run: Run, step: int, row: int) -> dict[str, Any]:
    """What was decided about a row of a step's rollouts; {}: rollouts were not kept, or are not written yet."""
    columns = tables.rollouts(run.folder, step, VERDICT)
    if not columns or not 0 <= row < len(columns["text"]):
        return {}
    return {name: columns[name][row] for name in VERDICT}


def _p(logp: float | None) -> float:
    return float(np.exp(logp)) if logp is not None else float("nan")
