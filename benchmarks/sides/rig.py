"""What rollouts are measured on: a random model, requests as a step of training makes them, engines and servers with that model."""

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlkit.samplers.vllm_command import BATCHED_TOKENS_CPU, BLOCK_SIZE_CPU, ServerSpec
from rlkit.samplers.vllm_engine import VllmSampler
from rlkit.samplers.vllm_server import FleetOptions, VllmServerSampler
from rlkit.tiny import make_tokenizer
from rlkit.types import Request

from .bare_side import BareVllm

MAX_MODEL_LEN = 512
MAX_NUM_SEQS = 256


@dataclass(frozen=True)
class Load:
    """Requests as a step of training makes them."""

    prompts: int
    group: int
    prompt_tokens: int
    shortest: int
    longest: int
    """Tokens of answers, log-uniform between the two."""

    def requests(self, seed: int = 0) -> list[Request]:
        dice = random.Random(seed)
        span = self.longest / self.shortest
        return [
            Request(
                prompt_id=str(i),
                token_ids=[dice.randrange(10, 60) for _ in range(self.prompt_tokens)],
                n=self.group,
                max_tokens=int(self.shortest * span ** dice.random()),
                temperature=1.0,
                seed=seed + i,
            )
            for i in range(self.prompts)
        ]


def fewer(load: Load) -> Load:
    """Fewer prompts, for what takes long."""
    return replace(load, prompts=load.prompts * 2 // 3)


def tokens_of(requests: Sequence[Request]) -> int:
    return sum(request.n * request.max_tokens for request in requests)


class Rig:
    """Engines and servers with one model: started when first asked for, and ended with the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = ExitStack()
        self._made: dict[str, Any] = {}

    def __enter__(self) -> "Rig":
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.close()

    def engine(self) -> VllmSampler:
        """rlkit's engine in this process."""
        made: VllmSampler = self._once("engine", lambda: engine(self.folder))
        return made

    def bare(self) -> BareVllm:
        made: BareVllm = self._once("bare", lambda: BareVllm(self.folder, bare_settings()))
        return made

    def servers(self, count: int) -> VllmServerSampler:
        made: VllmServerSampler = self._once(f"{count} servers", lambda: servers(self.folder, count))
        return made

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = self._open.enter_context(closing(make()))
        return self._made[name]


def dtype() -> Any:
    return "bfloat16" if torch.cuda.is_available() else "float32"


def make_model(folder: Path, *, small: bool) -> Path:
    """A random Qwen2 with the embedded model's tokenizer."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    hidden, layers = (64, 2) if small else (320, 8)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=max(1, hidden // 64),
        max_position_embeddings=MAX_MODEL_LEN,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def engine(folder: Path) -> VllmSampler:
    """rlkit's engine in this process. stop_ids: none, so that the work is the same on every side."""
    return VllmSampler(
        folder,
        dtype=dtype(),
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        kv_cache_memory=512,
        stop_ids=[],
    )


def bare_settings() -> dict[str, Any]:
    """Sizes and kind of numbers of `engine`, as vllm.LLM is told of them; all else is vLLM's own choice."""
    sizes: dict[str, Any] = {
        "dtype": dtype(),
        "max_model_len": MAX_MODEL_LEN,
        "max_num_seqs": MAX_NUM_SEQS,
        "logprobs_mode": "processed_logprobs",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
    }
    if torch.cuda.is_available():
        return {**sizes, "gpu_memory_utilization": 0.3}
    return {
        **sizes,
        "kv_cache_memory_bytes": 512 << 20,
        "block_size": BLOCK_SIZE_CPU,
        "enforce_eager": True,
        "enable_chunked_prefill": False,  # cut prompts and seeds do not go together on a CPU
        "max_num_batched_tokens": BATCHED_TOKENS_CPU,
    }


def servers(folder: Path, count: int) -> VllmServerSampler:
    spec = ServerSpec(
        model=str(folder),
        dtype=dtype(),
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        kv_cache_memory=512,
        on_gpu=torch.cuda.is_available(),
        gpu_memory_utilization=0.4,
        backend="nccl" if torch.cuda.is_available() else "rlkit",
    )
    gpus = tuple(range(torch.cuda.device_count()))
    return VllmServerSampler.start(folder, spec, count, stop_ids=[], options=FleetOptions(gpus=gpus))
