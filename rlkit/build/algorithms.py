"""An algorithm's name -> its config, and the config -> the algorithm."""

from functools import partial
from typing import TYPE_CHECKING, Any

from rlkit.algo_config import AlgoConfig, FamilyConfig
from rlkit.algo_own import SkpoConfig, SpoConfig, VinePpoConfig
from rlkit.algo_presets import ALGO_CONFIGS, WReinforceConfig
from rlkit.errors import ConfigError, unknown_name
from rlkit.userload import is_user_object, load_user_object

if TYPE_CHECKING:
    from rlkit.algos.base import Algorithm, Sampling


def algo_config(name: str) -> AlgoConfig:
    """The default config of an algorithm; a user's `file.py:attr` may carry its own as `Config`."""
    if is_user_object(name):
        config = getattr(_user_algorithm(name), "Config", AlgoConfig)
        if not (isinstance(config, type) and issubclass(config, AlgoConfig)):
            raise ConfigError(
                f"--algo {name}: its Config is {config!r}; expected a subclass of rlkit.algo_config.AlgoConfig"
            )
        return config(name=name)
    if name not in ALGO_CONFIGS:
        raise ConfigError(
            f"--algo: {unknown_name('algorithm', name, ALGO_CONFIGS)}; or your own file.py:attr"
        )
    return ALGO_CONFIGS[name]()


def _user_algorithm(name: str) -> Any:
    """The user's class. Raises ConfigError when it lacks what every algorithm has."""
    found = load_user_object(name, "--algo")
    missing = [m for m in ("collect", "credit", "loss") if not hasattr(found, m)]
    if missing or not callable(found):
        lack = f"has no {', '.join(missing)}" if missing else "cannot be called"
        raise ConfigError(
            f"--algo {name}: {found!r} {lack}; expected a class with collect, credit and loss, as in rlkit/algos/base.py"
        )
    rest = ("prompt_weights", "rescore", "select", "rounds", "metrics", "state_dict", "load_state_dict")
    missing = [m for m in rest if not hasattr(found, m)]
    if missing:
        raise ConfigError(
            f"--algo {name}: {found!r} has no {', '.join(missing)}; derive it from rlkit.algos.base.Stateless, which has them all"
        )
    return found


def make_algorithm(cfg: AlgoConfig, sampling: "Sampling") -> "Algorithm":
    """The algorithm that runs this kind of config; the user's own class for a `file.py:attr`."""
    kind = algorithm_class(cfg)
    if isinstance(cfg, WReinforceConfig) and cfg.schedule == "stage" and not is_user_object(cfg.name):
        from rlkit.analysis.stages import detect

        kind = partial(kind, detect=detect)
    made: Algorithm = kind(cfg, sampling)
    return made


def algorithm_class(cfg: AlgoConfig) -> Any:
    """What is called with the config and a Sampling to make the algorithm."""
    if is_user_object(cfg.name):
        return _user_algorithm(cfg.name)
    from rlkit.algos.family import Family
    from rlkit.algos.skpo import Skpo
    from rlkit.algos.spo import Spo
    from rlkit.algos.vineppo import VinePpo

    if isinstance(cfg, WReinforceConfig) and cfg.schedule == "stage":
        from rlkit.algos.staged import Staged

        return Staged
    kinds: dict[type[AlgoConfig], type[Algorithm]] = {
        FamilyConfig: Family,
        SkpoConfig: Skpo,
        SpoConfig: Spo,
        VinePpoConfig: VinePpo,
    }
    for kind, algorithm in kinds.items():
        if isinstance(cfg, kind):
            return algorithm
    raise ConfigError(f"--algo: {unknown_name('algorithm', cfg.name, ALGO_CONFIGS)}")


def step_ends(algo: AlgoConfig, tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens whose text holds the algorithm's separator; none for an algorithm without steps."""
    separator = algo.separator
    if separator is None:
        return frozenset()
    texts = (tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer)))
    found = frozenset(i for i, text in enumerate(texts) if separator in text)
    if not found:
        raise ConfigError(
            f"--algo.step-separator {separator!r}: no token of this tokenizer holds it, so no step would ever end; "
            "name a shorter text"
        )
    return found
