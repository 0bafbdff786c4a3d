"""One run of two_stage.py: trained, its weights kept every few steps, and what they do on held-out questions.

Mass is exact: the probability of each style's first token on every held-out question, from the weights themselves, so the three
algorithms are measured by one instrument whatever they sample.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from rlkit import build
from rlkit.algos.ops import seed_of
from rlkit.analysis.roles import roles
from rlkit.analysis.stages import Detection, detect
from rlkit.analysis.store import read_metrics
from rlkit.commands.train import Ready, prepare, run
from rlkit.config import (
    DataConfig,
    LearnerConfig,
    LogConfig,
    RewardConfig,
    SamplerConfig,
    TrackConfig,
    TrainConfig,
)
from rlkit.types import Prompt, Request

from . import graded

TASK = "task:chain"
Floats = NDArray[np.float64]
Record = dict[str, Any]
"""JSON values: what is kept of a run."""
SHARE_OF_RATE = {"skpo": 1 / 3}
"""Of the common learning rate. At the whole of it SKPO's answers fell apart after 50 steps (one seed, reward 0.34 -> 0.10)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all runs have in common."""

    steps: int
    every: int
    """Steps between kept weights."""
    prompts_per_step: int
    learning_rate: float
    prompts: int
    """Held-out questions."""
    answers: int
    """To each of them, in an exam."""

    def of(self, algo: str) -> "Plan":
        """The same with the algorithm's own learning rate."""
        return replace(self, learning_rate=self.learning_rate * SHARE_OF_RATE.get(algo, 1))

    def config(self, algo: str, seed: int, folder: Path) -> TrainConfig:
        return TrainConfig(
            algo=build.algo_config(algo),
            data=DataConfig(name=TASK),
            reward=RewardConfig(name=f"{graded.__file__}:checked", workers=0),
            sampler=SamplerConfig(name="hf"),
            learner=LearnerConfig(learning_rate=self.learning_rate),
            log=LogConfig(
                save_every=self.every,
                save_total_limit=self.steps,
                show_every=0,
                eval_prompts=self.prompts,
                rollouts=False,
                tensorboard=False,
            ),
            track=TrackConfig(every=self.every, share=1.0, probe=0),
            steps=self.steps,
            prompts_per_step=self.prompts_per_step,
            max_prompt_length=96,
            seed=seed,
            output_dir=str(folder),
        )


def ready(plan: Plan, algo: str, seed: int, folder: Path) -> Ready:
    told, found = prepare(plan.of(algo).config(algo, seed, folder))
    if found is None:
        raise SystemExit("\n".join(told.problems))
    return found


class Examiner:
    """Held-out questions, one sampler and one verifier, for the weights of every run."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.ready = plan, ready(plan, "grpo", 0, folder / "examiner")
        assert self.ready.task is not None
        self.start = build.model_folder(self.ready.place, self.ready.task, Console(stderr=True))
        self.questions = list(self.ready.held_out)
        tokens = build.style_tokens(self.ready.task, self.ready.tokenizer)
        self.styles = {name: token for token, name in tokens.items()}
        cfg = self.ready.cfg
        self.longest = cfg.max_completion_length or 0
        self.sampler = build.make_sampler(
            cfg.sampler, cfg.model, self.start, max_tokens=cfg.max_prompt_length + self.longest, version=0
        )

    def mass(self, weights: Path) -> tuple[dict[str, float], float]:
        """Mean probability of each style over the held-out questions, and mean entropy of the first token, nats."""
        model = build.load_model(weights, self.ready.cfg.model).eval()
        ids_BT = torch.tensor(
            [q.token_ids for q in self.questions]
        )  # task:chain writes questions of one length
        with torch.inference_mode():
            logp_BV = model(ids_BT).logits[:, -1].float().log_softmax(-1)
        entropy = float(-(logp_BV.exp() * logp_BV).sum(-1).mean())
        return {name: float(logp_BV[:, i].exp().mean()) for name, i in self.styles.items()}, entropy

    def exam(self, weights: Path) -> Record:
        """Answers to every question: how many were right, how many paid in full, and what each style was worth."""
        self.sampler.load(build.load_model(weights, self.ready.cfg.model).state_dict(), version=0)
        drawn = self.sampler.sample([self._request(q) for q in self.questions])
        right, best = [], []
        paid: dict[str, list[float]] = {name: [] for name in self.styles}
        names = {token: name for name, token in self.styles.items()}
        for question, rollouts in zip(self.questions, drawn, strict=True):
            values = []
            for r in rollouts:
                text = self.ready.tokenizer.decode(r.completion_ids, skip_special_tokens=True)
                values.append(float(graded.checked(question, text).value or 0.0))
                if r.completion_ids[0] in names:
                    paid[names[r.completion_ids[0]]].append(values[-1])
            right.append(sum(v > 0 for v in values))
            best.append(sum(v == 1 for v in values))
        worth = {name: float(np.mean(v)) if v else None for name, v in paid.items()}
        return {"n": self.plan.answers, "right": right, "best": best, "worth": worth}

    def _request(self, question: Prompt) -> Request:
        return Request(
            prompt_id=question.id,
            token_ids=question.token_ids,
            n=self.plan.answers,
            max_tokens=self.longest,
            temperature=1.0,
            seed=seed_of(0, "two_stage", question.id),
        )

    def close(self) -> None:
        self.sampler.close()


def roles_at_start(mass: Mapping[str, float], worth: Mapping[str, float | None]) -> dict[str, str]:
    """Role -> style, when each of the three has exactly one. Raises SystemExit: the warm start is another than this study needs.

    >>> roles_at_start({"now": 0.7, "steps": 0.27, "check": 0.03}, {"now": 0.1, "steps": 0.5, "check": 0.9})
    {'high': 'steps', 'low': 'now', 'optimal': 'check'}
    """
    names = list(mass)
    values = np.array([np.nan if worth[name] is None else worth[name] for name in names], np.float64)
    masks = roles(np.array([mass[name] for name in names]), values)
    found = {
        role: [name for name, yes in zip(names, mask, strict=True) if yes]
        for role, mask in (("high", masks.high), ("low", masks.low), ("optimal", masks.optimal))
    }
    if any(len(styles) != 1 for styles in found.values()):
        raise SystemExit(
            f"the styles play {found} at the start; expected one style for each role (mass {mass}, worth {worth})"
        )
    return {role: styles[0] for role, styles in found.items()}


def one(plan: Plan, algo: str, seed: int, folder: Path, examiner: Examiner, start: Record) -> Record:
    """One run, measured; its folder is removed. A record that is there already is not computed again."""
    path = folder / f"{algo}-{seed}.json"
    settings = {"algo": algo, "seed": seed, **asdict(plan.of(algo))}
    known = read(path, settings)
    if known is not None:
        return known
    place = folder / f"{algo}-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    began = time.perf_counter()
    outcome = run(replace(ready(plan, algo, seed, place), held_out=[]), Console(quiet=True))
    trained = time.perf_counter() - began
    kept = {int(p.name.split("-")[1]): p for p in (place / "checkpoints").glob("step-*")}
    weights = {0: examiner.start, **dict(sorted(kept.items()))}
    measured = [examiner.mass(p) for p in weights.values()]
    record: Record = {
        "settings": settings,
        "steps": list(weights),
        "mass": {name: [m[name] for m, _ in measured] for name in examiner.styles},
        "entropy": [e for _, e in measured],
        "reward": [row["reward"] for row in read_metrics(place)],
        "live": _live(read_metrics(place)),
        "tokens": outcome.sampled_tokens,
    }
    turn = turn_of(record, start["roles"])
    at = turn_step(record, turn, start["roles"]["high"])
    record["turn_step"] = at
    record["exams"] = {"turn": examiner.exam(weights[at]), "end": examiner.exam(weights[max(weights)])}
    record["seconds"] = [trained, time.perf_counter() - began - trained]
    write(path, record)
    shutil.rmtree(place)
    return record


def start_of(plan: Plan, folder: Path, examiner: Examiner) -> Record:
    """The warm start that all runs begin with, examined once."""
    settings = {"prompts": plan.prompts, "answers": plan.answers}
    known = read(folder / "start.json", settings)
    if known is None:
        mass, entropy = examiner.mass(examiner.start)
        exam = examiner.exam(examiner.start)
        known = {
            "settings": settings,
            "mass": mass,
            "entropy": entropy,
            "exam": exam,
            "roles": roles_at_start(mass, exam["worth"]),
        }
        write(folder / "start.json", known)
    return known


def turn_of(record: Record, role: Mapping[str, str]) -> Detection:
    """What the detector says of the whole run, its roles those of the start."""
    masses = record["mass"]
    return detect(masses[role["high"]], masses[role["optimal"]], record["steps"])


def turn_step(record: Record, turn: Detection, high: str) -> int:
    """The step, among those whose weights were kept, at which exploitation ended; not found: that of the highest mass."""
    steps: Sequence[int] = record["steps"]
    if turn.t_max1 is not None:
        at = turn.t_max1.step
        return min(steps, key=lambda step: abs(step - at))
    return steps[int(np.argmax(record["mass"][high]))]


def _live(rows: Sequence[Mapping[str, float]]) -> Record | None:
    """What the run said of its own stage at its last look; None: it cannot say (SKPO's answers are trees)."""
    told = [row for row in rows if "dynamics/stage" in row]
    if not told:
        return None
    names = ("stage", "turn/max1", "turn/max1_low", "turn/max1_high")
    return {name: told[-1].get(f"dynamics/{name}") for name in names}


def read(path: Path, settings: Mapping[str, Any]) -> Record | None:
    """A record of these settings; None: there is none, and one of others is not used."""
    if not path.is_file():
        return None
    record: Record = json.loads(path.read_text())
    return record if record["settings"] == dict(settings) else None


def write(path: Path, record: Record) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(record) + "\n")
    draft.replace(path)


def all_runs(
    plan: Plan, algos: Sequence[str], seeds: Sequence[int], folder: Path, console: Console
) -> tuple[Record, dict[str, list[Record]]]:
    """The start, and every run by algorithm; seeds in turn, so that a campaign that is stopped has some of each."""
    folder.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[Record]] = {algo: [] for algo in algos}
    with closing(Examiner(plan, folder)) as examiner:
        start = start_of(plan, folder, examiner)
        for seed in seeds:
            for algo in algos:
                record = one(plan, algo, seed, folder, examiner, start)
                runs[algo].append(record)
                seconds = " + ".join(f"{s:.0f}" for s in record["seconds"])
                told = turn_of(record, start["roles"]).words(finished=True)
                console.print(
                    f"{algo} seed {seed}: {seconds} s, reward {np.mean(record['reward'][-10:]):.3f}; {told}",
                    highlight=False,
                    soft_wrap=True,
                )
    return start, runs
