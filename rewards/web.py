"""One JSON request to another server: deadline, retries, size, where it may go. What `http` and `judge` share.

httpx sends and checks certificates, tenacity retries. Nothing is followed to another address, and a key comes from an
environment variable, so that no config, log or run folder holds it.
"""

import asyncio
import json
import os
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from rlkit.errors import ConfigError, RolloutError

from .contract import shown

MAX_BYTES = 1 << 20
"""Of one response."""
MAX_WAIT = 30.0
"""Seconds between two tries at most, whatever Retry-After asks for."""
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Busy(Exception):
    """A response that asks to come back later: 429, or a fault of the server (5xx)."""

    def __init__(self, status: int, retry_after: str | None) -> None:
        super().__init__(f"status {status}")
        self.seconds: float | None = None
        try:
            self.seconds = max(0.0, float(retry_after)) if retry_after is not None else None
        except ValueError:  # a date: the own pauses will do
            pass


def check_url(url: str, key: str | None, where: str) -> None:
    """Raise ConfigError for an address that must not be asked."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise ConfigError(f"{where} {url!r}: expected http://... or https://...")
    if parts.username or parts.password:
        raise ConfigError(
            f"{where}: a user or password in the address would end up in logs; name a variable with key=..."
        )
    if key is not None:
        if not key.isidentifier():
            raise ConfigError(f"{where}: key is the NAME of an environment variable, never the key itself")
        if parts.scheme == "http" and host not in _LOOPBACK:
            raise ConfigError(f"{where} {url!r}: the key would travel unencrypted; expected https://...")


async def post_json(url: str, payload: object, *, key: str | None, timeout: float, retries: int) -> Any:
    """The JSON that the server answers with. Raises RolloutError that says what came instead.

    key: the environment variable that holds the bearer token;  timeout: seconds for all tries together
    """
    import httpx
    import tenacity

    headers = {"Content-Type": "application/json"}
    secret = os.environ.get(key, "") if key is not None else ""
    if key is not None:
        if not secret:
            raise RolloutError(f"{url}: the environment variable {key}, which holds its key, is not set")
        headers["Authorization"] = f"Bearer {secret}"
    body = json.dumps(payload, default=str).encode()
    pauses = tenacity.wait_random_exponential(multiplier=0.2, max=5.0)

    def pause(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.seconds if isinstance(error, Busy) else None
        return pauses(state) if asked is None else min(asked, MAX_WAIT)

    again = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(retries + 1),
        wait=pause,
        retry=tenacity.retry_if_exception_type((httpx.TransportError, Busy)),
        reraise=True,
    )
    tries = 0
    try:
        async with (
            asyncio.timeout(timeout),
            httpx.AsyncClient(verify=_certificates(), timeout=timeout) as client,
        ):
            async for attempt in again:
                with attempt:
                    tries += 1
                    content = await _post(client, url, body, headers)
    except RolloutError as error:
        if secret and secret in str(error):  # a server that repeats what it was sent
            raise RolloutError(str(error).replace(secret, "...")) from None
        raise
    except TimeoutError as error:
        raise RolloutError(f"{url}: no answer within {timeout:g} s ({_times(tries)})") from error
    except (httpx.TransportError, Busy) as error:
        what = f"{type(error).__name__}: {error}".removesuffix(": ").removeprefix("Busy: ")
        raise RolloutError(f"{url}: {what} ({_times(tries)})") from error
    if secret:  # the same, in an answer: its words are kept as the verdict's reason
        content = content.replace(secret.encode(), b"...")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RolloutError(
            f"{url}: expected JSON, but got {shown(content.decode(errors='replace'))}"
        ) from error


async def _post(client: Any, url: str, body: bytes, headers: dict[str, str]) -> bytes:
    async with client.stream("POST", url, content=body, headers=headers) as response:
        if response.status_code == 429 or response.status_code >= 500:
            raise Busy(response.status_code, response.headers.get("Retry-After"))
        if response.is_redirect:
            target = response.headers.get("Location", "")
            raise RolloutError(
                f"{url}: redirects to {shown(target)}, which is not followed; name that address"
            )
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > MAX_BYTES:
                raise RolloutError(f"{url}: a response of more than {MAX_BYTES:,} bytes")
        if response.status_code != 200:
            said = shown(bytes(content).decode(errors="replace"), 200)
            raise RolloutError(f"{url}: status {response.status_code}, {said}")
        return bytes(content)


def _times(tries: int) -> str:
    return "asked once" if tries == 1 else f"asked {tries} times"


@lru_cache(maxsize=1)
def _certificates() -> Any:
    """Loaded once per process: it takes longer than a request."""
    import httpx

    return httpx.create_ssl_context()
