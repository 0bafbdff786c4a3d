"""What fuzz.py draws: texts of the words that a reader knows, rows of any shape, and damage to valid files."""

import copy
import json
import math
from typing import Any

import torch
from hypothesis import strategies as st

from rlkit.algo_presets import ALGO_CONFIGS

KEYS = [
    *(
        "steps",
        "seed",
        "algo",
        "model",
        "data",
        "reward",
        "learner",
        "log",
        "track",
        "sampler",
        "name",
        "learning_rate",
    ),
    *(
        "learning-rate",
        "micro_batch_tokens",
        "lr_multipliers",
        "memory_limit",
        "num_generations",
        "trust_remote_code",
        "x y",
    ),
]
VALUES = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.sampled_from(
        [
            "true",
            "false",
            '"skpo"',
            '"tiny"',
            "[1, 2]",
            "{a = 1}",
            '"\\u001b[2J"',
            "1979-05-27",
            "'None'",
            '""',
            "inf",
            "nan",
        ]
    ),
    st.text(max_size=8).map(json.dumps),
)
LINES = st.one_of(
    st.tuples(st.sampled_from(KEYS), VALUES).map(" = ".join),
    st.sampled_from(KEYS).map("[{}]".format),
    st.text(max_size=12),
)
TOML = st.lists(LINES, max_size=8).map("\n".join)
FLAG_NAMES = st.sampled_from(
    [f"--{k}" for k in KEYS]
    + ["--learner.", "--no-shuffle", "--data.no-shuffle", "--=", "--", "-h", "--algo.beta", "--reward.name"]
)
FLAGS = st.lists(
    st.one_of(
        FLAG_NAMES,
        st.tuples(FLAG_NAMES, VALUES).map("=".join),
        VALUES,
        st.sampled_from([f"--algo={name}" for name in ALGO_CONFIGS]),
        st.text(max_size=6),
    ),
    max_size=6,
)
JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=12),
        st.sampled_from(["\\boxed{4}", "#### 4", "user", "\ud800"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["role", "content", "ground_truth", "style", "answer", "value", "from", ""]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)
COLUMNS = st.sampled_from(
    [
        *(
            "prompt",
            "question",
            "problem",
            "answer",
            "solution",
            "ground_truth",
            "reward_model",
            "messages",
            "conversations",
            "id",
        ),
        "extra_info",
        "",
        "\ud800",
    ]
)
ROWS = st.lists(st.dictionaries(COLUMNS, JSON_VALUES, max_size=4), min_size=1, max_size=4)
WORDS = st.sampled_from(
    [
        *(
            "\\boxed{",
            "}",
            "{",
            "\\frac",
            "\\sqrt",
            "^",
            "_",
            "$",
            "\\pi",
            "x",
            "=",
            "(",
            ")",
            "[",
            "]",
            ",",
            "12",
            "3.5",
            "1/2",
        ),
        "\\text{",
        "%",
        "<answer>",
        "</answer>",
    ]
    + [
        *(
            "<think>",
            "</think>",
            "(A)",
            "B.",
            "The answer is",
            "\\cup",
            "\\infty",
            "-",
            "+",
            "10^",
            "\\begin{pmatrix}",
            "&",
            "\\\\",
            "\\end{pmatrix}",
            "```json",
            '{"a": 1}',
        )
    ]
)
ANSWERS = st.one_of(
    st.lists(st.one_of(WORDS, st.text(max_size=3)), max_size=10).map("".join), st.text(max_size=30)
)
SPECS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    "math",
                    "exact",
                    "format",
                    "choice",
                    "numeric",
                    "regex",
                    "json",
                    "length",
                    "code",
                    "judge",
                    "http",
                ),
                "+",
                "-",
                "*",
                "0.5",
                "(",
                ")",
            ]
        ),
        st.sampled_from(
            [
                "=",
                ",",
                "max_tail",
                "pattern",
                "'a'",
                "1e999",
                "None",
                "[",
                "{",
                "**",
                "x",
                "\x00",
                "9" * 30,
                "schema",
                "True",
            ]
        ),
        st.text(max_size=3).filter(lambda text: ":" not in text and "." not in text),
    ),
    max_size=9,
).map("".join)
DEEP = 20_000
"""Brackets: more than a parser that calls itself can hold."""
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "drop", "double", "put", "deep"]),
        st.floats(0, 1),
        st.integers(1, 40),
        st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=4,
)


def edited(base: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    """A valid input, damaged.

    >>> edited(b"abcd", [("cut", 0.5, 1, b"x")]), edited(b"abcd", [("put", 0.0, 1, b"x")])
    (b'ab', b'xabcd')
    """
    out = bytearray(base)
    for what, share, count, fresh in edits:
        at = min(int(share * len(out)), max(0, len(out) - 1))
        if what == "flip" and out:
            out[at] ^= fresh[0] or 1
        elif what == "cut":
            del out[at:]
        elif what == "drop":
            del out[at : at + count]
        elif what == "double":
            out[at:at] = out[at : at + count]
        elif what == "put":
            out[at:at] = fresh
        elif what == "deep":
            out[at:at] = b"[" * DEEP
    return bytes(out)


PATHS = st.lists(st.integers(0, 9), max_size=5)
"""Which child at each level, modulo how many there are."""
NUMBERS = st.sampled_from([math.inf, -math.inf, math.nan, -1, 0, 1, 2**31, 2**70, 0.5, True])
JSON_EDITS = st.lists(
    st.tuples(
        PATHS, st.sampled_from(["put", "drop", "add"]), st.one_of(NUMBERS, JSON_VALUES, st.text(max_size=4))
    ),
    min_size=1,
    max_size=3,
)


def json_edited(base: Any, edits: list[tuple[list[int], str, Any]]) -> Any:
    """A JSON value with others in some of its places.

    >>> json_edited({"a": [1, 2]}, [([0, 1], "put", "x")]), json_edited({"a": [1]}, [([0], "drop", 0), ([0], "add", 3)])
    ({'a': [1, 'x']}, {'new': 3})
    """
    out = copy.deepcopy(base)
    for path, what, drawn in edits:
        value = copy.deepcopy(drawn)  # a later edit may reach into it
        place, key = None, None
        node = out
        for step in path:
            if not isinstance(node, dict | list) or not node:
                break
            place, key = node, (list(node) if isinstance(node, dict) else range(len(node)))[step % len(node)]
            node = place[key]
        if what == "add" and isinstance(out, dict):
            out["new"] = value
        elif place is None:
            out = value if what == "put" else out
        elif what == "drop":
            del place[key]
        else:
            place[key] = value
    return out


TENSORS = st.sampled_from(
    [
        torch.zeros(0),
        torch.ones(1),
        torch.full((3,), math.nan),
        torch.tensor([-1, 2**40]),
        torch.tensor(2**62),
        torch.ones(2, 2),
        torch.ones(624, dtype=torch.uint8),
        torch.tensor([True]),
        torch.ones(3, dtype=torch.bfloat16),
    ]
)
TENSOR_EDITS = st.lists(
    st.tuples(st.integers(0, 19), st.sampled_from(["put", "drop", "rename"]), TENSORS, st.text(max_size=6)),
    max_size=2,
)


def tensors_edited(
    base: dict[str, torch.Tensor], edits: list[tuple[int, str, torch.Tensor, str]]
) -> dict[str, torch.Tensor]:
    """Named tensors with others under some of the names."""
    out = dict(base)
    for which, what, tensor, name in edits:
        key = list(out)[which % len(out)] if out else name
        if what == "put":
            out[key] = tensor.clone()
        else:
            kept = out.pop(key, tensor.clone())
            if what == "rename":
                out[name] = kept
    return out
