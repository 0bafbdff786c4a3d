"""What a run costs in memory and on disk, from the model's shape alone: estimates, in GiB.

memory_needs(cfg, shape, machine)     the rows of the memory table, at the peak
memory_warnings(...)                  what does not fit, and what to change
disk_needs(cfg, place)                checkpoints and downloads
"""

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlkit.config import TrainConfig
from rlkit.machine import GIB, Machine
from rlkit.models import ModelPlace, ModelShape
from rlkit.sampler_config import KnownSampler

COPY = "learner: copy"
"""Row of the weights that are merged with adapters or gathered from ranks: there while the sampler loads them, not during the step."""
SAVING = "saving"
"""Row of what a checkpoint that is written beside the steps is copied into. Where it does not fit, the step waits: it is no need."""
SOFTMAX_COPIES = 3
"""Logits, their float32 copy and their softmax: the buffers of one tile (rlkit.learner.tiles)."""
TILE_LOGITS = {"cpu": 2**21, "cuda": 2**26}
"""Logits of one tile where `logits_chunk` is 0; the learner's own numbers, compared by a test."""
ADAPTERS = "adapters (--learner.lora-rank 16), several GPUs (--learner.shard fsdp2), a smaller model or a larger device"
DEFAULT_COMPLETION = 512
"""Tokens assumed when max_completion_length is not resolved."""
PROCESS_GIB = 1.0
"""Libraries and fragmentation beside the tensors: 0.7 measured on a CPU, with and without checkpointing, rounded up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One row of the memory or disk table.

    >>> Need(what="gradients", gib=28.37, why="float32")
    Need(what='gradients', gib=28.37, why='float32')
    """

    what: str
    gib: float
    why: str


def weights_gib(parameters: int, dtype_bytes: int) -> float:
    """One copy of the weights, or of their gradients, which have the weights' type. GiB.

    >>> round(weights_gib(7_615_616_512, 2), 2)
    14.19
    """
    return parameters * dtype_bytes / GIB


def adam_gib(parameters: int, moment_bytes: int = 4) -> float:
    """AdamW's two moments. GiB. The learner keeps weights, gradients and moments in float32."""
    return 2 * parameters * moment_bytes / GIB


def activations_gib(shape: ModelShape, tokens: int, autocast: bool, checkpointing: bool) -> float:
    """What autograd keeps of one micro-batch between forward and backward. GiB.

    Weights are float32; autocast: the forward runs in bfloat16. Kept per token and layer, with fused attention (no
    [T, T] matrix):

        float32            both norms' inputs and normalised inputs (4 hidden vectors)
        forward's type     what the projections read: the norms' outputs (2 hidden vectors; under autocast 5, a cast for
                           each of q, k, v, gate, up), q, k, v and the attention's output, gate, its silu, up and their
                           product
        Qwen3's q, k norms their inputs in float32 and their normalised values in the forward's type

    With checkpointing: each layer's input in float32, and the above for one layer. The test counts what autograd saves.
    """
    s, size = shape, 2 if autocast else 4
    hidden = 4 * 4 * s.hidden + size * (5 if autocast else 2) * s.hidden
    layer = hidden + size * (2 * s.q_width + 2 * s.kv_width + 4 * s.mlp)
    layer += (4 + size) * (s.q_width + s.kv_width) * s.qk_norm
    per_token = s.layers * 4 * s.hidden + layer if checkpointing else s.layers * layer
    return tokens * per_token / GIB


def adapter_parameters(shape: ModelShape, rank: int, targets: str) -> int:
    """Numbers in the adapters of a rank: rank x (width in + width out) for each layer that carries one.

    >>> from rlkit.models import SHAPES
    >>> adapter_parameters(SHAPES["Qwen2.5-0.5B"], 16, "all-linear")
    8798208
    """
    s = shape
    widths = {
        **{"q_proj": s.hidden + s.q_width, "o_proj": s.hidden + s.q_width},
        **{"k_proj": s.hidden + s.kv_width, "v_proj": s.hidden + s.kv_width},
        **{name: s.hidden + s.mlp for name in ("gate_proj", "up_proj", "down_proj")},
    }
    chosen = list(widths) if targets == "all-linear" else targets.replace(",", " ").split()
    head = (s.hidden + s.vocab) * ("lm_head" in chosen)
    return rank * (s.layers * sum(widths.get(t.rpartition(".")[2], 0) for t in chosen) + head)


def matrix_parameters(shape: ModelShape) -> int:
    """Numbers in the matrices of the layers: all but embedding, output head, norms and biases."""
    s = shape
    return s.layers * s.hidden * (2 * s.q_width + 2 * s.kv_width + 3 * s.mlp)


def logits_gib(logits: int) -> float:
    """So many logits at one time, with their float32 copy and their softmax. GiB."""
    return SOFTMAX_COPIES * logits * 4 / GIB


def kv_bytes_per_token(shape: ModelShape, dtype_bytes: int) -> int:
    """Keys and values of one token in all layers. Bytes.

    >>> from rlkit.models import SHAPES
    >>> kv_bytes_per_token(SHAPES["Qwen2.5-7B"], 2)
    57344
    """
    return 2 * shape.layers * shape.kv_width * dtype_bytes


def kv_cache_gib(shape: ModelShape, dtype_bytes: int, sequences: int, length: int) -> float:
    """Keys and values of `sequences` sequences of `length` tokens each, held at one time. GiB."""
    return sequences * length * kv_bytes_per_token(shape, dtype_bytes) / GIB


def checkpoint_gib(parameters: int, moment_bytes: int = 4) -> float:
    """One checkpoint on disk: float32 weights as transformers loads them, and AdamW's two moments. GiB."""
    return weights_gib(parameters, 4) + adam_gib(parameters, moment_bytes)


def completion_length(cfg: TrainConfig) -> int:
    """Tokens of the longest answer."""
    return cfg.max_completion_length or DEFAULT_COMPLETION


def memory_needs(cfg: TrainConfig, shape: ModelShape, machine: Machine, ranks: int = 1) -> list[Need]:
    """The memory table of one of the ranks: what learner and sampler hold at the peak, which is the backward pass. GiB."""
    n, on_gpu = shape.parameters, machine.device == "cuda"
    half = _half(cfg, machine)
    size, dtype = (2, "bfloat16") if half else (4, "float32")
    length = cfg.max_prompt_length + completion_length(cfg)
    tokens = max(cfg.learner.micro_batch_tokens, length)
    checkpointing = cfg.learner.gradient_checkpointing
    needs = _learner_state(cfg, shape, half)
    kept = activations_gib(shape, tokens, half, checkpointing)
    how = "with" if checkpointing else "without"
    needs.append(
        Need(what="learner: activations", gib=kept, why=f"{tokens:,} tokens, {how} gradient checkpointing")
    )
    most = cfg.learner.logits_chunk * shape.vocab or TILE_LOGITS["cuda" if on_gpu else "cpu"]
    logits = min(most, tokens * shape.vocab)
    why = f"{logits:,} at one time x 4 bytes x {SOFTMAX_COPIES}"
    needs.append(Need(what="learner: logits", gib=logits_gib(logits), why=why))
    if cfg.algo.beta > 0 and not cfg.learner.lora_rank:
        why = f"starting weights, beta = {cfg.algo.beta:g}"
        needs.append(Need(what="learner: reference", gib=weights_gib(n, 4), why=why))
    if cfg.learner.shard != "none":
        needs = _divided(needs, cfg, shape, ranks, half, on_gpu)
    if cfg.learner.shard != "none" or cfg.learner.lora_rank:
        copied = n if cfg.learner.shard != "none" else matrix_parameters(shape)
        why = f"whole weights in {dtype}, while the sampler takes them"
        needs.append(Need(what=COPY, gib=weights_gib(copied, size), why=why))
    if cfg.log.async_save and 0 < cfg.log.save_every < cfg.steps:  # the last one is waited for
        one, holds = _checkpoint(cfg, shape)
        what = f"host: {SAVING}" if on_gpu else SAVING
        why = f"a copy of {holds}, to write from beside the steps"
        why += ", on the first rank" if ranks > 1 else ""
        needs.append(Need(what=what, gib=one, why=why))
    needs.append(Need(what="process", gib=PROCESS_GIB, why="libraries and fragmentation, a round number"))
    copy = weights_gib(n, size)
    if _sampler(cfg) == "hf":
        rows = min(cfg.sampler.max_num_seqs, -(-cfg.prompts_per_step // ranks) * cfg.algo.num_generations)
        cache = kv_cache_gib(shape, size, rows, length)
        needs.append(Need(what="hf: weights", gib=copy, why=dtype))
        needs.append(
            Need(what="hf: KV cache", gib=cache, why=f"{rows} sequences x {length:,} tokens, at most")
        )
    elif _sampler(cfg) in ("vllm-server", "ray") and (on_gpu or cfg.sampler.urls):
        pass  # servers have devices of their own
    elif on_gpu:
        share = cfg.sampler.gpu_memory_utilization
        room = share * machine.memory_gib
        why = f"gpu_memory_utilization {share:g}: {dtype} weights {copy:.1f} + KV cache of {_kv_words(shape, size, room - copy, length)}"
        what = "vllm: its share" if cfg.async_steps == 0 else "vllm: its share, never asleep"
        needs.append(Need(what=what, gib=room, why=why))
    else:
        room, many = cfg.sampler.kv_cache_memory / 1024, cfg.sampler.replicas
        times = f"{many} servers, each: " if many > 1 else ""
        words = _kv_words(shape, size, room, length)
        needs.append(Need(what="vllm: weights", gib=many * copy, why=f"{times}{dtype}"))
        needs.append(Need(what="vllm: KV cache", gib=many * room, why=f"{times}{words}"))
    return needs


def _learner_state(cfg: TrainConfig, shape: ModelShape, half: bool) -> list[Need]:
    """Weights, gradients and optimizer state. GiB."""
    n, rank = shape.parameters, cfg.learner.lora_rank
    trained = adapter_parameters(shape, rank, cfg.learner.lora_targets) if rank else n
    if rank and half:
        matrices = matrix_parameters(shape)
        frozen = weights_gib(matrices, 2) + weights_gib(n - matrices, 4)
        copies = weights_gib(trained + shape.vocab * shape.hidden, 2)
        why, copied = f"{n:,} parameters, frozen, matrices in bfloat16", "of the adapters and the output head"
    else:
        frozen, copies = weights_gib(n, 4), weights_gib(n, 2)
        why, copied = f"{n:,} parameters, {'frozen, ' if rank else ''}float32", "of the weights"
    moment, words = (
        (4, "two float32 moments") if cfg.learner.optimizer == "adamw" else (1, "two 8-bit moments")
    )
    rows = [Need(what="learner: weights", gib=frozen, why=why)]
    if rank:
        why = f"{trained:,} parameters of rank {rank}, float32"
        rows.append(Need(what="learner: adapters", gib=weights_gib(trained, 4), why=why))
    rows += [
        Need(what="learner: gradients", gib=weights_gib(trained, 4), why="float32"),
        Need(what="learner: AdamW", gib=adam_gib(trained, moment), why=words),
    ]
    if half:
        rows.append(Need(what="learner: autocast", gib=copies, why=f"bfloat16 copies {copied}"))
    return rows


def _divided(
    rows: Sequence[Need], cfg: TrainConfig, shape: ModelShape, ranks: int, half: bool, on_gpu: bool
) -> list[Need]:
    """The same rows on one of the ranks that divide the model between them (FSDP2). GiB."""
    out = []
    for row in rows:
        if row.what in (
            "learner: weights",
            "learner: adapters",
            "learner: gradients",
            "learner: AdamW",
            "learner: reference",
        ):
            what = row.what.replace("learner", "host") if cfg.learner.cpu_offload and on_gpu else row.what
            out.append(Need(what=what, gib=row.gib / ranks, why=f"{row.why}; 1/{ranks} of it"))
        elif row.what != "learner: autocast":  # weights are gathered in bfloat16
            out.append(row)
    layer = matrix_parameters(shape) // shape.layers
    gathered = weights_gib(shape.parameters - max(0, shape.layers - 2) * layer, 2 if half else 4)
    return [
        *out,
        Need(what="learner: gathered", gib=gathered, why="embedding, head and two layers at a time"),
    ]


def _half(cfg: TrainConfig, machine: Machine) -> bool:
    """Whether the forward runs in bfloat16."""
    return cfg.model.dtype == "bfloat16" or (cfg.model.dtype == "auto" and machine.device == "cuda")


def _sampler(cfg: TrainConfig) -> KnownSampler:
    if cfg.sampler.name != "auto":
        return cfg.sampler.name
    return "vllm" if importlib.util.find_spec("vllm") else "hf"


def _kv_words(shape: ModelShape, size: int, room: float, length: int) -> str:
    tokens = max(0, int(room * GIB / kv_bytes_per_token(shape, size)))
    return f"{tokens:,} tokens, {tokens // length:,} of the longest sequences at one time"


def memory_warnings(
    cfg: TrainConfig, shape: ModelShape, machine: Machine, needs: list[Need], ranks: int = 1
) -> list[str]:
    """What does not fit, and what to change. needs: of one rank; on a GPU each has its own, on a CPU they share one memory."""
    warnings = []
    by_name = {need.what: need.gib for need in needs}
    length = cfg.max_prompt_length + completion_length(cfg)
    half = _half(cfg, machine)
    size = 2 if half else 4
    if "vllm: KV cache" in by_name or "vllm: its share" in by_name:
        one = kv_cache_gib(shape, size, 1, length)
        if machine.device == "cpu" and cfg.sampler.kv_cache_memory / 1024 < one:
            need = math.ceil(one * 1024)
            warnings.append(
                f"vLLM: its cache of {cfg.sampler.kv_cache_memory} MiB cannot hold one sequence of {length:,} tokens; "
                f"use --sampler.kv-cache-memory {need} or more"
            )
        weights = weights_gib(shape.parameters, size)
        if machine.device == "cuda" and by_name["vllm: its share"] < weights + one:
            warnings.append(
                f"vLLM: its share of {by_name['vllm: its share']:.1f} GiB cannot hold its weights ({weights:.1f} GiB) and one "
                f"sequence ({one:.2f} GiB); raise --sampler.gpu-memory-utilization"
            )
    copy = by_name.pop(SAVING, 0.0)  # of one rank
    needs = [need for need in needs if need.what != SAVING]
    total = peak(needs).gib * (1 if machine.device == "cuda" else ranks)
    if total > machine.memory_gib:
        kept = by_name["learner: activations"]
        tokens = max(cfg.learner.micro_batch_tokens, length)
        remedies = []
        fixed = sum(gib for name, gib in by_name.items() if name.startswith("learner: ")) - kept
        if fixed > machine.memory_gib:
            what = "a smaller model or a larger device" if cfg.learner.lora_rank else ADAPTERS
            remedies.append(f"{fixed:.1f} GiB do not depend on the batch, so only {what} helps")
        if not cfg.learner.gradient_checkpointing:
            saved = kept - activations_gib(shape, tokens, half, checkpointing=True)
            remedies.append(f"--learner.gradient-checkpointing saves {gib_words(saved)}")
        if tokens > length:
            remedies.append(
                f"--learner.micro-batch-tokens {length} leaves {gib_words(kept * length / tokens)} of activations"
            )
        if "vllm: its share" in by_name and "writing" in peak(needs).why:
            remedies.append("a lower --sampler.gpu-memory-utilization leaves the learner more")
        if machine.device == "cpu":
            gpu = replace(machine, device="cuda")
            lean = replace(cfg, learner=replace(cfg.learner, gradient_checkpointing=True))
            learner = sum(n.gib for n in memory_needs(lean, shape, gpu) if n.what.startswith("learner: "))
            remedies.append(
                f"on a GPU with gradient checkpointing the learner needs {gib_words(learner)} beside the sampler"
            )
        warnings.append(
            f"memory: the estimate is {total:.1f} GiB and {machine.name} has {machine.memory_gib:.1f} GiB; {'; '.join(remedies)}"
        )
    elif total > machine.free_gib:
        warnings.append(
            f"memory: the estimate is {total:.1f} GiB and {machine.free_gib:.1f} of {machine.memory_gib:.1f} GiB are free; "
            "end what else uses it"
        )
    elif total + copy > machine.free_gib:
        warnings.append(
            f"memory: the copy that a checkpoint is written from ({gib_words(copy)}) may not fit beside the {gib_words(total)} of the "
            "rest: then the step waits for the disk, and it is said (--log.no-async-save needs no copy)"
        )
    return warnings


def disk_needs(cfg: TrainConfig, place: ModelPlace) -> list[Need]:
    """The disk table: checkpoints that exist at one time, and what has to be downloaded. GiB."""
    if place.shape is None:
        return []
    one, holds = _checkpoint(cfg, place.shape)
    saves = math.ceil(cfg.steps / cfg.log.save_every) if cfg.log.save_every else 1
    limit = max(1, cfg.log.save_total_limit)
    most = min(saves, limit + 1)
    why = f"{most} x {gib_words(one)} ({holds})"
    if saves > limit:
        why += f": {limit} kept, and a new one before the oldest goes"
    needs = [Need(what="checkpoints", gib=most * one, why=why)]
    if place.kind == "hub" and place.missing:
        # Published weights of these families are bfloat16.
        size = weights_gib(place.shape.parameters, 2)
        needs.append(Need(what="download", gib=size, why=f"{place.path}, into the hub's cache"))
    return needs


def _checkpoint(cfg: TrainConfig, shape: ModelShape) -> tuple[float, str]:
    """What one checkpoint is and holds. GiB."""
    n, learner = shape.parameters, cfg.learner
    one, holds = checkpoint_gib(n), "float32 weights and two moments"
    if learner.lora_rank:
        adapters = adapter_parameters(shape, learner.lora_rank, learner.lora_targets)
        one = weights_gib(n, 4) + checkpoint_gib(adapters)
        holds = "float32 weights; the adapters and their moments"
    if cfg.algo.sync_ref_model:
        one, holds = one + weights_gib(n, 4), f"{holds}, and the reference"
    return one, holds


def peak(needs: Sequence[Need]) -> Need:
    """The most that is held at one time, as a row of its own.

    On a GPU vLLM sleeps while the learner steps, and the learner keeps only weights, moments and reference while vLLM
    writes; so the peak is the larger of the two. Elsewhere, and with --async-steps, both hold what they have.
    """
    gib = {need.what: need.gib for need in needs}
    gib = {what: value for what, value in gib.items() if not what.startswith("host: ")}
    share, copy = gib.pop("vllm: its share", None), gib.pop(COPY, 0.0)
    kept = ("learner: weights", "learner: adapters", "learner: AdamW", "learner: reference", "process")
    resting = copy + sum(gib.get(name, 0.0) for name in kept)
    if share is None:
        samplers = sum(value for name, value in gib.items() if name.startswith(("hf", "vllm")))
        return Need(what="together", gib=max(sum(gib.values()), resting + samplers), why="")
    writing = share + resting
    training = sum(gib.values())
    why = "the learner's step, vLLM asleep" if training > writing else "vLLM writing, the learner at rest"
    return Need(what="peak", gib=max(writing, training), why=why)


def table(needs: Sequence[Need]) -> list[str]:
    rows = [*needs, peak(needs)]
    wide = max(len(row.what) for row in rows)
    return [f"{row.what:<{wide}} {gib_words(row.gib):>9}  {row.why}".rstrip() for row in rows]


def gib_words(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 1 else f"{gib * 1024:.1f} MiB"


def device_words(machine: Machine) -> str:
    return f"there is: {machine.name}, {machine.memory_gib:.1f} GiB, {machine.free_gib:.1f} GiB free"
