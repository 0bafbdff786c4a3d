"""Reward functions of other projects, as they are: each project's documented example gives the values it documents."""

import asyncio
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlkit.errors import ConfigError
from rlkit.rewards import VerifierPool, judge, make_verifier
from rlkit.rewards.adapters import (
    AsyncAdaptedVerifier,
    AsyncBatchAdaptedVerifier,
    BatchAdaptedVerifier,
    adapt,
)
from rlkit.rewards.adapters.recognise import recognise
from rlkit.rewards.combine import AsyncWeightedSum
from rlkit.rewards.contract import has_batch, judge_batch
from rlkit.types import AnyVerifier, Group, Prompt, Rollout, Score, Segment
from rlkit.verify import Judge
from tests import peer_rewards

FILE = str(Path(__file__).parents[1] / "peer_rewards.py")
USER = {"role": "user", "content": "6*7?"}


def prompt(reference: str | None = "42", id: str = "a", **row: Any) -> Prompt:
    return Prompt(id=id, token_ids=[1, 2], text="<u>6*7?<a>", question="6*7?", reference=reference, row=row)


def scores(name: str, items: Sequence[tuple[Prompt, str]], workers: int = 0) -> list[Score]:
    """As a run would judge: named by file, through the pool."""
    with VerifierPool(make_verifier(f"{FILE}:{name}"), workers=workers, timeout=60.0) as pool:
        return pool.score(items)


def batch(name: str, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
    """As one call."""
    verify = make_verifier(f"{FILE}:{name}")
    assert has_batch(verify)
    return judge_batch(verify, items)


def values(name: str, items: Sequence[tuple[Prompt, str]]) -> list[float | None]:
    found = scores(name, items)
    assert not [score.reason for score in found if score.error]
    return [score.value for score in found]


def reason(name: str, item: tuple[Prompt, str]) -> str:
    (score,) = scores(name, [item])
    assert score.error
    return score.reason


# -- recognition ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "style"),
    [
        *((name, "trl") for name in ("longer", "think_and_answer", "matches_ground_truth", "only_math")),
        *((name, "trl") for name in ("slow_service", "logs", "penalty_of_5")),
        ("DummyLengthReward", "swift"),
        *((name, "verl") for name in ("my_reward_fn", "gsm8k_score", "scored_dict")),
        *((name, "verifiers") for name in ("correct_answer", "num_characters", "uses_info", "shortest")),
        *((name, "verifiers") for name in ("rubric", "grouped", "load_environment")),
        *((name, "openrlhf") for name in ("reward_func", "tensor_only")),
        ("MultiplyEnv", "skyrl"),
        *((name, "slime") for name in ("custom_rm", "group_rm")),
        ("areal_reward", "areal"),
        ("WordCount", "open_instruct"),
        ("boxed", "rlkit"),
    ],
)
def test_a_signature_says_whose_it_is(name: str, style: str) -> None:
    assert recognise(getattr(peer_rewards, name), name) == style


def test_trl_s_own_functions_are_recognised() -> None:
    from trl import rewards

    made = [rewards.get_soft_overlong_punishment(100, 20), rewards.get_repetition_penalty_reward(2)]
    for function in (rewards.accuracy_reward, rewards.think_format_reward, *made):
        assert recognise(function, "f") == "trl"


def test_rlkit_s_own_verifiers_stay_what_they_are() -> None:
    root = Path(FILE).parents[1]
    assert type(make_verifier(f"{root}/examples/custom_verifier.py:LastNumber")).__name__ == "LastNumber"
    for words in (lambda prompt, text: 1.0, lambda p, answer: 1.0, lambda question, response: 1.0):
        assert adapt(words) is None

    def annotated(prompt: Prompt, completion: str) -> float:
        return 1.0

    assert adapt(annotated) is None


def test_a_signature_that_fits_two_projects_is_asked_about_and_the_word_decides() -> None:
    with pytest.raises(ConfigError) as caught:
        make_verifier(f"{FILE}:trl_or_verifiers")
    assert str(caught.value) == (
        f"--reward {FILE}:trl_or_verifiers: its signature fits TRL's (prompts, completions, **columns) and verifiers' "
        "(prompt, completion, answer, info, state, ...), plural for a group; "
        f"say which: {FILE}:trl_or_verifiers(style=trl) or {FILE}:trl_or_verifiers(style=verifiers)"
    )
    assert values("trl_or_verifiers(style=trl)", [(prompt(answers="42"), "42")]) == [1.0]  # a text
    two = [(prompt(), "42"), (prompt(), "43")]
    assert [score.value for score in batch("trl_or_verifiers(style=verifiers)", two)] == [
        0.0,
        0.0,
    ]  # messages
    with pytest.raises(ConfigError, match="fits rlkit's .* and verifiers'"):
        make_verifier(f"{FILE}:rlkit_or_verifiers")
    assert values("rlkit_or_verifiers(style=rlkit)", [(prompt(), "42")]) == [1.0]
    assert values("rlkit_or_verifiers(style=verifiers)", [(prompt(), "42")]) == [0.0]
    with pytest.raises(ConfigError, match="style 'vrl' is not known; did you mean 'verl'?"):
        make_verifier(f"{FILE}:my_reward_fn(style=vrl)")


# -- TRL ------------------------------------------------------------------------------------------------------------------


def test_trl_a_longer_completion_is_worth_its_tokens() -> None:
    items = [(prompt(completion_ids=[1, 2, 3]), "abc"), (prompt(completion_ids=[1, 2, 3, 4, 5]), "abcde")]
    assert values("longer", items) == [3.0, 5.0]


def test_trl_a_run_hands_over_the_tokens_it_sampled() -> None:
    rollouts = [
        Rollout(
            prompt_id="a",
            token_ids=[1, 2, *tokens],
            logprobs=[0.0, 0.0, *(-1.0 for _ in tokens)],
            segments=[
                Segment(kind="prompt", start=0, end=2),
                Segment(kind="completion", start=2, end=2 + len(tokens)),
            ],
            policy_version=0,
            finish_reason="stop",
        )
        for tokens in ([7, 8, 9], [7])
    ]
    with VerifierPool(make_verifier(f"{FILE}:longer"), workers=0, timeout=60.0) as pool:
        judged = Judge(pool, lambda ids: "x" * len(ids), 0.0)([Group(prompt=prompt(), rollouts=rollouts)])
    assert [rollout.value for rollout in judged[0].rollouts] == [3.0, 1.0]
    assert judged[0].prompt.row == {}


def test_trl_messages_where_the_question_is_messages() -> None:
    chat = prompt(prompt=[USER])
    texts = ["<think>6 sevens</think><answer>42</answer>", "<answer>42</answer>"]
    assert values("think_and_answer", [(chat, text) for text in texts]) == [1.0, 0.0]


def test_trl_messages_where_the_annotation_says_so_and_texts_otherwise() -> None:
    plain = prompt(problem="6*7?")
    assert values("think_and_answer", [(plain, "<think>x</think><answer>42</answer>")]) == [1.0]
    assert values("matches_ground_truth", [(plain, r"\boxed{42}"), (plain, r"\boxed{43}")]) == [1.0, 0.0]


def test_trl_columns_are_lists_and_none_is_a_skip() -> None:
    items = [(prompt(id=str(i), task=task), "x") for i, task in enumerate(("math", "coding", "math"))]
    found = scores("only_math", items)
    assert [score.value for score in found] == [1.0, None, 1.0]
    assert [score.outcome for score in found] == ["score", "skip", "score"]


def test_trl_the_gold_answer_comes_under_the_name_that_is_asked_for() -> None:
    """The column where there is one, as TRL passes it; else the answer that rlkit has read from another."""
    assert values("matches_ground_truth", [(prompt("42", ground_truth="7"), r"\boxed{7}")]) == [1.0]
    assert values("matches_ground_truth", [(prompt("42", final_answer="42"), r"\boxed{42}")]) == [1.0]


def test_trl_an_async_function_judges_its_batch() -> None:
    assert isinstance(make_verifier(f"{FILE}:slow_service"), AsyncBatchAdaptedVerifier)
    items = [(prompt(), "four"), (prompt(), "nineteen")]
    assert [score.value for score in scores("slow_service", items, workers=1)] == [4.0, 8.0]


def test_trl_what_is_logged_is_kept_beside_the_reward() -> None:
    one, two = scores("logs", [(prompt(), "ab"), (prompt(), "abc")])
    assert one == Score(1.0, "logs returned 1; read 'b'", {"mean": 0.25, "characters": 2.0})
    assert two == Score(1.0, "logs returned 1; read 'c'", {"mean": 0.25, "characters": 3.0})


def test_trl_a_plain_function_may_run_an_event_loop_of_its_own() -> None:
    assert values("runs_its_own_loop", [(prompt(), "four")]) == [4.0]


def test_trl_a_closure_works_in_verifier_processes() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(peer_rewards.penalty_of_5)
    found = scores("penalty_of_5", [(prompt(), "short"), (prompt(), "longer")], workers=2)
    assert [score.value for score in found] == [0.0, -1.0]


def test_trl_a_step_is_not_invented() -> None:
    assert "rlkit does not tell a verifier which step it is" in reason("step_dependent", (prompt(), "x"))


@pytest.mark.parametrize(
    ("solution", "text", "value"),
    [
        (r"\frac{1}{3}", r"My answer is \boxed{\frac{1}{3}}", 1.0),
        (r"\frac{1}{3}", r"My answer is \boxed{\frac{1}{2}}", 0.0),
        ("no mathematics", r"My answer is \boxed{1}", None),
    ],
)
def test_trl_s_accuracy_reward_is_itself(solution: str, text: str, value: float | None) -> None:
    from trl.rewards import accuracy_reward

    message = [[{"role": "assistant", "content": text}]]
    assert accuracy_reward(message, [solution]) == [value]
    verify = adapt(accuracy_reward)
    assert verify is not None
    score = judge(verify, prompt(solution), text)
    assert (score.value, score.error) == (value, False)
    assert "gold_parsed" in score.reason


def test_trl_s_shaping_rewards_are_themselves() -> None:
    from trl import rewards

    def judged(function: Any, text: str, tokens: list[int]) -> float | None:
        verify = adapt(function)
        assert verify is not None
        return judge(verify, prompt(r"\frac{1}{3}", completion_ids=tokens), text).value

    assert judged(rewards.get_soft_overlong_punishment(100, 20), "", [1] * 90) == -0.5
    assert judged(rewards.get_repetition_penalty_reward(2, -1.0), "", [5, 5, 5, 5, 5]) == -0.75
    cosine = rewards.get_cosine_scaled_reward(max_len=100)
    assert judged(cosine, r"\boxed{\frac{1}{3}}", [1] * 50) == pytest.approx(0.75)
    assert judged(cosine, r"\boxed{\frac{1}{2}}", [1] * 50) == pytest.approx(-0.75)
    texts = "<think>\nThis is my reasoning.\n</think>\nThis is my answer.", "<think>\nThis is my answer."
    assert [judged(rewards.think_format_reward, text, []) for text in texts] == [1.0, 0.0]


def test_trl_s_functions_are_named_by_their_module() -> None:
    verify = make_verifier("trl.rewards:think_format_reward + 0.5*trl.rewards:accuracy_reward")
    score = judge(verify, prompt("42"), "<think>\n6 * 7\n</think>\n$\\boxed{42}$")
    assert score.value == 1.5
    assert score.parts == {"think_format_reward": 1.0, "accuracy_reward": 1.0}


def test_ms_swift_s_classes_get_texts_and_their_options() -> None:
    chat = prompt(prompt=[USER])
    assert values("DummyLengthReward(limit=3)", [(chat, "abc"), (chat, "abcd")]) == [0.0, 1.0]
    assert values("DummyLengthReward", [(chat, "abcd")]) == [0.0]


# -- verl -----------------------------------------------------------------------------------------------------------------


def verl_prompt(**more: Any) -> Prompt:
    row = {
        "data_source": "openai/gsm8k",
        "prompt": [USER],
        "reward_model": {"style": "rule", "ground_truth": "42"},
        "extra_info": {"level": 3},
    }
    return prompt("42", **{**row, **more})


def test_verl_a_documented_function() -> None:
    assert values("my_reward_fn", [(verl_prompt(), "x" * 25)]) == [0.25]


def test_verl_gsm8k_is_right_or_formed_or_neither() -> None:
    texts = ["#### 42", "#### 43", "it is 42"]
    assert values("gsm8k_score", [(verl_prompt(), text) for text in texts]) == [1.0, 0.1, 0.0]
    assert values("gsm8k_score(format_score=0.2)", [(verl_prompt(), "#### 43")]) == [0.2]


def test_verl_a_dict_has_its_score_its_parts_and_words() -> None:
    assert isinstance(make_verifier(f"{FILE}:scored_dict"), AsyncAdaptedVerifier)
    right, wrong = scores("scored_dict", [(verl_prompt(), "42"), (verl_prompt(), "43")])
    assert right == Score(1.0, "scored_dict returned 1; pred '42'", {"acc": 1.0, "level": 3.0})
    assert wrong == Score(-1.0, "scored_dict returned -1; pred '43'", {"acc": 0.0, "level": 3.0})


def test_verl_data_of_another_layout_gives_the_gold_answer_and_no_source() -> None:
    assert values("source_of", [(verl_prompt(), ""), (prompt("42", problem="6*7?"), "")]) == [1.0, 0.0]
    assert values("gsm8k_score", [(prompt("42", problem="6*7?"), "#### 42")]) == [1.0]
    assert values("source_of(data_source='openai/gsm8k')", [(prompt(), "")]) == [1.0]


def test_verl_reward_model_is_passed_as_it_is() -> None:
    row = verl_prompt(reward_model={"style": "rule", "ground_truth": "7"})
    assert values("gsm8k_score", [(row, "#### 7")]) == [1.0]


# -- verifiers ------------------------------------------------------------------------------------------------------------


def test_verifiers_a_rubric_is_a_weighted_sum_and_a_weight_of_0_is_a_metric() -> None:
    short, long = scores("rubric", [(prompt(), "it is 42"), (prompt(), "after a long while: 41")])
    assert short.value == pytest.approx(1.1)
    assert short.parts == {"correct_answer": 1.0, "length_reward": 1.0, "num_characters": 8.0}
    assert long.value == pytest.approx(0.05)


def test_verifiers_a_rubric_gives_its_parser_by_name_and_need_not_be_pickled() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(peer_rewards.parsing)
    found = scores("parsing", [(prompt(), r"\boxed{42}"), (prompt(), "42")], workers=1)
    assert [score.value for score in found] == [1.0, 0.0]


def test_verifiers_a_function_alone() -> None:
    assert isinstance(make_verifier(f"{FILE}:correct_answer"), AsyncAdaptedVerifier)
    assert values("correct_answer", [(prompt(), "it is 42"), (prompt(), "it is 7")]) == [1.0, 0.0]
    for info in ({"level": 2}, '{"level": 2}'):
        assert values("uses_info", [(prompt(info=info), "x")]) == [2.0]


def test_verifiers_a_group_function_sees_the_answers_to_one_prompt() -> None:
    a, b = prompt(id="a"), prompt(id="b")
    items = [(a, "42"), (b, "4242"), (a, "4242"), (b, "42 or 43")]
    assert [score.value for score in batch("shortest", items)] == [1.0, 1.0, 0.0, 0.0]
    found = batch("grouped", items)
    assert [score.value for score in found] == [1.5, 1.5, 1.0, 1.0]
    assert found[2].parts == {"correct_answer": 1.0, "shortest": 0.0}
    assert isinstance(make_verifier(f"{FILE}:shortest"), BatchAdaptedVerifier)


@pytest.mark.parametrize("workers", [0, 1])
def test_verifiers_a_group_is_not_torn_also_in_a_sum(workers: int) -> None:
    """Three groups of 50: batches of 64, the size of the other term, would cut the second and the third."""
    items = [(prompt(id=f"p{i // 50}"), "x" * (1 + (i + 1) % 50)) for i in range(150)]
    found = scores(f"shortest + 0*{FILE}:matches_ground_truth", items, workers)
    assert [i for i, score in enumerate(found) if score.value == 1.0] == [49, 99, 149]
    assert {score.value for score in found} == {0.0, 1.0}


def test_verifiers_a_group_function_is_not_asked_about_one_answer_alone() -> None:
    assert "compares the answers to a prompt, and was asked about one alone" in reason(
        "shortest", (prompt(), "42")
    )


def test_verifiers_what_a_function_raises_is_an_error_and_not_0() -> None:
    """verifiers itself counts it as 0.0."""
    (score,) = scores("broken", [(prompt(), "42")])
    assert score.outcome == "error" and "ValueError: no answer" in score.reason
    (score,) = scores("broken_metric", [(prompt(), "42")])
    assert (score.value, score.parts) == (1.0, {"correct_answer": 1.0})


def test_verifiers_an_environment_is_its_rubric() -> None:
    assert values("load_environment(answer_weight=2.0)", [(prompt(), "42")]) == [2.0]


def test_verifiers_a_parser_belongs_to_a_rubric() -> None:
    assert "parsed_exactly asks for 'parser', which the data has not" in reason(
        "parsed_exactly", (prompt(), "42")
    )


# -- OpenRLHF, SkyRL ------------------------------------------------------------------------------------------------------


def test_openrlhf_tensors_become_numbers() -> None:
    right, wrong = batch("reward_func", [(prompt(), "42"), (prompt(), "43")])
    assert right == Score(1.0, "reward_func returned 1", {"batch": 0.5, "right": 1.0, "scores": 1.0})
    assert wrong == Score(-1.0, "reward_func returned -1", {"batch": 0.5, "right": 0.0, "scores": 0.0})
    assert values("tensor_only", [(prompt(), "42"), (prompt(), "43")]) == [0.5, 0.5]


def test_skyrl_one_step_is_the_verdict() -> None:
    row = {"prompt": [USER], "env_class": "multiply", "reward_spec": {"method": "rule", "ground_truth": 42}}
    right, wrong = scores("MultiplyEnv", [(prompt(**row), r"\boxed{42}"), (prompt(**row), "42")])
    assert right == Score(1.0, "MultiplyEnv returned 1; parsed_answer '42'", {"tries_left": 0.0})
    assert wrong == Score(0.0, "MultiplyEnv returned 0", {"tries_left": 0.0})


def test_skyrl_data_of_another_layout_gives_the_gold_answer() -> None:
    assert values("MultiplyEnv", [(prompt("42", problem="6*7?"), r"\boxed{42}")]) == [1.0]


def test_skyrl_an_environment_of_several_turns_is_an_error() -> None:
    assert "MultiplyEnv is not done after one step" in reason(
        "MultiplyEnv(tries=3)", (prompt(), r"\boxed{41}")
    )
    assert "init changes the prompt" in reason("ChangesThePrompt", (prompt(), r"\boxed{42}"))


# -- slime, AReaL, open-instruct ------------------------------------------------------------------------------------------


def test_slime_areal_and_open_instruct() -> None:
    assert values("custom_rm(scale=2.0)", [(prompt(), "42"), (prompt(), "43")]) == [2.0, 0.0]
    items = [(prompt(id="a"), "x"), (prompt(id="b"), "x"), (prompt(id="a"), "y")]
    assert [score.value for score in batch("group_rm", items)] == [0.0, 0.0, 0.5]
    assert values("areal_reward", [(prompt(completion_ids=[1, 2]), "42")]) == [3.0]
    assert values("WordCount", [(prompt("2"), "forty two"), (prompt("2"), "42")]) == [1.0, 0.0]


# -- faults ---------------------------------------------------------------------------------------------------------------


def test_a_list_of_another_length_is_an_error_of_each_answer() -> None:
    found = scores("too_few", [(prompt(), "a"), (prompt(), "b")])
    assert all(score.error for score in found)
    assert (
        reason("too_few", (prompt(), "a"))
        == "too_few returned 0 rewards for 1 answers, expected one for each"
    )


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", ["one_nan", "one_raises"])
def test_one_bad_answer_costs_the_others_nothing(name: str, workers: int) -> None:
    found = scores(name, [(prompt(), "good"), (prompt(), "bad"), (prompt(), "good")], workers)
    assert [score.outcome for score in found] == ["score", "error", "score"]
    expected = {
        "one_nan": "one_nan returned 'nan' (float), expected a finite number",
        "one_raises": "ZeroDivision",
    }
    assert found[1].reason.startswith(expected[name])


def test_a_missing_column_is_named_with_those_there_are() -> None:
    said = reason("wants_tests", (prompt(problem="6*7?", answer="42"), "x"))
    assert said == "wants_tests asks for 'unit_tests', which the data has not; columns: problem, answer"
    assert "asks for 'task', which the data has not; columns: problem" in reason(
        "only_math", (prompt(problem="?"), "x")
    )


def test_options_that_nothing_takes_are_refused() -> None:
    with pytest.raises(ConfigError, match="option 'format_scor' is not known; did you mean 'format_score'?"):
        make_verifier(f"{FILE}:gsm8k_score(format_scor=0.2)")
    with pytest.raises(ConfigError, match="it is made already and takes no options; name its class"):
        make_verifier(f"{FILE}:rubric(weight=2)")
    with pytest.raises(ConfigError, match="making it with limits failed"):
        make_verifier(f"{FILE}:DummyLengthReward(limits=2)")


def test_adapted_verifiers_add_up_with_others() -> None:
    verify: AnyVerifier = make_verifier(f"exact + 0.5*{FILE}:slow_service + 0*{FILE}:my_reward_fn")
    assert isinstance(verify, AsyncWeightedSum)
    assert judge(verify, prompt(), "42").value == 2.0
    assert asyncio.run(verify.batch([(prompt(), "42"), (prompt(), "4")]))[1].value == 0.5
