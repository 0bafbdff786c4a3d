"""The embedded model: warm-started once, kept in the user's cache."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.config import SftConfig
from rlkit.errors import RunError
from rlkit.types import Task

from .quiet import quiet_transformers

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.sft import Example


def tiny_folder(task: Task, console: "Console", seed: int = 0) -> Path:
    """The embedded model warm-started on `task`, built once into the user's cache: same recipe, same folder."""
    import hashlib
    import inspect
    import shutil
    import sys

    from filelock import FileLock

    from rlkit import sft, tiny
    from rlkit.tasks import parts

    cfg = SftConfig(seed=seed)
    source = "".join(inspect.getsource(m) for m in (sft, tiny, parts, sys.modules[type(task).__module__]))
    recipe = repr((task.name, cfg.steps, cfg.batch_size, cfg.learning_rate, cfg.segment_share, seed, source))
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    folder = tiny.cache_folder() / f"tiny-{task.name.replace(':', '-')}-{key}"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not (folder / "config.json").is_file():
        _tiny_in_one_process(task, seed)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "config.json").is_file():
                draft = folder.with_name(f"{folder.name}.draft")
                shutil.rmtree(draft, ignore_errors=True)
                _warm_start(task, cfg, draft, console)
                draft.rename(folder)
    except OSError as error:
        raise RunError(
            f"{folder}: the embedded model cannot be kept there ({error.strerror or error}); "
            "set RLKIT_CACHE to a folder that can be written"
        ) from error
    return folder


def _tiny_in_one_process(task: Task, seed: int) -> None:
    """The same in a process that torchrun did not start: the warm start's own trainer would wait for the other ranks."""
    import subprocess
    import sys

    started = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_", "ACCELERATE_")
    alone = {name: value for name, value in os.environ.items() if not name.startswith(started)}
    code = (
        "import sys; from rich.console import Console; from rlkit import build; "
        "build.tiny_folder(build.make_task(sys.argv[1]), Console(stderr=True), int(sys.argv[2]))"
    )
    name = task.name if ":" in task.name else f"task:{task.name}"
    done = subprocess.run([sys.executable, "-c", code, name, str(seed)], env=alone)
    if done.returncode:
        raise RunError(
            f"the embedded model's warm start ended with exit code {done.returncode}; its own words are above"
        )


def _warm_start(task: Task, cfg: SftConfig, folder: Path, console: "Console") -> None:
    from rlkit.sft import task_examples
    from rlkit.tiny import make_model, make_tokenizer

    tokenizer = make_tokenizer()
    examples = task_examples(task, tokenizer, cfg.steps * cfg.batch_size, cfg.segment_share, cfg.seed)
    title = f"warm start of tiny on {task.name}"
    imitate(make_model(tokenizer, cfg.seed), tokenizer, examples, cfg, folder, console, title)


def imitate(
    model: Any,
    tokenizer: Any,
    examples: "list[Example]",
    cfg: SftConfig,
    folder: Path,
    console: "Console",
    title: str,
) -> None:
    """SFT with a progress line and a closing one."""
    from rlkit.sft import train_sft
    from rlkit.show import Terminal

    quiet_transformers()
    began = time.perf_counter()
    with Terminal(title, cfg.steps, console=console) as view:
        loss = train_sft(
            model,
            tokenizer,
            examples,
            folder,
            steps=cfg.steps,
            batch_size=cfg.batch_size,
            learning_rate=cfg.learning_rate or (2e-3 if cfg.model.name == "tiny" else 1e-5),
            max_length=cfg.max_length,
            seed=cfg.seed,
            on_step=lambda step, loss: view.step(step, {"loss": loss}),
        )
    view.say(
        f"{title}: {cfg.steps} steps of {cfg.batch_size}, loss {loss:.3f}, {time.perf_counter() - began:.0f} s"
    )
