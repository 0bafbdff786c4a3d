r"""The same answer in the same words: what spacing, dollar signs, \\text and commas between thousands cannot change."""

import re
from fractions import Fraction
from functools import lru_cache

MAX_LENGTH = 4000
"""Longer texts are compared as they are: nothing is kept of them."""
_NO_MEANING = re.compile(r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\[!,;: ]|~")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")
_THOUSANDS = re.compile(r"(?<=\d)(?:,\\!|\{,\}(?:\\!)?|\\,)(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"([-+]?)\s?(?:\\?\$)?([1-9]\d{0,2}(?:,\d{3})+|\d{1,40})(\.\d{1,40})?")
_CODED = re.compile(r"\\u([0-9a-fA-F]{4})")
_WRAPPED = re.compile(r"\*\*([^*]+)\*\*\.?|`([^`]+)`|\"([^\"]+)\"|<answer>(.*)</answer>", re.DOTALL)
_EDGES = re.compile(
    r"\A(?:\\[,;:!> ]|~|\\q?quad(?![a-zA-Z])|\s)+|(?:\\[,;:!>]|\\(?=\s*\Z)|(?<!\\)~|\\q?quad|\s)+\Z"
)
_SPECIAL = re.compile(r"<\|[^|<>]{1,40}\|>\s*\Z|</s>\s*\Z")
_CONTROL = re.compile(r"[\t\f\b](?=[a-zA-Z])")
_LOST = {
    "\t": ("ext", "imes", "heta", "frac", "an", "herefore", "riangle", "au", "o "),
    "\f": ("",),
    "\b": ("",),
}


@lru_cache(maxsize=8192)
def plain_number(text: str) -> Fraction | None:
    """The value of digits with a sign, a point and commas between thousands; None: it is something else.

    >>> plain_number("-1,234.50"), plain_number("1,2")
    (Fraction(-2469, 2), None)
    """
    match = _NUMBER.fullmatch(tidy(text))
    return None if match is None else Fraction(match[1] + match[2].replace(",", "") + (match[3] or ""))


def same_text(answer: str, gold: str) -> bool:
    r"""Whether two answers are the same text but for spacing, \text{}, outer dollar signs and a last full stop.

    >>> same_text(r"\left( 3, \dfrac{\pi}{2} \right).", r"$(3,\frac{\pi}{2})$"), same_text("1 2", "12")
    (True, False)
    """
    if answer == gold or max(len(answer), len(gold)) > MAX_LENGTH:
        return answer.strip() == gold.strip()
    return plain(answer) == plain(gold)


@lru_cache(maxsize=8192)
def plain(text: str) -> str:
    r"""The text without what means nothing."""
    text = tidy(text)
    if "\\" in text:
        text = _TEXT.sub(r" \1 ", _THOUSANDS.sub("", text))
        text = _NO_MEANING.sub(" ", text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"))
    return _SPACE.sub("", " ".join(text.replace("~", " ").split()))


def tidy(text: str) -> str:
    r"""An answer without the sentence around it: outer dollar signs, white space, and a last comma or full stop.

    >>> tidy(" $-\\frac{5}{3}.$ "), tidy(r"\$5")
    ('-\\frac{5}{3}', '\\$5')
    """
    if "\t" in text or "\f" in text or "\b" in text:
        text = _CONTROL.sub(_restored, text)
    if "\\u" in text:
        text = _CODED.sub(lambda match: chr(int(match[1], 16)), text)
    if text.endswith("}") and text.count("}") > text.count("{"):
        text = text[:-1]
    wrapped = _WRAPPED.fullmatch(text.strip())
    if wrapped is not None:
        text = next(group for group in wrapped.groups() if group is not None)
    if "<" in text:
        text = _SPECIAL.sub("", text)
    previous = None
    while previous != text:
        previous = text
        text = _EDGES.sub("", text.strip()) if "\\" in text or "~" in text else text.strip()
        text = text.rstrip(",;")
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        for sign in ("$$", "$"):
            inner = text[len(sign) : -len(sign)]
            if text == sign + inner + sign and "$" not in inner and not inner.endswith("\\"):
                text = inner
    return text


def _restored(match: re.Match[str]) -> str:
    """The backslash that a string literal took: a tab and 'ext' were \\text, a form feed and 'rac' were \\frac."""
    sign = match.group()
    rest = match.string[match.end() :]
    return {"\t": r"\t", "\f": r"\f", "\b": r"\b"}[sign] if rest.startswith(_LOST[sign]) else sign


def without_text(text: str) -> str:
    r"""With the words of \text{} in place of it."""
    return _TEXT.sub(r" \1 ", text)
