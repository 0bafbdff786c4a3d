"""Numbers in words: 'twenty-one', 'three hundred and five', 'two thirds', 'negative four', 'third'."""

from fractions import Fraction
from functools import lru_cache

_SMALL = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * number
    for number, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_ORDINALS = {"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight"} | {
    "ninth": "nine",
    "twelfth": "twelve",
    **{word[:-1] + "ieth": word for word in _TENS},
}
_SIGNS = {"negative": -1, "minus": -1, "positive": 1}


@lru_cache(maxsize=1024)
def spoken_number(text: str) -> Fraction | None:
    """The value of a number in English words; None: other words.

    >>> spoken_number("twenty-one"), spoken_number("minus two thirds"), spoken_number("one hundred and five")
    (Fraction(21, 1), Fraction(-2, 3), Fraction(105, 1))
    """
    words = text.lower().replace("-", " ").split()
    sign = _SIGNS.get(words[0], 0) if words else 0
    value = _magnitude(words[1:] if sign else words)
    return None if value is None else value * (sign or 1)


def _magnitude(words: list[str]) -> Fraction | None:
    if not words or len(words) > 12:
        return None
    whole = _cardinal(words)
    if whole is not None:
        return Fraction(whole)
    *before, last = words
    share = _share(last)
    if share is not None and before and (count := _cardinal(before)) is not None:
        # 'two thirds' and 'one third' are shares; 'twenty third' is the place behind the twenty-second
        if last.endswith("s") or count == 1 or last in ("half", "quarter"):
            return Fraction(count, share)
    if words in (["half"], ["a", "half"]):
        return Fraction(1, 2)
    if "and" in words:  # one and a half
        cut = len(words) - 1 - words[::-1].index("and")
        whole, rest = _cardinal(words[:cut]), _magnitude(words[cut + 1 :])
        return whole + rest if whole is not None and rest is not None and rest.denominator > 1 else None
    place = _place(last)
    counted = _cardinal([*before, place]) if place is not None else None
    return None if counted is None else Fraction(counted)


def _cardinal(words: list[str]) -> int | None:
    """'two thousand three hundred and five' as 2305."""
    total = part = 0
    lowest = 10**12
    for k, word in enumerate(words):
        if word == "and" and 0 < k < len(words) - 1 and words[k - 1] in ("hundred", *_SCALES):
            continue
        if word in ("a", "an") and k == 0 and words[1:2] and words[1] in ("hundred", *_SCALES):
            part = 1
        elif word in _SMALL and (part == 0 or part % 100 == 0 or (part % 10 == 0 and part % 100 > 10)):
            if part % 100 and not 0 < _SMALL[word] < 10:
                return None
            part += _SMALL[word]
        elif word in _TENS and part % 100 == 0:
            part += _TENS[word]
        elif word == "hundred" and 0 < part < 100:
            part *= 100
        elif word in _SCALES and part and _SCALES[word] < lowest:
            lowest = _SCALES[word]
            total, part = total + part * lowest, 0
        else:
            return None
        if k and words[k - 1] in _SMALL and word in _SMALL:
            return None
    return total + part


def _place(word: str) -> str | None:
    """'third' as 'three', 'sixth' as 'six'."""
    if word in _ORDINALS:
        return _ORDINALS[word]
    stem = word.removesuffix("th")
    return stem if stem != word and stem in {*_SMALL, "hundred", *_SCALES} else None


def _share(word: str) -> int | None:
    """What 'thirds', 'third' or 'quarters' divide by."""
    if word in ("half", "halves"):
        return 2
    if word in ("quarter", "quarters"):
        return 4
    place = _place(word.removesuffix("s"))
    count = None if place is None else _cardinal([place]) or _cardinal(["one", place])
    return count if count is not None and count > 2 else None
