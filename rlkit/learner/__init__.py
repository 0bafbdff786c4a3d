"""The learner: a transformers model, its optimizer, and updates whose gradient does not depend on how a batch was cut."""

from .learner import Learner, Report
from .lora import FOLDER as ADAPTER
from .outgoing import REFERENCE

__all__ = ["ADAPTER", "REFERENCE", "Learner", "Report"]
