r"""The text of an answer -> tokens: LaTeX, Unicode and plain typing become one spelling.

Nothing here decides what an answer means; it drops what only spaces or sizes (\left, \, \displaystyle), joins the digits
of one number, and knows that 4,\!000 and 4{,}000 are 4000 while (4,000) may be two numbers.
"""

import re
from dataclasses import dataclass

from .terms import Unreadable

MAX_CHARACTERS = 2000
"""An answer longer than this is compared word for word and not read."""
MAX_TOKENS = 800
MAX_NESTING = 60

_UNICODE = {
    **dict.fromkeys("−–—‐‑", "-"),
    **{
        "×": r"\times ",
        "⋅": r"\cdot ",
        "·": r"\cdot ",
        "∙": r"\cdot ",
        "•": r"\cdot ",
        "÷": "/",
        "∕": "/",
        "⁄": "/",
    },
    **{
        "√": r"\sqrt ",
        "∛": r"\sqrt[3]",
        "∞": r"\infty ",
        "±": r"\pm ",
        "∓": r"\mp ",
        "°": r"^\circ ",
        "º": r"^\circ ",
    },
    **{
        "≤": r"\le ",
        "⩽": r"\le ",
        "≥": r"\ge ",
        "⩾": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "≡": r"\equiv ",
    },
    **{"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ", "∅": r"\emptyset ", "Ø": r"\emptyset "},
    **{"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}"},
    **{
        "⌊": r"\lfloor ",
        "⌋": r"\rfloor ",
        "⌈": r"\lceil ",
        "⌉": r"\rceil ",
        "⟨": r"\langle ",
        "⟩": r"\rangle ",
    },
    **{"∠": r"\angle ", "△": r"\triangle ", "…": r"\ldots ", "⋯": r"\cdots ", "′": "'", "″": "''", "’": "'"},
    **{
        "，": ",",
        "；": ";",
        "：": ":",
        "（": "(",
        "）": ")",
        "％": r"\%",
        "、": ",",
        "。": ".",
        "∣": r"\mid ",
    },
    **{
        "＜": "<",
        "＞": ">",
        "＝": "=",
        "＋": "+",
        "⊆": r"\subseteq ",
        "⊂": r"\subset ",
        "⊊": r"\subsetneq ",
        "∀": r"\forall ",
    },
    **{
        "∧": r"\wedge ",
        "∨": r"\vee ",
        "∃": r"\exists ",
        "∑": r"\sum ",
        "∫": r"\int ",
        "～": r"\sim ",
        "≅": r"\approx ",
    },
    **{"→": r"\to ", "⇒": r"\Rightarrow ", "∖": r"\setminus ", "“": '"', "”": '"', "¬": r"\neg "},
    **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u200a", " "),
    **dict.fromkeys("\u200b\u200e\u200f\ufeff", ""),
    **{sign: f"^{{{digit}}}" for sign, digit in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)},
    **{sign: f"_{{{digit}}}" for sign, digit in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)},
    **{
        "½": r"\frac{1}{2}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
    },
    **{
        "⅕": r"\frac{1}{5}",
        "⅛": r"\frac{1}{8}",
        "⅜": r"\frac{3}{8}",
        "⅝": r"\frac{5}{8}",
        "⅞": r"\frac{7}{8}",
    },
    **{
        "⁻": "^-",
        "℃": r"^\circ C",
        "℉": r"^\circ F",
        "¢": r"\text{ cents}",
        "€": r"\euro ",
        "£": r"\pounds ",
        "¥": r"\yen ",
        "₹": r"\rupee ",
    },
}
_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστυφχψωϕΓΔΘΛΞΠΣΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
        "omega phi Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(),
        strict=True,
    )
)
_TRANSLATE = str.maketrans({**_UNICODE, **{sign: f"\\{name} " for sign, name in _GREEK.items()}})

_ROWS = re.compile(r"\\begin\s*\{|\\\\\s*\[")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z{}()\[\],;!%$|])")
_BARS = re.compile(r"\\(left|right)\s*(?:\||\\[lr]?vert(?![a-zA-Z]))")
_SIZES = re.compile(
    r"\\(?:begin|end)\s*\{(?:equation|math|displaymath)\*?\}|\\(?:left|right|[bB]ig{1,2}[lrm]?|middle)\s*\.(?!\d)|\\(?:left|right|middle|[bB]ig{1,2}[lrm]?|displaystyle|textstyle"
    r"|scriptstyle|limits|nolimits|rm|bf|it|nonumber|hfill|noindent|strut|num|boxed|fbox|underline|large|Large|LARGE|small|huge|qed|blacksquare|square|phantom\s*\{[^{}]*\})(?![a-zA-Z])"
)
_THOUSANDS = re.compile(
    r"(?<=\d)(?:(?:\\!)?,\s?\\!\s?|\{,\}\s?(?:\\!)?\s?|\\,\s?|\\ |~|\\;|\\:|\\text\{\s\})(?=\d{3}(?!\d))"
)
_BRACED_ROWS = re.compile(
    r"\\left\s*\\\{\s*\\begin\s*\{array\}\s*(?:\{[lcr\s]*\})?(.*?)\\end\s*\{array\}\s*\\right\s*\.?",
    re.DOTALL,
)
_DECIMAL_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d)")
_CHOSEN = re.compile(r"(?:\{\s*\})?_\s*\{?(\d+)\}?\s*C\s*_\s*\{?(\d+)\}?")
_CHOSEN_ABOVE = re.compile(r"(?<![\w)}\]])(?:\{\s*\})?\^\s*\{?(\d+)\}?\s*C\s*_\s*\{?(\d+)\}?")
_DOMAIN = re.compile(
    r"\\in\s*(?:\\(?:mathbf|mathrm|bf|rm)\s*)?(?:\{\s*([RZNQ])\s*\}|([RZNQ]))(?![a-zA-Z_{(])"
)
_UNIT_POWER = re.compile(r"(\\(?:text|mathrm|mbox)\s*\{[^{}]*\^)\{(-?\d)\}")
_HTML = re.compile(r"<(su[bp])>([^<>]{1,60})</\1>")
_OUTWARD = re.compile(r"([\[\](])([^\[\],]*,[^\[\]]*)([\[\])])")
_COLORS = re.compile(r"\\(?:color|textcolor|colorbox)\s*(?:\[[^\]]*\])?\{[^{}]*\}")
_MODULES = re.compile(r"\b(?:np|numpy|math|sympy|sp)\.(?=[a-z])")
_RUPEES = re.compile(r"\bRs\b\.?\s*")
_GLUED = re.compile(r"\\q?quad(?=[a-zA-Z])")
_SPACED = re.compile(r"(?<![\d.,\w\\^_/])\d{1,3}(?: \d{3})+(?![\d\w.]*\d)")
_SPACES = re.compile(
    r"\\[,;:! >]|\\(?=[\s])|~|\\(?:hspace|vspace|hskip)\*?\s*\{[^{}]*\}|\\(?:thinspace|enspace|null)\b"
)
_COMMAS = re.compile(r"(?<![\d.])(?<!\d,)[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)")
_FONT = (
    r"\\(?P<font>text(?:bf|it|rm|sf|tt|normal|sc|up)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathtt|mathnormal|mathcal|mathbb"
    r"|mathfrak|mathscr|operatorname\*?|boldsymbol|bm|mathop)\s*(?:\{(?P<words>[^{}]*)\}|(?P<letter>[A-Za-z0-9])(?![a-zA-Z]))"
)
_TOKEN = re.compile(
    rf"""
      (?P<space>\s+)
    | {_FONT}
    | \\(?P<env>begin|end)\s*\{{(?P<name>[a-zA-Z]+)\*?\}}(?:\s*\{{[lcr|\s]*\}})?
    | (?P<cmd>\\[a-zA-Z]+|\\\\|\\[^a-zA-Z])
    | (?P<rep>\d*\.\d*(?:(?:\\overline|\\bar|\\dot)\s*\{{?\d+\}}?|\(\d+\)(?![\d\w(])))
    | (?P<cut>\d*\.\d+(?:\.{{3}}|\\[lc]?dots(?![a-z])))
    | (?P<num>(?:\d+\.\d+|\.\d+|\d+\.(?=/)|\d+)(?:[eE][-+]?\d+(?![\w.]))?)
    | (?P<word>[^\W\d_]+)
    | (?P<op>\*\*|<=|>=|=<|!=|==|:=|=>|<>|->|\.\.\.|'+|.)
    """,
    re.VERBOSE | re.DOTALL,
)
UNIT_LETTERS = set("mgslhNJWVKL")
_LETTERS = {"mathbb", "mathcal", "mathfrak", "mathscr"}
_ALIASES = {
    **{"\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\dbinom": "\\binom", "\\tbinom": "\\binom"},
    **{"\\leq": "\\le", "\\leqslant": "\\le", "\\leqq": "\\le", "<=": "\\le", "=<": "\\le", "\\lt": "<", "\\gt": ">"},
    **{"\\geq": "\\ge", "\\geqslant": "\\ge", "\\geqq": "\\ge", ">=": "\\ge", "\\neq": "\\ne", "!=": "\\ne", "<>": "\\ne"},
    **{":=": "=", "==": "=", "\\simeq": "\\approx", "\\cong": "\\approx", "\\doteq": "\\approx", "**": "^"},
    **{"\\ast": "*", "\\star": "*", "\\lbrace": "\\{", "\\rbrace": "\\}", "\\lbrack": "[", "\\rbrack": "]"},
    **{"\\vert": "|", "\\|": "|", "\\lVert": "|", "\\rVert": "|", "\\Vert": "|"},
    **{"\\varphi": "\\phi", "\\varepsilon": "\\epsilon", "\\vartheta": "\\theta", "\\varrho": "\\rho"},
    **{"\\varnothing": "\\emptyset", "\\degree": "\\circ", "\\textdegree": "\\circ", "\\textcirc": "\\circ", "\\dots": "\\ldots", "\\cdots": "\\ldots", "...": "\\ldots"},
    **{"\\dotsc": "\\ldots", "\\dotsb": "\\ldots", "\\vdots": "\\ldots", "\\lor": "\\vee", "\\land": "\\wedge"},
    **{"\\backslash": "\\setminus", "\\smallsetminus": "\\setminus", "=>": "\\Rightarrow", "\\implies": "\\Rightarrow"},
    **{"\\rightarrow": "\\to", "\\longrightarrow": "\\to", "->": "\\to", "\\iff": "\\Leftrightarrow"},
    **{"\\ni": "\\in", "\\isin": "\\in", "\\qquad": "\\quad", "\\bigcup": "\\cup", "\\sqcup": "\\cup", "\\uplus": "\\cup", "\\cupdot": "\\cup", "\\centerdot": "\\cdot"},
    **{"\\R": "\\mathbb{R}", "\\Z": "\\mathbb{Z}", "\\N": "\\mathbb{N}", "\\Q": "\\mathbb{Q}", "\\tg": "\\tan"},
    **{"\\ctg": "\\cot", "\\arctg": "\\arctan", "\\colon": ":", "\\divides": "\\mid", "\\infin": "\\infty"},
}  # fmt: skip
_DELIMITERS = {r"\(", r"\)", r"\[", r"\]", r"\nonumber", r"\tag"}
_RAISED = {
    "pi",
    "th",
    "st",
    "nd",
    "rd",
    "circ",
    "sin",
    "cos",
    "tan",
    "ln",
    "log",
    "exp",
    "sqrt",
    "inf",
    "infty",
}
_DEGREES = {"o", "circ", r"\circ", "0"}
_OPENERS = {"(", "[", "{", "\\{", "\\lvert", "\\lfloor", "\\lceil", "\\langle"}
_CLOSERS = {")", "]", "}", "\\}", "\\rvert", "\\rfloor", "\\rceil", "\\rangle"}


@dataclass(frozen=True, slots=True)
class Token:
    """kind: `num`, `rep` (a repeating decimal), `word`, `text` (words in \\text), `begin`, `end`, or `op` for all else."""

    kind: str
    text: str
    spaced: bool = False
    """White space stood before it."""


def scan(text: str, split_thousands: bool = False) -> list[Token]:
    r"""The tokens of an answer. Raises Unreadable when it is too long.

    split_thousands: read the commas of '1,234' as commas; they are part of the number otherwise

    >>> [token.text for token in scan(r"\left( -\tfrac12 , 1{,}000 \right]")]
    ['(', '-', '\\frac', '12', ',', '1000', ']']
    """
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"{len(text)} characters")
    tokens: list[Token] = []
    spaced = False
    for match in _TOKEN.finditer(_join_digits(unify(text), split_thousands)):
        kind = match.lastgroup
        if kind == "space":
            spaced = True
            continue
        if kind == "cmd" and match.group() in _DELIMITERS:
            continue
        token = _token(match, spaced)
        if tokens and tokens[-1].text == "." and token.text in _CLOSERS:
            tokens.pop()
        tokens += _of_one_letter(token) if tokens and tokens[-1].text == "^" else [token]
        spaced = False
    if len(tokens) > MAX_TOKENS:
        raise Unreadable(f"{len(tokens)} symbols")
    return tokens


def unify(text: str) -> str:
    r"""The text in ASCII LaTeX, without sizes and spaces of LaTeX; 'x²\,' becomes 'x^{2} '."""
    if not text.isascii():
        text = text.translate(_TRANSLATE)
    if "." in text:
        text = _MODULES.sub("", text)
    if "Rs" in text:
        text = _RUPEES.sub(r"\\rupee ", text)
    if "$" in text:
        bare = text.replace("\\$", "")
        text = text.replace("\\$", "\x00").replace("$", " " if bare.count("$") % 2 == 0 else "\x00")
        text = text.replace("\x00", r"\$ ")
    if "_" in text:
        text = _CHOSEN.sub(r"\\binom{\1}{\2}", text)
        text = _CHOSEN_ABOVE.sub(r"\\binom{\1}{\2}", text)
    if "<su" in text:
        text = _HTML.sub(lambda match: f"{'^' if match[1] == 'sup' else '_'}{{{match[2]}}}", text)
    if "]" in text or "[" in text:
        text = _inward(text)
    if "\\" not in text and "{,}" not in text and "~" not in text:
        return text
    if "\\\\" in text and not _ROWS.search(text):
        text = _DOUBLED.sub(r"\\", text)
    text = _DOMAIN.sub(r"\\in \\mathbb{\1\2}", text)
    if "^" in text:
        text = _UNIT_POWER.sub(r"\1\2", text)
    text = _GLUED.sub(r"\\quad ", text.replace("\\\\", r"\cr "))
    if "color" in text:
        text = _COLORS.sub(" ", text)
    text = _BRACED_ROWS.sub(r"\\begin{cases}\1\\end{cases}", text)
    text = _DECIMAL_COMMA.sub(".", _THOUSANDS.sub("", text))
    if "|" in text and len(_BARS.findall(text)) == 2 * text.count("\\left|"):
        text = _BARS.sub(lambda match: f"\\{match[1][0]}vert ", text)
    text = _SIZES.sub(" ", text)
    return _SPACES.sub(" ", text)


def _inward(text: str) -> str:
    """]0, 1[ as (0, 1): an open end may be written as a bracket that looks away."""
    depth = 0
    for sign in text:
        depth += (sign in "([") - (sign in ")]")
        if depth < 0:
            break
    if depth == 0:
        return text
    return _OUTWARD.sub(
        lambda match: ("[" if match[1] == "[" else "(") + match[2] + ("]" if match[3] == "]" else ")"), text
    )


def matches(tokens: list[Token]) -> dict[int, int]:
    """Place of each opening bracket -> place of its closing one; '[' may close with ')'. Raises Unreadable."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for place, token in enumerate(tokens):
        if token.kind == "begin" or (token.kind == "op" and token.text in _OPENERS):
            opened.append(place)
            if len(opened) > MAX_NESTING:
                raise Unreadable("nested too deep")
        elif token.kind == "end" or (token.kind == "op" and token.text in _CLOSERS):
            if not opened:
                raise Unreadable(f"{token.text} closes nothing")
            start = opened.pop()
            if (tokens[start].text == "{") != (token.text == "}"):
                raise Unreadable(f"{tokens[start].text} closed by {token.text}")
            found[start] = place
    if opened:
        raise Unreadable(f"{tokens[opened[-1]].text} is never closed")
    return found


def _of_one_letter(token: Token) -> list[Token]:
    """In x^ab only the a is raised, as in LaTeX; pi, sin and th are one word there too."""
    if token.kind != "word" or len(token.text) < 2 or token.text.lower() in _RAISED:
        return [token]
    return [Token("word", token.text[0], token.spaced), Token("word", token.text[1:])]


def _token(match: re.Match[str], spaced: bool) -> Token:
    font = match["font"]
    if font is not None:
        content = match["words"] if match["words"] is not None else match["letter"]
        if font in _LETTERS:
            return Token("op", f"\\mathbb{{{content.strip()}}}", spaced)
        if font.startswith(("operatorname", "mathop")):
            return Token("word", content.strip(" ~"), spaced)
        unit = font == "mathrm" and content.strip() in UNIT_LETTERS
        if not font.startswith(("text", "mbox", "hbox")) and len(content.strip()) == 1 and not unit:
            return Token("word" if content.strip().isalpha() else "num", content.strip(), spaced)
        if font == "mathrm" and content.isalpha() and content.isupper() and len(content) > 1:
            return Token("word", content, spaced)  # a segment: \\mathrm{AB}
        return Token("text", content.replace("~", " "), spaced)
    if match["env"] is not None:
        return Token(match["env"], match["name"], spaced)
    text = match.group()
    kind = match.lastgroup or "op"
    if kind in ("cmd", "op"):
        return Token("op", _ALIASES.get(text, text), spaced)
    return Token("num" if kind == "cut" else kind, text, spaced)


def _join_digits(text: str, split_thousands: bool) -> str:
    """Without the separators of thousands: in '1 000' and, outside brackets, in '1,000'."""
    text = _SPACED.sub(lambda match: match.group().replace(" ", ""), text)
    if split_thousands or "," not in text:
        return text
    parts = []
    end = 0
    for match in _COMMAS.finditer(text):
        before = text[: match.start()]
        depth = sum(before.count(sign) for sign in "([{") - sum(before.count(sign) for sign in ")]}")
        number = match.group().replace(",", "") if depth <= 0 else match.group()
        parts += [text[end : match.start()], number]
        end = match.end()
    return "".join(parts) + text[end:]
