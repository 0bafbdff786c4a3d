"""Verifiers: each judges one answer and says why. No torch, no vLLM; sympy loads with the first answer it reads."""

from rlkit.boxed import last_boxed

from .choice import ChoiceVerifier
from .code_verifier import CodeVerifier
from .combine import AsyncWeightedSum, WeightedSum, weighted_sum
from .contract import gold_text, judge
from .exact import ExactVerifier
from .final import AnswerReader, no_answer, reader_of
from .format import FormatVerifier
from .spec import VERIFIERS, explain, make_verifier
from .symbolic import MathVerifier
from .workers import VerifierPool

__all__ = [
    "AnswerReader",
    "AsyncWeightedSum",
    "ChoiceVerifier",
    "CodeVerifier",
    "ExactVerifier",
    "explain",
    "FormatVerifier",
    "gold_text",
    "judge",
    "last_boxed",
    "make_verifier",
    "MathVerifier",
    "no_answer",
    "reader_of",
    "VerifierPool",
    "VERIFIERS",
    "weighted_sum",
    "WeightedSum",
]
