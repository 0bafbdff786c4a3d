r"""What holds for every answer: generated expressions equal themselves however they are spelled, and nothing else."""

from fractions import Fraction

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlkit.rewards.maths.answers import compare
from rlkit.rewards.maths.extract import find_answer
from rlkit.rewards.symbolic import judge_answer

quick = settings(max_examples=120, deadline=None, derandomize=True)

numbers = st.one_of(
    st.integers(1, 60).map(str),
    st.tuples(st.integers(1, 9), st.integers(2, 9)).map(lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}"),
    st.integers(2, 40).map(lambda k: rf"\sqrt{{{k}}}"),
    st.just(r"\pi"),
)
letters = st.sampled_from("xyn")


def joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Larger expressions of smaller ones, as LaTeX; every group is in brackets or braces."""
    return st.one_of(
        st.tuples(parts, parts).map(lambda p: f"{p[0]}+{p[1]}"),
        st.tuples(parts, parts).map(lambda p: rf"\left({p[0]}\right)\left({p[1]}\right)"),
        st.tuples(parts, parts).map(lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}"),
        st.tuples(parts, st.integers(2, 4)).map(lambda p: rf"\left({p[0]}\right)^{{{p[1]}}}"),
        parts.map(lambda p: rf"\left|{p}\right|"),
    )


constants = st.recursive(numbers, joined, max_leaves=5)
expressions = st.recursive(numbers | letters, joined, max_leaves=5)
answers = st.one_of(
    expressions,
    st.lists(constants, min_size=2, max_size=4).map(lambda p: ", ".join(p)),
    st.tuples(constants, constants).map(lambda p: rf"\left({p[0]}, {p[1]}\right)"),
    constants.map(lambda p: rf"{p}\text{{ cm}}"),
    constants.map(lambda p: f"x = {p}"),
    constants.map(lambda p: rf"\left(-\infty, {p}\right]"),
)

SPELLINGS = [
    lambda text: f"${text}$",
    lambda text: rf"\[ {text} \]",
    lambda text: f"  {text}. ",
    lambda text: text.replace(r"\frac", r"\dfrac"),
    lambda text: text.replace(r"\frac", r"\tfrac"),
    lambda text: text.replace(r"\left", "").replace(r"\right", ""),
    lambda text: text.replace("+", r"\, + \; "),
    lambda text: text.replace(r"\pi", "π").replace("-", "−"),
    lambda text: rf"\displaystyle {text}",
    lambda text: rf"\boldsymbol{{{text}}}" if "{" not in text else text,
]


@quick
@given(answers, st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS))
def test_an_answer_equals_itself_however_it_is_spelled(answer: str, one: object, other: object) -> None:
    assert callable(one) and callable(other)
    assert compare(one(answer), other(answer)).equal is True


@quick
@given(expressions)
def test_a_value_is_not_the_value_and_one(answer: str) -> None:
    assert not judge_answer(answer, f"{answer}+1").equal
    assert not judge_answer(f"{answer}+1", answer).equal
    assert judge_answer(f"{answer}+1", f"1+{answer}").equal is True


@quick
@given(answers, answers)
def test_the_verdict_is_the_same_in_either_order(one: str, other: str) -> None:
    assert bool(compare(one, other).equal) == bool(compare(other, one).equal)


@quick
@given(st.lists(st.fractions(-99, 99, max_denominator=50), min_size=2, max_size=4))
def test_a_list_is_its_items_in_any_order_and_a_point_is_not(values: list[Fraction]) -> None:
    shuffled = values[1:] + values[:1]
    assume(shuffled != values)
    one, other = (", ".join(str(value) for value in listed) for listed in (values, shuffled))
    assert compare(one, other).equal is True and compare(rf"\{{{one}\}}", other).equal is True
    assert compare(f"({one})", f"({other})").equal is False
    assert compare(one, ", ".join(str(value) for value in [*values[:-1], values[-1] + 1])).equal is False


@quick
@given(
    st.text(alphabet="0123456789xk,.()[]{}$\\^_+-=<>/|%! abfrcqt∞π√∪\n", max_size=40),
    st.sampled_from(["5", "x", "1,2"]),
)
def test_any_text_gets_a_verdict_and_is_not_right_by_accident(text: str, gold: str) -> None:
    found = find_answer(text)
    assert found is None or isinstance(found.text, str)
    equal = bool(compare(gold, text).equal)
    assert equal == bool(compare(text, gold).equal)
    assert not equal or any(sign.isalnum() for sign in text)
