r"""Where the answer is in a text: one place is read, the first of these that there is, and the reason names it.

The last \boxed{...}; what follows the last "answer is", "Answer:" or "####"; the last formula or number of the last line.
"""

import re
from dataclasses import dataclass

from rlkit.boxed import find_boxes, join_boxes

MAX_TAIL = 600
"""Characters read behind "the answer is"."""

MAX_TEXT = 20_000
"""Characters at the end of a text in which an answer without a box is looked for."""
MAX_LINE = 2000

_CUE = re.compile(
    r"(?P<mark>\#{4}[ \t]*)"
    r"|(?P<line>^[ \t]*A:)"
    r"|\banswers?\b(?P<words>(?:\s+(?:to|of|for)\s[^.:$\n\\]{1,80}?)?[*_\s]*(?:(?:is|are|=|was|will be|would be|should be)\b[*_\s:]*"
    r"(?:(?:equal to|simply|just|therefore|thus|given by)\s+)?|:[*_\s]*|(?=\s*(?:\$|\\\[|\\\()))(?:the\s+)?)",
    re.IGNORECASE | re.MULTILINE,
)
_MATH = re.compile(
    r"(?<!\\)\$\$(?P<a>.{1,2000}?)\$\$|(?<![\\$])\$(?P<b>(?:[^$\\]|\\.){1,2000}?)\$(?!\d)|\\\((?P<c>.{1,2000}?)\\\)|\\\[(?P<d>.{1,2000}?)\\\]",
    re.DOTALL,
)
_END = re.compile(r"(?<![ap]\.m)(?<!\b[a-z])(?<!\bRs)[.!?](?=\s|$|[\"'*])|(?<=[ap]\.m)\.(?=\s+[A-Z])|\n")
_JOINT = re.compile(r"[\s*]*(?:,|;|\band\b|\bor\b|,\s*and\b|,\s*or\b|&)?[\s*]*")
_NUMBER = re.compile(
    r"(?<![\w.,^_])[-−]?(?:\\?\$|[€£¥])?[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?(?:\s?\\?%|\s?[€£])?(?![\d])"
)
_MINUS = re.compile(r"(?:[=$:]|\\\[|\\\()\s*-\s*\Z")
_FINAL = re.compile(r"final answer (?:is|:)", re.IGNORECASE)
_SPECIAL = re.compile(r"<\|[^|>]{1,40}\|>.{0,20}\Z", re.DOTALL)
_CLOSING = re.compile(r"I hope (?:it|this) is correct\.?", re.IGNORECASE)
_COMMAND = re.compile(
    r"\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}|\\(?:begin|end)\s*\{\w+\}|\\[a-zA-Z]+|\\[,;:! ]"
)
_NO_WORDS = {
    "and",
    "or",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "log",
    "ln",
    "sqrt",
    "pi",
    "arctan",
    "arcsin",
    "arccos",
    "exp",
}
_LEADS = re.compile(
    r"\b(?:is|are|be|was|equals?|equal to|get|gives?|have|has|find|obtain|thus|therefore|hence|so|answers?|solutions?|result)\b",
    re.IGNORECASE,
)
_SAYS = re.compile(r"\s*(?:(?:is|are|equals|has|have|gives?)\b|=)|\s*,\s*where\b")


@dataclass(frozen=True, slots=True)
class Found:
    """An answer and the place it was read from, in words."""

    text: str
    place: str


def find_answer(text: str) -> Found | None:
    r"""The answer of a completion; None: there is nothing that could be one. A box that is never closed is `Found("", ...)`.

    >>> find_answer(r"so $x=\boxed{5}$"), find_answer("The final answer is $34$. I hope it is correct.").text
    (Found(text='5', place='in the last box'), '34')
    >>> find_answer("5 apples\n#### 1,250").text, find_answer("That leaves 7 - 3 = 4 cakes.").text
    ('1,250', '4')
    """
    boxes = find_boxes(text)
    if boxes and (said := _FINAL.search(text, boxes[-1].end)) is not None:
        later = stated_answer(text[said.start() :])
        if later is not None and any(sign.isdigit() or sign in "\\$" for sign in later.text):
            return later
    if boxes:
        answer = join_boxes(text, boxes)
        told = stated_answer(answer) if answer and len(answer) <= MAX_TEXT else None
        answer = told.text if told is not None else answer
        sign = "-" if answer and _MINUS.search(text[max(0, boxes[-1].start - 40) : boxes[-1].start]) else ""
        return Found(f"{sign}{answer or ''}", "in the last box")
    text = _SPECIAL.sub("", text[-MAX_TEXT:]).rstrip()
    return stated_answer(text) or _last_formula(text) or _last_line(text)


def stated_answer(text: str) -> Found | None:
    """What follows the last "answer is", "Answer:" or "####"; None: nothing of the kind is said."""
    cue = _last_cue(text)
    answer = clean_tail(text[cue.end() : cue.end() + MAX_TAIL]) if cue is not None else ""
    return Found(answer, f"after '{' '.join(cue.group().split())}'") if cue is not None and answer else None


def inner_formula(text: str) -> str:
    r"""The formula of a sentence, as in 'The solution is $x<5$'; a text that is no sentence is returned as it is.

    >>> inner_formula("Therefore $x < 5$ is the solution."), inner_formula("$8$, $4$"), inner_formula("odd $n$")
    ('x < 5', '$8$, $4$', 'odd $n$')
    """
    formulas = _formulas(text)
    if not formulas or not _LEADS.search(text[: formulas[0].start()]):
        return text
    first = last = len(formulas) - 1
    while first and _JOINT.fullmatch(text, formulas[first - 1].end(), formulas[first].start()):
        first -= 1
    tail = text[formulas[last].end() :]
    unit = re.match(r"\s*([a-zA-Z]+)\.?\s*$", tail)
    return ", ".join(_inside(match) for match in formulas[first:]) + (f" {unit[1]}" if unit else "")


def clean_tail(tail: str) -> str:
    """What follows "the answer is", up to the end of the sentence; formulas before words."""
    tail = tail.lstrip(" \t\r\n*_:")
    formulas = _formulas(tail)
    end = _sentence_end(tail, formulas)
    formulas = [match for match in formulas if match.end() <= end]
    sentence = tail[:end].strip().strip("*_").strip()
    if not formulas:
        return _one_number(sentence)
    before = tail[: formulas[0].start()]
    if re.search(r"[A-Za-z]{3,}|\d", before) or _goes_on(tail[formulas[0].end() : end]):
        return _from_sentence(sentence)
    last = 0
    while last + 1 < len(formulas) and _JOINT.fullmatch(
        tail, formulas[last].end(), formulas[last + 1].start()
    ):
        last += 1
    after = re.match(r"\s*\\?%|\s+(?:[a-zA-Z]+\b)(?=\s*$)", tail[formulas[last].end() : end])
    return (
        before.strip()
        + ", ".join(_inside(match) for match in formulas[: last + 1])
        + (after.group() if after else "")
    )


def _goes_on(rest: str) -> bool:
    """Whether the formula only names something: '$n$ is 34', '$2^x$ has 12 solutions'."""
    return _SAYS.match(rest) is not None


def _from_sentence(sentence: str) -> str:
    """The part of a sentence with formulas that gives the answer: what 'is' says, else the last formula without letters."""
    formulas = _formulas(sentence)
    leads = [
        lead
        for lead in _LEADS.finditer(sentence)
        if not any(f.start() < lead.start() < f.end() for f in formulas)
    ]
    for lead in reversed(leads):
        number = _NUMBER.match(sentence, lead.end() + 1)
        if number is not None:
            return number.group()
        if any(f.start() >= lead.end() for f in formulas):
            break
    told = inner_formula(sentence)
    definite = [f for f in formulas if not re.search(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])", _inside(f))]
    if told != sentence and (not definite or any(sign in told for sign in "=<>\\")):
        return told
    return _inside(definite[-1]) if definite else told


def _one_number(sentence: str) -> str:
    """'She started 3 hours ago' holds one number, 'of the 20 only 12 are left' says one; what is no sentence is kept whole."""
    if re.search(r"[=^\\({\[]", sentence) or len(re.findall(r"[A-Za-z]{2,}", sentence)) < 3:
        return sentence
    numbers = list(_NUMBER.finditer(sentence))
    if not numbers or not re.search(r"[A-Za-z]{2,}", sentence[: numbers[0].start()]):
        return sentence
    if len(numbers) == 1:
        return numbers[0].group()
    leads = list(_LEADS.finditer(sentence))
    told = next((n for n in numbers if leads and n.start() >= leads[-1].end()), None)
    return told.group() if told is not None else sentence


def _inside(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def _formulas(text: str) -> list[re.Match[str]]:
    """Formulas between dollars or \\( \\). '$5 and $6' is money: its 'formula' is a number and words."""
    if "$" not in text and "\\" not in text:
        return []
    found = []
    place = 0
    while (match := _MATH.search(text, place)) is not None:
        inner = match["b"]
        if inner is not None and inner[0].isdigit() and inner[-1].isspace():
            place = match.start() + 1
            continue
        found.append(match)
        place = match.end()
    return found


def _last_cue(text: str) -> re.Match[str] | None:
    if "####" not in text and "nswer" not in text and "NSWER" not in text and "A:" not in text:
        return None
    end = len(text.rstrip())
    return next((match for match in reversed(list(_CUE.finditer(text))) if match.end() < end), None)


def _sentence_end(text: str, formulas: list[re.Match[str]]) -> int:
    place = 0
    while (match := _END.search(text, place)) is not None:
        around = next((f for f in formulas if f.start() < match.start() < f.end()), None)
        if around is None:
            return match.start()
        place = around.end()
    return len(text)


def _last_formula(text: str) -> Found | None:
    """A displayed formula of several lines that the text ends with."""
    if not text.endswith(("\\]", "$$")) or "\n" not in text[-3 * MAX_LINE :]:
        return None
    formulas = _formulas(text[-3 * MAX_LINE :])
    if not formulas or formulas[-1].end() != len(text[-3 * MAX_LINE :]) or "\n" not in formulas[-1].group():
        return None
    return Found(_inside(formulas[-1]), "in the last formula")


def _last_line(text: str) -> Found | None:
    """The last formula or number of the last line, looked for from its last sentence backwards."""
    lines = [line for line in _CLOSING.sub("", text).splitlines() if line.strip()]
    if not lines:
        return None
    line = lines[-1].strip()[-MAX_LINE:]
    if _is_bare(line):
        return Found(line, "as the last line")
    formulas = _formulas(line)
    numbers = [
        n for n in _NUMBER.finditer(line) if not any(f.start() < n.start() < f.end() for f in formulas)
    ]
    formula = formulas[-1] if formulas else None
    number = numbers[-1] if numbers else None
    if formula is None and number is None:
        return None
    if formula is not None and (
        number is None or number.start() < formula.start() or not _ends_between(line, formula, number)
    ):
        return Found(_inside(formula), "in the last formula")
    assert number is not None
    ends = [end.end() for end in _END.finditer(line) if end.end() <= number.start()]
    sentence = line[ends[-1] if ends else 0 :]
    side = sentence.rpartition("=")[2].strip().rstrip(".!") if "=" in sentence else ""
    leading = _NUMBER.match(side)
    if leading is not None and re.match(r"\s+[A-Za-z]{2}", side[leading.end() :]):
        side = leading.group()
    if side and any(sign.isdigit() for sign in side):
        return Found(side, "behind the last equals sign")
    return Found(number.group(), "as the last number")


def _is_bare(line: str) -> bool:
    """Whether a line is an answer and no sentence: no words in front but labels with a colon, few behind."""
    if len(line) > 300:
        return False
    plain = _COMMAND.sub(" ", line)
    if _END.search(plain.rstrip(" .!")):
        return False
    plain = re.sub(r"[A-Za-z]+(?=\s*:)", " ", plain)
    words = [word for word in re.finditer(r"[A-Za-z]{2,}", plain) if word.group().lower() not in _NO_WORDS]
    if len(words) > 3:
        return False
    before = plain[: words[0].start()].rstrip() if words else "1"
    return bool(before) and (
        before[-1].isdigit() or before[-1] in ")]}%$.°²³" or len(plain) == len(line) == len(words[0].group())
    )


def _ends_between(line: str, formula: re.Match[str], number: re.Match[str]) -> bool:
    """Whether a sentence ends between a formula and the number behind it, so that the number is the later statement."""
    if _inside(formula).endswith((".", "!")):
        return True
    return any(end.start() < number.start() for end in _END.finditer(line, formula.end() - 1))
