"""The `code` verifier: runs the program of an answer against the tests of its row, in a sandbox.

Whoever writes the program cannot write the verdict. Tests on standard output are compared here, and what is expected
never enters the sandbox. Tests that are Python run in a second sandbox and call the program by value
(rewards/inside/tester.py): the program sees arguments, never an expectation, an assert or the pipe of the verdict.
"""

import time
from dataclasses import dataclass
from signal import Signals
from typing import ClassVar

from rlkit.errors import ConfigError, RolloutError, require
from rlkit.printable import printable
from rlkit.types import AnyVerifier, Prompt, Score

from .code_extract import find_programs
from .code_rows import Calls, NoTests, Streams, gold_program, read_tests
from .combine import AsyncWeightedSum, WeightedSum
from .contract import shown
from .inside import wire
from .sandbox import Job, Kind, Limits, Ran, last_line, require_sandbox, run_jobs


@dataclass(frozen=True, slots=True)
class CodeVerifier:
    """1.0 when the program in the answer passes every test of its row, run in a sandbox.

    A program that hangs, crashes, floods, or cannot be parsed is wrong (0.0); a row without tests is a skip; a sandbox that
    does not start is an error.
    """

    timeout: float = 8.0
    """Seconds for all tests of one answer; keep it below --reward.timeout, which makes an error of what takes longer."""
    memory: int = 1024
    """MiB of address space."""
    output: int = 4
    """MiB of standard output, and as many of standard error."""
    partial: bool = False
    """The share of tests passed, instead of all or nothing."""
    tolerance: float = 0.0
    """How much a number may differ from the expected one, relative or absolute; 0: not at all."""
    sandbox: Kind = "bwrap"
    """`bwrap`: namespaces of its own; `rlimits`: limits only, a program can then read and write this user's files."""

    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        require(self.timeout > 0, "code.timeout", self.timeout, "a positive number of seconds")
        require(self.memory >= 64, "code.memory", self.memory, "at least 64 MiB: the interpreter needs 30")
        require(self.output > 0, "code.output", self.output, "a positive number of MiB")
        require(self.tolerance >= 0, "code.tolerance", self.tolerance, "a number >= 0")

    def warm_up(self) -> None:
        """Raise ConfigError, saying what to do, where no program can be run."""
        require_sandbox(self.sandbox)

    def gold_text(self, prompt: Prompt) -> str | None:
        """The reference solution as an answer would hold it; None: the row has none."""
        gold = gold_program(prompt)
        return None if gold is None else f"````python\n{gold.rstrip()}\n````\n"

    def __call__(self, prompt: Prompt, text: str) -> Score:
        try:
            tests = read_tests(prompt)
        except NoTests as error:
            return Score(None, reason=str(error))
        self.warm_up()
        named, stub = (tests.names, tests.stub) if isinstance(tests, Calls) else ((), "")
        programs = find_programs(text, named, stub)
        if not programs:
            return Score(0.0, reason="no program in the answer")
        if isinstance(tests, Streams):
            return self._streams(programs, tests)
        return self._calls(programs, tests, gold_program(prompt) or "")

    def _limits(self, seconds: float) -> Limits:
        cpu = int(seconds) + 1
        return Limits(wall=seconds, cpu=cpu, memory=self.memory, output=self.output << 20)

    def _streams(self, programs: list[str], tests: Streams) -> Score:
        deadline = time.monotonic() + self.timeout
        total, passed, why = len(tests.cases), 0, ""
        for number, (given, expected) in enumerate(tests.cases, start=1):
            left = deadline - time.monotonic()
            if left <= 0:
                why = why or f"test {number}: {self.timeout:g} s were over"
                break
            job = Job(kind="program", fields={"sources": programs}, stdin=given.encode("utf-8", "replace"))
            (ran,) = run_jobs([job], self._limits(left), self.sandbox)
            wrong = self._wrong(ran, expected)
            passed += not wrong
            if wrong and not why:
                why = f"test {number}: {wrong}"
            if wrong and not self.partial:
                break
        return self._score(passed, total, why)

    def _wrong(self, ran: Ran, expected: str) -> str:
        """What is wrong with a run; "": nothing."""
        if ran.ended != "ok":
            return self._words(ran)
        printed = ran.stdout.decode("utf-8", "replace")
        if same_output(printed, expected, self.tolerance):
            return ""
        return f"printed {shown(printed)}, expected {shown(expected)}"

    def _calls(self, programs: list[str], tests: Calls, gold: str) -> Score:
        subject = Job(kind="subject", fields={"sources": programs})
        fields = {
            "style": tests.style,
            "setup": list(tests.setup),
            "tests": list(tests.tests),
            "calls": [[args, expected] for args, expected in tests.calls],
            "name": tests.names[0] if tests.names else "",
            "total": None if tests.style == "check" and self.partial else len(tests.tests),
            "gold": gold,
            "partial": self.partial,
            "tolerance": self.tolerance,
        }
        tester = Job(kind="tester", fields=fields)
        program, judge = run_jobs([subject, tester], self._limits(self.timeout), self.sandbox)
        total, passed, ending = _read_status(judge.status)
        if ending is not None and ending[0] == "broken":
            return Score(None, reason=ending[1])
        why = ending[1] if ending is not None else ""
        if ending is None:
            limit = program if program.ended in ("wall", "output") else judge
            if limit.ended not in ("wall", "output", "cpu", "memory") or judge.ended == "output":
                raise RolloutError(f"the tests' own process ended without a verdict: {self._words(judge)}")
            why, passed = self._words(limit), passed if self.partial else min(passed, total - 1)
        elif "the program ended" in why and program.ended not in ("ok", "stopped"):
            why = f"{why} ({self._words(program)})"
        return self._score(passed, total, why)

    def _score(self, passed: int, total: int, why: str) -> Score:
        told, why = f"passed {passed} of {total} tests", printable(why)
        if self.partial:
            return Score(min(1.0, passed / total), reason=f"{told}; {why}" if why else told)
        if passed == total:
            return Score(1.0, reason=told)
        return Score(0.0, reason=why or told)

    def _words(self, ran: Ran) -> str:
        """How a program ended, for a reason."""
        last = last_line(ran.stderr)
        if ran.ended == "exit":
            return f"exit code {ran.code}: {last}" if last else f"exit code {ran.code}"
        if ran.ended == "signal":
            number = ran.signal or 0
            return f"ended by {Signals(number).name if number in Signals._value2member_map_ else f'signal {number}'}"
        return {
            "ok": "it ended",
            "stopped": "it was stopped",
            "memory": f"more than {self.memory} MiB of memory",
            "cpu": f"more than {self.timeout:g} s of CPU time",
            "wall": f"not done after {self.timeout:g} s",
            "output": f"wrote more than {self.output} MiB",
        }[ran.ended]


def require_patience(verifier: AnyVerifier, seconds: float) -> None:
    """Raise ConfigError when a verdict on a program may take longer than the pool's deadline of `seconds`."""
    parts: list[AnyVerifier] = [verifier]
    if isinstance(verifier, WeightedSum | AsyncWeightedSum):
        parts = [part for *_, part in verifier.terms]
    for part in parts:
        if isinstance(part, CodeVerifier) and part.timeout >= seconds:
            raise ConfigError(
                f"reward code: timeout = {part.timeout:g} and --reward.timeout {seconds:g}: a program that hangs would be an "
                f"error and not wrong; use --reward.timeout {part.timeout + 5:g}, or a shorter code(timeout=...)"
            )


def _read_status(status: bytes) -> tuple[int, int, tuple[str, str] | None]:
    """Number of tests, tests passed, and the tester's last word (None: it had none)."""
    head, colon, rest = status[1:].partition(b":")
    total = int(head) if colon and head.isdigit() else 1
    marks, dot, ending = rest.partition(b".")
    passed = marks.count(b"+")
    if not dot:
        return max(total, len(marks), 1), passed, None
    kind, why = wire.decode(ending, wire.no_object)
    return max(total, len(marks), 1), passed, (str(kind), str(why))


def same_output(printed: str, expected: str, tolerance: float) -> bool:
    """Whether two outputs are the same lines, white space at the ends of lines and of the text apart.

    >>> same_output("1 2 \\n3\\n\\n", "1 2\\n3", 0.0), same_output("1  2", "1 2", 0.0), same_output("0.333", "0.3333", 0.001)
    (True, False, True)
    """
    lines, wanted = _lines(printed), _lines(expected)
    if lines == wanted:
        return True
    if tolerance == 0 or len(lines) != len(wanted):
        return False
    return all(_near(line, other, tolerance) for line, other in zip(lines, wanted, strict=True))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def _near(line: str, other: str, tolerance: float) -> bool:
    words, wanted = line.split(), other.split()
    return len(words) == len(wanted) and all(
        word == want or _close(word, want, tolerance) for word, want in zip(words, wanted, strict=True)
    )


def _close(word: str, want: str, tolerance: float) -> bool:
    try:
        number, wanted = float(word), float(want)
    except ValueError:
        return False
    return abs(number - wanted) <= tolerance * max(1.0, abs(wanted))
