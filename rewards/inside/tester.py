"""The row's tests, in a sandbox of their own. The program answers their calls from another one, by value.

The verdict is decided here, on values of exact built-in types that this process has made itself: the program cannot
override `==`, see what is expected, or write to the pipe that the verdict goes through. It reads

    R  <number of tests> :  + or - for each test  .  ("judged" or "broken", why the first one failed)
"""

import builtins
import os
import sys

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType
    from typing import Any

MAX_WHY = 300
"""Characters of why a test failed."""


class Ended(BaseException):
    """The program is gone, or has asked to end: no `except Exception` of a test may swallow that."""


class Program:
    """The other sandbox."""

    def __init__(self, from_fd: int, to_fd: int) -> None:
        self.replies, self.requests = open(from_fd, "rb"), open(to_fd, "wb")
        self.handles: dict[int, Handle] = {}
        self.ended = ""  # why no further answer will come
        self.unsendable = ""  # what a test tried to pass

    def hear(self) -> "tuple[Any, dict[int, Any]]":
        """A reply's value and the changed arguments; raises what the program raised."""
        if self.ended:
            raise Ended(self.ended)
        try:
            kind, value, rest = wire.decode(wire.read_frame(self.replies), self.find)
        except (EOFError, BrokenPipeError):
            self.ended = "the program ended"
            raise Ended(self.ended) from None
        if kind == "raised":
            self._raise(value, rest)
        return value, rest

    def ask(self, *request: "Any") -> "Any":
        self._send(request)
        return self.hear()[0]

    def call(self, function: "Any", args: "tuple[Any, ...]", keywords: "dict[str, Any]") -> "Any":
        """The result of a call; lists, sets and dictionaries that the program changed in place change here, too."""
        self._send(("call", function, args, keywords))
        value, changed = self.hear()
        for index, new in changed.items():
            old = args[index]
            if type(new) is type(old) and isinstance(old, list):
                old[:] = new
            elif type(new) is type(old) and isinstance(old, dict | set):
                old.clear()
                old.update(new)
        return value

    def find(self, number: int) -> "Handle":
        return self.handles.setdefault(number, Handle(self, number))

    def _send(self, request: "Any") -> None:
        try:
            payload = wire.encode(request, self._number)
        except TypeError as error:
            self.unsendable = str(error)
            raise
        try:
            wire.write_frame(self.requests, payload)
        except BrokenPipeError:
            self.ended = "the program ended"
            raise Ended(self.ended) from None

    def _number(self, value: "Any") -> int:
        return object.__getattribute__(value, "_number") if type(value) is Handle else wire.no_handle(value)

    def _raise(self, kind: str, message: str) -> None:
        if kind in ("SystemExit", "KeyboardInterrupt", "GeneratorExit"):
            self.ended = f"the program raised {kind}"
            raise Ended(self.ended)
        known = getattr(builtins, kind, None)
        if not (isinstance(known, type) and issubclass(known, Exception)) or "Unicode" in kind:
            known = type(kind, (Exception,), {})
        raise known(message)


class Handle:
    """An object of the program's that is no plain value: it can be called, read and iterated, and equals only itself."""

    __slots__ = ("_number", "_program")

    def __init__(self, program: Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: "Any", **keywords: "Any") -> "Any":
        return self._program.call(self, args, keywords)

    def __getattr__(self, name: str) -> "Any":
        if name.startswith("__"):
            raise AttributeError(name)
        return self._program.ask("get", self, name)

    def __setattr__(self, name: str, value: "Any") -> None:
        self._program.ask("set", self, name, value)

    def __iter__(self) -> "Iterator[Any]":
        return iter(self._program.ask("list", self))

    def __getitem__(self, key: "Any") -> "Any":
        return self._program.ask("item", self, key)

    def __len__(self) -> int:
        return self._program.ask("len", self)  # type: ignore[no-any-return]

    def __bool__(self) -> bool:
        return self._program.ask("bool", self)  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return self._program.ask("str", self)  # type: ignore[no-any-return]


class Report:
    """Counts tests on the status pipe, as they are judged."""

    def __init__(self, status_fd: int) -> None:
        self.fd = status_fd
        self.why = ""  # of the first failure

    def test(self, passed: bool, why: str) -> None:
        os.write(self.fd, b"+" if passed else b"-")
        if not passed and not self.why:
            self.why = why

    def end(self, kind: str, why: str) -> None:
        os.write(self.fd, b"." + wire.encode((kind, why[:MAX_WHY]), wire.no_handle))


def serve(job: "dict[str, Any]", status_fd: int, from_fd: int, to_fd: int) -> None:
    program = Program(from_fd, to_fd)
    report = Report(status_fd)
    os.write(status_fd, b"R")
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        setup = [compile(text, "setup", "exec", dont_inherit=True) for text in job["setup"]]
        tests = _compiled(job)
    except (SyntaxError, ValueError) as error:
        os.write(status_fd, b"0:")
        report.end("broken", f"the row's tests are no Python: {error}")
        return
    if tests and not any(word in text for text in job["tests"] for word in ("assert", "raise")):
        os.write(status_fd, b"0:")
        report.end("broken", "the row's tests assert nothing: any program would pass")
        return
    os.write(status_fd, b"%d:" % (job["total"] or max(1, _asserts(job["tests"]))))
    try:
        program.hear()  # how its loading went
        _bind(job, [*setup, *tests], namespace, program)
        for code in setup:
            exec(code, namespace)
    except BaseException as error:
        report.test(False, _words(error))
    else:
        _run(job, tests, namespace, program, report)
    if program.unsendable:
        report.end("broken", f"a test passes {program.unsendable.removeprefix('a value of ')}")
    else:
        report.end("judged", report.why)


def _compiled(job: "dict[str, Any]") -> "list[CodeType]":
    if job["style"] == "check" and job["partial"]:
        return [_counting(job["tests"][0])]
    texts = [] if job["style"] == "calls" else job["tests"]
    return [compile(text, "tests", "exec", dont_inherit=True) for text in texts]


def _run(
    job: "dict[str, Any]",
    tests: "list[CodeType]",
    namespace: "dict[str, Any]",
    program: Program,
    report: Report,
) -> None:
    """Judge test by test; without `partial`, until one fails."""
    if job["style"] == "check":
        namespace["__noted__"] = report.test
        passed, why = _attempt(program, lambda: _check(job, tests[0], namespace, program, report))
        if not (
            job["partial"] and passed
        ):  # with `partial` each assert or method has been counted on its own
            report.test(passed, why)
        return
    if job["style"] == "calls":
        attempts = [_call_attempt(job, args, expected, namespace, program) for args, expected in job["calls"]]
    else:
        attempts = [_test_attempt(code, namespace) for code in tests]
    for attempt, text in zip(attempts, job["tests"], strict=True):
        passed, why = _attempt(program, attempt)
        report.test(passed, f"{_short(text)}: {why}")
        if program.ended or not (passed or job["partial"]):
            return


def _attempt(program: Program, test: "Callable[[], None]") -> "tuple[bool, str]":
    """Whether the test ran through; a test that the program ended under has failed, whatever the test made of it."""
    try:
        test()
    except BaseException as error:
        return False, _words(error)
    return not program.ended, program.ended


def _test_attempt(code: "CodeType", namespace: "dict[str, Any]") -> "Callable[[], None]":
    return lambda: exec(code, namespace)


def _check(
    job: "dict[str, Any]", code: "CodeType", namespace: "dict[str, Any]", program: Program, report: Report
) -> None:
    """One text of tests: it defines `check`, which is handed the function (HumanEval), or unittest's cases, or just asserts."""
    candidate = program.ask("name", job["name"])
    namespace[job["name"]] = candidate
    exec(code, namespace)
    if "check" in namespace:
        namespace["check"](candidate)
    elif "unittest" in sys.modules:
        _run_cases(job, namespace, report)


def _case_name(test: "Any") -> str:
    return str(test.id())


def _run_cases(job: "dict[str, Any]", namespace: "dict[str, Any]", report: Report) -> None:
    import unittest

    cases = [
        case for case in namespace.values() if isinstance(case, type) and issubclass(case, unittest.TestCase)
    ]
    for case in cases:
        for test in unittest.defaultTestLoader.loadTestsFromTestCase(case):
            result = unittest.TestResult()
            test.run(result)
            failed = [*result.errors, *result.failures]
            why = f"{_case_name(test)}: {failed[0][1].strip().splitlines()[-1]}" if failed else ""
            if job["partial"]:
                report.test(not failed, why)
            elif failed:
                raise AssertionError(why)


def _call_attempt(
    job: "dict[str, Any]", args: "Any", expected: "Any", namespace: "dict[str, Any]", program: Program
) -> "Callable[[], None]":
    def attempt() -> None:
        found = program.call(program.ask("name", job["name"]), tuple(args), {})
        wrapped = isinstance(expected, list) and len(expected) == 1
        if not (same(found, expected, job["tolerance"]) or wrapped and same(found, expected[0], 0.0)):
            raise AssertionError(f"returned {_short(repr(found))}")

    return attempt


def same(found: "Any", expected: "Any", tolerance: float) -> bool:
    """Equality as JSON knows it: a tuple is a list, keys are texts; numbers may differ by `tolerance`, relative or absolute.

    >>> same((1, [2.0]), [1, [2]], 0.0), same({1: "a"}, {"1": "a"}, 0.0), same(0.33, 1 / 3, 0.01), same("1", 1, 0.0)
    (True, True, True, False)
    """
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        pairs = zip(found, expected, strict=False)
        return len(found) == len(expected) and all(same(f, e, tolerance) for f, e in pairs)
    if isinstance(found, dict) and isinstance(expected, dict):
        texts = {str(key): value for key, value in found.items()}
        return len(texts) == len(expected) and all(
            str(key) in texts and same(texts[str(key)], value, tolerance) for key, value in expected.items()
        )
    if isinstance(found, int | float) and isinstance(expected, int | float) and found != expected:
        return abs(found - expected) <= tolerance * max(1.0, abs(expected))
    return bool(found == expected)


def _bind(
    job: "dict[str, Any]", codes: "list[CodeType]", namespace: "dict[str, Any]", program: Program
) -> None:
    """Give the tests the names that they use and do not make: modules are imported here, the rest is the program's.

    A name that Python has itself (`sum`, `sorted`) is the program's only when the reference solution defines it: else a
    program could pass by bringing its own `abs`.
    """
    for line in job["gold"].split("\n"):
        if line.startswith(("import ", "from ")):
            try:
                exec(line, namespace)
            except (
                Exception
            ):  # a library that the sandbox has not, or half a statement: a test that needs it will say so
                continue
    texts = "\n".join([*job["setup"], *job["tests"]])
    for name in sorted({name for code in codes for name in _names(code)}):
        if name in namespace or (hasattr(builtins, name) and not _defines(job["gold"], name)):
            continue
        if name in sys.stdlib_module_names and f"{name}." in texts and not _defines(job["gold"], name):
            namespace[name] = __import__(name)
            continue
        try:
            namespace[name] = program.ask("name", name)
        except NameError:
            continue  # an attribute, or made by the tests


def _names(code: "CodeType") -> "Iterator[str]":
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            yield from _names(constant)


def _defines(source: str, name: str) -> bool:
    heads = (f"def {name}(", f"def {name} (", f"class {name}", f"{name} =", f"{name}=")
    return any(line.startswith(heads) for line in source.split("\n"))


def _asserts(tests: "list[str]") -> int:
    return sum(line.lstrip().startswith("assert") for text in tests for line in text.split("\n"))


def _counting(text: str) -> "CodeType":
    """The test with each assert counted rather than ending it at the first that fails."""
    import ast

    class Counting(ast.NodeTransformer):
        def visit_Assert(self, node: ast.Assert) -> ast.stmt:
            told = _short(ast.unparse(node))
            frame = ast.parse(
                "try:\n    pass\nexcept Exception as error:\n"
                f"    __noted__(False, {told!r} + f': {{type(error).__name__}} {{error}}')\nelse:\n    __noted__(True, '')"
            ).body[0]
            assert isinstance(frame, ast.Try)
            frame.body = [node]
            return frame

    return compile(ast.fix_missing_locations(Counting().visit(ast.parse(text))), "tests", "exec")


def _words(error: BaseException) -> str:
    if isinstance(error, Ended):
        return str(error)
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:  # the message of an exception may be an object of the program's
        return type(error).__name__


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."
