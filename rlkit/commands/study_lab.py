"""A lab for `rlkit analyze`: one model's sampler, its problems and its verdicts, opened and closed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlkit import build
from rlkit.analyze_config import StudyConfig
from rlkit.config import ModelConfig
from rlkit.types import Prompt

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.analysis.study_store import StudyStore
    from rlkit.studies.lab import Lab


@contextmanager
def opened(
    cfg: StudyConfig,
    model: ModelConfig,
    prompts: int,
    store: "StudyStore",
    console: "Console",
    *,
    with_skip: bool = False,
    finals: bool = False,
) -> "Iterator[Lab]":
    """Everything that a study needs of one model.

    prompts: problems;  with_skip: leave room for a segment before the question;  finals: read final answers too
    """
    from rlkit.rewards import AnswerReader, VerifierPool, no_answer, reader_of
    from rlkit.studies.lab import Lab

    task = build.make_task(cfg.data.name)
    place = build.find_model(model)
    tokenizer = build.find_tokenizer(place)
    chosen = problems(cfg, tokenizer, prompts, with_skip=with_skip)
    longest = cfg.max_completion_length or 0
    weights = build.model_folder(place, task, console)
    # In [s, q] the segment stands in the prompt.
    room = cfg.max_prompt_length + longest * (2 if with_skip else 1)
    with ExitStack() as open_things:
        name = build.sampler_name(cfg.sampler.name)
        with console.status(f"starting the sampler ({name})"):
            sampler = build.make_sampler(
                replace(cfg.sampler, name=name), model, weights, max_tokens=room, version=0
            )
        open_things.enter_context(closing(sampler))
        pool = open_things.enter_context(
            closing(build.make_pool(cfg.reward, build.make_verifier(cfg.reward, task)))
        )
        read = None
        if finals:
            reader = reader_of(cfg.reward.name, task is not None)
            if reader is not no_answer:
                read = open_things.enter_context(
                    closing(VerifierPool(AnswerReader(reader), cfg.reward.workers, cfg.reward.timeout))
                )
        yield Lab(
            cfg=cfg,
            model=model.name,
            task=task,
            prompts=chosen,
            sampler=sampler,
            scorer=pool,
            read=read,
            decode=_decoder(tokenizer),
            longest=longest,
            store=store,
        )


def problems(cfg: StudyConfig, tokenizer: Any, count: int, *, with_skip: bool) -> list[Prompt]:
    """The first problems: of a task the held-out ones, of other data those of --data.split, or of `test` where nothing is said."""
    from rlkit.benchmark_names import benchmark, load_benchmark
    from rlkit.config import DataConfig
    from rlkit.data import build_prompts
    from rlkit.rows import load_rows, task_rows
    from rlkit.templates import Template

    task, known = build.make_task(cfg.data.name), benchmark(cfg.data.name)
    if task is not None:
        rows = task_rows(task, "test", count)
    elif known is not None:
        rows = load_benchmark(known, cfg.data)
    else:
        split = cfg.data.split if cfg.data.split != DataConfig().split else "test"
        rows = load_rows(cfg.data, split=split, need_answer=False)
    rows = replace(rows, examples=rows.examples[:count])
    template = Template(cfg.data, tokenizer)
    return build_prompts(rows, template, max_length=cfg.max_prompt_length, with_skip=with_skip)[:count]


def _decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True))
