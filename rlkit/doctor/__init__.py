"""Numbers -> diagnosis in words.

    Watch(setup).step(record) -> findings        while a run goes on: what is new and wrong
    diagnose(records, setup)  -> cases           afterwards: what a run came to
    explain(case, rows, ...)  -> case            with what its rollouts say about the cause

Pure functions of metric records (metrics.jsonl) and of rows (rollouts/); nothing here reads a file. Every check, with its
thresholds, is a row of docs/diagnosis.md.
"""

from .evidence import COLUMNS, explain
from .findings import SEVERITIES, Check, Finding, Record, Setup, Severity, setup_of
from .watch import CHECKS, Case, Watch, diagnose

__all__ = [
    "CHECKS",
    "COLUMNS",
    "SEVERITIES",
    "Case",
    "Check",
    "Finding",
    "Record",
    "Setup",
    "Severity",
    "Watch",
    "diagnose",
    "explain",
    "setup_of",
]
