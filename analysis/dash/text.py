"""Untrusted text on its way to a page: a person sees every character, and none of them does anything."""

import html

from rlkit.printable import printable

CUT = "\n[... {hidden:,} characters left out ...]\n"


def label(text: object) -> str:
    r"""For figures, which read a kind of HTML and `%{...}` in their labels.

    >>> label("<b>a</b>\x1b")
    '&lt;b&gt;a&lt;/b&gt;\\x1b'
    """
    return html.escape(plain(text), quote=False).replace("%{", "%&#123;")


def plain(text: object) -> str:
    """For components, which escape by themselves: control characters, marks of direction and lone surrogates are written out."""
    return printable(str(text))


def shortened(text: str, length: int) -> str:
    """Both ends of a text, with a word about what lies between."""
    if len(text) <= length:
        return text
    half = length // 2
    return text[:half] + CUT.format(hidden=len(text) - 2 * half) + text[-half:]
