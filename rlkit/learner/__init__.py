"""The learner: a transformers model, its optimizer, and updates whose gradient does not depend on how a batch was cut."""

from .learner import Learner, Report

__all__ = ["Learner", "Report"]
