"""Model, optimizer, update(minibatches, loss): forward, the algorithm's loss, backward, clip, optimizer step.

Weights and AdamW's moments are float32; with dtype bfloat16 the forward runs under autocast, because a step of 1e-6
would be lost in a bfloat16 weight. The ratio's old log-probs are the learner's own: when a step has one update they are
the current ones, detached; otherwise they are computed once, before the first update. The sampler's log-probs enter
only through TRL's importance correction.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from rlkit.adapted import AdaptedWeights
from rlkit.algo_config import AlgoConfig
from rlkit.batch import Batch, TokenStats, make_minibatches, nothing, recut
from rlkit.config import LearnerConfig
from rlkit.errors import RunError
from rlkit.feed import Layout
from rlkit.metrics import Metrics, Tally, merge, values
from rlkit.ranks import ALONE, Ranks
from rlkit.types import Credit, Rollout

from . import lora, room
from .attention import can_pack
from .bad import BadUpdate, Unwatched, Watcher, too_many
from .correction import importance_weights
from .first import First, moved_first
from .look import Floats, Ids, Look, Own, Question
from .optim import load_state_tensors, make_groups, make_optimizer, set_rate, state_tensors
from .policy import Policy
from .shard import is_copied, reshard, spread, unsynced, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REFERENCE = "reference"
"""Of a checkpoint: the folder of a reference model that has been moved."""
SHARD_SIZE = 4 * 10**9
"""Bytes of a file of weights, at most; one tensor is never divided."""

COUNTED = "rlkit|skipped, budget"
"""Of the optimizer's file: updates that were skipped, and tokens of a micro-batch."""

Loss = Callable[[Batch, TokenStats], tuple[Tensor, Metrics]]
T = TypeVar("T")


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
        self._base: dict[str, Tensor] | None = None
        """Without adapters, for samplers that get those apart; None: not asked for yet."""
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

        def see(batch: Batch) -> list[list[float]]:
            logp_BT, _ = self.policy(batch)
            return [logp_T[mask_T].tolist() for logp_T, mask_T in zip(logp_BT, batch.mask_BT, strict=True)]

        return self._read_only(rollouts, see)

    def look(self, rollouts: Sequence[Rollout], top_k: int, asked: Sequence[Ids] | None = None) -> list[Look]:
        """The distributions behind each rollout's completion tokens under the present weights, in the order given.

        top_k: how many of the likeliest tokens to tell;  asked: for each rollout [T, M] token ids whose log-probs to tell too
        """

        def see(batch: Batch) -> list[Look]:
            wanted = None
            if asked is not None and batch.rows:
                wanted = torch.cat([torch.from_numpy(asked[i]).long() for i in batch.rows]).to(self.device)
            found = self.policy(batch, question=Question(top_k=top_k, asked_NM=wanted))
            lengths = batch.mask_BT.sum(-1).tolist()
            looks = []
            for parts in zip(*(t.split(lengths) for t in found), strict=True):
                logp, entropy, ids, top, more = (t.cpu().numpy() for t in parts)
                looks.append(
                    Look(
                        logp_T=logp,
                        entropy_T=entropy,
                        top_ids_TK=ids.astype("int32"),
                        top_logp_TK=top,
                        asked_logp_TM=more,
                    )
                )
            return looks

        return self._read_only(rollouts, see)

    @torch.no_grad()
    def _read_only(self, rollouts: Sequence[Rollout], see: Callable[[Batch], list[T]]) -> list[T]:
        """What `see` makes of every rollout, in the order given; nothing is learnt. Every rank reads its share."""
        credits = [
            Credit(rollout=r, advantages=[0.0] * len(r.completion_ids), weight=1.0, share=1.0)
            for r in rollouts
        ]
        while True:
            minis = make_minibatches(
                credits,
                1,
                self.budget,
                self.pad_id,
                layout=self.layout,
                ranks=self.ranks.world,
                rank=self.ranks.rank,
            )
            mine: dict[int, T] = {}
            short = False
            mini = [batch for one in minis for batch in one]
            try:
                for batch in mini:
                    mine |= zip(batch.rows, see(batch.to(self.device)), strict=True)
            except (RuntimeError, MemoryError) as error:
                short = self._ran_out(error)
            reshard(self.policy)
            parts = self.ranks.gather((short, room.divisible_tokens(mini), mine))
            if not any(short for short, *_ in parts):
                every = {i: seen for *_, part in parts for i, seen in part.items()}
                return [every[i] for i in range(len(rollouts))]
            self._halve(max(tokens for _, tokens, _ in parts), "a forward pass")

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
                minis[k], firsts[k] = self._first_pass(mini)
        reports: list[Metrics] = []
        own: dict[int, tuple[Floats, Floats]] = {}
        updates, skipped, halved = self.updates, self.skipped, self.halved
        for iteration in range(self.num_iterations):
            kept = own if keep and iteration == 0 else None
            for k in range(len(minis)):
                total, tallies, minis[k], firsts[k] = self.gradient(minis[k], firsts[k], loss, kept)
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

    @torch.no_grad()
    def _first_pass(self, mini: list[Batch]) -> tuple[list[Batch], list[First]]:
        """Log-probs before the first update, and which tokens' entropies are in the mini-batch's top quantile (TRL's rule).

        With the micro-batches that they were seen in: smaller ones than came when memory ran out.
        """
        mini = self._fitting(mini)
        while True:
            seen: list[tuple[Tensor, Tensor]] = []
            short = False
            try:
                for batch in mini:
                    seen.append(self.policy(batch))
            except (RuntimeError, MemoryError) as error:
                short = self._ran_out(error)
                seen = []
            reshard(self.policy)
            if not self._any_short(short, mini, "a forward pass"):
                break
            mini = self._recut(mini)
        quantile = self.algo.top_entropy_quantile
        if quantile >= 1 or not seen:
            return list(mini), [First(old_BT=logp_BT) for logp_BT, _ in seen]
        mine_N = torch.cat([e_BT[b.mask_BT] for b, (_, e_BT) in zip(mini, seen, strict=True)])
        entropy_N = torch.cat(self.ranks.gather(mine_N.cpu()))
        threshold = float(torch.quantile(entropy_N, 1 - quantile))
        high = [(e_BT >= threshold) & b.mask_BT for b, (_, e_BT) in zip(mini, seen, strict=True)]
        count = int((entropy_N >= threshold).sum())
        return list(mini), [
            First(old_BT=logp_BT, high_BT=high_BT, num_high=count)
            for (logp_BT, _), high_BT in zip(seen, high, strict=True)
        ]

    def gradient(
        self, mini: list[Batch], first: list[First], loss: Loss, kept: dict[int, tuple[Floats, Floats]] | None
    ) -> tuple[float, list[Metrics], list[Batch], list[First]]:
        """Forward and backward of a mini-batch: this rank's part of the loss, its tallies, and the micro-batches it took.

        When memory runs out on some rank, all of them begin again with smaller ones.
        """
        fitting = self._fitting(mini)
        mini, first = fitting, first if fitting is mini else moved_first(mini, first, fitting)
        while True:
            total, tallies, short = 0.0, [], False
            try:
                # Copies meet at the end: a rank that waits in the middle of a backward pass could not be told of another's fault.
                with unsynced(self.policy):
                    for batch, seen in zip(mini, first, strict=True):
                        value, metrics = self.accumulate(batch, seen, loss, kept)
                        total += value
                        tallies.append(metrics)
            except (RuntimeError, MemoryError) as error:
                short = self._ran_out(error)
            if not self._any_short(short, mini, "a forward and backward pass"):
                break
            self.optimizer.zero_grad()
            smaller = self._recut(mini)
            mini, first = smaller, moved_first(mini, first, smaller)
        if mini and is_copied(self.policy):
            logp_BT, _ = self.policy(nothing(self.pad_id, self.layout).to(self.device))
            logp_BT.sum().backward()
        return total, tallies, mini, first

    # -- when memory runs out ------------------------------------------------------------------------------------------

    def _ran_out(self, error: Exception) -> bool:
        """True where a pass may be done again over less. Raises what is another error, and a clear stop where it may not."""
        if not room.ran_out(error):
            raise error
        if self.cfg.shard != "none":
            raise RunError(
                f"update {self.updates}: out of memory with micro-batches of {self.budget:,} tokens; the weights are as they were "
                "before it. A divided model (--learner.shard) cannot do a pass again: the other ranks are in the middle of theirs. "
                f"Continue from the last checkpoint with --learner.micro-batch-tokens {max(1, self.budget // 2)}. Also: {room.ADVICE}"
            ) from error
        return True

    def _any_short(self, short: bool, mini: Sequence[Batch], what: str) -> bool:
        """Whether memory ran out on any rank; then the budget is halved on all."""
        parts = self.ranks.gather((short, room.divisible_tokens(mini)))
        if any(short for short, _ in parts):
            self._halve(max(tokens for _, tokens in parts), what)
            return True
        return False

    def _halve(self, divisible: int, what: str) -> None:
        room.free()
        self.halved += 1
        before, self.budget = (
            self.budget,
            room.smaller_budget(self.budget, divisible, f"update {self.updates}"),
        )
        self.watcher.out_of_memory(
            f"update {self.updates}: out of memory in {what} with micro-batches of {before:,} tokens; it is done again, and the run "
            f"goes on, with {self.budget:,} (--learner.micro-batch-tokens). The gradient is the same"
        )

    def _fitting(self, mini: list[Batch]) -> list[Batch]:
        """The same, or cut anew when it was cut before the budget was halved."""
        halved = self.budget < self.cfg.micro_batch_tokens
        return self._recut(mini) if halved and room.divisible_tokens(mini) > self.budget else mini

    def _recut(self, mini: Sequence[Batch]) -> list[Batch]:
        smaller = recut(mini, self.budget, self.pad_id, layout=self.layout) if mini else []
        return [batch.to(self.device) for batch in smaller]

    def accumulate(
        self, batch: Batch, seen: "First", loss: Loss, kept: dict[int, tuple[Floats, Floats]] | None = None
    ) -> tuple[float, Metrics]:
        """Forward and backward of one micro-batch: its part of the loss, and its tallies. `kept` is filled."""
        # First, because nothing is held for its backward; and on every rank, since a sharded model is read together.
        ref_BT = self._reference_logp(batch) if self.algo.beta > 0 else None
        logp_BT, entropy_BT = self.policy(batch, entropy_grad=self.algo.entropy_coef != 0)
        if not batch.rows:  # a rank with nothing left to do joins the others' backward
            logp_BT.sum().backward()
            return 0.0, {}
        old_BT = logp_BT.detach() if seen.old_BT is None else seen.old_BT
        batch, metrics = self._corrected(batch, old_BT)
        stats = TokenStats(
            logp_BT=logp_BT,
            old_logp_BT=old_BT,
            entropy_BT=entropy_BT,
            ref_logp_BT=ref_BT,
            high_entropy_BT=seen.high_BT,
            num_high_entropy=batch.num_tokens if seen.high_BT is None else seen.num_high,
        )
        if kept is not None:
            lengths = batch.mask_BT.sum(-1).tolist()
            for i, length, logp_T, entropy_T in zip(
                batch.rows, lengths, logp_BT.detach().cpu(), entropy_BT.detach().cpu(), strict=True
            ):
                kept[i] = logp_T[:length].numpy(), entropy_T[:length].numpy()
        part, algo_metrics = loss(batch, stats)
        scaled: Any = part * self.ranks.world  # DDP and FSDP2 divide by it
        scaled.backward()
        count = float(batch.mask_BT.sum())
        return float(part.detach()), {
            **metrics,
            **algo_metrics,
            "entropy": Tally(float(entropy_BT.detach()[batch.mask_BT].double().sum()), count),
        }

    @torch.no_grad()
    def _reference_logp(self, batch: Batch) -> Tensor:
        if self.reference is None and not self.cfg.lora_rank:
            raise ValueError("beta is above 0, and the learner was given no reference model")
        with lora.switched_off(self.model) if self.reference is None else nullcontext():
            logp_BT: Tensor = (self.policy if self.reference is None else self.reference)(batch)[0]
        return logp_BT

    def _corrected(self, batch: Batch, old_BT: Tensor) -> tuple[Batch, Metrics]:
        """The batch with importance ratios multiplied into its advantages, and the sampler/learner gap as metrics.

        Advantages and not weights, because TRL corrects the policy's term alone: a KL penalty keeps its own.
        """
        mask_BT = batch.mask_BT
        delta_BT = old_BT - batch.sampler_logp_BT
        gap_N = delta_BT[mask_BT].abs().double()
        count = float(mask_BT.sum())
        if not count:
            return batch, {}
        name = "sampling/sampling_logp_difference"
        metrics = {
            f"{name}/mean": Tally(float(gap_N.sum()), count),
            f"{name}/max": Tally(float(gap_N.max()), 1, "max"),
        }
        if not self.algo.importance_sampling_correction:
            return batch, metrics
        ratio_BT = importance_weights(
            delta_BT, mask_BT, self.algo.importance_sampling_mode, self.algo.importance_sampling_clip_max
        )
        ratio_N = ratio_BT[mask_BT].double()
        name = "sampling/importance_sampling_ratio"
        metrics |= {
            f"{name}/min": Tally(float(ratio_N.min()), 1, "min"),
            f"{name}/mean": Tally(float(ratio_N.sum()), count),
            f"{name}/max": Tally(float(ratio_N.max()), 1, "max"),
        }
        return replace(batch, adv_BT=batch.adv_BT * ratio_BT), metrics

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
        if self.cfg.lora_rank and not self.everywhere:
            return self._adapted_weights()
        copies = self.autocast and (self.cfg.lora_rank > 0 or self.cfg.shard != "none")
        kept = self.everywhere or self.ranks.main
        return {n: t.to(torch.bfloat16) if copies else t for n, t in self._whole_weights() if kept}

    def _adapted_weights(self) -> Mapping[str, Tensor]:
        """What training began with, gathered once, with the present adapters; nothing but on the first rank."""
        changes = lora.changes(self.model, whole)
        if self._base is None:
            self._base = {}
            for name, part in lora.unadapted(self.model):
                tensor = whole(part)
                if self.ranks.main:
                    gathered = self.cfg.shard != "none"  # a copy, whose place is not on this rank's device
                    half = torch.bfloat16 if self.autocast else tensor.dtype
                    self._base[name] = tensor.to("cpu" if gathered else tensor.device, half)
        return AdaptedWeights(self._base, changes) if self.ranks.main else {}

    def _whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        if self.cfg.lora_rank:
            return lora.merged(self.model, whole)
        state: Mapping[str, Tensor] = self.model.state_dict()
        return ((name, whole(tensor)) for name, tensor in state.items())

    @property
    def num_trained(self) -> int:
        """Numbers that the optimizer moves, on all ranks together."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def model_tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """Everything that `write_model` writes, as part, name, tensor; a tied weight once. Every rank goes through all of them.

        Some are gathered or merged for this, one at a time: keep a copy, not the tensor.
        """
        first: dict[int, str] = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            first.setdefault(id(tensor), name)
        second = self.model.state_dict(keep_vars=True).keys() - first.values()
        yield from (("", name, tensor) for name, tensor in self._whole_weights() if name not in second)
        if self.cfg.lora_rank:
            yield from ((lora.FOLDER, name, tensor) for name, tensor in lora.tensors(self.model, whole))
        if self.algo.sync_ref_model and self.reference is not None:
            reshard(self.reference)
            moved: Mapping[str, Tensor] = self.reference.model.state_dict()
            yield from ((REFERENCE, name, whole(tensor)) for name, tensor in moved.items())

    def write_model(self, folder: Path, parts: Mapping[str, dict[str, Tensor]]) -> None:
        """What `model_tensors` gave as a folder that transformers and vLLM load as it is; in `adapter/` what peft loads, in
        `reference/` a moved reference. Reads no weight, so the learner may go on meanwhile."""
        self.model.save_pretrained(folder, state_dict=dict(parts[""]), max_shard_size=SHARD_SIZE)
        if lora.FOLDER in parts:
            lora.save(self.model, parts[lora.FOLDER], folder / lora.FOLDER)
        if REFERENCE in parts:
            model: Any = self.reference.model
            model.save_pretrained(
                folder / REFERENCE, state_dict=dict(parts[REFERENCE]), max_shard_size=SHARD_SIZE
            )

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
