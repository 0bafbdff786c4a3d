"""TOML in, TOML out: what is written, what is read, and what is said about a file that cannot be read."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from rlkit.algo_own import SkpoConfig
from rlkit.config import EvalConfig, TrainConfig
from rlkit.errors import ConfigError
from rlkit.toml import load_toml, owners_of, to_flags, to_toml

HERE = Path("run.toml")


def test_none_is_left_out_where_it_is_the_default_and_a_word_elsewhere():
    written = to_toml(TrainConfig(algo=SkpoConfig(epsilon_high=None)))
    assert "limit" not in written["data"] and written["algo"]["epsilon_high"] == "None"
    assert tomllib.loads(tomli_w.dumps(written)) == written


def test_settings_become_flags():
    text = 'algo = "skpo"\nsteps = 3\nlearning_rate = 1e-4\n[data]\nshuffle = false\nsystem = "--help"\n'
    values = tomllib.loads(text)
    assert to_flags(values, TrainConfig(), HERE) == [
        "--algo.name=skpo",
        "--steps=3",
        "--learner.learning-rate=0.0001",
        "--data.no-shuffle",
        "--data.system=--help",
    ]


def test_dashes_and_underscores_are_the_same():
    assert to_flags({"log": {"save-every": 3}}, TrainConfig(), HERE) == ["--log.save-every=3"]
    assert to_flags({"save-every": 3}, TrainConfig(), HERE) == ["--log.save-every=3"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"stepz": 3},
            r"run.toml: setting 'stepz' is not known; did you mean 'steps'\? Known: algo, async_steps",
        ),
        ({"lerner": {}}, r"run.toml: setting 'lerner' is not known; did you mean 'learner'\?"),
        (
            {"algo": {"epsilom": 1}},
            r"run.toml, \[algo\]: setting 'epsilom' is not known; did you mean 'epsilon'\?",
        ),
        ({"name": "x"}, "run.toml: setting 'name' is not known"),  # of several rooms
        ({"steps": [3]}, r"run.toml: steps = \[3\]: expected a text or a number"),
        ({"steps": {"a": 3}}, r"run.toml: steps = {'a': 3}: expected a text or a number"),
        ({"steps": True}, "run.toml: steps = True: expected a text or a number"),
        ({"data": {"shuffle": "yes"}}, "run.toml: data.shuffle = 'yes': expected true or false"),
        ({"data": {"shuffle": 1}}, "run.toml: data.shuffle = 1: expected true or false"),
        ({"data": [1]}, r"run.toml: data.name = \[1\]: expected a text or a number"),
    ],
)
def test_a_key_or_value_that_cannot_be_meant(values: dict[str, Any], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        to_flags(values, TrainConfig(), HERE)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"steps = \n", r"not TOML \(Invalid value \(at line 1, column 9\)\)"),
        (b"steps = 1\nsteps = 2\n", "not TOML .*line 2"),
        (b"steps = '\xff'\n", "not TOML .*utf-8"),
    ],
)
def test_a_file_that_is_no_toml(content: bytes, sentence: str, tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"--config {path}: {sentence}"):
        load_toml(path)


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no such file \(looked from"):
        load_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_toml(tmp_path)


def test_owners():
    owners = owners_of(TrainConfig())
    assert owners["learning_rate"] == ["learner"] and len(owners["name"]) == 5
    assert "top_p" in owners_of(EvalConfig()) and "steps" not in owners
