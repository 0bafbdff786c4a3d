"""The inside of a verifier process: read an item, judge it, answer; end when the parent does.

Started by `workers.VerifierPool` as a fresh interpreter, so it holds no thread, lock or GPU of the parent, and does not
run the user's script again. It answers in JSON, never in pickles: what runs here is not trusted over there.
"""

import ctypes
import json
import os
import pickle
import runpy
import signal
import sys
import types
from multiprocessing.connection import Connection
from pathlib import Path

from rlkit.types import AnyVerifier, Score

from .contract import describe, judge, warm_up

MAX_MESSAGE = 1 << 20
"""Bytes of one verdict."""

inside = False
"""Whether this process is a worker: a pool refuses to start in one."""


def serve(fd: int, parent: int) -> None:
    """Judge what comes through the socket `fd` until it closes. Never returns."""
    global inside
    inside = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.set_inheritable(fd, False)
    _end_with(parent)
    connection = Connection(fd)
    try:
        _judge_all(connection)
    except (EOFError, ConnectionError):
        os._exit(0)
    except SystemExit as error:
        sys.stdout.flush()
        os._exit(error.code if isinstance(error.code, int) else 1)


def _judge_all(connection: Connection) -> None:
    verifier = _receive_verifier(connection)
    while True:
        prompt, text = pickle.loads(connection.recv_bytes())
        message = encode(judge(verifier, prompt, text))
        if len(message) > MAX_MESSAGE:
            huge = f"the verdict is {len(message)} bytes long, expected at most {MAX_MESSAGE}"
            message = encode(Score(None, reason=huge, error=True))
        connection.send_bytes(message)


def _receive_verifier(connection: Connection) -> AnyVerifier:
    """Load and warm up the verifier, and say so; a failure is told in one sentence and ends the process."""
    try:
        pickled, script = pickle.loads(connection.recv_bytes())
        if script is not None:
            _load_script(script)
        verifier: AnyVerifier = pickle.loads(pickled)
        warm_up(verifier)
    except (
        Exception
    ) as error:  # importing users' code can raise anything; the parent raises it as one sentence
        connection.send_bytes(json.dumps({"failed": describe(error)}).encode())
        os._exit(1)
    connection.send_bytes(json.dumps({"ready": True}).encode())
    return verifier


def _load_script(path: str) -> None:
    """Make the classes of the parent's guarded script importable, by the name that multiprocessing gives it."""
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def _end_with(parent: int) -> None:
    """Die when the parent dies, even inside C code that would never look at the socket; and die first when memory ends."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        pass  # without /proc, the system chooses


def encode(score: Score) -> bytes:
    fields = {"value": score.value, "reason": score.reason, "parts": dict(score.parts), "error": score.error}
    return json.dumps(fields).encode()


def decode(message: bytes) -> Score:
    """The Score in a worker's message, unchecked. Raises ValueError, KeyError or TypeError when there is none."""
    fields = json.loads(message)
    return Score(fields["value"], reason=fields["reason"], parts=fields["parts"], error=fields["error"])


def decode_greeting(message: bytes) -> str | None:
    """Why the worker cannot judge; None: it is ready."""
    try:
        greeting = json.loads(message)
    except ValueError:
        greeting = message
    if greeting == {"ready": True}:
        return None
    return str(greeting["failed"] if isinstance(greeting, dict) and "failed" in greeting else greeting)
