"""A call in a thread beside this one, whose end nobody has to wait for: a peer that died may hold it for ever."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Beside(Generic[T]):
    """Runs `work` while the block runs; `result()` waits for it. An exception in the block does not.

    A daemon thread: concurrent.futures would wait for it at the interpreter's end.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._future = started(work)

    def __enter__(self) -> "Future[T]":
        return self._future

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._future.done() and self._future.exception() is not None:
            raise self._future.exception() from error  # type: ignore[misc]  # why the other side stopped says more


def started(work: Callable[[], T]) -> "Future[T]":
    """A daemon thread's result."""
    future: Future[T] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()  # nobody cancels it from here on, so its result always has a place
        try:
            result = work()
        except BaseException as error:  # handed on, whatever it is
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, daemon=True).start()
    return future


async def aside(work: Callable[[], T], seconds: float) -> T:
    """The result of a blocking call, which is left alone after so many seconds. Raises TimeoutError."""
    future = asyncio.wrap_future(started(work))
    try:
        async with asyncio.timeout(seconds):
            return await future
    except TimeoutError:
        if not future.cancelled():  # the call's own
            raise
        raise TimeoutError(f"not done within {seconds:g} s") from None
