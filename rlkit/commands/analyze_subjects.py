"""Whom `rlkit analyze` studies: the models behind what the user named, and the settings that their runs bring along."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlkit.analyze_config import McCreditConfig, SkipConfig
from rlkit.config import TrainConfig
from rlkit.errors import ConfigError, RunError


def subjects(study: str, words: Sequence[str]) -> list[tuple[str, Path | None]]:
    """What the user named, as many as the study takes. Raises ConfigError."""
    if not words or (len(words) > 1 and study != "implicit"):
        raise ConfigError(
            f"rlkit analyze {study} takes {'one or more subjects' if study == 'implicit' else 'one subject'}, as runs/NAME, a model "
            f"folder or tiny, but got {' '.join(words) or 'none'}"
        )
    return [subject(word) for word in words]


def subject(name: str) -> tuple[str, Path | None]:
    """The model behind what the user named, and the run folder it comes from; None: from no run. Raises RunError."""
    from rlkit import checkpoint

    path = Path(name)
    if (path / "config.toml").is_file():
        saved = checkpoint.choose(path / "checkpoints").folder
        if saved is None:
            raise RunError(
                f"{name}: a run without a checkpoint yet; name a model folder, or wait for --log.save-every"
            )
        return str(saved), path
    run = path.resolve().parent.parent
    if (path / "rlkit" / "state.json").is_file() and (run / "config.toml").is_file():
        return name, run
    return name, None


def with_run(cfg: Any, model: str, run: TrainConfig | None) -> Any:
    """A study's default settings for this model: data, reward, sampling and lengths are those of its run."""
    if run is None:
        return replace(cfg, model=replace(cfg.model, name=model))
    return replace(
        cfg,
        model=replace(run.model, name=model),
        data=run.data if run.data.held_out is None else replace(run.data, name=run.data.held_out),
        reward=run.reward,
        sampler=run.sampler,
        max_prompt_length=run.max_prompt_length,
        max_completion_length=run.max_completion_length,
    )


def small(cfg: Any) -> Any:
    """The same study with defaults that a small model answers in seconds."""
    if isinstance(cfg, McCreditConfig):
        return replace(
            cfg,
            prompts=4,
            positions=4,
            continuations=32,
            deep_groups=2,
            deep_continuations=64,
            k="4,8,16,32",
            step_answers=4,
            step_prompts=16,
        )
    if isinstance(cfg, SkipConfig):
        return replace(cfg, prompts=8, splits=3)
    return replace(cfg, prompts=8, tries=4, positions=5, continuations=4)
