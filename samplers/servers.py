"""Where servers come from: children of this process, or addresses that the user gives."""

import json
import os
import secrets
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rlkit.errors import ConfigError, RolloutError

from .server_process import ServerProcess
from .vllm_command import ServerSpec, command, environment

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, eq=False)
class LocalServer:
    """A server that this process started."""

    url: str
    key: str
    process: ServerProcess
    ours = True

    def alive(self) -> bool:
        return self.process.alive()

    def last_words(self) -> str:
        return self.process.last_words()

    def kill(self) -> None:
        self.process.kill()


@dataclass(frozen=True, slots=True, eq=False)
class GivenServer:
    """A server that somebody else started, and supervises."""

    url: str
    key: str
    ours = False

    def alive(self) -> bool:
        """Nobody can look at its process from here: /health tells."""
        return True

    def last_words(self) -> str:
        return ""

    def kill(self) -> None:
        """It is not ours to end."""


def start_local(
    spec: ServerSpec,
    log: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    key: str | None = None,
    gpus: str = "",
) -> LocalServer:
    """A server on one address of this machine. port: 0 takes a free one;  key: None makes one"""
    port = port or free_port(host)
    key = key or new_key()
    process = ServerProcess(command(spec, host, port), environment(spec, host, key, gpus), log)
    return LocalServer(f"http://{_in_url(host)}:{port}", key, process)


def new_key() -> str:
    return secrets.token_urlsafe(24)


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def gpus_of(number: int, gpus: Sequence[int], tensor_parallel: int) -> str:
    """The GPUs of server `number`, as CUDA_VISIBLE_DEVICES; they go round when there are fewer than servers want.

    >>> gpus_of(1, [0, 1, 2, 3], 2), gpus_of(2, [4, 5], 1), gpus_of(0, [], 1)
    ('2,3', '4', '')
    """
    if not gpus:
        return ""
    start = number * tensor_parallel
    return ",".join(str(gpus[(start + i) % len(gpus)]) for i in range(tensor_parallel))


def log_folder() -> Path:
    """For the servers' words; only this user can read it."""
    return Path(tempfile.mkdtemp(prefix="rlkit-servers-"))


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address, and its key when a file of addresses holds one."""

    url: str
    key: str = ""


def read_addresses(urls: str) -> list[Address]:
    """`http://a:1,http://b:2`, or `@FILE`: a line each, or what `rlkit serve --announce FILE` wrote. Raises ConfigError.

    A file that is not there yet has no addresses: servers may come later.

    >>> [address.url for address in read_addresses("http://127.0.0.1:8000/, http://10.0.0.2:8000")]
    ['http://127.0.0.1:8000', 'http://10.0.0.2:8000']
    """
    if not urls.startswith("@"):
        return [Address(_checked(word)) for word in urls.replace(",", " ").split()]
    try:
        lines = Path(urls[1:]).read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--sampler.urls {urls}: the file cannot be read ({error})") from error
    found: dict[str, Address] = {}
    for line in lines:
        if line.startswith("{"):
            try:
                told = json.loads(line)
                address = Address(_checked(told["url"]), str(told.get("key", "")))
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"--sampler.urls {urls}: {line[:80]!r} is neither an address nor a line of `rlkit serve --announce`"
                ) from error
        elif line.strip() and not line.startswith("#"):
            address = Address(_checked(line.strip()))
        else:
            continue
        found[address.url] = (
            address  # the last word about an address counts: it was started again with another key
        )
    return list(found.values())


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
    except ValueError:
        fine = False
    if not fine:
        raise ConfigError(
            f"--sampler.urls: {url!r} is no server's address; expected http://HOST:PORT, several with commas, or @FILE"
        )
    return url.rstrip("/")


def announce(path: Path, address: Address) -> None:
    """One line for `--sampler.urls @FILE`, which only this user can read: it holds the key."""
    line = json.dumps({"url": address.url, "key": address.key}) + "\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a") as file:
            file.write(line)  # one write: several nodes append to one file
    except OSError as error:
        raise RolloutError(f"--announce {path}: cannot be written ({error.strerror})") from error
