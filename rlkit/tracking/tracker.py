"""In some steps, a few rollouts are looked at before and after the update, and what moved is written down.

    begin(step, groups)   which prompts, by the step's own seed; with --track.values, what their candidates are worth
    before(credits)       whole distributions under the weights that wrote them
    after(own)            the same tokens under the new weights; tables in the run folder, numbers for the metrics

It reads and never writes: no generator is drawn from, no weight and no algorithm is touched, so a run with tracking has the
numbers of one without. Between tracked steps it costs nothing.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from rlkit.algos.ops import seed_of
from rlkit.analysis import tracks
from rlkit.analysis.store import everyone, rows_of
from rlkit.config import TrackConfig
from rlkit.learner.look import Ids, Look, Own
from rlkit.types import Credit, Group, Rollout
from rlkit.verify import leaves_of

from . import tables
from .points import Place, Point, Valuer, find_points
from .stage import StageSoFar


class Looker(Protocol):
    """Who knows the distributions (rlkit.learner.Learner)."""

    def look(
        self, rollouts: Sequence[Rollout], top_k: int, asked: Sequence[Ids] | None = None
    ) -> list[Look]: ...


class TrackStore(Protocol):
    """Where tables go (rlkit.analysis.store.Store)."""

    def write_track(self, table: tracks.Table, step: int, columns: Mapping[str, Sequence[Any]]) -> None: ...
    def write_probe_answers(self, rollouts: Sequence[Rollout]) -> None: ...


@dataclass(slots=True)
class _Step:
    """What a tracked step has gathered so far."""

    step: int
    prompts: list[Group]
    """Those looked at."""
    rollouts: list[Rollout]
    """All of theirs, SKPO's segments too."""
    places: Mapping[int, tuple[int, str]]
    """id of any rollout of the step -> its row in the step's rollouts file, and its role there."""
    drawn: dict[Place, dict[int, float]] = field(default_factory=dict)
    """Values that were sampled for it."""
    advantages: dict[int, list[float]] = field(default_factory=dict)
    """id of a rollout -> one per completion token; missing: it was not trained."""
    points: list[Point] = field(default_factory=list)
    before: list[Look] = field(default_factory=list)
    style_values: dict[str, float] = field(default_factory=dict)
    """Of the first step: mean reward of the answers in each style."""

    @property
    def rows(self) -> list[tuple[int, str]]:
        return [self.places[id(r)] for r in self.rollouts]


class Tracker:
    """Follows one run.

    decode: token ids -> text;  seed: of the run;  valuer: draws values of candidates, when --track.values asks for them
    styles: first token of an answer -> the name of the style it begins; a procedural task knows them
    probe: the answers that a resumed run goes on looking at;  past: the records that it has written
    """

    def __init__(
        self,
        cfg: TrackConfig,
        learner: Looker,
        store: TrackStore,
        *,
        decode: Callable[[list[int]], str],
        seed: int,
        valuer: Valuer | None = None,
        styles: Mapping[int, str] | None = None,
        probe: Sequence[Rollout] = (),
        past: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self.cfg, self.learner, self.store, self.seed = cfg, learner, store, seed
        self.valuer, self.styles, self.probe = valuer, dict(styles or {}), list(probe)
        self.stage = StageSoFar(self.styles.values(), 1 if cfg.all else max(1, cfg.every), past)
        self._decode = decode
        self._texts: dict[int, str] = {}
        self._now: _Step | None = None  # None: this step is not tracked

    @property
    def due(self) -> bool:
        """Whether the step that has begun is tracked."""
        return self._now is not None

    def begin(self, step: int, groups: Sequence[Group]) -> None:
        """Choose what to look at. The sampler still has its weights.

        The last step is not special: a run that ends here may be resumed, and would differ from one that never stopped.
        """
        self._now = None
        every = self.cfg.every
        if not groups or not (self.cfg.all or (every and (step % every == 0 or step == 1))):
            return
        if step == 1 and self.cfg.probe:
            self._choose_probe(groups)
        chosen = list(groups)
        if not self.cfg.all:
            count = min(len(chosen), max(1, round(self.cfg.share * len(chosen))))
            chosen = random.Random(seed_of(self.seed, "track", step)).sample(chosen, count)
        rollouts = [r for g in chosen for _, r in everyone(g)]
        self._now = now = _Step(step, chosen, rollouts, rows_of(groups))
        if step == 1:  # of all prompts: few answers are in a rare style
            now.style_values = tables.style_values(groups, self.styles)
        if self.valuer is not None:
            points = find_points(chosen, rollouts, {}, {})[: self.cfg.points]
            looks = self.learner.look(rollouts, self.cfg.top_k)
            seed = seed_of(self.seed, "track", step)
            now.drawn = self.valuer.values(points, chosen, rollouts, looks, seed)

    def before(self, credits: Sequence[Credit]) -> None:
        """Look under the weights that wrote the rollouts. Nothing has been learnt from them yet."""
        now = self._now
        if now is None:
            return
        now.advantages = {id(c.rollout): [a * bool(c.weight) for a in c.advantages] for c in credits}
        now.points = find_points(now.prompts, now.rollouts, now.advantages, now.drawn)
        now.before = self.learner.look(now.rollouts, self.cfg.top_k, self._asked(now))

    def after(self, own: Own, credits: Sequence[Credit]) -> dict[str, float]:
        """Look again, write the tables, and say what moved.

        own: what the learner's pass saw of each credit;  credits: those that `before` was given
        """
        now = self._now
        if now is None:
            return {}
        self._now = None
        after = self.learner.look(now.rollouts, self.cfg.top_k, self._asked(now))
        metrics = tables.own_metrics(own, credits, {i: role for i, (_, role) in now.places.items()})
        metrics |= self._write_tokens(now, after)
        metrics |= self._write_decisions(now, after)
        metrics |= self._style_metrics(now)
        if self.probe:
            metrics |= self._write_probe(now.step)
        moved = {f"dynamics/{name}": value for name, value in metrics.items()}
        return moved | self.stage.add(now.step, moved)

    # -- what is asked -------------------------------------------------------------------------------------------------

    def _choose_probe(self, groups: Sequence[Group]) -> None:
        """One answer to each of the first prompts, as the first policy wrote it; its first look is that of step 0."""
        leaves = [leaf for g in groups for leaf in leaves_of(g) if leaf.rollouts]
        self.probe = [leaf.rollouts[0] for leaf in leaves[: self.cfg.probe]]
        self.store.write_probe_answers(self.probe)
        self._write_probe(0)

    def _asked(self, now: _Step) -> list[Ids]:
        """Token ids [T, M] for each rollout: first the styles, then its decisions' candidates, then, after the update, what
        was likeliest before it. Where nothing is wanted stands the sampled token."""
        width = max((len(p.values) for p in now.points), default=0)
        by_row: dict[int, list[Point]] = {}
        for point in now.points:
            by_row.setdefault(point.row, []).append(point)
        out: list[Ids] = []
        for row, rollout in enumerate(now.rollouts):
            own_T = np.asarray(rollout.completion_ids, dtype=np.int32)
            styles_TS = np.repeat(own_T[:, None], len(self.styles), axis=1)
            styles_TS[:1] = list(self.styles)
            points_TW = np.repeat(own_T[:, None], width, axis=1)
            for point in by_row.get(row, []):
                points_TW[point.decision.position, : len(point.values)] = list(point.values)
            parts = [styles_TS, points_TW, *([now.before[row].top_ids_TK] if now.before else [])]
            out.append(np.concatenate(parts, axis=1))
        return out

    # -- what is written -----------------------------------------------------------------------------------------------

    def _write_tokens(self, now: _Step, after: Sequence[Look]) -> dict[str, float]:
        advantages = [now.advantages.get(id(r), [0.0] * len(r.completion_ids)) for r in now.rollouts]
        logp = [look.logp_T for look in after]
        top = [
            look.asked_logp_TM[:, look.asked_logp_TM.shape[1] - old.top_ids_TK.shape[1] :]
            for look, old in zip(after, now.before, strict=True)
        ]
        columns = tables.token_columns(
            now.step,
            now.rollouts,
            now.rows,
            advantages,
            now.before,
            logp,
            top,
            [look.entropy_T for look in after],
            self._text,
        )
        self.store.write_track("tokens", now.step, columns)
        return tables.token_metrics(now.rollouts, advantages, now.before, logp, top)

    def _write_decisions(self, now: _Step, after: Sequence[Look]) -> dict[str, float]:
        skip = len(self.styles)
        looks, entropies = [], []
        for p in now.points:
            place = p.decision.position, slice(skip, skip + len(p.values))
            old, new = now.before[p.row], after[p.row]
            looks.append((old.asked_logp_TM[place], new.asked_logp_TM[place]))
            entropies.append((float(old.entropy_T[place[0]]), float(new.entropy_T[place[0]])))
        columns, metrics = tables.decision_columns(
            now.step, now.points, now.rollouts, now.rows, looks, entropies, self._text
        )
        self.store.write_track("decisions", now.step, columns)
        return metrics

    def _style_metrics(self, now: _Step) -> dict[str, float]:
        """Probability of each style's first token, mean over the prompts looked at, before the update."""
        if not self.styles:
            return {}
        firsts = {rollout.prompt_id: row for row, rollout in reversed(list(enumerate(now.rollouts)))}
        probs_PS = np.exp([now.before[row].asked_logp_TM[0, : len(self.styles)] for row in firsts.values()])
        probs = zip(self.styles.values(), probs_PS.mean(0), strict=True)
        values = {f"style_value/{name}": value for name, value in now.style_values.items()}
        return {f"style/{name}": float(p) for name, p in probs} | values

    def _write_probe(self, step: int) -> dict[str, float]:
        looks = self.learner.look(self.probe, self.cfg.top_k)
        columns = tables.probe_columns(step, self.probe, looks, self._text)
        self.store.write_track("probe", step, columns)
        names = ("logp", "entropy", "top_mass")
        return {f"probe/{name}": float(np.mean(columns[name])) for name in names}

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = (
                self._decode([token]).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            )
        return self._texts[token]
