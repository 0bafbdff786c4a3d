"""Every example in a docstring is run, and gives what it says.

A module is imported under the name that others import it by, so that nothing is loaded twice.
"""

import doctest
import importlib
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKED = ("rewards", "samplers", "analysis")
"""Rooms of rlkit that lie at the root; the links to them are not walked a second time."""
STARTS_VLLM = "rlkit.samplers.vllm_cpu"
"""Its import alone takes seconds."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "rlkit" else ("rlkit", *parts)).removesuffix(".__init__")


def files() -> list[Path]:
    rooms = [ROOT / "rlkit", *(ROOT / room for room in LINKED)]
    found = {path for room in rooms for path in room.rglob("*.py")}
    return sorted(path for path in found if path.resolve() == path)


TEXTS = {module_name(path): path.read_text("utf-8") for path in files()}
WITH_EXAMPLES = sorted(name for name, text in TEXTS.items() if ">>> " in text)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == STARTS_VLLM else n for n in WITH_EXAMPLES],
)
def test_the_examples_of_a_module_give_what_they_say(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "rlkit":
            raise
        words = f"NOT TESTED: the examples of {name}, since {error.name} is not installed"
        warnings.warn(words, stacklevel=1)  # pytest prints it at its end, a skip's reason it does not
        pytest.skip(words)
    said: list[str] = []
    runner = doctest.DocTestRunner()
    found = doctest.DocTestFinder(exclude_empty=True).find(module, name)
    for examples in found:
        runner.run(examples, out=said.append)
    assert not said, "".join(said)
    written = sum(line.lstrip().startswith(">>> ") for line in TEXTS[name].splitlines())
    assert runner.tries >= written > 0, f"{written} examples, {runner.tries} of them in docstrings"


def test_every_room_has_examples_and_none_is_left_out() -> None:
    rooms = {name.split(".")[1] for name in WITH_EXAMPLES}
    assert {"types", "algos", "learner", "rewards", "samplers", "analysis"} <= rooms
    assert [name for name, text in TEXTS.items() if "doctest: +SKIP" in text] == []


def test_a_wrong_example_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong_example.py").write_text('"""\n>>> 1 + 1\n3\n"""\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TEXTS, "wrong_example", ">>> 1 + 1")
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        test_the_examples_of_a_module_give_what_they_say("wrong_example")


def test_a_missing_package_is_told_and_a_missing_module_of_ours_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_other.py").write_text("import no_such_package.part\n")
    (tmp_path / "needs_ours.py").write_text("import rlkit.no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match="NOT TESTED: .* no_such_package is not installed"):
        with pytest.raises(pytest.skip.Exception):
            test_the_examples_of_a_module_give_what_they_say("needs_other")
    with pytest.raises(ModuleNotFoundError):
        test_the_examples_of_a_module_give_what_they_say("needs_ours")
