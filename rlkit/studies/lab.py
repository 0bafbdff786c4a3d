"""What every study works with: prompts, a sampler, verdicts, and a folder in which nothing is drawn twice."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlkit.algos.ops import seed_of
from rlkit.analysis.store import encodable
from rlkit.analysis.study_store import Row, StudyStore
from rlkit.analyze_config import StudyConfig
from rlkit.errors import RolloutError
from rlkit.types import Prompt, Request, Rollout, Sampler, Score, Task

if TYPE_CHECKING:
    from rlkit.verify import Scorer

Ids = tuple[int, ...]
Tick = Callable[[int, int], None]
"""So many are done, of so many."""
Score_ = float | None
"""None: nobody could judge."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is continued: the prompt's own template followed by a prefix, or (`skip`) the prefix before the question."""

    prompt_id: str
    prefix: Ids
    kind: str = "continual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer of the model, judged."""

    prompt: Prompt
    member: int
    ids: Ids
    """With its stop token, if it ended itself."""
    ended: bool
    score: Score_
    text: str

    def cut(self, share: float) -> Ids:
        """The first `share` of its tokens: at least the first one, never the last.

        >>> Answer(prompt=Prompt(id="a", token_ids=[1]), member=0, ids=(5, 6, 7, 8, 2), ended=True, score=1.0, text="").cut(0.5)
        (5, 6)
        """
        return self.ids[: min(max(1, round(share * len(self.ids))), len(self.ids) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Continuations of one prefix, in the order of their seeds."""

    scores: list[float]
    """nan: nobody could judge."""
    tokens: list[int]
    """Lengths, without the prefix."""
    finals: list[str | None]
    """Final answers, as a vote would count them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """One model, ready to be asked."""

    cfg: StudyConfig
    model: str
    """As the user named it."""
    task: Task | None
    prompts: Sequence[Prompt]
    sampler: Sampler
    scorer: "Scorer"
    read: "Scorer | None"
    """Reads final answers, as reasons; None: what the reward judges has none."""
    decode: Callable[[Sequence[int]], str]
    longest: int
    """Tokens of one answer."""
    store: StudyStore

    # -- whole answers -------------------------------------------------------------------------------------------------

    def answers(self, prompts: Sequence[Prompt], count: int, progress: Tick) -> list[Answer]:
        """`count` answers to each prompt, drawn where the folder has none; by prompt, then by member."""
        known = {
            (row["prompt_id"], row["member"]): row
            for row in self.store.read("answers")
            if row["model"] == encodable(self.model)
        }
        wanted = [(p, i) for p in prompts for i in range(count)]
        left = [(p, i) for p, i in wanted if (encodable(p.id), i) not in known]
        done = len(wanted) - len(left)
        progress(done, len(wanted))
        for start in range(0, len(left), self.cfg.batch):
            part = left[start : start + self.cfg.batch]
            rows = self._answer_rows(part)
            self.store.write("answers", rows)
            known |= {(row["prompt_id"], row["member"]): row for row in rows}
            done += len(part)
            progress(done, len(wanted))
        return [_answer(p, known[encodable(p.id), i]) for p, i in wanted]

    def _answer_rows(self, part: Sequence[tuple[Prompt, int]]) -> list[Row]:
        drawn = self._sample([self._request(p, p.token_ids, 0, 1, "answer", i) for p, i in part])
        texts = [self.decode(r.completion_ids) for (r,) in drawn]
        scores = self.judge([(p, text) for (p, _), text in zip(part, texts, strict=True)])
        return [
            {
                "model": encodable(self.model),
                "prompt_id": encodable(p.id),
                "member": i,
                "token_ids": r.completion_ids,
                "ended": r.finish_reason == "stop",
                "score": score,
                "text": encodable(text),
            }
            for (p, i), (r,), text, score in zip(part, drawn, texts, scores, strict=True)
        ]

    # -- continuations -------------------------------------------------------------------------------------------------

    def continuations(
        self,
        wanted: Mapping[Key, int],
        progress: Tick,
        heads: Mapping[Key, list[int]] | None = None,
    ) -> dict[Key, Draws]:
        """So many continuations of each prefix, those in the folder among them.

        heads: what the sampler reads, where it is not the prompt followed by the prefix
        """
        owners = {p.id: p for p in self.prompts}
        found = self._stored()
        left = []  # (key, first, count): the spans that the folder lacks
        done, total = 0, sum(wanted.values())
        for key, count in wanted.items():
            have = len(found[key].scores) if key in found else 0
            done += min(have, count)
            while have < count:
                span = min(SPAN - have % SPAN, count - have)
                left.append((key, have, span))
                have += span
        progress(done, total)
        # A batch runs until its longest row ends: spans of like length together.
        left.sort(key=lambda item: (-len(item[0].prefix), item[1]))
        for part in _parts(left, self.cfg.batch):
            rows = self._draw_rows(part, owners, heads or {})
            self.store.write("draws", rows)
            done += sum(count for _, _, count in part)
            progress(done, total)
        found = self._stored()
        return {key: _first(found[key], count) for key, count in wanted.items()}

    def _draw_rows(
        self,
        part: Sequence[tuple[Key, int, int]],
        owners: Mapping[str, Prompt],
        heads: Mapping[Key, list[int]],
    ) -> list[Row]:
        requests = []
        for key, first, count in part:
            prompt = owners[key.prompt_id]
            head = heads.get(key) or [*prompt.token_ids, *key.prefix]
            requests.append(
                self._request(prompt, head, len(key.prefix), count, key.kind, (key.prefix, first))
            )
        drawn = self._sample(requests)
        items = []
        for (key, _, _), rollouts in zip(part, drawn, strict=True):
            before = [] if key.kind == "skip" else list(key.prefix)  # an answer to [s, q] stands alone
            items += [(owners[key.prompt_id], self.decode([*before, *r.completion_ids])) for r in rollouts]
        scores, finals = iter(self.judge(items)), iter(self.final_answers(items))
        return [
            {
                "model": encodable(self.model),
                "prompt_id": encodable(key.prompt_id),
                "kind": key.kind,
                "prefix": list(key.prefix),
                "first": first,
                "scores": [_number(next(scores)) for _ in rollouts],
                "tokens": [len(r.completion_ids) for r in rollouts],
                "finals": [next(finals) for _ in rollouts],
            }
            for (key, first, _), rollouts in zip(part, drawn, strict=True)
        ]

    def _stored(self) -> dict[Key, Draws]:
        names = {encodable(p.id): p.id for p in self.prompts}
        rows = [r for r in self.store.read("draws") if r["model"] == encodable(self.model)]
        rows.sort(key=lambda row: row["first"])
        found: dict[Key, Draws] = {}
        for row in rows:
            if row["prompt_id"] not in names:
                continue
            key = Key(names[row["prompt_id"]], tuple(row["prefix"]), row["kind"])
            known = found.setdefault(key, Draws(scores=[], tokens=[], finals=[]))
            if row["first"] == len(known.scores):
                known.scores.extend(row["scores"])
                known.tokens.extend(row["tokens"])
                known.finals.extend(row["finals"])
        return found

    # -- asking and judging --------------------------------------------------------------------------------------------

    def _request(
        self, prompt: Prompt, ids: Sequence[int], used: int, count: int, kind: str, which: object
    ) -> Request:
        sampler = self.cfg.sampler
        return Request(
            prompt_id=prompt.id,
            token_ids=list(ids),
            n=count,
            max_tokens=max(1, self.longest - used),
            temperature=sampler.temperature,
            top_p=sampler.top_p,
            top_k=sampler.top_k,
            min_p=sampler.min_p,
            seed=seed_of(self.cfg.seed, "study", kind, prompt.id, which),
        )

    def _sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        self.sampler.forget()  # what was asked before changes a logit's last bits (vLLM's cached prompts)
        return self.sampler.sample(requests)

    def judge(self, items: Sequence[tuple[Prompt, str]]) -> list[Score_]:
        """Rewards; texts that occur more than once are judged once. RolloutError when too many verdicts are errors."""
        found = _once(self.scorer, items)
        errors = [i for i, s in enumerate(found) if s.error]
        if len(errors) > self.cfg.reward.max_error_share * len(found):
            prompt, text = items[errors[0]]
            raise RolloutError(
                f"{len(errors)} of {len(found)} verdicts are errors, more than --reward.max-error-share "
                f"{self.cfg.reward.max_error_share}. The first: prompt {prompt.id}, answer {text[-80:]!r}: {found[errors[0]].reason}"
            )
        return [s.value if s.outcome == "score" else None for s in found]

    def final_answers(self, items: Sequence[tuple[Prompt, str]]) -> list[str | None]:
        if self.read is None:
            return [None] * len(items)
        return [encodable(s.reason) if s.outcome == "score" else None for s in _once(self.read, items)]


SPAN = 512
"""Continuations of one request, at most; a larger number is asked for in several."""


def _once(scorer: "Scorer", items: Sequence[tuple[Prompt, str]]) -> list[Score]:
    distinct = list(dict.fromkeys((prompt.id, text) for prompt, text in items))
    owners = {prompt.id: prompt for prompt, _ in items}
    verdicts = scorer.score([(owners[id_], text) for id_, text in distinct])
    known = dict(zip(distinct, verdicts, strict=True))
    return [known[prompt.id, text] for prompt, text in items]


def _answer(prompt: Prompt, row: Row) -> Answer:
    return Answer(
        prompt=prompt,
        member=row["member"],
        ids=tuple(row["token_ids"]),
        ended=row["ended"],
        score=row["score"],
        text=row["text"],
    )


def _number(score: Score_) -> float:
    return math.nan if score is None else score


def _parts(left: Sequence[tuple[Key, int, int]], batch: int) -> Iterator[list[tuple[Key, int, int]]]:
    part: list[tuple[Key, int, int]] = []
    for item in left:
        if part and sum(count for _, _, count in part) + item[2] > batch:
            yield part
            part = []
        part.append(item)
    if part:
        yield part


def _first(draws: Draws, count: int) -> Draws:
    return Draws(scores=draws.scores[:count], tokens=draws.tokens[:count], finals=draws.finals[:count])
