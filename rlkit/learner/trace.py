"""Where the first value that is not finite appears in an update: weights, numbers beside the tokens, layers, loss, gradients.

Each rollout is passed through the model alone, so that a value belongs to one rollout and one of its tokens. A gradient is a
sum over rollouts: what is finite for each alone and not together is said to overflow in the sum.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlkit.batch import Batch, TokenStats, recut
from rlkit.metrics import Metrics
from rlkit.types import Credit

from .dump import Dump, Row
from .first import moved_first
from .gradient import Loss, accumulate, gradient
from .learner import Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a value that is not finite was met.

    >>> print(Place(what="log-prob", value=float("-inf"), rollout=3, token=17))
    log-prob of rollout 3, completion token 17: -inf
    """

    what: str
    value: float
    rollout: int | None = None
    """Index of the credit in its step; None: of no rollout in particular."""
    token: int | None = None
    """Of the completion; negative: of the prompt, -1 its last. None: of no token in particular."""

    def __str__(self) -> str:
        words = self.what if self.rollout is None else f"{self.what} of rollout {self.rollout}"
        if self.token is not None:
            words += f", completion token {self.token}" if self.token >= 0 else f", prompt token {self.token}"
        return f"{words}: {self.value:g}"


def repeat(dump: Dump, learner: Learner, loss: Loss) -> tuple[float, float]:
    """Loss of the whole mini-batch, and the norm of its gradient; no step is made and the gradients are cleared."""
    batch, seen = dump.mini(dump.rows, learner.layout, learner.pad_id)
    mini = recut([batch], learner.budget, learner.pad_id, layout=learner.layout)
    first = moved_first([batch], [seen], mini)
    whole, *_ = gradient(learner, [part.to(learner.device) for part in mini], first, loss, None)
    norm = torch.nn.utils.get_total_norm([p.grad for p in learner.model.parameters() if p.grad is not None])
    learner.optimizer.zero_grad()
    return whole, float(norm)


def trace(dump: Dump, learner: Learner, loss: Loss) -> list[Place]:
    """Every kind of value that is not finite, in the order in which they come about; empty: there is none.

    One place is told for each kind and rollout. The learner's gradients are cleared.
    """
    found = [*_weights(learner)]
    for row in dump.rows:
        found += _beside(row.credit, row.index)
    alone: list[Place] = []
    for row in dump.rows:
        alone += _alone(dump, row, learner, loss)
    learner.optimizer.zero_grad()
    return found + alone


def _weights(learner: Learner) -> Iterator[Place]:
    for name, p in learner.model.named_parameters():
        bad = ~torch.isfinite(p.detach())
        if bad.any():
            yield Place(what=f"weight {name} ({int(bad.sum()):,} of its numbers)", value=_value(p, bad))


def _beside(credit: Credit, index: int) -> Iterator[Place]:
    start = credit.rollout.prompt_tokens
    for what, numbers, shift in (
        ("sampler's log-prob", credit.rollout.logprobs, start),
        ("advantage", credit.advantages, 0),
        ("weight in the loss", [credit.weight], None),
        ("share of the denominator", [credit.share], None),
    ):
        for t, number in enumerate(numbers):
            # As the learner holds it: a float64 beyond float32's range is inf there.
            value = float(torch.tensor(number, dtype=torch.float32))
            if not torch.isfinite(torch.tensor(value)):
                yield Place(what=what, value=value, rollout=index, token=None if shift is None else t - shift)
                break


def _alone(dump: Dump, row: Row, learner: Learner, loss: Loss) -> list[Place]:
    """What one rollout meets in its forward and backward pass: the first of the layers, of the loss and of the gradients."""
    batch, seen = dump.mini([row], learner.layout, learner.pad_id)
    found: list[Place] = []
    prompt = row.credit.rollout.prompt_tokens

    def note(what: str, tensor: Tensor, first_token: int | None) -> None:
        """first_token: what the tensor's first place is called as a completion token; None: its places are no tokens"""
        bad = ~torch.isfinite(tensor.detach())
        if not bad.any():
            return
        token = None
        if first_token is not None:
            token = int(bad.flatten(0, -2).any(-1).nonzero()[0]) + first_token
        found.append(Place(what=what, value=_value(tensor, bad), rollout=row.index, token=token))

    def seeing(batch: Batch, out: TokenStats) -> tuple[Tensor, Metrics]:
        stats = {
            "log-prob": out.logp_BT,
            "log-prob before the step": out.old_logp_BT,
            "reference's log-prob": out.ref_logp_BT,
            "entropy": out.entropy_BT,
        }
        for name, tensor_BT in stats.items():
            if tensor_BT is not None:
                note(name, tensor_BT.T, 0)
        value, metrics = loss(batch, out)
        note("loss", value.reshape(1), None)
        return value, metrics

    with _watched(learner.model, len(row.credit.rollout.token_ids) - 1, -prompt, note):
        accumulate(learner, batch.to(learner.device), seen, seeing)
    for name, p in learner.model.named_parameters():
        if p.grad is not None and not torch.isfinite(p.grad).all():
            found.append(
                Place(
                    what=f"gradient of {name}",
                    value=_value(p.grad, ~torch.isfinite(p.grad)),
                    rollout=row.index,
                )
            )
            break
    learner.optimizer.zero_grad()
    return found


@contextmanager
def _watched(model: Any, length: int, first_token: int, note: Any) -> Iterator[None]:
    """Tell the first layer whose output is not finite, and the first, going backward, where the gradient is not."""
    told = {"output": False, "gradient": False}

    def hook(name: str) -> Any:
        def on_output(module: Any, args: Any, output: Any) -> None:
            tensor: Any  # its register_hook is not typed
            for tensor in _tensors(output):
                where = first_token if tensor.ndim == 3 and tensor.shape[1] == length else None
                if not told["output"] and not torch.isfinite(tensor).all():
                    told["output"] = True
                    note(f"output of layer {name}", tensor, where)
                if tensor.requires_grad:
                    tensor.register_hook(lambda grad, where=where: on_gradient(grad, where))

        def on_gradient(grad: Tensor, where: int | None) -> None:
            if not told["gradient"] and not torch.isfinite(grad).all():
                told["gradient"] = True
                note(f"gradient that reaches the output of layer {name}", grad, where)

        return on_output

    hooks = [module.register_forward_hook(hook(name or "model")) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _tensors(output: Any) -> list[Tensor]:
    """The floating tensors of a layer's output."""
    parts: Sequence[Any] = output if isinstance(output, tuple | list) else [output]
    return [t for t in parts if isinstance(t, Tensor) and t.is_floating_point()]


def _value(tensor: Tensor, bad: Tensor) -> float:
    return float(tensor.detach()[bad][0])
