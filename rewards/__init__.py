"""Verifiers: each judges one answer and says why. No torch, no vLLM; sympy loads with the first answer it reads."""

from rlkit.boxed import last_boxed

from .choice import ChoiceVerifier
from .code_verifier import CodeVerifier
from .combine import AsyncWeightedSum, WeightedSum, weighted_sum
from .contract import gold_text, judge
from .exact import ExactVerifier
from .format import FormatVerifier
from .spec import VERIFIERS, explain, make_verifier
from .symbolic import MathVerifier
from .workers import VerifierPool

__all__ = [
    "AsyncWeightedSum",
    "ChoiceVerifier",
    "CodeVerifier",
    "ExactVerifier",
    "FormatVerifier",
    "MathVerifier",
    "VERIFIERS",
    "VerifierPool",
    "WeightedSum",
    "explain",
    "gold_text",
    "judge",
    "last_boxed",
    "make_verifier",
    "weighted_sum",
]
