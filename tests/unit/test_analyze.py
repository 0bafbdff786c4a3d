"""`rlkit analyze` on a random model: real prefixes, real verdicts, a real server, and nothing drawn twice."""

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlkit.cli import main
from rlkit.errors import ConfigError
from tests.models import save_tiny_model

EVEN = "tests.verdicts:even"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(save_tiny_model(tmp_path_factory.mktemp(f"model{seed}"), seed=seed)) for seed in (1, 2)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{"problem": f"{i}+1", "answer": str(i + 1)} for i in range(4)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMON = (
    *("--data", "test.jsonl", "--reward", EVEN, "--workers", "0", "--sampler", "hf"),
    *("--max-completion-length", "10", "--prompts", "3"),
)
MC = (
    *("--positions", "3", "--num-generations", "3", "--continuations", "16", "--deep-groups", "2"),
    *("--deep-continuations", "32", "--k", "2,4,16", "--output-dir", "out"),
)


def told(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main(["analyze", *args, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_mc_credit_measures_and_a_second_command_draws_nothing(
    models: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("mc-credit", models[0], *COMMON, *MC)
    first = told(capsys, *args)
    measured = first["measured"]
    assert measured["units"] == 6 and first["draws"] >= 16 * 6
    assert set(measured["mixed"]) == {"broadcast", "2", "4", "16"}
    assert set(measured["deep"]) == {"broadcast", "2", "4", "16"} and first["steps"] is None
    assert [row["position"] for row in measured["by_position"]] == pytest.approx([1 / 3, 2 / 3])
    parts = {p: p.stat().st_mtime_ns for p in (place / "out/draws").iterdir()}
    assert told(capsys, *args) == first
    assert {p: p.stat().st_mtime_ns for p in (place / "out/draws").iterdir()} == parts
    assert json.loads((place / "out/result.json").read_text()) == first
    assert "GRPO" in (place / "out/figure.html").read_text()
    assert main(["analyze", *args]) == 0
    out = capsys.readouterr().out
    assert "sign right, by the share of the answer" in out and "K = 16" in out and "N = 8192" in out


def test_a_study_that_lost_its_last_parts_has_the_numbers_of_one_that_did_not(
    models: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part is renamed into place when it is whole, so this is what kill -9 leaves."""
    args = ("mc-credit", models[0], *COMMON, *MC, "--batch", "64")
    whole = told(capsys, *args)
    parts = sorted((place / "out/draws").iterdir())
    assert len(parts) > 3
    for part in parts[2:]:
        part.unlink()
    assert told(capsys, *args) == whole


def test_continuations_go_on_from_the_prefix_as_often_as_the_model_says(
    models: list[str], place: Path
) -> None:
    """One token is left to write, so the prefix's true value is a sum over the vocabulary."""
    from rich.console import Console

    from rlkit.analysis.study_store import StudyStore
    from rlkit.analyze_config import McCreditConfig
    from rlkit.commands.study_lab import opened
    from rlkit.config import DataConfig, ModelConfig, RewardConfig, SamplerConfig
    from rlkit.studies.lab import Key

    cfg = McCreditConfig(
        data=DataConfig(name="test.jsonl"),
        reward=RewardConfig(name=EVEN, workers=0),
        sampler=SamplerConfig(name="hf", temperature=0.8),
        max_completion_length=3,
    )
    store = StudyStore(place / "s", {"study": "x"})
    with opened(cfg, ModelConfig(name=models[0]), 2, store, Console(quiet=True)) as lab:
        prompt = lab.prompts[1]
        key = Key(prompt.id, (70, 80))
        draws = lab.continuations({key: 3000}, lambda done, total: None)[key]
    store.close()
    model = AutoModelForCausalLM.from_pretrained(models[0], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(models[0])
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt.token_ids, 70, 80]])).logits[0, -1]
    chances = (logits / 0.8).softmax(-1).tolist()
    texts = [tokenizer.decode([70, 80, i], skip_special_tokens=True) for i in range(len(chances))]
    value = sum(c for c, text in zip(chances, texts, strict=True) if sum(map(ord, text)) % 2 == 0)
    assert 0.02 < value < 0.98, "a value that is not decided"
    assert len(draws.scores) == 3000 and set(draws.tokens) == {1}
    assert sum(draws.scores) / 3000 == pytest.approx(value, abs=4 * math.sqrt(value * (1 - value) / 3000))


def test_skip_compares_three_ways_to_stand_before(
    models: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("skip", models[0], *COMMON, "--splits", "2", "--num-generations", "4", "--output-dir", "out")
    found = told(capsys, *args)
    assert [row["share"] for row in found["splits"]] == pytest.approx([1 / 6, 1 / 2])
    for row in found["splits"]:
        assert row["unconditional"] == found["splits"][0]["unconditional"]
        for kind in ("continual", "skip"):
            lengths = row[kind]["length"], row["unconditional"]["length"]
            difference = row[kind]["against"]["length"]["mean"]
            assert difference == pytest.approx(lengths[0]["mean"] - lengths[1]["mean"])
    assert main(["analyze", *args]) == 0
    assert "groups of equal rewards" in capsys.readouterr().out


def test_the_skipped_segment_stands_before_the_question_in_its_own_tokens(
    models: list[str], place: Path
) -> None:
    from rlkit.studies.lab import Answer
    from rlkit.studies.prefixes import before_question
    from rlkit.types import Prompt

    prompt = Prompt(id="a", token_ids=[2, 40, 3], skip_ids=([2], [41, 41, 40, 3]))
    answer = Answer(prompt=prompt, member=0, ids=(50, 51, 52, 1), ended=True, score=1.0, text="")
    assert before_question(answer, answer.cut(0.5)) == [2, 50, 51, 41, 41, 40, 3]


def test_implicit_compares_models_by_a_local_evaluator(
    models: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = (
        "implicit",
        *models,
        *COMMON,
        "--positions",
        "2",
        "--continuations",
        "4",
        "--evaluator",
        models[1],
    )
    found = told(capsys, *args, "--output-dir", "out")
    assert [model["name"] for model in found["models"]] == models
    common = found["models"][0]["common"]
    assert 0 < common <= 3
    for x in range(2):
        advantages = [model["positions"][x]["advantage"]["mean"] for model in found["models"]]
        assert sum(advantages) == pytest.approx(0, abs=1e-9)
    # At the very beginning there is nothing to tell the models apart: the evaluator reads the bare problem.
    assert found["models"][0]["positions"][0]["advantage"]["mean"] == 0


# -- an evaluator behind a server ------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Goes on with one character or two, by the length of what it is shown; counts what it is asked."""

    asked: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        content = "!" if len(self.asked) % 2 else None
        said = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
        status = 500 if len(self.asked) == 3 else 200  # once busy: asked again
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    Server.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_implicit_asks_a_server_once_for_each_continuation_and_never_again(
    models: list[str], place: Path, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("implicit", models[0], *COMMON, "--positions", "2", "--continuations", "2", "--concurrency", "1")
    args = (*args, "--evaluator", "some-model", "--endpoint", endpoint, "--output-dir", "out")
    found = told(capsys, *args)
    problems = found["models"][0]["problems"]
    assert problems > 0 and len(Server.asked) == problems * 2 * 2 + 1
    assert {body["model"] for body in Server.asked} == {"some-model"}
    words = Server.asked[0]["messages"][0]["content"]
    assert "Beginning of the solution:" in words and "+1" in words
    assert told(capsys, *args) == found and len(Server.asked) == problems * 2 * 2 + 1


def test_the_template_s_fields_in_a_model_s_text_are_text(place: Path) -> None:
    from rlkit.studies.evaluator import asked, read_template

    assert asked("{problem}|{segment}", "{segment}?", "{problem}!") == "{segment}?|{problem}!"
    (place / "t.txt").write_text("{segment} only")
    with pytest.raises(ConfigError, match=r"t.txt: has no \{problem\}"):
        read_template(place / "t.txt")


# -- what is studied -------------------------------------------------------------------------------------------------------


def test_a_run_brings_its_model_data_and_reward(models: list[str], place: Path) -> None:
    """Its newest checkpoint; a flag overrules what the run says."""
    from rlkit.cli.dispatch import study_args

    train = ("train", "--model", models[0], "--data", "test.jsonl", "--reward", EVEN)
    train = (*train, "--workers", "0", "--sampler", "hf", "--steps", "2", "--prompts-per-step", "2")
    train = (*train, "--max-completion-length", "4", "--output-dir", "runs/x", "--save-every", "1")
    assert main([*train, "--num-generations", "2", "--no-tensorboard"]) == 0
    _, parsed = study_args(["mc-credit", "runs/x", "--small"])
    assert parsed.cfg.model.name == "runs/x/checkpoints/step-000002"
    assert (parsed.cfg.data.name, parsed.cfg.reward.name) == ("test.jsonl", EVEN)
    assert parsed.cfg.max_completion_length == 4 and parsed.cfg.continuations == 32
    _, parsed = study_args(["skip", "runs/x/checkpoints/step-000001", "--reward", "exact"])
    assert parsed.cfg.model.name == "runs/x/checkpoints/step-000001"
    assert (parsed.cfg.data.name, parsed.cfg.reward.name) == ("test.jsonl", "exact")


def test_a_dry_run_says_how_much_and_draws_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["analyze", "mc-credit", "no/such/model", "--dry-run", "--prompts", "2", "--data", "a.jsonl"])
        == 0
    )
    said = capsys.readouterr().err
    assert "2 problems x 8 answers, each cut at 7 places" in said and not (place / "studies").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["mc-credit"], "takes one subject, as runs/NAME, a model folder or tiny, but got none"),
        (["skip", "a", "b"], "takes one subject"),
        (["implicit"], "takes one or more subjects"),
        (["mc"], "study 'mc' is not known"),
        (["mc-credit", "tiny", "--k", "512", "--deep-groups", "0"], "at most half of 128 continuations"),
        (["mc-credit", "tiny", "--temperature", "0"], "greedy continuations of one prefix are all the same"),
        (["implicit", "a", "a", "--data", "test.jsonl"], "expected different models"),
        (["implicit", "a", "--key", "K"], "none without --endpoint"),
        (
            ["implicit", "a", "--data", "test.jsonl", "--endpoint", "ftp://x"],
            "expected http://... or https://...",
        ),
    ],
)
def test_what_cannot_be_meant_is_told(
    args: list[str], words: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", *args]) == 2
    assert words in capsys.readouterr().err


def test_no_right_answer_is_told(models: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["implicit", models[0], *COMMON, "--reward", "exact", "--tries", "1", "--output-dir", "out"]
    assert main(["analyze", *args]) == 2
    assert "none of 3 problems has a right answer in 1 tries" in capsys.readouterr().err


# -- steps whose truth the task knows -----------------------------------------------------------------------------------------


def test_the_steps_of_an_answer_up_to_its_first_slip() -> None:
    from types import SimpleNamespace
    from typing import cast

    from rlkit.studies.credit import steps_of
    from rlkit.studies.lab import Answer, Lab
    from rlkit.tiny import make_tokenizer
    from rlkit.types import Prompt

    tokenizer = make_tokenizer()
    text = "<steps>a7+4=1b1*3=4c4-5=9d9*2=8\\boxed{8}"
    ids = tuple([*tokenizer.encode(text), tokenizer.eos_token_id])
    prompt = Prompt(id="q", token_ids=[1], question="7a+4b*3c-5d*2")
    answer = Answer(prompt=prompt, member=0, ids=ids, ended=True, score=0.0, text=text)
    lab = cast(Lab, SimpleNamespace(decode=lambda i: tokenizer.decode(list(i), skip_special_tokens=True)))
    steps = steps_of(lab, answer, -0.5)
    assert [(lab.decode(s.before), lab.decode(s.after), s.right) for s in steps] == [
        ("<steps>", "<steps>a7+4=1", True),
        ("<steps>a7+4=1", "<steps>a7+4=1b1*3=4", False),
    ]
    assert {s.answer for s in steps} == {-0.5}
