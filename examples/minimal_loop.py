"""The whole idea in one file: sample -> verify -> credit -> loss -> step. Read it from top to bottom.

    python examples/minimal_loop.py                    the embedded model, warm-started once into the cache (minutes)
    python examples/minimal_loop.py --model FOLDER     any small model of yours with a chat template
    python examples/minimal_loop.py --model random --steps 3     untrained weights: seconds, and nothing to learn from

A language model answers a question G times. A program says which answers are right. Answers that did better than their
siblings become likelier, the others less likely. That is GRPO (arXiv:2402.03300), and all of reinforcement learning on
verifiable rewards is a variation of it; where the variations of rlkit enter is said at the place where they do.

Plain torch, one device, no padding (every question of this task has the same length) and no package but rlkit's tiny
model and task. `rlkit train` does the same for real: other samplers, killable verifiers, micro-batches, checkpoints.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlkit.tasks import make_task
from rlkit.types import Prompt

CLIP = 0.2
"""PPO's epsilon: a token's ratio pulls only within [1 - CLIP, 1 + CLIP]."""


# -- 1. sample: the policy writes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Answers:
    """All answers of one step. B = prompts x G rows, row b belongs to prompt b // G; T tokens, prompt included."""

    ids_BT: Tensor
    mask_BT: Tensor
    """True on the tokens the policy wrote, its stop token included: the only ones that are trained."""
    logp_BT: Tensor
    """How likely each of them was when it was drawn, nats; 0 elsewhere."""


@torch.no_grad()
def sample(
    model: Any, prompt_ids: Sequence[Sequence[int]], group: int, max_tokens: int, stop_id: int
) -> Answers:
    """`group` answers to each prompt, drawn token by token at temperature 1.

    SKPO asks twice: short segments first, then whole answers to [one of the segments, the question].
    """
    lengths = {len(ids) for ids in prompt_ids}
    if len(lengths) > 1:
        raise ValueError(f"prompts of {sorted(lengths)} tokens; this loop has no padding, rlkit train does")
    ids_BT = torch.tensor(prompt_ids).repeat_interleave(group, dim=0)
    mask_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    logp_BT = torch.zeros(ids_BT.shape)
    running_B = torch.ones(len(ids_BT), dtype=torch.bool)
    cache, feed_BT = None, ids_BT
    for _ in range(max_tokens):
        out = model(input_ids=feed_BT, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logp_BV = out.logits[:, -1].float().log_softmax(-1)
        token_B = torch.multinomial(logp_BV.exp(), 1)[:, 0]
        token_B = torch.where(running_B, token_B, stop_id)  # an answer that has ended only fills its row
        ids_BT = torch.cat([ids_BT, token_B[:, None]], dim=1)
        mask_BT = torch.cat([mask_BT, running_B[:, None]], dim=1)
        drawn_B = logp_BV.gather(1, token_B[:, None])[:, 0].masked_fill(~running_B, 0.0)
        logp_BT = torch.cat([logp_BT, drawn_B[:, None]], dim=1)
        running_B = running_B & (token_B != stop_id)
        feed_BT = token_B[:, None]
        if not running_B.any():
            break
    return Answers(ids_BT=ids_BT, mask_BT=mask_BT, logp_BT=logp_BT)


# -- 2. verify: a program judges -----------------------------------------------------------------------------------------


def verify(
    answers: Answers,
    prompts: Sequence[Prompt],
    tokenizer: Any,
    reward: Callable[[Prompt, str], float],
    group: int,
) -> list[list[float]]:
    """The reward of each answer, one list per prompt. Text exists here alone; everything else is token ids."""
    rows = [ids[mask].tolist() for ids, mask in zip(answers.ids_BT, answers.mask_BT, strict=True)]
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    return [
        [reward(prompt, text) for text in texts[i * group : (i + 1) * group]]
        for i, prompt in enumerate(prompts)
    ]


# -- 3. credit: who did better than their siblings -----------------------------------------------------------------------


def credit(rewards: Sequence[Sequence[float]]) -> list[float]:
    """One advantage per answer, (R - mean) / std of its group; 0 where all siblings did equally well.

    The same number on every token: the verdict is about the whole answer, and nobody says which token deserved it.
    GRPO-N keeps min(A, 0). SKPO credits its segment with the mean outcome of what followed it.

    >>> [round(a, 3) for a in credit([[1, 0, 0, 0], [1, 1, 1, 1]])]
    [1.732, -0.577, -0.577, -0.577, 0.0, 0.0, 0.0, 0.0]
    """
    advantages = []
    for members in rewards:
        mean, std = statistics.fmean(members), statistics.pstdev(members)
        advantages += [(r - mean) / std if std > 0 else 0.0 for r in members]
    return advantages


# -- 4. loss: make what was good likelier --------------------------------------------------------------------------------


def logprobs(model: Any, ids_BT: Tensor) -> Tensor:
    """Log-probability of every token given those before it, nats. [B, T]; the first token has none, and gets 0."""
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1].float()
    logp_BT = logits_BTV.log_softmax(-1).gather(-1, ids_BT[:, 1:, None])[..., 0]
    return torch.nn.functional.pad(logp_BT, (1, 0))


def loss(logp_BT: Tensor, old_logp_BT: Tensor, adv_B: Tensor, mask_BT: Tensor) -> Tensor:
    """PPO's clipped objective, negated: 1/B sum_i 1/|o_i| sum_t min(r A, clip(r) A). A scalar.

    The ratio r is 1 in the first update after sampling; it moves away from 1 in the next ones (--updates), and the clip
    keeps them from going too far on answers that the changed model might not give any more.
    """
    delta_BT = (logp_BT - old_logp_BT).masked_fill(~mask_BT, 0.0)  # before exp: 0 * inf is nan
    ratio_BT = delta_BT.exp()
    adv_B1 = adv_B[:, None]
    term_BT = torch.minimum(ratio_BT * adv_B1, ratio_BT.clamp(1 - CLIP, 1 + CLIP) * adv_B1)
    term_BT = term_BT.masked_fill(~mask_BT, 0.0)
    return -(term_BT.sum(-1) / mask_BT.sum(-1)).mean()


# -- 5. step: again and again --------------------------------------------------------------------------------------------


def train(
    model: Any,
    tokenizer: Any,
    draw: Callable[[int], list[Prompt]],
    reward: Callable[[Prompt, str], float],
    *,
    steps: int,
    group: int = 8,
    max_tokens: int = 64,
    learning_rate: float = 1e-4,
    updates: int = 1,
) -> list[float]:
    """Train in place; the mean reward of every step. `draw(step)` gives that step's prompts."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    history = []
    for step in range(steps):
        prompts = draw(step)
        answers = sample(model, [p.token_ids for p in prompts], group, max_tokens, tokenizer.eos_token_id)
        rewards = verify(answers, prompts, tokenizer, reward, group)
        adv_B = torch.tensor(credit(rewards))
        for _ in range(updates):
            logp_BT = logprobs(model, answers.ids_BT)
            value = loss(logp_BT, answers.logp_BT, adv_B, answers.mask_BT)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        history.append(statistics.fmean(r for members in rewards for r in members))
        mixed = sum(len(set(members)) > 1 for members in rewards)
        length = float(answers.mask_BT.sum()) / len(answers.mask_BT)
        print(
            f"step {step + 1:3}  reward {history[-1]:.3f}  {mixed} of {len(prompts)} groups mixed  length {length:.1f}"
        )
    return history


def main(argv: Sequence[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(description="GRPO on chained arithmetic, in one file.")
    parser.add_argument("--model", default="tiny", help="a folder, `tiny` (warm-started), or `random`")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=16, help="questions per step")
    parser.add_argument("--group", type=int, default=8, help="answers to each question")
    parser.add_argument("--updates", type=int, default=1, help="optimizer steps on the same answers")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    model, tokenizer = load(args.model, args.seed)
    task = make_task("task:chain")

    def draw(step: int) -> list[Prompt]:
        """The next questions of the training split, as chat."""
        items = [task.item("train", step * args.prompts + i) for i in range(args.prompts)]
        turns = [[{"role": "user", "content": item["prompt"]}] for item in items]
        texts = [tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True) for t in turns]
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return [
            Prompt(id=f"{step}-{i}", token_ids=i_ids, question=item["prompt"], reference=item["answer"])
            for i, (item, i_ids) in enumerate(zip(items, ids, strict=True))
        ]

    return train(
        model,
        tokenizer,
        draw,
        lambda prompt, text: task.verify(prompt, text).value or 0.0,
        steps=args.steps,
        group=args.group,
        max_tokens=task.max_completion_length,
        learning_rate=args.learning_rate,
        updates=args.updates,
    )


def load(name: str, seed: int) -> tuple[Any, Any]:
    """Model and tokenizer."""
    from rlkit.tiny import make_model, make_tokenizer

    if name == "random":
        tokenizer = make_tokenizer()
        return make_model(tokenizer, seed), tokenizer
    from rich.console import Console
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlkit.build import tiny_folder

    folder = tiny_folder(make_task("task:chain"), Console(stderr=True)) if name == "tiny" else Path(name)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


if __name__ == "__main__":
    main()
