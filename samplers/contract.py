"""What every sampler promises (`rlkit.types.Sampler`), in one place: which requests it takes, what its rollouts hold."""

import hashlib
from collections.abc import Sequence

from rlkit.errors import RolloutError
from rlkit.types import FinishReason, Request, Rollout, Segment


def check_requests(requests: Sequence[Request], max_model_len: int, vocab_size: int) -> None:
    """Raise RolloutError for the first request that a model of this length and vocabulary cannot answer."""
    for request in requests:
        name = f"request for prompt {request.prompt_id!r}"
        if not request.token_ids:
            raise RolloutError(f"{name}: it has no token ids. A sampler continues at least one token")
        if request.n < 1 or request.max_tokens < 1:
            raise RolloutError(
                f"{name}: n = {request.n}, max_tokens = {request.max_tokens}; expected at least 1 of each"
            )
        if request.temperature < 0:
            raise RolloutError(f"{name}: temperature = {request.temperature}; expected 0 (greedy) or more")
        length = len(request.token_ids) + request.max_tokens
        if length > max_model_len:
            raise RolloutError(
                f"{name}: {len(request.token_ids)} prompt tokens + max_tokens {request.max_tokens} = {length}, and the "
                f"sampler takes at most {max_model_len}. Shorten the prompt or the completion, or raise max_model_len"
            )
        if min(request.token_ids) < 0 or max(request.token_ids) >= vocab_size:
            raise RolloutError(
                f"{name}: token ids from {min(request.token_ids)} to {max(request.token_ids)}, and the model knows 0 to "
                f"{vocab_size - 1}. Do tokenizer and model belong together?"
            )


def continuation_seed(seed: int, index: int) -> int:
    """The seed of continuation `index` of a request, in [0, 2**63).

    Hashed, because `seed + index` would give two requests with neighbouring seeds the same continuations.

    >>> continuation_seed(5, 1) == continuation_seed(6, 0)
    False
    """
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def make_rollout(
    request: Request,
    completion_ids: Sequence[int],
    completion_logprobs: Sequence[float],
    *,
    policy_version: int,
    finish_reason: FinishReason,
) -> Rollout:
    """The request's tokens and what was written after them; raises RolloutError unless each has its log-prob."""
    if len(completion_ids) != len(completion_logprobs) or not completion_ids:
        raise RolloutError(
            f"rollout of prompt {request.prompt_id!r}: {len(completion_logprobs)} log-probs for {len(completion_ids)} "
            "tokens. A sampler returns at least one token, and one log-prob per token"
        )
    start = len(request.token_ids)
    end = start + len(completion_ids)
    return Rollout(
        prompt_id=request.prompt_id,
        token_ids=[*request.token_ids, *completion_ids],
        logprobs=[0.0] * start + list(completion_logprobs),
        segments=[
            Segment(kind="prompt", start=0, end=start),
            Segment(kind="completion", start=start, end=end),
        ],
        policy_version=policy_version,
        finish_reason=finish_reason,
    )
