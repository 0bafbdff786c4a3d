"""Fleets of fake servers (tests/fake_server.py) as children of a test: started, found again, made to fail, ended."""

import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from rlkit.samplers.lives import Launch
from rlkit.samplers.server_process import ServerProcess
from rlkit.samplers.servers import LocalServer, free_port
from rlkit.samplers.transfer import FileTransfer
from rlkit.samplers.weights import read_facts
from tests.fake_server import print_of

PATIENCE = 120.0
"""Seconds for anything that is waited for, on a machine that is busy."""
KEY = "a key of the tests"
ROOT = Path(__file__).parents[1]


def weights_print(weights: dict[str, Tensor], folder: Path) -> str:
    """What a fake server calls these weights, by way of a file as the fleet writes it."""
    folder.mkdir()
    transfer = FileTransfer(folder=folder)
    transfer.take(weights, "x")
    (path,) = folder.rglob("*.safetensors")
    found = print_of(str(path))
    transfer.close()
    return found


class Fakes:
    """Starts fake servers as children, as LocalStarter starts real ones, and finds them again."""

    def __init__(self, folder: Path, model: Path, capacity: int, weights: str, **environment: str) -> None:
        self.folder = folder
        self.facts = folder / "facts.json"
        shapes = {name: list(shape) for name, shape in read_facts(model).shapes.items()}
        told = {
            "weights": weights,
            "shapes": shapes,
            "dtype": "float32",
            "max_model_len": 256,
            "max_num_seqs": capacity,
            "logprobs_mode": "processed_logprobs",
            "backend": "rlkit",
            "world_size": 1,
        }
        self.facts.write_text(json.dumps(told))
        self.environment = os.environ | {"VLLM_API_KEY": KEY, "PYTHONPATH": str(ROOT)} | environment
        self.started: list[list[LocalServer]] = []

    def launch(self, number: int) -> Launch:
        while len(self.started) <= number:
            self.started.append([])
        return lambda: self.start(number)

    def start(self, number: int, port: int = 0) -> LocalServer:
        port = port or free_port("127.0.0.1")
        command = [sys.executable, "-m", "tests.fake_server", str(port), str(self.facts)]
        process = ServerProcess(command, self.environment, self.folder / f"{number}.log")
        server = LocalServer(f"http://127.0.0.1:{port}", KEY, process)
        self.started[number].append(server)
        return server

    def now(self, number: int) -> LocalServer:
        return self.started[number][-1]

    def groups(self) -> list[int]:
        return [server.process.pid for servers in self.started for server in servers]

    def close(self) -> None:
        for servers in self.started:
            for server in servers:
                server.kill()


def call(server: LocalServer, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.loads(response.read() or b"null")


def fault(server: LocalServer, kind: str, count: int = 1) -> None:
    call(server, "/fault", {"kind": kind, "count": count})


def child_of(server: LocalServer) -> int:
    """The server's own process, below its keeper."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return int(children[0])


def wait_for(is_so: Callable[[], bool], patience: float = PATIENCE) -> None:
    until = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)
