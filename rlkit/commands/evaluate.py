"""`rlkit eval`: pass@1 of a model on held-out prompts."""

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from rlkit import build
from rlkit.config import EvalConfig

from .train import completion_length

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.ranks import Ranks


def evaluate(cfg: EvalConfig, console: "Console") -> int:
    """`rlkit eval`: pass@1 with its interval on held-out prompts. Processes of torchrun share them."""
    from rich.console import Console

    from rlkit.ranks import opened

    with opened() as ranks:
        return _evaluate(cfg, console if ranks.main else Console(quiet=True), ranks)


def _evaluate(cfg: EvalConfig, console: "Console", ranks: "Ranks") -> int:
    from rlkit.evaluate import evaluate as score
    from rlkit.ranks import SharedSampler

    task = build.make_task(cfg.data.name)
    length = cfg.max_completion_length or completion_length(task)
    sampler_cfg = replace(cfg.sampler, name=build.sampler_name(cfg.sampler.name))
    place = build.find_model(cfg.model)
    tokenizer = build.find_tokenizer(place)
    # A file given to `rlkit eval` is what to evaluate on.
    data = cfg.data if task is not None or cfg.data.held_out else replace(cfg.data, held_out=cfg.data.name)
    prompts = build.held_out_prompts(data, cfg.max_prompt_length, task, tokenizer, cfg.prompts)
    verifier = build.make_verifier(cfg.reward, task)
    folder = build.model_folder(place, task, console)
    judge, pool = build.make_judge(cfg.reward, verifier, tokenizer, ranks)
    with closing(pool), console.status(f"starting the sampler ({sampler_cfg.name})"):
        sampler = build.make_sampler(
            sampler_cfg, cfg.model, folder, max_tokens=cfg.max_prompt_length + length, version=0
        )
    with closing(pool), closing(sampler), console.status(f"answering {len(prompts):,} prompts"):
        result = score(
            SharedSampler(sampler, ranks),
            judge,
            prompts,
            samples=cfg.samples,
            max_tokens=length,
            temperature=cfg.sampler.temperature,
            top_p=cfg.sampler.top_p,
            top_k=cfg.sampler.top_k,
            min_p=cfg.sampler.min_p,
            seed=cfg.seed,
        )
    words = f"pass@1 {result} (95 % interval), {result.prompts:,} prompts x {result.samples}"
    words += f", {result.mean_length:.1f} tokens per answer"
    if result.unjudged:
        words += f"; {result.unjudged} answers could not be judged and are left out"
    if ranks.main:
        print(words)
    return 0
