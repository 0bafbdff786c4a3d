"""Pieces that every tab is made of. Strings in components are escaped by the page; none of these makes markup of text."""

import re
from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from .figures.base import colour
from .text import plain

GRAPH = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
}


COMMAND = re.compile(r"(`[^`\n]+`|(?<![\w-])--[a-z][\w.-]*\w)")


def sentence(words: str) -> list[Any]:
    """Words with what is typed set as such: flags, which no line breaks, and what stands between backticks.

    >>> [getattr(part, "children", part) for part in sentence("`rlkit eval` or --log.eval-every 50.")]
    ['rlkit eval', ' or ', '--log.eval-every', ' 50.']
    """
    parts = [part for part in COMMAND.split(words) if part]
    return [
        html.Code(part.strip("`"), className="flag" if part.startswith("--") else None)
        if COMMAND.fullmatch(part)
        else part
        for part in parts
    ]


def chart(title: str, figure: Any, words: str, nothing: str, *, wide: bool = False) -> Any:
    """A figure with its title and what it shows; without a figure, what would have to be done to have one."""
    kind = "card chart wide" if wide else "card chart"
    if figure is None:
        return html.Section([html.H3(title), html.P(sentence(nothing), className="empty")], className=kind)
    drawn = html.Div(
        dcc.Graph(figure=figure, config=GRAPH, style={"height": f"{figure.layout.height}px"}),
        role="img",
        className="drawn",
        **{"aria-label": f"{title}. {words}"},
    )
    return html.Section([html.H3(title), html.P(sentence(words), className="note"), drawn], className=kind)


def grid(*parts: Any) -> Any:
    return html.Div(list(parts), className="grid")


def heading(title: str, words: str = "") -> Any:
    return html.Div(
        [html.H2(title), *([html.P(sentence(words), className="note")] if words else [])], className="heading"
    )


def empty(words: str) -> Any:
    """Nothing is here, and what to do about it."""
    return html.P(sentence(words), className="empty card")


def chip(words: object, kind: str = "") -> Any:
    return html.Span(plain(words), className=f"chip {kind}".strip())


def run_mark(name: str, number: int) -> Any:
    """A run's name behind a dot in its colour."""
    dot = html.Span(className="dot", style={"background": colour(number)}, **{"aria-hidden": "true"})
    return html.Span([dot, plain(name)], className="run-mark")


def numbers(pairs: Sequence[tuple[str, str]]) -> Any:
    """Values with what they are."""
    return html.Dl(
        [html.Div([html.Dt(words), html.Dd(value)]) for words, value in pairs], className="numbers"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    return html.Div(
        html.Table(
            [
                html.Thead(html.Tr([html.Th(head, scope="col") for head in heads])),
                html.Tbody([html.Tr([html.Td(cell) for cell in row]) for row in rows]),
            ]
        ),
        className="scroll",
        tabIndex=0,
        role="region",
        **{"aria-label": "table"},
    )


def field(words: str, control: Any, kind: str = "") -> Any:
    """A control with its label."""
    name = getattr(control, "id", None)
    return html.Div([html.Label(words, htmlFor=name), control], className=f"field {kind}".strip())


def ago(seconds: float) -> str:
    """How long ago, roughly.

    >>> ago(3), ago(200), ago(10_000)
    ('3 s ago', '3 min ago', '3 h ago')
    """
    for limit, unit, words in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {words} ago"
    return f"{seconds / 86400:.0f} days ago"


def share(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"
