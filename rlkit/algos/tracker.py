"""What each prompt is worth to the present policy: the value tracker of SPO (arXiv:2509.13232), which SKPO shares.

For every prompt met: a running score V in [0, 1], a discounted number of visits N, a running length L, and the last
response with its log-probs. At the next visit that response is scored again, and the further the policy has moved from
it, the less of the past counts:

    D    = mean over the response's tokens of |log-prob then - log-prob now|        nats per token
    rho  = 2^(-D / half-life), kept in [rho_min, rho_max];   eta = 1 / (rho N + 1)
    V   += eta (score - V);   N = rho N + 1;   L moves by the same eta

With N = alpha + beta and V = alpha / N this is the Beta(alpha, beta) of the paper, forgotten at rate rho; this form
takes scores between 0 and 1 too (papers.md 2.1).
"""

import statistics
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from rlkit.types import Prompt, Rollout, Segment, State


class TrackerSettings(Protocol):
    """What a tracker reads of an algorithm's settings."""

    @property
    def rho_min(self) -> float: ...
    @property
    def rho_max(self) -> float: ...
    @property
    def tau_half(self) -> float: ...
    @property
    def priority_eps(self) -> float: ...


@dataclass(slots=True)
class Record:
    """What is remembered of one prompt. Responses are arrays: lists take nine times the memory.

    >>> from rlkit.algo_own import SkpoConfig
    >>> r = Record(length=1024.0)
    >>> r.observe(score=0.375, length=100.0, drift=0.0, cfg=SkpoConfig()), r.value, r.visits, r.length
    (0.96, 0.375, 1.0, 100.0)
    """

    length: float
    """Running length of a response, tokens."""
    value: float = 0.5
    """Running score in [0, 1]."""
    visits: float = 0.0
    """Discounted number of observations; 0: the first one replaces the value."""
    response: "array[int]" = field(default_factory=lambda: array("i"))
    """The last visit's response, token ids; empty before the first."""
    logprobs: "array[float]" = field(default_factory=lambda: array("f"))
    """Its log-probs then, nats; `exact_array` chooses the width."""

    def observe(self, *, score: float, length: float, drift: float, cfg: TrackerSettings) -> float:
        """Fold in one visit and return rho, the share of the past it kept (papers.md 1.4 and 2.1).

        drift: D, nats per token; 0 on a first visit
        """
        rho = min(max(2 ** (-drift / cfg.tau_half), cfg.rho_min), cfg.rho_max)
        eta = 1 / (rho * self.visits + 1)
        self.value += eta * (score - self.value)
        self.length += eta * (length - self.length)
        self.visits = rho * self.visits + 1
        return rho


def exact_array(values: Sequence[float]) -> "array[float]":
    """float32 when that holds every value exactly, as it does a sampler's log-probs; float64 otherwise.

    >>> exact_array([-0.5, -1.25]).typecode, exact_array([-0.1]).typecode
    ('f', 'd')
    """
    narrow = array("f", values)
    return narrow if all(a == b for a, b in zip(narrow, values, strict=True)) else array("d", values)


class Tracker:
    """The records of all prompts met, by prompt id.

    initial_length: running length of a prompt never met, tokens
    initial_visits: what the neutral value 0.5 counts for there, in visits; 0: the first score replaces it
    """

    def __init__(self, cfg: TrackerSettings, *, initial_length: float, initial_visits: float = 0.0) -> None:
        self.cfg = cfg
        self.initial_length, self.initial_visits = initial_length, initial_visits
        self.records: dict[str, Record] = {}

    def value(self, prompt_id: str) -> float:
        record = self.records.get(prompt_id)
        return 0.5 if record is None else record.value

    def length(self, prompt_id: str) -> float:
        record = self.records.get(prompt_id)
        return self.initial_length if record is None else record.length

    def weights(self, ids: Sequence[str]) -> list[float]:
        """sqrt(V (1 - V)) + eps: prompts that are neither easy nor hopeless come more often (papers.md 2.1)."""
        values = (self.value(i) for i in ids)
        return [max(v * (1 - v), 0.0) ** 0.5 + self.cfg.priority_eps for v in values]

    def start(self, prompt_id: str, value: float, visits: float) -> None:
        """Begin a prompt's record with a value known from elsewhere, which counts for so many visits."""
        self.records[prompt_id] = Record(length=self.initial_length, value=value, visits=visits)

    # -- how far the policy has drifted --------------------------------------------------------------------------------

    def stored(self, prompts: Sequence[Prompt]) -> list[Rollout]:
        """The response of each prompt's last visit, to be scored again; none for a prompt never met."""
        return [self._response(p) for p in prompts if self.has_response(p.id)]

    def drifts(self, prompts: Sequence[Prompt], rescored: Sequence[Sequence[float]]) -> list[float]:
        """D of each prompt, nats per token; 0 for one never met.

        rescored: present log-probs of what `stored` returned for these prompts
        """
        now = iter(rescored)
        return [
            statistics.fmean(abs(a - b) for a, b in zip(self.records[p.id].logprobs, next(now), strict=True))
            if self.has_response(p.id)
            else 0.0
            for p in prompts
        ]

    def has_response(self, prompt_id: str) -> bool:
        return prompt_id in self.records and bool(self.records[prompt_id].logprobs)

    def _response(self, prompt: Prompt) -> Rollout:
        record, start = self.records[prompt.id], len(prompt.token_ids)
        end = start + len(record.response)
        return Rollout(
            prompt_id=prompt.id,
            token_ids=[*prompt.token_ids, *record.response],
            logprobs=[0.0] * start + list(record.logprobs),
            segments=[
                Segment(kind="prompt", start=0, end=start),
                Segment(kind="completion", start=start, end=end),
            ],
            policy_version=0,
            finish_reason="length",
        )

    # -- a visit -------------------------------------------------------------------------------------------------------

    def visit(
        self, response: Rollout, logprobs: Sequence[float], *, score: float, length: float, drift: float
    ) -> tuple[float, float]:
        """Fold in one visit; returns the value BEFORE it, which is the baseline, and rho.

        logprobs: of the response's tokens, to be compared with at the next visit, nats
        """
        record = self.records.get(response.prompt_id)
        if record is None:
            record = Record(length=self.initial_length, visits=self.initial_visits)
            self.records[response.prompt_id] = record
        before = record.value
        rho = record.observe(score=score, length=length, drift=drift, cfg=self.cfg)
        record.response = array("i", response.completion_ids)
        record.logprobs = exact_array(logprobs)
        return before, rho

    def metrics(self, ids: Sequence[str], rhos: Sequence[float]) -> dict[str, float]:
        """Numbers of the last visits, to the prompts `ids`: their values now, and the memory they kept."""
        return {
            "value": statistics.fmean(self.records[i].value for i in ids) if ids else 0.5,
            "rho_min": min(rhos, default=0.0),
            "rho_mean": statistics.fmean(rhos) if rhos else 0.0,
            "rho_max": max(rhos, default=0.0),
            "prompts_met": float(len(self.records)),
        }

    # -- what must survive ---------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Ids, and one tensor per field over all prompts: as JSON it would be over three times as large, and take a hundred times as long."""
        records = list(self.records.values())
        width = "f" if all(r.logprobs.typecode == "f" for r in records) else "d"
        return {
            "ids": list(self.records),
            "length": torch.tensor([r.length for r in records], dtype=torch.float64),
            "value": torch.tensor([r.value for r in records], dtype=torch.float64),
            "visits": torch.tensor([r.visits for r in records], dtype=torch.float64),
            "tokens": torch.tensor([len(r.response) for r in records], dtype=torch.int64),
            "response": _joined("i", [r.response for r in records]),
            "logprobs": _joined(width, [r.logprobs for r in records]),
        }

    def load_state_dict(self, state: State) -> None:
        tokens: list[int] = state["tokens"].tolist()
        columns = (state[name].tolist() for name in ("length", "value", "visits"))
        texts = (_cut(state[name], tokens) for name in ("response", "logprobs"))
        self.records = {
            i: Record(
                length=length,
                value=value,
                visits=visits,
                response=response,
                logprobs=logprobs if logprobs.typecode == "f" else exact_array(logprobs),
            )
            for i, length, value, visits, response, logprobs in zip(
                state["ids"], *columns, *texts, strict=True
            )
        }


TYPES = {"i": torch.int32, "f": torch.float32, "d": torch.float64}
"""Of an array's typecode."""


def _joined(code: str, parts: "Sequence[array[Any]]") -> Tensor:
    """All parts, one after the other, as a tensor of its own."""
    whole: array[Any] = array(code)
    for part in parts:
        whole.extend(part if part.typecode == code else array(code, part))
    return torch.frombuffer(whole, dtype=TYPES[code]) if whole else torch.empty(0, dtype=TYPES[code])


def _cut(whole: Tensor, lengths: Sequence[int]) -> "Iterator[array[Any]]":
    """`_joined` undone."""
    code = next(c for c, dtype in TYPES.items() if dtype == whole.dtype)
    start = 0
    for length in lengths:
        part: array[Any] = array(code)
        part.frombytes(whole[start : start + length].numpy().tobytes())
        start += length
        yield part
