"""The scripted sampler and the contract it shares with the real ones."""

import pytest

from rlkit.errors import RolloutError
from rlkit.samplers.contract import continuation_seed, make_rollout
from rlkit.samplers.scripted import Answer, ScriptedSampler
from rlkit.types import Request, Sampler


def ask(**changes: int) -> Request:
    return Request(
        prompt_id="a",
        token_ids=[1, 40, 2],
        n=changes.get("n", 2),
        max_tokens=changes.get("max_tokens", 4),
        temperature=1.0,
        seed=0,
    )


def test_a_list_is_given_out_in_order() -> None:
    sampler: Sampler = ScriptedSampler(
        [Answer([50, 3], [-0.5, -0.25]), Answer([51, 52, 53, 54, 55])], stop_ids=[3]
    )
    sampler.load({}, version=5)
    ((first, second),) = sampler.sample([ask()])
    assert first.token_ids == [1, 40, 2, 50, 3]
    assert first.logprobs == [0.0, 0.0, 0.0, -0.5, -0.25]
    assert [(s.kind, s.start, s.end) for s in first.segments] == [("prompt", 0, 3), ("completion", 3, 5)]
    assert (first.finish_reason, first.policy_version) == ("stop", 5)
    assert (second.completion_ids, second.finish_reason) == ([51, 52, 53, 54], "length")
    with pytest.raises(RolloutError, match="the script has 2 answers, and continuation 0 of prompt 'a'"):
        sampler.sample([ask()])


def test_a_function_sees_request_and_index() -> None:
    sampler = ScriptedSampler(lambda request, i: Answer([len(request.token_ids) + i, 9]), stop_ids=[9])
    assert [r.completion_ids for r in sampler.sample([ask(n=3)])[0]] == [[3, 9], [4, 9], [5, 9]]
    assert [request.n for request in sampler.requests] == [3]


def test_an_answer_that_no_policy_could_give_is_refused() -> None:
    with pytest.raises(
        RolloutError, match=r"\[50\] to prompt 'a': it ends neither with a stop token \(\[3\]\)"
    ):
        ScriptedSampler([Answer([50])], stop_ids=[3]).sample([ask()])
    with pytest.raises(RolloutError, match="1 log-probs for 2 tokens"):
        ScriptedSampler([Answer([50, 3], [-1.0])], stop_ids=[3]).sample([ask()])
    with pytest.raises(RolloutError, match="ends neither with a stop token"):
        ScriptedSampler([Answer([])], stop_ids=[3]).sample([ask(max_tokens=1)])
    with pytest.raises(
        RolloutError, match="3 prompt tokens [+] max_tokens 4 = 7, and the sampler takes at most 6"
    ):
        ScriptedSampler([], stop_ids=[3], max_model_len=6).sample([ask()])


def test_one_logprob_per_token() -> None:
    with pytest.raises(RolloutError, match="rollout of prompt 'a': 1 log-probs for 2 tokens"):
        make_rollout(ask(), [5, 6], [-0.1], policy_version=0, finish_reason="length")


def test_continuations_of_neighbouring_requests_have_their_own_seeds() -> None:
    seeds = {continuation_seed(seed, i) for seed in range(100) for i in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)
