r"""The rules of the `math` verifier, each both ways: what must be equal, and near misses that must not be."""

import random
import time
from fractions import Fraction

import pytest

from rlkit.rewards import MathVerifier
from rlkit.rewards.maths.answers import compare
from rlkit.rewards.maths.extract import find_answer
from rlkit.rewards.maths.units import measure
from rlkit.rewards.symbolic import judge_answer
from rlkit.types import Prompt

EQUAL = {
    "numbers": [
        ("1,234.50", "1234.5"), ("1 000", "1000"), (r"10{,}080", "10080"), (r"20,\!000", "20000"), ("007", "7"),
        (".5", "0.5"), ("1.24e-8", r"1.24 \times 10^{-8}"), (r"6.02 \cdot 10^{23}", r"6.02 \times 10^23"),
        (r"3\frac{1}{2}", "3.5"), ("-1 3/4", "-1.75"), (r"0.1\overline{6}", "1/6"), ("0.(3)", r"\frac13"),
        ("2**10", "1024"), (r"\sqrt[3]{-8}", "-2"), ("5!", "120"), (r"\binom{5}{2}", "10"), ("C_5^2", "10"),
        (r"\frac12", "1/2"), ("2²", "4"), ("½", "0.5"), ("twelve", "12"), ("1,22", "1.22"), (r"17 \bmod 5", "2"),
    ],
    "rounding": [("12.55", r"\frac{640}{51}"), ("3.142", r"\pi"), (r"\frac13", "0.3333"), ("41.494", r"17+10\sqrt6"),
                 ("12.36\\%", r"\frac{34}{275}"), (r"2.653 \text{ m}", "2.65"), ("0.30000000000000004", "0.3")],
    "values": [
        (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt2}"), (r"\sqrt2+\sqrt3", r"\sqrt{5+2\sqrt6}"), (r"\ln 2+\ln 3", r"\ln 6"),
        (r"\log_2 8", "3"), (r"\lg 1000", "3"), (r"\log 100", "2"), (r"e^{i\pi}", "-1"), (r"(1+i)^2", "2i"),
        (r"\tan^{-1} 1", r"\pi/4"), (r"\sin 18^\circ", r"\frac{\sqrt5-1}{4}"), ("2^{-2/3}", r"\frac{1}{\sqrt[3]{4}}"),
    ],
    "expressions": [
        (r"\sin^2 x", r"1-\cos^2 x"), ("(x+1)^2", "x^2+2x+1"), (r"\sqrt{x^2}", "|x|"), ("n!", r"n\cdot(n-1)!"),
        ("(-1)^n", r"\cos n\pi"), (r"\lceil n/2 \rceil", r"\lfloor \frac{n+1}{2} \rfloor"), ("2Cx+1", "2cx+1"),
        (r"2\pi k, k \in \mathbb{Z}", r"2n\pi, n \in \mathbb{Z}"), (r"\log_a b", r"\frac{\ln b}{\ln a}"),
        (r"1+2+\cdots+n", r"\frac{n(n+1)}{2}"), (r"a_1+\ldots+a_n", r"a_n+a_{n-1}+\ldots+a_1"), ("x1+x2", "x_1+x_2"),
    ],
    "lists": [
        ("1,-2", "-2, 1"), (r"\{1,2\}", "2, 1"), ("1 and 2", "1, 2"), ("$8$,$4$", "4, 8"), ("(1,2),(3,4)", r"\{(3,4),(1,2)\}"),
        ("(1,2)", "1, 2"), ("x=1, y=2", "(1,2)"), ("x=1, y=2", "y=2, x=1"), ("(x,y)=(1,2)", "x=1, y=2"), ("7,14,18", "P: 18, Q: 14, R: 7"),
        (r"\pm 3", "3, -3"), (r"x=\pm 1 \text{ or } x=2", r"\{-1,1,2\}"), (r"1\pm\sqrt2", r"1+\sqrt2, 1-\sqrt2"), ("100,200,300", "300, 200, 100"),
        ("x=1,y=2;x=3,y=4", "(3,4),(1,2)"), ("x=y=2", "x=2, y=2"), (r"8\text{ cm or }4\text{ cm}", "4, 8"),
    ],
    "sets": [
        ("x>5", r"(5,\infty)"), (r"x\ne2", r"(-\infty,2)\cup(2,\infty)"), (r"\mathbb{R}\setminus\{2\}", r"x\neq2"), ("20<P<30", "(20,30)"),
        (r"\{x\mid x\ge0\}", r"[0,+\infty)"), (r"x\in[2,5]", r"2\le x\le5"), ("x<-1, x>3", r"(-\infty,-1)\cup(3,\infty)"), ("2x+1>5", "x>2"),
        ("(-2,2)", "x^2<4"), (r"|x|\le2", "[-2,2]"), (r"(-\infty,1)\cup[1,2)", "x<2"), (r"\emptyset", r"\text{no solution}"),
        (r"\mathbb{R}", r"(-\infty,\infty)"), (r"a>1\text{ or }a=0", r"\{0\}\cup(1,\infty)"), (r"\{1,2\}\cup\{2,3\}", r"\{1,2,3\}"),
    ],
    "equations": [
        ("x = 5", "5"), ("2=x", "x=2"), ("f(x)=x^2", "x^2"), ("f(n)=n+1", "f(x)=x+1"), ("y=2x+3", "2x-y+3=0"), ("x^2/4+y^2/3=1", "3x^2+4y^2=12"),
        ("xy=6", r"\frac6x"), (r"|3-5|=2", "2"), (r"\frac{1+\sqrt{97}}{8}\approx1.36", r"\frac{1+\sqrt{97}}{8}"), ("AB=5", "5"), ("P(1)=3", "3"),
        (r"x\equiv2\pmod5", r"x\equiv7\pmod5"), ("n=2^k, k>=1", "n=2^k"), ("f(x)=x for all x", "f(x)=x"), ("a:b=2:3", "2:3"),
    ],
    "units": [
        (r"5\text{ cm}", "5"), (r"5\text{ cm}", r"50\text{ mm}"), ("60 km/h", r"60\text{ kilometers per hour}"), (r"24\text{ square inches}", "24"),
        (r"\$18.90", "18.9"), (r"50\text{ cents}", r"\$0.50"), ("2 hours 30 minutes", r"2.5\text{ hours}"), ("5 m", "5"), (r"5^\circ C", "5"), ("12 apples", "12"),
    ],
    "percent and angles": [("62.5%", r"\frac58"), ("0.335", "33.5 percent"), ("50", r"50\%"), (r"45^\circ", "45"), (r"\frac\pi6", r"30^\circ"), ("90 degrees", "90")],
    "times, ratios, bases": [(r"\text{4:30 p.m.}", "16:30"), ("4:30 PM", r"4:30\text{ p.m.}"), ("5:8", r"\frac58"), ("6:4", "3:2"), ("2516_8", r"2516_{\text{eight}}"), ("2516_8", "2516")],
    "words and choices": [(r"\text{Friday}", "friday"), (r"\text{odd}", "odd"), ("(C)", "C"), (r"\textbf{(B)}", r"\text{(B) } 12"), ("D", "D. none of these"), ("42 because it is", "42")],
    "matrices": [(r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"), (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&\frac82\end{bmatrix}")],
    "math-verify": [(r"\sum_{k=1}^{10} k", "55"), (r"\int_0^1 x^2 dx", r"\frac13"), (r"\begin{pmatrix}1\\2\end{pmatrix}+\begin{pmatrix}1\\1\end{pmatrix}", r"\begin{pmatrix}2\\3\end{pmatrix}")],
}  # fmt: skip

UNEQUAL = {
    "numbers": [("100000000000", "99999999999"), ("12", "1 2"), ("1,234", "1.234"), ("1,3", "1.3"), ("1e-8", "1e-9"), (r"3\frac12", r"\frac32"),
                (r"0.\overline{3}", "0.3"), ("10**100", "10**101"), ("100!", "101!"), (r"\frac{1}{0}", "0"), ("0.1", "0.10000001"), ("6.5", "6.50001")],
    "rounding": [(r"\pi", "3.14"), (r"\sqrt2", "1.41"), (r"\frac13", "0.33"), ("0.25", "0.252"), ("1.25", r"\frac{313}{250}"), ("12.55", "12.6"), (r"\$2.653", "2.65"), (r"2.653\text{ m}", "2.66"), ("5040", r"\frac{15840}{\pi}")],
    "values": [(r"\sqrt[3]2", r"\sqrt2"), (r"\log_2 3", r"\log_3 2"), ("i", "-i"), (r"\sqrt{10^{100}+1}", "10^{50}"), (r"\ln 10", "1")],
    "expressions": [("x", "|x|"), ("f(2x)", "2f(x)"), ("x_1", "x_2"), (r"\sin x", r"\cos x"), ("4^n", "2^{n+2}"), (r"\lfloor x\rfloor", "x"), ("a+b", "a-b"),
                    (r"\lfloor\sqrt{n-1}\rfloor", r"\lfloor\frac{2n-1}{5}\rfloor"), (r"1+2+\cdots+n", r"\frac{n(n-1)}{2}"), (r"2\pi k, k\in\mathbb{Z}", r"3\pi n, n\in\mathbb{Z}"), ("n^2", "k^2")],
    "lists": [("(1,2)", "(2,1)"), ("1,2,2", "1,2"), (r"\{1,2\}", r"\{1,2,3\}"), ("(1,2)", "[1,2]"), ("12", "(1,2)"), (r"\pm3", "3"), ("x=1, y=2", "x=2, y=1"), ("(1,2),(3,4)", "(1,4),(3,2)"),
              ("x=1,y=2;x=3,y=4", "x=1,y=4;x=3,y=2")],
    "sets": [("x>5", r"x\ge5"), ("x>5", "x<5"), ("[0,9)", "[0,1)"), ("2<x<3", "2<y<3"), (r"\emptyset", "0"), (r"\mathbb{Z}", r"\mathbb{R}"), (r"x\ne2", "x=2"), ("(-2,2)", r"x^2\le4"), (r"(1,2)\cup(2,3)", "(1,3)")],
    "equations": [("x=5", "y=5"), ("a^2+b=0", "0"), ("y=2x+3", "2x-y-3=0"), ("xy=6", r"\frac{6}{x+1}"), ("f(5)=1", "f(9)=1"), (r"x\equiv2\pmod5", r"x\equiv2\pmod7"), ("x+y=5", "x+y=6"),
                  ("f(x)=x^2, x>=0", "f(x)=x^2, x<=0"), ("f(x)=x for x<0", "f(x)=x for x>0"), ("14+10+6=30", "15+10+6=30")],
    "units": [(r"5\text{ cm}", r"5\text{ m}"), (r"5\text{ hours}", r"5\text{ minutes}"), (r"\$5", r"5\text{ cents}"), ("5 at most", "5"), (r"n\text{ is even}", r"n\text{ is odd}")],
    "percent and angles": [("50%", "5"), (r"5\%", "0.5"), ("45", r"\frac\pi4"), (r"90^\circ", "45")],
    "times, ratios, bases": [("4:30 pm", "4:30 am"), ("4:30 pm", "5:30 pm"), ("3:00", "1:00"), ("2:1", "1:2"), ("2:1", "1"), ("1:2:3", "1:2:4"), ("101_2", "101_3"), ("101_2", "5")],
    "words and choices": [(r"\text{even}", "odd"), ("A", "B"), ("(A)", "B. 5"), ("March 5", "March 6"), ("yes", "no"), ("2", "AZYUK2A")],
    "matrices": [(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}")],
    "math-verify": [(r"\sum_{k=1}^{10} k", "45"), (r"\int_0^1 x^2 dx", r"\frac12"), (r"\lim_{n\to\infty} S_n=\frac83", r"\frac85")],
    "unreadable": [("∞)(", "½)("), (r"\foo{1}", r"\bar{}{"), (r"\frac{1}{", r"\frac{2}{"), ("1+", "1+2")],
}  # fmt: skip


def pairs(rules: dict[str, list[tuple[str, str]]]) -> list[tuple[str, str, str]]:
    return [(rule, gold, answer) for rule, found in rules.items() for gold, answer in found]


@pytest.mark.parametrize(("rule", "gold", "answer"), pairs(EQUAL))
def test_equal_answers(rule: str, gold: str, answer: str) -> None:
    assert judge_answer(gold, answer).equal is True


@pytest.mark.parametrize(("rule", "gold", "answer"), pairs(UNEQUAL))
def test_near_misses(rule: str, gold: str, answer: str) -> None:
    assert not judge_answer(gold, answer).equal


ONE_WAY = {"rounding", "words and choices"}
"""A gold answer may have been rounded to 3 digits, an answer may not; a sentence may hold an answer, not be one."""


@pytest.mark.parametrize(("rule", "gold", "answer"), pairs(EQUAL) + pairs(UNEQUAL))
def test_the_order_does_not_matter(rule: str, gold: str, answer: str) -> None:
    if rule not in ONE_WAY:
        assert bool(judge_answer(gold, answer).equal) == bool(judge_answer(answer, gold).equal)


def test_the_step_that_decided_is_named() -> None:
    steps = {
        (r"$\frac{1}{2}$", r"\dfrac{1}{2}"): "word for word",
        ("10", "10.0"): "as numbers",
        (r"\sqrt8", r"2\sqrt2"): "by value",
        ("(x+1)^2", "x^2+2x+1"): "by value at several points",
        ("12.55", r"\frac{640}{51}"): "rounded",
        ("1,2", "2,1"): "as lists in any order",
        ("x>5", r"(5,\infty)"): "as sets of reals",
        (r"5\text{ cm}", r"50\text{ mm}"): "as units",
        ("50%", "0.5"): "as percentages",
        (r"\sum_{k=1}^{3} k", "6"): "by math-verify",
    }
    assert {pair: judge_answer(*pair).step for pair in steps} == steps


def test_a_tolerance_is_the_data_s() -> None:
    """OlympiadBench states an absolute error in its rows."""
    judge = MathVerifier()
    loose = Prompt(id="p", token_ids=[], reference="0.003, 5.233", row={"error": "0.001"})
    strict = Prompt(id="p", token_ids=[], reference="0.003, 5.233", row={"error": None})
    assert judge(loose, r"\boxed{5.234, 0.002}").value == 1.0
    assert judge(loose, r"\boxed{5.235, 0.002}").value == 0.0
    assert judge(strict, r"\boxed{5.234, 0.002}").value == 0.0


def spellings(value: Fraction, rng: random.Random) -> list[str]:
    """One number, written in several ways."""
    n, d = value.numerator, value.denominator
    k = rng.randint(2, 9)
    ways = [
        rf"\frac{{{n}}}{{{d}}}",
        f"{n}/{d}",
        rf"\dfrac{{{k * n}}}{{{k * d}}}",
        f"$x={n}/{d}$",
        rf"\left({n}\cdot\frac{{1}}{{{d}}}\right)",
    ]
    if d == 1:
        ways += [str(n), f"{n}.0", f"{n:,}", f"{n} ", rf"\boldsymbol{{{n}}}", rf"{n - k}+{k}"]
    if abs(n) > d > 1:
        whole, rest = divmod(abs(n), d)
        ways.append(rf"{'-' if n < 0 else ''}{whole}\frac{{{rest}}}{{{d}}}")
    if 10**6 % d == 0:
        ways.append(f"{n * (10**6 // d) / 10**6:.6f}")
    return ways  # fmt: skip


def test_one_number_in_many_spellings_is_equal_and_two_numbers_never_are() -> None:
    rng = random.Random(7)
    for _ in range(150):
        value = Fraction(rng.randint(-400, 4000), rng.choice([1, 1, 1, 2, 3, 4, 5, 7, 8, 12, 25]))
        other = value + rng.choice([-1, 1]) * Fraction(1, rng.choice([1, 2, 3, 7, 50]))
        for left in (ways := spellings(value, rng)):
            right, wrong = rng.choice(ways), rng.choice(spellings(other, rng))
            assert compare(left, right).equal is True, (left, right)
            assert compare(left, wrong).equal is False, (left, wrong)
            assert compare(wrong, left).equal is False, (wrong, left)


@pytest.mark.parametrize(
    ("text", "answer", "place"),
    [
        (r"so $x=\boxed{5}$.", "5", "in the last box"),
        (r"\fbox{\frac{1}{2}} is it", r"\frac{1}{2}", "in the last box"),
        (r"= -8 \cdot 32 = -\boxed{256}$", "-256", "in the last box"),
        (r"$y_1 = \boxed{1}$ and $y_2 = \boxed{3}$", "1, 3", "in the last box"),
        (r"So 5 \boxed{4}. Final Answer: The final answer is $6$. I hope it is correct.", "6", "after 'answer is'"),
        ("The final answer is $x = 3$. I hope it is correct.", "x = 3", "after 'answer is'"),
        ("Answer: 41 was a guess.\nAnswer: 42", "42", "after 'Answer:'"),
        ("Answer:\n\\[ \n 9 \n \\]", "9", "after 'Answer:'"),
        ("it costs 12\n#### 1,250", "1,250", "after '####'"),
        ("12 - 5 = 7.\nA: 7", "7", "after 'A:'"),
        ("The answer is 4:30 p.m. I think.", "4:30 p.m", "after 'answer is'"),
        ("So the ordered pair $(x, y)$ is $(7, 6)$. <|im_end|>", "(7, 6)", "in the last formula"),
        ("88 - 36 = 52. Kimberly bought 52 more tins.", "52", "as the last number"),
        ("So Polly can stand 1200 - 1000 = 200 feet away.", "200", "behind the last equals sign"),
        (r"\left(1, \frac{\pi}{2}\right)", r"\left(1, \frac{\pi}{2}\right)", "as the last line"),
    ],
)  # fmt: skip
def test_one_place_of_a_text_is_read_and_named(text: str, answer: str, place: str) -> None:
    found = find_answer(text)
    assert found is not None and (found.text, found.place) == (answer, place)


def test_a_text_without_an_answer_has_none() -> None:
    assert find_answer("I give up") is None and find_answer(" \n") is None
    unclosed = find_answer(r"\boxed{1} then \boxed{2")
    assert unclosed is not None and unclosed.text == ""


def test_a_gold_answer_that_is_a_sentence_is_a_skip() -> None:
    gold = "More time is required for the round trip on the river."
    verdict = MathVerifier()(Prompt(id="p", token_ids=[], reference=gold), r"\boxed{the round trip}")
    assert verdict.value is None and "which no rule can judge" in verdict.reason
    assert MathVerifier()(Prompt(id="p", token_ids=[], reference=gold), rf"\boxed{{{gold}}}").value == 1.0


def test_units_are_measured_in_si() -> None:
    assert measure("km/h") == ("length*time^-1", Fraction(1000, 3600))
    assert measure("square feet") == measure("ft^2") and measure("ml") == measure("cm^3")
    assert measure("apples") is None


HOSTILE = [
    "10**10**10", r"10^{10^{10^{10}}}", "9^9^9^9", "100000000!", "((3!)!)!", "5" + "!" * 900, r"\binom{10^9}{10^8}", r"e^{e^{e^{e^9}}}",
    "(" * 900 + "1,2" + ")" * 900, r"\{" * 300 + "1,2" + r"\}" * 300, r"\sqrt{" * 300 + "2" + "}" * 300, r"\frac{" * 200 + "1" + "}{2}" * 200,
    r"\sin(" * 90 + "x" + ")" * 90, "9" * 1900, "9" * 100_000, "1e999999999", "1e-9999", "(x+y+z)^{99999}", r"7^{10^{12}} \bmod 13", r"1+2+\cdots+10^{9}",
    r"1+2+\cdots+n^{n^{n}}", r"\pm 1" * 60, r"\pm x+" * 60 + "1", ",".join(rf"\sqrt{{{k}}}" for k in range(2, 150)), r"\int_0^1 \frac{x^{100}\sin x}{\sqrt{1+x^{99}}} dx",
    r"\sum_{k=1}^{10^{9}} \sin(k!)", "x'" * 400, "5" + "%" * 900, "1<" * 900 + "1", "a=" * 900 + "1", "x" + "_x" * 400, "|" * 1500, "$" * 1500, "for " * 400, "\x00" * 500,
    "\u202e5)(", r"\begin{pmatrix}" * 200, '__import__("os").system("true")', "Integral(exp(-x**2),(x,-oo,oo))",
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE)
def test_what_would_take_for_ever_is_refused(answer: str) -> None:
    """Each of these ends, and is no right answer; a pool's deadline is not needed for it."""
    for gold in ("3", "x^2+1", r"(-\infty,2)\cup(3,5]"):
        for text in (answer, rf"\boxed{{{answer}}}"):
            score = MathVerifier()(Prompt(id="p", token_ids=[], reference=gold), text)
            assert score.value == 0.0, (gold, score)


@pytest.mark.parametrize(
    "piece",
    [
        "{",
        "}",
        r"\boxed{",
        r"\(",
        r"\[",
        "$",
        "#",
        "answer is ",
        "The answer is $",
        " ",
        "\n",
        "=",
        "1,",
        "x",
    ],
)
def test_a_megabyte_of_one_piece_is_read_soon(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    assert MathVerifier()(Prompt(id="p", token_ids=[], reference="3"), text).value == 0.0


def test_a_right_answer_behind_a_megabyte_is_found() -> None:
    text = "{" * 300_000 + r" so \boxed{\frac{6}{2}}"
    assert MathVerifier()(Prompt(id="p", token_ids=[], reference="3"), text).value == 1.0


TANGLED = [
    r"\boxed{1} " + "-" * 5000 + r"x \boxed{2}", " " * 19_990 + "x", r"\boxed{[" + "(," * 900 + "}", r"\boxed{" + "it is 5 " * 240 + "x}",
    "~" * 1900 + "x", r"\boxed{" + r"\ " * 900 + "x}", r"\begin{align}" * 400 + r"\end{align}", "is " * 5000 + "1" * 50 + " y",
    "since " * 3000 + "$x$", "</think>" * 2000 + "5 y", r"\boxed{" + r"k\pi+" * 300 + r"k\pi, k\in Z}", r"\boxed{" + "(1)" * 500 + "}",
    r"\boxed{1} " + r"\; $ " * 3000 + r"x \boxed{2}", r"\boxed{" + "<sup>" * 300 + "}", "1 2/" * 3000 + "x", r"\boxed{" + "[" * 900 + "," * 900 + "}",
]  # fmt: skip
"""Each could send a pattern back and forth: over runs of spaces, dashes, brackets, words."""


@pytest.mark.parametrize("text", TANGLED)
def test_a_text_that_nearly_matches_everywhere_ends_soon(text: str) -> None:
    began = time.monotonic()
    assert MathVerifier()(Prompt(id="p", token_ids=[], reference="77"), text).value == 0.0
    assert time.monotonic() - began < 30
