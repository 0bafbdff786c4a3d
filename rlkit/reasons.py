"""What a verifier's reason says, whatever it read: reasons of the same kind are counted together."""

import re

_VALUES = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d[\d.,/]*""")


def reason_kind(reason: str) -> str:
    """The reason without the texts in quotes and the numbers.

    >>> reason_kind("read '4', not equal to '5' (as numbers)")
    'read ..., not equal to ... (as numbers)'
    """
    return _VALUES.sub("...", reason)
