"""vLLM as a sampler, in this process: weights go from the learner to the engine by reference, without files or sockets.

The engine is a guest in the learner's process and a rude one: it seeds every global generator, replaces
`torch.set_num_threads`, sets LD_PRELOAD for all children, and prints. `_guest` undoes what it can.
"""

import gc
import os
import random
import re
import sys
import tempfile
import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from rlkit.errors import ModelError, RolloutError
from rlkit.talks import Talk
from rlkit.types import FinishReason, Request, Rollout

from .contract import check_requests, continuation_seed, make_rollout
from .vllm_command import BATCHED_TOKENS_CPU, BLOCK_SIZE_CPU, WORKER_CPU
from .vllm_queue import EngineQueue, NotTheEngine, Prefill
from .weights import fitting_weights, read_facts

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams

Dtype = Literal["auto", "float32", "bfloat16"]
T = TypeVar("T")

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engine and worker in this process
    "VLLM_HOST_IP": "127.0.0.1",  # else its sockets listen on the machine's own address
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # "auto" keeps one core free, which of two is half
    "VLLM_NO_USAGE_STATS": "1",
}
"""Set before vLLM is imported, unless the user has set them."""

NOISE = re.compile(r"NUMA binding: Using MEMBIND|Triton not available")
"""What start-up says on stderr past every logger, and nobody can act on."""


class VllmSampler:
    """One vLLM engine. It always scores the distribution it draws from (`processed_logprobs`).

    The same requests give the same tokens. A request gives the same tokens in another batch too, unless the batch moves
    its logits across a near tie (a change of about 1e-6 in float32).

    On a GPU, `rest()` frees its memory for the learner until the next `load()` (sleep level 2); the GPU branches
    follow vLLM 0.32's interface and have not been run on a GPU.
    """

    _num_open = 0
    """Engines of this process: they share torch's process group."""

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: Dtype = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        kv_cache_memory: int = 256,
        gpu_memory_utilization: float = 0.45,
        stop_ids: Sequence[int] | None = None,
        version: int = 0,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """model: a folder or hub id;  dtype: auto is bfloat16 on a GPU and float32 on a CPU
        max_model_len: prompt and completion together; None takes the model's own limit
        max_num_seqs: sequences written at once
        kv_cache_memory: MiB for the key-value cache, CPU only
        gpu_memory_utilization: share of the GPU's memory for weights and cache, GPU only
        stop_ids: tokens that end an answer; None reads them from generation config and tokenizer
        version: the policy version of the weights in `model`
        """
        self._engine: LLM | None = None
        self._shut_down: weakref.finalize[[LLM, bool], VllmSampler] | None = None  # None: nothing was started
        self._facts = read_facts(model, revision=revision, trust_remote_code=trust_remote_code)
        self._stop_ids = list(self._facts.stop_ids if stop_ids is None else stop_ids)
        self._max_model_len = max_model_len or self._facts.max_model_len
        self._version = version
        self._on_gpu = torch.cuda.is_available()
        self._asleep = False
        self._halted, self._prefill = threading.Event(), Prefill()
        self._learner_is_distributed = VllmSampler._num_open == 0 and torch.distributed.is_initialized()
        if dtype == "auto":
            dtype = "bfloat16" if self._on_gpu else "float32"
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        place: dict[str, Any]
        if self._on_gpu:
            place = {"gpu_memory_utilization": gpu_memory_utilization, "enable_sleep_mode": True}
        else:
            place = {
                "kv_cache_memory_bytes": kv_cache_memory << 20,
                "block_size": BLOCK_SIZE_CPU,
                "enforce_eager": True,
                # A prompt cut into chunks rewinds its generator, which CPU generators cannot do.
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(BATCHED_TOKENS_CPU, self._max_model_len),
            }
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            # An engine for each rank, on the rank's own GPU (vLLM's other executors take the first one).
            place["distributed_executor_backend"] = "external_launcher"
        with _guest(), _quiet_start(), _start_failures(model), _without_unreadable_modules():
            import vllm

            if not self._on_gpu:
                compile_nothing()
                place["worker_cls"] = WORKER_CPU
                place |= _scheduler()
            self._engine = vllm.LLM(
                model=str(model),
                revision=revision,
                trust_remote_code=trust_remote_code,
                dtype=dtype,
                max_model_len=self._max_model_len,
                max_num_seqs=max_num_seqs,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",
                skip_tokenizer_init=True,  # token ids in, token ids out
                generation_config="vllm",  # no sampling defaults from the model's folder
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **place,
            )
        self._shut_down = weakref.finalize(self, _shut_down, self._engine, self._learner_is_distributed)
        VllmSampler._num_open += 1
        self._unusable: str | None = None  # why the engine can no longer be trusted

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """`n` rollouts for each request, in order. Raises RolloutError for a request that does not fit the model."""
        self._check(requests)
        (written,) = self.follow([_all(requests)])
        return written

    def follow(self, talks: Sequence[Talk[T]]) -> list[T]:
        """What each talk returns; a prompt goes on as soon as its own answers are there (rlkit/talks.py)."""
        engine = self._ready()
        if self._asleep:
            raise RolloutError("the sampler rests and has no weights; load() some before the next sample()")
        queue = EngineQueue(engine, self._sampling_params, self._rollout, self._halted, self._prefill)
        failure: Exception | None = None
        written: list[T] = []
        with self._critical("generation failed"), _guest(), _no_garbage_collection():
            try:
                written = queue.follow(talks, self._check)
            except NotTheEngine as other:
                failure = other.error
        if failure is not None:
            raise failure
        return written

    def _check(self, requests: Sequence[Request]) -> None:
        check_requests(requests, self._max_model_len, self._facts.vocab_size)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Replace the weights and forget every cached prompt.

        Raises RolloutError before anything is sent when names or shapes do not fit, and the old weights stay. A
        failure later leaves layers half built; then the engine is lost, and every later call says so.
        """
        engine = self._ready()
        full = fitting_weights(weights, self._facts)
        with self._critical("new weights arrived only in part"), _guest():
            if self._asleep:
                engine.wake_up(tags=["weights"])
            engine.collective_rpc("reload_weights", kwargs={"weights_iterator": list(full.items())})
            if self._asleep:
                engine.wake_up(tags=["kv_cache"])
            # Keys and values of the old weights: a prompt of a block or more would be continued from them.
            if not engine.reset_prefix_cache():
                raise RolloutError(
                    "vLLM did not reset its prefix cache, so prompts would be continued from old weights"
                )
        self._asleep = False
        self._version = version
        self._halted.clear()

    def rest(self) -> None:
        """Give the GPU's memory back, weights and cache, until the next `load()`. On a CPU nothing happens."""
        if self._on_gpu and not self._asleep:
            self._ready().sleep(level=2)
            self._asleep = True

    def forget(self) -> None:
        """Forget every cached prompt: computed again beside other requests, its logits differ in their last bits."""
        engine = self._ready()
        with self._critical("its prefix cache was being reset"), _guest():
            if not engine.reset_prefix_cache():
                raise RolloutError("vLLM did not reset its prefix cache")

    def halt(self) -> None:
        """What is being written ends at its next token, and its `sample` raises RolloutError."""
        self._halted.set()

    def metrics(self) -> Mapping[str, float]:
        """Prompt tokens asked for, and those that the prefix cache had."""
        return self._prefill.told()

    def close(self) -> None:
        """Free the engine; another one may be started in this process, before or after."""
        self._engine = None
        if self._shut_down is not None:
            self._shut_down()
        gc.collect()  # the engine is full of cycles

    def _ready(self) -> "LLM":
        if self._engine is None:
            raise RolloutError("this sampler was closed; make a new one")
        if self._unusable is not None:
            raise RolloutError(
                f"the vLLM engine is lost since {self._unusable}; close() this sampler, make a new one and load the weights again"
            )
        return self._engine

    @contextmanager
    def _critical(self, what: str) -> Iterator[None]:
        """Mark the engine lost if anything at all goes wrong inside, an interrupt included."""
        self._unusable = what
        try:
            yield
        except Exception as error:
            self._unusable = f"{what} ({type(error).__name__}: {error})"
            raise RolloutError(
                f"{what}: {type(error).__name__}: {error}. The vLLM engine is lost: close() this sampler, make a new one "
                "and load the weights again"
            ) from error
        self._unusable = None

    def _sampling_params(self, request: Request, index: int) -> "SamplingParams":
        from vllm import SamplingParams

        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            seed=continuation_seed(request.seed, index),
            max_tokens=request.max_tokens,
            ignore_eos=True,  # stop_ids say it all
            stop_token_ids=self._stop_ids,
            logprobs=0,  # the drawn token's only
            detokenize=False,
            skip_clone=True,  # made for this request alone: vLLM need not copy it first
        )

    def _rollout(
        self, request: Request, token_ids: list[int], logprobs: list[float], finish_reason: str
    ) -> Rollout:
        if finish_reason not in ("stop", "length"):
            raise RolloutError(
                f"rollout of prompt {request.prompt_id!r}: vLLM ended it with {finish_reason!r}; expected 'stop' or 'length'"
            )
        return make_rollout(
            request,
            token_ids,
            logprobs,
            policy_version=self._version,
            finish_reason=cast(FinishReason, finish_reason),
        )


def _all(requests: Sequence[Request]) -> Talk[list[list[Rollout]]]:
    """Everything in one question."""
    return (yield requests)


def _shut_down(engine: "LLM", learner_is_distributed: bool) -> None:
    """End an engine, and torch's process group with the last one, unless the learner had one before."""
    VllmSampler._num_open -= 1
    if VllmSampler._num_open > 0 or learner_is_distributed:
        # The core's own shutdown, which also runs when it is collected, ends the process group whoever made it.
        engine.llm_engine.engine_core._finalizer.detach()
        engine.llm_engine.model_executor.shutdown()
    else:
        engine.llm_engine.engine_core.shutdown()
    gc.unfreeze()  # vLLM froze what it allocated at its start


def compile_nothing() -> None:
    """Let vLLM's CPU sampler count ranks without torch.compile, which needs a C++ compiler on the user's machine."""
    from vllm.v1.sample import sampler

    def count_at_least(logprobs_BV: Tensor, drawn_B1: Tensor) -> Tensor:
        return (logprobs_BV >= drawn_B1).sum(-1)

    sampler.batched_count_greater_than = count_at_least


def _scheduler() -> dict[str, str]:
    """rlkit's own scheduler, or none where this vLLM is not the one that it was written for."""
    try:
        from .vllm_scheduler import Scheduler
    except (ImportError, AttributeError) as error:
        warnings.warn(
            f"rlkit's quicker scheduler does not fit this vLLM ({type(error).__name__}: {error}); vLLM's own is used: the answers "
            "are the same, and small models write them more slowly",
            stacklevel=3,
        )
        return {}
    return {"scheduler_cls": f"{Scheduler.__module__}.{Scheduler.__name__}"}


@contextmanager
def _start_failures(model: str | Path) -> Iterator[None]:
    """vLLM refuses a start for dozens of reasons, each with its own exception and a usable sentence."""
    try:
        yield
    except Exception as error:
        raise ModelError(f"vLLM did not start with {model}: {type(error).__name__}: {error}") from error


@contextmanager
def _guest() -> Iterator[None]:
    """Undo what vLLM does to the learner's process: global generators, thread setter, preloaded libraries."""
    python, numpy, set_num_threads = random.getstate(), np.random.get_state(), torch.set_num_threads
    preload = os.environ.get("LD_PRELOAD")
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_num_threads = set_num_threads
            if preload is None:
                os.environ.pop("LD_PRELOAD", None)
            else:
                os.environ["LD_PRELOAD"] = preload


@contextmanager
def _without_unreadable_modules() -> Iterator[None]:
    """vLLM looks at every value of every module when it starts on a CPU, and some do not let themselves be looked at: flask's
    proxies (Dash and mlflow import it) raise RuntimeError outside of a web request. Their modules are out of its sight until it runs.
    """
    hidden = {name: module for name, module in list(sys.modules.items()) if _unreadable(module)}
    for name in hidden:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.modules.update(hidden)


def _unreadable(module: ModuleType) -> bool:
    for value in list((getattr(module, "__dict__", None) or {}).values()):
        try:
            hasattr(value, "__dict__")
        except Exception:  # whatever it raises, vLLM would not expect it
            return True
    return False


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Thousands of small objects per step are all still needed; walking them costs a tenth of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Hold stderr back while vLLM starts, then show it without `NOISE`; whole when the start fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    lines_to_drop: re.Pattern[str] | None = None
    with tempfile.TemporaryFile() as held, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        os.dup2(held.fileno(), 2)
        try:
            yield
            lines_to_drop = NOISE
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if lines_to_drop is None or not lines_to_drop.search(line):
                    print(line, file=sys.stderr)
