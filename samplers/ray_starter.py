"""Servers placed by Ray: an actor on some node of the cluster starts one there, watches it, and ends it.

Ray decides where (CPUs, GPUs) and says when a node is gone; requests and weights go straight to the servers, as with
`vllm-server`. The cluster is the one that RAY_ADDRESS names, else a local one that lives as long as this process.
"""

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import RayError

from rlkit.errors import RolloutError

from .lives import Launch
from .servers import LocalServer, log_folder, new_key, start_local
from .vllm_command import ServerSpec

END_SECONDS = 15.0
"""For an actor to end its server; then Ray ends the actor, and the server's keeper the server."""
ANSWER_SECONDS = 10.0
POLL_SECONDS = 0.5


Start = Callable[[ServerSpec, Path, str, str], LocalServer]
"""Starts one server: what, its log, the address it listens on, its key."""


def start_vllm(spec: ServerSpec, log: Path, host: str, key: str) -> LocalServer:
    """On the GPUs that Ray gave the actor (its CUDA_VISIBLE_DEVICES)."""
    return start_local(spec, log, host=host, key=key)


class Keeper:
    """Runs inside an actor: one server as a child of the actor's process."""

    def __init__(self, start: Start, spec: ServerSpec, key: str, driver: str) -> None:
        """driver: the learner's address; a server on the same machine listens on loopback, one elsewhere on its node's address"""
        mine = ray.util.get_node_ip_address()
        self._logs = log_folder()
        host = "127.0.0.1" if mine == driver else mine
        self._server: LocalServer = start(spec, self._logs / "server.log", host, key)

    def url(self) -> str:
        return self._server.url

    def wait(self) -> None:
        """Until the server's process has ended."""
        while self._server.alive():
            time.sleep(POLL_SECONDS)

    def last_words(self) -> str:
        return self._server.last_words()

    def end(self) -> None:
        self._server.kill()
        shutil.rmtree(self._logs, ignore_errors=True)


@dataclass(frozen=True, slots=True, eq=False)
class RayServer:
    """A server in an actor."""

    url: str
    key: str
    actor: Any
    ended: Any
    """Ray's reference to the end of the server, or of its actor or node."""
    ours = True

    def alive(self) -> bool:
        done, _ = ray.wait([self.ended], timeout=0)
        return not done

    def last_words(self) -> str:
        try:
            words: str = ray.get(self.actor.last_words.remote(), timeout=END_SECONDS)
        except (RayError, TimeoutError) as error:
            return f"its actor is gone ({type(error).__name__})"
        return words

    def kill(self) -> None:
        try:
            ray.get(self.actor.end.remote(), timeout=END_SECONDS)
        except (RayError, TimeoutError):
            pass  # its node is gone, and everything on it
        ray.kill(self.actor)


class RayStarter:
    """Starts servers as actors; the cluster is left when the sampler closes."""

    def __init__(
        self, spec: ServerSpec, replicas: int, *, start_timeout: float = 600.0, start: Start = start_vllm
    ) -> None:
        """start_timeout: seconds for Ray to find a node with room"""
        self._spec, self._start_server, self._seconds = spec, start, start_timeout
        self._joined = not ray.is_initialized()
        if self._joined:
            address = os.environ.get("RAY_ADDRESS")
            try:
                with _sigterm_stays():
                    if address is None:
                        _start_cluster(max(replicas, os.cpu_count() or 1))
                    else:
                        _require_answer(address)
                        ray.init(address=address, log_to_driver=False, logging_level="warning")
            except (RayError, OSError, RuntimeError, ValueError) as error:
                raise RolloutError(
                    f"--sampler ray: no cluster at RAY_ADDRESS = {address!r} ({type(error).__name__}: {error}); start one with "
                    "`ray start --head`, or unset it for a local one"
                ) from error
        self._driver = ray.util.get_node_ip_address()
        gpus = spec.tensor_parallel if spec.on_gpu else 0
        self._actor = ray.remote(Keeper).options(
            num_cpus=1, num_gpus=gpus, max_restarts=0, max_concurrency=4, scheduling_strategy="SPREAD"
        )

    def launch(self, number: int) -> Launch:
        return self._start

    def close(self) -> None:
        if self._joined:
            ray.shutdown()

    def _start(self) -> RayServer:
        """Waits for a node with room. Raises RuntimeError when the actor cannot be made."""
        key = new_key()
        actor = self._actor.remote(self._start_server, self._spec, key, self._driver)
        try:
            url = ray.get(actor.url.remote(), timeout=self._seconds)
        except (RayError, TimeoutError) as error:
            ray.kill(actor)  # it would come later, and nobody would know of it
            words = str(error).strip().splitlines()
            raise RuntimeError(
                f"Ray started no server ({type(error).__name__}: {words[-1] if words else 'no words'}); has the cluster "
                "a CPU, and the GPUs, for it?"
            ) from error
        return RayServer(url, key, actor, actor.wait.remote())


@contextmanager
def _sigterm_stays() -> Iterator[None]:
    """`ray.init` takes SIGTERM for itself, twice: Python's handler, and one in C++ that ends this process at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _start_cluster(num_cpus: int) -> None:
    """A cluster of this process alone, on loopback. On Linux Ray would listen on all interfaces, and whoever reaches it may run code.

    What keeps it on loopback is the switch by which Ray does so on other systems: in this process it was read at the import, and
    Ray's own processes read the variable.
    """
    name: str = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, was_set = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(name)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",  # it warns that a cluster without tokens is open to the network
        )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(name)
        if was_set is not None:
            os.environ[name] = was_set


def _require_answer(address: str) -> None:
    """Raise OSError when nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
