"""transformers.generate as a sampler: slow and plain, runs wherever the model runs.

`generate` is asked for greedy decoding, and `_Draw` decides what the greedy token is: it draws from the exact
distribution (temperature and truncation included) and hands back scores with one winner. So each token's log-prob is known
when it is drawn, and no [steps, B, V] tensor of logits is ever kept.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from rlkit.errors import RolloutError
from rlkit.types import FinishReason, Request, Rollout

from .contract import check_requests, continuation_seed, make_rollout
from .weights import fitting_weights, read_facts

Dtype = Literal["auto", "float32", "bfloat16"]


class HfSampler:
    """Holds its own copy of the model. The same request gives the same tokens in any batch, as far as floats allow:
    its random numbers depend on (seed, i) alone, its logits on the padding beside it by about 1e-6.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: Dtype = "auto",
        device: str | torch.device | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        stop_ids: Sequence[int] | None = None,
        version: int = 0,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """model: a folder or hub id;  dtype: auto is bfloat16 on a GPU and float32 on a CPU
        device: None takes the GPU if there is one
        max_model_len: prompt and completion together; None takes the model's own limit
        max_num_seqs: rows of one batch
        stop_ids: tokens that end an answer; None reads them from generation config and tokenizer
        version: the policy version of the weights in `model`
        """
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._facts = read_facts(model, revision=revision, trust_remote_code=trust_remote_code)
        self._stop_ids = tuple(self._facts.stop_ids if stop_ids is None else stop_ids)
        self._max_model_len = max_model_len or self._facts.max_model_len
        self._max_num_seqs = max_num_seqs
        self._version = version
        self._halted = threading.Event()
        if dtype == "auto":
            dtype = "bfloat16" if self._device.type == "cuda" else "float32"
        # Any: transformers' own types do not agree on what an auto class returns.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, dtype), revision=revision, trust_remote_code=trust_remote_code
        )
        self._model = loaded.to(self._device).eval()
        # `generate` fills what a call leaves open from here: a repetition penalty in the folder would bend log-probs.
        self._model.generation_config = GenerationConfig()

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """`n` rollouts for each request, in order. Raises RolloutError for a request that does not fit the model."""
        check_requests(requests, self._max_model_len, self._facts.vocab_size)
        rows = [(r, i) for r, request in enumerate(requests) for i in range(request.n)]
        # Rows of like length share a batch, because a batch runs until its last row ends.
        rows.sort(key=lambda row: (requests[row[0]].max_tokens, len(requests[row[0]].token_ids)))
        written: dict[tuple[int, int], Rollout] = {}
        for start in range(0, len(rows), self._max_num_seqs):
            batch = rows[start : start + self._max_num_seqs]
            rollouts = self._write([(requests[r], i) for r, i in batch])
            written.update(zip(batch, rollouts, strict=True))
        return [[written[r, i] for i in range(request.n)] for r, request in enumerate(requests)]

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Copy a whole state dict in, or raise RolloutError and keep the old one."""
        if self._model is None:
            raise RolloutError("this sampler was closed; make a new one to load weights")
        full = fitting_weights(weights, self._facts)
        with torch.no_grad():
            for name, tensor in self._model.state_dict().items():
                tensor.copy_(full[name])
        self._version = version
        self._halted.clear()

    def rest(self) -> None:
        """Nothing to give back: the model stays where it is."""

    def forget(self) -> None:
        """Nothing is remembered between calls."""

    def halt(self) -> None:
        """What is being written ends at its next token, and its `sample` raises RolloutError."""
        self._halted.set()

    def metrics(self) -> Mapping[str, float]:
        """Nothing to tell."""
        return {}

    def close(self) -> None:
        """Free the model."""
        self._model = None

    @torch.inference_mode()
    def _write(self, rows: Sequence[tuple[Request, int]]) -> list[Rollout]:
        """One batch: row (request, i) is continuation i of that request."""
        if self._model is None:
            raise RolloutError("this sampler was closed; make a new one to sample")
        width = max(len(request.token_ids) for request, _ in rows)
        ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
        mask_BT = torch.zeros(
            len(rows), width, dtype=torch.long
        )  # generate counts positions from its first 1
        for b, (request, _) in enumerate(rows):
            ids_BT[b, width - len(request.token_ids) :] = torch.tensor(request.token_ids)
            mask_BT[b, width - len(request.token_ids) :] = 1
        draw = _Draw(rows, self._device)
        limits = [request.max_tokens for request, _ in rows]
        stop = _RowEnds(limits, self._stop_ids, width, self._device, self._halted)
        self._model.generate(
            ids_BT.to(self._device),
            attention_mask=mask_BT.to(self._device),
            generation_config=GenerationConfig(
                max_new_tokens=max(request.max_tokens for request, _ in rows),
                do_sample=False,
                pad_token_id=0,  # only silences a warning: what follows a row's end is cut off below
            ),
            logits_processor=LogitsProcessorList([draw]),
            stopping_criteria=StoppingCriteriaList([stop]),
        )
        if self._halted.is_set():
            raise RolloutError("this sampler was halted; load() weights before the next sample()")
        tokens_BT = torch.stack(draw.tokens, dim=1).tolist()
        logprobs_BT = torch.stack(draw.logprobs, dim=1).tolist()
        rollouts = []
        for (request, _), tokens, logprobs in zip(rows, tokens_BT, logprobs_BT, strict=True):
            length, reason = _end(tokens[: request.max_tokens], self._stop_ids)
            rollouts.append(
                make_rollout(
                    request,
                    tokens[:length],
                    logprobs[:length],
                    policy_version=self._version,
                    finish_reason=reason,
                )
            )
        return rollouts


def _end(tokens: Sequence[int], stop_ids: Sequence[int]) -> tuple[int, FinishReason]:
    """Length with its first stop token, or whole if there is none."""
    for length, token in enumerate(tokens, start=1):
        if token in stop_ids:
            return length, "stop"
    return len(tokens), "length"


class _RowEnds(StoppingCriteria):
    """A row ends at its own stop token or its own max_tokens, and all of them once `halted` is set."""

    def __init__(
        self,
        max_tokens: Sequence[int],
        stop_ids: Sequence[int],
        width: int,
        device: torch.device,
        halted: threading.Event,
    ) -> None:
        self._halted = halted
        self._max_length_B = torch.tensor(max_tokens, device=device) + width
        self._stop_ids = torch.tensor(stop_ids, device=device, dtype=torch.long)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        if self._halted.is_set():
            return torch.ones(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        at_end_B = torch.isin(input_ids[:, -1], self._stop_ids)
        return at_end_B | (input_ids.shape[1] >= self._max_length_B)


class _Draw(LogitsProcessor):
    """Draws each row's next token, keeps it with its log-prob, and returns scores whose only maximum is that token.

    By inversion: one uniform number per row and token, drawn up front from the row's own generator, is looked up in the
    cumulated probabilities. Neither batch nor vocabulary order of other rows enters.
    """

    def __init__(self, rows: Sequence[tuple[Request, int]], device: torch.device) -> None:
        self.tokens: list[Tensor] = []
        self.logprobs: list[Tensor] = []
        requests = [request for request, _ in rows]
        self._greedy_B = torch.tensor([r.temperature == 0 for r in requests], device=device)
        self._all_greedy = all(r.temperature == 0 for r in requests)
        self._temperature_B1 = torch.tensor([[r.temperature or 1.0] for r in requests], device=device)
        self._truncate = any(_truncates(r) for r in requests)
        self._top_k_B1 = torch.tensor([[r.top_k if _truncates(r) else 0] for r in requests], device=device)
        self._top_p_B1 = torch.tensor([[r.top_p if _truncates(r) else 1.0] for r in requests], device=device)
        self._min_p_B1 = torch.tensor([[r.min_p if _truncates(r) else 0.0] for r in requests], device=device)
        uniform_BT = torch.zeros(len(rows), max(r.max_tokens for r in requests), dtype=torch.float64)
        for b, (request, i) in enumerate(rows):
            generator = torch.Generator().manual_seed(continuation_seed(request.seed, i))
            uniform_BT[b, : request.max_tokens] = torch.rand(
                request.max_tokens, generator=generator, dtype=torch.float64
            )
        # Below 1 by more than rounding, so that the look-up never runs past the last token that can be drawn.
        self._uniform_BT = (uniform_BT * (1 - 1e-12)).to(device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logits_BV = scores.float() / self._temperature_B1
        if self._truncate:
            logits_BV = truncate(logits_BV, self._top_k_B1, self._top_p_B1, self._min_p_B1)
        logprobs_BV = logits_BV.log_softmax(-1)
        token_B = logprobs_BV.argmax(-1)
        if not self._all_greedy:
            cumulated_BV = logprobs_BV.double().exp().cumsum(-1)
            target_B = self._uniform_BT[:, len(self.tokens)] * cumulated_BV[:, -1]
            drawn_B = torch.searchsorted(cumulated_BV, target_B[:, None], right=True)[:, 0]
            token_B = torch.where(self._greedy_B, token_B, drawn_B)
        self.tokens.append(token_B)
        self.logprobs.append(logprobs_BV.gather(1, token_B[:, None])[:, 0])
        return torch.zeros_like(logprobs_BV).scatter_(1, token_B[:, None], 1.0)


def _truncates(request: Request) -> bool:
    return request.temperature > 0 and (request.top_k > 0 or request.top_p < 1.0 or request.min_p > 0)


def truncate(logits_BV: Tensor, top_k_B1: Tensor, top_p_B1: Tensor, min_p_B1: Tensor) -> Tensor:
    """-inf for tokens that may not be drawn: first min_p, then top_k, then top_p on what is left (vLLM's order). [B, V]

    min_p: at least this share of the likeliest token's probability
    top_k: the k likeliest (0: all), and those as likely as the k-th
    top_p: the fewest likeliest that together hold this probability
    """
    probs_BV = logits_BV.softmax(-1)
    logits_BV = logits_BV.masked_fill(probs_BV < min_p_B1 * probs_BV.amax(-1, keepdim=True), float("-inf"))
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
    kth_B1 = sorted_BV.gather(
        1, torch.where(top_k_B1 > 0, top_k_B1, logits_BV.shape[1]).clamp(max=logits_BV.shape[1]) - 1
    )
    sorted_BV = sorted_BV.masked_fill(sorted_BV < kth_B1, float("-inf"))
    probs_BV = sorted_BV.softmax(-1)
    held_before_BV = probs_BV.cumsum(-1) - probs_BV
    past_BV = (held_before_BV >= top_p_B1) & (top_p_B1 < 1)
    past_BV[:, 0] = False
    return torch.full_like(logits_BV, float("-inf")).scatter(
        1, order_BV, sorted_BV.masked_fill(past_BV, float("-inf"))
    )
