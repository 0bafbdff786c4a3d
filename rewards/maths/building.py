"""What brackets, tables and functions make of what is in them."""

from collections.abc import Callable, Sequence
from fractions import Fraction

from .scan import Token
from .terms import Interval, Listing, Matrix, Number, Op, Symbol, Term, Unreadable
from .vocabulary import CONSTANTS, FUNCTIONS, GREEK, MATRICES


def rows(tokens: Sequence[Token]) -> list[list[list[Token]]]:
    """The cells of a table, row by row; empty rows are left out."""
    table: list[list[list[Token]]] = [[[]]]
    for token in tokens:
        if token.kind == "op" and token.text == "\\cr":
            table.append([[]])
        elif token.kind == "op" and token.text == "&":
            table[-1].append([])
        elif token.text != "\\hline":
            table[-1][-1].append(token)
    cells = [
        [_without_comma(cell) for cell in row if [token.text for token in cell] != ["|"]] for row in table
    ]
    return [row for row in cells if any(row)]


def matrix(name: str, tokens: Sequence[Token], inside: Callable[[list[Token]], Term]) -> Matrix:
    r"""A table whose rows are equally long, with the \end that closes it; `inside` reads a cell."""
    if name not in MATRICES or tokens[-1].text != name:
        raise Unreadable(f"the environment {name}")
    filled = rows(tokens[:-1])
    if not filled or len({len(row) for row in filled}) != 1:
        raise Unreadable("a matrix with rows of different lengths")
    return Matrix(tuple(tuple(inside(cell) for cell in row) for row in filled))


def _without_comma(cell: list[Token]) -> list[Token]:
    return cell[:-1] if cell and cell[-1].text in (",", ";", ".") else cell


def enclose(opening: str, inner: Term, closing: str) -> Term:
    """A bracket with commas in it as a tuple, set or interval."""
    items = inner.items if isinstance(inner, Listing) and inner.kind == "list" else (inner,)
    if opening == "\\{" or (opening == "{" and len(items) > 1):
        return Listing("set", items) if not (len(items) == 1 and isinstance(inner, Listing)) else inner
    if {opening, closing} == {"[", ")"} or {opening, closing} == {"(", "]"}:
        if len(items) != 2:
            raise Unreadable("an interval without two ends")
        return Interval(items[0], items[1], opening == "[", closing == "]")
    if opening == "[":
        return Listing("bracket", items)
    return Listing("tuple", items) if len(items) > 1 else inner


def signed(sign: str, term: Term) -> Term:
    if sign == "-":
        if isinstance(term, Number):
            return Number(-term.value, term.decimals, term.significant, term.cut)
        return Op("neg", (term,))
    return Op("pm" if sign == "\\pm" else "mp", (term,)) if sign in ("\\pm", "\\mp") else term


def product_of(factors: list[Term]) -> Term:
    return factors[0] if len(factors) == 1 else Op("*", tuple(factors))


def call(name: str, arguments: tuple[Term, ...], extra: list[Term]) -> Term:
    if name == "sqrt":
        if len(arguments) != 1:
            raise Unreadable("a root of several numbers")
        return Op("root", (arguments[0], extra[0])) if extra else Op("sqrt", arguments)
    if name == "cbrt":
        return Op("root", (*arguments, Number(Fraction(3))))
    if name == "log":
        return Op("log", (*arguments, *extra))
    if name in ("lg", "lb"):
        return Op("log", (*arguments, Number(Fraction(10 if name == "lg" else 2))))
    if extra:
        raise Unreadable(f"a subscript of {name}")
    return Op(name, arguments)


def named(word: str) -> Term | None:
    """A constant, a Greek letter, or a function of one letter (`sinx`); None: the word is none of them."""
    if word.lower() in CONSTANTS:
        return Symbol(CONSTANTS[word.lower()])
    if word in GREEK and len(word) > 2:
        return Symbol(word)
    for name in ("sin", "cos", "tan", "ln", "log"):
        if word.startswith(name) and len(word) == len(name) + 1:
            return Op(FUNCTIONS[name], (Symbol(word[-1]),))
    return None
