"""Units of measure: which words are units, and how many of one make another."""

import re
from fractions import Fraction
from functools import lru_cache

_BASE: dict[str, tuple[str, str]] = {
    "m meter metre": ("length", "1"),
    "cm centimeter centimetre": ("length", "0.01"),
    "mm millimeter millimetre": ("length", "0.001"),
    "dm decimeter decimetre": ("length", "0.1"),
    "km kilometer kilometre": ("length", "1000"),
    "nm nanometer nanometre": ("length", "1e-9"),
    "in inch inche": ("length", "0.0254"),
    "ft foot feet": ("length", "0.3048"),
    "yd yard": ("length", "0.9144"),
    "mi mile": ("length", "1609.344"),
    "s sec second": ("time", "1"),
    "ms millisecond": ("time", "0.001"),
    "min minute": ("time", "60"),
    "h hr hour": ("time", "3600"),
    "day": ("time", "86400"),
    "week": ("time", "604800"),
    "month": ("month", "1"),
    "yr year": ("month", "12"),
    "g gram": ("mass", "0.001"),
    "mg milligram": ("mass", "0.000001"),
    "kg kilogram": ("mass", "1"),
    "tonne": ("mass", "1000"),
    "lb pound": ("mass", "0.45359237"),
    "oz ounce": ("mass", "0.028349523125"),
    "l liter litre": ("volume", "0.001"),
    "ml milliliter millilitre": ("volume", "0.000001"),
    "dollar usd $": ("dollar", "1"),
    "cent ¢": ("dollar", "0.01"),
    "euro eur": ("euro", "1"),
    "rupee rs inr": ("rupee", "1"),
    "yuan rmb": ("yuan", "1"),
    "yen": ("yen", "1"),
    "n newton": ("force", "1"),
    "kn kilonewton": ("force", "1000"),
    "j joule": ("energy", "1"),
    "kj kilojoule": ("energy", "1000"),
    "w watt": ("power", "1"),
    "kw kilowatt": ("power", "1000"),
    "hz hertz": ("frequency", "1"),
    "khz kilohertz": ("frequency", "1000"),
    "mhz megahertz": ("frequency", "1000000"),
    "v volt": ("voltage", "1"),
    "a amp ampere": ("current", "1"),
    "pa pascal": ("pressure", "1"),
    "k kelvin": ("kelvin", "1"),
    "c celsius": ("celsius", "1"),
    "f fahrenheit": ("fahrenheit", "1"),
    "mol mole": ("amount", "1"),
    "unit": ("", "1"),
    "mph": ("length/time", "0.44704"),
    "kph kmh": ("length/time", "0.27777777777777778"),
}
_UNITS = {
    name: (dimension, Fraction(size)) for names, (dimension, size) in _BASE.items() for name in names.split()
}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_PART = re.compile(r"(?P<join>/|per\b|[*.·-]?)\s*(?P<name>[a-z$¢]+)\s*(?:\^?\s*(?P<power>-?\d))?\s*")


@lru_cache(maxsize=1024)
def measure(unit: str) -> tuple[str, Fraction] | None:
    """What a unit measures, and its size in SI; None: these words are no unit of measure.

    >>> measure("km/h") == measure("kilometers per hour"), measure("square feet")[0], measure("apples")
    (True, 'length^2', None)
    """
    words = unit.strip().rstrip(".").lower()
    found: dict[str, int] = {}
    size = Fraction(1)
    end = 0
    sign, pending = 1, 1
    while end < len(words):
        match = _PART.match(words, end)
        if match is None or match.end() == end:
            return None
        end = match.end()
        if match["join"] in ("/", "per"):
            sign = -1
        name = match["name"]
        if name in ("square", "sq", "cubic", "cu"):
            pending = _POWERS[name]
            continue
        if name in ("squared", "cubed"):
            return measure(f"{'square' if name == 'squared' else 'cubic'} {words[: match.start()]}")
        known = _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))
        if known is None:
            return None
        power = sign * pending * int(match["power"] or 1)
        pending = 1
        dimension, one = known
        for part, exponent in _parts(dimension):
            found[part] = found.get(part, 0) + exponent * power
        size *= one**power
    if pending != 1:
        return None
    if "volume" in found:
        found["length"] = found.get("length", 0) + 3 * found.pop("volume")
    names = (f"{part}^{power}" if power != 1 else part for part, power in sorted(found.items()) if power)
    return "*".join(names), size


def is_short(unit: str) -> bool:
    """Whether plain letters behind a number are a unit rather than variables: 'cm', 'km/h', 'days', not 'm' or 's'.

    >>> is_short("cm"), is_short("m"), is_short("m/s"), is_short("ab")
    (True, False, True, False)
    """
    names = re.findall(r"[a-z$¢]+", unit.lower())
    return (any(len(name) > 1 for name in names) or "/" in unit) and measure(unit) is not None


def _parts(dimension: str) -> list[tuple[str, int]]:
    if "/" in dimension:
        above, below = dimension.split("/")
        return [(above, 1), (below, -1)]
    return [(dimension, 1)] if dimension else []
