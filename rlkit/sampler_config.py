"""Who writes the rollouts: the settings of `--sampler`, a class of their own because a fleet of servers has many."""

from dataclasses import dataclass
from typing import Literal

from rlkit.errors import ConfigError, require

SamplerName = Literal["auto", "vllm", "vllm-server", "ray", "hf"]
KnownSampler = Literal["vllm", "vllm-server", "ray", "hf"]

KEY_VARIABLE = "RLKIT_SERVER_KEY"
"""Environment variable with the key that a fleet's servers ask for. Never a flag: flags are kept in config.toml."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerConfig:
    """Who writes the rollouts."""

    name: SamplerName = "auto"
    """`vllm`: vLLM in this process; `vllm-server`: a fleet of vLLM servers over HTTP; `ray`: the same servers, placed by Ray; `hf`: transformers, slow and plain; auto: vllm when it is installed, else hf."""
    temperature: float = 1.0
    """Divides the logits, for the sampler and for the learner alike. 0, greedy: evaluation only."""
    top_p: float = 1.0
    """Evaluation only: training refuses anything but 1.0, since the learner has no counterpart."""
    top_k: int = 0
    """Evaluation only: training refuses anything but 0 (no limit)."""
    min_p: float = 0.0
    """Evaluation only: training refuses anything but 0."""
    max_num_seqs: int = 256
    """Sequences written at once, by each server of a fleet."""
    gpu_memory_utilization: float = 0.45
    """Share of the GPU's memory that vLLM takes (GPU only)."""
    kv_cache_memory: int = 256
    """MiB for vLLM's key-value cache (CPU only)."""
    urls: str = ""
    """Servers that run already (`rlkit serve`): http://HOST:PORT,http://... or @FILE, which they are listed in and which is read again for new ones. Empty: this run starts `replicas` of them."""
    replicas: int = 1
    """Servers that this run starts (vllm-server without urls, and ray)."""
    gpus: str = ""
    """GPUs for the servers that this run starts, as 1,2,3; empty: all that it sees. Leave the learner's out."""
    tensor_parallel: int = 1
    """GPUs of one server."""
    transfer: Literal["auto", "file", "gloo", "nccl", "ipc"] = "auto"
    """How new weights reach the servers; auto: nccl between GPUs, a file in memory on one host, gloo across hosts."""
    deadline: float = 600.0
    """Seconds for one answer, and for one server's new weights; then the server counts as hung."""
    start_timeout: float = 600.0
    """Seconds for a server to start, and for one to come back when all are gone; then the run stops."""
    in_flight_updates: bool = False
    """With --async-steps: new weights reach the servers while answers are being written. An answer then goes on under the newer weights, which read what was written once more. Off: the update waits until the last answer is there."""
    restarts: int = 5
    """Times in a row that a server which this run started is started again without having answered in between."""

    def __post_init__(self) -> None:
        # vLLM raises a smaller one to 0.01 with no more than a warning, and the learner would score another distribution.
        heat = self.temperature
        require(heat == 0 or heat >= 0.01, "sampler.temperature", heat, "0 (greedy), or at least 0.01")
        require(0 < self.top_p <= 1, "sampler.top_p", self.top_p, "0 < top_p <= 1")
        require(self.top_k >= 0, "sampler.top_k", self.top_k, "0 (no limit) or more")
        require(0 <= self.min_p <= 1, "sampler.min_p", self.min_p, "0 <= min_p <= 1")
        require(self.max_num_seqs > 0, "sampler.max_num_seqs", self.max_num_seqs, "at least 1")
        share = self.gpu_memory_utilization
        require(0 < share < 1, "sampler.gpu_memory_utilization", share, "a share between 0 and 1")
        room = self.kv_cache_memory
        require(room > 0, "sampler.kv_cache_memory", room, "a positive number of MiB")
        for name in ("replicas", "tensor_parallel"):
            require(getattr(self, name) > 0, f"sampler.{name}", getattr(self, name), "at least 1")
        for name in ("deadline", "start_timeout"):
            require(
                getattr(self, name) > 0,
                f"sampler.{name}",
                getattr(self, name),
                "a positive number of seconds",
            )
        require(self.restarts >= 0, "sampler.restarts", self.restarts, "0 (never) or more")
        words = self.gpus.split(",") if self.gpus else []
        require(
            all(word.strip().isdigit() for word in words), "sampler.gpus", self.gpus, "numbers, as 0,1,2,3"
        )
        require(
            self.name == "vllm-server" or not self.urls,
            "sampler.urls",
            self.urls,
            "none without --sampler vllm-server",
        )
        addresses = [] if self.urls.startswith("@") else self.urls.replace(",", " ").split()
        require(
            all(url.startswith(("http://", "https://")) for url in addresses),
            "sampler.urls",
            self.urls,
            "http://HOST:PORT, several with commas, or @FILE",
        )
        require(
            self.replicas == 1 or self.name in ("vllm-server", "ray"),
            "sampler.replicas",
            self.replicas,
            "1 with a sampler in this process; --sampler vllm-server and ray start several",
        )

        require(
            not self.in_flight_updates or self.name in ("vllm-server", "ray"),
            "sampler.in_flight_updates",
            self.in_flight_updates,
            "off with a sampler in this process; --sampler vllm-server and ray can",
        )

    @property
    def on_these_cores(self) -> bool:
        """Whether it computes with this process's threads: not in processes of its own."""
        return self.name in ("hf", "vllm")

    def require_untruncated(self) -> None:
        """Raise ConfigError for settings that the learner's log-probs cannot follow (training only)."""
        for name, value, neutral in (
            ("top_p", self.top_p, 1.0),
            ("top_k", self.top_k, 0),
            ("min_p", self.min_p, 0.0),
        ):
            if value != neutral:
                raise ConfigError(
                    f"sampler.{name} = {value} in training: the sampler would draw from a truncated distribution while the "
                    f"learner scores the whole one, and every ratio would be biased. Leave it at {neutral} (rlkit eval allows it)"
                )
