"""The `json` verifier: the answer holds a JSON document, valid against a schema, and the gold one where that is asked for."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from rlkit.errors import ConfigError
from rlkit.types import Prompt, Score

from .contract import shown

MAX_TEXT = 200_000
"""Characters at the end of an answer in which a document is looked for."""
MAX_STARTS = 1000
"""Places where one may begin, so that a megabyte of brackets ends soon."""
_FENCE = re.compile(r"```[ \t]*(?:json)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class JsonVerifier:
    """1.0 when the answer's last JSON document is valid against the schema, and equal to the gold one where asked; else 0.0.

    >>> verify = JsonVerifier(schema='{"required": ["city"]}')
    >>> verify(Prompt(id="a", token_ids=[]), 'Here: {"city": "Rome"}').value
    1.0
    """

    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    schema: str | None = None
    """A JSON schema: the path of a file, or the schema itself; none: the column, else any document will do."""
    column: str = "schema"
    """Column of the data's row with a schema of its own, as text or as an object."""
    equal: bool = False
    """The document must also be the gold answer's, whatever the order of its keys."""

    def __post_init__(self) -> None:
        if self.schema is not None:
            _validator(_schema_text(self.schema))  # a broken schema is told before a run begins

    def gold_text(self, prompt: Prompt) -> str | None:
        """Only with `equal`: a document that is merely valid cannot be made up."""
        return f"```json\n{prompt.reference}\n```" if self.equal and prompt.reference is not None else None

    def __call__(self, prompt: Prompt, text: str) -> Score:
        gold: Any = None
        if self.equal:
            if prompt.reference is None or not prompt.reference.strip():
                return Score(None, reason="no gold answer")
            try:
                gold = _load(prompt.reference)
            except (ValueError, RecursionError) as error:
                return Score(None, reason=f"the gold answer is no JSON ({error}): {shown(prompt.reference)}")
        try:
            validator = self._validator(prompt)
        except ConfigError as error:
            return Score(None, reason=str(error))
        found = last_document(text)
        if found is None:
            return Score(0.0, reason="no JSON document in the answer")
        document, place = found
        read = f"read {shown(json.dumps(document, ensure_ascii=False))} {place}"
        if validator is not None:
            objection = _objection(validator, document)
            if objection:
                return Score(0.0, reason=f"{read}; not valid: {objection}")
        if self.equal and not same_json(document, gold):
            return Score(
                0.0, reason=f"{read}, which is not the gold document {shown(prompt.reference or '')}"
            )
        return Score(
            1.0,
            reason=f"{read}; {'valid' if validator is not None else 'a document'}{', the gold one' * self.equal}",
        )

    def _validator(self, prompt: Prompt) -> Any:
        if self.schema is not None:
            return _validator(_schema_text(self.schema))
        own = prompt.row.get(self.column)
        if own is None or own == "":
            return None
        return _validator(own if isinstance(own, str) else json.dumps(own))


def last_document(text: str) -> tuple[Any, str] | None:
    r"""The document in the last fenced block that holds one, else the last object or list of the text, and its place in words.

    >>> last_document('first {"a": 1}, or rather {"a": 2}'), last_document("```json\n[1]\n``` {}")
    (({'a': 2}, 'at the end'), ([1], 'in the last fenced block'))
    """
    text = text[-MAX_TEXT:]
    for block in reversed(_FENCE.findall(text)):
        try:
            return _load(block), "in the last fenced block"
        except (ValueError, RecursionError):
            continue
    try:
        return _load(text), "as the whole answer"
    except (ValueError, RecursionError):
        pass
    found, place = None, 0
    for _ in range(MAX_STARTS):
        start = next((i for i in range(place, len(text)) if text[i] in "{["), None)
        if start is None:
            break
        try:
            document, place = _DECODER.raw_decode(text, start)
            found = (document, "at the end")
        except (ValueError, RecursionError):
            place = start + 1
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_distinct)


def _load(text: str) -> Any:
    return _DECODER.decode(text.strip())


def same_json(one: Any, other: Any) -> bool:
    """Whether two documents are equal as JSON: 1 is 1.0, and true is not 1.

    >>> same_json({"a": 1, "b": [True]}, {"b": [True], "a": 1.0}), same_json(True, 1)
    (True, False)
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same_json(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


@lru_cache(maxsize=16)
def _schema_text(schema: str) -> str:
    if schema.lstrip()[:1] in ("{", "t", "f") and not schema.endswith(".json"):
        return schema
    try:
        return Path(schema).read_text("utf-8")
    except OSError as error:
        raise ConfigError(
            f"json schema {schema!r}: {error.strerror or error}; expected a file, or a schema {{...}}"
        ) from error


@lru_cache(maxsize=256)
def _validator(text: str) -> Any:
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"json schema {shown(text)}: no JSON ({error})") from error
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ConfigError(f"json schema {shown(text)}: {error.message} at {error.json_path}") from error
    return kind(schema, registry=Registry())  # an empty one: a `$ref` to an address is never fetched


def _objection(validator: Any, document: Any) -> str:
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        worst = best_match(validator.iter_errors(document))
    except Unresolvable as error:
        raise ConfigError(
            f"json schema: it refers to what is not in it ({error}); put it under $defs"
        ) from error
    return "" if worst is None else f"{worst.message[:300]} at {worst.json_path}"
