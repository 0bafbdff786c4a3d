"""Plain values as bytes, between processes that do not trust each other.

Not pickle (it runs code), not marshal (it can crash on bad input), not JSON (tuples, sets, bytes and big integers would
change, and importing it costs as much as starting Python). What is no plain value crosses as a handle: a number by
which its owner knows it.

    None N, True T, False F, Ellipsis E
    int i, float f, complex c, str s, bytes b, bytearray B, range r, Decimal D, Fraction Q,
    built-in type n                                                                          tag, length, ':', text
    list l, tuple t, set S, frozenset Z, dict d                                              tag, count, ':', items
    handle h                                                                                 tag, length, ':', number
"""

import builtins
import sys

MAX_DEPTH = 100
"""Containers inside one another."""
MAX_FRAME = 16 << 20
"""Bytes of one message."""

TYPE_CHECKING = False  # importing typing would cost each sandbox milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO


def encode(value: "Any", keep: "Callable[[Any], int]") -> bytes:
    """The value as bytes; `keep` gives a number for each part that is no plain value. Raises ValueError when too deep."""
    parts: list[bytes] = []
    _encode(value, keep, parts, 0)
    return b"".join(parts)


def _encode(value: "Any", keep: "Callable[[Any], int]", parts: list[bytes], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"a value nested more than {MAX_DEPTH} deep")
    if value is None or value is True or value is False or value is ...:
        parts.append(b"N" if value is None else b"E" if value is ... else b"T" if value else b"F")
    elif isinstance(value, int):
        _text(b"i", b"%x" % value, parts)
    elif isinstance(value, float):
        _text(b"f", float.__repr__(value).encode(), parts)
    elif isinstance(value, str):
        _text(b"s", str.encode(value, "utf-8", "surrogatepass"), parts)
    elif isinstance(value, list | tuple | set | frozenset):
        tag = b"l" if isinstance(value, list) else b"t" if isinstance(value, tuple) else b"S"
        parts.append(b"%s%d:" % (b"Z" if isinstance(value, frozenset) else tag, len(value)))
        for item in value:
            _encode(item, keep, parts, depth + 1)
    elif isinstance(value, dict):
        parts.append(b"d%d:" % len(value))
        for key, item in value.items():
            _encode(key, keep, parts, depth + 1)
            _encode(item, keep, parts, depth + 1)
    elif isinstance(value, complex):
        _text(b"c", f"{value.real!r} {value.imag!r}".encode(), parts)
    elif isinstance(value, bytes | bytearray):
        _text(b"b" if isinstance(value, bytes) else b"B", bytes(value), parts)
    elif isinstance(value, range):
        _text(b"r", b"%x %x %x" % (value.start, value.stop, value.step), parts)
    elif _is_built_in(value):
        _text(b"n", value.__name__.encode(), parts)
    elif (name := type(value).__name__) in ("Decimal", "Fraction") and _is_a(name, value):
        _text(b"D" if name == "Decimal" else b"Q", str(value).encode(), parts)
    else:
        _text(b"h", b"%d" % keep(value), parts)


def _text(tag: bytes, text: bytes, parts: list[bytes]) -> None:
    parts.append(b"%s%d:" % (tag, len(text)))
    parts.append(text)


def _is_a(name: str, value: "Any") -> bool:
    """Whether the value is a decimal.Decimal or a fractions.Fraction, which only who has imported them can have."""
    module = sys.modules.get("decimal" if name == "Decimal" else "fractions")
    return type(value) is getattr(module, name, None)


def _is_built_in(value: "Any") -> bool:
    return isinstance(value, type) and getattr(builtins, value.__name__, None) is value


def decode(data: bytes, find: "Callable[[int], Any]") -> "Any":
    """The value in `data`, of exact built-in types; `find` gives the object of a handle. Raises ValueError or TypeError."""
    value, end = _decode(data, 0, find, 0)
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes behind the value")
    return value


def _decode(data: bytes, at: int, find: "Callable[[int], Any]", depth: int) -> "tuple[Any, int]":
    tag = data[at : at + 1]
    if tag in _SINGLE:
        return _SINGLE[tag], at + 1
    if depth > MAX_DEPTH:
        raise ValueError(f"a value nested more than {MAX_DEPTH} deep")
    colon = data.index(b":", at + 1, at + 22)
    size = int(data[at + 1 : colon])
    at = colon + 1
    if size < 0 or size > len(data) - at:  # an item is at least a byte
        raise ValueError("a value longer than its message")
    if tag in b"ltSZd":
        items: list[Any] = []
        for _ in range(2 * size if tag == b"d" else size):
            item, at = _decode(data, at, find, depth + 1)
            items.append(item)
        return _CONTAINERS[tag](items), at
    return _read(tag, data[at : at + size], find), at + size


def _read(tag: bytes, text: bytes, find: "Callable[[int], Any]") -> "Any":
    if tag == b"i":
        return int(text, 16)
    if tag == b"f":
        return float(text)
    if tag == b"s":
        return text.decode("utf-8", "surrogatepass")
    if tag == b"b":
        return text
    if tag == b"B":
        return bytearray(text)
    if tag == b"c":
        real, imag = text.split(b" ")
        return complex(float(real), float(imag))
    if tag == b"r":
        return range(*(int(part, 16) for part in text.split(b" ")))
    if tag == b"n" and isinstance(found := getattr(builtins, text.decode(), None), type):
        return found
    if tag == b"h":
        return find(int(text))
    if tag == b"D":
        from decimal import Decimal

        return Decimal(text.decode())
    if tag == b"Q":
        from fractions import Fraction

        return Fraction(text.decode())
    raise ValueError(f"{tag!r} begins no value")


_SINGLE = {b"N": None, b"T": True, b"F": False, b"E": ...}
_CONTAINERS: "dict[bytes, Callable[[list[Any]], Any]]" = {
    b"l": list,
    b"t": tuple,
    b"S": set,
    b"Z": frozenset,
    b"d": lambda items: dict(zip(items[::2], items[1::2], strict=True)),
}


def write_frame(stream: "BinaryIO", payload: bytes) -> None:
    stream.write(len(payload).to_bytes(8, "big") + payload)
    stream.flush()


def read_frame(stream: "BinaryIO") -> bytes:
    """One message. Raises EOFError when the other side is gone, ValueError when the message is too long."""
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    size = int.from_bytes(head, "big")
    if size > MAX_FRAME:
        raise ValueError(f"a message of {size} bytes, expected at most {MAX_FRAME}")
    payload = stream.read(size)
    if len(payload) < size:
        raise EOFError
    return payload


def no_handle(value: "Any") -> int:
    """The `keep` of a side that sends plain values only."""
    raise TypeError(f"a value of type {type(value).__name__} cannot be sent")


def no_object(handle: int) -> "Any":
    """The `find` of a side that knows no handles."""
    raise ValueError(f"handle {handle} is not known here")
