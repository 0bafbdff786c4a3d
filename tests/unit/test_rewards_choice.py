"""The `choice` verifier: which option a text settles on, and which letters are no answers."""

import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlkit.rewards import ChoiceVerifier, make_verifier
from rlkit.rewards.choice_reading import read_options
from rlkit.rewards.options import lettered, option_texts
from rlkit.types import Prompt, Score

OPTIONS = ["Rome", "Paris", "Bonn", "Paris, Texas", "5", "5 km", "1/2", "E. coli"]


def asked(gold: str | None, question: str = "", **row: Any) -> Prompt:
    return Prompt(id="p", token_ids=[], reference=gold, question=question, row=row)


def rows(name: str) -> Iterator[dict[str, Any]]:
    folder = os.environ.get("RLKIT_DATA")
    if folder is None:
        pytest.skip("RLKIT_DATA is not set: it names the folder with bbh.jsonl.gz, mmlu_pro.jsonl.gz, ...")
    for line in gzip.decompress((Path(folder) / name).read_bytes()).decode().split("\n"):
        if line:
            yield json.loads(line)


@pytest.mark.parametrize(
    ("letter", "text"),
    [
        ("C", "The answer is (C)."),
        ("C", "The answer is C"),
        ("C", "the answer is c."),
        ("C", "Answer: C"),
        ("C", "**Answer: C**"),
        ("C", "Answer: **C**"),
        ("C", "**Answer:** C"),
        ("C", "**Final Answer**\n\n(C)"),
        ("C", "### Answer\nC"),
        ("C", "So $\\boxed{C}$."),
        ("C", "\\boxed{\\text{(C)}}"),
        ("C", "\\boxed{\\textbf{(C) }Bonn}"),
        ("C", "\\boxed{Bonn}"),
        ("C", "\\[\\boxed{\\text{C}}\\]"),
        ("C", "#### C"),
        ("C", "<answer>C</answer>"),
        ("C", "<answer> (C) Bonn </answer>"),
        ("C", "The correct answer is option C."),
        ("C", "The correct option is: (C) Bonn."),
        ("C", "The best answer is therefore **(C)**."),
        ("C", "The answer must be C because the others are wrong."),
        ("C", "The answer is for sure C, it can't be A or B"),
        ("C", "thinking about it I think the correct answer is C"),
        ("C", "C. it can't be A or B"),
        ("C", "The answer: C, it doesn't make sense for it to be A or B"),
        ("C", "C"),
        ("C", "(C)"),
        ("C", "C) Bonn"),
        ("C", "C: Bonn"),
        ("C", "Bonn"),
        ("C", "bonn."),
        ("C", "I think it is a capital.\nBonn"),
        ("C", "I choose C."),
        ("C", "I would go with option (C)."),
        ("C", "Option C is correct."),
        ("C", "Option (C) is the correct answer."),
        ("C", "Therefore, option C is the best answer here."),
        ("C", "(C) is the answer."),
        ("C", "(C) is correct, and (A) is not correct."),
        ("C", "The answer is (B). Wait, actually the answer is (C)."),
        ("C", "The answer is not (B). The answer is (C)."),
        ("C", "The answer is C, not B."),
        ("C", "If the answer is B then ... no. The answer is (C). If the answer is (B), it would be Paris."),
        ("C", "I don't think the answer is B. The answer is C"),
        ("C", "The answer is (C)\n\nQuestion: what?\nAnswer: (B)"),
        ("C", "<think>The answer is (B)?</think>The answer is (C)"),
        ("C", "Answer: Option C"),
        ("C", "Answer - C"),
        ("C", 'My final answer is "C".'),
        ("C", "The answer to this question is C."),
        ("C", "The answer to the question is clearly (C)"),
        ("C", "The answer is $C$."),
        ("C", "The answer is \\(C\\)."),
        ("C", "The answer is: \n\nC"),
        ("C", "Correct answer: C) Bonn"),
        ("C", "The answer choice is C"),
        ("C", "Answer choice: C"),
        ("C", "The answer is choice (C)"),
        ("C", "The answer is therefore C"),
        ("C", "The answer, therefore, is (C)."),
        ("C", "The answer is \\boxed{C}"),
        ("C", "The final answer is: $\\boxed{C}$"),
        ("C", "Step 1. A is an area. Answer: C<|im_end|>"),
        ("C", "So the answer is C) Bonn"),
        ("C", "The answer is [C]."),
        ("C", "The answer is `C`."),
        ("C", "The answer is 'C'."),
        ("B", "The answer is Paris."),
        ("D", "The answer is Paris, Texas."),
        ("D", "Paris, Texas"),
        ("E", "The answer is 5."),
        ("F", "The answer is 5 km."),
        ("G", "The answer is 1/2."),
        ("H", "The answer is E. coli."),
        ("E", "The answer is E."),
        ("A", "The answer is A."),
        ("A", "The answer is A"),
        ("A", "The answer is A, because it is old."),
        ("A", "The answer is A because it is old."),
        ("A", "A"),
        ("A", "The answer is A: Rome."),
    ],
)
def test_the_option_that_a_text_settles_on_is_read(letter: str, text: str) -> None:
    reading = read_options(text, OPTIONS)
    assert reading is not None and reading.letters == (letter,)


@pytest.mark.parametrize(
    "text",
    [
        "The answer is not B.",
        "The answer isn't B.",
        "It can't be C.",
        "I doubt that the answer is (C).",
        "If the answer is C, then x.",
        "The answer is a person of wisdom.",
        "The answer is I don't know.",
        "Thus C = 5 and A + B = C",
        "The answer is C = 5",
        "We have the energy E.",
        "So (A) is wrong, (B) is wrong.",
        "The answer is none of the above.",
        "(A) Rome\n(B) Paris\n(C) Bonn",
        "",
        "The answer is",
        "The answer is one of A, B.",
        "The answer is K",
        "Option C is not correct.",
        "I would not choose C.",
        "The answer is 5 m.",
        "The answer is 5.5",
        "The answer is Parisian",
        "The answer is C-14.",
        "Is option C correct?",
        "Vitamin C",
        "The answer is Dr. No",
        "The answer key says nothing",
        "The answer is D'Artagnan",
        "Each option is judged in turn: A) no. B) no. C) yes, perhaps.\n\nA = B + C",
        "The answer is (8.5).",
        "The answer is among (A) and (B).",
    ],
)
def test_what_is_denied_doubted_or_only_mentioned_is_no_answer(text: str) -> None:
    assert read_options(text, OPTIONS) is None


@pytest.mark.parametrize(
    "text",
    [
        "The answer is A or B.",
        "The answer is (A) and (B).",
        "The answer is (A), (B), and (C).",
        "The answer is A/B",
        "\\boxed{A, B}",
        "The answer is either A or B",
    ],
)
def test_a_claim_of_several_options_is_read_as_several_and_is_wrong(text: str) -> None:
    reading = read_options(text, OPTIONS)
    assert reading is not None and len(reading.letters) > 1
    assert ChoiceVerifier()(asked("A", options=OPTIONS), text).value == 0.0


def test_the_reason_names_what_was_read_and_where() -> None:
    verify = ChoiceVerifier()
    prompt = asked("B", options=OPTIONS)
    assert verify(prompt, "The answer is (B).") == Score(
        1.0, reason="read (B) 'Paris' after 'answer is'; the gold option is (B)"
    )
    assert verify(prompt, r"So \boxed{C}").reason == "read (C) 'Bonn' in the last box; the gold option is (B)"
    assert verify(prompt, "no idea") == Score(
        0.0, reason="no option is named as the answer; the gold option is (B)"
    )
    assert verify(asked(None), "B") == Score(None, reason="no gold answer")
    index = verify(asked("9", options=OPTIONS), "B")
    assert index.outcome == "skip" and "the gold answer '9' is none of the 8 options" in index.reason
    assert verify(asked("A, C", options=OPTIONS), "The answers are (C) and (A).").value == 1.0
    assert verify(asked("A, C", options=OPTIONS), "The answer is (C).").value == 0.0


def test_gold_answers_are_letters_texts_or_indices() -> None:
    for gold in ("(B)", "B", "B.", "B) Paris", "Paris", "paris"):
        assert ChoiceVerifier()(asked(gold, options=OPTIONS), "The answer is (B)").value == 1.0, gold
    assert ChoiceVerifier(first=0)(asked("1", options=OPTIONS), "The answer is Paris").value == 1.0
    assert make_verifier("choice(first=1)") == ChoiceVerifier(first=1)
    assert ChoiceVerifier(column="texts")(asked("A", texts=["x y", "z"]), "x y").value == 1.0


def test_options_are_found_in_the_row_or_in_the_question() -> None:
    assert option_texts('["Rome", "Paris"]') == option_texts({"A": "Rome", "B": "Paris"}) == ("Rome", "Paris")
    assert lettered("Q?\nA. one\nB. two\nlines\nC. three") == ("one", "two\nlines", "three")
    assert lettered("(A) is a set. Which?\n(A) 1 (B) 2 (C) 3") == ("1", "2", "3")
    assert lettered("Vitamin A. Or B?") == ()
    assert ChoiceVerifier()(asked("(B)", "Where?\n(A) Rome\n(B) Paris"), "It is\nParis").value == 1.0


@pytest.mark.parametrize(
    ("gold", "question", "right", "wrong"),
    [
        ("No", "Is it?\nOptions:\n- Yes\n- No", "So the answer is No, he left.", "So the answer is Yes."),
        ("yes", "Is it plausible?", "So the answer is yes.", "Yes and no. So the answer is no."),
        (
            "invalid",
            "?\nOptions:\n- valid \n- invalid",
            "Therefore, the argument is invalid.",
            "It is valid.",
        ),
        (
            "valid",
            "?\nOptions:\n- valid \n- invalid",
            "The answer is deductively valid.",
            "The answer is not valid.",
        ),
        ("True", "not False is", "The answer is True", "no reason is True, the answer is False"),
        ("-35", "((-1 + 2)) =", "So the answer is -35.", "So the answer is 35."),
        ("8", "How many?", "The answer is 8 objects.", "The answer is 18."),
        ("] ) >", "Complete", "So the answer is ]) >.", "So the answer is ] >"),
        ("barn damp dot", "Sort", "Answer:\n1. barn\n2. damp\n3. dot", "The answer is barn, dot, damp."),
    ],
)
def test_short_answers_are_read_by_what_the_gold_one_is(
    gold: str, question: str, right: str, wrong: str
) -> None:
    verify = ChoiceVerifier()
    assert verify(asked(gold, question), right).value == 1.0
    assert verify(asked(gold, question), wrong).value == 0.0
    assert verify(asked(gold, question), "").value == 0.0


def test_labelled_completions_of_three_models_are_judged_as_their_label_says() -> None:
    """748 of 748 when this was written; the label is by the first 'answer is (X)'."""
    wrong, count = [], 0
    for row in rows("graded_completions.jsonl.gz"):
        if row["dataset"] == "MMLU-Pro" and not row["disputed"]:
            score = ChoiceVerifier()(asked(row["gold"], row["prompt"]), row["completion"])
            count += 1
            if (score.value == 1.0) != row["label"]:
                wrong.append((row["id"], score.reason))
    assert len(wrong) <= 0.002 * count, wrong


@pytest.mark.parametrize("name", ["bbh.jsonl.gz", "mmlu_pro.jsonl.gz"])
def test_every_gold_answer_scores_1_in_each_usual_form(name: str) -> None:
    verify, failed = ChoiceVerifier(), []
    for row in list(rows(name))[:: 3 if name.startswith("mmlu") else 1]:
        prompt = asked(row["answer"], row["prompt"], **row)
        gold = row["answer"]
        for text in (verify.gold_text(prompt), f"Not (B).\n\n**Answer: {gold}**", f"Thus,\n{gold}"):
            score = verify(prompt, text or "")
            if score.value != 1.0:
                failed.append((row["id"], text, score.reason))
    assert not failed, failed[:5]


def test_every_other_option_scores_0() -> None:
    wrong = []
    for row in list(rows("mmlu_pro.jsonl.gz"))[:1500]:
        prompt = asked(row["answer"], options=row["options"])
        for place in range(len(row["options"])):
            letter = chr(ord("A") + place)
            score = ChoiceVerifier()(prompt, f"The answer is ({letter}).")
            if (score.value == 1.0) != (letter == row["answer"]):
                wrong.append((row["id"], letter, score.reason))
    assert not wrong, wrong[:5]


@pytest.mark.parametrize(
    "piece", ["\n", "answer is ", "(A) ", "\\boxed{", "\\text{", " ", "A, ", "<answer>", "**", "option A is "]
)
def test_a_megabyte_is_read_in_seconds(piece: str) -> None:
    began = time.monotonic()
    for gold in ("A", "a b c"):
        ChoiceVerifier()(
            asked(gold, options=["x", "y"] if gold == "A" else []), piece * (1_000_000 // len(piece))
        )
    assert time.monotonic() - began < 20
