"""Prompts: rendering, the room for a segment, and an order that is the same after a restart."""

import json
import random
from collections import Counter
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlkit.config import DataConfig
from rlkit.data import EndlessData, PoolData, Rows, build_prompts, task_rows
from rlkit.errors import ConfigError, DataError, ModelError
from rlkit.rows import check_rows
from rlkit.sources import RawRow
from rlkit.tasks import make_task
from rlkit.templates import Template

CHATML = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
BOS = 0


def byte_tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """One token per byte; a begin token in front of every text, as Llama's tokenizer puts it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = chat_template
    return tokenizer


def make_rows(questions: list[Any]) -> Rows:
    raw = [
        RawRow(place=f"row {i}", name=f"r-{i}", row={"prompt": q, "answer": str(i)})
        for i, q in enumerate(questions)
    ]
    return check_rows(DataConfig(name="hand"), "hand", raw)


def template(tokenizer: PreTrainedTokenizerFast | None = None, **settings: Any) -> Template:
    return Template(DataConfig(**settings), byte_tokenizer() if tokenizer is None else tokenizer)


def pool(size: int = 10, **settings: Any) -> PoolData:
    rows = make_rows([f"question {i}" for i in range(size)])
    return PoolData(rows, template(), **{"max_prompt_length": 100, "seed": 0, **settings})


def ids(data: PoolData | EndlessData, n: int, weights: Any = None) -> list[str]:
    return [prompt.id for prompt in data.take(n, weights)]


# Rendering


def test_a_chat_template_writes_the_begin_token_once() -> None:
    (prompt,) = build_prompts(make_rows(["6*7?"]), template(system="Be short."), max_length=100)
    assert prompt.text == "<s>[system]Be short.</s>[user]6*7?</s>[assistant]"
    assert prompt.token_ids.count(BOS) == 1 and prompt.token_ids[0] == BOS
    assert (prompt.question, prompt.reference) == ("6*7?", "0")


def test_a_plain_text_takes_the_tokenizers_begin_token() -> None:
    tokenizer = byte_tokenizer(chat_template=None)
    (prompt,) = build_prompts(make_rows(["6*7?"]), template(tokenizer), max_length=100)
    assert (prompt.text, prompt.token_ids) == ("6*7?", tokenizer("6*7?")["input_ids"])
    assert prompt.token_ids[0] == BOS


def test_a_text_with_question_is_a_template_and_its_other_braces_stay() -> None:
    plain = template(template="Q: {question}\nAnswer in \\boxed{}. A:")
    (prompt,) = build_prompts(make_rows(["{6*7}?"]), plain, max_length=100)
    assert prompt.text == "Q: {6*7}?\nAnswer in \\boxed{}. A:"
    assert prompt.question == "{6*7}?"


def test_messages_keep_their_turns_and_the_users_system_replaces_theirs() -> None:
    messages = [
        {"role": "system", "content": "old"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "6*7?"},
    ]
    (prompt,) = build_prompts(make_rows([messages]), template(system="new"), max_length=100)
    assert prompt.text == "<s>[system]new</s>[user]1+1?</s>[assistant]2</s>[user]6*7?</s>[assistant]"
    (prompt,) = build_prompts(make_rows([messages]), template(template="plain"), max_length=100)
    assert prompt.text == "old\n\n1+1?\n\n2\n\n6*7?"


@pytest.mark.parametrize(
    "settings", [{}, {"system": "Be short."}, {"template": "plain"}, {"template": "Q: {question} A:"}]
)
@pytest.mark.parametrize("question", ["6*7?", "naïve ∑ @@segment@@ {question}"])
def test_a_spliced_segment_equals_rendering_the_text_in_one_go(
    settings: dict[str, Any], question: str
) -> None:
    around = template(**settings)
    (prompt,) = build_prompts(make_rows([question]), around, max_length=200, with_skip=True)
    assert prompt.skip_ids is not None
    head, tail = prompt.skip_ids
    segment = "so 6*7 is é"
    (whole,) = build_prompts(make_rows([f"{segment}\n\n{question}"]), around, max_length=300)
    assert head + around.tokens([segment], begins=False)[0] + tail == whole.token_ids
    assert str(around.tokenizer.decode(tail)).startswith("\n\n" + question)


def test_a_template_without_one_place_for_a_segment_is_refused() -> None:
    twice = byte_tokenizer("{% for m in messages %}{{ m['content'] }} {{ m['content'] }}{% endfor %}")
    with pytest.raises(ModelError, match="writes the question 2 times"):
        build_prompts(make_rows(["6*7?"]), template(twice), max_length=100, with_skip=True)


def test_a_template_that_fails_or_is_missing_is_told() -> None:
    broken = byte_tokenizer("{{ raise_exception('no system role') }}")
    with pytest.raises(
        ModelError, match="failed on messages of user .*no system role.*--data.template plain"
    ):
        build_prompts(make_rows(["6*7?"]), template(broken), max_length=100)
    with pytest.raises(ConfigError, match="no chat template"):
        template(byte_tokenizer(None), template="chat")
    with pytest.raises(ConfigError, match="--data.system needs a chat template"):
        template(byte_tokenizer(None), system="Be short.")


def test_prompts_over_the_limit_are_dropped_and_counted() -> None:
    rows = make_rows(["short", "x" * 200, "also short"])
    data = PoolData(rows, template(), max_prompt_length=100, seed=0)
    assert (list(data.ids), data.num_dropped) == (["r-0", "r-2"], 1)
    assert "dropped   1 of 3 prompts over --max-prompt-length 100" in data.describe()
    with pytest.raises(
        DataError, match="none of 3 prompts fits into --max-prompt-length 5; the shortest has 24 tokens"
    ):
        PoolData(rows, template(), max_prompt_length=5, seed=0)


def test_room_for_a_segment_counts_towards_the_limit() -> None:
    rows = make_rows(["6*7?"])
    (prompt,) = build_prompts(rows, template(), max_length=100, with_skip=True)
    plain = len(prompt.token_ids)  # [s, q] has a blank line more: two bytes
    assert build_prompts(rows, template(), max_length=plain)
    assert build_prompts(rows, template(), max_length=plain + 2, with_skip=True)
    with pytest.raises(DataError, match=f"the shortest has {plain + 2} tokens"):
        build_prompts(rows, template(), max_length=plain + 1, with_skip=True)


def test_describe_shows_the_mapping_and_one_prompt() -> None:
    said = pool().describe()
    assert "data      hand: 10 rows" in said
    assert "columns   question <- prompt, answer <- answer" in said
    assert "prompt    r-0, 29 tokens, gold answer '0':\n  | <s>[user]question 0</s>[assistant]" in said


# Order


def test_every_epoch_is_another_permutation_of_all_prompts() -> None:
    data = pool()
    first, second = ids(data, 10), ids(data, 10)
    assert sorted(first) == sorted(second) == sorted(data.ids)
    assert first != second and first != list(data.ids)
    assert ids(pool(), 10) == first and ids(pool(seed=1), 10) != first
    assert ids(pool(shuffle=False), 20) == 2 * list(data.ids)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("n", [3, 4, 7, 9, 10])
def test_no_prompt_comes_twice_in_a_take_and_none_is_lost(n: int, shuffle: bool) -> None:
    data = pool(shuffle=shuffle)
    seen: Counter[str] = Counter()
    for _ in range(50):
        taken = ids(data, n)
        assert len(set(taken)) == n
        seen.update(taken)
        assert max(seen.values()) - min(seen[i] for i in data.ids) <= 2
    assert sum(seen.values()) == 50 * n


def test_more_than_all_prompts_takes_every_prompt_again() -> None:
    counts = Counter(ids(pool(), 25))
    assert sorted(counts.values()) == [2] * 5 + [3] * 5


@pytest.mark.parametrize("n", [3, 7, 25])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_resume_in_mid_epoch_gives_the_same_prompts(n: int, weighted: bool) -> None:
    weights = (lambda names: [float(len(names) - i) for i in range(len(names))]) if weighted else None
    data = pool(seed=3)
    for _ in range(4):
        data.take(n, weights)
    state = json.loads(json.dumps(data.state_dict()))
    resumed = pool(seed=3)
    resumed.load_state_dict(state)
    for _ in range(12):
        assert ids(resumed, n, weights) == ids(data, n, weights)
    assert resumed.state_dict() == data.state_dict()


def test_a_state_of_other_data_is_refused() -> None:
    state = pool(10).state_dict()
    with pytest.raises(DataError, match="hand: the checkpoint was trained on other prompts"):
        pool(9).load_state_dict(state)
    chain, coins = (
        EndlessData(make_task(n), template(), max_prompt_length=300, seed=0) for n in ("chain", "coins")
    )
    with pytest.raises(DataError, match="trained on other data"):
        chain.load_state_dict(coins.state_dict())
    with pytest.raises(DataError, match="trained on other data"):
        chain.load_state_dict(state)


# Weights


def test_weights_draw_in_proportion_without_replacement() -> None:
    data = pool(4)
    first: Counter[str] = Counter()
    for _ in range(4000):
        taken = ids(data, 2, lambda names: [4.0, 3.0, 2.0, 1.0])
        assert len(set(taken)) == 2
        first[taken[0]] += 1
    shares = [first[f"r-{i}"] / 4000 for i in range(4)]
    assert shares == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.025)  # three standard deviations


def test_prompts_of_weight_zero_come_only_when_nothing_else_is_left() -> None:
    data = pool(5)
    for _ in range(50):
        assert set(ids(data, 3, lambda names: [0.0, 1.0, 1e-30, 0.0, 5.0])) == {"r-1", "r-2", "r-4"}
        assert {"r-1", "r-2", "r-4"} < set(ids(data, 4, lambda names: [0.0, 1.0, 1e-30, 0.0, 5.0]))
    assert len(set(ids(data, 5, lambda names: [0.0] * 5))) == 5
    assert len(ids(data, 12, lambda names: [0.0] * 5)) == 12
    assert set(ids(data, 12, lambda names: [0.0, 1.0, 0.0, 0.0, 0.0])) == {"r-1"}


def test_weights_of_none_are_no_preference() -> None:
    assert ids(pool(), 7, lambda names: None) == ids(pool(), 7)


def test_weights_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match="2 prompt weights for 10 prompts"):
        pool().take(3, lambda names: [1.0, 2.0])
    with pytest.raises(DataError, match="prompt r-1: weight nan; expected a finite number >= 0"):
        pool().take(3, lambda names: [1.0, float("nan")] + [1.0] * 8)
    with pytest.raises(DataError, match="prompt r-9: weight -1.0"):
        pool().take(3, lambda names: [1.0] * 9 + [-1.0])


# Tasks


def test_a_tasks_pool_holds_different_questions() -> None:
    rows = task_rows(make_task("coins"), "train", 1000)
    assert len({e.question for e in rows.examples}) == len({e.id for e in rows.examples}) == 1000


def test_endless_prompts_are_new_and_resume() -> None:
    def make(seed: int = 0) -> EndlessData:
        return EndlessData(make_task("chain"), template(), max_prompt_length=300, seed=seed, with_skip=True)

    data = make()
    before = ids(data, 40) + ids(data, 40)
    assert len(set(before)) == 80
    state = json.loads(json.dumps(data.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    assert ids(resumed, 40) == ids(data, 40, lambda names: [])
    assert not set(before) & set(ids(make(seed=1), 80))
    assert make().first.id == make().take(1)[0].id and make().first.skip_ids is not None
    assert "chain (train): endless" in make().describe()


def test_endless_prompts_that_never_fit_are_told() -> None:
    with pytest.raises(DataError, match="none of 1000 prompts fits into --max-prompt-length 3"):
        EndlessData(make_task("chain"), template(), max_prompt_length=3, seed=0)


def test_a_task_with_few_questions_is_not_asked_for_ever() -> None:
    class Coin:
        name = "coin"
        max_completion_length = 1

        def item(self, split: str, index: int) -> dict[str, str]:
            return {"prompt": random.Random(index).choice(["heads?", "tails?"]), "answer": "yes"}

        def verify(self, prompt: Any, text: str) -> Any: ...

        def demonstration(self, item: Any, rng: random.Random) -> str:
            return ""

    assert sorted(e.question for e in task_rows(Coin(), "train", 10).examples) == ["heads?", "tails?"]
    data = EndlessData(Coin(), template(), max_prompt_length=50, seed=0)
    assert len(data.take(5)) == 5
