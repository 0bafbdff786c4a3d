"""The tabs as one file that needs nothing: no server, no network, no other file."""

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .app import ASSETS, TABS, theme_switch
from .board import Board
from .run import Run
from .tabs import mass, metrics, overview, passk, rewards, rollouts, timing, tokens

PAGES = dict(
    zip(TABS.values(), (overview, mass, tokens, passk, rollouts, rewards, timing, metrics), strict=True)
)
ATTRIBUTES = {"className": "class", "htmlFor": "for", "tabIndex": "tabindex"}


def exported(board: Board, runs: Sequence[Run]) -> str:
    """The whole page as HTML."""
    import plotly.offline

    board.refresh()
    script, own = plotly.offline.get_plotlyjs(), (ASSETS / "page.js").read_text(encoding="utf-8")
    style = (ASSETS / "page.css").read_text(encoding="utf-8")
    tabs = {words: tab.page(board, runs) for words, tab in PAGES.items()}
    nav = "".join(f'<a href="#{_anchor(words)}">{html.escape(words)}</a>' for words in tabs)
    body = "".join(
        f'<section class="tab" id="{_anchor(words)}"><h2>{html.escape(words)}</h2>{_wrapped(words, parts)}</section>'
        for words, parts in tabs.items()
    )
    policy = (
        f"default-src 'none'; script-src {_hash(script)} {_hash(own)}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    title = f"rlkit: {', '.join(run.name for run in runs) or 'evaluations'}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style><script>{script}</script><script>{own}</script></head>"
        f'<body class="exported"><div class="dash-page"><header><div class="top"><span class="brand">rlkit</span>'
        f'{to_html(theme_switch())}</div><nav aria-label="Sections">{nav}</nav></header><main>{body}</main></div></body></html>\n'
    )


def to_html(part: Any) -> str:
    """A Dash component as markup: the same tree that the live page gets, every text in it escaped."""
    if part is None:
        return ""
    if isinstance(part, list | tuple):
        return "".join(to_html(inner) for inner in part)
    if not hasattr(part, "to_plotly_json"):
        return _text(part)
    told = part.to_plotly_json()
    props: Mapping[str, Any] = told["props"]
    if told["namespace"] == "dash_html_components":
        tag = told["type"].lower()
        attributes = "".join(_attribute(name, value) for name, value in props.items() if name != "children")
        return f"<{tag}{attributes}>{to_html(props.get('children'))}</{tag}>"
    if told["type"] == "Graph":
        figure = props["figure"].to_json().replace("<", "\\u003c")  # no text ends the script
        style = _attribute("style", props.get("style") or {})
        return f'<div class="figure"{style}><script type="application/json">{figure}</script></div>'
    return ""  # a control, or a link to another tab: there is nobody to ask


def _wrapped(words: str, parts: Sequence[Any]) -> str:
    inside = to_html(list(parts))
    if words != tokens.TITLE:
        return inside
    choices = "".join(
        f'<label><input type="radio" name="exported-colour" value="{name}"{" checked" if name == "change" else ""}> {said}</label>'
        for name, said in tokens.COLOURS.items()
    )
    return f'<fieldset class="field colours"><legend>Colour</legend>{choices}</fieldset><div id="tokens-view" class="by-change">{inside}</div>'


def _text(part: object) -> str:
    return html.escape(str(part).encode("utf-8", "replace").decode())


def _attribute(name: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = ATTRIBUTES.get(name, name)
    if name == "style":
        value = ";".join(f"{_css_name(key)}:{inner}" for key, inner in value.items())
    return f" {name}" if value is True else f' {name}="{_text(value)}"'


def _css_name(name: str) -> str:
    return name if name.startswith("--") else re.sub("[A-Z]", lambda m: f"-{m[0].lower()}", name)


def _anchor(words: str) -> str:
    return re.sub("[^a-z]+", "-", words.lower())


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
