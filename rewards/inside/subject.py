"""The program under test, answering calls. It sees the arguments of a test and never what the test expects.

Nothing here is trusted by anybody: the program can rewrite this very code, and all it can do with that is to answer.
"""

import sys

from . import wire
from .starter import compiled, new_main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO


class Subject:
    """The program's namespace, and the objects that the other side holds handles of."""

    def __init__(self, namespace: "dict[str, Any]") -> None:
        self.namespace = namespace
        self.objects: list[Any] = []
        self.handles: dict[int, int] = {}

    def keep(self, value: "Any") -> int:
        handle = self.handles.setdefault(id(value), len(self.objects))
        if handle == len(self.objects):
            self.objects.append(value)
        return handle

    def answer(self, request: bytes) -> bytes:
        """Do one operation; the reply is ("value", v, changed arguments) or ("raised", type, message)."""
        try:
            operation, target, *rest = wire.decode(request, self.objects.__getitem__)
            if operation == "call":
                return self._call(target, rest)
            result = _OPERATIONS[operation](self, target, *rest)
            return wire.encode(("value", result, {}), self.keep)
        except BaseException as error:  # the program's own; SystemExit and KeyboardInterrupt are told, too
            return wire.encode(("raised", type(error).__name__, _message(error)), wire.no_handle)

    def _call(self, function: "Any", rest: "list[Any]") -> bytes:
        """The result, and those arguments that the call has changed: the caller's lists are to change with them."""
        args, keywords = rest
        before = [wire.encode(arg, self.keep) if isinstance(arg, list | dict | set) else b"" for arg in args]
        result = function(*args, **keywords)
        changed = {
            i: args[i] for i, old in enumerate(before) if old and wire.encode(args[i], self.keep) != old
        }
        return wire.encode(("value", result, changed), self.keep)

    def name(self, name: str) -> "Any":
        """A global; a method where a class `Solution` has it, as LeetCode's rows do."""
        if name in self.namespace:
            return self.namespace[name]
        solution = self.namespace.get("Solution")
        if solution is not None and hasattr(solution, name):
            return getattr(solution(), name)
        raise NameError(f"name {name!r} is not defined")


_OPERATIONS: "dict[str, Callable[..., Any]]" = {
    "name": Subject.name,
    "get": lambda self, target, name: getattr(target, name),
    "set": lambda self, target, name, value: setattr(target, name, value),
    "item": lambda self, target, key: target[key],
    "list": lambda self, target: list(target),
    "len": lambda self, target: len(target),
    "bool": lambda self, target: bool(target),
    "str": lambda self, target: str(target),
}


def _message(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except Exception:  # a program may break the printing of its own exceptions
        return "(its message cannot be read)"


def serve(sources: "list[str]", from_fd: int, to_fd: int) -> None:
    """Load the program, say how that went, then answer until the tester is gone."""
    requests, replies = open(from_fd, "rb"), open(to_fd, "wb")
    sys.stdin = open("/dev/null")  # a program that reads gets nothing, rather than the tester's requests
    namespace = new_main()
    namespace["__name__"] = (
        "program"  # as the data sets' own harnesses do: what stands under `if __name__ ==` is left out
    )
    sys.modules["program"] = sys.modules["__main__"]
    hello: Any = ("value", None, {})
    try:
        exec(compiled(sources), namespace)
    except BaseException as error:
        hello = ("raised", type(error).__name__, _message(error))
    _reply(replies, wire.encode(hello, wire.no_handle))
    subject = Subject(namespace)
    while True:
        try:
            request = wire.read_frame(requests)
        except EOFError:
            return
        _reply(replies, subject.answer(request))


def _reply(stream: "BinaryIO", payload: bytes) -> None:
    if len(payload) > wire.MAX_FRAME:
        text = f"an answer of {len(payload)} bytes, expected at most {wire.MAX_FRAME}"
        payload = wire.encode(("raised", "ValueError", text), wire.no_handle)
    wire.write_frame(stream, payload)
