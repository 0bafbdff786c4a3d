"""--parts of a benchmark: which of its measurements are asked for."""

import sys
from collections.abc import Sequence


def asked_parts(text: str, known: Sequence[str]) -> list[str]:
    """Names separated by commas, in the order given. Ends the process with 2 where one is not known."""
    parts = [part.strip() for part in text.split(",")]
    unknown = set(parts) - set(known)
    if unknown:
        print(
            f"--parts: {', '.join(sorted(unknown))} is not known; expected {', '.join(known)}",
            file=sys.stderr,
        )
        sys.exit(2)
    return parts
