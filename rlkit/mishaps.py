"""What a learner's mishaps come to in a run: a word to the user, and a dump of each skipped update, for `rlkit replay`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlkit.errors import RunError
from rlkit.learner import Learner, dump
from rlkit.learner.bad import BadUpdate

MOST_DUMPS = 3
"""Kept of a run, the first ones: each holds the weights once more."""


class Mishaps:
    """Listens to a learner (rlkit.learner.bad.Watcher), on every rank."""

    def __init__(
        self, learner: Learner, folder: Path, tokenizer: Any, config: str, say: Callable[[str], None]
    ) -> None:
        """folder: of the run;  config: its config.toml"""
        self.learner, self.folder, self.tokenizer, self.config, self.say = (
            learner,
            folder,
            tokenizer,
            config,
            say,
        )

    def out_of_memory(self, sentence: str) -> None:
        self.say(sentence)

    def skipped(self, bad: BadUpdate) -> None:
        """Dump it, unless there are enough dumps or the disk refuses: a run does not end for its dump."""
        place = dump.folder_of(self.folder, bad.update)
        others = [p for p in place.parent.glob("update-*") if p != place]
        if self.learner.ranks.first(len(others)) >= MOST_DUMPS:
            self.say(f"{bad.sentence}; {MOST_DUMPS} dumps lie in {place.parent} already")
            return
        try:
            dump.write(place, bad, self.learner, self.tokenizer, self.config)
        except (OSError, RunError) as error:
            self.say(f"{bad.sentence}; it could not be dumped to {place} ({error})")
            return
        self.say(f"{bad.sentence}; `rlkit replay {place}` says where the first bad value appears")
