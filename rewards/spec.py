"""The `--reward` flag: a name or a weighted sum of names -> a verifier."""

import inspect
import math
import re
from collections.abc import Callable
from typing import cast

from rlkit.errors import ConfigError, unknown_name
from rlkit.types import Verifier
from rlkit.userload import is_user_object, load_user_object

from .combine import WeightedSum
from .contract import describe
from .exact import ExactVerifier
from .format import FormatVerifier
from .function import FunctionVerifier
from .symbolic import MathVerifier

_TERM = re.compile(r"(?:(?P<weight>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE]-?\d+)?)\s*\*\s*)?(?P<name>.+)", re.DOTALL)
_NAMES = ("auto", "math", "exact", "format")


def make_verifier(spec: str, task_verifier: Verifier | None = None) -> Verifier:
    """The verifier that `spec` names: `math`, `exact`, `format`, `auto`, the user's `file.py:attr`, or a sum of them.

    task_verifier: what `auto` means when the data is a procedural task; None: `auto` is `math`

    >>> make_verifier("math")
    MathVerifier()
    >>> [(name, weight) for name, weight, _ in make_verifier("math+0.1*format").terms]
    [('math', 1.0), ('format', 0.1)]
    """
    terms = [_term(term, spec, task_verifier) for term in spec.split("+")]
    if len(terms) == 1 and "*" not in spec:
        return terms[0][2]
    names = [name for name, _, _ in terms]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"reward {spec!r}: {name!r} is there twice; give it one weight")
    return WeightedSum(tuple(terms))


def _term(term: str, spec: str, task_verifier: Verifier | None) -> tuple[str, float, Verifier]:
    match = _TERM.fullmatch(term.strip())
    if match is None:
        raise ConfigError(
            f"reward {spec!r}: a term is missing; expected names joined by +, as in math+0.1*format"
        )
    weight = float(match["weight"] or 1)
    if not math.isfinite(weight):
        raise ConfigError(f"reward {spec!r}: weight {match['weight']} is no finite number")
    name = match["name"].strip()
    return name.rpartition(":")[2], weight, _named(name, task_verifier)


def _named(name: str, task_verifier: Verifier | None) -> Verifier:
    if name == "auto":
        return task_verifier or MathVerifier()
    if name == "math":
        return MathVerifier()
    if name == "exact":
        return ExactVerifier()
    if name == "format":
        return FormatVerifier()
    if is_user_object(name):
        return _user_verifier(name)
    sentence = unknown_name("reward", name, _NAMES)
    raise ConfigError(
        f"{sentence}; or your own file.py:attr or pkg.mod:attr; or a sum, as in math+0.1*format"
    )


def _user_verifier(name: str) -> Verifier:
    """A class is instantiated, a function wrapped, an instance taken as it is."""
    target = load_user_object(name, "--reward")
    if inspect.isclass(target):
        try:
            target = target()
        except Exception as error:  # the user's own code; say whose fault it is and keep the cause
            raise ConfigError(
                f"--reward {name}: making it without arguments failed ({describe(error)})"
            ) from error
    if not callable(target):
        raise ConfigError(
            f"--reward {name}: {target!r} cannot be called; expected a function or object (prompt, text)"
        )
    try:
        inspect.signature(target).bind(None, "")
    except TypeError as error:
        raise ConfigError(f"--reward {name}: expected to be called with (prompt, text) ({error})") from error
    except ValueError:
        pass  # compiled code need not tell its signature; its first call will
    if inspect.isroutine(target):
        return FunctionVerifier(cast(Callable[..., object], target))
    return cast(Verifier, target)
