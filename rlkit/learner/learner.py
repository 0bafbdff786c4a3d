"""Model, optimizer, update(minibatches, loss): forward, the algorithm's loss, backward, clip, optimizer step.

Weights and AdamW's moments are float32; with dtype bfloat16 the forward runs under autocast, because a step of 1e-6
would be lost in a bfloat16 weight. The ratio's old log-probs are the learner's own: when a step has one update they are
the current ones, detached; otherwise they are computed once, before the first update. The sampler's log-probs enter
only through TRL's importance correction.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlkit.algo_config import AlgoConfig
from rlkit.batch import Batch, make_minibatches
from rlkit.config import LearnerConfig
from rlkit.errors import RunError
from rlkit.feed import Layout
from rlkit.metrics import Metrics, Tally, merge, values
from rlkit.ranks import ALONE, Ranks
from rlkit.types import Credit, Rollout

from . import lora, outgoing, reading, room
from .attention import can_pack
from .bad import BadUpdate, Unwatched, Watcher, too_many
from .first import First, first_pass
from .gradient import Loss, gradient
from .look import Floats, Ids, Look, Own
from .optim import load_state_tensors, make_groups, make_optimizer, set_rate, state_tensors
from .policy import Policy
from .shard import reshard, spread, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COUNTED = "rlkit|skipped, budget"
"""Of the optimizer's file: updates that were skipped, and tokens of a micro-batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one step of updates did.

    >>> Report(metrics={"loss": 0.25, "grad_norm": 1.5}, updates=1, trained_tokens=64, read_tokens=96).metrics["loss"]
    0.25
    """

    metrics: dict[str, float]
    """Means over the updates, under TRL's names."""
    updates: int
    """Optimizer steps taken; those that were skipped are in `metrics`."""
    trained_tokens: int
    """Tokens with a term in the loss, counted once for each pass over them."""
    read_tokens: int
    """Tokens the model read for that, prompts and padding included."""
    own: Own = field(default_factory=dict)
    """What the first pass over each mini-batch saw of every credit that it read. Empty unless `update` was asked to keep it."""


class Learner:
    """Holds the policy open for training.

    model: a causal language model of transformers, float32 weights
    num_iterations: passes over the same mini-batches
    autocast: run the forward in bfloat16
    reference: frozen weights that the KL penalty pulls to; needed when the algorithm's beta is above 0, unless adapters are
        trained: then it is the model without them
    adapter: folder of an adapter to go on from;  seed: of a fresh one
    ranks: the processes that train together; each is given the same credits, and all end with the same weights
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        cfg: LearnerConfig,
        algo: AlgoConfig,
        *,
        learning_rate: float,
        temperature: float,
        num_iterations: int,
        pad_id: int,
        autocast: bool = False,
        reference: "PreTrainedModel | None" = None,
        adapter: Path | None = None,
        seed: int = 0,
        ranks: Ranks = ALONE,
        everywhere: bool = True,
    ) -> None:
        from accelerate import PartialState

        self.cfg, self.algo = cfg, algo
        self.learning_rate, self.temperature, self.num_iterations = learning_rate, temperature, num_iterations
        self.pad_id = pad_id
        self.updates = 0
        self.skipped = 0
        """Updates that were not made, since their loss or gradient was not finite."""
        self.budget = cfg.micro_batch_tokens
        """Tokens of a micro-batch; halved when memory runs out."""
        self.halved = 0
        """How often that was, since this process began."""
        self.watcher: Watcher = Unwatched()
        self.ranks, self.autocast, self.everywhere = ranks, autocast, everywhere
        self.unadapted: dict[str, Tensor] | None = None
        """Weights without adapters, for samplers that get those apart; None: not asked for yet."""
        self.device: torch.device = PartialState().device
        module: Any
        for module in model.modules():
            # A dropped unit would make the policy's log-prob differ from its own old one.
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0  # transformers hands it to a function, not to a module
        if cfg.lora_rank:
            lora.attach(model, cfg, seed=seed, half=autocast, adapter=adapter)
        if cfg.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.why_padded = can_pack(model) if cfg.packing else "asked for"
        self.layout: Layout = "padded" if self.why_padded else "shared" if cfg.share_prefixes else "packed"
        self.model = model.train()
        self.policy = spread(self._policy(model), cfg, ranks, self.device, autocast)
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.groups = make_groups({n: p.shape for n, p in trained.items()}, cfg.multipliers, cfg.weight_decay)
        self.optimizer = make_optimizer(self.groups, trained, cfg, learning_rate)
        self.reference: Any = None
        if reference is not None:
            frozen = self._policy(reference).eval().requires_grad_(False)
            self.reference = spread(frozen, cfg, ranks, self.device, autocast)

    def _policy(self, model: "PreTrainedModel") -> Policy:
        return Policy(model, self.temperature, self.cfg.logits_chunk, self.autocast, self.cfg.compile)

    # -- what to train on ----------------------------------------------------------------------------------------------

    def minibatches(self, credits: Sequence[Credit], mini_batches: int) -> list[list[Batch]]:
        """The micro-batches of each optimizer step. Rollouts whose gradient is zero by construction are left out."""
        algo = self.algo
        every_token_pulls = algo.beta > 0 or algo.entropy_coef != 0 or algo.top_entropy_quantile < 1
        return make_minibatches(
            credits,
            mini_batches,
            self.budget,
            self.pad_id,
            layout=self.layout,
            skip_idle=self.cfg.skip_idle and not every_token_pulls,
            ranks=self.ranks.world,
            rank=self.ranks.rank,
        )

    def logprobs(self, rollouts: Sequence[Rollout]) -> list[list[float]]:
        """Present log-probs of each rollout's completion tokens, nats, in the order given."""
        return reading.logprobs(self, rollouts)

    def look(self, rollouts: Sequence[Rollout], top_k: int, asked: Sequence[Ids] | None = None) -> list[Look]:
        """The distributions behind each rollout's completion tokens under the present weights, in the order given.

        top_k: how many of the likeliest tokens to tell;  asked: for each rollout [T, M] token ids whose log-probs to tell too
        """
        return reading.look(self, rollouts, top_k, asked)

    # -- update ------------------------------------------------------------------------------------------------------

    def update(self, minibatches: Sequence[Sequence[Batch]], loss: Loss, *, keep: bool = False) -> Report:
        """One optimizer step per mini-batch and iteration; none where loss or gradient is not finite.

        Raises RunError when that happens too often, and when memory does not suffice for one answer.

        keep: hand out the log-probs and entropies that were computed on the way (Report.own)
        """
        minis = [[batch.to(self.device) for batch in mini] for mini in minibatches]
        firsts: list[list[First]] = [[First()] * len(mini) for mini in minis]
        if len(minis) * self.num_iterations > 1 or self.algo.top_entropy_quantile < 1:
            for k, mini in enumerate(minis):
                minis[k], firsts[k] = first_pass(self, mini)
        reports: list[Metrics] = []
        own: dict[int, tuple[Floats, Floats]] = {}
        updates, skipped, halved = self.updates, self.skipped, self.halved
        for iteration in range(self.num_iterations):
            kept = own if keep and iteration == 0 else None
            for k in range(len(minis)):
                total, tallies, minis[k], firsts[k] = gradient(self, minis[k], firsts[k], loss, kept)
                # Parts of a loss add up over ranks; what all ranks know alike is counted once.
                tallies.append({"loss": Tally(total, float(self.ranks.main))})
                step = self.step(sum(self.ranks.gather(total)), minis[k], firsts[k])
                if step is not None:
                    reports += [*tallies, step if self.ranks.main else {}]
        trained = sum(int(b.mask_BT.sum()) for mini in minis for b in mini) * self.num_iterations
        read = sum(b.feed.num_tokens for mini in minis for b in mini) * self.num_iterations
        parts = self.ranks.gather((merge(reports), trained, read, own))
        return Report(
            metrics={
                **values(merge(tallies for tallies, *_ in parts)),
                "skipped_updates": float(self.skipped - skipped),
                "out_of_memory": float(self.halved - halved),
            },
            updates=self.updates - updates,
            trained_tokens=sum(trained for _, trained, _, _ in parts),
            read_tokens=sum(read for _, _, read, _ in parts),
            own={i: pair for *_, kept in parts for i, pair in kept.items()},
        )

    def step(self, loss: float, mini: Sequence[Batch], first: Sequence[First]) -> dict[str, Tally] | None:
        """Clip, step, clear; None, and the weights stay as they are, when loss or gradient is not finite."""
        for p in self.model.parameters():
            # None when every rollout was idle: Adam's momentum and decay act all the same.
            if p.requires_grad and p.grad is None:
                p.grad = torch.zeros_like(p)
        clipped = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.max_grad_norm)
        norm = float(whole(clipped))
        if not math.isfinite(norm) or not math.isfinite(loss):
            self.optimizer.zero_grad()
            self._skip(
                BadUpdate(
                    update=self.updates + self.skipped, loss=loss, grad_norm=norm, mini=mini, first=first
                )
            )
            return None
        rate = self.learning_rate * min(1.0, (self.updates + 1) / max(1, self.cfg.warmup_steps))
        set_rate(self.optimizer, rate)
        try:
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:  # half of the weights may have moved
            if not room.ran_out(error):
                raise
            raise RunError(
                f"update {self.updates}: out of memory while the optimizer stepped, so the weights in memory are of no use; continue "
                f"from the last checkpoint, or start anew, with less in memory. What helps: {room.ADVICE}, --learner.optimizer adamw_8bit"
            ) from error
        self.optimizer.zero_grad()
        self.updates += 1
        if self.algo.sync_ref_model and self.updates % self.algo.ref_model_sync_steps == 0:
            self._move_reference()
        return {"grad_norm": Tally(norm), "learning_rate": Tally(rate)}

    def _skip(self, bad: BadUpdate) -> None:
        """Count it and tell it. Raises RunError when that was one too many; every rank alike."""
        self.skipped += 1
        self.watcher.skipped(bad)
        tried, share = self.updates + self.skipped, self.cfg.max_skipped_share
        if too_many(self.skipped, tried, share):
            raise RunError(
                f"{bad.sentence}. {self.skipped} of {tried} updates were skipped, more than --learner.max-skipped-share {share:g} "
                "allows. `rlkit replay` says where the first bad value appears; then go on from the last checkpoint, as with "
                "another reward, a lower --learner.learning-rate or --dtype float32"
            )

    @torch.no_grad()
    def _move_reference(self) -> None:
        """reference = (1 - alpha) reference + alpha policy (TR-DPO, arXiv:2404.09656; TRL's SyncRefModelCallback)."""
        assert self.reference is not None
        alpha = self.algo.ref_model_mixup_alpha
        reshard(self.reference)
        for old, new in zip(self.reference.parameters(), self.policy.parameters(), strict=True):
            old.mul_(1 - alpha).add_(new, alpha=alpha)

    # -- what leaves and what must survive -----------------------------------------------------------------------------

    def weights(self) -> Mapping[str, Tensor]:
        """Name -> tensor for a sampler, adapters merged; with tied embeddings `lm_head.weight` is there too (vLLM packs its own copy).

        Every rank calls it; each gets all of them, or only the first does and the others hold one at a time. Weights gathered or merged for this are in the sampler's type already.
        For samplers elsewhere adapters are apart (rlkit.adapted), so that they alone need be sent.
        """
        return outgoing.weights(self)

    @property
    def num_trained(self) -> int:
        """Numbers that the optimizer moves, on all ranks together."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def model_tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """Everything that `write_model` writes, as part, name, tensor; a tied weight once. Every rank goes through all of them.

        Some are gathered or merged for this, one at a time: keep a copy, not the tensor.
        """
        return outgoing.model_tensors(self)

    def write_model(self, folder: Path, parts: Mapping[str, dict[str, Tensor]]) -> None:
        """What `model_tensors` gave as a folder that transformers and vLLM load as it is; in `adapter/` what peft loads, in
        `reference/` a moved reference. Reads no weight, so the learner may go on meanwhile."""
        outgoing.write_model(self, folder, parts)

    def save_model(self, folder: Path) -> None:
        """Both, now. Every rank calls it, the first one writes."""
        parts: dict[str, dict[str, Tensor]] = {}
        for part, name, tensor in self.model_tensors():
            if self.ranks.main:
                parts.setdefault(part, {})[name] = tensor.detach().float().cpu()
        if self.ranks.main:
            self.write_model(folder, parts)

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The optimizer's state as `NAME|field` -> tensor, for safetensors. Every rank calls it; they are rank 0's to write.

        With what the learner counts, once there is something to count.
        """
        mishaps = self.skipped or self.budget < self.cfg.micro_batch_tokens
        counted = {COUNTED: torch.tensor([self.skipped, self.budget])} if mishaps else {}
        names = {id(p): n for n, p in self.model.named_parameters()}
        return state_tensors(self.optimizer, names) | counted

    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take back what `optimizer_tensors` gave. Raises RunError when it belongs to another model."""
        own = {name: tensor for name, tensor in tensors.items() if name != COUNTED}
        load_state_tensors(self.optimizer, dict(self.model.named_parameters()), own)
        self.updates = updates
        if COUNTED in tensors:
            self.skipped, budget = (int(n) for n in tensors[COUNTED])
            self.budget = min(self.budget, budget)
