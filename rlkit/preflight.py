"""Before any weight loads: what a run will do, cost and read, in words, and what would stop it.

    plan(cfg, place, prompts, ...) -> Plan        sections of plain lines, warnings, problems; nothing is loaded
    render(plan) -> str,  show(plan, console)     the first lines of every run, and all of --dry-run

Memory and disk are estimates from the model's shape. Text that comes from data or from a model is made printable here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlkit import memory, staleness
from rlkit.config import TrainConfig
from rlkit.errors import RlkitError
from rlkit.machine import Machine, this_machine
from rlkit.models import FOLDER_HOLDS, ModelPlace, ModelShape
from rlkit.printable import printable
from rlkit.rewards.contract import ROUNDING, full_marks, gold_text
from rlkit.rewards.grammar import parse_spec, part_names
from rlkit.types import Prompt, Score, Verifier
from rlkit.userload import is_user_object

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_CHARACTERS = 2000
"""Of a prompt; the rest is counted."""
FORMS = {"format", "length", "repetition"}
"""Rewards of what an answer looks like: a gold answer, which is only the answer, need not have it."""
UNCHECKED = "template and lengths unchecked: pass a local path (--model /path/to/folder)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A title and plain lines, safe for a terminal.

    >>> Section(title="Batch", lines=("32 prompts x 8 = 256 rollouts -> 1 update of 256",)).title
    'Batch'
    """

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will do; `problems` would stop it, `warnings` may, `notes` only inform.

    >>> Plan(sections=(), problems=("no gold answer",), warnings=(), notes=()).ready
    False
    """

    sections: tuple[Section, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ready(self) -> bool:
        return not self.problems


def plan(
    cfg: TrainConfig,
    *,
    place: ModelPlace,
    prompts: Sequence[Prompt],
    pool: int | None,
    description: Sequence[str] = (),
    verifier: Verifier | None = None,
    decode: Callable[[list[int]], str] | None = None,
    tokenizer_problem: str | None = None,
    learning_rates: Sequence[str] = (),
    idle: Sequence[str] = (),
    ranks: int = 1,
    machine: Machine | None = None,
) -> Plan:
    """Everything that can be told before a weight is loaded.

    prompts: at least the first one, in any order; lengths are told over all that are given
    pool: training prompts of one epoch; None: endless
    description: what the data room says of source, counts and column mapping
    verifier: None shows no scored gold answer
    decode: token ids -> text, for SKPO's [s, q]
    tokenizer_problem: the sentence why there is no tokenizer; then prompts need no token ids, and the plan is not ready
    learning_rates: the table of parameter groups; none when all weights learn alike
    idle: a sentence for each of the algorithm's settings that was changed and does nothing
    ranks: processes that train together
    """
    machine = machine or this_machine(cfg.output_dir)
    problems, warnings, notes = [], [], []
    model_lines, missing = _model(place)
    problems += missing
    batch_lines, batch_warnings = _batch(cfg, pool)
    if ranks > 1:
        batch_lines.append(
            f"ranks: {ranks} share prompts, verdicts and micro-batches; the numbers above are of all together"
        )
    warnings += [*batch_warnings, *idle]
    sections = [
        Section(title="Model", lines=tuple(model_lines)),
        Section(title="Batch", lines=tuple(batch_lines)),
        Section(title="Overlap", lines=tuple(staleness.lines(cfg))),
        Section(title="Learning rates", lines=tuple(learning_rates)),
    ]
    warnings += staleness.warnings(cfg, machine.device == "cuda")
    problems += staleness.problems(cfg, ranks)
    if place.shape is None:
        notes.append(
            f"memory and disk: no estimate, since the shape of {place.name} is not known on this machine"
        )
    else:
        needs = memory.memory_needs(cfg, place.shape, machine, ranks)
        title = "Memory (estimate)" if ranks == 1 else f"Memory (estimate, each of {ranks} ranks)"
        sections.append(Section(title=title, lines=(*memory.table(needs), memory.device_words(machine))))
        warnings += memory.memory_warnings(cfg, place.shape, machine, needs, ranks)
        warnings += _length_warnings(cfg, place.shape, prompts)
        problems += _foreign_tokens(place.shape, prompts)
        disk = memory.disk_needs(cfg, place)
        sections.append(
            Section(
                title="Disk (estimate)", lines=(*memory.table(disk), f"free: {machine.disk_free_gib:.1f} GiB")
            )
        )
        if sum(n.gib for n in disk) > machine.disk_free_gib:
            warnings.append(
                f"disk: the estimate is {sum(n.gib for n in disk):.1f} GiB and {machine.disk_free_gib:.1f} GiB are free; "
                "lower --log.save-total-limit, or choose another --output-dir"
            )
    sections.append(Section(title="Data", lines=tuple(description)))
    if tokenizer_problem is not None:
        problems.append(tokenizer_problem)
        notes.append(UNCHECKED)
    if not prompts:
        problems.append("there are no prompts to train on; see --data, --data.limit and --max-prompt-length")
    else:
        sections += _shown(cfg, prompts, decode, tokenizer_problem is None)
        if verifier is not None:
            lines, gold_problems, gold_warnings = _gold(cfg, prompts[0], verifier)
            sections.append(Section(title="Gold answer", lines=tuple(lines)))
            problems += gold_problems
            warnings += gold_warnings
    return Plan(
        sections=tuple(
            Section(title=_one_line(s.title), lines=tuple(map(printable, s.lines)))
            for s in sections
            if s.lines
        ),
        problems=tuple(map(_one_line, problems)),
        warnings=tuple(map(_one_line, warnings)),
        notes=tuple(map(_one_line, notes)),
    )


def _one_line(text: str) -> str:
    return printable(" ".join(text.split("\n")))


def render(plan: Plan) -> str:
    """The plan as plain text, for files and for terminals without colour."""
    out = []
    for section in plan.sections:
        out += [section.title, *(f"  {line}" for text in section.lines for line in text.split("\n")), ""]
    for label, sentences in (("warning", plan.warnings), ("note", plan.notes), ("problem", plan.problems)):
        out += [f"{label}: {sentence}" for sentence in sentences]
    count = len(plan.problems)
    out.append("ready to train" if plan.ready else f"not ready to train: {count} problem{'s' * (count > 1)}")
    return "\n".join(out)


def show(plan: Plan, console: "Console") -> None:
    """`render` with colours; every line is a `Text`, so that no markup in a prompt is obeyed."""
    from rich.text import Text

    colours = {
        "warning: ": "yellow",
        "note: ": "cyan",
        "problem: ": "bold red",
        "not ready": "bold red",
        "ready": "green",
    }
    titles = {section.title for section in plan.sections}
    for line in render(plan).split("\n"):
        style = "bold" if line in titles else next((c for k, c in colours.items() if line.startswith(k)), "")
        console.print(Text(line, style=style), soft_wrap=True)


# -- the batch --------------------------------------------------------------------------------------------------------


def _batch(cfg: TrainConfig, pool: int | None) -> tuple[list[str], list[str]]:
    """Prompts -> rollouts -> updates, tokens and epochs in words; and warnings."""
    prompts, group, length = cfg.prompts_per_step, cfg.algo.num_generations, memory.completion_length(cfg)
    draws = cfg.algo.draws(length)
    trained_each = sum(draws.trained.values())
    trained = prompts * trained_each
    sizes = [  # as rlkit.batch deals groups to mini-batches
        ((i + 1) * prompts // cfg.mini_batches - i * prompts // cfg.mini_batches) * trained_each
        for i in range(cfg.mini_batches)
    ]
    small, large = min(sizes), max(sizes)
    updates = cfg.updates_per_step
    each = f"of {small}" if small == large else f"of {small} to {large}"
    arrow = f"-> {updates} update{'s' * (updates > 1)} {each}"
    if cfg.num_iterations > 1:
        arrow += f" ({cfg.mini_batches} mini-batch{'es' * (cfg.mini_batches > 1)} x {cfg.num_iterations} iterations)"
    most = prompts * draws.tokens
    if draws.sampled == draws.trained:
        lines = [f"{prompts} prompts x {group} = {trained} rollouts {arrow}"]
    else:
        drawn = " + ".join(f"{count} {kind}" for kind, count in draws.sampled.items())
        kept = " + ".join(f"{prompts * count} {kind}" for kind, count in draws.trained.items())
        total = prompts * sum(draws.sampled.values())
        lines = [f"{prompts} prompts x ({drawn}) = {total} samples; trained: {kept} {arrow}"]
    plain = draws.tokens == trained_each * length
    cost = f"{trained} x {length} = {most:,} sampled" if plain else f"{most:,} sampled"
    cost += f" ({draws.why})" if draws.why else ""
    lines.append(f"tokens per step: at most {cost}")
    if small != large:
        lines.append(
            f"mini-batches: {prompts} prompts do not divide into {cfg.mini_batches}; a mini-batch holds whole groups, so they hold "
            f"{small // trained_each} or {large // trained_each} prompts"
        )
    longest = cfg.max_prompt_length + length
    fit = max(1, cfg.learner.micro_batch_tokens // longest)
    lines.append(
        f"micro-batches: {cfg.learner.micro_batch_tokens:,} tokens hold {fit} sequence{'s' * (fit > 1)} of the longest kind "
        f"({cfg.max_prompt_length} + {length} tokens); this changes memory, never the gradient"
    )
    drawn_prompts = cfg.steps * prompts
    run = f"run: {cfg.steps:,} steps x {prompts} prompts = {drawn_prompts:,} prompts"
    run += (
        " without end, each new"
        if pool is None
        else f" = {drawn_prompts / max(pool, 1):.2f} epochs over {pool:,}"
    )
    lines.append(f"{run}; {cfg.steps * updates:,} updates, {cfg.steps * most:,} sampled tokens at most")
    if cfg.token_budget is not None:
        first = math.ceil(cfg.token_budget / most)
        lines.append(
            f"token budget: stops after {cfg.token_budget:,} sampled tokens, not before step {first:,}"
        )
    if pool is not None and 0 < pool < prompts:
        return lines, [
            f"a step takes {prompts} prompts and an epoch has only {pool}; lower --prompts-per-step"
        ]
    return lines, []


def _length_warnings(cfg: TrainConfig, shape: ModelShape, prompts: Sequence[Prompt]) -> list[str]:
    """The model's positions against the longest prompt that is really there, or against the limit."""
    lengths = [_prompt_tokens(prompt) for prompt in prompts]
    longest = max(lengths, default=0) or cfg.max_prompt_length
    total = longest + memory.completion_length(cfg)
    if total <= shape.positions:
        return []
    room = shape.positions - longest
    remedy = f"use --max-completion-length {room}" if room > 1 else "lower --max-prompt-length"
    return [
        f"length: a prompt of {longest:,} and a completion of {memory.completion_length(cfg):,} tokens are {total:,}, and the model has "
        f"{shape.positions:,} positions; {remedy}"
    ]


def _foreign_tokens(shape: ModelShape, prompts: Sequence[Prompt]) -> list[str]:
    """A token beyond the embedding would stop the run in its first forward, without a name."""
    for prompt in prompts:
        last = max(prompt.token_ids, default=0)
        if last >= shape.vocab:
            return [
                f"prompt {prompt.id} has token {last} and the model knows {shape.vocab:,}: the tokenizer does not belong to it; "
                "take model and tokenizer from one folder"
            ]
    return []


# -- model, data and gold ---------------------------------------------------------------------------------------------


def _model(place: ModelPlace) -> tuple[list[str], list[str]]:
    """What the name means, and problems."""
    name, where = place.name, place.path
    if place.kind == "tiny":
        lines = ["tiny: the embedded model, built into the cache when it is first used"]
    elif place.kind == "hub":
        held = (
            "in the hub's cache" if not place.missing else "weights not in the hub's cache, to be downloaded"
        )
        lines = [f"{name} -> {where} on the hub ({held})"]
    else:
        lines = [f"{name} -> folder {where}"]
    if place.shape is not None:
        s = place.shape
        source = {"table": "the built-in table"}.get(place.shape_source, place.shape_source)
        lines.append(
            f"{s.parameters:,} parameters: {s.layers} layers of {s.hidden}, {s.heads} heads ({s.kv_heads} kv) of {s.head_dim}, "
            f"vocabulary {s.vocab:,}, {s.positions:,} positions ({source})"
        )
    if place.kind == "folder" and place.missing:
        return lines, [f"--model {name}: {where} lacks {', '.join(place.missing)}; expected {FOLDER_HOLDS}"]
    return lines, []


def _prompt_tokens(prompt: Prompt) -> int:
    around = 0 if prompt.skip_ids is None else len(prompt.skip_ids[0]) + len(prompt.skip_ids[1])
    return max(len(prompt.token_ids), around)


def _shown(
    cfg: TrainConfig, prompts: Sequence[Prompt], decode: Callable[[list[int]], str] | None, tokenized: bool
) -> list[Section]:
    """The first prompt as the policy will read it, and SKPO's [s, q]."""
    first = prompts[0]
    if not tokenized:
        text = first.text or first.question
        return [Section(title=f"Prompt {first.id}, plain (no tokenizer)", lines=(_cut(text),))]
    lengths = sorted(len(prompt.token_ids) for prompt in prompts)
    middle, last = lengths[len(lengths) // 2], lengths[-1]
    told = f"{len(first.token_ids)} tokens"
    if len(lengths) > 1:
        told += f"; of {len(lengths):,} prompts the median has {middle}, the longest {last}"
    sections = [Section(title=f"Prompt {first.id} ({told})", lines=(_cut(first.text),))]
    place, room = cfg.algo.given_back, "<<< segment: what the policy wrote first, given back >>>"
    text, fixed = "", len(first.token_ids)
    if place == "behind":
        text = f"{first.text}{room}"
    elif place == "in front" or (place == "inside" and first.skip_ids is None):
        text = f"{room}{first.text}"
    elif place == "inside" and first.skip_ids is not None and decode is not None:
        before, after = first.skip_ids
        text, fixed = f"{decode(before)}{room}{decode(after)}", len(before) + len(after)
    if text:
        order = "[q, s]" if place == "behind" else "[s, q]"
        title = f"Prompt of the continuations, {order} ({fixed} tokens and the segment)"
        sections.append(Section(title=title, lines=(_cut(text),)))
    return sections


def _cut(text: str) -> str:
    """Not longer than a screen."""
    more = len(text) - SHOWN_CHARACTERS
    return text[:SHOWN_CHARACTERS] + (f" ... ({more:,} more characters)" if more > 0 else "")


def _gold(cfg: TrainConfig, prompt: Prompt, verifier: Verifier) -> tuple[list[str], list[str], list[str]]:
    """The gold answer, written as the verifier reads it, must be worth the most: else every right answer counts as wrong.

    Lines, problems, warnings. The user's own verifier may have another scale, and a gold answer may lack the form that
    a sum asks for (tags, a length): of these he is only warned.
    """
    text = gold_text(verifier, prompt)
    if text is None:
        return ["this verifier reads no gold answer (reference is none); nothing to score"], [], []
    try:
        score = verifier(prompt, text)
    except RlkitError as error:  # not this answer's fault: no answer can be judged
        return [f"{_cut(text)} -> none"], [str(error)], []
    except Exception as error:  # a user's verifier may raise anything; the run would count it as an error too
        score = Score(None, reason=f"{type(error).__name__}: {error}", error=True)
    said = "none" if score.value is None else f"{score.value:g}"
    parts = ", ".join(f"{name} {value:g}" for name, value in score.parts.items())
    reason = score.reason or "no reason given"
    line = f"{_cut(text)} -> {said}{f' ({parts})' if parts else ''}: {reason}"
    terms = _rewarded(cfg.reward.name, score)
    most = full_marks(verifier)
    if most is None:
        most, full = 1.0, all(part >= 1 for part in terms.values())
    else:
        full = score.value is not None and score.value >= most - ROUNDING
    if full and score.outcome == "score":
        return [line], [], []
    sentence = (
        f"the gold answer of prompt {prompt.id}, {text[:80]}, scores {said} and not {round(most, 9)} ({reason}); "
        "check --data.answer-column and --reward, else right answers count as wrong"
    )
    judged = [part for name, part in terms.items() if name not in FORMS and not is_user_object(name)]
    stops = any(part < 1 or score.outcome != "score" for part in judged)
    return [line], [sentence] if stops else [], [] if stops else [sentence]


def _rewarded(reward: str, score: Score) -> dict[str, float]:
    """What the gold answer got of each term that adds to a `--reward`, by the term's name; a lone term gets the value.

    Counters that a term keeps in its own parts (`repetition/loop`) are worth nothing, and a term behind a minus is no aim.
    """
    terms = parse_spec(reward)
    if len(terms) == 1 and terms[0].weight is None:
        return {terms[0].name: -math.inf if score.value is None else score.value}
    least: dict[str, float] = {}
    for part, term in zip(part_names(terms), terms, strict=True):
        if term.weight is None or term.weight > 0:
            got = score.parts.get(part, -math.inf)
            least[term.name] = min(got, least.get(term.name, math.inf))
    return least
