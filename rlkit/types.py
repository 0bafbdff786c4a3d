"""What travels through the house. Know these types and you know rlkit.

Prompt -> Request -> Rollout (made of Segments) -> Score -> Group -> Credit, then tensors (`rlkit.batch.Batch`).
Everything here is frozen, holds plain Python values, pickles, and imports nothing but the standard library.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length"]
SegmentKind = Literal["prompt", "context", "completion"]
Surrogate = Literal["ppo", "cispo", "sapo", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One question as the policy will read it, with what a verifier needs to judge an answer.

    >>> Prompt(id="gsm8k-7", token_ids=[1, 40, 41, 2], text="<|user|>6*7?<|assistant|>", question="6*7?", reference="42",
    ...        skip_ids=([1], [42, 40, 41, 2]))  # doctest: +ELLIPSIS
    Prompt(id='gsm8k-7', ...)
    """

    id: str
    """Unique in its data set, the same in every run: trackers and resumes are keyed by it."""
    token_ids: list[int]
    """The rendered prompt, ready to be continued."""
    text: str = ""
    """The rendered prompt for people; nothing reads token ids back from it."""
    question: str = ""
    """The user's words alone, without template."""
    reference: str | None = None
    """The gold answer, or None when the verifier needs none."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The other columns of the data row, for verifiers that want them."""
    skip_ids: tuple[list[int], list[int]] | None = None
    """The same template with room for a segment placed before the question, in the user turn: token ids before
    and after that room (SKPO's [s, q], papers.md 1.2 format A). None: the data room was not asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Ask a sampler for `n` continuations of the same token ids.

    >>> Request(prompt_id="gsm8k-7", token_ids=[1, 40, 41, 2], n=8, max_tokens=64, temperature=1.0, seed=5).n
    8
    """

    prompt_id: str
    token_ids: list[int]
    n: int
    max_tokens: int
    temperature: float
    """0.0 is greedy; then log-probs are those of the untempered distribution."""
    seed: int
    """The same request gives the same continuations; continuation i is seeded by (seed, i)."""
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit."""
    min_p: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """`token_ids[start:end]` of a rollout and who wrote them.

    kind: `prompt` (data and template), `context` (written by the policy earlier and given back as prompt, SKPO's s
    inside [s, q]), or `completion` (sampled here; the only kind that is trained).

    >>> Segment(kind="completion", start=4, end=9).end
    9
    """

    kind: SegmentKind
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Score:
    """A verdict: a number, or None when the verifier cannot judge (skip), or an error of the verifier itself.

    The three never mix: a skip and an error both leave the group (they are not wrong answers); errors are counted
    and stop the run above a set share.

    >>> Score(1.0, reason="read '42'").outcome, Score(None, reason="no gold answer").outcome
    ('score', 'skip')
    >>> Score(None, reason="timed out after 5 s", error=True).outcome
    'error'
    """

    value: float | None
    reason: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named parts of a weighted sum, before their weights."""
    error: bool = False

    @property
    def outcome(self) -> Literal["score", "skip", "error"]:
        if self.error:
            return "error"
        return "skip" if self.value is None else "score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One finished sequence, prompt included; `logprobs` is as long as `token_ids`, and segments tile them.

    >>> r = Rollout(prompt_id="gsm8k-7", token_ids=[1, 40, 2, 50, 3], logprobs=[0.0, 0.0, 0.0, -0.7, -0.1],
    ...             segments=[Segment(kind="prompt", start=0, end=3), Segment(kind="completion", start=3, end=5)],
    ...             policy_version=12, finish_reason="stop")
    >>> r.completion_ids, r.completion_logprobs
    ([50, 3], [-0.7, -0.1])
    """

    prompt_id: str
    token_ids: list[int]
    logprobs: list[float]
    """Of the distribution really sampled from (temperature and truncation included), nats; 0.0 on tokens not sampled here."""
    segments: list[Segment]
    policy_version: int
    """How many weight updates the weights that wrote it had seen, at its first token."""
    finish_reason: FinishReason
    """`stop`: the policy ended its answer (the stop token is in token_ids); `length`: it was cut at max_tokens."""
    text: str | None = None
    """The completion decoded for verifiers and people, filled in with the score."""
    score: Score | None = None
    """None: not verified."""
    later_versions: tuple[tuple[int, int], ...] = ()
    """(index in token_ids, version) from which newer weights wrote on, in order. Empty: no update came while it was written."""

    @property
    def newest_version(self) -> int:
        """Of the weights that wrote its last token."""
        return self.later_versions[-1][1] if self.later_versions else self.policy_version

    @property
    def prompt_tokens(self) -> int:
        return self.segments[-1].start

    @property
    def completion_ids(self) -> list[int]:
        return self.token_ids[self.prompt_tokens :]

    @property
    def completion_logprobs(self) -> list[float]:
        return self.logprobs[self.prompt_tokens :]

    @property
    def value(self) -> float | None:
        """The score's number; None when there is none to use (not verified, skip, error)."""
        return None if self.score is None or self.score.error else self.score.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rollouts of one prompt, compared with each other; `children` hang under the rollouts they continue.

    GRPO: one group per prompt, no children. SKPO: the group holds the one selected upstream segment; its first child
    holds the G downstream answers to [s, q]. Only groups without children are verified.

    >>> Group(prompt=Prompt(id="a", token_ids=[1]), rollouts=[]).children
    []
    """

    prompt: Prompt
    rollouts: list[Rollout]
    children: list["Group"] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """What one rollout is trained on: numbers beside its tokens, so that no later room needs to know the algorithm.

    The loss of a mini-batch is  -sum_tokens(weight * objective(ratio, advantage)) / sum_rollouts(share).

    GRPO, a correct answer of 4 tokens among 3 right of 8 (population std), and its 1/|o| normaliser:

    >>> r = Rollout(prompt_id="a", token_ids=[1, 5, 6, 7, 3], logprobs=[0.0, -1.0, -1.0, -1.0, -1.0],
    ...             segments=[Segment(kind="prompt", start=0, end=1), Segment(kind="completion", start=1, end=5)],
    ...             policy_version=0, finish_reason="stop")
    >>> Credit(rollout=r, advantages=[1.291] * 4, weight=0.25, share=1.0).surrogate
    'ppo'
    """

    rollout: Rollout
    advantages: list[float]
    """One per token of the rollout's completion."""
    weight: float
    """Multiplies every term of this rollout's loss, its normaliser included."""
    share: float
    """What this rollout adds to the mini-batch's denominator. It stays when the rollout itself costs no forward."""
    surrogate: Surrogate = "ppo"
    """Which objective its tokens take (rlkit/algos/objective.py)."""
    group: int = 0
    """Index of the top-level group (prompt) it came from: mini-batches never split a group."""


Sample = Callable[[Sequence[Request]], list[list[Rollout]]]
"""One list of n rollouts per request, in the order of the requests."""

State = dict[str, Any]
"""What an object must keep across a restart: JSON values, and for algorithms torch tensors as values of its dictionaries
(rlkit/checkpoint.py keeps those bit for bit; thousands of numbers belong in one)."""


class Sampler(Protocol):
    """Writes text: token ids in, token ids out."""

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """`n` rollouts for each request, in order. Raises RolloutError when the contract cannot be kept."""
        ...

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Replace the weights by the learner's state dict (name -> tensor); later rollouts carry `version`."""
        ...

    def rest(self) -> None:
        """Nothing will be asked before the next `load`: give memory to the learner, if the two share a device."""
        ...

    def forget(self) -> None:
        """Drop what earlier requests left behind (cached prompts), so that the next call depends on its own requests alone."""
        ...

    def halt(self) -> None:
        """Called from another thread: nobody wants what is being written. `sample` raises soon, and again until the next `load`."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """What there is to tell since the last call, as `sampler/...`; empty where nothing can go wrong by itself."""
        ...

    def close(self) -> None: ...


class Verifier(Protocol):
    """Judges one answer. Picklable, and quick to say 'cannot judge': it never guesses and never catches everything.

    What else a verifier may tell about itself (its range, how a right answer is written) is in rlkit/rewards/contract.py.
    """

    def __call__(self, prompt: Prompt, text: str) -> Score: ...


class AsyncVerifier(Protocol):
    """A Verifier that waits for something else (a server, a program): one process runs several of its calls at once."""

    async def __call__(self, prompt: Prompt, text: str) -> Score: ...


class BatchVerifier(Protocol):
    """A verifier that judges many answers in one go, in order; it needs no `__call__`."""

    @property
    def batch_size(self) -> int:
        """Answers that it takes at once, at most."""
        ...

    def batch(self, items: Sequence[tuple[Prompt, str]]) -> Sequence[Score] | Awaitable[Sequence[Score]]: ...


AnyVerifier = Verifier | AsyncVerifier | BatchVerifier


class Task(Protocol):
    """A procedural task: prompts, their truth, and an exact verifier, all from a seed.

    Items are numbered; item i of a split is the same in every run, and the two splits share no question.
    """

    @property
    def name(self) -> str: ...

    @property
    def max_completion_length(self) -> int:
        """Tokens of the tiny tokenizer that the longest right answer of any style needs."""
        ...

    @property
    def styles(self) -> Mapping[str, str]:
        """First word of an answer -> the style that it begins, where the first word decides; else empty."""
        ...

    def item(self, split: Literal["train", "test"], index: int) -> Mapping[str, Any]:
        """A row: `prompt` (the user's words), `answer` (gold, as a verifier reads it), and whatever else it knows."""
        ...

    def verify(self, prompt: Prompt, text: str) -> Score: ...

    def demonstration(self, item: Mapping[str, Any], rng: random.Random, practice: bool = False) -> str:
        """One completion as the imitated base model would write it, its style drawn in the stated shares.

        practice: in shares that teach more (most of an answer's difficulty is in the long styles)
        """
        ...
