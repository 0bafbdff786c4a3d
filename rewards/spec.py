"""The `--reward` flag: a name with options, or a weighted sum of them -> a verifier."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, cast

import docstring_parser
import typeguard

from rlkit.errors import ConfigError, unknown_name
from rlkit.types import AnyVerifier, Verifier
from rlkit.userload import is_user_object, load_user_object

from .adapters import adapt, split_style
from .choice import ChoiceVerifier
from .code_verifier import CodeVerifier
from .combine import weighted_sum
from .contract import batch_size, concurrency, describe, has_batch, value_range
from .documents import JsonVerifier
from .exact import ExactVerifier
from .format import FormatVerifier
from .function import function_verifier
from .grammar import Term, parse_spec, part_names
from .llm_judge import JudgeVerifier
from .numeric import NumericVerifier
from .pattern import RegexVerifier
from .remote import HttpVerifier
from .shaping import LengthVerifier, RepetitionVerifier
from .steps import StepsVerifier
from .symbolic import MathVerifier

VERIFIERS: Mapping[str, type[Any]] = {
    "math": MathVerifier,
    "choice": ChoiceVerifier,
    "code": CodeVerifier,
    "exact": ExactVerifier,
    "numeric": NumericVerifier,
    "regex": RegexVerifier,
    "json": JsonVerifier,
    "http": HttpVerifier,
    "judge": JudgeVerifier,
    "steps": StepsVerifier,
    "format": FormatVerifier,
    "length": LengthVerifier,
    "repetition": RepetitionVerifier,
}
"""What `--reward` knows by name: dataclasses whose fields are the options. `auto` is none of them: it is the task's own."""

_WITHOUT_GOLD = {"code", "format", "http", "json", "judge", "length", "repetition", "steps"}


def make_verifier(spec: str, task_verifier: Verifier | None = None) -> AnyVerifier:
    """The verifier that `spec` names: one of VERIFIERS, `auto`, the user's `file.py:attr`, or a weighted sum of them.

    task_verifier: what `auto` means when the data is a procedural task; None: `auto` is `math`

    >>> make_verifier("math")
    MathVerifier()
    >>> make_verifier("format(max_tail=20)")
    FormatVerifier(max_tail=20, tags='none', box=True)
    >>> [(name, weight) for name, weight, _ in make_verifier("math-0.1*format").terms]
    [('math', 1.0), ('format', -0.1)]
    """
    terms = parse_spec(spec)
    verifiers = [_make(term, task_verifier) for term in terms]
    if len(terms) == 1 and terms[0].weight is None:
        return verifiers[0]
    for index, term in enumerate(terms):
        if any(other.name == term.name and other.options == term.options for other in terms[:index]):
            raise ConfigError(f"reward {spec!r}: {term.name!r} is there twice; give it one weight")
    weights = [1.0 if term.weight is None else term.weight for term in terms]
    return weighted_sum(tuple(zip(part_names(terms), weights, verifiers, strict=True)))


def reads_gold(spec: str) -> bool:
    """Whether a reward cannot do without gold answers; the user's own verifier may.

    >>> reads_gold("math+0.1*format"), reads_gold("format"), reads_gold("rules.py:brief")
    (True, False, False)
    """
    return any(not is_user_object(term.name) and term.name not in _WITHOUT_GOLD for term in parse_spec(spec))


def _make(term: Term, task_verifier: Verifier | None) -> AnyVerifier:
    if term.name == "auto":
        if term.options:
            raise ConfigError(
                f"reward auto: {', '.join(term.options)}: the task's own verifier has no options"
            )
        return task_verifier or MathVerifier()
    if is_user_object(term.name):
        return _user_verifier(term.name, term.options)
    kind = VERIFIERS.get(term.name)
    if kind is None:
        raise ConfigError(
            f"{unknown_name('reward', term.name, ('auto', *VERIFIERS))}; "
            "or your own file.py:attr or pkg.mod:attr; or a sum, as in math+0.1*format"
        )
    return cast(AnyVerifier, kind(**checked_options(kind, term.options, f"reward {term.name}")))


def checked_options(kind: type[Any], options: Mapping[str, object], where: str) -> dict[str, Any]:
    """The options of a dataclass, each known and of its field's type. Raises ConfigError that names `where`.

    >>> checked_options(FormatVerifier, {"max_tail": 20}, "reward format")
    {'max_tail': 20}
    """
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind) if f.init}
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            if not known:
                raise ConfigError(f"{where}: {name} = {value!r}: it has no options")
            raise ConfigError(f"{where}: {unknown_name('option', name, known)}")
        if isinstance(value, list):
            value = tuple(value)
        if not _fits(value, hints[name]):
            raise ConfigError(f"{where}: {name} = {repr(value)[:80]}: expected {type_words(hints[name])}")
        checked[name] = value
    for name, option in known.items():
        if name not in options and _default(option) is dataclasses.MISSING:
            raise ConfigError(f"{where}: option {name} is needed: {where.split()[-1]}({name}=...)")
    return checked


def _fits(value: object, hint: Any) -> bool:
    if isinstance(value, bool) and hint is not bool:  # Python counts True among the numbers
        return False
    try:
        typeguard.check_type(value, hint)
    except typeguard.TypeCheckError:
        return False
    return True


def type_words(hint: Any) -> str:
    """A field's type as a user reads it.

    >>> type_words(float), type_words(str | None), type_words(Literal["a", "b"]), type_words(tuple[str, ...])
    ('a number', 'a text or none', 'one of a, b', 'a list, each a text')
    """
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "none"}
    if hint in words:
        return words[hint]
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"a list, each {type_words(typing.get_args(hint)[0])}"
    return " or ".join(type_words(inner) for inner in typing.get_args(hint)) or str(hint)


def _default(option: "dataclasses.Field[Any]") -> object:
    """What an option is when it is not given; MISSING: it must be."""
    if option.default_factory is not dataclasses.MISSING:
        return option.default_factory()
    return option.default


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a verifier, in words."""

    name: str
    type: str
    default: str | None
    """As it is written in a `--reward`; None: it has none and must be given."""
    meaning: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One verifier that `--reward` knows, in words."""

    name: str
    summary: str
    options: tuple[Option, ...]


def explain(name: str) -> Kind:
    """What `--reward NAME` does and what it can be told, read from the docstrings of its class.

    >>> explain("format").options[0].default
    '100'
    """
    if name not in VERIFIERS:
        raise ConfigError(unknown_name("reward", name, VERIFIERS))
    kind = VERIFIERS[name]
    hints = typing.get_type_hints(kind)
    meanings = {p.arg_name: p.description for p in docstring_parser.parse_from_object(kind).params}
    options = []
    for option in dataclasses.fields(kind):
        default = _default(option)
        written = None if default is dataclasses.MISSING else _written(default)
        meaning = " ".join((meanings.get(option.name) or "").split())
        options.append(Option(option.name, type_words(hints[option.name]), written, meaning))
    return Kind(name, (inspect.getdoc(kind) or "").split("\n")[0], tuple(options))


def _written(value: object) -> str:
    words = {True: "true", False: "false", None: "none"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)


def _user_verifier(name: str, options: Mapping[str, object]) -> AnyVerifier:
    """A class is made with the options, a function wrapped with them, an instance taken as it is; each may be async.

    What was written for another project is adapted (rewards/adapters).
    """
    target = load_user_object(name, "--reward")
    style, options = split_style(target, name, options)
    adapted = adapt(target, source=name, style=style, options=options)
    if adapted is not None:
        _check_declared(name, adapted)
        return adapted
    if inspect.isclass(target):
        how = f"with {', '.join(options)}" if options else "without arguments"
        try:
            if dataclasses.is_dataclass(target):
                options = checked_options(target, options, f"--reward {name}")
            target = target(**options)
        except ConfigError:
            raise
        except Exception as error:  # the user's own code; say whose fault it is and keep the cause
            raise ConfigError(f"--reward {name}: making it {how} failed ({describe(error)})") from error
    elif options and not inspect.isroutine(target):
        raise ConfigError(f"--reward {name}: it is made already and takes no options; name its class")
    _check_declared(name, target)
    if not callable(target):
        if has_batch(target):
            return target
        raise ConfigError(
            f"--reward {name}: {target!r} cannot be called; expected a function or object (prompt, text), "
            "or an object with `batch(items)` and `batch_size`"
        )
    called_with: Mapping[str, object] = options if inspect.isroutine(target) else {}
    try:
        inspect.signature(target).bind(None, "", **called_with)
    except TypeError as error:
        raise ConfigError(f"--reward {name}: expected to be called with (prompt, text) ({error})") from error
    except ValueError:
        pass  # compiled code need not tell its signature; its first call will
    if inspect.isroutine(target):
        function = cast(Callable[..., object], target)
        if options:
            function = functools.update_wrapper(functools.partial(function, **options), function)
        return function_verifier(function)
    return cast(AnyVerifier, target)


def _check_declared(name: str, target: object) -> None:
    """Tell what the verifier declares wrongly before a run begins, rather than at its first answer."""
    try:
        value_range(target), concurrency(target), batch_size(target)
    except ConfigError as error:
        raise ConfigError(f"--reward {name}: {error}") from error
