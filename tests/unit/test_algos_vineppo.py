"""VinePPO: steps credited by the values at their two ends (arXiv:2410.01679)."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlkit import build
from rlkit.algo_config import AlgoConfig
from rlkit.algo_own import VinePpoConfig
from rlkit.algos.base import Sampling
from rlkit.algos.vineppo import VinePpo, cuts
from rlkit.batch import TokenStats, make_minibatches
from rlkit.errors import ConfigError
from rlkit.samplers.scripted import Answer, ScriptedSampler
from rlkit.tasks.chain import ChainTask, results
from rlkit.tiny import make_tokenizer
from rlkit.types import Credit, Group, Prompt, Request, Rollout, Score
from rlkit.verify import Judge
from tests.models import byte_tokenizer
from tests.rollouts import question

STOP, END = 3, 9
"""The stop token, and the one that ends a step."""


def make(**changes: Any) -> VinePpo:
    settings = {"num_generations": 2, "num_continuations": 4, **changes}
    return VinePpo(
        VinePpoConfig(**settings),
        Sampling(max_completion_length=12, temperature=1.0, step_ends=frozenset({END})),
    )


def scored(group: Group, score: Any) -> Group:
    """Verdicts by `score(child index, rollout index, rollout)`."""
    children = [
        replace(
            child,
            rollouts=[replace(r, score=_verdict(score(c, i, r))) for i, r in enumerate(child.rollouts)],
        )
        for c, child in enumerate(group.children)
    ]
    return replace(group, children=children)


def _verdict(score: float | Score) -> Score:
    return score if isinstance(score, Score) else Score(score)


def per_token(credit: Credit) -> list[float]:
    return [round(a, 12) for a in credit.advantages]


# -- where steps begin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids, begins",
    [
        ([5, 6, 7], []),
        ([5, END, 6, END, 7, STOP], [2, 4]),
        ([END, 5, END], [1]),  # nothing follows the last one
        ([5, END, END, END, 6], [4]),  # a run of them ends one step
        ([END, END], []),
        ([5], []),
    ],
)
def test_a_step_begins_after_tokens_that_end_one(ids: list[int], begins: list[int]) -> None:
    assert cuts(ids, frozenset({END}), max_steps=8) == begins


@pytest.mark.parametrize(
    "max_steps, begins",
    [(1, []), (2, [8]), (3, [4, 10]), (4, [4, 8, 12]), (7, [2, 4, 6, 8, 10, 12]), (8, list(range(2, 15, 2)))],
)
def test_of_many_steps_some_are_kept_evenly(max_steps: int, begins: list[int]) -> None:
    ids = [5, END] * 8  # 7 cuts: 2, 4, ... 14
    assert cuts(ids, frozenset({END}), max_steps) == begins


def test_the_cuts_that_are_kept_are_different_and_in_order() -> None:
    for found in range(40):
        for max_steps in range(1, 42):
            got = cuts([5, END] * (found + 1), frozenset({END}), max_steps)
            assert got == sorted(set(got)) and len(got) == min(found, max_steps - 1)


# -- what is sampled -----------------------------------------------------------------------------------------------------


def two_answers(request: Request, i: int) -> Answer:
    """Answers 5 9 6 9 7 3 and 5 9 8 3; continuations are one token and the stop."""
    if request.n == 2:
        return [Answer([5, END, 6, END, 7, STOP], [-0.5] * 6), Answer([5, END, 8, STOP], [-0.25] * 4)][i]
    return Answer([60 + i, STOP], [-2.0, -3.0])


def collected(algo: VinePpo) -> tuple[Group, ScriptedSampler]:
    sampler = ScriptedSampler(two_answers, stop_ids=[STOP])
    (group,) = algo.collect([question("a")], sampler.sample, seed=1)
    return group, sampler


def test_the_beginning_of_every_step_is_continued_and_a_shared_one_once() -> None:
    _, sampler = collected(make())
    answers, *values = sampler.requests
    prompt = [1, 40, 2]
    assert (answers.token_ids, answers.n, answers.max_tokens) == (prompt, 2, 12)
    assert [(r.token_ids, r.n, r.max_tokens) for r in values] == [
        (prompt, 4, 12),
        ([*prompt, 5, END], 4, 10),
        ([*prompt, 5, END, 6, END], 4, 8),
    ]
    assert len({r.seed for r in sampler.requests}) == 4


def test_continuations_are_judged_as_whole_answers() -> None:
    group, _ = collected(make())
    read: list[str] = []

    class Reader:
        def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
            read.extend(text for _, text in items)
            return [Score(1.0)] * len(items)

    judge = Judge(Reader(), lambda ids: " ".join(map(str, ids)), max_error_share=0.0)
    (group,) = judge([group])
    assert read[:3] == ["5 9 6 9 7 3", "5 9 8 3", "60 3"]
    assert read[6:8] == ["5 9 60 3", "5 9 61 3"] and read[-1] == "5 9 6 9 63 3"
    last = group.children[-1].rollouts[-1]
    assert last.logprobs == [0.0] * 3 + [-0.5] * 4 + [-2.0, -3.0]
    assert last.token_ids[: last.prompt_tokens] == [1, 40, 2]


# -- the credit ----------------------------------------------------------------------------------------------------------


def known_values(child: int, i: int, _: Rollout) -> float:
    """Answer 1 is right, answer 2 wrong. Values: 1/4 at the prompt, 3/4 after 5 9, 1/2 after 5 9 6 9."""
    return float(i < {0: 1, 1: 1, 2: 3, 3: 2}[child])


def test_a_step_is_worth_how_far_it_moved_the_value() -> None:
    algo = make()
    credits = algo.credit([scored(collected(algo)[0], known_values)], [])
    assert [per_token(c) for c in credits] == [
        [0.5, 0.5, -0.25, -0.25, 0.5, 0.5],  # 3/4 - 1/4, 1/2 - 3/4, 1 - 1/2
        [0.5, 0.5, -0.75, -0.75],  # 3/4 - 1/4, 0 - 3/4
    ]
    assert algo.metrics() == {"vineppo/value": 0.25, "vineppo/steps": 2.5, "vineppo/continuations": 12.0}


def test_the_steps_of_an_answer_add_up_to_its_score_minus_the_first_value() -> None:
    rng = random.Random(3)

    def write(request: Request, i: int) -> Answer:
        body = [rng.choice([5, 6, 7, END]) for _ in range(rng.randrange(0, request.max_tokens))]
        return Answer([*body, STOP])

    algo = make(num_generations=6, max_steps=4)
    sampler = ScriptedSampler(write, stop_ids=[STOP])
    groups = algo.collect([question(i) for i in "abcd"], sampler.sample, seed=1)
    groups = [scored(g, lambda c, i, r: rng.random()) for g in groups]
    credits = algo.credit(groups, [])
    assert len(credits) == 24 and len({a for c in credits for a in c.advantages}) > 40
    for credit in credits:
        first = statistics.fmean(r.value or 0.0 for r in groups[credit.group].children[1].rollouts)
        ids = credit.rollout.completion_ids
        begins = [0, *cuts(ids, frozenset({END}), 4)]
        assert sum(credit.advantages[b] for b in begins) == pytest.approx(
            (credit.rollout.value or 0.0) - first
        )


def test_an_answer_of_one_step_is_compared_with_the_value_of_its_prompt() -> None:
    algo = make(max_steps=1)
    group, sampler = collected(algo)
    assert len(sampler.requests) == 2
    credits = algo.credit([scored(group, known_values)], [])
    assert [per_token(c) for c in credits] == [[0.75] * 6, [-0.25] * 4]


def test_where_no_continuation_could_be_judged_the_step_joins_the_one_before() -> None:
    algo = make()

    def score(child: int, i: int, r: Rollout) -> float | Score:
        return Score(None) if child == 2 else known_values(child, i, r)

    credits = algo.credit([scored(collected(algo)[0], score)], [])
    assert [per_token(c) for c in credits] == [
        [0.25, 0.25, 0.25, 0.25, 0.5, 0.5],  # 1/2 - 1/4, 1 - 1/2
        [-0.25] * 4,  # 0 - 1/4
    ]


def test_values_are_over_the_continuations_that_could_be_judged() -> None:
    algo = make()

    def score(child: int, i: int, r: Rollout) -> float | Score:
        return Score(None, error=True) if child == 1 and i >= 2 else known_values(child, i, r)

    credits = algo.credit([scored(collected(algo)[0], score)], [])
    assert per_token(credits[1]) == [0.25, 0.25, -0.75, -0.75]  # the prompt is worth 1 of 2


@pytest.mark.parametrize("unjudged", [0, 1])
def test_without_a_judged_answer_or_a_first_value_a_prompt_trains_nothing(unjudged: int) -> None:
    algo = make()

    def score(child: int, i: int, r: Rollout) -> float | Score:
        return Score(None) if child == unjudged else known_values(child, i, r)

    groups = [scored(collected(algo)[0], score), scored(collected(algo)[0], known_values)]
    assert [c.group for c in algo.credit(groups, [])] == [1, 1]


def test_an_answer_that_could_not_be_judged_is_left_out_alone() -> None:
    algo = make()

    def score(child: int, i: int, r: Rollout) -> float | Score:
        return Score(None) if (child, i) == (0, 0) else known_values(child, i, r)

    (credit,) = algo.credit([scored(collected(algo)[0], score)], [])
    assert per_token(credit) == [0.5, 0.5, -0.75, -0.75]


def test_advantages_can_be_whitened_over_all_tokens() -> None:
    algo = make(scale_rewards="batch_advantages")
    credits = algo.credit([scored(collected(algo)[0], known_values)], [])
    tokens = [0.5, 0.5, -0.25, -0.25, 0.5, 0.5, 0.5, 0.5, -0.75, -0.75]
    mean, std = statistics.fmean(tokens), statistics.stdev(tokens)
    got = [a for c in credits for a in c.advantages]
    assert got == pytest.approx([(a - mean) / (std + 1e-4) for a in tokens])


def test_whitening_equal_advantages_leaves_exact_zeros() -> None:
    """2/3 six times over: its mean differs from it in the last bit."""
    algo = make(scale_rewards="batch_advantages", num_continuations=3, max_steps=1)

    def score(child: int, i: int, r: Rollout) -> float | Score:
        return Score(None) if (child, i) == (0, 1) else float(i == 0)

    (credit,) = algo.credit([scored(collected(algo)[0], score)], [])
    assert credit.advantages == [0.0] * 6


# -- a task whose step values are known ----------------------------------------------------------------------------------

TOKENIZER = make_tokenizer()
ITEM = {"prompt": "7a+4b*3c-5d*2", "answer": "6"}
STEPS = ["a7+4=", "b1*3=", "c3-5=", "d8*2="]
SIXTEEN = 16
"""Continuation i writes remaining result k right where bit k of i is 0: all 16 cases, once each."""


def chain_text(wrong: Sequence[bool]) -> str:
    """The chain worked out with these results off by one; one slip and the box is wrong."""
    right = results(ITEM["prompt"])
    digits = [str((r + w) % 10) for r, w in zip(right, wrong, strict=True)]
    box = (right[-1] + any(wrong)) % 10
    return "<steps>" + "".join(s + d for s, d in zip(STEPS, digits, strict=True)) + f"\\boxed{{{box}}}"


ANSWERS = [
    [False, False, False, False],
    [False, True, False, False],
    [True, False, False, True],
    [False, False, False, True],
]


def chain_policy(request: Request, i: int) -> Answer:
    def answer(text: str) -> Answer:
        return Answer([*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id])

    if request.n == len(ANSWERS):
        return answer(chain_text(ANSWERS[i]))
    written = TOKENIZER.decode(request.token_ids[1:])
    decided = max(0, written.count("=") - 1)
    slips = [written.split("=")[k + 1][0] != str(results(ITEM["prompt"])[k]) for k in range(decided)]
    wrong = slips + [bool(i >> k & 1) for k in range(4 - decided)]
    return answer(chain_text(wrong)[len(written) :])


def test_the_steps_of_a_chain_get_their_true_advantages() -> None:
    """Every result is right with probability 1/2: a chain of r open results is worth 2^-r, and nothing after a slip."""
    algo = VinePpo(
        VinePpoConfig(num_generations=4, num_continuations=SIXTEEN, step_separator="="),
        Sampling(
            max_completion_length=64,
            temperature=1.0,
            step_ends=build.step_ends(VinePpoConfig(step_separator="="), TOKENIZER),
        ),
    )
    task = ChainTask()

    class Scorer:
        def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
            return [task.verify(prompt, text) for prompt, text in items]

    prompt = Prompt(id="a", token_ids=[TOKENIZER.eos_token_id], question=ITEM["prompt"])
    sampler = ScriptedSampler(chain_policy, stop_ids=[TOKENIZER.eos_token_id])
    judge = Judge(Scorer(), lambda ids: TOKENIZER.decode(ids, skip_special_tokens=True), max_error_share=0.0)
    credits = algo.credit(judge(algo.collect([prompt], sampler.sample, seed=1)), [])
    # From the first "=" to the second the first result is decided, and so on; then the last one, and the box.
    expected = [
        [0, 1 / 16, 1 / 8, 1 / 4, 1 / 2],
        [0, 1 / 16, -1 / 8, 0, 0],
        [0, -1 / 16, 0, 0, 0],
        [0, 1 / 16, 1 / 8, 1 / 4, -1 / 2],
    ]
    steps = ["<steps>a7+4=", "1b1*3=", "3c3-5=", "8d8*2=", "6\\boxed{6}"]
    lengths = [len(TOKENIZER.encode(s, add_special_tokens=False)) for s in steps]
    lengths[-1] += 1  # the stop token
    for credit, values in zip(credits, expected, strict=True):
        assert credit.advantages == [v for v, n in zip(values, lengths, strict=True) for _ in range(n)]


# -- separators and settings ---------------------------------------------------------------------------------------------


def test_tokens_that_hold_the_separator_end_a_step() -> None:
    tokenizer = byte_tokenizer()
    for separator, text in (("\\n", "\n"), ("=", "="), ("\\t", "\t")):
        ends = build.step_ends(VinePpoConfig(step_separator=separator), tokenizer)
        assert ends == {*tokenizer.encode(text, add_special_tokens=False)} and len(ends) == 1
    tokenizer.add_tokens(["=\n", "a\n\nb"])
    assert len(build.step_ends(VinePpoConfig(), tokenizer)) == 3


def test_a_separator_that_no_token_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match="step-separator '\\\\n\\\\n': no token of this tokenizer holds it"):
        build.step_ends(VinePpoConfig(step_separator="\\n\\n"), byte_tokenizer())


def test_algorithms_without_steps_need_no_separator() -> None:
    assert build.step_ends(AlgoConfig(), byte_tokenizer()) == frozenset()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"num_continuations": 0}, "algo.num_continuations"),
        ({"max_steps": 0}, "algo.max_steps"),
        ({"step_separator": ""}, "algo.step_separator"),
        ({"scale_rewards": "group"}, "not with a group"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        VinePpoConfig(**changes)


# -- the loss ------------------------------------------------------------------------------------------------------------


def test_the_loss_is_ppo_s_over_all_tokens_and_each_takes_its_own_step_s_advantage() -> None:
    algo = make()
    credits = algo.credit([scored(collected(algo)[0], known_values)], [])
    assert [(c.weight, c.share, c.surrogate) for c in credits] == [(1.0, 6.0, "ppo"), (1.0, 4.0, "ppo")]
    ((batch,),) = make_minibatches(credits, 1, 10_000, pad_id=0)
    old_BT = torch.full_like(batch.adv_BT, -2.0)
    logp_BT = old_BT.clone().requires_grad_()
    out = TokenStats(
        logp_BT=logp_BT, old_logp_BT=old_BT, entropy_BT=torch.zeros_like(old_BT), num_high_entropy=10
    )
    algo.loss(batch, out)[0].backward()
    assert logp_BT.grad is not None
    for row, i in enumerate(batch.rows):
        got = logp_BT.grad[row][batch.mask_BT[row]].tolist()
        assert got == pytest.approx([-a / 10 for a in credits[i].advantages], rel=1e-6)
