"""`rlkit sft`: a warm start by imitation."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rlkit import build
from rlkit.config import SftConfig
from rlkit.errors import ConfigError, RunError
from rlkit.printable import printable

from .train import slug

if TYPE_CHECKING:
    from rich.console import Console


def sft(cfg: SftConfig, console: "Console") -> int:
    """`rlkit sft`: imitate demonstrations of a task, or the completions of a file."""
    from rlkit.sft import task_examples
    from rlkit.tiny import make_model

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"{os.environ['WORLD_SIZE']} processes were started (torchrun or accelerate launch) and `rlkit sft` trains in one: run it "
            "by itself"
        )
    task = build.make_task(cfg.data.name)
    place = build.find_model(cfg.model)
    tokenizer = build.find_tokenizer(place)
    output = Path(cfg.output_dir or f"runs/sft-{slug(cfg.model.name)}-{time.strftime('%m%d-%H%M%S')}")
    if (output / "config.json").exists():
        raise RunError(f"{output}: holds a model already; choose another --output-dir")
    count = cfg.steps * cfg.batch_size
    if task is not None:
        examples = task_examples(task, tokenizer, count, cfg.segment_share, cfg.seed)
    else:
        examples = build.file_examples(cfg, tokenizer)
    if place.kind == "tiny":
        model = make_model(tokenizer, cfg.seed)
    else:
        model = build.load_model(build.model_folder(place, task, console), cfg.model)
    build.imitate(model, tokenizer, examples, cfg, output, console, f"sft of {slug(cfg.model.name)}")
    words = printable(f"model folder: {output}; train it with `rlkit train --model {output}`")
    console.print(words, soft_wrap=True, highlight=False, markup=False)
    return 0
