"""The training loop. One step:

    data.take            -> prompts     (the algorithm may weigh them)
    algo.collect         -> groups      (the sampler writes)
    judge                -> groups      (with verdicts)
    algo.select          -> groups      (those worth training on; too few: these four again, for algo.rounds rounds)
    algo.credit          -> credits     (numbers beside the tokens)
    learner.minibatches  -> tensors
    tracker              looks, in some steps, before and after the update
    learner.update       -> report      (one optimizer step per mini-batch)
    sampler.load         new weights; the next rollout carries their version
    store, view          metrics, rollouts, a line for the person at the terminal

A run stopped after step k and resumed is the run that never stopped: everything that decides step k + 1 is in the
checkpoint of step k, and all of a step's randomness is drawn from (seed, step).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

from rlkit.algos.base import Algorithm
from rlkit.algos.ops import seed_of
from rlkit.checkpoint import Position, Saver
from rlkit.checkpoint.randomness import states
from rlkit.config import TrainConfig
from rlkit.errors import SamplerGone
from rlkit.learner import Learner
from rlkit.learner.look import Own
from rlkit.rollout_metrics import rollout_metrics
from rlkit.stopping import GaveUp, Stop
from rlkit.types import Credit, Group, Prompt, Request, Rollout, Sampler, State
from rlkit.verify import Judge, leaves_of


class Data(Protocol):
    """Where prompts come from (rlkit.data.PromptData)."""

    def take(self, n: int, weights: Callable[[Sequence[str]], list[float] | None]) -> list[Prompt]: ...
    def state_dict(self) -> State: ...


class RunStore(Protocol):
    """Where a run is written (rlkit.analysis.store.Store)."""

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def write_rollouts(self, step: int, groups: Sequence[Group], credits: Sequence[Credit]) -> None: ...
    def written(self) -> dict[str, int]: ...
    def sync(self) -> None: ...


class Tracker(Protocol):
    """Who watches where probability goes, and changes nothing (rlkit.tracking.Tracker)."""

    @property
    def due(self) -> bool: ...
    def begin(self, step: int, groups: Sequence[Group]) -> None: ...
    def before(self, credits: Sequence[Credit]) -> None: ...
    def after(self, own: Own, credits: Sequence[Credit]) -> dict[str, float]: ...


class View(Protocol):
    """Who is told (rlkit.show.Terminal)."""

    def phase(self, name: str) -> None: ...
    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def sample(self, step: int, groups: Sequence[Group]) -> None: ...
    def say(self, sentence: str) -> None: ...


class Stopped(Exception):
    """Somebody asked the run to stop; its last checkpoint is of the step named.

    given_up: of the step after it, what was going on when the time was over; None: that step had not begun
    """

    def __init__(self, step: int, given_up: str | None = None) -> None:
        super().__init__(step)
        self.step, self.given_up = step, given_up


def train(
    cfg: TrainConfig,
    *,
    data: Data,
    sampler: Sampler,
    judge: Judge,
    algo: Algorithm,
    learner: Learner,
    store: RunStore,
    tracker: Tracker,
    view: View,
    saver: Saver,
    evaluate: Callable[[int], Mapping[str, float]],
    start: Position,
) -> Position:
    """Run from `start` to cfg.steps or the token budget; returns where it ended. Raises Stopped on Ctrl-C and signals.

    evaluate: called with a step's number, writes its own record and returns the numbers to log
    """
    step, sampled = start.step, start.sampled_tokens

    def here() -> Position:
        return Position(
            step=step,
            updates=learner.updates,
            sampled_tokens=sampled,
            data=deepcopy(data.state_dict()),  # it may be written while the next step goes on
            algo=deepcopy(algo.state_dict()),
            written=store.written(),
            random=states(),
        )

    def save(position: Position, wait: bool) -> None:
        with clock("save"):
            store.sync()  # first what the checkpoint counts on
            saver.save(position, wait=wait)

    alone, seconds = learner.ranks.world == 1, lambda: saver.seconds
    stopping = Stop(view.say, cfg.log.signals, cfg.log.grace, save_seconds=seconds, may_give_up=alone)
    with stopping, saver:
        while step < cfg.steps and (cfg.token_budget is None or sampled < cfg.token_budget):
            before = here()
            step, clock = step + 1, _Clock(view)
            version, ask = learner.updates, _Counted(sampler)
            try:
                with stopping.may_give_up():
                    drawn = _sample(cfg, step, data, ask, judge, algo, clock)
                    with clock("track"):
                        tracker.begin(step, drawn.groups)
                    sampler.rest()
                    with clock("credit"):
                        credits = algo.credit(drawn.kept, learner.logprobs(algo.rescore(drawn.kept)))
                        minibatches = learner.minibatches(credits, cfg.mini_batches)
                    with clock("track"):
                        tracker.before(credits)
            except (GaveUp, SamplerGone) as cause:
                given_up = clock.phase
                if (
                    before.step
                ):  # the learner is as that step left it; before the first there is nothing to keep
                    save(before, wait=True)
                    learner.ranks.wait()
                if isinstance(cause, SamplerGone):
                    raise
                raise Stopped(before.step, given_up) from None
            with clock("train"):
                report = learner.update(minibatches, algo.loss, keep=tracker.due)
            with clock("track"):
                moved = tracker.after(report.own, credits)
            with clock("load"):
                sampler.load(learner.weights(), learner.updates)
            sampled += ask.tokens
            metrics = {
                **report.metrics,
                **rollout_metrics([leaf for g in drawn.groups for leaf in leaves_of(g)], version, credits),
                **drawn.metrics(),
                **judge.metrics(),
                **algo.metrics(),
                **moved,
                **sampler.metrics(),
                "num_tokens": float(sampled),
                "trained_tokens": float(report.trained_tokens),
                "read_tokens": float(report.read_tokens),
                **clock.metrics(ask.tokens),
            }
            last = step == cfg.steps or (cfg.token_budget is not None and sampled >= cfg.token_budget)
            due = last or bool(moved) or step % max(1, cfg.log.every) == 0
            if cfg.log.eval_every and step % cfg.log.eval_every == 0:
                due = True
                try:
                    with stopping.may_give_up():
                        metrics |= evaluate(step)
                    # What the evaluation left in the prefix cache would change the next step's last bits.
                    sampler.load(learner.weights(), learner.updates)
                except GaveUp:
                    view.say(f"step {step}: its evaluation was given up, and its line has no score")
            if due:
                store.write_metrics(step, metrics)
            if cfg.log.rollouts:
                store.write_rollouts(step, drawn.groups, credits)
            view.step(step, metrics)
            if cfg.log.show_every and step % cfg.log.show_every == 0:
                view.sample(step, drawn.groups)
            stop = learner.ranks.any(stopping.asked)
            if last or stop or (cfg.log.save_every and step % cfg.log.save_every == 0):
                save(here(), wait=last or stop)
                learner.ranks.wait()  # nobody leaves while one writes
            if stop and not last:
                raise Stopped(step)
    return here()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """What a step has sampled.

    >>> _Drawn(groups=[], kept=[], rounds=1).metrics()
    {'groups/prompts': 0.0, 'groups/kept': 0.0, 'groups/rounds': 1.0}
    """

    groups: list[Group]
    """One for each prompt drawn, with verdicts."""
    kept: list[Group]
    """What is trained on."""
    rounds: int

    def metrics(self) -> dict[str, float]:
        counts = {"prompts": len(self.groups), "kept": len(self.kept), "rounds": self.rounds}
        return {f"groups/{name}": float(count) for name, count in counts.items()}


def _sample(
    cfg: TrainConfig, step: int, data: Data, ask: "_Counted", judge: Judge, algo: Algorithm, clock: "_Clock"
) -> _Drawn:
    """Rounds of prompts, answers and verdicts, until enough groups are kept or no round is left.

    Every round asks for the prompts still missing, with a seed of its own.
    """
    groups: list[Group] = []
    kept: list[Group] = []
    rounds = 0
    while len(kept) < cfg.prompts_per_step and rounds < algo.rounds:
        with clock("data"):
            prompts = data.take(cfg.prompts_per_step - len(kept), algo.prompt_weights)
        with clock("sample"):
            seed = seed_of(cfg.seed, "step", step, *(["round", rounds] if rounds else []))
            written = algo.collect(prompts, ask.sample, seed)
        with clock("verify"):
            verified = judge(written, groups)
        groups += verified
        kept += algo.select(verified)
        rounds += 1
    return _Drawn(groups=groups, kept=kept, rounds=rounds)


class _Counted:
    """A sampler that counts the tokens it writes, those of discarded segments too: they cost as much."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.tokens = sampler, 0

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        drawn = self.sampler.sample(requests)
        self.tokens += sum(len(r.completion_ids) for rollouts in drawn for r in rollouts)
        return drawn


class _Clock:
    """Seconds of each phase of a step, all its rounds together; the view is told what is going on."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.began = time.perf_counter()
        self.phases: dict[str, float] = {}
        self.phase = ""
        """The last that began."""

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.phase = phase
        self.view.phase(phase)
        began = time.perf_counter()
        yield
        self.phases[phase] = self.phases.get(phase, 0.0) + time.perf_counter() - began

    def metrics(self, tokens: int) -> dict[str, float]:
        total = time.perf_counter() - self.began
        seconds = {f"timing_s/{name}": value for name, value in self.phases.items()}
        return {**seconds, "step_time": total, "tokens_per_second": tokens / total}
