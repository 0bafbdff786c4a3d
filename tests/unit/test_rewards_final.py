"""The final answer as votes count it: equal answers are equal texts, and nothing but an answer votes."""

import pickle

import pytest

from rlkit.rewards.choice import ChoiceVerifier
from rlkit.rewards.final import AnswerReader, boxed_answer, line_answer, maths_answer, no_answer, reader_of
from rlkit.types import Prompt

ASKED = Prompt(id="a", token_ids=[])


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{\frac{1}{2}}",
        r"\boxed{0.5}",
        r"so $\boxed{\dfrac{2}{4}}$",
        "The answer is 1/2.",
        r"\boxed{50\%}",
    ],
)
def test_a_rational_number_is_its_value(text: str) -> None:
    assert maths_answer(ASKED, text) == "1/2"


def test_other_mathematics_is_its_text_without_spacing() -> None:
    assert maths_answer(ASKED, r"\boxed{x + 1}") == maths_answer(ASKED, r"\boxed{x+1}") == "x+1"
    assert maths_answer(ASKED, r"\boxed{(1, 2)}") != maths_answer(ASKED, r"\boxed{(2, 1)}")


@pytest.mark.parametrize("text", ["", r"\boxed{}", r"\boxed{1"])
def test_without_an_answer_there_is_no_vote(text: str) -> None:
    assert maths_answer(ASKED, text) is None and boxed_answer(ASKED, text) is None


@pytest.mark.parametrize(
    "text", [r"\boxed{9^{9^{9^9}}}", r"\boxed{1/0}", r"\boxed{100000!}", r"\boxed{2^{99999}}"]
)
def test_what_cannot_be_worked_out_is_its_text(text: str) -> None:
    assert maths_answer(ASKED, text) is not None


QUESTION = Prompt(
    id="b", token_ids=[], question="Which is the capital?", reference="B", row={"options": ["Rome", "Paris"]}
)
SHORT = Prompt(id="c", token_ids=[], question="Is it?", reference="Yes")


@pytest.mark.parametrize(
    ("prompt", "text", "want"),
    [
        (QUESTION, "The answer is (B).", "B"),
        (QUESTION, r"\boxed{B}", "B"),
        (QUESTION, "Not (A). The answer is Paris.", "B"),
        (QUESTION, "**Answer: b**", "B"),
        (QUESTION, "The answer is A, no: the answer is (B) Paris, since I was there.", "B"),
        (QUESTION, "The answer is A or B.", "A and B"),
        (QUESTION, "Let A = 5.", None),
        (QUESTION, "The answer is (C).", None),  # there are two options
        (SHORT, "So the answer is Yes, he did.", "yes"),
        (SHORT, "Answer: no", "no"),
        (SHORT, "", None),
    ],
)
def test_a_vote_on_a_choice_is_for_what_the_verdict_is_on(
    prompt: Prompt, text: str, want: str | None
) -> None:
    verify = ChoiceVerifier()
    assert verify.answer(prompt, text) == want
    right = {"b": "B", "c": "yes"}[prompt.id]
    assert verify(prompt, text).value == float(want == right)


def test_the_reader_follows_the_reward() -> None:
    assert (
        reader_of("math", False)
        is reader_of("auto", False)
        is reader_of("0.1*format + math", False)
        is maths_answer
    )
    assert reader_of("auto", True) is boxed_answer and reader_of("exact", True) is line_answer
    assert reader_of("code", False) is reader_of("format", False) is no_answer
    by_column = reader_of("choice(column='options')", False)
    assert getattr(by_column, "__self__", None) == ChoiceVerifier(column="options")
    reader = pickle.loads(
        pickle.dumps(AnswerReader(reader_of("choice", False)))
    )  # it works in other processes
    assert reader(QUESTION, "The answer is Paris.").reason == "B"
    assert line_answer(ASKED, "one\n\n two  words ") == "two words" and no_answer(ASKED, "anything") is None
