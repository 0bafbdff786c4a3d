"""An answer that nothing announces: the last line of a text, or the last formula or number of it."""

import re

from .spans import COMMAND, END, JOINT, LEADS, MATH, NUMBER, SAYS, Found, formulas_of, inside

MAX_LINE = 2000
_REASON = re.compile(
    r"[\s(](?:since|because|given that|provided that|where|as required|for all|for any)\s", re.IGNORECASE
)
_PLURAL = re.compile(
    r"(?:\b(?:are|be|were|either|both|values|solutions|roots|answers|pairs)|[:=])[\s*]*\Z", re.IGNORECASE
)
_MATHEMATICS = re.compile(
    r"(?:[^A-Za-z\\]|\\(?!text|mathrm|mbox)[a-zA-Z]+|\\[,;! ]|(?<![A-Za-z])[b-zB-HJ-Z](?![A-Za-z])|(?<![A-Za-z])(?:and|or|sqrt|pi|[ap]\.?m)(?![A-Za-z]))+",
    re.IGNORECASE,
)
_ENVIRONMENT = re.compile(
    r"\\begin\s*\{(equation|align|aligned|gather|gathered|math|displaymath)(\*?)\}(?:(?!\\begin).)*\\end\s*\{\1\2\}\Z",
    re.DOTALL,
)
_SPOKEN = re.compile(
    r"(?:(?i:yes|no|true|false|none|undefined|no (?:real )?solutions?|does not exist)|[A-Z]{1,5})[.!]?"
)
_CLOSING = re.compile(r"I hope (?:it|this) is correct\.?", re.IGNORECASE)
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


def last_formula(text: str) -> Found | None:
    """A displayed formula of several lines, or an environment, that the text ends with."""
    ending = _ENVIRONMENT.search(text[-3 * MAX_LINE :])
    if ending is not None:
        return Found(ending.group(), "in the last formula")
    if not text.endswith(("\\]", "$$")) or "\n" not in text[-3 * MAX_LINE :]:
        return None
    formulas = formulas_of(text[-3 * MAX_LINE :])
    if not formulas or formulas[-1].end() != len(text[-3 * MAX_LINE :]) or "\n" not in formulas[-1].group():
        return None
    return Found(inside(formulas[-1]), "in the last formula")


def last_line(text: str) -> Found | None:
    """The last formula or number of the last line, looked for from its last sentence backwards."""
    lines = [line for line in _CLOSING.sub("", text).splitlines() if line.strip()]
    if not lines:
        return None
    line = lines[-1].strip()[-MAX_LINE:]
    if is_bare(line) or _SPOKEN.fullmatch(line):
        return Found(line, "as the last line")
    every = formulas_of(line)
    formulas = _stated(line, every)
    numbers = [n for n in NUMBER.finditer(line) if not any(f.start() < n.start() < f.end() for f in every)]
    formula = formulas[-1] if formulas else None
    number = numbers[-1] if numbers else None
    if formula is None and number is None:
        return None
    if formula is not None and (
        number is None or number.start() < formula.start() or not _is_later(line, formula, number)
    ):
        return Found(_with_partners(line, formulas), "in the last formula")
    assert number is not None
    ends = [end.end() for end in END.finditer(line) if end.end() <= number.start()]
    return _last_number(line[ends[-1] if ends else 0 :], number)


def _last_number(sentence: str, number: re.Match[str]) -> Found:
    """What a sentence without a formula behind it ends with: a side of an equation, what 'is' says, or a number."""
    outside = MATH.sub(lambda formula: " " * len(formula.group()), sentence)
    side = sentence[outside.rindex("=") + 1 :].strip().rstrip(".!") if "=" in outside else ""
    leading = NUMBER.match(side)
    if leading is not None and re.match(r"\s+[A-Za-z]{2}", side[leading.end() :]):
        side = leading.group()
    if side and any(sign.isdigit() for sign in side):
        return Found(side, "behind the last equals sign")
    leads = list(LEADS.finditer(outside))
    said = outside[leads[-1].end() :].lstrip(" :*").removeprefix("- ").rstrip(" .!*") if leads else ""
    if any(sign.isdigit() for sign in said) and _MATHEMATICS.fullmatch(said):
        return Found(said, f"after '{leads[-1].group()}'")
    return Found(number.group(), "as the last number")


def _stated(line: str, formulas: list[re.Match[str]]) -> list[re.Match[str]]:
    """Without the formulas of a clause that gives reasons: '$x = 3$ (since $x > 0$)'."""
    reasons = [reason.start() for reason in _REASON.finditer(line)]
    kept = [f for f in formulas if not any(reason < f.start() for reason in reasons)]
    return kept or formulas


def _with_partners(line: str, formulas: list[re.Match[str]]) -> str:
    """The last formula, with those that stand before it in a list: 'the roots are $1$ and $2$'."""
    first = len(formulas) - 1
    while first and JOINT.fullmatch(line, formulas[first - 1].end(), formulas[first].start()):
        first -= 1
    if first == len(formulas) - 1 or not _PLURAL.search(line[: formulas[first].start()]):
        first = len(formulas) - 1
    return ", ".join(inside(formula) for formula in formulas[first:])


def is_bare(line: str) -> bool:
    """Whether a line is an answer and no sentence: no words in front but labels with a colon, few behind."""
    if len(line) > 300:
        return False
    plain = COMMAND.sub(" ", line)
    if END.search(plain.rstrip(" .!")):
        return False
    plain = re.sub(r"[A-Za-z]+(?=\s*:)", " ", plain)
    words = [word for word in re.finditer(r"[A-Za-z]{2,}", plain) if word.group().lower() not in _NO_WORDS]
    if len(words) > 3:
        return False
    before = plain[: words[0].start()].rstrip() if words else "1"
    return bool(before) and (
        before[-1].isdigit() or before[-1] in ")]}%$.°²³" or len(plain) == len(line) == len(words[0].group())
    )


def _is_later(line: str, formula: re.Match[str], number: re.Match[str]) -> bool:
    """Whether the number behind a formula is the later statement: a new sentence, or what the formula 'is'."""
    if inside(formula).endswith((".", "!")) or SAYS.match(line[formula.end() :]):
        return True
    return any(end.start() < number.start() for end in END.finditer(line, formula.end() - 1))
