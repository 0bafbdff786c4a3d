r"""Tokens -> terms, by recursive descent: relations, then sums, products, powers.

What is read is read whole: a part that no rule knows raises Unreadable, it is never dropped.
"""

from collections.abc import Callable, Sequence

from . import ahead
from .building import call, enclose, matrix, named, product_of, signed
from .digits import number, repeating
from .scan import Token, matches
from .terms import Listing, Number, Op, Symbol, Term, Unreadable
from .vocabulary import (
    ACCENTS,
    CONSTANTS,
    DIVIDE,
    FENCES,
    FUNCTIONS,
    GREEK,
    LISTED,
    MULTIPLY,
    PLAIN_FUNCTIONS,
    POSTFIX,
)

MAX_DEPTH = 40
MAX_SIGNS = 6
"""Of !, ', %, ^ behind one value."""


class Parser:
    """Reads one expression from `tokens`; bracket partners are found once, so that every look ahead is a look-up."""

    def __init__(self, tokens: Sequence[Token], inside: Callable[[list[Token]], Term]) -> None:
        self.tokens = list(tokens)
        self.partner = matches(self.tokens)
        self.place = 0
        self.end = len(self.tokens)
        self.depth = 0
        self.inside = inside
        """Reads what stands in a bracket that is no expression: a set, a list in \\gcd(a, b)."""

    def expression(self) -> Term:
        """All tokens as one expression. Raises Unreadable."""
        if not self.tokens:
            raise Unreadable("nothing")
        term = self._split() or self._sum()
        if self.place != self.end:
            raise Unreadable(f"{self.tokens[self.place].text!r} is left over")
        return term

    def _peek(self) -> str:
        return self.tokens[self.place].text if self.place < self.end else ""

    def _kind(self) -> str:
        return self.tokens[self.place].kind if self.place < self.end else ""

    def _take(self) -> Token:
        if self.place >= self.end:
            raise Unreadable("it ends too early")
        self.place += 1
        return self.tokens[self.place - 1]

    def _take_if(self, *texts: str) -> str:
        text = self._peek()
        if text in texts and self._kind() == "op":
            self.place += 1
            return text
        return ""

    def _sum(self) -> Term:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deep")
        sign = self._take_if("+", "-", "\\pm", "\\mp")
        terms = [signed(sign, self._product())]
        while sign := self._take_if("+", "-", "\\pm", "\\mp"):
            if sign == "+" and self._peek() == "-":  # as in 3 + -2
                sign = self._take().text
            terms.append(signed(sign, self._product()))
        total = terms[0] if len(terms) == 1 else Op("+", tuple(terms))
        if self._kind() in ("op", "word") and self._peek() in ("\\bmod", "mod", "\\mod"):
            self._take()
            total = Op("mod", (total, self._product()))
        if self._take_if("\\pmod"):
            total = Op("pmod", (total, self._argument()))
        self.depth -= 1
        return total

    def _product(self) -> Term:
        factors = [self._power()]
        while self.place < self.end:
            if self._take_if(*MULTIPLY):
                factors.append(self._signed_power())
            elif self._take_if(*DIVIDE):
                factors[-1:] = [Op("/", (product_of(factors), self._signed_power()))]
                del factors[:-1]
            elif ahead.starts_factor(self.tokens, self.partner, self.place, factors[-1]):
                factors.append(self._power())
            else:
                break
        return product_of(factors)

    def _signed_power(self) -> Term:
        return signed(self._take_if("+", "-"), self._power())

    def _power(self) -> Term:
        base = self._atom()
        signs = 0
        while self._kind() == "op" and self._peek() in POSTFIX:
            base = self._postfix(base)
            signs += 1
            if signs > MAX_SIGNS:
                raise Unreadable("too many signs behind a value")
        return base

    def _postfix(self, base: Term) -> Term:
        sign = self._take().text
        if sign == "!":
            return Op("!!", (base,)) if self._take_if("!") else Op("!", (base,))
        if sign in ("%", "\\%"):
            return Op("%", (base,))
        if sign == "\\circ":
            return self._degrees(base)
        if sign in ("'", "''"):
            if isinstance(base, Symbol):
                return Symbol(base.name + sign)
            raise Unreadable("a prime")
        if sign == "_":
            return self._subscript(base)
        if self._kind() == "text" and self._peek().strip() in ("o", "circ", "\\circ", "°"):
            self._take()
            return self._degrees(base)
        if self._prime_ahead():
            return Symbol(f"{base.name}'") if isinstance(base, Symbol) else Op("prime", (base,))
        if self._group_is("\\circ") or self._take_if("\\circ"):
            return self._degrees(base)
        if isinstance(base, Symbol) and self._take_if("*"):
            return Symbol(f"{base.name}*")
        exponent = self._exponent()
        return Op("^", (base, exponent))

    def _prime_ahead(self) -> bool:
        return bool(self._take_if("\\prime")) or self._group_is("\\prime")

    def _group_is(self, text: str) -> bool:
        """Consume {text}."""
        found = [token.text for token in self.tokens[self.place : self.place + 3]] == ["{", text, "}"]
        self.place += 3 * found
        return found

    def _exponent(self) -> Term:
        sign = self._take_if("+", "-")
        exponent = self._atom()
        if self._peek() == "^" and self._kind() == "op":
            exponent = self._postfix(exponent)
        return signed(sign, exponent)

    def _degrees(self, base: Term) -> Term:
        """48^\\circ 6' 52'' in degrees."""
        minutes, width = ahead.minutes(self.tokens, self.place)
        self.place += width
        return Op("deg", (Op("+", (base, *minutes)) if minutes else base,))

    def _subscript(self, base: Term) -> Term:
        start = self.place
        if self._peek() == "{":
            self.place = self.partner[self.place] + 1
        else:
            self._take()
        inner = [token for token in self.tokens[start : self.place] if token.text not in ("{", "}")]
        label = "".join(token.text.replace(" ", "") for token in inner)
        if (
            isinstance(base, Symbol)
            and base.name in ("C", "A", "P")
            and ahead.is_chosen_number(inner, self.tokens, self.place)
        ):
            self._take()
            return Op("binom" if base.name == "C" else "perm", (number(label), self._exponent()))
        if isinstance(base, Symbol):
            return Symbol(f"{base.name}_{label}")
        if isinstance(base, Op) and base.name == "^" and base.args[0] == Symbol("C"):
            return Op("binom", (self._part(inner), base.args[1]))
        if isinstance(base, Op) and base.name == "^" and isinstance(base.args[0], Symbol):  # v^2_0 is v_0^2
            return Op("^", (Symbol(f"{base.args[0].name}_{label}"), base.args[1]))
        if isinstance(base, Op) and base.name != "^":  # |AB|_{min} is a name
            return Op(f"call:{label}", (base,))
        raise Unreadable(f"the subscript {label}")

    def _atom(self) -> Term:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deep")
        token = self._take()
        if token.kind == "num":
            atom = self._mixed(number(token.text))
        elif token.kind == "rep":
            atom = repeating(token.text)
        elif token.kind == "word":
            atom = self._word(token.text)
        elif token.kind == "begin":
            atom = self._matrix(token.text)
        elif token.kind == "op":
            atom = self._operator(token.text)
        else:
            raise Unreadable(f"{token.text!r} among numbers")
        self.depth -= 1
        return atom

    def _mixed(self, whole: Number) -> Term:
        """3\\frac{1}{2} and 3 1/2 are 7/2."""
        if whole.decimals is not None:
            return whole
        found = ahead.fraction(self.tokens, self.place)
        if found is None:
            return whole
        self.place += found[1]
        return Number(whole.value + found[0])

    def _word(self, word: str) -> Term:
        if word in FUNCTIONS and (word in PLAIN_FUNCTIONS or self._peek() == "("):
            return self._function(FUNCTIONS[word])
        known = named(word)
        if known is not None:
            return known
        if len(word) > 3 and len(set(word)) < len(word) or len(word) > 5:
            raise Unreadable(f"the word {word!r}")
        if ahead.is_inverse(self.tokens, self.place, word):
            self.place += 5
            return Op(f"call:inverse {word}", self._arguments())
        if ahead.is_call(self.tokens, self.place, word):
            return Op(f"call:{word}", self._arguments())
        if word == "C" and ahead.is_pair_of_numbers(self.tokens, self.place):
            return Op("binom", self._arguments())
        letters: list[Term] = [Symbol(letter) for letter in word]
        if len(word) == 1 and ahead.is_index(self.tokens, self.place):
            letters = [Symbol(f"{word}_{self._take().text}")]
        while self._kind() == "op" and self._peek() in ("_", "'", "''"):
            letters[-1] = self._postfix(letters[-1])
        if len(letters) > 1 and self._kind() == "op" and self._peek() in ("^", "!"):
            letters[-1] = self._postfix(letters[-1])
        return product_of(letters)

    def _function(self, name: str) -> Term:
        """A function with its argument: in brackets, or all factors up to the next sign or function."""
        extra: list[Term] = []
        power: Term | None = None
        while self._kind() == "op" and self._peek() in ("_", "^"):
            if self._take().text == "_":
                extra.append(self._exponent())
            elif not self._prime_ahead():
                power = self._exponent()
        if name == "sqrt" and self._peek() == "[" and self.tokens[self.partner[self.place]].text == "]":
            extra = [self._group()]
        if self._kind() == "op" and (self._peek() == "(" or (self._peek() == "\\{" and name in LISTED)):
            arguments = self._arguments()
        elif name in ("sqrt", "cbrt"):
            # \sqrt 12 is the root of 12, not of 1
            arguments = (number(self._take().text) if self._kind() == "num" else self._atom(),)
        elif name in LISTED:
            raise Unreadable(f"{name} without brackets")
        else:
            arguments = (self._bare_argument(),)
        if isinstance(power, Number) and power.value == -1:
            return call(f"arc{name}" if f"arc{name}" in FUNCTIONS else f"inverse {name}", arguments, extra)
        called = call(name, arguments, extra)
        return called if power is None else Op("^", (called, power))

    def _bare_argument(self) -> Term:
        sign = self._take_if("-", "+")
        factors = [self._power()]
        while self.place < self.end:
            token = self.tokens[self.place]
            name = token.text.removeprefix("\\")
            if token.text == "/" and len(factors) == 1 and token.kind == "op":  # \sin x/2, \cos \pi/3
                self._take()
                factors = [Op("/", (factors[0], self._power()))]
                continue
            if (
                name in FUNCTIONS
                or token.text in ("(", "[", "|")
                or not ahead.starts_factor(self.tokens, self.partner, self.place, factors[-1])
            ):
                break
            factors.append(self._power())
        return signed(sign, product_of(factors))

    def _arguments(self) -> tuple[Term, ...]:
        """The comma-separated terms of a bracket, which is consumed."""
        start = self.place
        close = self.partner[start]
        inner = self.inside(self.tokens[start + 1 : close])
        self.place = close + 1
        return inner.items if isinstance(inner, Listing) and inner.kind == "list" else (inner,)

    def _argument(self) -> Term:
        """What a LaTeX command takes: a group, one digit, one symbol."""
        token = self._take()
        if token.kind == "num" and "." not in token.text and len(token.text) > 1:
            self.place -= 1
            self.tokens[self.place] = Token("num", token.text[1:])
            return number(token.text[0])
        self.place -= 1
        return self._atom()

    def _group(self) -> Term:
        """The expression in the bracket that opens here."""
        start = self.place
        close = self.partner[start]
        inner = self.tokens[start + 1 : close]
        self.place = close + 1
        return self._part(inner)

    def _split(self) -> Term | None:
        r"""{n \choose k} and {a \over b}."""
        name, cut = ahead.middle(self.tokens, self.partner)
        if not name:
            return None
        self.place = self.end
        return Op(name, (self._part(self.tokens[:cut]), self._part(self.tokens[cut + 1 :])))

    def _part(self, tokens: list[Token]) -> Term:
        part = Parser(tokens, self.inside)
        part.depth = self.depth
        return part.expression()

    def _operator(self, text: str) -> Term:
        name = text[1:] if text.startswith("\\") else ""
        if text in ("(", "[", "{", "\\{", "\\langle"):
            return self._bracket()
        if text == "\\frac":
            above, below = self._argument(), self._argument()
            if above == Symbol("d") and isinstance(below, Op) and below.args[0] == Symbol("d"):
                raise Unreadable("a derivative")
            return Op("/", (above, below))
        if text == "\\binom":
            return Op("binom", (self._argument(), self._argument()))
        if text in CONSTANTS:
            return Symbol(CONSTANTS[text])
        if text in FENCES:
            return self._fence(*FENCES[text])
        if text == "|":
            return self._absolute()
        if name in FUNCTIONS:
            return self._function(FUNCTIONS[name])
        if name in GREEK:
            return Symbol(name)
        if name in ACCENTS:
            return self._accent(name)
        if text == "\\ldots" or text.startswith("\\mathbb"):
            return Symbol(text)
        if text == "\\emptyset":
            return Listing("set", ())
        raise Unreadable(f"the sign {text!r}")

    def _bracket(self) -> Term:
        start = self.place - 1
        close = self.partner[start]
        if self.tokens[start].text + self.tokens[close].text in ("()", "[]", "{}") and ahead.is_expression(
            self.tokens, self.partner, start, close
        ):
            self.place = start
            return self._group()
        self.place = close + 1
        return enclose(
            self.tokens[start].text, self.inside(self.tokens[start + 1 : close]), self.tokens[close].text
        )

    def _fence(self, closing: str, name: str) -> Term:
        start = self.place - 1
        close = self.partner[start]
        if self.tokens[close].text != closing:
            raise Unreadable(f"{self.tokens[start].text} closed by {self.tokens[close].text}")
        self.place = start
        return Op(name, (self._group(),))

    def _absolute(self) -> Term:
        start = self.place - 1
        close = ahead.closing_bar(self.tokens, self.partner, start)
        if close is None:
            raise Unreadable("| is never closed")
        self.place = close + 1
        return Op("abs", (self._part(self.tokens[start + 1 : close]),))

    def _accent(self, name: str) -> Term:
        start = self.place
        if self._peek() == "{":
            self.place = self.partner[start] + 1
        else:
            self._take()
        inner = "".join(
            token.text for token in self.tokens[start : self.place] if token.text not in ("{", "}")
        )
        return Symbol(f"\\{name} {inner}")

    def _matrix(self, name: str) -> Term:
        start = self.place - 1
        close = self.partner[start]
        self.place = close + 1
        return matrix(name, self.tokens[start + 1 : close + 1], self.inside)
