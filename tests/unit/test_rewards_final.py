"""The final answer as votes count it: equal answers are equal texts, and nothing but an answer votes."""

import pytest

from rlkit.rewards.final import boxed_answer, choice_answer, line_answer, maths_answer, no_answer, reader_of


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
    assert maths_answer(text) == "1/2"


def test_other_mathematics_is_its_text_without_spacing() -> None:
    assert maths_answer(r"\boxed{x + 1}") == maths_answer(r"\boxed{x+1}") == "x+1"
    assert maths_answer(r"\boxed{(1, 2)}") != maths_answer(r"\boxed{(2, 1)}")


@pytest.mark.parametrize("text", ["", r"\boxed{}", r"\boxed{1"])
def test_without_an_answer_there_is_no_vote(text: str) -> None:
    assert maths_answer(text) is None and boxed_answer(text) is None


@pytest.mark.parametrize(
    "text", [r"\boxed{9^{9^{9^9}}}", r"\boxed{1/0}", r"\boxed{100000!}", r"\boxed{2^{99999}}"]
)
def test_what_cannot_be_worked_out_is_its_text(text: str) -> None:
    assert maths_answer(text) is not None


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The answer is (B).", "B"),
        (r"\boxed{B}", "B"),
        ("The answer is B) Paris", "B"),
        (r"\boxed{A man}", "A man"),
        ("Answer: yes", "yes"),
    ],
)
def test_a_choice_is_its_letter(text: str, want: str) -> None:
    assert choice_answer(text) == want


def test_the_reader_follows_the_reward() -> None:
    assert (
        reader_of("math", False)
        is reader_of("auto", False)
        is reader_of("0.1*format + math", False)
        is maths_answer
    )
    assert reader_of("auto", True) is boxed_answer and reader_of("exact", True) is line_answer
    assert reader_of("code", False) is reader_of("format", False) is no_answer
    assert reader_of("choice(column='options')", False) is choice_answer
    assert line_answer("one\n\n two  words ") == "two words" and no_answer("anything") is None
