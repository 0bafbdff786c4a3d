"""Rollouts that wait for their step, through a checkpoint and back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlkit.checkpoint.state_tensors import with_tensors, without_tensors
from rlkit.config import DataConfig
from rlkit.data import EndlessData
from rlkit.drawn import Drawn, from_state, require_written_by, to_state
from rlkit.errors import RolloutError, RunError
from rlkit.tasks import make_task
from rlkit.templates import Template
from rlkit.tiny import make_tokenizer
from rlkit.types import Group, Prompt, Rollout, Score, Segment, State

ASKED = {
    "a": Prompt(
        id="a", token_ids=[1, 2], text="6*7?", question="6*7?", reference="42", row={"when": object()}
    ),
    "b": Prompt(id="b", token_ids=[3], skip_ids=([3], [4])),
}


def written(
    prompt: Prompt, answer: list[int], logprobs: list[float], score: Score | None, version: int = 7
) -> Rollout:
    head = len(prompt.token_ids)
    return Rollout(
        prompt_id=prompt.id,
        token_ids=[*prompt.token_ids, *answer],
        logprobs=[0.0] * head + logprobs,
        segments=[
            Segment(kind="prompt", start=0, end=head),
            Segment(kind="completion", start=head, end=head + len(answer)),
        ],
        policy_version=version,
        finish_reason="length",
        text="ein Wört\u2028chen",
        score=score,
    )


A, B = ASKED["a"], ASKED["b"]
SEGMENT = written(B, [9, 9], [-0.1, -1e-7], None)
INSIDE = replace(B, token_ids=[9, 9, 3])
FIRST = Group(
    prompt=A, rollouts=[written(A, [5], [-(2.0**-30) / 3], Score(0.5, "read", parts={"math": 0.5})), written(A, [6, 7], [-1.0, -2.5], Score(None, "none", error=True))]
)  # fmt: skip
SECOND = Group(
    prompt=B, rollouts=[SEGMENT], children=[Group(prompt=INSIDE, rollouts=[written(INSIDE, [8], [-3.0], Score(1.0))])]
)  # fmt: skip


def through_files(state: State, folder: Path) -> State:
    """As a checkpoint keeps it."""
    told, tensors = without_tensors(state)
    save_file(tensors, folder / "ahead.safetensors")
    text = json.dumps(told)
    return with_tensors(json.loads(text), load_file(folder / "ahead.safetensors"))


def test_what_waits_for_its_step_comes_back_as_it_was(tmp_path: Path) -> None:
    drawn = Drawn(groups=[FIRST, SECOND], kept=[SECOND], rounds=2, tokens=99)
    state = through_files({"3": to_state(drawn, ASKED.__getitem__)}, tmp_path)
    back = from_state(state["3"], ASKED.__getitem__)
    assert back == drawn
    assert back.kept[0] is back.groups[1]  # what is trained on is found in what was drawn by identity
    assert state["3"]["groups"][0]["prompt"] == {"id": "a"}  # its row is the data's, and may hold anything
    assert state["3"]["groups"][1]["children"][0]["prompt"] == {"id": "b", "token_ids": [9, 9, 3]}


def test_groups_that_an_algorithm_put_together_anew_are_kept_too(tmp_path: Path) -> None:
    other = Group(prompt=A, rollouts=FIRST.rollouts[:1])
    drawn = Drawn(groups=[FIRST], kept=[other], rounds=1, tokens=3)
    assert from_state(through_files(to_state(drawn, ASKED.__getitem__), tmp_path), ASKED.__getitem__) == drawn


def test_a_prompt_that_is_not_the_data_s_cannot_be_kept() -> None:
    for prompt in (replace(A, id="c"), replace(A, row={"mine": 1})):
        drawn = Drawn(groups=[Group(prompt=prompt, rollouts=[])], kept=[], rounds=1, tokens=0)
        with pytest.raises(RunError, match=f"prompt '{prompt.id}': .* train with --async-steps 0"):
            to_state(drawn, ASKED.__getitem__)


def test_other_data_and_missing_tokens_are_refused_with_a_sentence() -> None:
    state = to_state(Drawn(groups=[FIRST], kept=[], rounds=1, tokens=0), ASKED.__getitem__)
    with pytest.raises(RunError, match="KeyError: 'a'.*sampled from other data"):
        from_state(state, {}.__getitem__)
    cut = {**state, "token_ids": state["token_ids"][:-1], "logprobs": state["logprobs"][:-1]}
    with pytest.raises(RunError, match="fewer tokens than its rollouts"):
        from_state(cut, ASKED.__getitem__)
    assert state["logprobs"].dtype == torch.float64


def test_answers_of_other_weights_are_refused() -> None:
    drawn = Drawn(groups=[FIRST, SECOND], kept=[], rounds=1, tokens=0)
    require_written_by(drawn, 7)
    child = Group(
        prompt=B,
        rollouts=[SEGMENT],
        children=[Group(prompt=B, rollouts=[written(B, [8], [-3.0], None, version=6)])],
    )
    with pytest.raises(RolloutError, match="prompt 'b': written by weights of version 6, .* given version 7"):
        require_written_by(replace(drawn, groups=[FIRST, child]), 7)


def test_an_answer_that_newer_weights_went_on_with_is_expected_only_where_updates_come_meanwhile() -> None:
    whole = written(A, [5, 6, 7], [-1.0, -2.0, -3.0], None)
    start = whole.prompt_tokens
    mixed = replace(whole, later_versions=((start + 1, 8), (start + 2, 9)))
    drawn = Drawn(groups=[Group(prompt=A, rollouts=[mixed])], kept=[], rounds=1, tokens=3)
    require_written_by(drawn, 7, newest=9)
    with pytest.raises(RolloutError, match="version 7 to 9, and the sampler had been given version 7 to 8"):
        require_written_by(drawn, 7, newest=8)
    with pytest.raises(RolloutError, match="version 7 to 9, and the sampler had been given version 7\\."):
        require_written_by(drawn, 7)
    assert from_state(to_state(drawn, ASKED.__getitem__), ASKED.__getitem__) == drawn


def test_endless_prompts_are_found_again_by_their_id() -> None:
    task = make_task("task:chain")
    data = EndlessData(task, Template(DataConfig(), make_tokenizer()), max_prompt_length=200, seed=0)
    taken = data.take(3)
    assert [data.find(prompt.id) for prompt in taken] == taken
    for wrong in ("chain-test-1", "chain-train-x", "other-train-1"):
        with pytest.raises(KeyError):
            data.find(wrong)
