"""A process that speaks the protocol of a vLLM server, starts in a moment and has every fault on demand.

    python -m tests.fake_server PORT FACTS.json

It has no model: token t of an answer is a hash of (weights, prompt, seed, t), so a test can tell which weights wrote it, and
that a retried request came back with the same tokens. POST /fault {"kind": KIND, "count": N} makes the next N calls that it
concerns go wrong: status (500), short (a log-prob too few), slow (30 s), die (the process ends in the middle of a generate),
die_in_update, fail_update (half replaced, as vLLM leaves it), stale (the weights' name does not change). GET /told tells what was asked.
"""

import hashlib
import json
import os
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def token(weights: str, prompt: list[int], seed: int, place: int) -> int:
    """The token at a place of an answer; never a stop token of the tests' models (1 and 9)."""
    said = f"{weights}/{prompt}/{seed}/{place}".encode()
    return 10 + int.from_bytes(hashlib.blake2b(said, digest_size=4).digest(), "big") % 240


def logprob(token_id: int) -> float:
    return -0.001 * token_id


def print_of(path: str) -> str:
    """Weights in a file, as a hash of all their numbers."""
    from safetensors.numpy import load_file

    tensors = load_file(path)
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].astype("float32").tobytes())
    return digest.hexdigest()


class State:
    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.weights, self.version = facts["weights"], "default"
        self.half_updated, self.paused, self.updating = False, False, False
        self.faults: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.answered: list[list[int]] = []
        self.lock = threading.Lock()

    def fault(self, kind: str) -> bool:
        if os.environ.get("FAKE_ALWAYS") == kind:
            return True
        with self.lock:
            due = self.faults[kind] > 0
            self.faults[kind] -= due
            return due


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/health":
            self.say(200, None)
        elif path == "/told":
            state = self.state
            self.say(
                200,
                {
                    "calls": dict(state.calls),
                    "weights": state.weights,
                    "version": state.version,
                    "answered": state.answered,
                    "paused": state.paused,
                },
            )
        else:
            self.say(404, None)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")
        path = urlsplit(self.path).path
        state = self.state
        with state.lock:
            state.calls[path] += 1
        key = os.environ.get("VLLM_API_KEY")
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self.say(401, {"error": "who are you?"})
        elif path == "/fault":
            state.faults[body["kind"]] += body["count"]
            self.say(200, None)
        elif path == "/inference/v1/generate":
            self.generate(body)
        elif path == "/collective_rpc":
            self.rpc(body)
        elif path == "/pause":
            state.paused = True
            self.say(200, {})
        elif path == "/resume":
            state.paused = False
            self.say(200, {})
        elif path == "/reset_prefix_cache":
            self.say(200, {"success": True})
        elif path == "/update_weight_version":
            state.version = body["new_version"]
            self.say(200, {})
        elif path == "/init_weight_transfer_engine":
            self.say(200, {})
        elif path == "/start_weight_update":
            state.half_updated = True
            self.say(200, {})
        elif path == "/update_weights":
            self.update(body)
        elif path == "/finish_weight_update":
            state.half_updated = False
            if not state.fault("stale"):
                state.version = body["weight_version"]
            self.say(200, {})
        else:
            self.say(404, {"error": path})

    def rpc(self, body: Any) -> None:
        if body["method"] == "rlkit_end":
            os._exit(1)
        facts = {k: v for k, v in self.state.facts.items() if k != "weights"}
        probe = body["kwargs"]["probe"]
        self.say(
            200,
            {
                "results": [
                    facts | {"half_updated": self.state.half_updated, "sees_probe": Path(probe).exists()}
                ]
            },
        )

    def update(self, body: Any) -> None:
        state = self.state
        if state.fault("die_in_update"):
            os._exit(1)
        if state.fault("fail_update"):
            self.say(500, {"error": "it broke in the middle"})
            return
        told = body["update_info"]
        base = print_of(told["base_path"]) + "+" if "base_path" in told else ""
        state.weights = base + print_of(told["path"])
        self.say(200, {})

    def generate(self, body: Any) -> None:
        state = self.state
        if state.half_updated:
            self.say(500, {"error": "EngineDeadError"})
            return
        if state.fault("die"):
            os._exit(1)
        if state.fault("status"):
            self.say(500, {"error": "not now"})
            return
        if state.fault("slow"):
            time.sleep(30)
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        params, prompt = body["sampling_params"], body["token_ids"]
        ids = [token(state.weights, prompt, params["seed"], t) for t in range(params["max_tokens"])]
        content = [{"token_id": t, "logprob": logprob(t)} for t in ids]
        if state.fault("short"):
            content = content[:-1]
        with state.lock:
            state.answered.append(prompt)
        choice = {
            "index": 0,
            "token_ids": ids,
            "finish_reason": "length",
            "logprobs": {"content": content},
            "weight_versions": [{"version": state.version, "start": 0, "end": len(ids)}],
        }
        self.say(200, {"choices": [choice], "usage": {"prompt_tokens_details": {"cached_tokens": 0}}})

    def say(self, status: int, value: Any) -> None:
        content = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    Handler.state = State(json.loads(Path(sys.argv[2]).read_text()))
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
