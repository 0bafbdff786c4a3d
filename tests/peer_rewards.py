"""Reward functions as users of other projects have written them, named as those projects' documentation names them."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

BOX = re.compile(r"\\boxed\{([^}]*)\}")
Messages = list[dict[str, str]]


def boxed(text: str) -> str | None:
    found = BOX.findall(text)
    return found[-1] if found else None


# -- TRL ----------------------------------------------------------------------------------------------------------------


def longer(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def think_and_answer(completions: list[Messages], **kwargs: Any) -> list[float]:
    form = re.compile(r"^<think>.*?</think><answer>.*?</answer>$", re.DOTALL)
    return [1.0 if form.match(completion[0]["content"]) else 0.0 for completion in completions]


def matches_ground_truth(completions: list[str], ground_truth: list[str], **kwargs: Any) -> list[float]:
    return [float(boxed(text) == gold) for text, gold in zip(completions, ground_truth, strict=True)]


def only_math(
    prompts: list[str], completions: list[str], task: list[str], **kwargs: Any
) -> list[float | None]:
    return [1.0 if kind == "math" else None for kind in task]


async def slow_service(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
    async def one(text: str) -> float:
        await asyncio.sleep(0.01)
        return float(len(text))

    return await asyncio.gather(*(one(text) for text in completions))


def logs(
    completions: list[str],
    log_extra: Callable[[str, list[Any]], None],
    log_metric: Callable[[str, float], None],
    **kwargs: Any,
) -> list[float]:
    log_extra("read", [text[-1:] for text in completions])
    log_extra("characters", [len(text) for text in completions])
    log_metric("mean", 0.25)
    return [1.0] * len(completions)


def too_few(completions: list[str], **kwargs: Any) -> list[float]:
    return [1.0] * (len(completions) - 1)


def one_nan(completions: list[str], **kwargs: Any) -> list[float]:
    return [float("nan") if text == "bad" else 1.0 for text in completions]


def one_raises(completions: list[str], **kwargs: Any) -> list[float]:
    return [1.0 / (text != "bad") for text in completions]


def step_dependent(completions: list[str], trainer_state: Any, **kwargs: Any) -> list[float]:
    return [trainer_state.global_step / 10] * len(completions)


def runs_its_own_loop(completions: list[str], **kwargs: Any) -> list[float]:
    return asyncio.run(slow_service(completions, completions))


def make_penalty(limit: int) -> Callable[..., list[float]]:
    """A closure, which pickle refuses."""

    def penalty(completions: list[str], **kwargs: Any) -> list[float]:
        return [-1.0 if len(text) > limit else 0.0 for text in completions]

    return penalty


penalty_of_5 = make_penalty(5)


class ORM:
    """Stands for ms-swift's base class, which is known by its name."""


class DummyLengthReward(ORM):
    def __init__(self, limit: int = 1024) -> None:
        self.limit = limit

    def __call__(self, completions: list[str], **kwargs: Any) -> list[float]:
        return [1.0 if len(text) > self.limit else 0.0 for text in completions]


# -- verl ---------------------------------------------------------------------------------------------------------------


def my_reward_fn(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    return len(solution_str) / 100


def gsm8k_score(solution_str: str, ground_truth: str, format_score: float = 0.1, score: float = 1.0) -> float:
    """Correct 1, in the right form but wrong 0.1, otherwise 0."""
    found = re.findall(r"#### (-?[0-9.,]+)", solution_str)
    if not found:
        return 0.0
    return score if found[-1].replace(",", "") == ground_truth else format_score


async def scored_dict(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any], **kwargs: Any
) -> dict[str, Any]:
    await asyncio.sleep(0)
    right = solution_str == ground_truth
    return {"score": 1.0 if right else -1.0, "acc": right, "pred": solution_str, "level": extra_info["level"]}


def source_of(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    return {"openai/gsm8k": 1.0, "": 0.0}[data_source]


def wants_tests(data_source: str, solution_str: str, ground_truth: str, unit_tests: list[str]) -> float:
    return 0.0


# -- verifiers ----------------------------------------------------------------------------------------------------------


async def correct_answer(completion: Messages, answer: str) -> float:
    return 1.0 if answer in completion[-1]["content"] else 0.0


async def length_reward(completion: Messages) -> float:
    return 1.0 if len(completion[-1]["content"]) < 20 else 0.5


def num_characters(completion: Messages, **kwargs: Any) -> float:
    return float(len(completion[-1]["content"]))


def uses_info(prompt: Messages, info: dict[str, Any], state: dict[str, Any]) -> float:
    assert state["prompt"] == prompt and state["info"] == info
    return float(info["level"])


def shortest(completions: list[Messages], answers: list[str]) -> list[float]:
    """A group function: 1 for the shortest of the answers to one prompt."""
    lengths = [len(completion[-1]["content"]) for completion in completions]
    return [float(length == min(lengths)) for length in lengths]


def breaks(completion: Messages) -> float:
    raise ValueError("no answer")


class Rubric:
    """Has what verifiers' Rubric has."""

    def __init__(self, funcs: Sequence[Callable[..., Any]], weights: Sequence[float], parser: Any) -> None:
        self.funcs, self.weights = list(funcs), list(weights)
        self.class_objects = {"parser": parser}


def parsed_exactly(parser: Any, completion: Messages, answer: str) -> float:
    return float(parser.parse_answer(completion) == answer)


PARSER = SimpleNamespace(parse_answer=lambda completion: boxed(completion[-1]["content"]))
rubric = Rubric([correct_answer, length_reward, num_characters], [1.0, 0.1, 0.0], PARSER)
parsing = Rubric([parsed_exactly], [1.0], PARSER)
grouped = Rubric([correct_answer, shortest], [1.0, 0.5], PARSER)
broken = Rubric([correct_answer, breaks], [1.0, 0.5], PARSER)
broken_metric = Rubric([correct_answer, breaks], [1.0, 0.0], PARSER)


def load_environment(answer_weight: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(rubric=Rubric([correct_answer], [answer_weight], PARSER))


# -- OpenRLHF -----------------------------------------------------------------------------------------------------------


def reward_func(queries: list[str], prompts: list[str], labels: list[str], **kwargs: Any) -> dict[str, Any]:
    import torch

    answers = [query[len(prompt) :] for query, prompt in zip(queries, prompts, strict=True)]
    right = torch.tensor([float(answer == label) for answer, label in zip(answers, labels, strict=True)])
    return {"rewards": 2 * right - 1, "scores": right, "extra_logs": {"batch": right.mean(), "right": right}}


def tensor_only(queries: list[str], prompts: list[str], labels: list[str]) -> Any:
    import torch

    return torch.full((len(queries),), 0.5)


# -- SkyRL --------------------------------------------------------------------------------------------------------------


class MultiplyEnv:
    """The environment of SkyRL's tutorial: one multiplication, its answer in a box."""

    def __init__(self, env_config: Any, extras: dict[str, Any]) -> None:
        self.ground_truth = str(extras["reward_spec"]["ground_truth"])
        self.max_turns = extras["max_turns"]
        self.tries = env_config.get("tries", 1)

    def init(self, prompt: Messages) -> tuple[Messages, dict[str, Any]]:
        return prompt, {}

    def step(self, action: str) -> dict[str, Any]:
        found = boxed(action)
        right = found == self.ground_truth
        return {
            "observations": [] if right else [{"role": "user", "content": "Try again."}],
            "reward": 1.0 if right else 0.0,
            "done": right or self.tries <= 1,
            "metadata": {"parsed_answer": found, "tries_left": self.tries - 1},
        }


class ChangesThePrompt(MultiplyEnv):
    def init(self, prompt: Messages) -> tuple[Messages, dict[str, Any]]:
        return [{"role": "system", "content": "Box it."}, *prompt], {}


# -- slime, AReaL, open-instruct ----------------------------------------------------------------------------------------


async def custom_rm(args: Any, sample: Any, **kwargs: Any) -> float:
    return float(sample.response == sample.label) * args.scale


def group_rm(args: Any, samples: list[Any]) -> list[float]:
    return [sample.index / len(samples) for sample in samples]


def areal_reward(
    prompt: str,
    completions: str,
    prompt_ids: list[int],
    completion_ids: list[int],
    answer: str,
    **kwargs: Any,
) -> float:
    return float(completions == answer) + len(completion_ids)


class WordCount:
    """open-instruct's VerifierFunction: a result with a score."""

    def __call__(
        self, tokenized_prediction: list[int], prediction: str, label: str, query: str | None = None
    ) -> SimpleNamespace:
        return SimpleNamespace(score=float(len(prediction.split()) == int(label)), cost=0.0)


# -- could be several ---------------------------------------------------------------------------------------------------


def trl_or_verifiers(completions: list[Any], answers: list[str], **kwargs: Any) -> list[float]:
    return [float(isinstance(completion, str)) for completion in completions]


def rlkit_or_verifiers(prompt: Any, completion: Any) -> float:
    return float(isinstance(completion, str))
