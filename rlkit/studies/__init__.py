"""Analyses that must sample: prefixes of a model's own answers, continued again and again (docs/credit.md)."""
