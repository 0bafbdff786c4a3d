"""The tabs as a Dash application.

What the page asks for is one number, `pulse`, every two seconds: it changes when a run has written something, and only then does the tab that
is open ask for its content again. A tab's content is made when it is opened, so the first view waits for one tab, and for one
answer of the server: the overview comes with its figures in it, and asks for the diagnosis when it has them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from dash import Dash, Input, Output, State, dcc, html, no_update

from .board import Board
from .run import Run
from .tabs import mass, metrics, overview, passk, rewards, rollouts, timing, tokens

ASSETS = Path(__file__).parent / "assets"
PULSE_MS = 2000
TABS = {
    "/": "Overview",
    "/mass": mass.TITLE,
    "/tokens": tokens.TITLE,
    "/passk": passk.TITLE,
    "/rollouts": rollouts.TITLE,
    "/rewards": rewards.TITLE,
    "/timing": timing.TITLE,
    "/metrics": metrics.TITLE,
}
PAGE = """<!DOCTYPE html>
<html lang="en">
    <head>
        {%metas%}
        <title>{%title%}</title>
        {%favicon%}
        {%css%}
        <script defer src="/_dash-component-suites/plotly/package_data/plotly.min.js"></script>
    </head>
    <body>
        {%app_entry%}
        <footer>
            {%config%}
            {%scripts%}
            {%renderer%}
        </footer>
    </body>
</html>
"""
"""plotly.js (5 MB) is named in the head: the browser fetches and compiles it beside Dash's scripts. Dash itself asks for it when the first
figure has come, and then everything waits for it."""


def make_app(board: Board) -> Any:
    """The application; `app.server` is what a WSGI server serves. Nothing of it is loaded from another machine."""
    app = Dash(
        __name__,
        assets_folder=str(ASSETS),
        title="rlkit",
        update_title="",
        index_string=PAGE,
        serve_locally=True,
        suppress_callback_exceptions=True,  # a tab that is not open has no elements
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
        pages_folder="",
        enable_mcp=False,
    )
    app.layout = lambda: _layout(board)
    for tab in (overview, mass, tokens, passk, rollouts, rewards, timing, metrics):
        tab.register(app, board)

    @app.callback(
        Output("pulse", "data"),
        Output("runs", "options"),
        Input("tick", "n_intervals"),
        State("pulse", "data"),
        State("runs", "options"),
    )
    def pulse(ticks: int | None, before: str, offered: list[str]) -> tuple[Any, Any]:
        mark, names = board.refresh(), list(board.runs)
        # what is sent again is asked for again: nothing new, nothing sent
        return no_update if mark == before else mark, no_update if names == offered else names

    @app.callback(
        Output("page", "children"),
        Output("nav", "children"),
        Input("url", "pathname"),
        Input("url", "search"),
        State("runs", "value"),
    )
    def show(
        pathname: str | None, search: str | None, names: list[str] | None
    ) -> tuple[list[Any], list[Any]]:
        asked = dict(parse_qsl((search or "").removeprefix("?")))
        path = pathname if pathname in TABS else "/"
        return _tab(path, board, asked, board.chosen(names)), _nav(path)

    return app


def _layout(board: Board) -> Any:
    mark = board.refresh()
    names = list(board.runs)
    chosen = [run.name for run in board.newest()]
    return html.Div(
        [
            html.A("Skip to the content", href="#page", className="skip"),
            html.Header(
                [
                    html.Div([html.Span("rlkit", className="brand"), *theme_switch()], className="top"),
                    html.Div(
                        [
                            html.Label("Runs", htmlFor="runs"),
                            dcc.Dropdown(names, chosen, id="runs", multi=True, placeholder="Choose runs"),
                        ],
                        className="run-choice",
                    ),
                    html.Nav(_nav("/"), id="nav", **{"aria-label": "Tabs"}),
                ]
            ),
            html.Main(id="page", tabIndex=-1),
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="pulse", data=mark),
            dcc.Interval(id="tick", interval=PULSE_MS),
        ],
        className="dash-page",
    )


def theme_switch() -> list[Any]:
    """Dark, light, or as the system has it; page.js does it."""
    return [
        html.Button(
            "◐",
            className="theme",
            title="Dark, light, or as the system has it",
            **{"aria-label": "Change between dark and light"},
        )
    ]


def _nav(path: str) -> list[Any]:
    """Links, so that a keyboard, a bookmark and the back button work as everywhere."""
    return [
        dcc.Link(words, href=href, className="here" if href == path else "") for href, words in TABS.items()
    ]


def _tab(path: str, board: Board, asked: Mapping[str, str], chosen: Sequence[Run]) -> list[Any]:
    runs: Sequence[Run] = list(board.runs.values())
    if path == "/mass":
        return mass.layout(board, runs)
    if path == "/tokens":
        return tokens.layout(board, runs, asked)
    if path == "/passk":
        return passk.layout()
    if path == "/rollouts":
        return rollouts.layout(board, runs, asked)
    if path == "/rewards":
        return rewards.layout()
    if path == "/timing":
        return timing.layout()
    if path == "/metrics":
        return metrics.layout(board, runs)
    return overview.layout(board, chosen)
