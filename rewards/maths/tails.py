"""What follows "the answer is": up to the end of the sentence, the formula or number that it gives."""

import re

from .spans import JOINT, LEADS, NUMBER, SAYS, formulas_of, inside, sentence_end

_FENCE = re.compile(r"\A```\w*\s*\n")
_QUOTES = re.compile(r"\A(?:\\?[\"“”]|'')+\s*")


def inner_formula(text: str) -> str:
    r"""The formula of a sentence, as in 'The solution is $x<5$'; a text that is no sentence is returned as it is.

    >>> inner_formula("Therefore $x < 5$ is the solution."), inner_formula("$8$, $4$"), inner_formula("odd $n$")
    ('x < 5', '$8$, $4$', 'odd $n$')
    """
    formulas = formulas_of(text)
    if not formulas or not LEADS.search(text[: formulas[0].start()]):
        return text
    first = last = len(formulas) - 1
    while first and JOINT.fullmatch(text, formulas[first - 1].end(), formulas[first].start()):
        first -= 1
    tail = text[formulas[last].end() :]
    unit = re.match(r"\s*([a-zA-Z]+)\.?\s*$", tail)
    return ", ".join(inside(match) for match in formulas[first:]) + (f" {unit[1]}" if unit else "")


def clean_tail(tail: str) -> str:
    """What follows "the answer is", up to the end of the sentence; formulas before words."""
    tail = _QUOTES.sub("", _FENCE.sub("", tail.lstrip(" \t\r\n*_:")))
    formulas = formulas_of(tail)
    end = sentence_end(tail, formulas)
    formulas = [match for match in formulas if match.end() <= end]
    sentence = tail[:end].strip().strip('*_"”').removesuffix("\\").strip()
    if not formulas:
        return _one_number(sentence)
    before = tail[: formulas[0].start()]
    if re.search(r"[A-Za-z]{3,}|\d", before) or _goes_on(tail[formulas[0].end() : end]):
        return _from_sentence(sentence)
    last = 0
    while last + 1 < len(formulas) and JOINT.fullmatch(
        tail, formulas[last].end(), formulas[last + 1].start()
    ):
        last += 1
    after = re.match(r"\s*\\?%|\s+(?:[a-zA-Z]+\b)(?=\s*$)", tail[formulas[last].end() : end])
    return (
        before.strip()
        + ", ".join(inside(match) for match in formulas[: last + 1])
        + (after.group() if after else "")
    )


def _goes_on(rest: str) -> bool:
    """Whether the formula only names something: '$n$ is 34', '$2^x$ has 12 solutions'."""
    return SAYS.match(rest) is not None


def _from_sentence(sentence: str) -> str:
    """The part of a sentence with formulas that gives the answer: what 'is' says, else the last formula without letters."""
    formulas = formulas_of(sentence)
    leads = [
        lead
        for lead in LEADS.finditer(sentence)
        if not any(f.start() < lead.start() < f.end() for f in formulas)
    ]
    for lead in reversed(leads):
        number = NUMBER.match(sentence, lead.end() + 1)
        if number is not None:
            return number.group()
        if any(f.start() >= lead.end() for f in formulas):
            break
    told = inner_formula(sentence)
    definite = [f for f in formulas if not re.search(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])", inside(f))]
    if told != sentence and (not definite or any(sign in told for sign in "=<>\\")):
        return told
    return inside(definite[-1]) if definite else told


def _one_number(sentence: str) -> str:
    """'She started 3 hours ago' holds one number, 'of the 20 only 12 are left' says one; what is no sentence is kept whole."""
    if re.search(r"[=^\\({\[]", sentence) or len(re.findall(r"[A-Za-z]{2,}", sentence)) < 3:
        return sentence
    numbers = list(NUMBER.finditer(sentence))
    if not numbers or not re.search(r"[A-Za-z]{2,}", sentence[: numbers[0].start()]):
        return sentence
    if len(numbers) == 1:
        return numbers[0].group()
    leads = list(LEADS.finditer(sentence))
    told = next((n for n in numbers if leads and n.start() >= leads[-1].end()), None)
    return told.group() if told is not None else sentence
