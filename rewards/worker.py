"""The inside of a judging process: read answers, judge them, send verdicts; one at a time, in batches, or many at once.

It answers in JSON, never in pickles: what runs here is not trusted in the pool's process.
"""

import asyncio
import json
import os
import pickle
import random
import resource
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.errors import RolloutError
from rlkit.types import AnyVerifier, Score

from .contract import (
    Item,
    describe,
    failure,
    has_batch,
    is_async,
    judge,
    judge_async,
    judge_batch,
    judge_batch_async,
)
from .wire import HEADER_BYTES, frame, frame_length, read_frame, write_frame

MAX_VERDICT = 1 << 20
"""Bytes of one verdict."""
_TICKET = struct.Struct(">Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a judge is held to."""

    folder: str
    """Of its keeper; each judge has its working directory in it, which is removed with it."""
    timeout: float
    """Seconds after which one call of an async verifier is cancelled."""
    memory_limit: int
    """Bytes that judging may add to what the verifier takes when it is loaded."""


def serve(sock: socket.socket, load: Callable[[], AnyVerifier], rules: Rules) -> None:
    """Judge what comes through the socket until it closes. Never returns."""
    try:
        verifier = load()
        _settle_in(rules)
    except Exception as error:  # importing users' code raises anything; the pool raises it as one sentence
        write_frame(sock, json.dumps({"failed": describe(error)}).encode())
        os._exit(1)
    write_frame(sock, json.dumps({"ready": os.getpid()}).encode())
    try:
        if is_async(verifier):
            asyncio.run(_judge_at_once(sock, verifier, rules))
        else:
            _judge_in_turn(sock, verifier, rules)
    except (EOFError, ConnectionError):
        os._exit(0)
    except BaseException as error:
        _end_by(error)


def _settle_in(rules: Rules) -> None:
    """A folder, random numbers and a memory limit of its own."""
    folder = os.path.join(rules.folder, str(os.getpid()))
    os.mkdir(folder, 0o700)
    os.chdir(folder)
    os.environ.update(TMPDIR=folder, TEMP=folder, TMP=folder)
    tempfile.tempdir = None  # it remembers the one before
    random.seed()  # a fork copies the state: judges would draw the same numbers
    # RLIMIT_DATA counts private memory that can be written. RLIMIT_AS would count address space, of which torch,
    # jemalloc and thread stacks reserve far more than they use. What is loaded already is not the answer's fault.
    if sys.platform == "linux":
        limit = _data_bytes() + rules.memory_limit
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _data_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def _judge_in_turn(sock: socket.socket, verifier: AnyVerifier, rules: Rules) -> None:
    while True:
        ticket, payload = split_ticket(read_frame(sock))
        try:
            items = pickle.loads(payload)
            if len(items) > 1 and has_batch(verifier):
                scores = judge_batch(verifier, items)
            else:
                scores = [judge(verifier, prompt, text) for prompt, text in items]
        except Exception as error:  # of a batch, whose answers are judged again one by one; or of a row that does not unpickle
            write_frame(sock, _failed(ticket, error))
            continue
        write_frame(sock, _verdicts(ticket, scores, rules))


async def _judge_at_once(sock: socket.socket, verifier: AnyVerifier, rules: Rules) -> None:
    reader, writer = await asyncio.open_connection(sock=sock)
    running: set[asyncio.Task[None]] = set()
    while True:
        try:
            header = await reader.readexactly(HEADER_BYTES)
            ticket, payload = split_ticket(await reader.readexactly(frame_length(header)))
        except asyncio.IncompleteReadError as error:
            raise EOFError from error
        task = asyncio.create_task(_judge_one(writer, verifier, rules, ticket, payload))
        running.add(task)
        task.add_done_callback(running.discard)


def _end_by(error: BaseException) -> None:
    """What is no Exception (sys.exit, KeyboardInterrupt, a user's own) ends the process, and costs its item."""
    print(f"a verifier process ends by {describe(error)}", file=sys.stderr, flush=True)
    os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)


async def _judge_one(
    writer: asyncio.StreamWriter, verifier: AnyVerifier, rules: Rules, ticket: int, payload: bytes
) -> None:
    deadline = asyncio.timeout(rules.timeout)
    try:
        items: Sequence[Item] = pickle.loads(payload)
        async with deadline:
            if len(items) > 1 and has_batch(verifier):
                scores = await judge_batch_async(verifier, items)
            else:
                scores = [await judge_async(verifier, prompt, text) for prompt, text in items]
        message = _verdicts(ticket, scores, rules)
    except Exception as error:  # as above, and TimeoutError at the deadline
        message = _failed(ticket, error, timed_out=deadline.expired())
    except asyncio.CancelledError:
        message = _failed(ticket, RolloutError("the verifier was cancelled, and not by its deadline"))
    except BaseException as error:
        _end_by(error)
        raise
    writer.write(frame(message))


def join_ticket(ticket: int, payload: bytes) -> bytes:
    """The number that the verdict of this payload will carry, and the payload."""
    return _TICKET.pack(ticket) + payload


def split_ticket(message: bytes) -> tuple[int, bytes]:
    return _TICKET.unpack_from(message)[0], message[_TICKET.size :]


def _verdicts(ticket: int, scores: Sequence[Score], rules: Rules) -> bytes:
    starved = any(score.error and score.reason.startswith("MemoryError") for score in scores)
    fields: dict[str, Any] = {"ticket": ticket, "scores": [_bounded(score, rules) for score in scores]}
    if starved:
        fields["worn"] = True  # what else it holds may be broken: the pool replaces it
    return json.dumps(fields).encode()


def _bounded(score: Score, rules: Rules) -> list[Any]:
    reason = score.reason
    if score.error and reason.startswith("MemoryError"):
        reason += f"; judging may take {rules.memory_limit:,} bytes (reward.memory_limit)"
    fields = [score.value, reason, dict(score.parts), score.error]
    size = sum(len(name) for name in score.parts)
    if size > MAX_VERDICT:
        return [None, f"the verdict is {size} bytes long, expected at most {MAX_VERDICT}", {}, True]
    return fields


def _failed(ticket: int, error: Exception, timed_out: bool = False) -> bytes:
    return json.dumps({"ticket": ticket, "failed": failure(error).reason, "timed_out": timed_out}).encode()
