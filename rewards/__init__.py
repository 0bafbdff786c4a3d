"""Verifiers: each judges one answer and says why. No torch, no vLLM; sympy loads with the first answer it reads."""

from rlkit.boxed import last_boxed

from .combine import WeightedSum
from .exact import ExactVerifier
from .format import FormatVerifier
from .spec import VERIFIERS, explain, make_verifier
from .symbolic import MathVerifier
from .workers import VerifierPool

__all__ = [
    "ExactVerifier",
    "FormatVerifier",
    "MathVerifier",
    "VERIFIERS",
    "VerifierPool",
    "WeightedSum",
    "explain",
    "last_boxed",
    "make_verifier",
]
