"""docs/security.md, claim by claim: what is not trusted gets nowhere. What a sandboxed program can do is in test_rewards_sandbox.py."""

import ast
import functools
import io
import json
import os
import pickle
import re
import threading
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlkit import build
from rlkit.analysis.store import read_rollouts
from rlkit.cli import main
from rlkit.config import ModelConfig
from rlkit.errors import ModelError
from tests.models import save_tiny_model

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for room in ("rlkit", "rewards", "samplers", "analysis")
    for path in sorted((ROOT / room).rglob("*.py"))
]
SECRET = "sk-PLANTED-0123456789abcdef"

# -- what the code never does ------------------------------------------------------------------------------------------

DANGEROUS = {
    **dict.fromkeys(
        ("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open"), "runs code"
    ),
    **dict.fromkeys(
        ("torch.load", "joblib.load", "np.load", "numpy.load", "pandas.read_pickle"), "may unpickle"
    ),
    **dict.fromkeys(("yaml.load", "yaml.unsafe_load", "eval", "exec", "os.system", "os.popen"), "runs code"),
    **dict.fromkeys(("tempfile.mktemp", "ssl._create_unverified_context"), "is unsafe"),
}
ALLOWED = {
    "rewards/keeper.py": {
        "pickle.loads"
    },  # the verifier and its orders, over a pipe that only the pool writes
    "rewards/worker.py": {"pickle.loads"},  # answers, over the same kind of pipe; verdicts come back as JSON
    "rewards/inside/starter.py": {"exec"},  # programs under test, inside the sandbox
    "rewards/inside/subject.py": {"exec"},
    "rewards/inside/tester.py": {"exec"},
}


@functools.cache
def calls(path: Path) -> list[tuple[str, ast.Call]]:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(name_of(node.func), node) for node in nodes]


def name_of(node: ast.expr) -> str:
    """`a.b.c`; of anything that is not a name, nothing."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def own_path(path: Path) -> str:
    return path.resolve().relative_to(ROOT).as_posix()


def test_nothing_is_unpickled_evaluated_or_handed_to_a_shell() -> None:
    wrong = []
    for path in SOURCES:
        for name, node in calls(path):
            shell = any(
                k.arg == "shell" and getattr(k.value, "value", None) is not False for k in node.keywords
            )
            unsafe = any(
                k.arg in ("allow_pickle", "verify")
                and getattr(k.value, "value", None) in (True, False)
                and (k.arg == "verify") != bool(getattr(k.value, "value", None))
                for k in node.keywords
            )
            if (name in DANGEROUS and name not in ALLOWED.get(own_path(path), set())) or shell or unsafe:
                wrong.append(
                    f"{own_path(path)}:{node.lineno}: {name} {DANGEROUS.get(name, 'takes a shell or a pickle')}"
                )
    assert not wrong, "\n".join(["", *wrong])


def test_each_exception_is_still_needed() -> None:
    for path, names in ALLOWED.items():
        assert names <= {name for name, _ in calls(ROOT / path)}, path


def test_code_of_a_model_is_run_only_where_the_setting_says_so() -> None:
    """No `trust_remote_code=True` anywhere: it is always a value that came from --model.trust-remote-code."""
    for path in SOURCES:
        for name, node in calls(path):
            for keyword in node.keywords:
                if keyword.arg == "trust_remote_code":
                    assert not isinstance(keyword.value, ast.Constant) or keyword.value.value is False, (
                        path,
                        name,
                    )
    assert ModelConfig().trust_remote_code is False


# -- checkpoints and models --------------------------------------------------------------------------------------------


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def test_a_model_folder_with_pickled_weights_is_refused_unread(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", seed=0)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(ModelError):
        build.load_model(folder, ModelConfig(name=str(folder)))
    assert main(["train", "--model", str(folder), "--dry-run"]) == 2
    assert not (tmp_path / "exploded").exists()


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", seed=0)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "other",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'exploded')!r})\n")
    main(["train", "--model", str(folder), "--data", "task:chain", "--dry-run"])
    with pytest.raises(ModelError):
        build.load_model(folder, ModelConfig(name=str(folder)))
    assert not (tmp_path / "exploded").exists()


# -- a whole run on hostile data, with secrets in its environment ----------------------------------------------------------

ESCAPES = "\x1b]52;c;b3duZWQ=\x07\x1b[2J\u202e"
ROWS = [
    {"id": "../../evil", "question": f"{ESCAPES}1+1", "answer": "2"},
    {
        "id": "/etc/evil\x00",
        "question": "<script>alert(1)</script>",
        "answer": "${HOME} $(touch evil) `touch evil`",
    },
    {
        "id": "..",
        "question": "{{ 7*7 }} {% for x in ().__class__.__base__.__subclasses__() %}x{% endfor %}",
        "answer": "49",
    },
]


class Echo(BaseHTTPRequestHandler):
    """A grader that repeats the key in its reason."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        right = "boxed" in body["completion"] or len(body["completion"]) % 2 == 0
        content = json.dumps(
            {"score": float(right), "reason": f"you sent {self.headers['Authorization']}"}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose verifier's server repeats the key that it was sent; everything that the run has said."""
    place = tmp_path_factory.mktemp("outer")
    folder = place / "a" / "b"
    folder.mkdir(parents=True)
    save_tiny_model(folder / "model", seed=0, tied=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        command = (
            "train --model model --data rows.jsonl --sampler hf --steps 2 --prompts-per-step 3 --num-generations 2 --workers 1 "
            "--max-completion-length 4 --show-every 1 --save-every 1 --track.every 1 --output-dir run"
        ).split()
        reward = f"http(url='http://127.0.0.1:{server.server_port}/', key='MY_JUDGE_KEY')"
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
            patch.chdir(folder)
            for name in ("HF_TOKEN", "MY_JUDGE_KEY", "RLKIT_SERVER_KEY", "OPENAI_API_KEY", "WANDB_API_KEY"):
                patch.setenv(name, SECRET)
            code = main([*command, "--reward", reward])
    finally:
        server.shutdown()
        server.server_close()
    assert code == 0, said.getvalue()
    return folder, said.getvalue()


def test_no_secret_is_in_the_run_folder_or_in_what_was_said(ran: tuple[Path, str]) -> None:
    folder, said = ran
    files = [path for path in (folder / "run").rglob("*") if path.is_file()]
    assert {"config.toml", "metrics.jsonl", "state.json"} <= {path.name for path in files}
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    for step in (1, 2):  # parquet is compressed
        reasons = [row["reason"] for row in read_rollouts(folder / "run", step)]
        assert all("you sent Bearer ..." in reason for reason in reasons), reasons
        assert SECRET not in str(read_rollouts(folder / "run", step))
    assert SECRET not in said
    assert "MY_JUDGE_KEY" in (folder / "run" / "config.toml").read_text()  # the name is kept, the key is not


def test_no_escape_sequence_of_data_or_model_reaches_the_terminal(ran: tuple[Path, str]) -> None:
    said = ran[1]
    assert "\\x1b]52;c;" in said  # it was shown, written out
    assert not re.search(r"\x1b(?!\[[\d;?]*[A-Za-z])|\x07|\u202e|\x1b\[2J", said)


def test_ids_of_rows_are_no_paths(ran: tuple[Path, str]) -> None:
    folder, _ = ran
    outer = folder.parents[1]
    names = {path.relative_to(outer).parts[0] for path in outer.rglob("*")}
    assert names == {"a"}
    assert {path.name for path in folder.iterdir()} == {"model", "rows.jsonl", "run"}
    assert not [path for path in outer.rglob("*") if "evil" in path.name]
    assert not Path("/etc/evil").exists()


def test_questions_are_no_templates(ran: tuple[Path, str]) -> None:
    """A question with Jinja in it reaches the model as it is."""
    assert "{{ 7*7 }}" in ran[1] or "{{ 7*7 }}" in (ran[0] / "rows.jsonl").read_text()
    from rlkit.config import DataConfig
    from rlkit.templates import Template
    from tests.models import byte_tokenizer

    shown = Template(DataConfig(), byte_tokenizer()).render(
        [{"role": "user", "content": ROWS[2]["question"]}]
    )
    assert ROWS[2]["question"] in shown


# -- the page itself ---------------------------------------------------------------------------------------------------


def test_every_claim_names_a_test_that_exists() -> None:
    text = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > 15
    for file, name in named:
        found = list((ROOT / "tests").rglob(file))
        assert found, file
        assert not name or f"def {name}(" in found[0].read_text(), (file, name)
