"""The command that starts one vLLM server as rlkit needs it: tokens in, tokens out, weights replaceable, a key on every path.

`rlkit serve`, `--sampler vllm-server` and `--sampler ray` start it; docs/scaling.md has it for those who start their own.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BLOCK_SIZE_CPU = 32
"""Tokens of a cache block. vLLM's default on CPU is 128, and only whole blocks of a prompt are ever reused."""
BATCHED_TOKENS_CPU = 8192
"""Tokens of one forward pass: 256 prompts of 32 at once."""
WORKER_CPU = "rlkit.samplers.vllm_worker.Worker"
"""vLLM imports it by this name; on a GPU vLLM's own."""

Backend = Literal["rlkit", "nccl", "ipc"]
"""Which weight transfer a server is started with: `rlkit` takes files and gloo (vllm_receiver.py), the others are vLLM's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """What all servers of a fleet have in common. It pickles: Ray sends it to other machines."""

    model: str
    """A folder or a hub id, the same on every machine."""
    dtype: Literal["float32", "bfloat16"]
    max_model_len: int
    """Prompt and completion together."""
    on_gpu: bool
    max_num_seqs: int = 256
    kv_cache_memory: int = 256
    """MiB, CPU only."""
    gpu_memory_utilization: float = 0.9
    tensor_parallel: int = 1
    backend: Backend = "rlkit"
    revision: str | None = None
    trust_remote_code: bool = False
    more: tuple[str, ...] = ()
    """Further words for vLLM's command line."""
    environment: Mapping[str, str] = field(default_factory=dict)


def command(spec: ServerSpec, host: str, port: int) -> list[str]:
    """`python -m ...api_server`: `vllm serve` is the same, but its CPU wheel has not that command."""
    words = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", spec.model, "--host", host, "--port", str(port)),
        *("--dtype", spec.dtype, "--max-model-len", str(spec.max_model_len)),
        *("--max-num-seqs", str(spec.max_num_seqs), "--tensor-parallel-size", str(spec.tensor_parallel)),
        "--tokens-only",  # /inference/v1/generate, and no tokenizer
        *("--logprobs-mode", "processed_logprobs"),  # of the distribution that is drawn from
        *("--generation-config", "vllm"),  # no sampling defaults from the model's folder
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",  # how many prompt tokens came from the cache
        *("--weight-transfer-config", json.dumps({"backend": spec.backend})),
        *("--worker-extension-cls", "rlkit.samplers.vllm_plugin.WorkerExtension"),
        *("--middleware", "rlkit.samplers.vllm_guard.Guard"),
        *("--disable-uvicorn-access-log", "--no-enable-log-requests", "--disable-log-stats"),
    ]
    if spec.on_gpu:
        words += ["--gpu-memory-utilization", str(spec.gpu_memory_utilization)]
    else:
        words += [
            *("--kv-cache-memory-bytes", str(spec.kv_cache_memory << 20)),
            *("--block-size", str(BLOCK_SIZE_CPU), "--enforce-eager"),
            # A prompt cut into chunks rewinds its generator, which CPU generators cannot do.
            *("--no-enable-chunked-prefill", "--max-num-batched-tokens"),
            str(max(BATCHED_TOKENS_CPU, spec.max_model_len)),
            *("--worker-cls", WORKER_CPU),
        ]
    if spec.revision is not None:
        words += ["--revision", spec.revision]
    if spec.trust_remote_code:
        words += ["--trust-remote-code"]
    return [*words, *spec.more]


def environment(spec: ServerSpec, host: str, key: str, gpus: str = "") -> dict[str, str]:
    """This process's environment with what a server needs; what the user has set stays.

    host: where it listens, so that its other sockets do not listen elsewhere;  gpus: as CUDA_VISIBLE_DEVICES
    """
    defaults = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # "auto" keeps one core free, which of two is half
        "OMP_WAIT_POLICY": "PASSIVE",  # several servers share the cores: threads that spin would take them from each other
        "VLLM_NO_USAGE_STATS": "1",
    }
    fixed = {
        "VLLM_SERVER_DEV_MODE": "1",  # the routes that replace weights
        "VLLM_API_KEY": key,
        "VLLM_HOST_IP": host,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",  # the learner's process may have switched it off for its own engine
        **({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}),
        # Handles of another process's GPU memory travel pickled; the key says who may send them.
        **({"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"} if spec.backend == "ipc" else {}),
    }
    # torchrun's, which vLLM's own process groups would read as theirs.
    ours = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    }
    return {**defaults, **ours, **spec.environment, **fixed}
