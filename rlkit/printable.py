"""Model output, data rows and names are untrusted: a terminal must not obey them."""


def printable(text: str) -> str:
    r"""`text` with every control character but newline and tab written out, so that no escape sequence reaches a terminal.

    >>> printable("a\x1b[2Jb\nc")
    'a\\x1b[2Jb\nc'
    """
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)
