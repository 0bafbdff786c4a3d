"""A reward that tells the answers of a random model apart, so that every step has something to learn."""

import zlib

from rlkit.types import Prompt, Score


class Spread:
    """0 or 1 by the checksum of the answer."""

    def __call__(self, prompt: Prompt, text: str) -> Score:
        return Score(float(zlib.crc32(text.encode()) % 2))
