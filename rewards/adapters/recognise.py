"""Which project a user's object was written for, read from its signature."""

import inspect
from collections.abc import Callable, Mapping

from rlkit.errors import ConfigError, unknown_name

from .own import has_rubric, is_environment, is_task
from .rubric import PLURAL, is_rubric

STYLES: Mapping[str, str] = {
    "rlkit": "rlkit's (prompt, text)",
    "trl": "TRL's (prompts, completions, **columns)",
    "swift": "ms-swift's (completions, **columns)",
    "verl": "verl's (data_source, solution_str, ground_truth, extra_info)",
    "verifiers": "verifiers' (prompt, completion, answer, info, state, ...), plural for a group",
    "task": "verifiers' task, with @vf.reward methods",
    "openrlhf": "OpenRLHF's (queries, prompts, labels)",
    "skyrl": "SkyRL's environment",
    "slime": "slime's (args, sample)",
    "areal": "AReaL's (prompt, completions, prompt_ids, completion_ids, **columns)",
    "open_instruct": "open-instruct's (tokenized_prediction, prediction, label, query)",
}
"""Name -> the signature in words."""


def recognise(target: object, name: str) -> str:
    """The style of a function, class or object; `rlkit` when it is no other's. Raises ConfigError when it could be several.

    >>> recognise(lambda data_source, solution_str, ground_truth, extra_info=None: 0.0, "f.py:score")
    'verl'
    """
    found = _styles(target)
    if len(found) > 1:
        looks = " and ".join(STYLES[style] for style in found)
        choices = " or ".join(f"{name}(style={style})" for style in found)
        raise ConfigError(f"--reward {name}: its signature fits {looks}; say which: {choices}")
    return found[0] if found else "rlkit"


def split_style(
    target: object, name: str, options: Mapping[str, object]
) -> tuple[str | None, Mapping[str, object]]:
    """The option `style` apart from the others, unless it is the object's own. Raises ConfigError for an unknown one."""
    signature = inspect.signature(target) if inspect.isclass(target) else signature_of(target)
    if "style" not in options or (signature is not None and "style" in signature.parameters):
        return None, options
    style = str(options["style"])
    if style not in STYLES:
        raise ConfigError(f"--reward {name}: {unknown_name('style', style, STYLES)}")
    return style, {key: value for key, value in options.items() if key != "style"}


def _styles(target: object) -> list[str]:
    if is_environment(target):
        return ["skyrl"]
    if is_task(target):
        return ["task"]
    if is_rubric(target) or has_rubric(target):
        return ["verifiers"]
    kind = target if inspect.isclass(target) else type(target)
    if {base.__name__ for base in inspect.getmro(kind)} & {"ORM", "AsyncORM"}:
        return ["swift"]
    signature = signature_of(target)
    if signature is None or _speaks_rlkit(signature):
        return []
    names = [name for name in signature.parameters if name != "self"]
    spread = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    found = [style for style, matches in _MATCHES.items() if matches(set(names), spread)]
    # The one pair of names that two projects use: rlkit calls by place, verifiers by name.
    return ["rlkit", "verifiers"] if found and names == ["prompt", "completion"] else found


def signature_of(target: object) -> inspect.Signature | None:
    """How the object is called, once it is made if it is a class; None: it cannot be, or does not tell."""
    called: object = target
    if inspect.isclass(target):
        called = next((vars(base)["__call__"] for base in target.__mro__ if "__call__" in vars(base)), None)
    if not callable(called):
        return None
    try:
        return inspect.signature(called)
    except (TypeError, ValueError):
        return None


def _speaks_rlkit(signature: inspect.Signature) -> bool:
    """Annotated with rlkit's own types: nothing to guess."""
    said = [p.annotation for p in signature.parameters.values()] + [signature.return_annotation]
    names = {getattr(annotation, "__name__", str(annotation)).rpartition(".")[2] for annotation in said}
    return bool(names & {"Prompt", "Score"})


def _trl(names: set[str], spread: bool) -> bool:
    """TRL passes all columns, so its functions end in **kwargs; without, a name that is no other's must be a column."""
    if names & {"prompt", "prompt_ids"}:
        return False
    return bool(names & {"completions", "completion_ids"}) and (spread or not names <= {*PLURAL, "parser"})


def _verifiers(names: set[str], spread: bool) -> bool:
    if names & {"completion", "state", "states"}:
        return "solution_str" not in names
    group = bool(names & {"answers", "infos", "tasks"}) or (not spread and names <= {*PLURAL, "parser"})
    return "completions" in names and "prompt" not in names and group


_MATCHES: Mapping[str, Callable[[set[str], bool], bool]] = {
    "trl": _trl,
    "verl": lambda names, spread: {"solution_str", "ground_truth"} <= names,
    "verifiers": _verifiers,
    "openrlhf": lambda names, spread: "queries" in names and bool(names & {"prompts", "labels"}),
    "slime": lambda names, spread: "args" in names and bool(names & {"sample", "samples"}),
    "areal": lambda names, spread: {"prompt", "completions"} <= names,
    "open_instruct": lambda names, spread: {"prediction", "label"} <= names,
}
