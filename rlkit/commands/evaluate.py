"""`rlkit eval`: n answers to every problem, kept in a folder; pass@k, avg@k and maj@k with intervals; two models compared.

eval_exam      the problems as one model's tokenizer reads them, and how they are asked
sit(...)       draws and judges what the folder lacks: all of it, the rest of a killed run, or more for a larger n
eval_report    from the folder's answers alone: table, JSON, page
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit import build
from rlkit.config import EvalConfig, ModelConfig
from rlkit.errors import ConfigError
from rlkit.types import Sampler

from .eval_exam import Exam, Sitting, exam_of, folder_of, names_of, settings_of
from .eval_report import report, stored_sitting

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.evaluate import Batch
    from rlkit.ranks import Ranks
    from rlkit.verify import Scorer


def evaluate(cfg: EvalConfig, console: "Console", *, as_json: bool = False) -> int:
    """`rlkit eval`, in every process that torchrun or accelerate launch started: they share the answers."""
    from rich.console import Console

    from rlkit.ranks import opened

    with opened() as ranks:
        return _evaluate(cfg, console if ranks.main else Console(quiet=True), ranks, as_json)


def _evaluate(cfg: EvalConfig, console: "Console", ranks: "Ranks", as_json: bool) -> int:
    # A file given to `rlkit eval` is what to evaluate on.
    names = names_of(cfg.data.held_out or cfg.data.name)
    mine = sit(cfg, cfg.model, names, cfg.output_dir, console, ranks)
    theirs: list[Sitting] = []
    if cfg.against is not None:
        stored = [stored_sitting(Path(cfg.against), s.exam) for s in mine]
        if all(s is not None for s in stored):
            theirs = [s for s in stored if s is not None]
        else:
            if Path(cfg.against, "evaluation.json").is_file():
                raise ConfigError(
                    f"--against {cfg.against}: holds an evaluation of other data than --data {cfg.data.name}"
                )
            output = None if cfg.output_dir is None else f"{cfg.output_dir}/against"
            theirs = sit(cfg, replace(cfg.model, name=cfg.against), names, output, console, ranks)
    if ranks.main:
        report(cfg, mine, theirs, console, as_json)
    return 0


def sit(
    cfg: EvalConfig,
    model: ModelConfig,
    names: Sequence[str],
    output_dir: str | None,
    console: "Console",
    ranks: "Ranks",
) -> list[Sitting]:
    """Every exam answered in full by this model. Answers that its folder has already are not drawn again."""
    place = build.find_model(model)
    tokenizer = build.find_tokenizer(place)
    exams = [exam_of(cfg, name, tokenizer) for name in names]
    for exam in exams:
        console.print(_asked(exam, model), soft_wrap=True, highlight=False, markup=False)
    sittings = []
    for exam in exams:
        weights = build.model_folder(place, exam.task, console)
        settings = settings_of(cfg, model, exam, weights)
        folder = folder_of(output_dir, model, exam, settings, several=len(exams) > 1)
        sittings.append((Sitting(exam=exam, folder=folder, settings=settings), weights))
    for weights in dict.fromkeys(weights for _, weights in sittings):
        _answer([s for s, w in sittings if w == weights], weights, cfg, model, tokenizer, console, ranks)
    return [s for s, _ in sittings]


def _asked(exam: Exam, model: ModelConfig) -> str:
    from rlkit.printable import printable

    d = exam.drawing
    words = f"{exam.label}: {len(exam.prompts):,} problems x {d.n} answers of {model.name}, reward {exam.reward.name}, "
    words += f"temperature {d.temperature:g}, at most {d.max_tokens:,} tokens; from {exam.source}"
    return printable(words)


def _answer(
    sittings: Sequence[Sitting],
    weights: Path,
    cfg: EvalConfig,
    model: ModelConfig,
    tokenizer: Any,
    console: "Console",
    ranks: "Ranks",
) -> None:
    from rlkit.analysis.eval_store import EvalStore
    from rlkit.analysis.store import encodable
    from rlkit.evaluate import answer_all, missing, plan

    with ExitStack() as open_things:
        sampler: Sampler | None = None
        for sitting in sittings:
            exam = sitting.exam
            with ExitStack() as this_exam:
                store, left = None, []
                if ranks.main:
                    store = this_exam.enter_context(closing(EvalStore(sitting.folder, sitting.settings)))
                    batches = plan(len(exam.prompts), exam.drawing.n, exam.drawing.batch)
                    left = missing(batches, [encodable(p.id) for p in exam.prompts], store.have())
                left = ranks.first(left)
                if not left:
                    continue
                if sampler is None:
                    longest = max(s.exam.drawing.max_tokens for s in sittings)
                    sampler = _sampler(cfg, model, weights, longest, console, ranks)
                    open_things.enter_context(closing(sampler))
                judge, pool = build.make_judge(
                    exam.reward, build.make_verifier(exam.reward, exam.task), tokenizer, ranks
                )
                this_exam.enter_context(closing(pool))
                read = _reader(exam, ranks, this_exam)
                with _progress(exam, left, console) as advance:

                    def keep(
                        batch: "Batch", answers: Any, store: Any = store, advance: Any = advance
                    ) -> None:
                        store.write(batch.block, batch.first, answers)
                        advance(batch.size)

                    answer_all(sampler, judge, exam.prompts, exam.drawing, left, read, keep, ranks)


def _sampler(
    cfg: EvalConfig, model: ModelConfig, weights: Path, longest: int, console: "Console", ranks: "Ranks"
) -> Sampler:
    name = build.sampler_name(cfg.sampler.name)
    with console.status(f"starting the sampler ({name})"):
        return build.share_sampler(
            name,
            ranks,
            lambda: build.make_sampler(
                replace(cfg.sampler, name=name),
                model,
                weights,
                max_tokens=cfg.max_prompt_length + longest,
                version=0,
                say=partial(console.print, soft_wrap=True, highlight=False, markup=False),
            ),
        )


def _reader(exam: Exam, ranks: "Ranks", open_things: ExitStack) -> "Scorer | None":
    """Reads final answers in processes of its own; None: what this reward judges has none."""
    from rlkit.ranks import SharedScorer
    from rlkit.rewards import AnswerReader, VerifierPool, no_answer, reader_of

    read = reader_of(exam.reward.name, exam.task is not None)
    if read is no_answer:
        return None
    pool = VerifierPool(AnswerReader(read), exam.reward.workers, exam.reward.timeout)
    return SharedScorer(open_things.enter_context(closing(pool)).score, ranks)


@contextmanager
def _progress(exam: Exam, left: Sequence["Batch"], console: "Console") -> Iterator[Any]:
    """A bar on a terminal; elsewhere one line for what is to come."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rlkit.printable import printable

    total, todo = len(exam.prompts) * exam.drawing.n, sum(b.size for b in left)
    bar = Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("answers"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
    )
    title = printable(exam.label)
    if not console.is_terminal:
        stored = f"; {total - todo:,} are stored already" if todo < total else ""
        console.print(f"{title}: {todo:,} answers to draw{stored}", highlight=False, markup=False)
    with bar:
        task = bar.add_task(title, total=total, completed=total - todo)
        yield lambda count: bar.advance(task, count)
