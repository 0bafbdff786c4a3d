"""A name -> where the model is, without a network: a folder, a hub id with what the hub's cache holds of it, or the marker `tiny`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rlkit.config import ModelConfig
from rlkit.errors import ModelError, unknown_name

from .files import first_line, in_cache, in_folder, missing_weights, read_json
from .shapes import SHAPES, ModelShape, shape_from_config

TINY = "tiny"
FOLDER_HOLDS = "a folder as save_pretrained writes it (config.json, *.safetensors, tokenizer.json)"


def hub_name(name: str) -> str:
    """The hub id behind a short name, in whatever case; a hub id stays what it is.

    >>> hub_name("qwen2.5-math-7b"), hub_name("Llama-3.2-3B-Instruct"), hub_name("org/model")
    ('Qwen/Qwen2.5-Math-7B', 'meta-llama/Llama-3.2-3B-Instruct', 'org/model')
    """
    owner, slash, short = name.rpartition("/")
    known = next((k for k in SHAPES if k.casefold() == short.casefold()), None)
    if known is not None:
        publisher = "Qwen" if known.startswith("Qwen") else "meta-llama"
        if not slash or owner.casefold() == publisher.casefold():
            return f"{publisher}/{known}"
    if slash:
        return name
    hint = "; any other model is named by its hub id (OWNER/NAME) or by a folder (--model /path/to/folder)"
    raise ModelError(unknown_name("model", name, [*SHAPES, TINY]) + hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlace:
    """Where the policy's weights and tokenizer are, found without a network.

    >>> resolve_model(ModelConfig(name="tiny")).kind
    'tiny'
    """

    name: str
    """What the user wrote."""
    kind: Literal["tiny", "folder", "hub"]
    """`tiny` is a marker: who builds the embedded model goes on with `folder_place`."""
    path: str
    """What transformers and vLLM take: the folder or the hub id; empty for `tiny`."""
    revision: str | None = None
    trust_remote_code: bool = False
    missing: tuple[str, ...] = ()
    """Weight files that are not on this disk; empty: all are there."""
    shape: ModelShape | None = None
    """None: neither a config.json on this disk nor the table knows it, or its family is not Llama-like."""
    shape_source: str = ""
    """`config.json` or `table`."""


def resolve_model(cfg: ModelConfig) -> ModelPlace:
    """A name -> where the model is. Raises ModelError for what can be no model; asks nobody outside this machine."""
    if cfg.name == TINY:
        return ModelPlace(name=TINY, kind="tiny", path="")
    try:
        folder = Path(cfg.name).expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except (
        OSError,
        RuntimeError,
    ) as error:  # a name too long, a parent that may not be entered, an unknown ~user
        raise ModelError(
            f"--model {cfg.name}: cannot be looked at ({error}); expected {FOLDER_HOLDS}"
        ) from error
    if cfg.name and is_folder:
        return folder_place(folder, cfg)
    if is_file:
        raise ModelError(f"--model {cfg.name}: a file; expected {FOLDER_HOLDS}")
    if cfg.name.startswith((".", "/", "~", "\\")) or cfg.name.endswith("/") or cfg.name.count("/") > 1:
        raise ModelError(
            f"--model {cfg.name}: no such folder (looked from {Path.cwd()}); expected {FOLDER_HOLDS}"
        )
    return _hub_place(hub_name(cfg.name), cfg)


def folder_place(folder: Path, cfg: ModelConfig) -> ModelPlace:
    """A local folder as a place; ModelError when it holds no readable config.json."""
    path = folder / "config.json"
    if not path.is_file():
        held = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        some = ", ".join(held[:8]) + (", ..." if len(held) > 8 else "")
        adapter = "; it is a LoRA adapter: merge it into its base model first" * (
            "adapter_config.json" in held
        )
        raise ModelError(
            f"--model {cfg.name}: no config.json in {folder} (it holds: {some or 'nothing'}){adapter}; expected {FOLDER_HOLDS}"
        )
    shape = shape_from_config(read_json(path, cfg.name))
    return ModelPlace(
        name=cfg.name,
        kind="folder",
        path=str(folder),
        trust_remote_code=cfg.trust_remote_code,
        missing=missing_weights(partial(in_folder, folder), cfg.name),
        shape=shape,
        shape_source="config.json" if shape else "",
    )


def _hub_place(repo: str, cfg: ModelConfig) -> ModelPlace:
    from huggingface_hub.errors import HFValidationError

    find = partial(in_cache, repo, cfg.revision)
    try:
        config = find("config.json")
    except HFValidationError as error:
        raise ModelError(
            f"--model {cfg.name}: no folder of that name, and no hub id either ({first_line(error)}); "
            "expected OWNER/NAME or --model /path/to/folder"
        ) from error
    shape, source = None, ""
    if config is not None:
        shape, source = shape_from_config(read_json(config, cfg.name)), "config.json"
    if shape is None:
        # Copies under another owner (unsloth/Llama-3.2-3B-Instruct) keep name and shape.
        shape, source = SHAPES.get(repo.rpartition("/")[2]), "table"
    return ModelPlace(
        name=cfg.name,
        kind="hub",
        path=repo,
        revision=cfg.revision,
        trust_remote_code=cfg.trust_remote_code,
        missing=missing_weights(find, cfg.name),
        shape=shape,
        shape_source=source if shape else "",
    )
