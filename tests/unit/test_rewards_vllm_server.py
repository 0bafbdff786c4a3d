"""`judge` against vLLM's own OpenAI server on a tiny random model: real requests, and a judge that writes nonsense is an error."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkit.rewards import JudgeVerifier, VerifierPool
from rlkit.types import Prompt
from tests.models import save_tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
START_SECONDS = 300.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("vllm")
    model = save_tiny_model(folder / "model", seed=0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = f"--model {model} --served-model-name tiny --host 127.0.0.1 --port {port} --enforce-eager --dtype float32"
    arguments += " --max-model-len 1024 --max-num-seqs 8 --kv-cache-memory-bytes 67108864 --block-size 32"
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_HOST_IP": "127.0.0.1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments.split()],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_SECONDS
    try:
        while not answers(f"{url}/health"):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[
                -3000:
            ]
            time.sleep(1)
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_a_real_server_is_asked_and_its_nonsense_is_no_grade(server: str, tmp_path: Path) -> None:
    template = tmp_path / "short.txt"
    template.write_text("{question} {reference}\n{word}\n{answer}\n{word}\n{verdict}")
    verify = JudgeVerifier(
        model="tiny", base_url=f"{server}/v1", template=str(template), max_tokens=16, timeout=60.0, retries=0
    )
    asked = [
        (Prompt(id=str(i), token_ids=[1], question="6*7?", reference="42"), f"it is {i}") for i in range(8)
    ]
    with VerifierPool(verify, workers=1, timeout=120.0) as pool:
        scores = pool.score(asked)
    assert all(s.outcome == "error" and "the judge's last line is" in s.reason for s in scores), scores[0]


def test_a_model_that_the_server_does_not_have_is_told(server: str) -> None:
    verify = JudgeVerifier(model="other", base_url=f"{server}/v1", timeout=60.0)
    with VerifierPool(verify, workers=1, timeout=120.0) as pool:
        (score,) = pool.score([(Prompt(id="a", token_ids=[1], question="6*7?", reference="42"), "42")])
    assert score.outcome == "error" and "status 404" in score.reason and "other" in score.reason
