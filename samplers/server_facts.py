"""What a server says about itself, and whether that will do. Asked before it gets a request or a weight."""

from collections.abc import Mapping
from typing import Any

from rlkit.errors import RolloutError

from .weights import ModelFacts


def check_facts(url: str, told: Mapping[str, Any], facts: ModelFacts, max_model_len: int) -> None:
    """Raise RolloutError unless a server runs our model, whole, and scores the distribution that it draws from."""
    theirs = {name: tuple(shape) for name, shape in told["shapes"].items()}
    if theirs != dict(facts.shapes):
        differ = sorted(
            name for name in theirs.keys() | facts.shapes.keys() if theirs.get(name) != facts.shapes.get(name)
        )
        name = differ[0]
        raise RolloutError(
            f"server {url} runs another model: {name} is {theirs.get(name, 'absent')} there and "
            f"{facts.shapes.get(name, 'absent')} here ({len(differ)} differ). Start it with the learner's --model"
        )
    if told["logprobs_mode"] != "processed_logprobs":
        raise RolloutError(
            f"server {url} was started with --logprobs-mode {told['logprobs_mode']}; expected processed_logprobs, those of the "
            "distribution that it draws from"
        )
    if told["max_model_len"] < max_model_len:
        raise RolloutError(
            f"server {url} takes {told['max_model_len']} tokens; prompt and completion need {max_model_len}. "
            f"Start it with --max-model-len {max_model_len}"
        )
    if told["backend"] is None:
        raise RolloutError(
            f"server {url} was started without --weight-transfer-config, so it cannot take new weights; start it with `rlkit serve`"
        )


def last_error(words: str) -> str:
    """The line that says most: the last that names an error, else the last; warnings tell of other things.

    >>> last_error("INFO up\\nValueError: no room\\nWARNING an Error that is none")
    'ValueError: no room'
    """
    lines = [line.strip() for line in words.splitlines() if line.strip() and "WARNING" not in line]
    telling = [line for line in lines if "Error" in line]
    return (telling or lines or [""])[-1][-300:]
