"""Verdicts on completions that lie in files: read, judged in bounded memory, written so that a killed run goes on, summed up."""
