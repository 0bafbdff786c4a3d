"""Who may look: this machine, or whoever has the token. The page holds what a model wrote, and nobody else's business is that."""

import hmac
import importlib
import logging
import secrets
from contextlib import suppress
from typing import Any

from rlkit.errors import ConfigError

from .app import make_app
from .board import Board
from .tabs import overview

LOOPBACK = ["localhost", "127.0.0.1"]
"""Names under which a browser on this machine asks. Others are refused: a web site whose name was pointed at 127.0.0.1 (DNS
rebinding) would read the page else. werkzeug cannot compare ::1, so that address takes a token like any other."""

POLICY = (
    "default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser may run and load: our own files. plotly and Dash write styles into the page."""


def is_loopback(host: str) -> bool:
    """
    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    return host in LOOPBACK


def make_server(board: Board, host: str, port: int, token: str | None) -> tuple[Any, str]:
    """A WSGI server that listens, and the address to open. Close it with `server_close`.

    token: what a browser has to bring once; None: nobody asks, and then `host` has to be a loopback address
    Raises ConfigError when it cannot listen there.
    """
    from werkzeug.serving import make_server as listen

    if token is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host}: others could read what the runs hold; expected a token, or --host 127.0.0.1"
        )
    app = make_app(board)
    guard(app, token)
    with suppress(
        ImportError
    ):  # plotly asks for pandas where it is loaded, and would meet the half of it that pyarrow
        importlib.import_module("pandas")  # is loading in another thread
    overview.now(
        board, board.newest()
    )  # plotly loads what it needs at the first figure: now, and not while a person waits
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    try:
        server = listen(host, port, app.server, threaded=True)
    except (OSError, SystemExit) as error:  # werkzeug ends the process for a port in use
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({getattr(error, 'strerror', None) or 'the port is in use'}); "
            "choose another --port (0: any that is free)"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    return server, f"http://{shown}:{server.server_port}/{'' if token is None else f'?token={token}'}"


def guard(app: Any, token: str | None) -> None:
    """Refuse strangers, and tell the browser that nothing but our own scripts may run."""
    import flask

    server = app.server
    if token is None:
        server.config["TRUSTED_HOSTS"] = LOOPBACK
    else:
        server.secret_key = secrets.token_bytes(32)
        server.config.update(SESSION_COOKIE_HTTPONLY=True, SESSION_COOKIE_SAMESITE="Strict")

        @server.before_request
        def ask() -> Any:
            brought = flask.request.args.get("token")
            if brought is not None and hmac.compare_digest(brought.encode(), token.encode()):
                flask.session["may"] = True
                return flask.redirect(flask.request.path)
            if not flask.session.get("may"):
                words = "Open the address that rlkit dash printed: it holds the token.\n"
                return flask.Response(words, status=403, mimetype="text/plain")
            return None

    @server.after_request
    def say(response: Any) -> Any:
        hashes = " ".join(app.csp_hashes())  # of Dash's inline scripts, which it writes with the first page
        response.headers["Content-Security-Policy"] = POLICY.format(hashes=hashes)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response
