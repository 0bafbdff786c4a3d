"""The user's function or object, as it travels: verifier processes load it again by its `file.py:attr`.

So nothing of it needs to be picklable: closures, clients and rubrics that hold lambdas work as they are.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlkit.errors import ConfigError, unknown_name
from rlkit.rewards.contract import describe
from rlkit.userload import load_user_object


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """What the user named, made and ready to be called.

    >>> Own(len, "len").name
    'len'
    """

    value: object
    """A function, a callable object, a rubric; an environment or a task stays a class, since each answer gets its own."""
    name: str
    """For sentences."""
    source: str | None = None
    """`file.py:attr` or `pkg.mod:attr`, from which a verifier process loads it; None: the value itself is pickled."""
    options: Mapping[str, object] = field(default_factory=dict)
    """From `file.py:attr(option=value)`: keyword arguments of the function, or of the class that was made."""

    def __reduce__(self) -> tuple[object, ...]:
        if self.source is None:
            return Own, (self.value, self.name, None, dict(self.options))
        module, _, attr = self.source.rpartition(":")
        path = str(Path(module).resolve()) if module.endswith(".py") else module
        return load_own, (f"{path}:{attr}", dict(self.options))

    @property
    def call_options(self) -> Mapping[str, object]:
        """The options that go into each call: a function's; a class took its own when it was made."""
        return self.options if inspect.isroutine(self.value) else {}


def load_own(source: str, options: Mapping[str, object]) -> Own:
    """The object behind `file.py:attr`, made ready. Raises ConfigError."""
    return make_own(load_user_object(source, "--reward"), source.rpartition(":")[2], source, options)


def make_own(target: object, name: str, source: str | None, options: Mapping[str, object]) -> Own:
    """`target` made ready: a class is made with the options, `load_environment` of verifiers is called with them."""
    where = f"--reward {source or name}"
    if is_environment(target):
        return Own(target, name, source, options)
    if is_task(target):
        if options:
            raise ConfigError(f"{where}: a task of verifiers takes no options; its data is the row")
        return Own(target, name, source, options)
    if not inspect.isclass(target) and getattr(target, "__name__", "") != "load_environment":
        _check_options(target, where, options)
        return Own(getattr(target, "rubric", target), name, source, options)
    assert callable(target)
    how = f"with {', '.join(options)}" if options else "without arguments"
    try:
        made = target(**options)
    except Exception as error:  # the user's own code; say whose fault it is and keep the cause
        raise ConfigError(f"{where}: making it {how} failed ({describe(error)})") from error
    return Own(getattr(made, "rubric", made), name, source, options)


def _check_options(target: object, where: str, options: Mapping[str, object]) -> None:
    """Raises ConfigError unless each option is a parameter of the function."""
    if not options:
        return
    if not callable(target) or not inspect.isroutine(target):
        raise ConfigError(f"{where}: it is made already and takes no options; name its class")
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            raise ConfigError(f"{where}: {unknown_name('option', option, parameters)}")


def is_environment(target: object) -> bool:
    """A class in the manner of SkyRL-Gym: `init(prompt)` and `step(action)`."""
    has = [callable(getattr(target, method, None)) for method in ("init", "step")]
    return inspect.isclass(target) and all(has)


def is_task(target: object) -> bool:
    """A class in the manner of verifiers' tasks from 0.4 on."""
    has = [callable(getattr(target, method, None)) for method in ("data_type", "score", "hooks")]
    return inspect.isclass(target) and all(has)


def has_rubric(target: object) -> bool:
    """An environment of verifiers, or the function that makes one."""
    return getattr(target, "__name__", "") == "load_environment" or hasattr(target, "rubric")
