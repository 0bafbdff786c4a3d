"""Which program an answer holds. By its text alone: whether it is Python is found out in the sandbox."""

import re
import textwrap
from collections.abc import Sequence

_FENCE = re.compile(r"^[ \t>]*(?P<marks>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)")
_PYTHON = {"python", "py", "python3", "py3"}


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block, in order; one that is never closed ends with the text.

    >>> fenced_blocks("So:" + chr(10) + "```python" + chr(10) + "x = 1" + chr(10) + "```")
    [('python', 'x = 1\\n')]
    """
    blocks: list[tuple[str, str]] = []
    opened = ""  # the marks of the block we are in
    language = ""
    lines: list[str] = []
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if not opened and fence is not None:
            opened, language, lines = fence["marks"], fence["language"].lower(), []
        elif opened and fence is not None and fence["marks"].startswith(opened) and not fence["language"]:
            blocks.append((language, "".join(lines)))
            opened = ""
        elif opened:
            lines.append(line.rstrip("\r") + "\n")
    if opened:
        blocks.append((language, "".join(lines)))
    return blocks


def defines(program: str, name: str) -> bool:
    """Whether the text has a definition of `name`: a function, a class, a method of a class, or an assignment.

    >>> defines("def f(x):", "f"), defines("f = g", "f"), defines("print(f(1))", "f")
    (True, True, False)
    """
    name = re.escape(name)
    return re.search(rf"^\s*(?:(?:async\s+)?def|class)\s+{name}\b|^{name}\s*=[^=]", program, re.M) is not None


def find_programs(text: str, names: Sequence[str], stub: str) -> list[str]:
    """What the answer's program may be; the first that is Python is. Empty: there is none.

    names: what the tests call, to tell the program from an example of its use
    stub: the beginning of the program that the prompt has given, for answers that continue it; "" for none
    """
    blocks = fenced_blocks(text)
    python = [content for language, content in blocks if language in _PYTHON]
    found = python or [content for _, content in blocks] or [text]
    whole = [content for content in found if any(defines(content, name) for name in names)]
    program = (whole or found)[-1]
    if not program.strip():
        return []
    even = textwrap.dedent(program)
    if not stub:
        return [even]
    if whole:  # with the prompt's imports and helpers before it, where that makes sense
        return [f"{stub}\n\n{even}", even]
    body = _body(program)
    return [
        f"{stub}{program}",
        f"{stub}{body}",
        f"{stub}    {body}",
        f"{stub}{textwrap.indent(even, '    ')}",
    ]


def _body(text: str) -> str:
    """The first lines of a text up to one that is not indented: what follows is no longer the function."""
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    ends = (i for i, line in enumerate(lines) if i > first and line[:1].strip() and line[0] not in "#)]}")
    return "\n".join(lines[: next(ends, len(lines))]) + "\n"
