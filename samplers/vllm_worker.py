"""The worker that rlkit names to vLLM on a CPU: its own leaner one, or vLLM's where this vLLM has other inside parts.

Imported by vLLM, in the process that runs the model (vllm_command.WORKER_CPU).
"""

import warnings
from typing import Any

Worker: Any
try:
    from . import vllm_cpu

    Worker = vllm_cpu.Worker
except (ImportError, AttributeError) as error:
    from vllm.v1.worker import cpu_worker

    Worker = cpu_worker.CPUWorker
    warnings.warn(
        f"rlkit's quicker worker for a CPU does not fit this vLLM ({type(error).__name__}: {error}); vLLM's own is used: the "
        "answers are the same, and small models write them more slowly",
        stacklevel=1,
    )
