"""Settings of what a run leaves behind: metrics, rollouts, evaluations, checkpoints."""

import signal
from dataclasses import dataclass

from rlkit.errors import require

STOPS = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU")
"""Signals that schedulers send before they end a job."""


REPORTERS = ("wandb", "trackio", "mlflow")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """What is written and when."""

    every: int = 1
    """Steps between metric lines; the last step and those that are tracked (--track.every) always have one."""
    show_every: int = 25
    """Steps between prompts shown with their best and worst completion; 0: never."""
    save_every: int = 100
    """Steps between checkpoints; the last step is always saved. 0: only the last."""
    save_total_limit: int = 2
    """Checkpoints kept (the newest). The older ones go when a newer one is whole and on the disk."""
    async_save: bool = True
    """Write checkpoints beside the steps that follow, from a copy in the host's memory (docs/resume.md). Off: every step waits for its own."""
    save_on_signal: str = "SIGTERM,SIGUSR1"
    """Signals that end the run with a checkpoint, as a scheduler sends them; without SIGTERM here, it is Ctrl-C: the step ends however long it takes."""
    grace: float = 30.0
    """Seconds from such a signal to the end of the job (Slurm: KillWait, or what follows the @ of its signal option). A step that cannot end in time is given up, and repeated on resume."""
    eval_every: int = 0
    """Steps between evaluations on held-out prompts; 0: never during training."""
    eval_prompts: int = 500
    """Held-out prompts of one evaluation."""
    tensorboard: bool = True
    """Write TensorBoard events beside metrics.jsonl."""
    report_to: str = "none"
    """Who else is told every number: wandb, trackio, mlflow, or several with commas (TRL's name; their packages are installed by you)."""
    rollouts: bool = True
    """Keep every rollout (tokens, log-probs, advantages, scores with reasons) as parquet."""

    def __post_init__(self) -> None:
        for name in ("every", "save_total_limit", "eval_prompts"):
            require(getattr(self, name) > 0, f"log.{name}", getattr(self, name), "at least 1")
        for name in ("show_every", "save_every", "eval_every"):
            require(getattr(self, name) >= 0, f"log.{name}", getattr(self, name), "0 (never) or more steps")
        require(self.grace > 0, "log.grace", self.grace, "a positive number of seconds")
        stops = f"of {', '.join(STOPS)}, separated by commas"
        for name in self._names:
            require(name in STOPS, "log.save_on_signal", self.save_on_signal, stops)
        known = ("tensorboard", *REPORTERS)
        for word in self._words:
            require(word in known, "log.report_to", word, f"{', '.join(known)}, separated by commas, or none")
        require(
            self.tensorboard or "tensorboard" not in self._words,
            "log.report_to",
            "tensorboard",
            "log.tensorboard on, or another name",
        )

    @property
    def reporters(self) -> list[str]:
        """`report_to` without tensorboard, which has its own switch.

        >>> LogConfig(report_to="wandb, tensorboard").reporters, LogConfig().reporters
        (['wandb'], [])
        """
        return [word for word in self._words if word != "tensorboard"]

    @property
    def _words(self) -> list[str]:
        words = [word.strip() for word in self.report_to.split(",")]
        return [] if words == ["none"] else list(dict.fromkeys(words))

    @property
    def _names(self) -> list[str]:
        return self.save_on_signal.replace(",", " ").split()

    @property
    def signals(self) -> tuple[signal.Signals, ...]:
        """
        >>> LogConfig().signals
        (<Signals.SIGTERM: 15>, <Signals.SIGUSR1: 10>)
        """
        return tuple(signal.Signals[name] for name in self._names)
