"""vLLM as it comes, in a process of its own: what rlkit gives its engine on a CPU (worker, scheduler, kernels) would reach any other
engine in the same process."""

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rlkit.types import Request


class BareVllm:
    """`vllm.LLM` with the model, sizes and threads of the rig's engine, and nothing of rlkit's inside."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """settings: of `vllm.LLM`"""
        context = multiprocessing.get_context("spawn")
        self._line, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, folder, settings), daemon=True)
        self._process.start()
        far.close()
        self._answer()

    def generate(self, requests: Sequence[Request]) -> int:
        """All continuations; returns the number of tokens written."""
        self._line.send(requests)
        return self._answer()

    def close(self) -> None:
        self._line.close()
        self._process.join(60)

    def _answer(self) -> int:
        try:
            written: int = self._line.recv()
        except EOFError:
            raise SystemExit("vLLM ended in its own process; its words are above") from None
        return written


def _serve(line: Connection, folder: Path, settings: dict[str, Any]) -> None:
    from rlkit.samplers.contract import continuation_seed
    from rlkit.samplers.vllm_engine import ENVIRONMENT, compile_nothing

    os.environ |= ENVIRONMENT
    import vllm

    compile_nothing()  # it would want a C++ compiler
    llm = vllm.LLM(model=str(folder), **settings)
    line.send(0)
    while True:
        try:
            requests: Sequence[Request] = line.recv()
        except EOFError:
            return
        rows = [(request, i) for request in requests for i in range(request.n)]
        outputs = llm.generate(
            [vllm.TokensPrompt(prompt_token_ids=request.token_ids) for request, _ in rows],
            [
                vllm.SamplingParams(
                    temperature=request.temperature,
                    seed=continuation_seed(request.seed, i),
                    max_tokens=request.max_tokens,
                    ignore_eos=True,
                    logprobs=0,
                    detokenize=False,
                )
                for request, i in rows
            ],
            use_tqdm=False,
        )
        line.send(sum(len(output.outputs[0].token_ids) for output in outputs))
