"""One reader under atheris, in a process of its own: libFuzzer ends the process that it runs in.

    python -m sides.fuzz_guided NAME SECONDS SEED TOLD.json

The bytes that libFuzzer changes are the choices that hypothesis draws an input from, so every input has the shape the reader is
meant for; bytes that reach new branches of rlkit are kept and changed further.
"""

import json
import os
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import atheris

INSTRUMENTED = ExitStack()
"""Never closed: modules that a reader imports inside functions are watched too."""
INSTRUMENTED.enter_context(atheris.instrument_imports(include=["rlkit"]))

from hypothesis import HealthCheck, given, settings  # noqa: E402

from .fuzz_readers import READERS, ends_well, place_of  # noqa: E402

FIRST = 64
"""Random byte strings to begin with: an empty one is too short to draw anything from."""
LONGEST = 2048
"""Bytes of one."""


def main(name: str, seconds: float, seed: int, told: Path) -> None:
    """Runs until the time is over, writes what came of it, and ends the process."""
    reader, until = READERS[name], time.monotonic() + seconds
    ran, findings = 0, dict[str, dict[str, str]]()

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(reader.inputs)
    def once(value: Any) -> None:
        nonlocal ran
        ran += 1
        error = ends_well(reader, value)
        if error is not None:
            words = {"error": f"{type(error).__name__}: {error}"[:200], "example": repr(value)[:300]}
            findings.setdefault(place_of(error), {"place": place_of(error), **words})

    draw = once.hypothesis.fuzz_one_input  # type: ignore[attr-defined]

    def one_input(data: bytes) -> None:
        draw(data)
        if time.monotonic() > until:
            told.write_text(json.dumps({"inputs": ran, "findings": list(findings.values())}))
            os._exit(0)

    corpus = Path(tempfile.mkdtemp())  # TMPDIR is the campaign's, which deletes it
    rng = random.Random(seed)
    for i in range(FIRST):
        (corpus / str(i)).write_bytes(rng.randbytes(rng.randint(16, LONGEST)))
    flags = [f"-seed={seed + 1}", f"-max_len={LONGEST}", "-len_control=0", "-timeout=0", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], str(corpus), *flags], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
