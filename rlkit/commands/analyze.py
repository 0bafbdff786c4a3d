"""`rlkit analyze mc-credit | skip | implicit`: what is asked of whom, the study, and what it came to.

analyze_subjects     a run, a checkpoint, a model folder, a hub id or `tiny` -> the model, and the settings of its run
study_lab            the model, its prompts and the folder in which nothing is drawn twice, as one object
analyze_show         tables, JSON and a figure, from the result alone
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit import build
from rlkit.analyze_config import ImplicitConfig, McCreditConfig, SkipConfig, StudyConfig
from rlkit.config import ModelConfig
from rlkit.errors import ConfigError, RunError

from . import analyze_show as show
from .progress import Progress
from .study_lab import opened
from .train import completion_length, slug

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.analysis.study_store import StudyStore
    from rlkit.studies.evaluator import Partial, Success

Study = dict[str, Any]
Tick = Callable[[int, int], None]
"""So many are done, of so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the command was given."""

    json: bool = False
    dry_run: bool = False


def analyze(name: str, args: Any, console: "Console") -> int:
    """One of the three studies. args: as rlkit/analyze_args.py has them"""
    way = Way(json=args.json, dry_run=args.dry_run)
    if name == "implicit":
        return implicit(args.cfg, args.subjects, console, way)
    return skip(args.cfg, console, way) if name == "skip" else mc_credit(args.cfg, console, way)


def _resolved(cfg: Any) -> Any:
    """`none: it depends` filled in; a benchmark has a reward and a length of its own."""
    from rlkit.benchmark_names import MAX_COMPLETION_LENGTH, benchmark

    task, known = build.make_task(cfg.data.name), benchmark(cfg.data.name)
    length = completion_length(task) if task is not None or known is None else MAX_COMPLETION_LENGTH
    if known is not None and cfg.reward.name == "auto":
        cfg = replace(cfg, reward=replace(cfg.reward, name=known.reward))
    return replace(cfg, max_completion_length=cfg.max_completion_length or length)


def _called(cfg: StudyConfig, used: int) -> str:
    """The data by its name; of a benchmark never without the share that was used."""
    from rlkit.benchmark_names import benchmark, label

    known = benchmark(cfg.data.name)
    return cfg.data.name if known is None else label(cfg.data.name, min(used, known.size), known.size)


# -- the three studies -------------------------------------------------------------------------------------------------


def mc_credit(cfg: McCreditConfig, console: "Console", way: Way) -> int:
    cfg = _resolved(cfg)
    prefixes = cfg.prompts * cfg.num_generations * (cfg.positions - 1)
    deep = min(cfg.deep_groups * cfg.num_generations, prefixes)
    draws = prefixes * cfg.continuations + deep * (cfg.deep_continuations - cfg.continuations)
    searched = cfg.step_prompts if cfg.step_answers and cfg.data.name in ("task:chain", "chain") else 0
    _say(
        console,
        f"mc-credit of {cfg.model.name} on {cfg.data.name}: {cfg.prompts} problems x {cfg.num_generations} answers, each cut at "
        f"{cfg.positions - 1} places, {cfg.continuations:,} continuations of each prefix and {cfg.deep_continuations:,} of {deep}: at most "
        f"{draws:,} (prefixes that are alike are drawn once)"
        + (
            f"; and of the steps of at most {2 * cfg.step_answers} answers, found among those to {searched} problems"
            if searched
            else ""
        ),
    )
    if way.dry_run:
        return 0
    from rlkit.analysis import credit_figures, credit_summary
    from rlkit.studies import credit

    with _store("mc_credit", cfg, [cfg.model], console) as store:
        with (
            opened(cfg, cfg.model, max(cfg.prompts, searched), store, console) as lab,
            _bars(console) as bars,
        ):
            found = credit.study(lab, cfg, bars)
        right_S = credit.right_of(found.steps)
        result: Study = {
            "study": "mc_credit",
            "model": cfg.model.name,
            "data": _called(cfg, cfg.prompts),
            "draws": found.num_draws,
            "continuations": cfg.continuations,
            "deep": cfg.deep_continuations,
            "measured": credit_summary.measured(found.units, cfg.ks, cfg.deep_continuations),
            "steps": credit_summary.steps(
                found.before_SN, found.after_SN, right_S, credit.answers_of(found.steps), cfg.ks
            ),
            "simulation": credit_summary.simulation(),
        }
        title = f"Monte-Carlo credit of {cfg.model.name} on {cfg.data.name}"
        _finish(store, result, show.mc_credit, credit_figures.mc_credit, title, console, way)
    return 0


def skip(cfg: SkipConfig, console: "Console", way: Way) -> int:
    cfg = _resolved(cfg)
    groups = cfg.prompts * (1 + 2 * cfg.splits)
    _say(
        console,
        f"skip of {cfg.model.name} on {cfg.data.name}: an answer to each of {cfg.prompts} problems, cut at {cfg.splits} places; "
        f"{groups:,} groups of {cfg.num_generations} continuations, {groups * cfg.num_generations:,} in all",
    )
    if way.dry_run:
        return 0
    from rlkit.analysis import credit_figures, prefix_effects
    from rlkit.studies import prefixes

    with _store("skip", cfg, [cfg.model], console) as store:
        with (
            opened(cfg, cfg.model, cfg.prompts, store, console, with_skip=True, finals=True) as lab,
            _bars(console) as bars,
        ):
            found = prefixes.study(lab, cfg, bars)
        result: Study = {
            "study": "skip",
            "model": cfg.model.name,
            "data": _called(cfg, cfg.prompts),
            "group": cfg.num_generations,
            "splits": prefix_effects.summarise(found, prefixes.KINDS, "unconditional"),
        }
        title = f"What a prefix does to what follows: {cfg.model.name} on {cfg.data.name}"
        _finish(store, result, show.skip, credit_figures.skip, title, console, way)
    return 0


def implicit(cfg: ImplicitConfig, models: Sequence[str], console: "Console", way: Way) -> int:
    cfg = _resolved(cfg)
    subjects = [replace(cfg.model, name=name) for name in models]
    if len(set(models)) < len(models):
        raise ConfigError(f"rlkit analyze implicit {' '.join(models)}: expected different models")
    from rlkit.studies.evaluator import read_template

    read_template(cfg.template)
    where = f" at {cfg.endpoint}" if cfg.endpoint else ""
    most = len(models) * cfg.prompts * cfg.positions * cfg.continuations
    _say(
        console,
        f"implicit of {', '.join(models)} on {cfg.data.name}: right answers to {cfg.prompts} problems ({cfg.tries} tries each), cut at "
        f"{cfg.positions} places; {cfg.evaluator.name}{where} goes on {cfg.continuations} times from each: at most {most:,} "
        + ("requests" if cfg.endpoint else "continuations"),
    )
    if way.dry_run:
        return 0
    if cfg.endpoint is not None:
        from rlkit.rewards.web import check_url

        check_url(cfg.endpoint, cfg.key, "--endpoint")
    from rlkit.analysis import credit_figures, prefix_effects
    from rlkit.studies import implicit as implicit_study

    local = [] if cfg.endpoint else [cfg.evaluator]
    with _store("implicit", cfg, [*subjects, *local], console) as store:
        cuts, found = _evaluated(cfg, subjects, store, console)
        rates = [implicit_study.success_rates(c, f) for c, f in zip(cuts, found, strict=True)]
        result: Study = {
            "study": "implicit",
            "evaluator": f"{cfg.evaluator.name}{where}",
            "data": _called(cfg, cfg.prompts),
            "prompts": cfg.prompts,
            "continuations": cfg.continuations,
            "models": prefix_effects.progress(list(models), rates, implicit_study.shares(cfg)),
        }
        title = f"How far right answers have come, as {cfg.evaluator.name} sees it, on {cfg.data.name}"
        _finish(store, result, show.implicit, credit_figures.implicit, title, console, way)
    return 0


def _evaluated(
    cfg: ImplicitConfig, subjects: Sequence[ModelConfig], store: "StudyStore", console: "Console"
) -> "tuple[list[list[list[Partial]]], list[Success]]":
    """Of each model: its right answers cut in pieces, and what the evaluator made of those."""
    from rlkit.studies import evaluator
    from rlkit.studies.implicit import partials, right_answers
    from rlkit.templates import Template

    cuts: list[list[list[Partial]]] = []
    found: list[Success] = []

    for model in subjects:
        with (
            opened(cfg, model, cfg.prompts, store, console) as lab,
            _bars(console) as bars,
        ):
            right = right_answers(lab, cfg, bars("answers"))
            if not right:
                raise RunError(
                    f"{model.name}: none of {cfg.prompts} problems has a right answer in {cfg.tries} tries; raise --tries or "
                    "--prompts, or name easier --data"
                )
            cuts.append([partials(answer, lab.decode, cfg) for answer in right])
            if cfg.endpoint:
                flat = [p for own in cuts[-1] for p in own]
                found.append(evaluator.remote(lab, cfg, flat, bars("draws")))
    if cfg.endpoint:
        return cuts, found
    tokenizer = build.find_tokenizer(build.find_model(cfg.evaluator))
    with opened(cfg, cfg.evaluator, cfg.prompts, store, console) as lab:
        for model, own in zip(subjects, cuts, strict=True):
            theirs = build.find_tokenizer(build.find_model(model))
            with _bars(console) as bars:
                found.append(
                    evaluator.local(
                        lab,
                        cfg,
                        [p for parts in own for p in parts],
                        same_tokens=tokenizer.get_vocab() == theirs.get_vocab(),
                        tokenizer=tokenizer,
                        template=Template(cfg.data, tokenizer),
                        progress=bars("draws"),
                    )
                )
    return cuts, found


# -- folder, bars, ending ----------------------------------------------------------------------------------------------


@contextmanager
def _store(
    study: str, cfg: StudyConfig, models: Sequence[ModelConfig], console: "Console"
) -> "Iterator[StudyStore]":
    from rlkit import __version__
    from rlkit.analysis.study_store import MAY_DIFFER, StudyStore

    from .eval_exam import fingerprint, weights_print

    task = build.make_task(cfg.data.name)
    sampling = cfg.sampler
    settings: dict[str, Any] = {
        "study": study,
        "model": [m.name for m in models],
        "weights": [weights_print(build.model_folder(build.find_model(m), task, console)) for m in models],
        "dtype": cfg.model.dtype,
        "rlkit": __version__,
        "engine": build.sampler_name(sampling.name),
        "data": asdict(cfg.data),
        "reward": cfg.reward.name,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "max_prompt_length": cfg.max_prompt_length,
        "max_completion_length": cfg.max_completion_length,
        "seed": cfg.seed,
        "sizes": {f.name: getattr(cfg, f.name) for f in fields(cfg) if isinstance(getattr(cfg, f.name), int)},
    }
    if isinstance(cfg, ImplicitConfig):
        asked = None if cfg.template is None else fingerprint(cfg.template.read_text("utf-8"))
        settings |= {"evaluator": cfg.evaluator.name, "endpoint": cfg.endpoint, "template": asked}
    if cfg.output_dir is not None:
        folder = Path(cfg.output_dir)
    else:
        identity = {k: v for k, v in settings.items() if k not in MAY_DIFFER}
        data = slug(cfg.data.name.replace("task:", "").replace("reasoning_gym:", ""))
        mark = fingerprint(json.dumps(identity, sort_keys=True))[:6]
        folder = Path("studies", f"{study}-{slug(models[0].name)}-{data}-{mark}")
    with closing(StudyStore(folder, settings)) as store:
        yield store


@contextmanager
def _bars(console: "Console") -> "Iterator[Callable[[str], Tick]]":
    """A bar for each kind of thing drawn, one after the other: a terminal has room for one."""
    words = {"answers": "answers", "draws": "continuations"}
    shown: dict[str, Progress] = {}
    with ExitStack() as stack:

        def bar(kind: str) -> "Tick":
            def tick(done: int, total: int) -> None:
                if kind not in shown:
                    stack.close()
                    shown.clear()
                    shown[kind] = stack.enter_context(Progress(words[kind], total, console))
                shown[kind](done)

            return tick

        yield bar


def _finish(
    store: "StudyStore",
    result: Study,
    table: Callable[[Study], str],
    draw: Callable[[Study, str], Any],
    title: str,
    console: "Console",
    way: Way,
) -> None:
    from importlib.util import find_spec

    from rlkit.analysis.study_store import FIGURE, RESULT

    store.write_json(RESULT, result)
    files = [RESULT, "answers/", "draws/"]
    if find_spec("plotly") is not None:
        from rlkit.analysis import figures

        figures.write(draw(result, title), store.folder / FIGURE)
        files.insert(0, FIGURE)
    if way.json:
        print(json.dumps(result, indent=2))
    else:
        print(table(result), end="")
    _say(console, f"kept in {store.folder} ({', '.join(files)})")
    if FIGURE not in files:
        _say(console, "no figure: plotly is not installed (pip install 'rlvrkit[dash]')")


def _say(console: "Console", words: str) -> None:
    from rlkit.printable import printable

    console.print(printable(words), soft_wrap=True, highlight=False, markup=False)
