"""What rlkit adds to the processes of a vLLM server: a receiver of weights on any device, and questions that a fleet asks.

Loaded through vLLM's plug-in entry point (`vllm.general_plugins`, pyproject.toml), and by `--worker-extension-cls`, which
also works from a source tree that is not installed. It may be loaded several times.
"""

import os
from pathlib import Path
from typing import Any

from .vllm_engine import compile_nothing
from .weights import read_facts


def register() -> None:
    """Make `--weight-transfer-config '{"backend": "rlkit"}'` known."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    if "rlkit" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("rlkit", "rlkit.samplers.vllm_receiver", "Receiver")


register()


class WorkerExtension:
    """Methods of vLLM's worker, called over /collective_rpc. vLLM mixes it in."""

    model_config: Any
    vllm_config: Any
    weight_transfer_engine: Any
    _weight_update_active: bool

    def rlkit_facts(self, probe: str = "") -> dict[str, Any]:
        """What the learner's side checks before it trusts this worker with a request or a weight.

        probe: a file that only exists on the learner's own host
        """
        import torch

        if not torch.cuda.is_available():
            compile_nothing()
        model, scheduler = self.model_config, self.vllm_config.scheduler_config
        facts = read_facts(model.model, revision=model.revision, trust_remote_code=model.trust_remote_code)
        transfer = self.vllm_config.weight_transfer_config
        return {
            "shapes": {name: list(shape) for name, shape in facts.shapes.items()},
            "dtype": str(model.dtype).removeprefix("torch."),
            "max_model_len": model.max_model_len,
            "max_num_seqs": scheduler.max_num_seqs,
            "logprobs_mode": model.logprobs_mode,
            "backend": None if transfer is None else transfer.backend,
            "world_size": self.vllm_config.parallel_config.world_size,
            "half_updated": getattr(self.weight_transfer_engine, "half_updated", self._weight_update_active),
            "sees_probe": bool(probe) and Path(probe).exists(),
        }

    def rlkit_end(self) -> None:
        """End this server, whose weights are half replaced: no second update repairs it. Whoever started it starts it again."""
        os._exit(1)
