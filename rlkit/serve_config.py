"""The settings of `rlkit serve`."""

from dataclasses import dataclass, field
from typing import Literal

from rlkit.config import ModelConfig
from rlkit.errors import ConfigError, require
from rlkit.sampler_config import KEY_VARIABLE

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ALL_INTERFACES = ("0.0.0.0", "::", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Start vLLM servers that `rlkit train --sampler vllm-server --sampler.urls ...` uses, and start again those that end."""

    model: ModelConfig = field(default_factory=ModelConfig)
    replicas: int = 1
    """How many servers."""
    host: str = "127.0.0.1"
    """Address they listen on: loopback, or this machine's address on a private network; that one needs a key in RLKIT_SERVER_KEY."""
    port: int = 8000
    """Of the first server; the others follow. 0: free ones."""
    gpus: str = ""
    """GPUs for them, as 0,1,2,3; empty: all that are seen."""
    tensor_parallel: int = 1
    """GPUs of one server."""
    transfer: Literal["auto", "file", "gloo", "nccl", "ipc"] = "auto"
    """How the learner will send weights; auto: nccl on GPUs, else a file or gloo, as the learner sees fit."""
    announce: str | None = None
    """A file that gets a line for each server (address and key); learners read it as @FILE, and several machines may share one."""
    max_model_len: int | None = None
    """Tokens of prompt and completion; none: the model's own limit."""
    max_num_seqs: int = 256
    """Sequences that one server writes at once."""
    gpu_memory_utilization: float = 0.9
    """Share of a GPU's memory (GPU only)."""
    kv_cache_memory: int = 256
    """MiB for the key-value cache of one server (CPU only)."""
    restarts: int = 5
    """Times in a row that a server is started again before all are ended."""

    def __post_init__(self) -> None:
        for name in ("replicas", "tensor_parallel", "max_num_seqs", "kv_cache_memory"):
            require(getattr(self, name) > 0, name, getattr(self, name), "at least 1")
        require(0 <= self.port < 65536, "port", self.port, "a port, or 0 for a free one")
        require(self.restarts >= 0, "restarts", self.restarts, "0 (never) or more")
        length = self.max_model_len
        require(length is None or length > 1, "max_model_len", length, "at least 2 tokens")
        share = self.gpu_memory_utilization
        require(0 < share < 1, "gpu_memory_utilization", share, "a share between 0 and 1")
        words = self.gpus.split(",") if self.gpus else []
        require(all(word.strip().isdigit() for word in words), "gpus", self.gpus, "numbers, as 0,1,2,3")
        if self.host in ALL_INTERFACES:
            raise ConfigError(
                f"host = {self.host!r}: the servers would listen on every network of this machine, and who reaches them can have them "
                "run code; name one private address"
            )

    def key(self, environment_key: str | None) -> str | None:
        """The servers' key; None: one may be made up. Raises ConfigError where the learner on another machine could not know it.

        >>> ServeConfig().key(None) is None, ServeConfig().key("secret")
        (True, 'secret')
        """
        if environment_key:
            return environment_key
        if self.host not in LOOPBACK and self.announce is None:
            raise ConfigError(
                f"host = {self.host!r}: servers on a network need a key that the learner knows; set {KEY_VARIABLE} here and there "
                '(python -c "import secrets; print(secrets.token_urlsafe(24))" makes one), or share a file with --announce'
            )
        return None
