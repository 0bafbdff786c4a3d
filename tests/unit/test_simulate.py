"""`rlkit simulate`: what it prints is the bandit's, and what cannot be meant is told in a sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlkit.cli import main


def told(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["simulate", *args]) == 0
    return capsys.readouterr().out


def test_the_table_holds_the_reference_trajectory(capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "--rewards", ".8,1,0", "--p0", ".45,.05,.5", "--algo", "grpo", "--k", "1,8")
    rows = {row[0]: row[1:] for line in out.splitlines() if (row := line.split()) and row[0].isdigit()}
    assert list(rows) == ["0", "25", "50", "100", "150", "200", "300", "400", "600"]
    assert rows["25"][:4] == ["0.833", "0.042", "0.125", "0.545"]
    assert rows["300"][:4] == ["0.087", "0.910", "0.003", "0.316"]
    assert rows["0"][4:] == ["0.050", f"{1 - 0.95**8:.3f}"]
    assert "exploitation until step 129 (t_max1), then exploration" in out
    assert "rarest at step 102 (t_min2), with 0.0242" in out


def test_several_algorithms_each_have_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    twice = told(capsys, "--algo", "grpo", "--algo", "grpo_n", "--at", "25")
    assert twice == told(capsys, "--algo", "grpo,grpo_n", "--at", "25", "--expected")
    assert re.findall(r"^(\w+): expected updates", twice, re.MULTILINE) == ["grpo", "grpo_n"]
    assert "exploitation has not ended; the best action still loses; it is not ahead" in twice


def test_sampled_runs_have_a_spread_and_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--sampled", "--seeds", "12", "--steps", "400", "--at", "400")
    out = told(capsys, *args)
    assert out == told(capsys, *args) != told(capsys, *args, "--seed", "1")
    found = re.search(r"t_max1 (\d+) \[(\d+) \.\. (\d+)\]", out)
    assert found and int(found[2]) < int(found[1]) < int(found[3]) < 400


def test_sampled_runs_that_only_jitter_have_not_turned(capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "--algo", "grpo_n", "--sampled", "--seeds", "12", "--steps", "300", "--at", "300")
    assert "t_max1 in none" in out and "t_cross in none" in out


def test_json_is_one_object_with_every_run_s_turning_points(capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(told(capsys, "--json", "--normalize", "none", "--learning-rate", "0.5"))
    assert record["roles"] == {"high": [0], "low": [2], "optimal": [1]}
    (run,) = record["runs"]
    turns = run["turning_points"]
    assert [(t["t_min2"], t["t_max1"]) for t in turns] == [(124, 185)]
    assert run["probabilities"][0] == pytest.approx([0.45, 0.05, 0.5])
    assert set(run["pass_at_k"]) == {"1", "8", "64", "256"}


def test_lambda_weighs_the_positives(capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--at", "25", "--json")
    assert told(capsys, "--algo", "w_reinforce", "--positive-weight", "0.1", *at) == told(
        capsys, "--algo", "w_reinforce", *at
    )
    same = [
        json.loads(told(capsys, "--algo", name, "--positive-weight", "0", *at))["runs"][0]["probabilities"]
        for name in ("w_reinforce", "nsr")
    ]
    assert same[0] == same[1]


def test_nothing_to_exploit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no stages: no action is better" in told(capsys, "--rewards", "1,1,0")


def test_many_actions_are_summed_by_role(capsys: pytest.CaptureFixture[str]) -> None:
    rewards, p0 = ",".join(["0", "0.1", "0.2", "0.3", "0.7", "0.8", "1"]), ",".join(["0.15"] * 6 + ["0.1"])
    out = told(capsys, "--rewards", rewards, "--p0", p0, "--at", "0")
    assert "high r=0.7..0.8" in out and "low r=0..0.3" in out and "optimal r=1" in out
    assert out.splitlines()[2].split()[:4] == ["0", "0.300", "0.600", "0.100"]


def test_the_figure_is_one_file_that_needs_no_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "stages.html"
    told(capsys, "--algo", "grpo,nsr", "--sampled", "--seeds", "5", "--steps", "50", "--figure", str(page))
    text = page.read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", text)
    for words in ("explored high-reward", "best action", "low-reward", "entropy", "pass@256", "nsr"):
        assert words in text


def test_the_figure_shades_the_stages_and_draws_what_the_runs_are() -> None:
    import numpy as np

    from rlkit.analysis.bandit import Bandit, mass, simulate_expected, turning_points
    from rlkit.analysis.figures import MAX_POINTS, Curves, simulated
    from rlkit.build import algo_config

    bandit = Bandit((0.8, 1.0, 0.0), (0.45, 0.05, 0.5))
    probs = simulate_expected(bandit, algo_config("grpo"), steps=3000, rate=0.1)  # type: ignore[arg-type]
    turn = turning_points(mass(probs, (0,)), mass(probs, (1,)))
    figure = simulated([Curves("grpo", probs[None], [turn])], bandit.roles, (1, 8), "<b>title")
    high, low, best, nats, *others = figure.data
    passes, stages = others[:2], [trace.name for trace in others[2:]]
    assert stages == ["exploitation", "exploration"]
    assert len(high.x) == MAX_POINTS and (high.x[0], high.x[-1]) == (0, 3000)
    assert np.array(high.y) == pytest.approx(probs[np.array(high.x), 0])
    assert np.array(best.y) == pytest.approx(np.array(passes[0].y))
    assert (low.name, nats.name, len(passes)) == ("low-reward", "entropy", 2)
    assert [(s.x0, s.x1) for s in figure.layout.shapes] == [(0, turn.t_max1), (turn.t_max1, 3000)]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("--p0 .45,.05,.4", "p0 = 0.45,0.05,0.4: sums to 0.9, expected 1"),
        ("--rewards 1,0", "p0 has 3 numbers (0.45,0.05,0.5) and rewards 2 (1,0): expected one probability"),
        ("--rewards 1,x,0", "--rewards '1,x,0': expected numbers separated by commas, as 1,2,3"),
        ("--algo gropo", "algorithm 'gropo' is not known; did you mean 'grpo'?"),
        ("--algo skpo", "--algo skpo: not of GRPO's family, so there is no bandit of it"),
        ("--algo nsr --normalize group", "algo.scale_rewards = 'group': expected none, with algo.baseline"),
        ("--expected --sampled", "--expected --sampled = 'both': expected one of them"),
        ("--sampled --seeds 0", "--seeds = 0: expected a whole number from 1"),
        ("--sampled --seed -3", "--seed = -3: expected a whole number from 0"),
        ("--at 601", "--at = '601': expected steps from 0 to --steps 600"),
        ("--sampled --steps 100000000", "more than the 200,000,000 that are kept"),
        ("--figure page.png", "--figure page.png: expected a name that ends in .html"),
        ("--figure none/page.html", "--figure none/page.html: no folder none"),
        ("--learning-rate 0", "--learning-rate = 0.0: expected a positive number"),
        ("--sampled --algo grpo --group-size 1", "algo.num_generations = 1: expected at least 2"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_runs(
    args: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", *args.split()]) == 2
    assert said in capsys.readouterr().err


def test_simulating_loads_neither_torch_nor_plotly() -> None:
    program = (
        "import sys; from rlkit.cli import main; main(['simulate', '--steps', '5'])\n"
        "print([n for n in ('torch', 'plotly', 'transformers', 'scipy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_page_without_plotly_is_refused_in_a_sentence() -> None:
    program = (
        "import sys; sys.modules['plotly'] = None; from rlkit.cli import main\n"
        "sys.exit(main(['simulate', '--figure', 'page.html']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2 and "plotly is not installed; pip install 'rlvrkit[dash]'" in done.stderr
