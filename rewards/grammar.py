"""The grammar of `--reward`: names, options and weights -> terms. It knows no verifier.

    math                                        a name
    repetition(n=3)                             options, written name=value
    math + 0.1*format - 0.2*repetition(n=4)     a weighted sum
    0.5*rules.py:brief(limit=200)               your own object, with its options

Python's parser reads it and nothing is run: `ast` gives the tree, `ast.literal_eval` the values. Texts between quotes are
taken as they are, a backslash is a backslash, since most of them are paths and patterns.
"""

import ast
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlkit.errors import ConfigError
from rlkit.userload import is_user_object

MAX_LENGTH = 10_000
"""Characters of a spec: what is longer is no reward that somebody wrote."""
_EXPECTED = "expected NAME, NAME(option=value) or a sum as math+0.1*format, with texts between quotes"
# A text is found first, so that nothing inside one is taken for a name. `file.py:attr` may hold a minus (my-rules.py:f):
# a minus in front of one needs a space. A file whose path holds more than that is put between quotes.
_OPAQUE = re.compile(
    r"""(?P<text>[a-zA-Z]*(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"))"""
    r"""|(?P<user>[^\s*+()=,'"-][^\s*+()=,'"]*\.py:[a-zA-Z_]\w*|[a-zA-Z_]\w*(?:\.\w+)+:[a-zA-Z_]\w*)""",
    re.DOTALL,
)
_WORDS: Mapping[str, object] = {"true": True, "false": False, "none": None}
"""As TOML and the other flags write them."""


@dataclass(frozen=True, slots=True)
class Term:
    """One verifier of a sum: `0.1*format(max_tail=20)` is Term('format', 0.1, {'max_tail': 20})."""

    name: str
    weight: float | None = None
    """None: none was written, and a lone term is then the verifier itself and no sum."""
    options: Mapping[str, object] = field(default_factory=dict)


def parse_spec(spec: str) -> list[Term]:
    """The terms of a `--reward`, in order. Raises ConfigError that shows what could not be read.

    >>> parse_spec("math - 0.2*repetition(n=4)")
    [Term(name='math', weight=None, options={}), Term(name='repetition', weight=-0.2, options={'n': 4})]
    """
    if is_user_object(spec.strip()) and Path(spec.strip().rpartition(":")[0]).is_file():
        return [Term(spec.strip())]  # a path of any characters, when nothing stands beside it
    if not spec.strip() or spec.rstrip()[-1] in "+-*":
        raise ConfigError(f"reward {spec!r}: a term is missing; {_EXPECTED}")
    if len(spec) > MAX_LENGTH:
        raise ConfigError(f"reward: {len(spec):,} characters, expected at most {MAX_LENGTH:,}")
    users: list[str] = []

    def opaque(found: re.Match[str]) -> str:
        if found["user"] is not None:
            users.append(found["user"])
            return f"_user{len(users) - 1}_"
        text = found["text"]
        return text if text[0] in "rR" else f"r{text}"

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # `2(x)` is told below, in our words
            source = _OPAQUE.sub(opaque, spec.strip())
            tree = ast.parse(source, mode="eval")
    except SyntaxError as error:
        raise ConfigError(f"reward {spec!r}: cannot be read ({error.msg}); {_EXPECTED}") from error
    except (ValueError, RecursionError, MemoryError) as error:  # NUL, or brackets in brackets in brackets
        raise ConfigError(f"reward {spec[:80]!r}: cannot be read; {_EXPECTED}") from error
    return _Reader(spec, source, users).terms(tree.body)


def part_names(terms: Sequence[Term]) -> list[str]:
    """What each part is called in metrics: `repetition`, and `repetition_2` for the second of other options."""
    names: list[str] = []
    for term in terms:
        name = term.name.rpartition(":")[2]
        same = sum(other.name.rpartition(":")[2] == name for other in terms[: len(names)])
        names.append(f"{name}_{same + 1}" if same else name)
    return names


@dataclass(frozen=True, slots=True)
class _Reader:
    spec: str
    source: str
    """The spec with a name in place of each of `users`."""
    users: list[str]

    def terms(self, node: ast.expr) -> list[Term]:
        backwards = []
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            backwards.append(self.term(node.right, -1.0 if isinstance(node.op, ast.Sub) else 1.0))
            node = node.left
        return [self.term(node, 1.0), *reversed(backwards)]

    def term(self, node: ast.expr, sign: float) -> Term:
        weight: float | None = None
        while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
            sign = -sign if isinstance(node.op, ast.USub) else sign
            node = node.operand
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            weight = self.number(node.left)
            node = node.right
        if weight is None and sign < 0:
            weight = 1.0
        options: Mapping[str, object] = {}
        if isinstance(node, ast.Call):
            options = self.options(node)
            node = node.func
        return Term(self.name(node), None if weight is None else sign * weight, options)

    def number(self, node: ast.expr) -> float:
        sign = 1.0
        while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
            sign = -sign if isinstance(node.op, ast.USub) else sign
            node = node.operand
        if not isinstance(node, ast.Constant) or type(node.value) not in (int, float):
            raise self.error(node, "is no weight; a weight is a number in front of a name, as in 0.1*format")
        weight = sign * float(str(node.value))  # by its words: an integer may be larger than any float
        if not math.isfinite(weight):
            raise ConfigError(f"reward {self.spec!r}: weight {self.shown(node)} is no finite number")
        return weight

    def name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            found = re.fullmatch(r"_user(\d+)_", node.id)
            return self.users[int(found[1])] if found else node.id
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        raise self.error(node, f"is no name; {_EXPECTED}")

    def options(self, call: ast.Call) -> Mapping[str, object]:
        if call.args:
            raise self.error(call.args[0], "is an option without its name; write option=value")
        found: dict[str, object] = {}
        for keyword in call.keywords:
            if keyword.arg is None:
                raise self.error(keyword.value, "is no option; write option=value")
            found[keyword.arg] = self.value(keyword.value)
        return found

    def value(self, node: ast.expr) -> object:
        if isinstance(node, ast.Name):
            return _WORDS.get(node.id, node.id)
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, RecursionError) as error:
            raise self.error(node, "is no value; expected a number, true, false, none or a 'text'") from error

    def error(self, node: ast.expr, sentence: str) -> ConfigError:
        return ConfigError(f"reward {self.spec!r}: {self.shown(node)} {sentence}")

    def shown(self, node: ast.expr) -> str:
        """The part of the spec as it was written, without the r in front of its texts."""
        words = ast.get_source_segment(self.source, node) or ast.unparse(node)
        words = _OPAQUE.sub(lambda found: (found["text"] or found[0]).removeprefix("r"), words)
        return re.sub(r"_user(\d+)_", lambda found: self.users[int(found[1])], words)
