"""One vLLM server over HTTP: what can be asked of it, and what may go wrong, by name.

Every call has a deadline. A server that does not answer is not asked again by the same call: the fleet decides what becomes of it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal

from rlkit.errors import RolloutError
from rlkit.types import FinishReason, Request, Rollout

from .contract import continuation_seed, make_rollout

if TYPE_CHECKING:
    import httpx

Fault = Literal["gone", "hung", "status", "broken", "stale"]
"""Connection refused or cut; deadline passed; an HTTP status of 500 or more; an answer that breaks the contract; other weights."""

IDLE_SECONDS = 2.0
"""A connection unused for longer is not used again: the server closes it after 5 s, maybe while a request is under way."""
POOLS = 64
"""Of connections."""


class WorkerFault(Exception):
    """A server failed a call; another one may answer it."""

    def __init__(self, fault: Fault, words: str) -> None:
        super().__init__(words)
        self.fault = fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One continuation, and what it cost to read its prompt."""

    rollout: Rollout
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, read from the prefix cache."""


class Connections:
    """HTTP connections to all servers, in many small pools.

    httpx looks at every connection of a pool whenever a request comes or goes. With hundreds of requests under way, one pool
    for all took half of the time that this process spends on them.
    """

    def __init__(self) -> None:
        import httpx

        # trust_env: a proxy for the internet is no way to a server in this room.
        shared: dict[str, Any] = {
            "limits": httpx.Limits(max_connections=None, keepalive_expiry=IDLE_SECONDS),
            "verify": httpx.create_ssl_context(trust_env=False),  # read once: it takes longer than all else
            "timeout": None,
            "trust_env": False,
        }
        self._pools = [httpx.AsyncClient(**shared) for _ in range(POOLS)]
        self._turn = cycle(self._pools)

    @property
    def next(self) -> "httpx.AsyncClient":
        """Whose turn it is."""
        return next(self._turn)

    async def close(self) -> None:
        for pool in self._pools:
            await pool.aclose()


class HttpWorker:
    """The calls of one server. Holds no state of its own."""

    def __init__(self, url: str, key: str, connections: Connections) -> None:
        self.url, self.key, self._connections = url, key, connections

    async def healthy(self, seconds: float) -> bool:
        """Whether it answers at all."""
        import httpx

        try:
            response = await self._connections.next.get(f"{self.url}/health", timeout=seconds)
        except httpx.HTTPError:
            return False
        return response.status_code == 200

    async def post(
        self, path: str, body: object = None, *, seconds: float, params: Mapping[str, str] | None = None
    ) -> Any:
        """The JSON that a path answers with; None when it is empty. Raises WorkerFault, or RolloutError for a refusal (4xx)."""
        return await self._asked("POST", path, body, seconds, params)

    async def get(self, path: str, *, seconds: float) -> Any:
        return await self._asked("GET", path, None, seconds, None)

    async def _asked(
        self, method: str, path: str, body: object, seconds: float, params: Mapping[str, str] | None
    ) -> Any:
        import httpx

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            async with asyncio.timeout(seconds):
                response = await self._connections.next.request(
                    method, f"{self.url}{path}", json=body, params=params, headers=headers, timeout=None
                )
        except TimeoutError as error:
            raise WorkerFault("hung", f"{path} took more than {seconds:g} s") from error
        except httpx.HTTPError as error:
            raise WorkerFault("gone", f"{path}: {type(error).__name__} {error}".strip()) from error
        if response.status_code >= 500:
            raise WorkerFault("status", f"{path}: status {response.status_code}: {response.text[:300]}")
        if response.status_code in (401, 403):
            raise RolloutError(
                f"server {self.url}: status {response.status_code} on {path}: {response.text[:200]}. Its key goes into the "
                "variable RLKIT_SERVER_KEY; `rlkit serve` starts a server as it must be"
            )
        if response.status_code >= 400:
            raise RolloutError(
                f"server {self.url}: status {response.status_code} on {path}: {response.text[:300]}"
            )
        try:
            return response.json() if response.content else None
        except ValueError as error:
            raise WorkerFault("broken", f"{path}: no JSON: {response.text[:100]!r}") from error

    async def generate(
        self,
        request: Request,
        index: int,
        *,
        stop_ids: Sequence[int],
        tag: str,
        version_of: Callable[[str], int | None],
        seconds: float,
    ) -> Answer:
        """Continuation `index` of a request, under the weights called `tag`. Raises WorkerFault.

        version_of: the version that a tag names; None for weights that may not have written it
        The tag salts the prefix cache too, so no prompt is ever continued from other weights' keys and values.
        """
        body = {
            "token_ids": request.token_ids,
            "sampling_params": {
                "temperature": request.temperature,
                "top_p": request.top_p,
                "top_k": request.top_k,
                "min_p": request.min_p,
                "seed": continuation_seed(request.seed, index),
                "max_tokens": request.max_tokens,
                "ignore_eos": True,  # stop_ids say it all
                "stop_token_ids": list(stop_ids),
                "logprobs": 0,  # the drawn token's only
                "detokenize": False,
            },
            "cache_salt": tag,
        }
        said = await self.post("/inference/v1/generate", body, seconds=seconds)
        try:
            return read_answer(request, said, tag, version_of)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise WorkerFault(
                "broken", f"an answer of another shape: {type(error).__name__} {error}"
            ) from error
        except RolloutError as error:
            raise WorkerFault("broken", str(error)) from error


def read_answer(request: Request, said: Any, tag: str, version_of: Callable[[str], int | None]) -> Answer:
    """vLLM's JSON as a rollout. Raises RolloutError when the contract is broken, WorkerFault when other weights wrote it."""
    (choice,) = said["choices"]
    token_ids = choice["token_ids"]
    content = (choice["logprobs"] or {"content": []})["content"] or []
    if [entry["token_id"] for entry in content] != token_ids:
        raise RolloutError(f"{len(content)} log-probs for {len(token_ids)} tokens, or those of other tokens")
    reason: FinishReason = choice["finish_reason"]
    if reason not in ("stop", "length"):
        raise RolloutError(f"ended with {reason!r}; expected 'stop' or 'length'")
    if len(token_ids) > request.max_tokens:
        raise RolloutError(f"{len(token_ids)} tokens, and max_tokens is {request.max_tokens}")
    spans = [(span["start"], span["version"]) for span in choice.get("weight_versions") or []] or [(0, tag)]
    versions = [(start, version) for start, told in spans if (version := version_of(told)) is not None]
    if len(versions) < len(spans):
        raise WorkerFault(
            "stale", f"written by weights {', '.join(told for _, told in spans)}; expected {tag}"
        )
    (_, first), *later = versions
    usage = said.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    rollout = make_rollout(
        request,
        token_ids,
        [float(entry["logprob"]) for entry in content],
        policy_version=first,
        finish_reason=reason,
    )
    start = len(request.token_ids)
    return Answer(
        rollout=replace(rollout, later_versions=tuple((start + at, version) for at, version in later)),
        prompt_tokens=len(request.token_ids),
        cached_tokens=int(details.get("cached_tokens") or 0),
    )


class WeightCalls:
    """vLLM's four calls that replace weights, one after the other, each with a deadline.

    The method names are those of vLLM's own trainer side (`VLLMWeightSyncClient`), so its senders for nccl and ipc drive it too.
    """

    def __init__(self, url: str, key: str, seconds: float) -> None:
        self.url, self._key, self._seconds = url, key, seconds

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._post("init_weight_transfer_engine", {"init_info": init_info})

    def shutdown_weight_transfer_engine(self) -> None:
        self._post("shutdown_weight_transfer_engine")

    def start_weight_update(self) -> None:
        self._post("start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        self._post("update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._post("finish_weight_update", {"weight_version": weight_version} if weight_version else None)

    def update_weight_version(self, version: str) -> None:
        self._post("update_weight_version", {"new_version": version})

    def _post(self, path: str, body: object = None) -> None:
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            response = httpx.post(
                f"{self.url}/{path}", json=body, headers=headers, timeout=self._seconds, trust_env=False
            )
        except httpx.TimeoutException as error:
            raise WorkerFault("hung", f"/{path} took more than {self._seconds:g} s") from error
        except httpx.HTTPError as error:
            raise WorkerFault("gone", f"/{path}: {type(error).__name__} {error}".strip()) from error
        if response.status_code >= 400:
            raise WorkerFault("status", f"/{path}: status {response.status_code}: {response.text[:300]}")
