"""Settings of an algorithm that were changed and do nothing: its code never reads them, or another setting has turned them off.

Every algorithm inherits the settings of AlgoConfig, and a user's own may heed only a few. Whether it reads one is seen in its
compiled code, before anything runs: the attributes named in its methods and in what these call, as far as plain names lead.
A setting told here is surely not read by its name; one that is read where nothing comes of it is not noticed.
"""

import functools
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from inspect import getattr_static
from types import CodeType, FunctionType, ModuleType

from rlkit.algo_config import AlgoConfig, FamilyConfig
from rlkit.algo_own import SpoConfig, VinePpoConfig

ASKED = (
    *("__init__", "collect", "credit", "loss", "prompt_weights", "rescore", "select", "rounds", "metrics"),
    *("state_dict", "load_state_dict"),
)
"""What the loop asks of an algorithm (rlkit/algos/base.py)."""
READ_BY_OTHERS = {
    *("name", "schedule"),  # build, which chooses the class
    *(
        "importance_sampling_correction",
        "importance_sampling_mode",
        "importance_sampling_clip_max",
    ),  # the learner, from here on
    *("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
}
COMES_AS = {"top_entropy_quantile": "high_entropy_BT", "step_separator": "step_ends"}
"""Settings that others read for the algorithm, and the name under which it is given what came of them."""
ACTS_WITH = {
    **dict.fromkeys(("ref_model_mixup_alpha", "ref_model_sync_steps"), "sync_ref_model"),
    **dict.fromkeys(
        ("importance_sampling_mode", "importance_sampling_clip_max"), "importance_sampling_correction"
    ),
    **{"use_bias_correction_kl": "beta", "skip_format": "skip"},
}
"""Settings of another one, which turns them off."""
SCALED = dict.fromkeys(("scale_std", "std_eps"), "scale_rewards")
"""The same, where rewards are scaled by nothing but the kinds that scale_rewards names (SKPO has one more)."""
READS_ANYTHING = {
    "getattr",
    "attrgetter",
    "asdict",
    "astuple",
    "vars",
    "__dict__",
    "__getattribute__",
    "eval",
    "exec",
}
"""Code with one of these may read a setting without naming it."""
FOREIGN = {*sys.stdlib_module_names, "torch", "numpy", "scipy", "transformers"}
"""Packages that know nothing of an AlgoConfig."""


def idle_settings(cfg: AlgoConfig, algorithm: object) -> list[str]:
    """A sentence for each changed setting that does nothing.

    algorithm: the class that is made of `cfg` (build.algorithm_class)
    """
    changed = {
        f.name: value for f in fields(cfg) if (value := getattr(cfg, f.name)) != f.default is not MISSING
    }
    names = names_read(algorithm, type(cfg))
    told = []
    switches = ACTS_WITH | (SCALED if isinstance(cfg, FamilyConfig | SpoConfig | VinePpoConfig) else {})
    for name, value in changed.items():
        switch = switches.get(name)
        if switch is not None and getattr(cfg, switch) in (0, None, "none"):
            told.append(f"{_flag(name, value)} does nothing with {_flag(switch, getattr(cfg, switch))}")
        elif name not in READ_BY_OTHERS and names is not None and COMES_AS.get(name, name) not in names:
            told.append(
                f"{_flag(name, value)} does nothing: the code of {cfg.name} never reads `{COMES_AS.get(name, name)}`; leave it out, or "
                "use it in collect, credit or loss"
            )
    return told


def _flag(name: str, value: object) -> str:
    """As it is written on the command line."""
    words = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--algo.{words}" if value else f"--algo.no-{words}"
    return f"--algo.{words} {'none' if value is None else value}"


def names_read(algorithm: object, config: type[AlgoConfig]) -> set[str] | None:
    """Every name that may be a setting read by the algorithm; None: it may read any."""
    todo: list[object] = [getattr_static(algorithm, name, None) for name in ASKED]
    seen: set[int] = set()
    names: set[str] = set()
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, property):
            todo += [thing.fget]
        elif isinstance(thing, staticmethod | classmethod):
            todo.append(thing.__func__)
        elif isinstance(thing, functools.partial):
            todo += [thing.func, *thing.args, *thing.keywords.values()]
        elif isinstance(thing, functools.cached_property):
            todo.append(thing.func)
        elif isinstance(thing, type):
            if not _foreign(thing) and not issubclass(thing, AlgoConfig):  # whose checks read everything
                todo += [
                    member for kind in thing.__mro__ if not _foreign(kind) for member in vars(kind).values()
                ]
        elif isinstance(thing, FunctionType) and not _foreign(thing):
            own = set(_names(thing.__code__))
            if own & READS_ANYTHING and not thing.__module__.startswith("rlkit."):
                return None
            names |= own
            todo += _called(thing, own, algorithm, config)
    return names


def _called(
    function: FunctionType, names: set[str], algorithm: object, config: type[AlgoConfig]
) -> Iterator[object]:
    """What the names in a function may stand for: methods, also of a parent, properties of the settings, globals, attributes of modules."""
    scope = [function.__globals__[name] for name in names if name in function.__globals__]
    yield from scope
    modules = [value for value in scope if isinstance(value, ModuleType) and not _foreign(value)]
    modules += [
        sys.modules[name] for name in names if name in sys.modules and not _foreign(sys.modules[name])
    ]
    parents = getattr(algorithm, "__mro__", ())[1:] if "super" in names else ()
    for name in names:
        for place in (algorithm, *parents, *modules):
            yield getattr_static(place, name, None)
        if not name.startswith("__"):  # its checks, which are dunders, read everything
            yield getattr_static(config, name, None)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is bound later
            continue
    yield getattr(function, "__wrapped__", None)


def _names(code: CodeType) -> Iterator[str]:
    """Attributes, globals and imports of a function, with those of the functions and comprehensions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _foreign(thing: object) -> bool:
    module = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", "")
    return str(module).partition(".")[0] in FOREIGN
