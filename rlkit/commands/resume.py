"""`rlkit train --resume`: which run, what may have changed, which checkpoint, and what the user is told of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.config import TrainConfig
from rlkit.errors import ConfigError, RunError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from rlkit.analysis.store import Store
    from rlkit.checkpoint import About, Position
    from rlkit.data import PromptData
    from rlkit.ranks import Nowhere, Ranks

LATEST = "latest"
RUNS = Path("runs")

ABOUT_THE_RUN = ("steps", "token_budget", "output_dir", "log", "track")
"""Settings, or rooms of them, that no number of a step depends on."""
DRAWS = ("sampler.temperature", "sampler.top_p", "sampler.top_k", "sampler.min_p")
"""What a sampler draws from; the rest of its room is where and how fast."""
SAME_MATHS = {
    *("learner.micro_batch_tokens", "learner.logits_chunk", "learner.packing", "learner.share_prefixes"),
    *("learner.skip_idle", "learner.gradient_checkpointing", "learner.compile", "learner.shard"),
    *(
        "learner.cpu_offload",
        "learner.max_skipped_share",
        "reward.workers",
        "reward.timeout",
        "reward.memory_limit",
    ),
    *("reward.recycle_after", "reward.max_error_share", "data.held_out", "model.trust_remote_code"),
}
"""Settings that change the last digits or the random draws of a step, and not what is learnt."""
FIXED = ("algo.name", "learner.optimizer", "learner.lora_rank", "learner.lora_targets")
"""What the state in a checkpoint is of: another has no use for it."""


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that is not as it was.

    >>> Change("sampler.name", "vllm", "hf").maths, Change("seed", 0, 7).maths
    (False, True)
    """

    name: str
    old: object
    new: object

    @property
    def maths(self) -> bool:
        """Whether it makes another run of it."""
        room = self.name.partition(".")[0]
        if room in ABOUT_THE_RUN or self.name in SAME_MATHS:
            return False
        return room != "sampler" or self.name in DRAWS


def find_run(name: str) -> Path:
    """`latest`: the run in runs/ whose files were written last, by their times. Raises RunError without one."""
    if name != LATEST or Path(name).is_dir():
        return Path(name)
    runs = [path.parent for path in RUNS.glob("*/config.toml")]
    if not runs:
        raise RunError(
            f"--resume latest: no run in {RUNS.absolute()}; expected a folder runs/NAME that a run wrote"
        )
    return max(runs, key=_last_written)


def _last_written(run: Path) -> tuple[float, str]:
    times = [
        path.stat().st_mtime for name in ("config.toml", "metrics.jsonl") if (path := run / name).exists()
    ]
    return max(times), run.name


def changes(before: TrainConfig, after: TrainConfig) -> list[Change]:
    old, new = _settings(before), _settings(after)
    return [
        Change(name, old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def show_changes(found: Sequence[Change], console: "Console") -> None:
    """As a diff, with what each means for the run."""
    from rich.text import Text

    from rlkit.printable import printable

    if found:
        console.print("changed since the checkpoint:")
    for change in found:
        meaning = "another run" if change.maths else "the same maths"
        console.print(Text(printable(f"  - {change.name} = {change.old!r}"), style="red"), soft_wrap=True)
        line = f"  + {change.name} = {change.new!r}   ({meaning})"
        console.print(Text(printable(line), style="green"), soft_wrap=True)


def require_same_maths(found: Sequence[Change], allowed: bool) -> None:
    """Raise ConfigError for changes that make another run, unless the user wants that one; for those of the state, always."""
    fixed = [c for c in found if c.name in FIXED]
    if fixed:
        raise ConfigError(
            f"--resume: {_words(fixed)} cannot change in a run, since the checkpoint's state belongs to it; start a new run, from "
            "its weights with --model RUN/checkpoints/latest"
        )
    other = [c for c in found if c.maths]
    if other and not allowed:
        raise ConfigError(
            f"--resume: {_words(other)} would make it another run; add --allow-changes if you want that one, or start a new run"
        )


def _words(found: Sequence[Change]) -> str:
    return ", ".join(f"{c.name} = {c.new!r} (it was {c.old!r})" for c in found)


def _settings(cfg: TrainConfig) -> dict[str, Any]:
    """Every setting by its full name."""
    out: dict[str, Any] = {}
    for f in fields(cfg):
        value = getattr(cfg, f.name)
        if is_dataclass(value):
            out |= {f"{f.name}.{g.name}": getattr(value, g.name) for g in fields(value)}
        else:
            out[f.name] = value
    return out


# -- the folder, held ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A run folder that is this process's, and where the run stands in it."""

    store: "Store | Nowhere"
    cfg: TrainConfig
    about: "About"
    start: "Position"
    saved: Path | None
    """The checkpoint to go on from; None: the run begins."""
    generators: "Mapping[str, Tensor]"
    """This rank's global generators in it; empty: they begin with the seed."""


def open_run(
    where: Path, cfg: TrainConfig, data: "PromptData", ranks: "Ranks", console: "Console", *, resume: bool
) -> Opened:
    """Lock the folder, choose a checkpoint, and cut the tables to its step. What is refused is refused before anything is cut."""
    import tomli_w

    from rlkit import checkpoint
    from rlkit.analysis.store import Store, hold, missing
    from rlkit.checkpoint.read import set_aside, was_at
    from rlkit.checkpoint.write import clean
    from rlkit.ranks import Nowhere
    from rlkit.toml import to_toml

    root = where / "checkpoints"
    start = checkpoint.Position(step=0, updates=0, sampled_tokens=0, data={}, algo={})
    held = hold(where) if ranks.main else None
    try:
        found = ranks.first(
            checkpoint.choose(root) if resume and ranks.main else checkpoint.Found(folder=None)
        )
        versions, place = was_at(found.folder) if found.folder else ({}, {})
        cfg = _with_its_dtype(cfg, place)
        about = _about(cfg, ranks, tomli_w.dumps(to_toml(cfg)))
        if found.folder is not None:
            start = checkpoint.read_position(found.folder)
            checkpoint.put_back(found.folder, "the place in the data", data.load_state_dict, start.data)
        store: Store | Nowhere = Nowhere(where)
        if held is not None:
            since = None if not resume else start.step if found.folder else -1
            store = Store(
                where, resume_from=since, config=about.config, tensorboard=cfg.log.tensorboard, held=held
            )
            if resume:
                set_aside(found)
                clean(root)
    except BaseException:
        if held is not None:
            held.release()
        raise
    if resume:
        lost = missing(start.written, store.written()) if ranks.main else []
        for sentence in (str(found), *_told(versions, place, about), *lost):
            _say(console, sentence)
    generators = checkpoint.random_states(found.folder, ranks.rank) if found.folder else {}
    return Opened(store=store, cfg=cfg, about=about, start=start, saved=found.folder, generators=generators)


def _with_its_dtype(cfg: TrainConfig, place: Mapping[str, Any]) -> TrainConfig:
    """`auto` is what it was where the run began: on another device it would be another precision, and other maths."""
    from rlkit import build

    now = "bfloat16" if build.wants_bfloat16(cfg.model) else "float32"
    before = place.get("dtype", now)
    if cfg.model.dtype != "auto" or before == now or before not in ("float32", "bfloat16"):
        return cfg
    return replace(cfg, model=replace(cfg.model, dtype=before))


def _about(cfg: TrainConfig, ranks: "Ranks", config: str) -> "About":
    import torch

    from rlkit import build
    from rlkit.checkpoint import About
    from rlkit.checkpoint.versions import versions

    names = f"{cfg.algo.name} {cfg.reward.name} {cfg.data.name}"
    own = [path for word in re.findall(r"[^\s+*,()]+\.py(?=:)", names) if (path := Path(word)).is_file()]
    return About(
        config=config,
        versions=versions(own),
        place={
            "ranks": ranks.world,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "dtype": "bfloat16" if build.wants_bfloat16(cfg.model) else "float32",
        },
    )


def _told(versions: Mapping[str, str], place: Mapping[str, Any], now: "About") -> list[str]:
    """What is not as it was, and what follows from it."""
    from rlkit.checkpoint.versions import differences

    out = []
    if versions and (changed := differences(versions, now.versions)):
        out.append(f"other code than the checkpoint's: {', '.join(changed)}")
    moved = [
        f"{name} {place[name]} -> {now.place[name]}"
        for name in now.place
        if place.get(name, now.place[name]) != now.place[name]
    ]
    if place and moved:
        out.append(
            f"another machine than the checkpoint's: {', '.join(moved)}; the maths stays, last digits differ"
        )
    return out


def _say(console: "Console", sentence: str) -> None:
    from rich.text import Text

    from rlkit.printable import printable

    console.print(Text(printable(sentence)), soft_wrap=True)
