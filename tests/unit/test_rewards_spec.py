"""The grammar of `--reward` and the table behind it: names, options, weights, and what is said about wrong ones."""

import dataclasses
import pickle
import sys
from pathlib import Path
from typing import Literal

import pytest

from rlkit.errors import ConfigError
from rlkit.rewards import FormatVerifier, MathVerifier, WeightedSum, explain, make_verifier
from rlkit.rewards.grammar import MAX_LENGTH, Term, parse_spec
from rlkit.rewards.spec import VERIFIERS, checked_options, type_words
from rlkit.types import Prompt

ASKED = Prompt(id="p", token_ids=[], reference="four")


@pytest.mark.parametrize(
    ("spec", "terms"),
    [
        ("math", [Term("math")]),
        (" math ", [Term("math")]),
        ("format(max_tail=20)", [Term("format", None, {"max_tail": 20})]),
        (
            "math+0.1*format-0.2*repetition(n=4)",
            [Term("math"), Term("format", 0.1), Term("repetition", -0.2, {"n": 4})],
        ),
        ("-format", [Term("format", -1.0)]),
        ("- 2*format", [Term("format", -2.0)]),
        ("math - -1e-1*format", [Term("math"), Term("format", 0.1)]),
        ("math+-1*format", [Term("math"), Term("format", -1.0)]),
        (
            "a(b=-1.5, c='x', d=true, e=none, f=[1, 2])",
            [Term("a", None, {"b": -1.5, "c": "x", "d": True, "e": None, "f": [1, 2]})],
        ),
        ("exact(mode=squad)", [Term("exact", None, {"mode": "squad"})]),
        (r"regex(pattern='\bno (\d+)+')", [Term("regex", None, {"pattern": r"\bno (\d+)+"})]),
        (r'regex(pattern=r"a\"b")', [Term("regex", None, {"pattern": r"a\"b"})]),
        (
            "http(url='http://a.b:80/x.py:f+0.1*g')",
            [Term("http", None, {"url": "http://a.b:80/x.py:f+0.1*g"})],
        ),
        ("my-rules.py:f", [Term("my-rules.py:f")]),
        ("math-my_rules.py:f", [Term("math-my_rules.py:f")]),  # a path may hold a minus
        ("math - my-rules.py:f", [Term("math"), Term("my-rules.py:f", -1.0)]),
        ("0.5*/a/b-c.py:f(n=2)+pkg.mod:g", [Term("/a/b-c.py:f", 0.5, {"n": 2}), Term("pkg.mod:g")]),
        ("2*'my rules/a+b.py:f'(n=2)", [Term("my rules/a+b.py:f", 2.0, {"n": 2})]),
    ],
)
def test_a_spec_is_read_as_names_weights_and_options(spec: str, terms: list[Term]) -> None:
    assert parse_spec(spec) == terms


def test_the_path_of_a_file_that_exists_may_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "my + rules.py"
    path.write_text("")
    assert parse_spec(f"{path}:f") == [Term(f"{path}:f")]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("math+", "a term is missing; expected NAME, NAME(option=value) or a sum as math+0.1*format"),
        ("math format", "cannot be read (invalid syntax)"),
        ("format(max_tail=20", "cannot be read ('(' was never closed)"),
        ("format(20)", "reward 'format(20)': 20 is an option without its name; write option=value"),
        ("format(**{'a': 1})", "{'a': 1} is no option"),
        ("format*0.1", "format is no weight; a weight is a number in front of a name, as in 0.1*format"),
        ("true*format", "true is no weight"),
        ("0.1*(math+format)", "math+format is no name"),
        ("math/2", "math/2 is no name"),
        ("2(n=1)", "2 is no name"),
        ("1e999*math", "weight 1e999 is no finite number"),
        (f"{'9' * 400}*math", "is no finite number"),
        ("json(schema=a/b.json)", "a/b.json is no value; expected a number, true, false, none or a 'text'"),
        ("json(schema=open('x'))", "open('x') is no value"),
        ("format(max_tail=[x for x in 'a'])", "is no value"),
        ("a\0b", "cannot be read"),
        ("(" * 5000, "cannot be read"),
        ("a+" * MAX_LENGTH + "a", "expected at most 10,000"),
    ],
)
def test_what_cannot_be_read_is_shown_and_nothing_is_run(spec: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec(spec)
    assert sentence in str(caught.value)


def test_a_name_with_options_makes_that_verifier() -> None:
    assert make_verifier("format(max_tail=20)") == FormatVerifier(max_tail=20)
    assert make_verifier("math - 0.5*format(max_tail=20)") == WeightedSum(
        (("math", 1.0, MathVerifier()), ("format", -0.5, FormatVerifier(max_tail=20)))
    )
    twice = make_verifier("format(max_tail=1)+format(max_tail=2)")
    assert isinstance(twice, WeightedSum) and [name for name, *_ in twice.terms] == ["format", "format_2"]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            "format(max_tale=2)",
            "reward format: option 'max_tale' is not known; did you mean 'max_tail'? Known: box, max_tail, tags",
        ),
        ("format(max_tail='2')", "reward format: max_tail = '2': expected a whole number"),
        ("format(max_tail=2.5)", "expected a whole number"),
        ("format(max_tail=true)", "expected a whole number"),
        ("math(n=2)", "reward math: n = 2: it has no options"),
        ("auto(n=2)", "the task's own verifier has no options"),
        ("math+format(max_tail=1)+0.1*format(max_tail=1)", "'format' is there twice"),
    ],
)
def test_wrong_options_are_told_with_the_known_ones(spec: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_verifier(spec)
    assert sentence in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Options:
    """What a verifier of every type of option would have."""

    needed: str
    share: float = 0.5
    mode: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    limit: int | None = None


def test_options_are_of_the_type_of_their_field() -> None:
    def checked(**options: object) -> dict[str, object]:
        return checked_options(Options, options, "reward all")

    given = {"needed": "x", "share": 1, "mode": "b", "names": ["p", "q"], "limit": None}
    assert checked(**given) == {**given, "names": ("p", "q")}
    for wrong, sentence in [
        ({}, "reward all: option needed is needed: all(needed=...)"),
        ({"needed": 1}, "needed = 1: expected a text"),
        ({"needed": "x", "share": "y"}, "share = 'y': expected a number"),
        ({"needed": "x", "mode": "c"}, "mode = 'c': expected one of a, b"),
        ({"needed": "x", "names": [1]}, "names = (1,): expected a list, each a text"),
        ({"needed": "x", "limit": "many"}, "limit = 'many': expected a whole number or none"),
    ]:
        with pytest.raises(ConfigError, match=".") as caught:
            checked(**wrong)
        assert sentence in str(caught.value)


USER = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Near:
    width: float = 1.0

    def __call__(self, prompt, text):
        return None

near = Near()

def length(prompt, text, limit=10):
    return len(text) / limit
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "user_options.py"
    path.write_text(USER)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "user_options", raising=False)
    return str(path)


def test_users_classes_and_functions_take_options(user: str) -> None:
    assert make_verifier(f"{user}:Near(width=2)").width == 2  # type: ignore[attr-defined]
    verify = pickle.loads(pickle.dumps(make_verifier(f"{user}:length(limit=8)")))
    assert verify(ASKED, "four").value == 0.5 and verify(ASKED, "four").reason == "length returned '0.5'"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("Near(width='x')", "width = 'x': expected a number"),
        ("near(width=2)", "it is made already and takes no options; name its class"),
        (
            "length(limt=2)",
            "expected to be called with (prompt, text) (got an unexpected keyword argument 'limt')",
        ),
    ],
)
def test_wrong_options_of_a_users_verifier_are_told(user: str, options: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_verifier(f"{user}:{options}")
    assert sentence in str(caught.value)


def test_every_kind_explains_itself_and_every_option() -> None:
    for name in VERIFIERS:
        kind = explain(name)
        assert kind.name == name and kind.summary.endswith("."), name
        assert all(option.meaning and option.type for option in kind.options), kind
    tail = explain("format").options[0]
    assert (tail.name, tail.type, tail.default) == ("max_tail", "a whole number", "100")
    assert tail.meaning.startswith("Characters, white space apart")
    with pytest.raises(ConfigError, match="did you mean 'format'"):
        explain("formt")


def test_types_are_told_in_words() -> None:
    assert type_words(bool) == "true or false" and type_words(int | None) == "a whole number or none"
