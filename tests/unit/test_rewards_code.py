"""The code verifier: which program an answer holds, what a row's tests are, and a verdict that the program cannot write.

Real programs in the real sandbox. Where bubblewrap cannot be had, what needs it is skipped, and says so.
"""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from rlkit.errors import ConfigError, RolloutError
from rlkit.rewards import CodeVerifier
from rlkit.rewards.code_extract import fenced_blocks, find_programs
from rlkit.rewards.code_rows import Calls, NoTests, Streams, gold_program, read_tests
from rlkit.rewards.code_verifier import same_output
from rlkit.rewards.inside import tester
from rlkit.types import Prompt, Score
from tests.hostile_programs import ROW, refusal

DATA = os.environ.get("RLKIT_DATA")


sandboxed = pytest.mark.skipif(bool(refusal()), reason=f"NO SANDBOX HERE: {refusal()}")


def prompt(row: dict[str, Any], reference: str | None = None, question: str = "") -> Prompt:
    return Prompt(id="p", token_ids=[], question=question, reference=reference, row=row)


def judged(row: dict[str, Any], text: str, **options: Any) -> Score:
    return CodeVerifier(**options)(prompt(row), text)


def fenced(program: str, language: str = "python") -> str:
    return f"Here:\n```{language}\n{program}\n```\nThat is all."


# -- which program -----------------------------------------------------------------------------------------------------


def test_blocks_end_at_their_own_fence_or_with_the_text() -> None:
    text = "````python\nx = '''\n```\n'''\n````\ntext\n```\ny = 2\n```\n~~~py\nz = 3"
    assert fenced_blocks(text) == [("python", "x = '''\n```\n'''\n"), ("", "y = 2\n"), ("py", "z = 3\n")]


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        (fenced("a = 1") + fenced("b = 2"), (), "b = 2\n"),  # the last one
        (fenced("a = 1") + fenced("{}", "json"), (), "a = 1\n"),  # Python before any other language
        (fenced("a = 1", "text"), (), "a = 1\n"),  # any block, where none is Python
        (fenced("def f(): pass") + fenced("print(f())"), ("f",), "def f(): pass\n"),  # what defines f, not its use
        ("print(1)", (), "print(1)"),  # no block: all of it
        ("  1. so\n     ```python\n     def f():\n         return 1\n     ```", (), "def f():\n    return 1\n"),
    ],
)  # fmt: skip
def test_the_program_of_an_answer(text: str, names: tuple[str, ...], found: str) -> None:
    assert find_programs(text, names, "")[0] == found


def test_an_empty_answer_has_no_program() -> None:
    assert find_programs(" \n", (), "") == [] == find_programs("```python\n```", (), "")


STUB = 'import math\n\ndef half(x):\n    """Half of x."""\n'


@sandboxed
@pytest.mark.parametrize(
    "text",
    [
        "    return x / 2\n",
        "return x / 2\n",  # its first indentation stripped by a template
        "    return x / 2\n\nprint(half(3))\nThis is the function.",  # a base model goes on
        fenced("    return x / 2"),
        fenced("return x / 2"),
        fenced("def half(x):\n    return x / 2"),
        fenced("def half(x):\n    return math.fsum([x]) / 2"),  # the prompt's import is there
        fenced("from __future__ import annotations\ndef half(x):\n    return x / 2"),
        "def half(x):\n    return x / 2",
    ],
)
def test_an_answer_may_continue_the_prompt_or_write_it_anew(text: str) -> None:
    row = {"test": "def check(candidate):\n    assert candidate(3) == 1.5", "entry_point": "half"}
    assert CodeVerifier()(prompt(row, question=STUB), text).value == 1.0


# -- which tests -------------------------------------------------------------------------------------------------------

PAIRS = Streams(cases=(("1 2\n", "3\n"), ("4 5\n", "9\n")))
TWO = {"inputs": ["1 2\n", "4 5\n"], "outputs": ["3\n", "9\n"]}
LIST = [{"input": "1 2\n", "output": "3\n"}, {"input": "4 5\n", "output": "9\n"}]


@pytest.mark.parametrize(
    "row",
    [
        {"tests": LIST},
        {"tests": json.dumps(LIST)},
        {"tests": TWO},
        {"input_output": json.dumps(TWO)},  # APPS, TACO
        {"input_output": json.dumps({"inputs": [["1 2", ""], ["4 5", ""]], "outputs": ["3\n", "9\n"]})},
        {
            "verification_info": json.dumps(
                {
                    "language": "python",
                    "test_cases": [{**one, "type": "stdin_stdout", "fn_name": None} for one in LIST],
                }
            )
        },
        {"public_test_cases": json.dumps(LIST[:1]), "private_test_cases": json.dumps(LIST[1:])},
        {
            "public_test_cases": [{**one, "testtype": "stdin"} for one in LIST],
            "metadata": '{"func_name": "f"}',
        },
    ],
)
def test_layouts_of_standard_input(row: dict[str, Any]) -> None:
    assert read_tests(prompt(row)) == PAIRS


def test_verl_keeps_the_tests_where_the_gold_answer_is() -> None:
    assert read_tests(prompt({}, reference=json.dumps(TWO))) == PAIRS


@pytest.mark.parametrize(
    "row",
    [
        {"input_output": json.dumps({"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]})},
        {"tests": {"inputs": [[1, 2]], "outputs": [3]}, "fn_name": "add"},
        {"public_test_cases": [{"input": "1\n2", "output": "3", "testtype": "functional"}], "metadata": {"func_name": "add"}},
    ],
)  # fmt: skip
def test_layouts_of_function_calls(row: dict[str, Any]) -> None:
    tests = read_tests(prompt(row))
    assert isinstance(tests, Calls) and tests.calls == (([1, 2], 3),) and tests.names[0] == "add"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({}, "no tests in the row"),
        ({"tests": []}, "no tests in the row"),
        ({"tests": [3]}, "not known"),
        ({"tests": {"inputs": ["1"], "outputs": []}}, "1 inputs and 0 outputs"),
        ({"private_test_cases": "eJxrYJmax8gABhHlQEZxfm5qQWJyqhIA"}, "packed"),
        ({"answer": "42"}, "no tests in the row"),
    ],
)
def test_a_row_without_tests_is_a_skip(row: dict[str, Any], why: str) -> None:
    with pytest.raises(NoTests, match=why):
        read_tests(prompt(row))
    assert judged(row, "print(1)").outcome == "skip"


def test_a_reference_that_is_a_body_becomes_a_whole_program() -> None:
    row = {"entry_point": "half", "test": "x"}
    for body in ("    return x / 2", "return x / 2"):
        assert gold_program(prompt(row, reference=body, question=STUB)) == f"{STUB}    return x / 2"
    assert gold_program(prompt({"code": "x = 1\r\n"})) == "x = 1\n"
    assert gold_program(prompt({"input_output": json.dumps(TWO)}, reference=json.dumps(TWO))) is None
    assert CodeVerifier().gold_text(prompt({"code": "x = 1"})) == "````python\nx = 1\n````\n"


# -- verdicts ----------------------------------------------------------------------------------------------------------

ADD = "def add(a, b): return a + b"


@sandboxed
def test_statements_decide() -> None:
    assert judged(ROW, fenced(ADD)) == Score(1.0, reason="passed 3 of 3 tests")
    wrong = judged(ROW, fenced("def add(a, b): return a + b if a < 9 else 0"))
    assert wrong == Score(0.0, reason="assert add(10, 20) == 30: AssertionError")


@sandboxed
def test_a_share_of_the_tests_is_given_where_asked_for() -> None:
    right_twice = fenced("def add(a, b): return a + b if a < 9 else 0")
    assert judged(ROW, right_twice, partial=True).value == pytest.approx(2 / 3)
    streams = {"tests": LIST}
    assert judged(streams, fenced("input()\nprint(9)"), partial=True).value == 0.5
    check = {
        "test": "def check(f):\n    assert f(1) == 1\n    assert f(2) == 4\n    for i in (3, 4): assert f(i) == i * i",
        "entry_point": "f",
    }
    # f(1) alone is right; f(2), f(3), f(4) are not
    assert judged(check, fenced("def f(x): return x"), partial=True).value == 0.25
    assert judged(check, fenced("def f(x): return x * x"), partial=True).value == 1.0


@sandboxed
def test_standard_input_and_output_decide() -> None:
    row = {"tests": LIST}
    assert judged(row, fenced("a, b = map(int, input().split())\nprint(a + b)")).value == 1.0
    assert (
        judged(
            row,
            fenced("import sys\na, b = map(int, sys.stdin.read().split())\nprint(a + b, '\\n\\n')\nexit()"),
        ).value
        == 1.0
    )
    wrong = judged(row, fenced("a, b = map(int, input().split())\nprint(a * b)"))
    assert wrong == Score(0.0, reason="test 1: printed '2\\n', expected '3\\n'")
    assert judged(row, fenced("import os\nprint(3)\nos._exit(1)")).reason == "test 1: exit code 1"
    assert "ZeroDivisionError" in judged(row, fenced("1 / 0")).reason


@sandboxed
def test_function_calls_decide() -> None:
    row = {"input_output": {"fn_name": "f", "inputs": [[[3, 1]], [[2]]], "outputs": [[1, 3], [[2]]]}}
    assert judged(row, fenced("def f(x): return tuple(sorted(x))")).value == 1.0
    assert judged(row, fenced("class Solution:\n    def f(self, x): return sorted(x)")).value == 1.0
    wrong = judged(row, fenced("def f(x): return x"))
    assert wrong == Score(0.0, reason="f([3, 1]) == [1, 3]: AssertionError: returned [3, 1]")


@sandboxed
def test_numbers_may_differ_by_the_tolerance() -> None:
    row = {"fn_name": "f", "tests": {"inputs": [[]], "outputs": [0.3333]}}
    third = fenced("def f(): return 1 / 3")
    assert judged(row, third).value == 0.0 and judged(row, third, tolerance=1e-3).value == 1.0
    assert same_output("x 0.3333\n", "x 0.3334", 1e-3) and not same_output("x 0.3333", "y 0.3333", 1e-3)


@sandboxed
@pytest.mark.parametrize(
    "program",
    [
        "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\ndef total(pairs): return sum(p.a * p.b for p in pairs)",
    ],
)
def test_objects_of_the_program_s_own_classes_stay_with_it(program: str) -> None:
    row = {"tests": ["assert total([Pair(1, 2), Pair(3, 4)]) == 14", "assert Pair(1, 2).a == 1"]}
    assert judged(row, fenced(program)).value == 1.0


@sandboxed
def test_values_cross_as_they_are() -> None:
    values = "[1, -2**70, 1.5, float('inf'), 'a\\udc80\\0', b'x', (1, [2]), {1, 2}, frozenset(), {1: {'a': None}}, 2j, ..., range(3), int]"
    row = {
        "tests": [
            f"assert same({values}) == {values}",
            "x = [3, 1]\nsort(x)\nassert x == [1, 3]",
            "assert list(gen()) == [0, 1]",
        ]
    }
    program = "def same(x): return x\ndef sort(x): x.sort()\ndef gen(): yield from range(2)"
    assert judged(row, fenced(program)) == Score(1.0, reason="passed 3 of 3 tests")


@sandboxed
def test_a_builtin_is_the_program_s_own_only_when_the_reference_defines_it() -> None:
    program = fenced("def abs(x): return 0\ndef f(): return 7")
    assert judged({"tests": ["assert abs(f() - 8) < 1"], "code": "def f(): return 8"}, program).value == 0.0
    assert (
        judged(
            {"tests": ["assert sum(1, 2) == 12"], "code": "def sum(a, b): return 12"},
            fenced("def sum(a, b): return 12"),
        ).value
        == 1.0
    )


@sandboxed
def test_a_module_that_the_reference_imports_is_the_tests_own() -> None:
    row = {"tests": ["assert f() == math.floor(2.5)"], "code": "import math\ndef f(): return 2"}
    assert judged(row, fenced("class math:\n    floor = lambda x: 9\ndef f(): return 9")).value == 0.0
    assert judged(row, fenced("def f(): return 2")).value == 1.0


@sandboxed
def test_cases_of_unittest_decide() -> None:
    test = (
        "import unittest\nclass Cases(unittest.TestCase):\n"
        "    def test_one(self): self.assertEqual(f(1), 1)\n    def test_two(self): self.assertEqual(f(2), 4)"
    )
    row = {"test": test, "entry_point": "f"}
    assert judged(row, fenced("def f(x): return x * x")).value == 1.0
    wrong = judged(row, fenced("def f(x): return x"))
    assert wrong == Score(0.0, reason="AssertionError: tests.Cases.test_two: AssertionError: 2 != 4")
    assert judged(row, fenced("def f(x): return x"), partial=True).value == 0.5
    assert judged(row, fenced("import os\ndef f(x): os._exit(0)")).value == 0.0


@sandboxed
@pytest.mark.parametrize(
    ("tests", "why"),
    [
        (["f(1)"], "assert nothing"),
        (["assert f( == 1"], "no Python"),
        (["assert f(lambda x: x) == 1"], "passes type function"),
    ],
)
def test_tests_that_cannot_be_run_are_a_skip(tests: list[str], why: str) -> None:
    score = judged({"tests": tests}, fenced("def f(x): return 1"))
    assert score.outcome == "skip" and why in score.reason


@sandboxed
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (fenced("def add(a, b) return a"), "SyntaxError"),
        ("I do not know.", "SyntaxError"),
        ("", "no program"),
        (fenced("raise ValueError('no')"), "ValueError: no"),
        (fenced("def add(a, b): return a.b"), "AttributeError"),
        (fenced("def add(a, b):\n    while True: pass"), "not done after 2 s"),
    ],
)
def test_what_goes_wrong_in_a_program_is_its_fault(text: str, why: str) -> None:
    score = judged(ROW, text, timeout=2.0)
    assert score.outcome == "score" and score.value == 0.0 and why in score.reason


@sandboxed
def test_a_failure_of_the_tests_own_process_is_an_error() -> None:
    """They flood: whatever the program is, this row cannot be judged."""
    row = {"tests": ["assert f() == 1\nwhile True: print('y' * 1000)"]}
    with pytest.raises(RolloutError, match="without a verdict: wrote more than 1 MiB"):
        judged(row, fenced("def f(): return 1"), output=1)
    calm = {"tests": ["assert f() == 1\nimport os\nos._exit(0)"]}
    with pytest.raises(RolloutError, match="without a verdict"):
        judged(calm, fenced("def f(): return 1"))


@sandboxed
def test_reasons_hold_no_control_characters() -> None:
    score = judged(ROW, fenced("raise ValueError('\\x1b[2J')"))
    assert score.value == 0.0 and "\x1b" not in score.reason and "\\x1b[2J" in score.reason


def test_json_equality() -> None:
    assert tester.same({1: (1, 2)}, {"1": [1, 2]}, 0.0) and not tester.same([1], [1, 2], 0.0)
    assert not tester.same(float("nan"), 1.0, 1.0)


def test_a_verifier_pickles_and_checks_its_options() -> None:
    verifier = CodeVerifier(partial=True, memory=256)
    assert pickle.loads(pickle.dumps(verifier)) == verifier
    with pytest.raises(ConfigError, match="code.memory = 8"):
        CodeVerifier(memory=8)


@sandboxed
@pytest.mark.skipif(DATA is None, reason="RLKIT_DATA is not set")
def test_references_of_humaneval_and_mbpp_pass() -> None:
    """A few of each; all of them in benchmarks/code_rewards.py."""
    assert DATA is not None
    verifier = CodeVerifier()
    for name in ("humaneval.jsonl", "mbpp.jsonl"):
        rows = [json.loads(line) for line in Path(DATA, name).read_text("utf-8").splitlines()]
        for row in rows[:: len(rows) // 5]:
            item = Prompt(
                id=row["id"], token_ids=[], question=row["prompt"], reference=row["answer"], row=row
            )
            text = verifier.gold_text(item)
            assert text is not None and verifier(item, text).value == 1.0, row["id"]
