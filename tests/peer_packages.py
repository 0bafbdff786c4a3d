"""Run by tests/e2e/test_peers.py where verifiers and skyrl-gym are installed: their own scoring beside rlkit's adapters.

    python tests/peer_packages.py verifiers|task|skyrl_gym

The objects at the top are what a user's file would define, and `--reward` names them here.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from rlkit.rewards import VerifierPool, judge, make_verifier
from rlkit.types import Prompt

ANSWERS = ["<answer>42</answer>", "<answer>7</answer>", "it is 42", "<answer>42</answer> and some more words"]


def make_rubric() -> Any:
    import verifiers as vf

    parser = vf.XMLParser(["answer"], answer_field="answer")

    async def correct(completion: Any, answer: str, parser: Any) -> float:
        return 1.0 if parser.parse_answer(completion) == answer else 0.0

    def of_level(info: dict[str, Any], **kwargs: Any) -> float:
        return info["level"] / 10

    def shortest(completions: list[Any], **kwargs: Any) -> list[float]:
        lengths = [len(completion[-1]["content"]) for completion in completions]
        return [float(length == min(lengths)) for length in lengths]

    rubric = vf.Rubric(funcs=[correct, of_level, shortest], weights=[1.0, 0.5, 0.25], parser=parser)
    rubric.add_reward_func(parser.get_format_reward_func(), weight=0.2)
    rubric.add_metric(num_messages)
    return rubric


def make_tasks() -> dict[str, Any]:
    """Tasks of verifiers 0.4."""
    import verifiers.v1 as vf

    class Data(vf.TaskData):  # type: ignore[misc,name-defined,unused-ignore]
        answer: str
        level: int = 0

    class Multiply(vf.Task[Data]):  # type: ignore[misc,name-defined,unused-ignore]
        @vf.reward
        async def correct(self, trace: Any) -> float:
            return float(self.data.answer in trace.last_reply)

        @vf.reward(weight=0.5)
        async def brief(self, trace: Any, task: Any) -> float:
            return float(len(trace.messages[-1].content) < 10 + task.level)

        @vf.metric
        async def characters(self, trace: Any) -> float:
            return float(len(trace.last_reply))

    class NeedsRuntime(Multiply):
        @vf.reward
        async def tested(self, runtime: Any) -> float:
            return 1.0

    return {"Multiply": Multiply, "NeedsRuntime": NeedsRuntime}


def num_messages(completion: Any) -> float:
    return float(len(completion))


def __getattr__(name: str) -> Any:
    """`tests/peer_packages.py:rubric` and `:Gsm8k`, made when they are asked for: either package may be absent."""
    if name == "rubric":
        return make_rubric()
    if name == "math_rubric":
        import verifiers as vf

        return vf.MathRubric()
    if name in ("Multiply", "NeedsRuntime"):
        return make_tasks()[name]
    if name == "Gsm8k":
        from skyrl_gym.envs.gsm8k.env import GSM8kEnv

        return GSM8kEnv
    if name == "Aime":
        from skyrl_gym.envs.aime.env import AIMEEnv

        return AIMEEnv
    raise AttributeError(name)


def adapted(name: str, items: list[tuple[Prompt, str]]) -> list[tuple[float | None, dict[str, float]]]:
    with VerifierPool(make_verifier(f"{Path(__file__).resolve()}:{name}"), workers=1, timeout=60.0) as pool:
        scores = pool.score(items)
    assert not any(score.error for score in scores), scores
    return [(score.value, dict(score.parts)) for score in scores]


def of_verifiers() -> None:
    row = {"question": "6*7?", "answer": "42", "info": json.dumps({"level": 3})}
    prompt = Prompt(id="a", token_ids=[], question="6*7?", reference="42", row=row)
    items = [(prompt, text) for text in ANSWERS]
    for name, rubric in (("rubric", make_rubric()), ("math_rubric", __getattr__("math_rubric"))):
        texts = ANSWERS if name == "rubric" else [r"so \boxed{42}", r"so \boxed{41.9}", r"\boxed{84/2}"]
        items = [(prompt, text) for text in texts]
        states: list[Any] = [
            {
                "prompt": [{"role": "user", "content": "6*7?"}],
                "completion": [{"role": "assistant", "content": text}],
                "answer": "42",
                "info": {"level": 3},
                "task": "",
                "trajectory": [],
            }
            for text in texts
        ]
        asyncio.run(rubric.score_group(states))
        expected = [(state["reward"], state["metrics"]) for state in states]
        found = adapted(name, items)
        print(name, expected)
        for (reward, metrics), (value, parts) in zip(expected, found, strict=True):
            assert value is not None and abs(value - reward) < 1e-9, (expected, found)
            assert len(metrics) == 1 or parts == metrics, (expected, found)


def of_task() -> None:
    """What the task says of itself, worked out by hand: correct + 0.5 * brief."""
    for row in (
        {"question": "6*7?", "answer": "42", "level": 3},
        {"problem": "6*7?", "label": "42", "level": 3},
    ):
        prompt = Prompt(id="a", token_ids=[], question="6*7?", reference="42", row=row)
        found = adapted("Multiply", [(prompt, "it is 42"), (prompt, "after a while: 42"), (prompt, "41")])
        print("Multiply", found)
        assert [value for value, _ in found] == [1.5, 1.0, 0.5]
        assert found[1][1] == {"correct": 1.0, "brief": 0.0, "characters": 17.0}
    score = judge(make_verifier(f"{Path(__file__).resolve()}:NeedsRuntime"), prompt, "42")
    assert score.error and "NeedsRuntime.tested needs a runtime" in score.reason, score


def of_skyrl_gym() -> None:
    texts = ["6 * 7 is 42.\n#### 42", "#### 43", "42", r"Answer: \boxed{42}"]
    for name, key in (("Gsm8k", "reward_spec"), ("Aime", "reward_model")):
        row = {"prompt": [{"role": "user", "content": "6*7?"}], key: {"method": "rule", "ground_truth": "42"}}
        prompt = Prompt(id="a", token_ids=[], question="6*7?", reference="42", row=row)
        expected = [__getattr__(name)(extras=row).step(text)["reward"] for text in texts]
        print(name, expected)
        assert len(set(expected)) == 2
        assert [value for value, _ in adapted(name, [(prompt, text) for text in texts])] == expected


if __name__ == "__main__":
    {"verifiers": of_verifiers, "task": of_task, "skyrl_gym": of_skyrl_gym}[sys.argv[1]]()
    print("equal")
