"""Verifiers: each judges one answer and says why. No torch, no vLLM; sympy loads with the first answer it reads."""

from rlkit.boxed import last_boxed

from .choice import ChoiceVerifier
from .code_verifier import CodeVerifier
from .combine import AsyncWeightedSum, WeightedSum, weighted_sum
from .contract import gold_text, judge
from .documents import JsonVerifier
from .exact import ExactVerifier
from .final import AnswerReader, no_answer, reader_of
from .format import FormatVerifier
from .llm_judge import JudgeVerifier
from .numeric import NumericVerifier
from .pattern import RegexVerifier
from .remote import HttpVerifier
from .shaping import LengthVerifier, RepetitionVerifier
from .spec import VERIFIERS, explain, make_verifier, reads_gold
from .steps import StepsVerifier
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
    "HttpVerifier",
    "JsonVerifier",
    "judge",
    "JudgeVerifier",
    "last_boxed",
    "LengthVerifier",
    "make_verifier",
    "MathVerifier",
    "no_answer",
    "NumericVerifier",
    "reader_of",
    "reads_gold",
    "RegexVerifier",
    "RepetitionVerifier",
    "StepsVerifier",
    "VerifierPool",
    "VERIFIERS",
    "weighted_sum",
    "WeightedSum",
]
