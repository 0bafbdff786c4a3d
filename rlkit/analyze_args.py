"""What `rlkit analyze` takes, study by study; rlkit/analyze_config.py has the settings."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from rlkit.analyze_config import ImplicitConfig, McCreditConfig, SkipConfig, StudyConfig


@dataclass(frozen=True, kw_only=True)
class McCreditArgs:
    """How many Monte-Carlo continuations does a token's credit need? Signs and errors by position and by K, GRPO's beside them.

    SUBJECT is a run (its newest checkpoint, with the run's data and reward), a checkpoint, a model folder, a hub id or `tiny`.

    $ rlkit analyze mc-credit tiny --small
    $ rlkit analyze mc-credit runs/NAME --dry-run
    $ rlkit analyze mc-credit Qwen2.5-0.5B --data gsm8k.jsonl --reward math --continuations 64

    docs/credit.md explains the tables. What was drawn is kept, and the same command goes on where it was stopped.
    """

    subject: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SUBJECT")]
    """Whose answers."""
    cfg: Annotated[McCreditConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=McCreditConfig)
    config: Path | None = None
    """A TOML file with settings; flags overrule it."""
    small: bool = False
    """A look that ends in seconds with a small model: other defaults for how much is drawn."""
    dry_run: bool = False
    """Say how much would be drawn, and end."""
    json: bool = False
    """Print the result as JSON instead of tables."""


@dataclass(frozen=True, kw_only=True)
class SkipArgs:
    """What does a prefix do to what follows? No prefix, a plain one, and one that stands before the question (SKPO's skip).

    SUBJECT is a run (its newest checkpoint, with the run's data and reward), a checkpoint, a model folder, a hub id or `tiny`.

    $ rlkit analyze skip tiny --small
    $ rlkit analyze skip runs/NAME --prompts 200

    docs/credit.md explains the tables. What was drawn is kept, and the same command goes on where it was stopped.
    """

    subject: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SUBJECT")]
    """Whose answers."""
    cfg: Annotated[SkipConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=SkipConfig)
    config: Path | None = None
    """A TOML file with settings; flags overrule it."""
    small: bool = False
    """A look that ends in seconds with a small model: other defaults for how much is drawn."""
    dry_run: bool = False
    """Say how much would be drawn, and end."""
    json: bool = False
    """Print the result as JSON instead of tables."""


@dataclass(frozen=True, kw_only=True)
class ImplicitArgs:
    """How far have right answers come by each share of their length? An outside evaluator goes on from there, and succeeds or not.

    SUBJECTS are one or more runs, checkpoints, model folders, hub ids or `tiny`; several are compared on the problems that all of
    them have solved. Data and reward are those of the first one's run, if it has one.

    $ rlkit analyze implicit tiny --small
    $ rlkit analyze implicit runs/SKPO runs/GRPO --evaluator Qwen2.5-7B-Instruct
    $ rlkit analyze implicit runs/SKPO --evaluator gpt-5-nano --endpoint https://api.openai.com/v1 --key OPENAI_API_KEY --dry-run

    docs/credit.md explains the table. What was drawn, or paid for, is kept, and the same command goes on where it was stopped.
    """

    subjects: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SUBJECTS")]
    """Whose answers."""
    cfg: Annotated[ImplicitConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ImplicitConfig)
    config: Path | None = None
    """A TOML file with settings; flags overrule it."""
    small: bool = False
    """A look that ends in seconds with a small model: other defaults for how much is drawn."""
    dry_run: bool = False
    """Say how much would be drawn, and end."""
    json: bool = False
    """Print the result as JSON instead of a table."""


STUDIES: dict[str, tuple[type[Any], StudyConfig]] = {
    "mc-credit": (McCreditArgs, McCreditConfig()),
    "skip": (SkipArgs, SkipConfig()),
    "implicit": (ImplicitArgs, ImplicitConfig()),
}
ANALYZE_HELP = """usage: rlkit analyze STUDY SUBJECT

Studies of credit. SUBJECT: a run, a checkpoint, a model folder, a hub id or `tiny`.

rlkit analyze mc-credit SUBJECT      Monte-Carlo credit against the truth by position and K, GRPO's beside it
rlkit analyze skip SUBJECT           what a prefix does to what follows: none, plain, before the question
rlkit analyze implicit SUBJECTS      how far right answers have come, as an evaluator sees it

--small is a look that ends in seconds, --dry-run says how much would be drawn, --help (behind a study) has every setting."""
