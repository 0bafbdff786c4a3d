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

With --async-steps k > 0 the first four make the groups of step t + k, in a thread beside, while step t trains: with the weights
and the algorithm's state from before its update, so what is learnt from is k steps old. The thread has ended its work before new
weights are loaded (with --sampler.in-flight-updates: soon after) and before anything is written: at a step's end nothing is under
way, and what waits for the next k steps is in the checkpoint.

A run stopped after step n and resumed is the run that never stopped: everything that decides step n + 1 is in the
checkpoint of step n, and all of a step's randomness is drawn from (seed, step).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

from rlkit.ahead import END_SECONDS, END_SECONDS_OF_MANY, Ahead
from rlkit.algos.base import Algorithm
from rlkit.algos.ops import seed_of
from rlkit.checkpoint import Position, Saver
from rlkit.checkpoint.randomness import states
from rlkit.config import TrainConfig
from rlkit.drawn import Drawn, from_state, require_written_by, to_state
from rlkit.errors import RolloutError, SamplerGone
from rlkit.learner import Learner
from rlkit.learner.look import Own
from rlkit.rollout_metrics import rollout_metrics
from rlkit.stopping import GaveUp, Stop
from rlkit.talks import Follows, Talk, in_rounds
from rlkit.types import Credit, Group, Prompt, Request, Rollout, Sampler, State
from rlkit.verify import Judge, leaves_of

T = TypeVar("T")


class Data(Protocol):
    """Where prompts come from (rlkit.data.PromptData)."""

    def take(self, n: int, weights: Callable[[Sequence[str]], list[float] | None]) -> list[Prompt]: ...
    def find(self, prompt_id: str) -> Prompt: ...
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
    lost: rollouts of a later step were under way beside it, and are not in the checkpoint
    """

    def __init__(self, step: int, given_up: str | None = None, *, lost: bool = False) -> None:
        super().__init__(step)
        self.step, self.given_up, self.lost = step, given_up, lost


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
    step, sampled, ahead_by = start.step, start.sampled_tokens, cfg.async_steps
    in_flight = ahead_by > 0 and cfg.sampler.in_flight_updates
    waiting = deque(from_state(start.ahead[key], data.find) for key in sorted(start.ahead, key=int))

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

    def without(begun: Position | None) -> Position:
        """Where the run stands, as if what was begun beside this step and is lost had not been."""
        assert begun is not None
        return replace(begun, updates=learner.updates, sampled_tokens=sampled, written=store.written())

    def save(position: Position, drawn: Sequence[Drawn], wait: bool) -> None:
        with clock("save"):
            store.sync()  # first what the checkpoint counts on
            kept = {str(position.step + i): to_state(d, data.find) for i, d in enumerate(drawn, start=1)}
            saver.save(replace(position, ahead=kept), wait=wait)

    def draw(number: int, clock: "_Clock") -> Drawn:
        return _sample(cfg, number, data, _Counted(sampler, lambda: beside.ending), judge, algo, clock)

    alone, seconds = learner.ranks.world == 1, lambda: saver.seconds
    stopping = Stop(view.say, cfg.log.signals, cfg.log.grace, save_seconds=seconds, may_give_up=alone)
    beside: Ahead[Drawn] = Ahead(
        sampler.halt,
        split_cores=ahead_by > 0 and cfg.sampler.on_these_cores,
        end_seconds=END_SECONDS if alone else END_SECONDS_OF_MANY,
    )
    with stopping, saver, beside:
        while step < cfg.steps and (cfg.token_budget is None or sampled < cfg.token_budget):
            before, had = here(), list(waiting)
            step, clock = step + 1, _Clock(view)
            version = learner.updates
            try:
                with stopping.may_give_up():
                    if not ahead_by and not waiting:
                        waiting.append(_checked(draw(step, clock), version))
                    while len(waiting) < ahead_by:  # a run's beginning, or what was lost when it stopped
                        beside.begin(partial(draw, step + len(waiting), _Clock(None)))
                        with clock("wait"):
                            waiting.append(_checked(beside.result(), version))
                    drawn = waiting.popleft()
                    with clock("track"):
                        tracker.begin(step, drawn.groups)
                    if not ahead_by:
                        sampler.rest()
                    with clock("credit"):
                        credits = algo.credit(drawn.kept, learner.logprobs(algo.rescore(drawn.kept)))
                        minibatches = learner.minibatches(credits, cfg.mini_batches)
                    with clock("track"):
                        tracker.before(credits)
            except (GaveUp, SamplerGone) as cause:
                given_up = clock.phase
                # The learner is as that step left it; before the first there is nothing to keep.
                if before.step:
                    save(before, had, wait=True)
                    learner.ranks.wait()
                if isinstance(cause, SamplerGone):
                    raise
                raise Stopped(before.step, given_up) from None
            begun: Position | None = None  # None: nothing is under way beside the update
            own = _Clock(None)
            if len(waiting) < ahead_by:
                begun = here()
                beside.begin(partial(draw, step + 1 + len(waiting), own))
            with clock("train"):
                report = learner.update(minibatches, algo.loss, keep=tracker.due)
            if in_flight and begun is not None:
                with clock("load"):
                    sampler.load(learner.weights(), learner.updates)
            with clock("track"):
                moved = tracker.after(report.own, credits)
            lost: GaveUp | SamplerGone | None = None
            if begun is not None:
                try:
                    with clock("wait"):
                        if beside.under_way:
                            with stopping.may_give_up():
                                beside.wait()
                        newest = learner.updates if in_flight else version
                        waiting.append(_checked(beside.result(), version, newest))
                except (GaveUp, SamplerGone) as cause:  # this step ends all the same: its update is made
                    lost = cause
            if lost is None and not (in_flight and begun is not None):
                with clock("load"):
                    sampler.load(learner.weights(), learner.updates)
            sampled += drawn.tokens
            leaves = [leaf for g in drawn.groups for leaf in leaves_of(g)]
            metrics = {
                **report.metrics,
                **rollout_metrics(leaves, version, credits),
                **drawn.metrics(),
                **judge.metrics(),
                **algo.metrics(),
                **moved,
                "num_tokens": float(sampled),
                "trained_tokens": float(report.trained_tokens),
                "read_tokens": float(report.read_tokens),
                **(own.metrics() if lost is None else {}),
                **clock.metrics(),
                **clock.rates(drawn.tokens),
            }
            last = step == cfg.steps or (cfg.token_budget is not None and sampled >= cfg.token_budget)
            due = last or bool(moved) or step % max(1, cfg.log.every) == 0
            if cfg.log.eval_every and step % cfg.log.eval_every == 0 and lost is None:
                due = True
                try:
                    with stopping.may_give_up():
                        metrics |= evaluate(step)
                    # What the evaluation left in the prefix cache would change the next step's last bits.
                    sampler.load(learner.weights(), learner.updates)
                except GaveUp:
                    view.say(f"step {step}: its evaluation was given up, and its line has no score")
            metrics |= (
                sampler.metrics()
            )  # here, so that a step's line has its evaluation's too, resumed or not
            if due:
                store.write_metrics(step, metrics)
            if cfg.log.rollouts:
                store.write_rollouts(step, drawn.groups, credits)
            view.step(step, metrics)
            if cfg.log.show_every and step % cfg.log.show_every == 0:
                view.sample(step, drawn.groups)
            stop = learner.ranks.any(stopping.asked) or lost is not None
            if last or stop or (cfg.log.save_every and step % cfg.log.save_every == 0):
                save(here() if lost is None else without(begun), waiting, wait=last or stop)
                learner.ranks.wait()  # nobody leaves while one writes
            if isinstance(lost, SamplerGone):
                raise lost
            if stop and not last:
                raise Stopped(step, lost=lost is not None)
    return here()


def _checked(drawn: Drawn, version: int, newest: int | None = None) -> Drawn:
    require_written_by(drawn, version, newest)
    return drawn


def _sample(
    cfg: TrainConfig, step: int, data: Data, ask: "_Counted", judge: Judge, algo: Algorithm, clock: "_Clock"
) -> Drawn:
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
            written = algo.collect(prompts, ask, seed)
        with clock("verify"):
            verified = judge(written, groups)
        groups += verified
        kept += algo.select(verified)
        rounds += 1
    return Drawn(groups=groups, kept=kept, rounds=rounds, tokens=ask.tokens)


class _Counted:
    """A sampler that counts the tokens it writes, those of discarded segments too: they cost as much.

    ending: asked before each call, whether the run ends and nobody will want what it writes
    """

    def __init__(self, sampler: Sampler, ending: Callable[[], bool] = lambda: False) -> None:
        self.sampler, self.tokens, self._ending = sampler, 0, ending

    def __call__(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        self._require_a_run()
        drawn = self.sampler.sample(requests)
        self._count(drawn)
        return drawn

    def follow(self, talks: Sequence[Talk[T]]) -> list[T]:
        counted = [self._counted(talk) for talk in talks]
        if isinstance(self.sampler, Follows):
            return self.sampler.follow(counted)
        return in_rounds(counted, self.sampler.sample)

    def _counted(self, talk: Talk[T]) -> Talk[T]:
        self._require_a_run()
        try:
            requests = next(talk)
            while True:
                drawn = yield requests
                self._require_a_run()
                self._count(drawn)
                requests = talk.send(drawn)
        except StopIteration as end:
            result: T = end.value
            return result

    def _count(self, drawn: Sequence[Sequence[Rollout]]) -> None:
        self.tokens += sum(len(r.completion_ids) for rollouts in drawn for r in rollouts)

    def _require_a_run(self) -> None:
        if self._ending():
            raise RolloutError("the run ends, and nobody waits for more rollouts")


class _Clock:
    """Seconds of each phase of a step, all its rounds together; the view is told what is going on.

    view: None for what goes on beside it
    """

    def __init__(self, view: View | None) -> None:
        self.view = view
        self.began = time.perf_counter()
        self.phases: dict[str, float] = {}
        self.phase = ""
        """The last that began."""

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.phase = phase
        if self.view is not None:
            self.view.phase(phase)
        began = time.perf_counter()
        yield
        self.phases[phase] = self.phases.get(phase, 0.0) + time.perf_counter() - began

    def metrics(self) -> dict[str, float]:
        return {f"timing_s/{name}": value for name, value in self.phases.items()}

    def rates(self, tokens: int) -> dict[str, float]:
        total = time.perf_counter() - self.began
        return {"step_time": total, "tokens_per_second": tokens / total}
