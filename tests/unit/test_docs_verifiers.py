"""docs/verifiers.md teaches by examples: each file in it is written, each session in it is run, each async call is served."""

import doctest
import json
import re
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rlkit.rewards import VerifierPool, judge, make_verifier
from rlkit.rewards.contract import has_batch, judge_batch
from rlkit.rewards.spec import VERIFIERS
from rlkit.types import Prompt

PAGE = (Path(__file__).parents[2] / "docs" / "verifiers.md").read_text()
FILES = {
    name: code
    for name, code in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
}
SESSIONS = re.findall(r"^```pycon\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
QUESTION = Prompt(id="a", token_ids=[], question="What is 6 * 7?", reference="42")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of the page, in a user's folder; what is imported from there is forgotten afterwards."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_every_block_of_code_is_run() -> None:
    assert len(FILES) == len(re.findall(r"^```python$", PAGE, re.MULTILINE)) >= 5
    assert len(SESSIONS) == len(re.findall(r"^```pycon$", PAGE, re.MULTILINE)) >= 3


def test_the_sessions_give_what_the_page_says() -> None:
    names: dict[str, object] = {}
    for session in SESSIONS:
        parsed = doctest.DocTestParser().get_doctest(session, names, "docs/verifiers.md", None, 0)
        said: list[str] = []
        done = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(
            parsed, out=said.append, clear_globs=False
        )
        names = parsed.globs
        assert done.attempted and not done.failed, "".join(said)


@pytest.mark.parametrize("file", FILES)
def test_each_file_is_named_by_a_command_or_a_session(file: str) -> None:
    assert re.search(rf"(?:^    rlkit|>>>).*{re.escape(file)}:\w+", PAGE, re.MULTILINE)


class Grader(BaseHTTPRequestHandler):
    """1 for the right answer, 500 for an answer that says so."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(500 if asked["answer"] == "break" else 200)
        self.end_headers()
        if asked["answer"] != "break":
            self.wfile.write(json.dumps({"score": float(asked["answer"] == "42")}).encode())

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def served() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Grader)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/score"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_async_example_asks_a_real_service() -> None:
    with served() as url:
        verify = make_verifier(f"service.py:Service(url={url!r})")
        with VerifierPool(verify, workers=1, timeout=30.0) as pool:
            scores = pool.score([(QUESTION, text) for text in ("42", "41", "break", "42")])
    assert [score.value for score in scores] == [1.0, 0.0, None, 1.0]
    assert scores[2].error and "500 Internal Server Error" in scores[2].reason
    assert scores[0].reason == "the service says 1.0"


def test_the_batch_example_asks_its_database_once(folder: Path) -> None:
    with sqlite3.connect(folder / "words.db") as opened:
        opened.execute("CREATE TABLE words (word TEXT PRIMARY KEY)")
        opened.executemany("INSERT INTO words VALUES (?)", [("it",), ("is",), ("six",)])
    verify = make_verifier(f"words.py:KnownWords(database='{folder}/words.db')")
    assert has_batch(verify)
    scores = judge_batch(verify, [(QUESTION, text) for text in ("It is six", "it is sixx!", "42")])
    assert [score.value for score in scores] == [1.0, pytest.approx(2 / 3), None]
    assert scores[1].reason == "unknown: sixx"
    assert judge(verify, QUESTION, "six six").value == 1.0


def test_the_table_of_kinds_is_what_rlkit_rewards_lists() -> None:
    table = PAGE[: PAGE.index("## ")]
    named = [
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)[(`]", row)
    ]
    assert named == [*VERIFIERS, "auto"]
