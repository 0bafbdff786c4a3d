"""A key on every path of a vLLM server. vLLM's own `--api-key` guards /v1 and /inference only, and leaves open what replaces
weights and runs code (/update_weights, /collective_rpc, /pause, ...).

`--middleware rlkit.samplers.vllm_guard.Guard`; the key is in VLLM_API_KEY. Only the standard library.
"""

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN_PATHS = frozenset({"/health"})
"""Says only whether the server lives: schedulers ask for it without a key."""


class Guard:
    """ASGI middleware that refuses to start without a key, and answers 401 to who does not bring it."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        key = os.environ.get("VLLM_API_KEY", "")
        if not key:
            raise ValueError(
                "VLLM_API_KEY is empty: this server could be told to run code by anybody who reaches it"
            )
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN_PATHS):
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            body = b'{"error": "this server wants its key: Authorization: Bearer ..."}'
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": body})
