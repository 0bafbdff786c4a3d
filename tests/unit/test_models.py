"""Names, shapes, places and memory. Shapes are held against transformers, memory against what autograd really saves."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from rlkit import memory, models
from rlkit.config import ModelConfig
from rlkit.errors import ModelError
from rlkit.models import SHAPES, ModelShape

SMALL = ModelShape(
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    mlp=96,
    vocab=40,
    tied=True,
    positions=128,
    qkv_bias=True,
)


def config_of(name: str, shape: ModelShape) -> Any:
    """The transformers config of a shape; its family is in the name."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    family: Any = (
        Qwen2Config
        if name.startswith("Qwen2.5")
        else Qwen3Config
        if name.startswith("Qwen3")
        else LlamaConfig
    )
    return family(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.mlp,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=shape.positions,
    )


# -- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen2.5-0.5B", 494_032_768),
        ("Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen2.5-3B-Instruct", 3_085_938_688),
        ("Qwen2.5-7B", 7_615_616_512),
        ("Qwen2.5-Math-7B", 7_615_616_512),
        ("Qwen2.5-14B", 14_770_033_664),
        ("Qwen2.5-32B", 32_763_876_352),
        ("Qwen2.5-72B", 72_706_203_648),
        ("Qwen3-0.6B", 596_049_920),
        ("Qwen3-4B", 4_022_468_096),
        ("Qwen3-8B", 8_190_735_360),
        ("Qwen3-14B", 14_768_307_200),
        ("Qwen3-32B", 32_762_123_264),
        ("Llama-3.2-1B", 1_235_814_400),
        ("Llama-3.2-3B-Instruct", 3_212_749_824),
        ("Llama-3.1-8B", 8_030_261_248),
        ("Llama-3.3-70B-Instruct", 70_553_706_496),
    ],
)
def test_parameters_are_the_published_counts(name: str, parameters: int) -> None:
    assert SHAPES[name].parameters == parameters


@pytest.mark.parametrize("name", SHAPES)
def test_every_row_of_the_table_counts_as_transformers_does(name: str) -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(name, SHAPES[name]))
    assert sum(p.numel() for p in model.parameters()) == SHAPES[name].parameters


@pytest.mark.parametrize("name", ["Qwen2.5-Math-7B", "Qwen3-0.6B", "Llama-3.2-1B"])
def test_a_shape_comes_back_from_the_config_json_that_transformers_writes(name: str, tmp_path: Path) -> None:
    config_of(name, SHAPES[name]).save_pretrained(tmp_path)
    assert models.shape_from_config(json.loads((tmp_path / "config.json").read_text())) == SHAPES[name]


def test_a_config_json_may_leave_out_what_transformers_fills_in() -> None:
    least = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    shape = models.shape_from_config({"model_type": "llama", "vocab_size": 40, **least})
    assert shape is not None
    assert (shape.kv_heads, shape.head_dim, shape.tied, shape.qkv_bias) == (4, 16, False, False)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "mamba", "hidden_size": 64},
        {"model_type": "qwen2", "hidden_size": 64},
        {"model_type": "qwen2", "hidden_size": "64", "num_attention_heads": 0},
    ],
)
def test_an_unknown_or_broken_config_has_no_shape(config: dict[str, object]) -> None:
    assert models.shape_from_config(config) is None


# -- names ------------------------------------------------------------------------------------------------------------


def test_short_names_become_hub_ids_in_any_case() -> None:
    assert models.hub_name("Qwen2.5-Math-7B") == "Qwen/Qwen2.5-Math-7B"
    assert models.hub_name("llama-3.2-3b-instruct") == "meta-llama/Llama-3.2-3B-Instruct"
    assert models.hub_name("qwen/qwen3-8b-base") == "Qwen/Qwen3-8B-Base"


def test_a_hub_id_of_another_owner_stays() -> None:
    assert models.hub_name("unsloth/Llama-3.2-3B-Instruct") == "unsloth/Llama-3.2-3B-Instruct"


def test_an_unknown_short_name_gets_the_nearest_known_one() -> None:
    with pytest.raises(
        ModelError, match=r"'Qwen2.5-Mth-7B' is not known; did you mean 'Qwen2.5-Math-7B'\?"
    ) as caught:
        models.resolve_model(ModelConfig(name="Qwen2.5-Mth-7B"))
    assert "--model /path/to/folder" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./absent", "no such folder (looked from"),
        ("a/b/c", "no such folder"),
        ("/dev/null/x", "no such folder"),
        ("bad--name/x..", "no hub id either"),
        ("x" * 5000, "cannot be looked at"),
        ("", "is not known"),
    ],
)
def test_a_name_that_can_be_no_model_is_one_sentence(name: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        models.resolve_model(ModelConfig(name=name))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelError, match="a file; expected a folder"):
        models.resolve_model(ModelConfig(name=str(file)))


def test_tiny_is_a_marker() -> None:
    place = models.resolve_model(ModelConfig(name="tiny"))
    assert (place.kind, place.path, place.shape) == ("tiny", "", None)


# -- folders ----------------------------------------------------------------------------------------------------------


def make_folder(folder: Path) -> Path:
    """A whole small model, as save_pretrained writes it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    vocab = {f"w{i}": i for i in range(SMALL.vocab)}
    core = Tokenizer(WordLevel(vocab, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="w0", eos_token="w1").save_pretrained(folder)
    AutoModelForCausalLM.from_config(config_of("Qwen2.5", SMALL)).save_pretrained(folder)
    return folder


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    place = models.resolve_model(ModelConfig(name=str(make_folder(tmp_path))))
    assert (place.kind, place.missing, place.shape, place.shape_source) == (
        "folder",
        (),
        SMALL,
        "config.json",
    )
    assert len(models.load_tokenizer(place)) == SMALL.vocab
    assert models.fetch_model(place) == tmp_path


def test_a_tokenizer_splits_as_its_tokenizer_json_says(tmp_path: Path) -> None:
    """transformers alone would split the digits, as Qwen's tokenizer does, and add a token beyond the embedding."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    make_folder(tmp_path)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(BPE({t: i for i, t in enumerate([*alphabet, "12"])}, merges=[("1", "2")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="!").save_pretrained(tmp_path)
    tokenizer = models.load_tokenizer(models.resolve_model(ModelConfig(name=str(tmp_path))))
    assert len(tokenizer) == 257
    assert tokenizer.encode("12") == [256]
    assert max(tokenizer.encode("<|endoftext|>")) < 257


def test_every_end_token_is_found(tmp_path: Path) -> None:
    place = models.resolve_model(ModelConfig(name=str(make_folder(tmp_path))))
    config = json.loads((tmp_path / "config.json").read_text()) | {"eos_token_id": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 5, 9]}))
    assert models.stop_ids(place, 1) == [1, 5, 7, 9]
    assert models.stop_ids(models.resolve_model(ModelConfig(name="tiny")), 1) == [1]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    place = models.resolve_model(ModelConfig(name=str(tmp_path)))
    assert place.missing == ("model-2.safetensors",)
    with pytest.raises(ModelError, match="lacks model-2.safetensors"):
        models.fetch_model(place)


def test_a_folder_without_a_model_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ModelError, match=r"no config.json in .*it holds: adapter_config.json.*merge it"):
        models.resolve_model(ModelConfig(name=str(tmp_path)))


@pytest.mark.parametrize("text", ["not json", "[]", ""])
def test_an_unreadable_config_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config.json .*expected a JSON object"):
        models.resolve_model(ModelConfig(name=str(tmp_path)))


def test_a_folder_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    """transformers alone makes up a tokenizer of three tokens here."""
    (make_folder(tmp_path) / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be loaded \(.*no tokenizer.json"):
        models.load_tokenizer(models.resolve_model(ModelConfig(name=str(tmp_path))))


@pytest.mark.parametrize("text", ["not json", "{}"])
def test_a_broken_tokenizer_is_told(tmp_path: Path, text: str) -> None:
    (make_folder(tmp_path) / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be loaded"):
        models.load_tokenizer(models.resolve_model(ModelConfig(name=str(tmp_path))))


def test_code_that_comes_with_a_model_is_not_run_unasked(tmp_path: Path) -> None:
    path = make_folder(tmp_path) / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    settings.pop("tokenizer_class")
    path.write_text(json.dumps(settings))
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "unheard"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.Config"}}))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match=r"--model.trust-remote-code"):
        models.load_tokenizer(models.resolve_model(ModelConfig(name=str(tmp_path))))
    assert not (tmp_path / "ran").exists()


# -- the hub ----------------------------------------------------------------------------------------------------------

ASK = """
import sys
from rlkit.config import ModelConfig
from rlkit.errors import ModelError
from rlkit.models import fetch_model, load_tokenizer, resolve_model
for name, revision in (argument.split("@") for argument in sys.argv[1:]):
    for ask in (load_tokenizer, fetch_model):
        place = resolve_model(ModelConfig(name=name, revision=revision or None))
        try:
            got = ask(place)
            again = resolve_model(ModelConfig(name=name))
            print("had", got if ask is fetch_model else len(got), again.shape_source, again.missing)
        except ModelError as error:
            print(str(error).replace("\\n", "NEWLINE"))
"""


def ask_hub(cache: Path, names: list[str], **environment: str) -> list[str]:
    """What load_tokenizer and fetch_model say of each NAME@REVISION, in a process of its own: the hub's address is
    read once, when huggingface_hub is imported."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    env |= {
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        **environment,
    }
    run = subprocess.run(
        [sys.executable, "-c", ASK, *names], env=env, capture_output=True, text=True, check=True
    )
    return run.stdout.splitlines()


def assert_told(sentences: list[str], cache: Path, why: str) -> None:
    for what, said in zip(("tokenizer", "weights"), sentences, strict=True):
        assert said.startswith(
            f"--model Qwen2.5-Math-7B: found no {what} of Qwen/Qwen2.5-Math-7B in the cache folder {cache}/hub, and "
            f"the hub cannot be asked ({why}"
        )
        assert said.endswith(
            "pass a local folder (--model /path/to/folder), or run `hf download Qwen/Qwen2.5-Math-7B` where there is a network"
        )


def test_without_a_hub_the_sentence_says_what_was_tried_and_what_to_do(tmp_path: Path) -> None:
    said = ask_hub(tmp_path, ["Qwen2.5-Math-7B@"], HF_ENDPOINT="http://127.0.0.1:9")
    assert_told(said, tmp_path, "http://127.0.0.1:9 does not answer: ")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a small hub that has one model, lab/small, and one that is gated, lab/gated."""
    folder = make_folder(tmp_path / "served")
    commit = "0" * 40

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:  # noqa: N802
            self.answer(body=False)

        def do_GET(self) -> None:  # noqa: N802
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0].removeprefix("/api/models")
            if path == "/":
                return self.send(200, b"", body)
            if path.startswith("/lab/gated"):
                return self.send(403, b"", body, **{"X-Error-Code": "GatedRepo"})
            if not path.startswith("/lab/small"):
                return self.send(401, b"", body, **{"X-Error-Code": "RepoNotFound"})
            rest = path.removeprefix("/lab/small").strip("/").split("/")
            if len(rest) > 1 and rest[1] not in ("main", commit):
                return self.send(404, b"", body, **{"X-Error-Code": "RevisionNotFound"})
            files = sorted(p.name for p in folder.iterdir())
            if rest[0] == "tree":
                rows = [
                    {"type": "file", "path": f, "size": (folder / f).stat().st_size, "oid": f} for f in files
                ]
                return self.send(200, json.dumps(rows).encode(), body)
            if rest[0] != "resolve":
                facts = {"id": "lab/small", "sha": commit, "siblings": [{"rfilename": f} for f in files]}
                return self.send(200, json.dumps(facts).encode(), body)
            if rest[2] not in files:
                return self.send(404, b"", body, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            data = (folder / rest[2]).read_bytes()
            self.send(200, data, body, **{"ETag": f'"{rest[2]}"', "X-Repo-Commit": commit})

        def send(self, status: int, data: bytes, body: bool, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_hub_is_asked_once_and_each_refusal_has_its_sentence(tmp_path: Path, hub: str) -> None:
    names = ["lab/small@", "lab/small@v9", "lab/absent@", "lab/gated@"]
    said = ask_hub(tmp_path / "cache", names, HF_ENDPOINT=hub)
    folder = tmp_path / "cache" / "hub" / "models--lab--small" / "snapshots" / ("0" * 40)
    # Tokenizer and config are in the cache after the first line, the weights after the second.
    assert said[0] == f"had {SMALL.vocab} config.json ('model.safetensors',)"
    assert said[1] == f"had {folder} config.json ()"
    for sentences, why in (
        (said[2:4], "no revision v9"),
        (said[4:6], "no such model"),
        (said[6:8], "access is gated"),
    ):
        for sentence in sentences:
            assert why in sentence and "hf download" in sentence and "--model /path/to/folder" in sentence, (
                sentence
            )
            assert "NEWLINE" not in sentence
    offline = ask_hub(tmp_path / "cache", ["lab/small@", "Qwen2.5-Math-7B@"], HF_HUB_OFFLINE="1")
    assert offline[:2] == [f"had {SMALL.vocab} config.json ()", f"had {folder} config.json ()"]
    assert_told(offline[2:], tmp_path / "cache", "HF_HUB_OFFLINE is set)")


# -- memory -----------------------------------------------------------------------------------------------------------


def test_the_plans_tile_of_logits_is_the_learners() -> None:
    from rlkit.learner import tiles

    assert memory.TILE_LOGITS == {"cpu": tiles.CPU_LOGITS, "cuda": tiles.GPU_LOGITS}


def test_memory_by_hand() -> None:
    gib = 2**30
    assert memory.weights_gib(gib, 2) == 2.0
    assert memory.adam_gib(gib) == 8.0
    assert memory.checkpoint_gib(gib) == 12.0
    assert memory.logits_gib(2**20) == 3 * 4 / 1024
    # 2 (keys and values) x 2 layers x 2 kv heads x 16 x 2 bytes
    assert memory.kv_bytes_per_token(SMALL, 2) == 256
    assert memory.kv_cache_gib(SMALL, 2, sequences=4, length=2**20) == 1.0


def test_activations_by_hand() -> None:
    # hidden 64, q 64, kv 32, MLP 96. float32: 6 x 64 hidden + 2 x 64 + 2 x 32 + 4 x 96 values of 4 bytes, 2 layers
    float32 = 4 * (6 * 64 + 2 * 64 + 2 * 32 + 4 * 96)
    assert memory.activations_gib(SMALL, 2**30, autocast=False, checkpointing=False) == 2 * float32
    # With checkpointing: one layer, and 2 inputs of 64 float32 numbers
    assert memory.activations_gib(SMALL, 2**30, autocast=False, checkpointing=True) == float32 + 2 * 64 * 4
    # autocast: 4 x 64 float32, and 5 x 64 + 2 x 64 + 2 x 32 + 4 x 96 values of 2 bytes
    half = 4 * 4 * 64 + 2 * (5 * 64 + 2 * 64 + 2 * 32 + 4 * 96)
    assert memory.activations_gib(SMALL, 2**30, autocast=True, checkpointing=False) == 2 * half


def saved_bytes(name: str, layers: int, autocast: bool, checkpointing: bool) -> float:
    """Bytes per token that autograd keeps after the forward of a random model, its weights and their casts apart."""
    from dataclasses import replace

    from transformers import AutoModelForCausalLM

    shape = replace(SMALL, layers=layers, hidden=256, mlp=1024, heads=8, head_dim=32)
    model = AutoModelForCausalLM.from_config(config_of(name, shape)).model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    weights = {s for p in model.parameters() if p.ndim == 2 for s in (tuple(p.shape), tuple(p.shape)[::-1])}
    kept: dict[int, int] = {}
    held: list[torch.Tensor] = []  # else a freed tensor's address is met again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tuple(tensor.shape) not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            held.append(tensor)
        return tensor

    unpack: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor  # noqa: E731
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, unpack),
        torch.autocast("cpu", torch.bfloat16, autocast),
    ):
        model(input_ids=torch.zeros(2, 100, dtype=torch.int64), use_cache=False)
    return sum(kept.values()) / 200


@pytest.mark.parametrize("name", ["Qwen2.5", "Qwen3", "Llama"])
@pytest.mark.parametrize("autocast", [False, True])
def test_activations_are_what_autograd_saves_per_layer(name: str, autocast: bool) -> None:
    from dataclasses import replace

    shape = replace(SMALL, layers=1, hidden=256, mlp=1024, heads=8, head_dim=32, qk_norm=name == "Qwen3")
    measured = saved_bytes(name, 3, autocast, False) - saved_bytes(name, 2, autocast, False)
    assert memory.activations_gib(shape, 2**30, autocast, False) == pytest.approx(measured, rel=0.01)
    with_checkpoints = saved_bytes(name, 3, autocast, True) - saved_bytes(name, 2, autocast, True)
    assert with_checkpoints == 4 * 256
