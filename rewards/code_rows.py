"""The tests of a data row, in the layouts that data sets have; and its reference solution.

    HumanEval           test, entry_point; the prompt is the beginning of the program
    MBPP                test_list or tests: statements; test_setup_code, test_imports
    APPS, TACO, verl    input_output, tests, or the gold answer itself: {"inputs": [...], "outputs": [...], "fn_name": ...}
    open-r1, SYNTHETIC  verification_info: {"test_cases": [{"type", "input", "output", "fn_name"}]}
    LiveCodeBench       public_test_cases, private_test_cases: [{"input", "output", "testtype"}], the name in `metadata`

Any of them may be JSON text. Nothing is unpickled: LiveCodeBench's packed private tests are not read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlkit.types import Prompt

from .code_extract import defines, find_programs

_TESTS = ("test_list", "tests", "test_cases", "input_output", "verification_info", "ground_truth")
_GOLDS = (
    "canonical_solution",
    "gold_standard_solution",
    "reference_solution",
    "solution",
    "code",
    "solutions",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Texts for standard input, and what is to be printed."""

    cases: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Tests that call the program's functions.

    style: `asserts`: each test is a statement; `check`: one text that defines `check(candidate)`; `calls`: arguments and
    result as JSON
    """

    style: Literal["asserts", "check", "calls"]
    tests: tuple[str, ...]
    """As Python, or as words for a reason."""
    names: tuple[str, ...] = ()
    """What the tests call, as far as the row says so."""
    setup: tuple[str, ...] = ()
    calls: tuple[tuple[list[Any], Any], ...] = ()
    stub: str = ""


class NoTests(Exception):
    """Why a row has no tests that can be run."""


def read_tests(prompt: Prompt) -> Streams | Calls:
    """Raises NoTests, a sentence."""
    row = prompt.row
    test, entry = row.get("test"), row.get("entry_point")
    if isinstance(test, str) and test.strip() and isinstance(entry, str) and entry:
        stub = _stub(prompt, entry)
        setup = (stub,) if stub else ()
        return Calls(style="check", tests=(test,), names=(entry,), setup=setup, stub=stub)
    function = _function(row)
    public, private = _parsed(row.get("public_test_cases")), _parsed(row.get("private_test_cases"))
    if isinstance(private, str) and private:
        raise NoTests("the column private_test_cases is packed; unpack it when the data is prepared")
    if public or private:
        return _layout([*(public or []), *(private or [])], row, function)
    for value in (*(row.get(name) for name in _TESTS), prompt.reference):
        value = _parsed(value)
        if value and not isinstance(value, str | int | float):
            return _layout(value, row, function)
    raise NoTests(f"no tests in the row; looked for test with entry_point, {', '.join(_TESTS)}")


def gold_program(prompt: Prompt) -> str | None:
    """The reference solution as a whole program; None: the row has none."""
    for value in (*(prompt.row.get(name) for name in _GOLDS), prompt.reference):
        value = _parsed(value)
        if isinstance(value, list) and value and isinstance(value[0], str):
            value = value[0]
        if isinstance(value, str) and value.strip():
            gold = value.replace("\r\n", "\n")
            if "```" in gold:
                gold = next(iter(find_programs(gold, (), "")), "")
            entry = prompt.row.get("entry_point")
            stub = _stub(prompt, entry) if isinstance(entry, str) and entry else ""
            if not stub or defines(gold, str(entry)):
                return gold
            return (
                f"{stub}{gold}" if gold[0] in " \t\n" else f"{stub}    {gold}"
            )  # a body whose ends were stripped
    return None


def _stub(prompt: Prompt, entry: str) -> str:
    """The beginning of the program that the prompt gives; "": it gives none."""
    for text in (prompt.row.get("code_prompt"), prompt.row.get("prompt"), prompt.question):
        if isinstance(text, str) and defines(text, entry) and "```" not in text:
            return text
    return ""


def _function(row: Mapping[str, Any]) -> str:
    """The function that the tests call; "": they go through standard input."""
    metadata = _parsed(row.get("metadata"))
    inner = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    names = (row.get("fn_name"), inner, row.get("entry_point"))
    return next((name for name in names if isinstance(name, str) and name), "")


def _layout(value: Any, row: Mapping[str, Any], function: str) -> Streams | Calls:
    for inner in ("assert_case", "test_cases"):
        if isinstance(value, Mapping) and inner in value:
            value = _parsed(value[inner])
    if isinstance(value, Mapping) and "inputs" in value and "outputs" in value:
        function = str(value.get("fn_name") or function)
        inputs, outputs = _parsed(value["inputs"]), _parsed(value["outputs"])
        if len(inputs) != len(outputs):
            raise NoTests(f"{len(inputs)} inputs and {len(outputs)} outputs, expected as many")
        return _pairs(list(zip(inputs, outputs, strict=True)), function)
    if isinstance(value, list) and all(isinstance(test, str) for test in value):
        imports = row.get("test_imports") or []
        setup = [*(imports if isinstance(imports, list) else [imports]), row.get("test_setup_code") or ""]
        texts = tuple(str(text).replace("\r\n", "\n") for text in setup if str(text).strip())
        return Calls(style="asserts", tests=tuple(t.replace("\r\n", "\n") for t in value), setup=texts)
    if isinstance(value, list) and all(
        isinstance(t, Mapping) and "input" in t and "output" in t for t in value
    ):
        kinds = {test.get("testtype") or test.get("type") for test in value}
        function = str(next((test["fn_name"] for test in value if test.get("fn_name")), function))
        named = function if kinds & {"functional", "function_call"} or kinds == {None} else ""
        return _pairs([(test["input"], test["output"]) for test in value], named)
    raise NoTests(f"tests of a layout that is not known: {repr(value)[:80]}")


def _pairs(pairs: list[tuple[Any, Any]], function: str) -> Streams | Calls:
    if not pairs:
        raise NoTests("the row's list of tests is empty")
    if not function:
        return Streams(cases=tuple((_text(given), _text(expected)) for given, expected in pairs))
    calls = tuple((_arguments(given), _parsed(expected)) for given, expected in pairs)
    shown = tuple(
        f"{function}({', '.join(map(repr, args))}) == {expected!r}"[:200] for args, expected in calls
    )
    return Calls(style="calls", tests=shown, names=(function, "Solution"), calls=calls)


def _arguments(given: Any) -> list[Any]:
    """The arguments of a call: a list as it is; a text has one argument, as JSON, on each line."""
    if isinstance(given, str):
        return [_parsed(line, any_json=True) for line in given.split("\n") if line.strip()]
    return list(given) if isinstance(given, list | tuple) else [given]


def _text(value: Any) -> str:
    """Lines for standard input: APPS has them as lists, too."""
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _parsed(value: Any, any_json: bool = True) -> Any:
    """JSON text as what it holds; anything else as it is."""
    if isinstance(value, str) and any_json:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
