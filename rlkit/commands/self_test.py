"""The self-test of `rlkit env`: a little of each thing that a run does, on a tiny random model, in some 20 seconds."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from rlkit.errors import RlkitError

VLLM_SECONDS = 120.0
"""For an import that takes ten on a quiet machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of one part.

    >>> Tried(name="verdict", outcome="ok", words="1.0", seconds=0.5).outcome
    'ok'
    """

    name: str
    outcome: Literal["ok", "failed", "left out"]
    words: str
    seconds: float


class LeftOut(Exception):
    """A part that this machine has no means for; not a fault."""


def self_test() -> Iterator[Tried]:
    """Every part, one after another; none of them ends the others."""
    importing = _start_vllm()  # beside the others
    parts: dict[str, Callable[[], str]] = {
        "training step": _training_step,
        "verdict": _verdict,
        "sandbox": _sandboxed_program,
        "vLLM": lambda: _vllm(importing),
    }
    try:
        yield from _each(parts)
    finally:
        if importing is not None:
            importing.kill()
            importing.wait()


def _each(parts: Mapping[str, Callable[[], str]]) -> Iterator[Tried]:
    for name, work in parts.items():
        began = time.perf_counter()
        outcome: Literal["ok", "failed", "left out"] = "ok"
        try:
            words = work()
        except LeftOut as reason:
            outcome, words = "left out", str(reason)
        except RlkitError as error:
            outcome, words = "failed", str(error)
        except Exception as error:  # whatever a broken installation raises is what the report is for
            outcome, words = "failed", f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
        yield Tried(name=name, outcome=outcome, words=words, seconds=time.perf_counter() - began)


def _training_step() -> str:
    """Two answers of a random model of 0.8 million parameters, one better than the other."""
    import torch

    from rlkit.algo_presets import GrpoConfig
    from rlkit.algos.base import Sampling
    from rlkit.build import make_algorithm, quiet_transformers
    from rlkit.config import LearnerConfig
    from rlkit.learner import Learner
    from rlkit.tiny import make_model, make_tokenizer
    from rlkit.types import Credit, Rollout, Segment

    quiet_transformers()
    tokenizer = make_tokenizer()
    algo = GrpoConfig()
    learner = Learner(
        make_model(tokenizer, seed=0),
        LearnerConfig(),
        algo,
        learning_rate=1e-3,
        temperature=1.0,
        num_iterations=1,
        pad_id=0,
    )
    credits = []
    for sign, answer in ((1.0, "42"), (-1.0, "41")):
        prompt, completion = tokenizer.encode("6*7="), tokenizer.encode(answer)
        start, end = len(prompt), len(prompt) + len(completion)
        rollout = Rollout(
            prompt_id="self-test",
            token_ids=[*prompt, *completion],
            logprobs=[0.0] * end,
            segments=[
                Segment(kind="prompt", start=0, end=start),
                Segment(kind="completion", start=start, end=end),
            ],
            policy_version=0,
            finish_reason="stop",
        )
        credits.append(
            Credit(
                rollout=rollout, advantages=[sign] * len(completion), weight=1 / len(completion), share=1.0
            )
        )
    before = learner.logprobs([credits[0].rollout])[0]
    loss = make_algorithm(algo, Sampling(max_completion_length=8, temperature=1.0)).loss
    report = learner.update(learner.minibatches(credits, 1), loss)
    after = learner.logprobs([credits[0].rollout])[0]
    if not (report.updates == 1 and sum(after) > sum(before)):
        raise RlkitError("the better answer has not become likelier")
    return f"on {learner.device}, {torch.get_num_threads()} threads; the better answer became likelier"


def _verdict() -> str:
    """A right and a wrong answer in the pool's own processes."""
    from rlkit.build import make_pool, make_verifier
    from rlkit.config import RewardConfig
    from rlkit.types import Prompt

    cfg = RewardConfig(name="math", workers=1, timeout=30.0)
    prompt = Prompt(id="self-test", token_ids=[], question="6*7=", reference="42", row={})
    with make_pool(cfg, make_verifier(cfg, None)) as pool:
        right, wrong = pool.score([(prompt, "\\boxed{\\frac{84}{2}}"), (prompt, "\\boxed{41}")])
    if (right.value, wrong.value) != (1.0, 0.0):
        raise RlkitError(f"{right} and {wrong}, expected 1 and 0")
    return "math, in a process of its own"


def _sandboxed_program() -> str:
    """A program in bubblewrap that sees no network and no home."""
    from rlkit.errors import ConfigError
    from rlkit.rewards.sandbox import Limits, require_sandbox, run

    try:
        require_sandbox("bwrap")
    except ConfigError as error:
        raise LeftOut(f"--reward code does not work here: {error}") from error
    ran = run(
        "import os; print(6 * 7, os.listdir('/home') if os.path.exists('/home') else [])", b"", Limits()
    )
    if ran.stdout != b"42 []\n":
        raise RlkitError(f"the sandboxed program said {ran.stdout!r}")
    return "a program ran in bubblewrap and saw no home"


def _start_vllm() -> "subprocess.Popen[str] | None":
    """vLLM's import, in a process of its own: it changes what it is imported into. None: not installed."""
    if find_spec("vllm") is None:
        return None
    code = "import vllm; from vllm.platforms import current_platform as p; print(vllm.__version__, p.device_type)"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _vllm(process: "subprocess.Popen[str] | None") -> str:
    if process is None:
        raise LeftOut("not installed; --sampler hf needs none")
    try:
        out, err = process.communicate(timeout=VLLM_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RlkitError(f"import vllm took more than {VLLM_SECONDS:.0f} s") from error
    if process.returncode:
        raise RlkitError(f"import vllm failed: {(err.strip() or 'no words').splitlines()[-1]:.300}")
    return f"imports, {out.strip().splitlines()[-1]}"
