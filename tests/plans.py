"""Plans of runs (rlkit.preflight) to hold against words and numbers: models, machines, a prompt, and a verifier that knows its answer."""

from typing import Any

from rlkit import preflight
from rlkit.config import SamplerConfig, TrainConfig
from rlkit.machine import Machine
from rlkit.models import SHAPES, ModelPlace, ModelShape
from rlkit.preflight import Plan
from rlkit.types import Prompt, Score

SMALL = ModelShape(
    hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=96, vocab=40, tied=True, positions=2048
)
FOLDER = ModelPlace(name="m", kind="folder", path="/m", shape=SMALL, shape_source="config.json")
HUB = ModelPlace(
    name="Qwen2.5-Math-7B",
    kind="hub",
    path="Qwen/Qwen2.5-Math-7B",
    missing=("model.safetensors",),
    shape=SHAPES["Qwen2.5-Math-7B"],
    shape_source="table",
)
LAPTOP = Machine(device="cpu", name="CPU, 2 cores", memory_gib=16, free_gib=12, disk_free_gib=100)
GPU = Machine(device="cuda", name="GPU", memory_gib=80, free_gib=79, disk_free_gib=1000)
PROMPT = Prompt(
    id="p1", token_ids=[1, 2, 3], text="<|user|>6*7?<|assistant|>", question="6*7?", reference="42"
)


def knows(prompt: Prompt, text: str) -> Score:
    return Score(float(text == "\\boxed{42}"), reason=f"read {text!r}")


def config(**changes: Any) -> TrainConfig:
    options: dict[str, Any] = {"sampler": SamplerConfig(name="vllm"), "max_completion_length": 512}
    return TrainConfig(**(options | changes))


def planned(cfg: TrainConfig | None = None, **changes: Any) -> Plan:
    options: dict[str, Any] = {
        "place": FOLDER,
        "prompts": [PROMPT],
        "pool": 256,
        "verifier": knows,
        "machine": LAPTOP,
    }
    return preflight.plan(cfg or config(), **(options | changes))


def lines(plan: Plan, title: str) -> tuple[str, ...]:
    return next(section.lines for section in plan.sections if section.title.startswith(title))
