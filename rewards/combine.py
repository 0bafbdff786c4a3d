"""A weighted sum of verifiers that keeps its parts."""

from dataclasses import dataclass

from rlkit.types import Prompt, Score, Verifier

from .contract import judge


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """sum(weight * value) over its parts; `Score.parts` holds each value before its weight.

    A skip or an error of any part that counts (weight not 0) is the verdict of the whole: a sum without one of its
    terms would be another reward. A part of weight 0 is only recorded.

    >>> from .format import FormatVerifier
    >>> verify = WeightedSum((("format", 0.1, FormatVerifier()),))
    >>> verify(Prompt(id="a", token_ids=[]), r"so \\boxed{42}").parts
    {'format': 1.0}
    """

    terms: tuple[tuple[str, float, Verifier], ...]
    """Name, weight, verifier."""

    def warm_up(self) -> None:
        for _, _, verifier in self.terms:
            warm = getattr(verifier, "warm_up", None)
            if warm is not None:
                warm()

    def __call__(self, prompt: Prompt, text: str) -> Score:
        total = 0.0
        parts: dict[str, float] = {}
        reasons: list[str] = []
        for name, weight, verifier in self.terms:
            score = judge(verifier, prompt, text)
            parts.update({f"{name}/{inner}": value for inner, value in score.parts.items()})
            if score.value is None:
                if weight != 0:
                    return Score(None, reason=f"{name}: {score.reason}", parts=parts, error=score.error)
                reasons.append(f"{name} {score.outcome}: {score.reason}")
                continue
            parts[name] = score.value
            total += weight * score.value
            reasons.append(f"{name} {score.value:g}: {score.reason}")
        return Score(total, reason="; ".join(reasons), parts=parts)
