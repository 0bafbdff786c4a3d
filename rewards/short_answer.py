"""Short answers in words, as BBH has them: yes or no, valid or invalid, a number, closing brackets, sorted words."""

import re
from collections.abc import Sequence
from fractions import Fraction

from rlkit.types import Score

from .claims import find_claims, plain
from .contract import shown
from .options import opens_with, same_words, tokens

_PAIRS = (("yes", "no"), ("true", "false"), ("valid", "invalid"), ("plausible", "implausible"))
_SENTENCE = re.compile(r"[.!?](?=\s|\Z)")
_BRACKETS = re.compile(r"[()\[\]{}<>\s]+")
_NUMBER = re.compile(r"[-−+]?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?")
_ITEM = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+", re.MULTILINE)
_NOT = {"not", "n't", "neither", "never"}


def judge_short(gold: str, alternatives: Sequence[str], text: str) -> Score:
    """The verdict on what a text claims last, or, when it claims nothing, on its last line.

    >>> judge_short("No", ["Yes", "No"], "He moved. So the answer is No, he did not.").value
    1.0
    """
    found = read_short(gold, alternatives, text)
    if found is None:
        return Score(0.0, reason=f"the answer is empty; the gold answer is {shown(gold)}")
    read, place, right = found
    relation = "is" if right else "is not"
    return Score(float(right), reason=f"read {shown(read)} {place}, which {relation} {shown(gold)}")


def read_short(gold: str, alternatives: Sequence[str], text: str) -> tuple[str, str, bool] | None:
    """The phrase that is read as the answer, where, in words, and whether it is the gold one; None: there is none."""
    text = plain(text)
    claims = [claim for claim in find_claims(text) if not claim.denied]
    if claims:
        last = claims[-1]
        said, place = text[last.start :] if last.inside is None else last.inside, last.words
    else:
        said, place = text.rstrip()[text.rstrip().rfind("\n") + 1 :], "in the last line"
    if not said.strip():
        return None
    read, right = _read(gold, alternatives, said.strip(), claimed=bool(claims))
    return read, place, right


def _read(gold: str, alternatives: Sequence[str], said: str, claimed: bool) -> tuple[str, bool]:
    """What is read in a phrase, by what kind of answer the gold one is; and whether it is the gold one."""
    line = said.split("\n")[0].strip()
    sentence = _SENTENCE.split(line)[0]
    known = _alternatives(gold, alternatives)
    if known:
        chosen = _chosen(known, line, sentence, claimed)
        return chosen or sentence, chosen is not None and same_words(chosen, gold)
    if _NUMBER.fullmatch(gold):
        number = _NUMBER.search(line[:1000])
        return (number.group(), _value(number.group()) == _value(gold)) if number else (line, False)
    if _BRACKETS.fullmatch(gold):
        brackets = _BRACKETS.match(line)
        found = brackets.group().strip() if brackets else line
        return found, found.split() == gold.split() or "".join(found.split()) == "".join(gold.split())
    paragraph = said.split("\n\n")[0]
    for phrase in (sentence, line, paragraph, said):
        if len(phrase) <= 4 * len(gold) + 200 and (
            same_words(phrase, gold) or _items(phrase) == _items(gold)
        ):
            return phrase, True
    return line, False


def _alternatives(gold: str, listed: Sequence[str]) -> Sequence[str]:
    """What could have been said instead of the gold answer; (): anything."""
    if any(same_words(gold, option) for option in listed):
        return listed
    return next((pair for pair in _PAIRS if gold.casefold() in pair), ())


def _chosen(known: Sequence[str], line: str, sentence: str, claimed: bool) -> str | None:
    """The alternative that a phrase opens with, or the only one that its sentence names without a 'not'."""
    opening = [option for option in known if opens_with(line, option)]
    if opening:
        return max(opening, key=len)
    if not claimed and min(map(len, known)) <= 3:  # 'there is no reason' is no 'no'
        return None
    words = tokens(sentence)
    named = {option for option in known if _named(tokens(option), words)}
    return named.pop() if len(named) == 1 else None


def _named(option: tuple[str, ...], words: tuple[str, ...]) -> bool:
    places = [i for i in range(len(words) - len(option) + 1) if words[i : i + len(option)] == option]
    return any(not _NOT.intersection(words[max(0, place - 2) : place]) for place in places)


def _value(number: str) -> Fraction | None:
    try:
        return Fraction(number.replace(",", "").replace("−", "-").replace(" ", "").replace("+", ""))
    except ZeroDivisionError:
        return None


def _items(phrase: str) -> list[str]:
    """The words of a list, one after the other or one a line, numbered or not."""
    return [word.rstrip(".") for word in re.split(r"[\s,;]+", _ITEM.sub("", phrase).casefold()) if word]
