"""vLLM's scheduler, with a short path for the steps that most of a small model's time goes to, and prompts read once.

Such a step writes one more token of each running sequence, and nothing else happens: no sequence joins, none is put off. vLLM asks of
every sequence and token what could be special about it; here that is asked once for a sequence, and a token costs an append.
What is not plain, and whatever begins or ends, is vLLM's own code, called for just these sequences. So blocks, their order and the
prefix cache are vLLM's own, and with them every bit of the answers.

Tokens of the short path are held back and go out with the next output that vLLM's own code makes for the sequence.

vLLM's prefix cache knows full blocks, of 32 tokens at least on a CPU: the answers to one prompt read what is behind its last full block
each for itself. Here one of them reads it; the others wait for a step, begin with a copy of its last block (by vLLM's copy-on-write)
and read no more than the prompt's last token. Log-probs of their first tokens differ from vLLM's own by rounding.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import vllm
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import CachedRequestData, SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler as VllmScheduler
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

WRITTEN_FOR = (0, 32)
if vllm.__version_tuple__[:2] != WRITTEN_FOR:
    raise ImportError(
        f"vllm {vllm.__version__}, and the scheduler is written for {WRITTEN_FOR[0]}.{WRITTEN_FOR[1]}"
    )
LEAST_READ = 8
"""Tokens behind a prompt's last full block that are worth a wait of one step."""


@dataclass(eq=False, slots=True)
class _Sequence:
    """A running sequence of which nothing but its next token is to be asked.

    num_left: tokens until its length ends it;  num_out: tokens that went out
    logprobs, ranks: of the tokens held back, which are those of `request` from `num_out` on
    """

    request: Request
    stop_ids: frozenset[int]
    num_left: int
    num_out: int
    logprobs: list[float]
    ranks: list[int]


class Scheduler(VllmScheduler):  # type: ignore[misc]
    """Named to vLLM as `scheduler_cls`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plain_engine = _is_plain_engine(self)
        self._sequences: dict[str, _Sequence] = {}
        self._readers: dict[Hashable, list[Request]] = {}
        """By prompt: the sequences that have read it, or do so now."""

    # -- before the forward pass -------------------------------------------------------------------------------------------

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """What the next forward pass computes."""
        sequences = self._plain_step()
        if sequences is None:
            return super().schedule(throttle_prefills)
        self.current_step += 1
        cached = CachedRequestData.make_empty()
        last = self.block_size - 1
        for sequence in sequences:
            request = sequence.request
            computed = request.num_computed_tokens
            blocks = None
            if computed % self.block_size in (
                0,
                last,
            ):  # a block begins, or is full and can be found from now on
                blocks = self.kv_cache_manager.allocate_slots(request, 1).get_block_ids(allow_none=True)
            cached.req_ids.append(request.request_id)
            cached.new_block_ids.append(blocks)
            cached.num_computed_tokens.append(computed)
            cached.num_output_tokens.append(request.num_output_tokens)
            request.num_computed_tokens = computed + 1
            request.num_in_flight_tokens += 1
        step = SchedulerOutput.make_empty()
        step.scheduled_cached_reqs = cached
        step.num_scheduled_tokens = dict.fromkeys(cached.req_ids, 1)
        step.total_num_scheduled_tokens = len(cached.req_ids)
        step.finished_req_ids = self.finished_req_ids
        self.finished_req_ids: set[str] = set()  # the worker is told once
        step.new_block_ids_to_zero = self._get_new_block_ids_to_zero()
        return step

    def _plain_step(self) -> list[_Sequence] | None:
        """All running sequences, each of which gets one token; None where something else is to be done."""
        num_running = len(self.running)
        if (
            not self._plain_engine
            or not 0 < num_running <= self.max_num_scheduled_tokens
            or self._pause_state != PauseState.UNPAUSED
            or self.kv_holding_waiting
            or self.reset_preempted_req_ids
            or (self.waiting and num_running < self.max_num_active_reqs)
        ):
            return None
        sequences = []
        num_blocks = 0
        for request in self.running:
            sequence = self._sequences.get(request.request_id)
            if sequence is None or request.num_tokens != request.num_computed_tokens + 1:
                return None
            num_blocks += request.num_computed_tokens % self.block_size == 0
            sequences.append(sequence)
        if num_blocks > self.kv_cache_manager.block_pool.get_num_free_blocks():
            return None  # some sequence is to be put off
        if not self.prev_step_scheduled_req_ids.issuperset(s.request.request_id for s in sequences):
            return None
        return sequences

    # -- prompts read once -------------------------------------------------------------------------------------------------

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        """Whether a sequence may begin in this step. Not while another one reads the same prompt."""
        ready: bool = super()._handle_blocked_waiting_request(request)
        if not ready or not self._reads_rest(request):
            return ready
        readers = self._readers.setdefault(self._prompt(request), [])
        if any(map(self._has_read, readers)):
            return True
        if request not in readers:
            if any(reader.status == RequestStatus.RUNNING for reader in readers):
                return False
            readers.append(request)
        return True

    def _get_local_prefix_cache_hit(self, request: Request) -> tuple[KVCacheBlocks, int, int, bool]:
        """What need not be computed: vLLM's full blocks, or all but the last token of the prompt."""
        if self._reads_rest(request):
            readers = self._readers.get(self._prompt(request), [])
            for reader in filter(self._has_read, readers):
                if request not in readers:
                    readers.append(request)  # may outlive the first
                num_read = request.num_prompt_tokens - 1
                (blocks,) = self.kv_cache_manager.get_blocks(reader.request_id).blocks
                read = blocks[: -(-num_read // self.block_size)]
                return self.kv_cache_manager.create_kv_cache_blocks((read,)), num_read, 0, False
        found: tuple[KVCacheBlocks, int, int, bool] = super()._get_local_prefix_cache_hit(request)
        return found

    def _reads_rest(self, request: Request) -> bool:
        """Whether it has tokens behind its prompt's last full block to read, and a copy of these would do."""
        return (
            self._plain_engine
            and request.status == RequestStatus.WAITING
            and request.num_output_tokens == 0
            and (request.num_prompt_tokens - 1) % self.block_size >= LEAST_READ
            and self.kv_cache_manager.prefix_cache_lookup_enabled(request)
            and request.sampling_params is not None
            and request.sampling_params.prompt_logprobs is None
            and request.cache_salt is None
            and request.prompt_token_ids is not None
            and request.prompt_embeds is None
            and not request.mm_features
            and not request.resumable
        )

    def _prompt(self, request: Request) -> Hashable:
        """The same for the same prompt: its full blocks' hash and the tokens behind them."""
        num_full = (request.num_prompt_tokens - 1) // self.block_size
        before = request.block_hashes[num_full - 1] if num_full else None
        return before, tuple(request.prompt_token_ids[num_full * self.block_size :])

    def _has_read(self, reader: Request) -> bool:
        """Whether the keys and values of all but the last token of its prompt lie in its blocks, from an earlier step."""
        return (
            reader.status == RequestStatus.RUNNING
            and reader.num_output_tokens > 0
            and reader.num_computed_tokens >= reader.num_prompt_tokens - 1
            and reader.request_id in self.prev_step_scheduled_req_ids
        )

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        """Give its blocks back: nobody begins with them any more."""
        if self._plain_engine and request.prompt_token_ids:
            prompt = self._prompt(request)
            readers = self._readers.get(prompt, [])
            if request in readers:
                readers.remove(request)
            if not readers:
                self._readers.pop(prompt, None)
        return super()._free_request(request, *args, **kwargs)

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        """Other weights: nothing that was read is of use any more."""
        self._readers.clear()
        done: bool = super().reset_prefix_cache(*args, **kwargs)
        return done

    # -- after it ----------------------------------------------------------------------------------------------------------

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """What goes out: first and last tokens, and with the last those held back between."""
        if not self._plain_engine or not _is_plain_output(model_runner_output):
            rest = scheduler_output.num_scheduled_tokens
        else:
            rest = self._hold_back(scheduler_output, model_runner_output)
        known = {name: s for name in rest if (s := self._sequences.pop(name, None)) is not None}
        step = replace(scheduler_output, num_scheduled_tokens=rest)
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(step, model_runner_output)
        for of_client in outputs.values():
            for output in of_client.outputs:
                sequence = known.get(output.request_id)
                if sequence is not None and sequence.logprobs:
                    _put_before(output, sequence)
                if output.finish_reason is None and self._plain_engine:
                    request = self.requests[output.request_id]
                    if _is_plain_request(request):
                        self._sequences[output.request_id] = _sequence(request, self.max_model_len)
        return outputs

    def _hold_back(self, step: SchedulerOutput, written: ModelRunnerOutput) -> dict[str, int]:
        """Append the tokens that end nothing. Returns what of `num_scheduled_tokens` is left."""
        rest: dict[str, int] = {}
        logprobs = written.logprobs.logprobs[:, 0].tolist()
        ranks = written.logprobs.sampled_token_ranks.tolist()
        for name, num_tokens in step.num_scheduled_tokens.items():
            sequence = self._sequences.get(name)
            if sequence is not None and num_tokens == 1:
                row = written.req_id_to_index[name]
                (token,) = written.sampled_token_ids[row]
                if sequence.num_left > 1 and token not in sequence.stop_ids:
                    sequence.num_left -= 1
                    sequence.logprobs.append(logprobs[row])
                    sequence.ranks.append(ranks[row])
                    sequence.request.num_in_flight_tokens -= 1
                    sequence.request.append_output_token_ids(token)
                    continue
            rest[name] = num_tokens
        return rest

    def finish_requests(self, request_ids: Any, finished_status: RequestStatus) -> list[Request]:
        """Give up sequences, with what is held back of them."""
        given_up: list[Request] = super().finish_requests(request_ids, finished_status)
        for request in given_up:
            self._sequences.pop(request.request_id, None)
        return given_up


def _is_plain_engine(scheduler: VllmScheduler) -> bool:
    """One kind of attention over all tokens, one token a step, nobody else who wants to know of blocks and steps."""
    managers = scheduler.kv_cache_manager.coordinator.single_type_managers
    config = scheduler.vllm_config
    return (
        [type(manager) for manager in managers] == [FullAttentionManager]
        and managers[0].block_size == scheduler.block_size
        and scheduler.dcp_world_size == scheduler.pcp_world_size == 1
        and config.speculative_config is None
        and config.lora_config is None
        and not config.scheduler_config.async_scheduling
        and config.parallel_config.data_parallel_size == 1
        and scheduler.num_sampled_tokens_per_step == 1
        and scheduler.num_lookahead_tokens == 0
        and scheduler.max_num_encoder_input_tokens == 0
        and scheduler.connector is None
        and scheduler.ec_connector is None
        and scheduler.aux_output_connector is None
        and scheduler.finished_req_ids_dict is None
        and not scheduler.use_pp
        and not scheduler.use_v2_model_runner
        and not scheduler.defer_block_free
        and not scheduler.enable_kv_cache_events
        and not scheduler.return_sampling_mask
        and not scheduler.log_stats
    )


def _is_plain_output(written: ModelRunnerOutput) -> bool:
    return (
        written.logprobs is not None
        and written.logprobs.cu_num_generated_tokens is None
        and not written.prompt_logprobs_dict
        and not written.num_nans_in_logits
    )


def _is_plain_request(request: Request) -> bool:
    """Nothing but tokens until a stop token or the length, and the log-prob of each."""
    params = request.sampling_params
    return (
        request.status == RequestStatus.RUNNING
        and params is not None
        and params.num_logprobs == 0
        and params.repetition_detection is None
        and not request.use_structured_output
        and not request.has_encoder_inputs
        and not request.resumable
        and request.num_output_placeholders == 0
        and request.num_stale_output_tokens == 0
    )


def _sequence(request: Request, max_model_len: int) -> _Sequence:
    params = request.sampling_params
    return _Sequence(
        request=request,
        stop_ids=frozenset([params.eos_token_id, *(params.stop_token_ids or ())]),
        num_left=min(request.max_tokens - request.num_output_tokens, max_model_len - request.num_tokens),
        num_out=request.num_output_tokens,
        logprobs=[],
        ranks=[],
    )


def _put_before(output: EngineCoreOutput, sequence: _Sequence) -> None:
    """Give an output the tokens held back."""
    tokens = list(sequence.request.output_token_ids[sequence.num_out :])
    newest = output.new_logprobs
    output.new_token_ids = tokens
    output.new_logprobs = LogprobsLists(
        np.array(tokens).reshape(-1, 1),
        np.concatenate([np.array(sequence.logprobs, newest.logprobs.dtype).reshape(-1, 1), newest.logprobs]),
        np.concatenate(
            [np.array(sequence.ranks, newest.sampled_token_ranks.dtype), newest.sampled_token_ranks]
        ),
    )
