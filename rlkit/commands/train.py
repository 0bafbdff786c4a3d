"""`rlkit train`: the pre-flight, then everything opened, trained, evaluated before and after, and closed."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit import build
from rlkit.config import TrainConfig
from rlkit.errors import DISK_FULL_ERRORS, ConfigError, Interrupted, ModelError, RunError, SamplerGone
from rlkit.printable import printable
from rlkit.types import AnyVerifier, Prompt, Sampler, Task

from .resume import open_run

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.analysis.store import Store
    from rlkit.data import PromptData
    from rlkit.evaluate import Evaluation
    from rlkit.loop import Stopped
    from rlkit.models import ModelPlace
    from rlkit.preflight import Plan
    from rlkit.ranks import Nowhere, Ranks
    from rlkit.verify import Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A resolved config that passed its pre-flight, and what the pre-flight had to open."""

    cfg: TrainConfig
    task: Task | None
    place: "ModelPlace"
    data: "PromptData"
    tokenizer: Any
    verifier: AnyVerifier
    held_out: Sequence[Prompt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to."""

    folder: Path
    steps: int
    sampled_tokens: int
    seconds: float
    """Of the steps alone: sampling, verifying, training, loading weights."""
    before: "Evaluation | None"
    """Held-out score before the first step; None: the data has no held-out part, or the run was resumed."""
    after: "Evaluation | None"


def resolved(cfg: TrainConfig, task: Task | None) -> TrainConfig:
    """`cfg` with every `none: it depends` filled in, as it is written into the run folder."""
    rate = cfg.learner.learning_rate or (1e-4 if cfg.model.name == "tiny" else 1e-6) * (
        10 if cfg.learner.lora_rank else 1
    )
    name = f"{slug(cfg.algo.name)}-{slug(cfg.model.name)}-{time.strftime('%m%d-%H%M%S')}"
    return replace(
        cfg,
        learner=replace(cfg.learner, learning_rate=rate),
        sampler=replace(cfg.sampler, name=build.sampler_name(cfg.sampler.name)),
        max_completion_length=cfg.max_completion_length or completion_length(task),
        output_dir=cfg.output_dir or f"runs/{name}",
    )


def completion_length(task: Task | None) -> int:
    """Tokens of one answer when the user does not say: what the task's longest right answer needs, else TRL's 512."""
    return 512 if task is None else task.max_completion_length


def slug(name: str) -> str:
    """A model's or an algorithm's name as part of a folder's."""
    return Path(name.partition(":")[0]).name.removesuffix(".py") or "run"


def prepare(cfg: TrainConfig, ranks: "Ranks | None" = None) -> "tuple[Plan, Ready | None]":
    """The pre-flight: everything that can be known before a weight loads. Not ready: the plan says why."""
    from rlkit import preflight
    from rlkit.ranks import ALONE

    ranks = ranks or ALONE
    build.require_reporters(cfg)
    task = build.make_task(cfg.data.name)
    cfg = ranks.first(resolved(cfg, task))  # a run folder is named after one clock
    place = build.find_model(cfg.model)
    verifier = build.make_verifier(cfg.reward, task)
    rows = build.load_training_rows(cfg.data, cfg.reward, task)
    problem, data, tokenizer, held_out = None, None, None, []
    try:
        tokenizer = build.find_tokenizer(place)
    except ModelError as error:
        problem = str(error)
        e = rows.examples[0]
        first = Prompt(id=e.id, token_ids=[], question=e.question, reference=e.reference, row=e.row)
        pool, described = len(rows.examples), rows.describe()
    else:
        data = build.make_data(cfg, task, rows, tokenizer)
        first, described = data.first, data.describe()
        pool = len(data.ids)
        held_out = build.held_out_prompts(
            cfg.data, cfg.max_prompt_length, task, tokenizer, cfg.log.eval_prompts
        )
    # The gold answer is scored as answers will be: in a process that can be killed.
    with build.make_pool(cfg.reward, verifier) as judges:
        told = preflight.plan(
            cfg,
            place=place,
            prompts=[first],
            pool=pool or None,
            description=described.split("\n"),
            verifier=judges,
            decode=None if tokenizer is None else tokenizer.decode,
            tokenizer_problem=problem,
            learning_rates=build.learning_rates(cfg, place),
            idle=build.idle_settings(cfg.algo, build.algorithm_class(cfg.algo)),
            ranks=ranks.world,
        )
    if not told.ready or data is None:
        return told, None
    return told, Ready(
        cfg=cfg,
        task=task,
        place=place,
        data=data,
        tokenizer=tokenizer,
        verifier=verifier,
        held_out=held_out,
    )


def train(cfg: TrainConfig, console: "Console", *, resume: Path | None = None, dry_run: bool = False) -> int:
    """`rlkit train`, in every process that torchrun or accelerate launch started.

    A dry run ends after the pre-flight, well (0) when a missing tokenizer is its only problem.
    """
    from rich.console import Console

    from rlkit.ranks import opened

    for name, flag in (("FSDP", "--use_fsdp"), ("DEEPSPEED", "--use_deepspeed")):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise ConfigError(
                f"accelerate launch {flag}: its settings for {name} are not read; leave it out, and divide the model with "
                "--learner.shard fsdp2"
            )
    with opened(group=cfg.learner.shard != "none") as ranks:
        return _train(cfg, console if ranks.main else Console(quiet=True), ranks, resume, dry_run)


def _train(cfg: TrainConfig, console: "Console", ranks: "Ranks", resume: Path | None, dry_run: bool) -> int:
    from rlkit import preflight

    told, ready = prepare(cfg, ranks)
    preflight.show(told, console)
    if dry_run:
        only_offline = ready is None and len(told.problems) == 1 and preflight.UNCHECKED in told.notes
        return 0 if ready is not None or only_offline else 2
    if ready is None:
        return 2
    folder = resume or Path(ready.cfg.output_dir or "")
    try:
        outcome = run(ready, console, resume=resume, ranks=ranks)
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped at once by Ctrl-C; {_way_on(folder)}") from error
    except SamplerGone as error:
        raise SamplerGone(f"{error}; {_way_on(folder)}") from error
    except OSError as error:
        if error.errno not in DISK_FULL_ERRORS:
            raise
        raise RunError(
            f"{folder}: the disk is full ({error.strerror}); make room, then {_way_on(folder)}"
        ) from error
    except (RuntimeError, MemoryError) as error:
        from rlkit.learner.room import ran_out

        if not ran_out(error):
            raise
        raise RunError(
            f"{folder}: out of memory outside of the learner's passes ({' '.join(str(error).split()):.160}); fewer sequences at once "
            f"(--sampler.max-num-seqs), shorter answers (--max-completion-length) or a smaller model need less; {_way_on(folder)}"
        ) from error
    words = printable(_closing_words(outcome, ready.cfg))
    console.print(words, soft_wrap=True, highlight=False, markup=False)
    return 0


def _way_on(run: Path) -> str:
    """What can be done about a run that ended before its time."""
    where = "from the last checkpoint" if any((run / "checkpoints").glob("step-*")) else "from its beginning"
    return f"continue {where} with `rlkit train --resume {run}`"


def _closing_words(outcome: Outcome, cfg: TrainConfig) -> str:
    lines = [f"{outcome.steps} steps, {outcome.sampled_tokens:,} sampled tokens, {outcome.seconds:.0f} s"]
    if outcome.after is not None:
        before = f"{outcome.before} -> " if outcome.before is not None else ""
        lines.append(f"held-out pass@1 with 95 % interval: {before}{outcome.after}")
    lines.append(f"run folder: {outcome.folder} (metrics.jsonl, rollouts/, checkpoints/)")
    lines.append(f"look:       rlkit dash {outcome.folder}, or tensorboard --logdir {outcome.folder}")
    return "\n".join(lines)


def run(
    ready: Ready, console: "Console", *, resume: Path | None = None, ranks: "Ranks | None" = None
) -> Outcome:
    """Open everything, train, evaluate before and after, close everything."""
    from rlkit import checkpoint, loop
    from rlkit.algos.base import Sampling
    from rlkit.algos.ops import seed_of
    from rlkit.analysis.store import Store, read_metrics
    from rlkit.checkpoint import Saver, randomness
    from rlkit.doctor import Watch, setup_of
    from rlkit.learner import ADAPTER, REFERENCE, Learner
    from rlkit.machine import host_memory, keep_freed_memory
    from rlkit.mishaps import Mishaps
    from rlkit.ranks import ALONE
    from rlkit.show import Terminal
    from rlkit.toml import to_toml
    from rlkit.userload import is_user_object

    keep_freed_memory()
    ranks = ranks or ALONE
    tokenizer, held_out = ready.tokenizer, ready.held_out
    longest = ready.cfg.max_completion_length or 0
    with ExitStack() as open_things:
        where = resume or Path(ready.cfg.output_dir or "runs/run")
        run = open_run(where, ready.cfg, ready.data, ranks, console, resume=resume is not None)
        cfg, store, start, saved = run.cfg, run.store, run.start, run.saved
        open_things.enter_context(closing(store))
        if isinstance(store, Store) and cfg.log.reporters:
            with console.status(f"starting {', '.join(cfg.log.reporters)}"):  # mlflow alone: three seconds
                store.report_to(build.make_reporters(cfg, store.folder))
        folder = build.model_folder(ready.place, ready.task, console)
        weights = saved or folder
        algo = build.make_algorithm(
            cfg.algo,
            Sampling(
                max_completion_length=longest,
                temperature=cfg.sampler.temperature,
                step_ends=build.step_ends(cfg.algo, tokenizer),
            ),
        )
        judge, pool = build.make_judge(cfg.reward, ready.verifier, tokenizer, ranks)
        open_things.enter_context(closing(pool))
        pool.begin()  # they load while the model and the sampler do
        lora = cfg.learner.lora_rank > 0
        # Before the sampler starts, which takes longer to fail. Adapters go on the weights that the run began with.
        model = build.load_model(folder if lora else weights, cfg.model)
        reference = None
        if cfg.algo.beta > 0 and not lora:
            moved = saved is not None and cfg.algo.sync_ref_model
            reference = build.load_model(saved / REFERENCE if saved and moved else folder, cfg.model)
        with console.status(f"starting the sampler ({cfg.sampler.name})"):
            sampler = build.share_sampler(
                cfg.sampler.name,
                ranks,
                lambda: build.make_sampler(
                    cfg.sampler,
                    cfg.model,
                    weights,
                    max_tokens=cfg.max_prompt_length + longest,
                    version=start.updates,
                    base=folder,
                    adapters=lora,
                    overlap=cfg.async_steps > 0,
                    say=partial(console.print, soft_wrap=True, highlight=False, markup=False),
                ),
            )
        open_things.enter_context(closing(sampler))
        learner = Learner(
            model,
            cfg.learner,
            cfg.algo,
            learning_rate=cfg.learner.learning_rate or 0.0,
            temperature=cfg.sampler.temperature,
            num_iterations=cfg.num_iterations,
            pad_id=build.pad_id(tokenizer),
            autocast=build.wants_bfloat16(cfg.model),
            reference=reference,
            adapter=saved / ADAPTER if saved and lora else None,
            seed=cfg.seed,
            ranks=ranks,
            everywhere=not build.is_fleet(cfg.sampler.name),
        )
        if saved is not None:
            checkpoint.restore_optimizer(saved, learner, start.updates)
            if is_user_object(cfg.algo.name):  # whose author wants the traceback
                algo.load_state_dict(start.algo)
            else:
                checkpoint.put_back(saved, f"the algorithm {cfg.algo.name}", algo.load_state_dict, start.algo)
        evaluate = _evaluator(cfg, sampler, judge, held_out, store)
        past = ranks.first([] if saved is None else read_metrics(store.folder))
        tracker = build.make_tracker(
            cfg,
            learner,
            store,
            tokenizer,
            ready.task,
            sampler=sampler,
            judge=judge,
            place=ready.place,
            probe=ranks.first(store.probe_answers()),
            past=past,
        )
        # Here, since what was built before may have drawn from them.
        if run.generators:
            checkpoint.put_back(
                run.store.folder, "the random generators' state", randomness.restore, run.generators
            )
        else:
            randomness.seed(seed_of(cfg.seed, "generators", ranks.rank))
        before = None
        if held_out and saved is None:
            with console.status(f"answering {len(held_out):,} held-out prompts"):
                before = evaluate(0)
            sampler.load(learner.weights(), 0)  # the prefix cache starts empty, as it does after a resume
        began = time.perf_counter()
        dtype = "bfloat16" if build.wants_bfloat16(cfg.model) else "float32"
        watch = Watch(setup_of(to_toml(cfg), dtype), past)
        with Terminal(cfg.algo.name, cfg.steps, start.step, console, watch) as view:
            learner.watcher = Mishaps(learner, store.folder, tokenizer, run.about.config, view.say)
            if cfg.learner.packing and learner.why_padded:
                view.say(f"sequences are padded, not packed: {learner.why_padded}")
            saver = Saver(
                where / "checkpoints",
                learner,
                tokenizer,
                keep=cfg.log.save_total_limit,
                about=run.about,
                saved_step=None if saved is None else start.step,
                background=cfg.log.async_save,
                free_bytes=lambda: host_memory()[1],
                say=view.say,
            )
            try:
                end = loop.train(
                    cfg,
                    data=ready.data,
                    sampler=sampler,
                    judge=judge,
                    algo=algo,
                    learner=learner,
                    store=store,
                    tracker=tracker,
                    view=view,
                    saver=saver,
                    evaluate=lambda step: {"eval/pass@1": evaluate(step).pass_at_1} if held_out else {},
                    start=start,
                )
            except loop.Stopped as stopped:
                raise Interrupted(_stopped(stopped, store.folder)) from stopped
        seconds = time.perf_counter() - began
        with console.status(f"answering {len(held_out):,} held-out prompts"):
            after = evaluate(end.step) if held_out else None
        outcome = Outcome(
            folder=store.folder,
            steps=end.step,
            sampled_tokens=end.sampled_tokens,
            seconds=seconds,
            before=before,
            after=after,
        )
        store.write_summary(_summary(outcome, cfg))
        return outcome


def _stopped(stopped: "Stopped", folder: Path) -> str:
    step, given_up, lost = stopped.step, stopped.given_up, ""
    if given_up is not None:
        lost = f" (step {step + 1} was given up in its phase `{given_up}`, and will be repeated as it was)"
    elif stopped.lost:
        lost = (
            " (rollouts of a later step were given up, and will be written anew by the weights of this one)"
        )
    return f"stopped after step {step}{lost}; continue with `rlkit train --resume {folder}`"


def _evaluator(
    cfg: TrainConfig, sampler: Sampler, judge: "Judge", prompts: Sequence[Prompt], store: "Store | Nowhere"
) -> "Callable[[int], Evaluation]":
    """Score the held-out prompts, always with the same seed, and record it; the same step is not scored twice."""
    from dataclasses import asdict

    from rlkit.evaluate import evaluate

    known: dict[int, Evaluation] = {}

    def at(step: int) -> "Evaluation":
        if step in known:
            return known[step]
        result = known[step] = evaluate(
            sampler,
            judge,
            prompts,
            samples=1,
            max_tokens=cfg.max_completion_length or 0,
            temperature=cfg.sampler.temperature,
            seed=cfg.seed,
        )
        store.write_evaluation({"step": step, **asdict(result)})
        return result

    return at


def _summary(outcome: Outcome, cfg: TrainConfig) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "algo": cfg.algo.name,
        "steps": outcome.steps,
        "sampled_tokens": outcome.sampled_tokens,
        "seconds": outcome.seconds,
        "sampler": cfg.sampler.name,
        "before": None if outcome.before is None else asdict(outcome.before),
        "after": None if outcome.after is None else asdict(outcome.after),
    }
