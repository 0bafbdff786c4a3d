"""Where a model is, what shape it has, and what that shape costs in memory.

A name becomes a `ModelPlace` without a network: a folder, a hub id with what the hub's cache holds of it, or the marker
`tiny`. Shapes of the families the papers use are a table, so that memory can be told before anything is downloaded.
torch, transformers and huggingface_hub are imported inside the functions that need them.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlkit.config import ModelConfig
from rlkit.errors import ModelError, unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TINY = "tiny"
DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2}
PROBE_SECONDS = 3.0
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
FOLDER_HOLDS = "a folder as save_pretrained writes it (config.json, *.safetensors, tokenizer.json)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a Llama-like decoder (Llama, Qwen2, Qwen3) that fix its parameters and its memory.

    >>> SHAPES["Qwen2.5-0.5B"].parameters
    494032768
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    """Width of the gated MLP (config.json: intermediate_size)."""
    vocab: int
    """Rows of the embedding, padding rows included."""
    tied: bool
    """Whether the output layer is the embedding."""
    positions: int
    """Longest sequence, in tokens (config.json: max_position_embeddings)."""
    qkv_bias: bool = False
    qk_norm: bool = False

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Every trained number, exactly; a tied embedding counts once."""
        h, q, kv = self.hidden, self.q_width, self.kv_width
        attention = h * q + 2 * h * kv + q * h
        attention += (q + 2 * kv) * self.qkv_bias + 2 * self.head_dim * self.qk_norm
        layer = attention + 3 * h * self.mlp + 2 * h
        return self.vocab * h * (1 if self.tied else 2) + self.layers * layer + h


def _known_shapes() -> dict[str, ModelShape]:
    """Short name -> shape, from the models' config.json files."""
    shapes: dict[str, ModelShape] = {}

    def add(positions: Mapping[str, int], sizes: tuple[int, ...], tied: bool, bias: bool, norm: bool) -> None:
        h, layers, heads, kv, head_dim, mlp, vocab = sizes
        widths = {"hidden": h, "layers": layers, "heads": heads, "kv_heads": kv, "head_dim": head_dim}
        for name, length in positions.items():
            shapes[name] = ModelShape(
                **widths, mlp=mlp, vocab=vocab, tied=tied, positions=length, qkv_bias=bias, qk_norm=norm
            )

    # size, hidden, layers, heads, kv heads, head_dim, MLP, vocabulary, positions of the base, of -Instruct, of -Math (0: none)
    for size, *sizes, base, instruct, math in (
        ("0.5B", 896, 24, 14, 2, 64, 4864, 151_936, 32_768, 32_768, 0),
        ("1.5B", 1536, 28, 12, 2, 128, 8960, 151_936, 131_072, 32_768, 4096),
        ("3B", 2048, 36, 16, 2, 128, 11_008, 151_936, 32_768, 32_768, 0),
        ("7B", 3584, 28, 28, 4, 128, 18_944, 152_064, 131_072, 32_768, 4096),
        ("14B", 5120, 48, 40, 8, 128, 13_824, 152_064, 131_072, 32_768, 0),
        ("32B", 5120, 64, 40, 8, 128, 27_648, 152_064, 131_072, 32_768, 0),
        ("72B", 8192, 80, 64, 8, 128, 29_568, 152_064, 131_072, 32_768, 4096),
    ):
        names = {f"Qwen2.5-{size}": base, f"Qwen2.5-{size}-Instruct": instruct}
        if math:
            names |= {f"Qwen2.5-Math-{size}": math, f"Qwen2.5-Math-{size}-Instruct": math}
        add(names, tuple(sizes), tied=size in ("0.5B", "1.5B", "3B"), bias=True, norm=False)
    for size, *sizes in (
        ("0.6B", 1024, 28, 16, 8, 128, 3072, 151_936),
        ("1.7B", 2048, 28, 16, 8, 128, 6144, 151_936),
        ("4B", 2560, 36, 32, 8, 128, 9728, 151_936),
        ("8B", 4096, 36, 32, 8, 128, 12_288, 151_936),
        ("14B", 5120, 40, 40, 8, 128, 17_408, 151_936),
        ("32B", 5120, 64, 64, 8, 128, 25_600, 151_936),
    ):
        names = {f"Qwen3-{size}": 40_960}
        if size != "32B":  # its base was not published
            names[f"Qwen3-{size}-Base"] = 32_768
        add(names, tuple(sizes), tied=size in ("0.6B", "1.7B", "4B"), bias=False, norm=True)
    for size, *sizes in (
        ("3.2-1B", 2048, 16, 32, 8, 64, 8192, 128_256),
        ("3.2-3B", 3072, 28, 24, 8, 128, 8192, 128_256),
        ("3.1-8B", 4096, 32, 32, 8, 128, 14_336, 128_256),
        ("3.1-70B", 8192, 80, 64, 8, 128, 28_672, 128_256),
    ):
        names = {f"Llama-{size}": 131_072, f"Llama-{size}-Instruct": 131_072}
        if size == "3.1-70B":
            names["Llama-3.3-70B-Instruct"] = 131_072
        add(names, tuple(sizes), tied=size.startswith("3.2"), bias=False, norm=False)
    return shapes


SHAPES = _known_shapes()


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


def shape_from_config(config: Mapping[str, object]) -> ModelShape | None:
    """The shape in a config.json; None when its family is not Llama-like or a size is missing."""
    family = config.get("model_type")
    if family not in ("llama", "qwen2", "qwen3"):
        return None

    def size(key: str, default: int = 0) -> int:
        value = config.get(key)
        return value if isinstance(value, int) and value > 0 else default

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    # Defaults are those of transformers' config classes: what a config.json may leave out.
    shape = ModelShape(
        hidden=hidden,
        layers=size("num_hidden_layers"),
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", 128 if family == "qwen3" else hidden // max(heads, 1)),
        mlp=size("intermediate_size"),
        vocab=size("vocab_size"),
        tied=config.get("tie_word_embeddings") is True,
        positions=size("max_position_embeddings", 32_768 if family != "llama" else 2048),
        qkv_bias=family == "qwen2" or config.get("attention_bias") is True,
        qk_norm=family == "qwen3",
    )
    needed = (shape.hidden, shape.layers, shape.heads, shape.head_dim, shape.mlp, shape.vocab)
    return shape if all(needed) else None


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
    shape = shape_from_config(_read_json(path, cfg.name))
    return ModelPlace(
        name=cfg.name,
        kind="folder",
        path=str(folder),
        trust_remote_code=cfg.trust_remote_code,
        missing=_missing_weights(partial(_in_folder, folder), cfg.name),
        shape=shape,
        shape_source="config.json" if shape else "",
    )


def _hub_place(repo: str, cfg: ModelConfig) -> ModelPlace:
    from huggingface_hub.errors import HFValidationError

    find = partial(_in_cache, repo, cfg.revision)
    try:
        config = find("config.json")
    except HFValidationError as error:
        raise ModelError(
            f"--model {cfg.name}: no folder of that name, and no hub id either ({_first_line(error)}); "
            "expected OWNER/NAME or --model /path/to/folder"
        ) from error
    shape, source = None, ""
    if config is not None:
        shape, source = shape_from_config(_read_json(config, cfg.name)), "config.json"
    if shape is None:
        # Copies under another owner (unsloth/Llama-3.2-3B-Instruct) keep name and shape.
        shape, source = SHAPES.get(repo.rpartition("/")[2]), "table"
    return ModelPlace(
        name=cfg.name,
        kind="hub",
        path=repo,
        revision=cfg.revision,
        trust_remote_code=cfg.trust_remote_code,
        missing=_missing_weights(find, cfg.name),
        shape=shape,
        shape_source=source if shape else "",
    )


def _finder(place: ModelPlace) -> Callable[[str], Path | None]:
    """A file of the model on this disk, by name."""
    if place.kind == "tiny":
        return lambda name: None
    if place.kind == "hub":
        return partial(_in_cache, place.path, place.revision)
    return partial(_in_folder, Path(place.path))


def _in_folder(folder: Path, name: str) -> Path | None:
    return folder / name if (folder / name).is_file() else None


def _in_cache(repo: str, revision: str | None, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"--model {name}: {path} cannot be read ({error}); expected a JSON object"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"--model {name}: {path} holds a {type(value).__name__}; expected a JSON object")
    return value


def _missing_weights(find: Callable[[str], Path | None], name: str) -> tuple[str, ...]:
    """Weight files that transformers would look for and `find` does not find. Pickled ones (pytorch_model.bin) do not count."""
    path = find("model.safetensors.index.json")
    if path is not None:
        shards = _read_json(path, name).get("weight_map")
        files = sorted({str(f) for f in shards.values()}) if isinstance(shards, dict) else []
        return tuple(f for f in files if find(f) is None)
    return () if find("model.safetensors") else ("model.safetensors",)


def stop_ids(place: ModelPlace, eos: int | None) -> list[int]:
    """Every token that ends an answer: generation_config.json's and config.json's eos ids and the tokenizer's own.

    Instruct models name several; a sampler that knows only one counts finished answers as cut.
    """
    found = set() if eos is None else {eos}
    find = _finder(place)
    for name in ("generation_config.json", "config.json"):
        path = find(name)
        ids = _read_json(path, place.name).get("eos_token_id") if path else None
        found.update(i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int))
    return sorted(found)


def hub_silence() -> str | None:
    """Why the hub cannot be asked, in a few words; None when it answers within 3 seconds.

    Asked first, because huggingface_hub without a network retries each file for 23 seconds.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answers: list[str | None] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
        except (
            Exception
        ) as error:  # whatever its HTTP client raises (it has changed clients twice): no answer came
            answers.append(f"{constants.ENDPOINT} does not answer: {_first_line(error)}")
        else:
            answers.append(None)

    # A name server that is silent blocks beyond any socket time-out, hence the thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    return answers[0] if answers else f"{constants.ENDPOINT} does not answer within {PROBE_SECONDS:.0f} s"


def load_tokenizer(place: ModelPlace) -> "PreTrainedTokenizerBase":
    """The tokenizer, from the folder, the hub's cache or the hub; ModelError in one sentence when it cannot be had."""
    from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

    if place.kind == "tiny":
        raise ValueError("tiny is a marker: build the embedded model, then ask for folder_place(...)")
    silence = hub_silence() if place.kind == "hub" else None
    local, revision = place.kind == "folder" or silence is not None, place.revision or "main"
    find = _finder(place)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            place.path, revision=revision, trust_remote_code=place.trust_remote_code, local_files_only=local
        )
        # For model_type qwen2, transformers puts Qwen's own splitting, normalisation and <|endoftext|> in place of what
        # tokenizer.json says, even where the folder names the plain class. The folder is right.
        named = (
            _read_json(path, place.name).get("tokenizer_class")
            if (path := find("tokenizer_config.json"))
            else None
        )
        if (
            named in PLAIN_TOKENIZERS
            and type(tokenizer) is not PreTrainedTokenizerFast
            and find("tokenizer.json")
        ):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(
                place.path, revision=revision, local_files_only=local
            )
    except Exception as error:  # tokenizers raises a bare Exception for a broken tokenizer.json
        raise _cannot_load(place, "tokenizer", error, silence) from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"--model {place.name}: {place.path} gives a {type(tokenizer).__name__}; expected a tokenizer"
        )
    # Without any of these files transformers makes up a tokenizer of three tokens and says nothing.
    if not place.trust_remote_code and not any(find(name) for name in TOKENIZER_FILES):
        raise _cannot_load(
            place, "tokenizer", FileNotFoundError(f"no {' or '.join(TOKENIZER_FILES)}"), silence
        )
    return tokenizer


def fetch_model(place: ModelPlace) -> Path:
    """The folder that holds config, weights and tokenizer; what a hub model lacks is downloaded into the hub's cache."""
    if place.kind == "tiny":
        raise ValueError("tiny is a marker: build the embedded model, then ask for folder_place(...)")
    if place.kind == "folder":
        if place.missing:
            raise ModelError(
                f"--model {place.name}: {place.path} lacks {', '.join(place.missing)}; expected {FOLDER_HOLDS}"
            )
        return Path(place.path)
    from huggingface_hub import snapshot_download

    silence = hub_silence()
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", *["*.py"] * place.trust_remote_code]
    try:
        folder = Path(
            snapshot_download(
                place.path,
                revision=place.revision,
                allow_patterns=patterns,
                local_files_only=silence is not None,
            )
        )
    except Exception as error:  # network, disk, gate: _cannot_load tells them apart
        raise _cannot_load(place, "weights", error, silence) from error

    missing = _missing_weights(partial(_in_folder, folder), place.name)
    if missing:
        raise _cannot_load(
            place, "weights", FileNotFoundError(f"no {', '.join(missing)} in {folder}"), silence
        )
    return folder


def _cannot_load(place: ModelPlace, what: str, error: BaseException, silence: str | None) -> ModelError:
    """One sentence: what was tried, where, why not, and what to do."""
    local = "pass a local folder (--model /path/to/folder)"
    causes = list(_causes(error))
    names = {type(cause).__name__ for cause in causes}
    if any("trust_remote_code" in str(cause) for cause in causes) and not place.trust_remote_code:
        return ModelError(
            f"--model {place.name}: it needs Python code that comes with the model; read that code, then allow it "
            "with --model.trust-remote-code"
        )
    if place.kind == "folder":
        return ModelError(
            f"--model {place.name}: the {what} in {place.path} cannot be loaded "
            f"({type(error).__name__}: {_first_line(error)}); expected {FOLDER_HOLDS}"
        )
    from huggingface_hub import constants

    revision = f" at revision {place.revision}" if place.revision else ""
    fetch = f"hf download {place.path}" + (f" --revision {place.revision}" if place.revision else "")
    if silence is not None:
        return ModelError(
            f"--model {place.name}: found no {what} of {place.path}{revision} in the cache folder {constants.HF_HUB_CACHE}, "
            f"and the hub cannot be asked ({silence}); {local}, or run `{fetch}` where there is a network"
        )
    if "GatedRepoError" in names:
        why = f"access is gated: ask for it at {constants.ENDPOINT}/{place.path}, then `hf auth login`"
    elif "RevisionNotFoundError" in names:
        why = f"it has no revision {place.revision or 'main'}"
    elif "RepositoryNotFoundError" in names:
        why = "there is no such model, or it is private and you are not logged in (`hf auth login`)"
    else:
        why = f"{type(error).__name__}: {_first_line(error)}"
    return ModelError(
        f"--model {place.name}: the {what} of {place.path} cannot be had from {constants.ENDPOINT} ({why}), nor from the cache "
        f"folder {constants.HF_HUB_CACHE}, and {Path.cwd()} has no folder of that name; {local}, or run `{fetch}`"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip().rstrip(".")
