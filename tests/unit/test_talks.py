"""Talks with a sampler: what is asked does not depend on whether prompts wait for each other."""

from collections.abc import Sequence

import pytest

from rlkit.errors import RolloutError
from rlkit.loop import _Counted
from rlkit.samplers.scripted import Answer, ScriptedSampler
from rlkit.talks import Talk, follow, in_rounds
from rlkit.types import Request, Rollout


def ask(prompt: str, token: int, n: int = 1) -> Request:
    return Request(prompt_id=prompt, token_ids=[token], n=n, max_tokens=2, temperature=1.0, seed=token)


def talk(prompt: str, questions: int) -> Talk[list[int]]:
    """Each question begins with the last token that was answered."""
    token, heard = 5, [5]
    for _ in range(questions):
        ((rollout, *_),) = yield [ask(prompt, token, n=2)]
        token = rollout.token_ids[-1]
        heard.append(token)
    return heard


def next_tokens() -> ScriptedSampler:
    return ScriptedSampler(lambda request, i: Answer([9, request.token_ids[-1] + 1 + 10 * i]), stop_ids=[])


def test_rounds_put_the_questions_of_all_talks_together() -> None:
    sampler = next_tokens()
    sizes: list[list[str]] = []

    def sample(requests: Sequence[Request]) -> list[list[Rollout]]:
        sizes.append([r.prompt_id for r in requests])
        return sampler.sample(requests)

    found = in_rounds([talk("a", 3), talk("b", 1), talk("c", 0), talk("d", 2)], sample)
    assert found == [[5, 6, 7, 8], [5, 6], [5], [5, 6, 7]]
    assert sizes == [["a", "b", "d"], ["a", "d"], ["a"]]


def test_a_talk_may_ask_several_things_or_nothing_at_once() -> None:
    def many() -> Talk[list[int]]:
        one, two = yield [ask("a", 5), ask("a", 7)]
        nothing = yield []
        return [one[0].token_ids[-1], two[0].token_ids[-1], len(nothing)]

    assert in_rounds([many(), many()], next_tokens().sample) == [[6, 8, 0]] * 2


def test_what_talks_are_answered_is_counted_and_ends_with_the_run() -> None:
    ask_for = _Counted(next_tokens())
    assert follow([talk("a", 3), talk("b", 1)], ask_for) == [[5, 6, 7, 8], [5, 6]]
    assert ask_for.tokens == 4 * 2 * 2  # four questions, two answers each, of two tokens
    with pytest.raises(RolloutError, match="the run ends"):
        follow([talk("a", 1)], _Counted(next_tokens(), lambda: True))
