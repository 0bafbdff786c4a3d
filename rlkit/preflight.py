"""Before any weight loads: what a run will do, cost and read, in words, and what would stop it.

    plan(cfg, place, prompts, ...) -> Plan        sections of plain lines, warnings, problems; nothing is loaded
    render(plan) -> str,  show(plan, console)     the first lines of every run, and all of --dry-run

Memory and disk are estimates from the model's shape. Text that comes from data or from a model is made printable here.
"""

import importlib
import importlib.util
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlkit import models
from rlkit.config import SkpoConfig, TrainConfig
from rlkit.models import GIB, ModelPlace, ModelShape
from rlkit.printable import printable
from rlkit.types import Prompt, Score, Verifier
from rlkit.userload import is_user_object

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_CHARACTERS = 2000
"""Of a prompt; the rest is counted."""
DEFAULT_COMPLETION = 512
"""Tokens assumed when max_completion_length is not resolved."""
PROCESS_GIB = 1.0
"""Libraries and fragmentation beside the tensors: 0.7 measured on a CPU, with and without checkpointing, rounded up."""
UNCHECKED = "template and lengths unchecked: pass a local path (--model /path/to/folder)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The device a run will compute on, and the disk it will write to.

    >>> Machine(device="cuda", name="H200", memory_gib=139.8, free_gib=139.2, disk_free_gib=900.0).device
    'cuda'
    """

    device: Literal["cuda", "cpu"]
    name: str
    memory_gib: float
    free_gib: float
    disk_free_gib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One row of the memory or disk table.

    >>> Need(what="gradients", gib=28.37, why="float32")
    Need(what='gradients', gib=28.37, why='float32')
    """

    what: str
    gib: float
    why: str


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
    machine: Machine | None = None,
) -> Plan:
    """Everything that can be told before a weight is loaded.

    prompts: at least the first one, in any order; lengths are told over all that are given
    pool: training prompts of one epoch; None: endless
    description: what the data room says of source, counts and column mapping
    verifier: None shows no scored gold answer
    decode: token ids -> text, for SKPO's [s, q]
    tokenizer_problem: the sentence why there is no tokenizer; then prompts need no token ids, and the plan is not ready
    """
    machine = machine or this_machine(cfg.output_dir)
    problems, warnings, notes = [], [], []
    model_lines, missing = _model(place)
    problems += missing
    batch_lines, batch_warnings = _batch(cfg, pool)
    warnings += batch_warnings
    sections = [
        Section(title="Model", lines=tuple(model_lines)),
        Section(title="Batch", lines=tuple(batch_lines)),
    ]
    if place.shape is None:
        notes.append(
            f"memory and disk: no estimate, since the shape of {place.name} is not known on this machine"
        )
    else:
        memory = memory_needs(cfg, place.shape, machine)
        sections.append(Section(title="Memory (estimate)", lines=(*_table(memory), _device(machine))))
        warnings += _memory_warnings(cfg, place.shape, machine, memory)
        warnings += _length_warnings(cfg, place.shape, prompts)
        problems += _foreign_tokens(place.shape, prompts)
        disk = disk_needs(cfg, place)
        sections.append(
            Section(title="Disk (estimate)", lines=(*_table(disk), f"free: {machine.disk_free_gib:.1f} GiB"))
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
    prompts, group, length = cfg.prompts_per_step, cfg.algo.num_generations, completion_length(cfg)
    skpo = cfg.algo if isinstance(cfg.algo, SkpoConfig) else None
    trained_each = group if skpo is None else 1 + group
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
    if skpo is None:
        lines = [f"{prompts} prompts x {group} = {trained} rollouts {arrow}"]
        most = prompts * group * length
        lines.append(f"tokens per step: at most {trained} x {length} = {most:,} sampled")
    else:
        own = 1 if skpo.upstream_reward == "own" else 0
        drawn = f"{group} segments + {group} continuations" + " + 1 own answer" * own
        lines = [
            f"{prompts} prompts x ({drawn}) = {prompts * (2 * group + own)} samples; "
            f"trained: {prompts} segments + {prompts * group} continuations {arrow}"
        ]
        segment = max(1, min(round(skpo.split_high * length), length // 2))
        most = prompts * (group * segment + (group + own) * (length - 1))
        lines.append(
            f"tokens per step: at most {most:,} sampled (segments of at most {segment}, segment + continuation of at most "
            f"{length}); {prompts * group * length:,} when no segment ends early"
        )
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


def completion_length(cfg: TrainConfig) -> int:
    """Tokens of the longest answer."""
    return cfg.max_completion_length or DEFAULT_COMPLETION


# -- memory and disk --------------------------------------------------------------------------------------------------


def this_machine(output_dir: str | None) -> Machine:
    """The first GPU, or this host; and the disk of the run folder."""
    import torch

    folder = Path(output_dir or "runs").absolute()
    while not folder.exists():
        folder = folder.parent
    disk = shutil.disk_usage(folder).free / GIB
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Machine(
            device="cuda", name=name, memory_gib=total / GIB, free_gib=free / GIB, disk_free_gib=disk
        )
    total, free = _host_memory()
    name = f"CPU, {os.cpu_count()} cores"
    return Machine(device="cpu", name=name, memory_gib=total / GIB, free_gib=free / GIB, disk_free_gib=disk)


def _host_memory() -> tuple[int, int]:
    """Bytes of memory of this host, or of the container it runs in, and how many are free."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    if importlib.util.find_spec("psutil"):  # it counts what the page cache would give back
        free = int(importlib.import_module("psutil").virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:  # no control groups here
        limit = "max"
    if limit.isdecimal() and int(limit) < total:
        total, free = int(limit), min(free, int(limit))
    return total, free


def memory_needs(cfg: TrainConfig, shape: ModelShape, machine: Machine) -> list[Need]:
    """The memory table: what learner and sampler hold at the peak, which is the backward pass. GiB."""
    n, on_gpu = shape.parameters, machine.device == "cuda"
    half = cfg.model.dtype == "bfloat16" or (cfg.model.dtype == "auto" and on_gpu)
    size, dtype = (2, "bfloat16") if half else (4, "float32")
    length = cfg.max_prompt_length + completion_length(cfg)
    tokens = max(cfg.learner.micro_batch_tokens, length)
    checkpointing = cfg.learner.gradient_checkpointing
    weights = models.weights_gib(n, 4)
    needs = [
        Need(what="learner: weights", gib=weights, why=f"{n:,} parameters, float32"),
        Need(what="learner: gradients", gib=weights, why="float32"),
        Need(what="learner: AdamW", gib=models.adam_gib(n), why="two float32 moments"),
    ]
    if half:
        copies = models.weights_gib(n, 2)
        needs.append(Need(what="learner: autocast", gib=copies, why="bfloat16 copies of the weights"))
    kept = models.activations_gib(shape, tokens, half, checkpointing)
    how = "with" if checkpointing else "without"
    needs.append(
        Need(what="learner: activations", gib=kept, why=f"{tokens:,} tokens, {how} gradient checkpointing")
    )
    chunk = min(cfg.learner.logits_chunk, tokens)
    needs.append(
        Need(
            what="learner: logits",
            gib=models.logits_gib(shape.vocab, chunk),
            why=f"{chunk:,} tokens x {shape.vocab:,} x 4 bytes x {models.SOFTMAX_COPIES}",
        )
    )
    if cfg.algo.beta > 0:
        needs.append(
            Need(what="learner: reference", gib=weights, why=f"starting weights, beta = {cfg.algo.beta:g}")
        )
    needs.append(Need(what="process", gib=PROCESS_GIB, why="libraries and fragmentation, a round number"))
    copy = models.weights_gib(n, size)
    if _sampler(cfg) == "hf":
        rows = min(cfg.sampler.max_num_seqs, cfg.prompts_per_step * cfg.algo.num_generations)
        cache = models.kv_cache_gib(shape, size, rows, length)
        needs.append(Need(what="hf: weights", gib=copy, why=dtype))
        needs.append(
            Need(what="hf: KV cache", gib=cache, why=f"{rows} sequences x {length:,} tokens, at most")
        )
    elif on_gpu:
        share = cfg.sampler.gpu_memory_utilization
        room = share * machine.memory_gib
        why = f"gpu_memory_utilization {share:g}: {dtype} weights {copy:.1f} + KV cache of {_kv_words(shape, size, room - copy, length)}"
        needs.append(Need(what="vllm: its share", gib=room, why=why))
    else:
        room = cfg.sampler.kv_cache_memory / 1024
        needs.append(Need(what="vllm: weights", gib=copy, why=dtype))
        needs.append(Need(what="vllm: KV cache", gib=room, why=_kv_words(shape, size, room, length)))
    return needs


def _sampler(cfg: TrainConfig) -> Literal["vllm", "hf"]:
    if cfg.sampler.name != "auto":
        return cfg.sampler.name
    return "vllm" if importlib.util.find_spec("vllm") else "hf"


def _kv_words(shape: ModelShape, size: int, room: float, length: int) -> str:
    tokens = max(0, int(room * GIB / models.kv_bytes_per_token(shape, size)))
    return f"{tokens:,} tokens, {tokens // length:,} of the longest sequences at one time"


def _memory_warnings(cfg: TrainConfig, shape: ModelShape, machine: Machine, needs: list[Need]) -> list[str]:
    warnings = []
    by_name = {need.what: need.gib for need in needs}
    length = cfg.max_prompt_length + completion_length(cfg)
    half = "learner: autocast" in by_name
    size = 2 if half else 4
    if _sampler(cfg) == "vllm":
        one = models.kv_cache_gib(shape, size, 1, length)
        if machine.device == "cpu" and by_name["vllm: KV cache"] < one:
            need = math.ceil(one * 1024)
            warnings.append(
                f"vLLM: its cache of {cfg.sampler.kv_cache_memory} MiB cannot hold one sequence of {length:,} tokens; "
                f"use --sampler.kv-cache-memory {need} or more"
            )
        weights = models.weights_gib(shape.parameters, size)
        if machine.device == "cuda" and by_name["vllm: its share"] < weights + one:
            warnings.append(
                f"vLLM: its share of {by_name['vllm: its share']:.1f} GiB cannot hold its weights ({weights:.1f} GiB) and one "
                f"sequence ({one:.2f} GiB); raise --sampler.gpu-memory-utilization"
            )
    total = sum(by_name.values())
    if total > machine.memory_gib:
        kept = by_name["learner: activations"]
        tokens = max(cfg.learner.micro_batch_tokens, length)
        remedies = []
        fixed = sum(gib for name, gib in by_name.items() if name.startswith("learner: ")) - kept
        if fixed > machine.memory_gib:
            remedies.append(
                f"{fixed:.1f} GiB do not depend on the batch, so only a smaller model or a larger device helps"
            )
        if not cfg.learner.gradient_checkpointing:
            saved = kept - models.activations_gib(shape, tokens, half, checkpointing=True)
            remedies.append(f"--learner.gradient-checkpointing saves {_gib(saved)}")
        if tokens > length:
            remedies.append(
                f"--learner.micro-batch-tokens {length} leaves {_gib(kept * length / tokens)} of activations"
            )
        if "vllm: its share" in by_name:
            remedies.append("a lower --sampler.gpu-memory-utilization leaves the learner more")
        if machine.device == "cpu":
            gpu = replace(machine, device="cuda")
            lean = replace(cfg, learner=replace(cfg.learner, gradient_checkpointing=True))
            learner = sum(n.gib for n in memory_needs(lean, shape, gpu) if n.what.startswith("learner: "))
            remedies.append(
                f"on a GPU with gradient checkpointing the learner needs {_gib(learner)} beside the sampler"
            )
        warnings.append(
            f"memory: the estimate is {total:.1f} GiB and {machine.name} has {machine.memory_gib:.1f} GiB; {'; '.join(remedies)}"
        )
    elif total > machine.free_gib:
        warnings.append(
            f"memory: the estimate is {total:.1f} GiB and {machine.free_gib:.1f} of {machine.memory_gib:.1f} GiB are free; "
            "end what else uses it"
        )
    return warnings


def _length_warnings(cfg: TrainConfig, shape: ModelShape, prompts: Sequence[Prompt]) -> list[str]:
    """The model's positions against the longest prompt that is really there, or against the limit."""
    lengths = [_prompt_tokens(prompt) for prompt in prompts]
    longest = max(lengths, default=0) or cfg.max_prompt_length
    total = longest + completion_length(cfg)
    if total <= shape.positions:
        return []
    room = shape.positions - longest
    remedy = f"use --max-completion-length {room}" if room > 1 else "lower --max-prompt-length"
    return [
        f"length: a prompt of {longest:,} and a completion of {completion_length(cfg):,} tokens are {total:,}, and the model has "
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


def disk_needs(cfg: TrainConfig, place: ModelPlace) -> list[Need]:
    """The disk table: checkpoints that exist at one time, and what has to be downloaded. GiB."""
    if place.shape is None:
        return []
    n = place.shape.parameters
    one = models.checkpoint_gib(n)
    saves = math.ceil(cfg.steps / cfg.log.save_every) if cfg.log.save_every else 1
    limit = max(1, cfg.log.save_total_limit)
    most = min(saves, limit + 1)
    why = f"{most} x {one:.1f} GiB (float32 weights and two moments)"
    if saves > limit:
        why += f": {limit} kept, and a new one before the oldest goes"
    needs = [Need(what="checkpoints", gib=most * one, why=why)]
    if place.kind == "hub" and place.missing:
        # Published weights of these families are bfloat16.
        needs.append(
            Need(what="download", gib=models.weights_gib(n, 2), why=f"{place.path}, into the hub's cache")
        )
    return needs


def _table(needs: Sequence[Need]) -> list[str]:
    rows = [*needs, Need(what="together", gib=sum(n.gib for n in needs), why="")]
    wide = max(len(row.what) for row in rows)
    return [f"{row.what:<{wide}} {_gib(row.gib):>9}  {row.why}".rstrip() for row in rows]


def _gib(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 1 else f"{gib * 1024:.1f} MiB"


def _device(machine: Machine) -> str:
    return f"there is: {machine.name}, {machine.memory_gib:.1f} GiB, {machine.free_gib:.1f} GiB free"


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
        return lines, [
            f"--model {name}: {where} lacks {', '.join(place.missing)}; expected {models.FOLDER_HOLDS}"
        ]
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
    if isinstance(cfg.algo, SkpoConfig):
        room = "<<< segment: what the policy wrote first, given back >>>"
        if not cfg.algo.skip:
            text, fixed = f"{first.text}{room}", len(first.token_ids)
        elif cfg.algo.skip_format == "raw" or first.skip_ids is None:
            text, fixed = f"{room}{first.text}", len(first.token_ids)
        elif decode is not None:
            before, after = first.skip_ids
            text, fixed = f"{decode(before)}{room}{decode(after)}", len(before) + len(after)
        else:
            text, fixed = "", 0
        if text:
            order = "[s, q]" if cfg.algo.skip else "[q, s]"
            title = f"Prompt of the continuations, {order} ({fixed} tokens and the segment)"
            sections.append(Section(title=title, lines=(_cut(text),)))
    return sections


def _cut(text: str) -> str:
    """Not longer than a screen."""
    more = len(text) - SHOWN_CHARACTERS
    return text[:SHOWN_CHARACTERS] + (f" ... ({more:,} more characters)" if more > 0 else "")


def _gold(cfg: TrainConfig, prompt: Prompt, verifier: Verifier) -> tuple[list[str], list[str], list[str]]:
    r"""The gold answer, written as \boxed{gold}, must score 1.0: else every right answer would be called wrong.

    Lines, problems, warnings. The user's own verifier may have another scale or format, so it is only warned of.
    """
    if prompt.reference is None:
        return ["this verifier reads no gold answer (reference is none); nothing to score"], [], []
    gold = prompt.reference
    text = gold if "\\boxed" in gold else f"\\boxed{{{gold}}}"
    try:
        score = verifier(prompt, text)
    except Exception as error:  # a user's verifier may raise anything; the run would count it as an error too
        score = Score(None, reason=f"{type(error).__name__}: {error}", error=True)
    said = "none" if score.value is None else f"{score.value:g}"
    parts = ", ".join(f"{name} {value:g}" for name, value in score.parts.items())
    reason = score.reason or "no reason given"
    line = f"{_cut(text)} -> {said}{f' ({parts})' if parts else ''}: {reason}"
    right = score.outcome == "score" and score.value is not None
    full = right and (min(score.parts.values()) >= 1 if score.parts else (score.value or 0.0) >= 1)
    if full:
        return [line], [], []
    sentence = (
        f"the gold answer of prompt {prompt.id}, {text[:80]}, scores {said} and not 1.0 ({reason}); "
        "check --data.answer-column and --reward, else right answers count as wrong"
    )
    softer = is_user_object(cfg.reward.name) or (score.parts and right and (score.value or 0.0) >= 1)
    return [line], [] if softer else [sentence], [sentence] if softer else []
