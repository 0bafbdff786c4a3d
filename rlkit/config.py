"""Every setting of rlkit: one frozen dataclass per room, its meaning under each field, its bounds beside it.

The same classes are the flags (`--learner.learning-rate 1e-4`), the TOML file (`[learner]` / `learning_rate = 1e-4`)
and the `config.toml` of a run folder. Names are TRL's where TRL has one. Only the standard library is imported here.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from rlkit.algo_config import AlgoConfig
from rlkit.algo_presets import GrpoConfig
from rlkit.errors import require
from rlkit.learner_config import LearnerConfig as LearnerConfig  # rooms of the configs below
from rlkit.log_config import LogConfig as LogConfig
from rlkit.sampler_config import SamplerConfig as SamplerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The policy."""

    name: str = "tiny"
    """A local folder, a hub id (Qwen/Qwen2.5-Math-7B), a short name (Qwen2.5-Math-7B), or `tiny`, the embedded model."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the weights and the forward pass; auto: bfloat16 on a GPU, float32 on a CPU."""
    revision: str | None = None
    """Branch, tag or commit on the hub; none: its main branch."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The prompts."""

    name: str = "task:chain"
    """`task:NAME` (see `rlkit tasks`), `reasoning_gym:NAME`, a file (jsonl, csv, parquet) or folder of them, a hub data set, or your own `file.py:attr`."""
    split: str = "train"
    """Split of a hub data set or a folder."""
    pool: int = 256
    """Training prompts of a procedural task, drawn once and met again every epoch (value trackers need prompts that return). 0: endless, every prompt new."""
    limit: int | None = None
    """Use only the first rows; none: all."""
    held_out: str | None = None
    """Prompts to evaluate on, named like `data.name`; none: the task's own held-out questions, or no evaluation."""
    prompt_column: str | None = None
    """Column of the question; none: recognised by name (prompt, problem, question, input, ...)."""
    answer_column: str | None = None
    """Column of the gold answer; none: recognised by name (answer, solution, ground_truth, ...)."""
    template: str = "auto"
    """`chat`: the tokenizer's chat template; `plain`: the question as it is; a text with {question}: that text; auto: chat if the tokenizer has one."""
    system: str | None = None
    """A system message in front of every question (chat template only)."""
    shuffle: bool = True
    """A new seeded order every epoch; off: the order of the file."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row without question or answer: stop with its place, or skip and count it."""

    def __post_init__(self) -> None:
        require(self.pool >= 0, "data.pool", self.pool, "0 (endless) or more")
        require(self.limit is None or self.limit > 0, "data.limit", self.limit, "a positive number of rows")
        known = self.template in ("auto", "chat", "plain") or "{question}" in self.template
        require(known, "data.template", self.template, "auto, chat, plain or a text that contains {question}")


def bytes_in(size: str) -> int | None:
    """A size in words as a number of bytes; None: it is no size.

    >>> bytes_in("2GiB"), bytes_in("1.5 MB"), bytes_in("many")
    (2147483648, 1500000, None)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B", size.strip())
    if found is None:
        return None
    number, unit = found.groups()
    power = " KMGT".index(unit[0]) if unit else 0
    return int(float(number) * (1024 if unit and unit.endswith("i") else 1000) ** power)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """The verdict."""

    name: str = "auto"
    """A name with its options (`math`, `code`, `format(max_tail=20)`), a weighted sum (`math+0.1*format`), your own `file.py:attr` or `pkg.mod:attr`; auto: the task's own verifier, else math."""
    workers: int = 2
    """Verifier processes. 0: in this process, without a deadline (only for verifiers that cannot hang)."""
    timeout: float = 10.0
    """Seconds for one answer; then its process is killed and replaced, and the verdict is an error."""
    memory_limit: str = "2GiB"
    """What judging may add to a verifier process, beyond what the verifier takes when it is loaded; above it the verdict is an error."""
    recycle_after: int = 10_000
    """Answers after which a verifier process is replaced, so that a verifier that leaks does not grow without end."""
    max_error_share: float = 0.2
    """Stop the run when a larger share of a step's verdicts are errors."""

    def __post_init__(self) -> None:
        require(self.workers >= 0, "reward.workers", self.workers, "0 or more processes")
        require(self.timeout > 0, "reward.timeout", self.timeout, "a positive number of seconds")
        size = bytes_in(self.memory_limit)
        require(bool(size), "reward.memory_limit", self.memory_limit, "a size, as in 512MiB or 2GiB")
        require(self.recycle_after > 0, "reward.recycle_after", self.recycle_after, "1 or more answers")
        require(
            0 <= self.max_error_share <= 1,
            "reward.max_error_share",
            self.max_error_share,
            "a share in [0, 1]",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackConfig:
    """Where probability goes: looks at whole distributions before and after an update (docs/tracking.md). It changes no number of the run."""

    every: int = 5
    """Steps between looks, besides the first step; 0: never."""
    share: float = 0.06
    """Share of a step's prompts whose answers are looked at; at least one prompt."""
    all: bool = False
    """Look at every answer of every step: two more forward passes over all of them."""
    probe: int = 8
    """Answers of the first step that are looked at again in every tracked step, to the end."""
    top_k: int = 5
    """Likeliest tokens kept of every distribution."""
    values: int = 0
    """Continuations drawn to value each candidate of a decision (Monte-Carlo); 0: means over the group's own answers."""
    points: int = 16
    """With `values`: decisions valued in one step."""

    def __post_init__(self) -> None:
        for name in ("every", "probe", "values"):
            require(getattr(self, name) >= 0, f"track.{name}", getattr(self, name), "0 (none) or more")
        for name in ("top_k", "points"):
            require(getattr(self, name) > 0, f"track.{name}", getattr(self, name), "at least 1")
        require(0 < self.share <= 1, "track.share", self.share, "a share in (0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Train a model by reinforcement learning on verifiable rewards."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    algo: AlgoConfig = field(default_factory=GrpoConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    log: LogConfig = field(default_factory=LogConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    steps: int = 100
    """Rounds of sample, verify, credit, update."""
    token_budget: int | None = None
    """Stop after the step in which this many tokens have been sampled, even before `steps`; none: no budget."""
    async_steps: int = 0
    """Steps by which rollouts run ahead of learning: those of step t + k are written while step t trains, so what is learnt from is k steps old. 0: strictly on-policy."""
    prompts_per_step: int = 32
    """Prompts of one step; each is answered num_generations times."""
    mini_batches: int = 1
    """Optimizer steps that share the rollouts of one step; whole groups each."""
    num_iterations: int = 1
    """Passes over the same rollouts (TRL)."""
    max_prompt_length: int = 1024
    """Tokens; longer prompts are dropped and counted."""
    max_completion_length: int | None = None
    """Tokens of one answer (SKPO: |s| + |o|); none: what the task needs, 512 for other data."""
    seed: int = 0
    """Data order, sampling, initialisation: two runs with one seed are equal on a CPU."""
    output_dir: str | None = None
    """The run folder; none: runs/ALGO-MODEL-TIME."""

    def __post_init__(self) -> None:
        require(self.steps > 0, "steps", self.steps, "at least 1")
        budget = self.token_budget
        require(budget is None or budget > 0, "token_budget", budget, "a positive number of tokens, or none")
        require(
            self.async_steps >= 0, "async_steps", self.async_steps, "0 (strictly on-policy) or more steps"
        )
        require(
            self.async_steps > 0 or not self.sampler.in_flight_updates,
            "sampler.in_flight_updates",
            self.sampler.in_flight_updates,
            "off without --async-steps: no answer is being written when new weights come",
        )
        require(self.prompts_per_step > 0, "prompts_per_step", self.prompts_per_step, "at least 1")
        require(self.mini_batches > 0, "mini_batches", self.mini_batches, "at least 1")
        require(
            self.mini_batches <= self.prompts_per_step,
            "mini_batches",
            self.mini_batches,
            f"at most prompts_per_step = {self.prompts_per_step}, since a mini-batch holds whole groups",
        )
        require(self.num_iterations > 0, "num_iterations", self.num_iterations, "at least 1")
        require(self.max_prompt_length > 0, "max_prompt_length", self.max_prompt_length, "at least 1 token")
        length = self.max_completion_length
        require(length is None or length > 1, "max_completion_length", length, "at least 2 tokens")
        temperature = self.sampler.temperature
        require(temperature > 0, "sampler.temperature", temperature, "more than 0 (training needs spread)")
        self.sampler.require_untruncated()
        require(
            not (self.algo.sync_ref_model and self.learner.lora_rank),
            "algo.sync_ref_model",
            True,
            "off with adapters (learner.lora_rank): the reference is the model without them, so there is no copy to move",
        )

    @property
    def updates_per_step(self) -> int:
        return self.mini_batches * self.num_iterations


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Score a model on held-out prompts: pass@k, avg@k, maj@k with 95 % intervals, and paired differences of two models."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    """As for training; `data.name` may also be a benchmark (aime24, math500, ...: docs/evaluation.md), or several: aime24,math500."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    n: int | None = None
    """Answers to each prompt; none: a benchmark's own number (AIME 32, others 3), 1 for other data. Raised later, only the missing answers are drawn."""
    k: str = "auto"
    """The k of pass@k and maj@k, as 1,2,4,...,256; auto: 1, 2, 4, ... up to n."""
    against: str | None = None
    """Compare with: another model, answering the same prompts, or the folder of an earlier evaluation, whose answers are used as they are."""
    prompts: int | None = None
    """Prompts, the first ones; none: all of a file or benchmark, 500 of a task (which has as many as you like)."""
    batch: int = 1024
    """Answers that go to the sampler together, at most, and are written together."""
    max_prompt_length: int = 1024
    """Tokens; longer prompts are dropped and counted."""
    max_completion_length: int | None = None
    """Tokens of one answer; none: what the task needs, 3072 for a benchmark, 512 for other data."""
    seed: int = 0
    """Of the answers; the prompts are always the same ones."""
    output_dir: str | None = None
    """Where the answers are kept; none: evals/MODEL-DATA-SETTINGS. The same command again goes on where it was stopped."""

    def __post_init__(self) -> None:
        n, prompts = self.n, self.prompts
        require(n is None or n > 0, "n", n, "at least 1")
        require(prompts is None or prompts > 0, "prompts", prompts, "at least 1")
        require(self.batch > 0, "batch", self.batch, "at least 1 answer")
        require(self.max_prompt_length > 0, "max_prompt_length", self.max_prompt_length, "at least 1 token")
        length = self.max_completion_length
        require(length is None or length > 0, "max_completion_length", length, "at least 1 token")
        require(
            self.sampler.temperature > 0 or n in (None, 1),
            "n",
            n,
            "1 at sampler.temperature 0: greedy decoding gives the same answer every time",
        )
        self.ks(self._largest_k())

    def ks(self, n: int) -> list[int]:
        """The k to report of n answers, in order. Raises ConfigError.

        >>> EvalConfig(k="1,2,4,...,64").ks(64), EvalConfig(n=6).ks(6), EvalConfig(k="3,1").ks(4)
        ([1, 2, 4, 8, 16, 32, 64], [1, 2, 4, 6], [1, 3])
        """
        if self.k == "auto":
            return sorted({1 << i for i in range(n.bit_length())} | {n})
        found: list[int] = []
        words = [word.strip() for word in self.k.replace("\N{HORIZONTAL ELLIPSIS}", "...").split(",")]
        for before, word in zip(["", *words], words, strict=False):
            if word == "...":
                continue
            require(
                word.isdigit() and int(word) > 0, "k", self.k, "whole numbers, as 1,2,4,...,256 or 1,10,100"
            )
            if before == "...":
                require(
                    len(found) > 0 and found[-1] < int(word),
                    "k",
                    self.k,
                    "... between a smaller and a larger number",
                )
                while found[-1] * 2 < int(word):
                    found.append(found[-1] * 2)
            found.append(int(word))
        require(words[-1] != "...", "k", self.k, "a number after ...")
        require(max(found) <= n, "k", self.k, f"at most n = {n}: pass@k needs k answers to each prompt (--n)")
        return sorted(set(found))

    def _largest_k(self) -> int:
        """What `k` is held against before n is known."""
        return self.n or 1 << 30 if self.k != "auto" else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig:
    """Warm-start a model by imitating demonstrations (TRL's SFTTrainer)."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """`tiny` starts from a fresh random model; anything else is continued."""
    data: DataConfig = field(default_factory=DataConfig)
    """`task:NAME` writes its own demonstrations; a file needs a prompt column and `completion_column`."""
    completion_column: str | None = None
    """Column of the text to imitate; none: recognised by name (completion, solution, response, ...)."""
    steps: int = 450
    """Optimizer steps."""
    batch_size: int = 64
    """Examples of one optimizer step."""
    learning_rate: float | None = None
    """Peak learning rate; none: 2e-3 for `tiny`, 1e-5 for anything else."""
    max_length: int = 512
    """Tokens of prompt and completion; longer examples are dropped and counted."""
    segment_share: float = 0.4
    """Share of a task's examples whose prompt is [segment, problem], so that SKPO's continuations are not new to the model."""
    seed: int = 0
    """Initialisation, demonstrations and order."""
    output_dir: str | None = None
    """Where the model is saved; none: runs/sft-MODEL-TIME."""

    def __post_init__(self) -> None:
        require(self.steps > 0, "steps", self.steps, "at least 1")
        require(self.batch_size > 0, "batch_size", self.batch_size, "at least 1")
        rate = self.learning_rate
        require(rate is None or rate > 0, "learning_rate", rate, "a positive number")
        require(0 <= self.segment_share < 1, "segment_share", self.segment_share, "a share in [0, 1)")
