"""What is loaded of a model, and why it cannot be: its tokenizer, its end tokens, its files, from this disk or from the hub.

torch, transformers and huggingface_hub are imported inside the functions that need them.
"""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rlkit.errors import ModelError

from .files import first_line, in_cache, in_folder, missing_weights, read_json
from .place import FOLDER_HOLDS, ModelPlace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


def stop_ids(place: ModelPlace, eos: int | None) -> list[int]:
    """Every token that ends an answer: generation_config.json's and config.json's eos ids and the tokenizer's own.

    Instruct models name several; a sampler that knows only one counts finished answers as cut.
    """
    found = set() if eos is None else {eos}
    find = _finder(place)
    for name in ("generation_config.json", "config.json"):
        path = find(name)
        ids = read_json(path, place.name).get("eos_token_id") if path else None
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
            answers.append(f"{constants.ENDPOINT} does not answer: {first_line(error)}")
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
            read_json(path, place.name).get("tokenizer_class")
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

    missing = missing_weights(partial(in_folder, folder), place.name)
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
            f"({type(error).__name__}: {first_line(error)}); expected {FOLDER_HOLDS}"
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
        why = f"{type(error).__name__}: {first_line(error)}"
    return ModelError(
        f"--model {place.name}: the {what} of {place.path} cannot be had from {constants.ENDPOINT} ({why}), nor from the cache "
        f"folder {constants.HF_HUB_CACHE}, and {Path.cwd()} has no folder of that name; {local}, or run `{fetch}`"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _finder(place: ModelPlace) -> Callable[[str], Path | None]:
    """A file of the model on this disk, by name."""
    if place.kind == "tiny":
        return lambda name: None
    if place.kind == "hub":
        return partial(in_cache, place.path, place.revision)
    return partial(in_folder, Path(place.path))
