"""The kinds that need no server: numbers, patterns, texts, JSON, steps and shaping; right, wrong, unreadable, hanging."""

import gzip
import json
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlkit.errors import ConfigError
from rlkit.rewards import (
    VERIFIERS,
    ExactVerifier,
    FormatVerifier,
    JsonVerifier,
    LengthVerifier,
    NumericVerifier,
    RegexVerifier,
    RepetitionVerifier,
    StepsVerifier,
    VerifierPool,
    gold_text,
    judge,
    make_verifier,
)
from rlkit.rewards.documents import last_document, same_json
from rlkit.rewards.numeric import read_number
from rlkit.rewards.shaping import looping_piece
from rlkit.tasks import make_task
from rlkit.tasks.chain import ChainTask
from rlkit.types import Prompt, Score


def asked(gold: str | None = None, text: str = "", **row: Any) -> Prompt:
    return Prompt(id="p", token_ids=[], reference=gold, text=text, row=row)


def rows(name: str) -> Iterator[dict[str, Any]]:
    folder = os.environ.get("RLKIT_DATA")
    if folder is None:
        pytest.skip(
            "RLKIT_DATA is not set: it names the folder with minerva_math.jsonl, gsm8k_test.jsonl, ..."
        )
    path = Path(folder) / name
    text = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    for line in text.decode().split("\n"):
        if line:
            yield json.loads(line)


SPECS = {
    "numeric": "numeric(relative=0.01)",
    "regex": r"regex(pattern='(\d+)')",
    "exact": "exact(squad=true, f1=true, also=answers_alt)",
    "json": "json(equal=true)",
    "steps": "steps",
    "length": "length(limit=100)",
    "repetition": "repetition(n=3)",
    "format": "format(tags=answer, box=false)",
    "choice": "choice",
    "http": "http(url='http://localhost:8000')",
    "judge": "judge(model=m, base_url='http://localhost:8000/v1')",
}


@pytest.mark.parametrize("spec", SPECS.values())
def test_every_kind_is_named_and_goes_through_a_pickle(spec: str) -> None:
    verify = make_verifier(spec)
    assert pickle.loads(pickle.dumps(verify)) == verify


def test_no_kind_is_left_out_here() -> None:
    assert set(VERIFIERS) - {"math", "code"} <= set(SPECS)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-1,234.50", "-1234.5"),
        (r"10{,}000", "10000"),
        ("8.7e8", "870000000"),
        (r"1.5 \times 10^{-3} m", "0.0015"),
        (r"2 × 10^3", "2000"),
        ("10**6", "1000000"),
        ("$10^5$", "100000"),
        (r"\frac{3}{4}", "0.75"),
        ("3/4", "0.75"),
        ("x = y = 5 m", "5"),
        (r"\$12.50", "12.5"),
        (r"12\%", "12"),
        ("about 7 apples", "7"),
        (".5", "0.5"),
        ("−3", "-3"),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, value: str) -> None:
    number = read_number(text)
    assert number is not None and number.value == read_number(value).value  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["", "five", "x", "1/0", "10^99999999", "1e99999999", r"\frac{1}{0}"])
def test_what_is_no_number_is_none(text: str) -> None:
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("verify", "gold", "answer", "value"),
    [
        (NumericVerifier(), "3.14", r"\boxed{3.14}", 1.0),
        (NumericVerifier(), "3.14", r"\boxed{3.141}", 0.0),
        (NumericVerifier(tolerance=0.01), "3.14", "The answer is 3.15.", 1.0),  # the edge belongs to it
        (NumericVerifier(tolerance=0.01), "3.14", "The answer is 3.1501.", 0.0),
        (NumericVerifier(relative=0.05), "100", "so 105", 1.0),
        (NumericVerifier(relative=0.05), "-100", "so -94.9", 0.0),
        (NumericVerifier(), "8.7e8", r"\boxed{8.7 \times 10^{8} \text{ m}}", 1.0),
        (NumericVerifier(), "50%", "0.5", 1.0),
        (NumericVerifier(), "50", "50%", 1.0),
        (NumericVerifier(percent="number"), "0.5", "50%", 0.0),
        (NumericVerifier(percent="fraction"), "50", "50%", 0.0),
        (NumericVerifier(percent="fraction"), "0.5", "50%", 1.0),
        (NumericVerifier(), "5 m", r"\boxed{5 \text{ cm}}", 1.0),
        (NumericVerifier(units="same"), "5 m", r"\boxed{5 \text{ cm}}", 0.0),
        (NumericVerifier(units="same"), "5 cm", r"\boxed{5\,\text{cm}}", 1.0),
        (NumericVerifier(), "0", r"\boxed{0.0}", 1.0),
        (NumericVerifier(), "5", "no idea", 0.0),
        (NumericVerifier(), "5", r"\boxed{five}", 0.0),
    ],
)
def test_numbers_are_compared_within_what_is_allowed(
    verify: NumericVerifier, gold: str, answer: str, value: float
) -> None:
    assert verify(asked(gold), answer).value == value


def test_numeric_says_by_how_much_and_reads_the_rows_tolerance() -> None:
    score = NumericVerifier(relative=0)(asked("2.0", error="0.5"), r"\boxed{2.75}")
    assert score == Score(
        0.0, reason="read '2.75' in the last box, too far from '2.0' (off by 0.75, 0.5 allowed)"
    )
    assert NumericVerifier()(asked("np.arcsin(x)"), "5").outcome == "skip"
    assert NumericVerifier()(asked(None), "5") == Score(None, reason="no gold answer")


@pytest.mark.parametrize("name", ["gsm8k_test.jsonl", "aime24.jsonl", "amc23.jsonl", "minerva_math.jsonl"])
def test_numeric_accepts_every_gold_number(name: str) -> None:
    verify, failed, judged = NumericVerifier(), [], 0
    for row in rows(name):
        score = verify(asked(row["answer"]), rf"so $\boxed{{{row['answer']}}}$.")
        judged += score.value is not None
        if score.value == 0.0:
            failed.append((row["id"], score.reason))
    assert not failed and judged > (150 if name.startswith("minerva") else 25)


def test_minervas_other_forms_are_the_same_numbers() -> None:
    """`answers_alt` in scientific notation: 3.83e35 is 3.83 \\times 10^{35}."""
    failed, count = set(), 0
    for row in rows("minerva_math.jsonl"):
        for other in row.get("answers_alt") or []:
            if "e" in row["answer"] and read_number(row["answer"]) and "times" in other:
                count += 1
                if NumericVerifier()(asked(row["answer"]), rf"\boxed{{{other}}}").value != 1.0:
                    failed.add(row["answer"])
    assert failed == {
        "1.4903e4",
        "3.61e2",
        "2.45e6",
    }  # there another number is accepted too, and no other form
    assert count > 10


def test_a_pattern_finds_the_answer_or_is_it() -> None:
    verify = RegexVerifier(pattern=r"answer: (\w+)")
    assert verify(asked("Paris"), "answer: Rome, no, answer: Paris") == Score(
        1.0, reason="read 'Paris' by the pattern, which is 'Paris'"
    )
    assert verify(asked("paris"), "answer: Paris").value == 0.0
    assert (
        RegexVerifier(pattern=r"answer: (\w+)", ignore_case=True)(asked("paris"), "ANSWER: Paris").value
        == 1.0
    )
    assert verify(asked("Paris"), "Paris") == Score(0.0, reason=r"no match of 'answer: (\\w+)'")
    assert RegexVerifier(pattern=r"(\d+)-(\d+)", group=2)(asked("7"), "12-7").value == 1.0
    assert RegexVerifier()(asked(r"\b4[12]\b"), "so 42").value == 1.0
    assert RegexVerifier(whole=True)(asked(r"4[12]"), "so 42").value == 0.0
    assert RegexVerifier()(asked("("), "x").outcome == "skip"
    assert RegexVerifier()(asked(None), "x") == Score(None, reason="no gold answer")


def test_a_wrong_pattern_is_told_before_a_run() -> None:
    with pytest.raises(ConfigError, match="missing \\)"):
        make_verifier("regex(pattern='(')")
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        make_verifier("regex(pattern='(a)', group=2)")


def test_a_pattern_that_never_ends_is_an_error_and_not_a_0() -> None:
    began = time.monotonic()
    score = RegexVerifier(pattern=r"(?:(?:a|aa)+)+$", timeout=0.3)(asked("x"), "a" * 100 + "!")
    assert score.outcome == "error" and "did not end within 0.3 s on 101 characters" in score.reason
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("verify", "gold", "answer", "value"),
    [
        (ExactVerifier(), "Paris", "paris", 0.0),
        (ExactVerifier(ignore_case=True), "Paris", "paris", 1.0),
        (ExactVerifier(ignore_punctuation=True), "U.S.", "US", 1.0),
        (ExactVerifier(ignore_articles=True), "The Beatles", "Beatles", 1.0),
        (ExactVerifier(ignore_articles=True), "The Beatles", "beatles", 0.0),
        (ExactVerifier(squad=True), "The Beatles", "beatles!", 1.0),
        (ExactVerifier(also="other"), "one", "uno", 1.0),
        (ExactVerifier(also="other"), "one", "due", 0.0),
        (ExactVerifier(f1=True, squad=True), "New York City", "in New York", 2 / 3),
        (ExactVerifier(f1=True, also="other"), "New York", "uno", 1.0),
        (ExactVerifier(f1=True), "New York", "Rome", 0.0),
        (ExactVerifier(), None, "Rome", None),
    ],
)
def test_texts_are_compared_as_loosely_as_asked(
    verify: ExactVerifier, gold: str | None, answer: str, value: float | None
) -> None:
    assert verify(asked(gold, other=["uno", "ein"]), answer).value == pytest.approx(value)


SCHEMA = '{"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}, "additionalProperties": false}'


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ('{"city": "Rome"}', 1.0, "valid"),
        ('Here it is:\n```json\n{"city": "Rome"}\n```\nand {"no": 1}', 1.0, "in the last fenced block"),
        ('first {"city": 1}, then {"city": "Rome"}.', 1.0, "at the end"),
        ('{"city": 1}', 0.0, "not valid: 1 is not of type 'string' at $.city"),
        ('{"town": "Rome"}', 0.0, "not valid"),
        ('{"city": "Rome"', 0.0, "no JSON document in the answer"),
        ('{"city": "Rome", "city": "Bonn"}', 0.0, "no JSON document"),
        ("[NaN]", 0.0, "no JSON document"),
        ("", 0.0, "no JSON document"),
        ("[" * 100_000, 0.0, "no JSON document"),
        ("9" * 100_000, 0.0, "no JSON document"),
    ],
)
def test_a_document_is_found_and_held_against_its_schema(text: str, value: float, reason: str) -> None:
    score = JsonVerifier(schema=SCHEMA)(asked(), text)
    assert score.value == value and reason in score.reason, score


def test_schemas_come_from_a_file_a_text_or_the_row(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(SCHEMA)
    for verify, row in (
        (JsonVerifier(schema=str(path)), {}),
        (JsonVerifier(), {"schema": json.loads(SCHEMA)}),
        (JsonVerifier(column="s"), {"s": SCHEMA}),
    ):
        assert verify(asked(**row), '{"city": "Rome"}').value == 1.0
        assert verify(asked(**row), '{"city": 5}').value == 0.0
    assert JsonVerifier()(asked(), "[1, 2]").value == 1.0
    assert JsonVerifier()(asked(schema="{"), "[1]").outcome == "skip"
    for schema, sentence in [
        ("no.json", "No such file"),
        ("{", "no JSON"),
        ('{"type": 5}', "is not valid under any"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            JsonVerifier(schema=schema)


def test_the_gold_document_is_compared_as_json() -> None:
    verify = JsonVerifier(equal=True)
    gold = asked('{"a": 1, "b": [true, null]}')
    assert verify(gold, '{"b": [true, null], "a": 1.0}').value == 1.0
    assert verify(gold, '{"b": [1, null], "a": 1}').value == 0.0
    assert verify(gold, gold_text(verify, gold) or "").value == 1.0
    assert verify(asked("{"), "[]").outcome == "skip" and verify(asked(None), "[]").outcome == "skip"
    assert not same_json([1], [1, 1]) and not same_json({"a": 1}, {"b": 1}) and not same_json(0, False)
    assert last_document("none") is None


def test_no_schema_reaches_out(tmp_path: Path) -> None:
    """A `$ref` to an address or a file is an error: nothing is fetched."""
    for target in ("http://127.0.0.1:1/schema.json", "file:///etc/passwd"):
        score = judge(JsonVerifier(), asked(schema={"$ref": target}), "{}")
        assert score.outcome == "error" and "it refers to what is not in it" in score.reason


def test_steps_are_counted_and_the_first_wrong_one_is_named() -> None:
    verify = StepsVerifier()
    steps = asked("6", steps=["a7+4=1", "b1*3=3", "c3-5=8", "d8*2=6"])
    assert verify(steps, "<steps>a7+4=1b1*3=3c3-5=8d8*2=6\\boxed{6}").value == 1.0
    slip = verify(steps, "<steps>a7+4=1b1*3=3c3-5=7d7*2=4\\boxed{4}")
    assert slip == Score(
        0.5,
        reason="2 of 4 steps right; the first that is not: 'c3-5=8', written 'c3-5=7'",
        parts={"written": 0.75},
    )
    assert verify(steps, "<now>\\boxed{6}").value == 0.0
    assert "which is not written" in verify(steps, "").reason
    mended = verify(steps, "<check>a7+4=1b1*3=3c3-5=8d8*2=5;d8*2=6\\boxed{6}")
    assert mended.value == 1.0
    assert verify(steps, "a7+4=12").value == 0.0
    assert verify(asked("6"), "x").outcome == "skip"
    assert verify(steps, gold_text(verify, steps) or "").value == 1.0


def test_the_steps_of_task_chain_are_its_own() -> None:
    """Demonstrations in steps are right 9 times of 10, and a right one has every step right."""
    import random

    task, verify, rng = make_task("task:chain"), make_verifier("steps"), random.Random(0)
    assert isinstance(task, ChainTask)
    whole = 0
    for index in range(200):
        item = task.item("train", index)
        prompt = Prompt(id="p", token_ids=[], question=item["prompt"], reference=item["answer"], row=item)
        text = task.demonstrate(item, "<steps>", rng)
        share, right = judge(verify, prompt, text).value, task.verify(prompt, text).value
        assert share is not None and (share == 1.0) <= (right == 1.0)
        whole += share == 1.0
    assert 165 <= whole <= 195


def test_length_falls_evenly_between_its_two_ends() -> None:
    verify = LengthVerifier(limit=10, target=4)
    values = [verify(asked(), "x" * n).value for n in (0, 1, 4, 7, 10, 11)]
    assert values == [0.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert LengthVerifier(limit=4, unit="words")(asked(), "a b c").value == 0.5
    with pytest.raises(ConfigError, match="less than limit = 10"):
        make_verifier("length(limit=10, target=10)")


def test_repetition_is_the_share_of_n_grams_met_before() -> None:
    verify = RepetitionVerifier(n=2)
    assert verify(asked(), "so it is so it is").value == pytest.approx(
        2 / 5
    )  # so it, it is, is so | so it, it is
    assert verify(asked(), "a b c d").value == 0.0 and verify(asked(), "").value == 0.0
    loop = verify(asked(), "Let us see. " + "the value of the interest rate is " * 20)
    assert loop.value == 1.0 and loop.parts == {"loop": 1.0} and "in a loop of" in loop.reason
    assert looping_piece("a b c a b c a b".split(), 3) == []
    assert verify(asked(), "x = 1 x = 2").value == pytest.approx(1 / 5)


def test_loops_of_base_models_are_found() -> None:
    """Of the labelled MMLU-Pro completions that never say an answer, most end in a loop; of the others, none in a hundred does."""
    loops = {True: 0, False: 0}
    seen = {True: 0, False: 0}
    for row in rows("graded_completions.jsonl.gz"):
        if row["dataset"] == "MMLU-Pro":
            answered = "answer is (" in row["completion"]
            seen[answered] += 1
            loops[answered] += RepetitionVerifier()(asked(), row["completion"]).value == 1.0
    assert loops[False] > 0.25 * seen[False] and loops[True] <= 0.01 * seen[True], (loops, seen)


@pytest.mark.parametrize(
    ("verify", "text", "value"),
    [
        (FormatVerifier(tags="think"), r"<think>6*7</think> \boxed{42}", 1.0),
        (FormatVerifier(tags="think"), r"<think>\boxed{1}?</think> \boxed{42}", 1.0),
        (FormatVerifier(tags="think"), r"\boxed{42}", 0.0),
        (FormatVerifier(tags="think"), r"<think></think>\boxed{42}", 0.0),
        (FormatVerifier(tags="think"), r"So <think>x</think>\boxed{42}", 0.0),
        (FormatVerifier(tags="think"), r"<think>x</think><think>y</think>\boxed{42}", 0.0),
        (FormatVerifier(tags="think"), "<think>x</think>42", 0.0),
        (FormatVerifier(tags="think", box=False), "<think>x</think>42", 1.0),
        (FormatVerifier(tags="think", box=False), "<think>x</think> ", 0.0),
        (FormatVerifier(tags="answer", box=False), "<think>\nx\n</think>\n<answer>\n42\n</answer>", 1.0),
        (FormatVerifier(tags="answer", box=False), "<think>x</think><answer>42</answer> and more", 0.0),
        (FormatVerifier(tags="answer", box=False), "<answer>42</answer><think>x</think>", 0.0),
        (FormatVerifier(tags="answer"), r"<think>x</think><answer>\boxed{42}</answer>", 1.0),
    ],
)
def test_tags_are_in_order_and_the_box_is_in_the_answer(
    verify: FormatVerifier, text: str, value: float
) -> None:
    score = verify(asked("42"), text)
    assert score.value == value, score
    assert verify(asked("42"), verify.gold_text(asked("42")) or "").value == 1.0


def test_a_thought_that_the_template_opened_counts() -> None:
    verify = FormatVerifier(tags="think", box=False)
    assert verify(asked(text="<|assistant|><think>\n"), "x</think>42").value == 1.0
    assert verify(asked(text="<|assistant|>"), "x</think>42").value == 0.0


HOSTILE = [
    "\n" * 10**6,
    "[" * 10**6,
    "{" * 10**6,
    "<think>" * 10**5,
    "1" * 10**6,
    "a " * 5 * 10**5,
    "\\boxed{" * 10**5,
    "\0" * 10**5,
]


def test_a_megabyte_of_anything_costs_no_kind_its_deadline() -> None:
    local = [spec for kind, spec in SPECS.items() if kind not in ("http", "judge")]
    items = [(asked("5", steps=["7+4=11"]), text) for text in HOSTILE]
    with VerifierPool(make_verifier(" + ".join(local)), workers=2, timeout=60.0) as pool:
        scores = pool.score(items)
    assert [s.outcome for s in scores] == ["score"] * len(items), [s.reason[:300] for s in scores]
    assert all(len(s.parts) >= len(local) for s in scores)
