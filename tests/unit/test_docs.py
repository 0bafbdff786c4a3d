"""The docs say what is so: every command parses, every link leads somewhere, every default is the code's."""

import re
import shlex
import tomllib
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import pytest

from rlkit import __version__
from rlkit.algo_config import AlgoConfig, FamilyConfig
from rlkit.algo_presets import ALGO_CONFIGS
from rlkit.cli.args import EvalArgs, ServeArgs, SftArgs, TrainArgs
from rlkit.cli.dispatch import check_args, score_args, study_args
from rlkit.cli.settings import parse as parse_args
from rlkit.cli.settings import with_algo
from rlkit.config import EvalConfig, SftConfig, TrainConfig
from rlkit.errors import RlkitError
from rlkit.serve_config import ServeConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
PAGES.remove(ROOT / "docs/errors.md")  # commands that fail, each run by tests/e2e/test_bad_inputs.py
SOURCES = [*PAGES, *sorted((ROOT / "examples").rglob("*.py")), *sorted((ROOT / "examples").rglob("*.toml"))]
RUN_TOML = "steps = 3\nalgo = 'skpo'\n[model]\nname = 'tiny'\n"

# A command stands alone on its line, or in a comment or behind a label, and ends where a gap of two spaces begins.
LINE = re.compile(
    r"^(?:#?\s*|.*?[:`] ?)(rlkit (?:train|eval|sft|score|serve|rewards check|analyze) [^`]*?)(?:`.*|\s{2,}.*)?$"
)


def commands_in(path: Path) -> list[str]:
    found = (LINE.match(line) for line in path.read_text().splitlines())
    return [match[1].strip() for match in found if match and " --" in match[1]]


COMMANDS = sorted({(path.relative_to(ROOT).as_posix(), c) for path in SOURCES for c in commands_in(path)})


def parse(command: str) -> None:
    """As the command line would, short of running it. Raises RlkitError, or SystemExit for a flag that tyro refuses."""
    program, name, *args = shlex.split(command)
    assert program == "rlkit"
    if name == "train":
        parse_args(TrainArgs, with_algo(TrainConfig(), args), args, "rlkit train")
    elif name == "eval":
        parse_args(EvalArgs, EvalConfig(), args, "rlkit eval")
    elif name == "score":
        score_args(args)
    elif name == "serve":
        parse_args(ServeArgs, ServeConfig(), args, "rlkit serve")
    elif name == "rewards":
        check_args(args[1:])
    elif name == "analyze":
        study_args(args)
    else:
        parse_args(SftArgs, SftConfig(), args, "rlkit sft")


@pytest.fixture(autouse=True)
def in_a_user_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples as the docs name them, and a run.toml of the user's own."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "run.toml").write_text(RUN_TOML)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_documented_command_parses(page: str, command: str) -> None:
    if command.endswith("--help"):
        with pytest.raises(SystemExit) as ended:
            parse(command)
        assert ended.value.code == 0
    else:
        parse(command)


def test_commands_are_found_in_every_kind_of_place() -> None:
    pages = {page for page, _ in COMMANDS}
    assert {"README.md", "docs/papers.md", "docs/verifiers.md", "examples/custom_algorithm.py"} <= pages
    assert "examples/runs/tiny_skpo.toml" in pages
    commands = {command for _, command in COMMANDS}
    assert "rlkit train --algo skpo --model Qwen2.5-Math-7B --data train.jsonl --reward math" in commands
    assert "rlkit train --resume runs/NAME --steps 1000" in commands
    assert "rlkit train --algo skpo --help" in commands


@pytest.mark.parametrize(
    "command", ["rlkit train --algo gropo", "rlkit train --stepps 3", "rlkit eval --config none.toml"]
)
def test_a_wrong_command_would_be_noticed(command: str) -> None:
    with pytest.raises((RlkitError, SystemExit)):
        parse(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    broken = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    """Paths of the repository in the text, `examples/runs/skpo_*.toml` too. CONTRIBUTING names files to come: NAME.py."""
    named = re.findall(r"\b(?:examples|docs|rlkit|rewards|tests|benchmarks)/[\w./*-]+\.\w+", page.read_text())
    to_come = {"docs/demo.png"}  # made from a run
    missing = [n for n in named if "NAME" not in n and n not in to_come and not list(ROOT.glob(n))]
    assert not missing


def test_the_changelog_knows_this_version() -> None:
    assert f"## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_names_the_distribution() -> None:
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    assert f"`{name}`" in (ROOT / "README.md").read_text()


# -- docs/papers.md: every default, with its source -----------------------------------------------------------------------


def documented(algo: str) -> dict[str, str]:
    """The table `Settings of ALGO`: setting -> default, as written. Every row must name its source."""
    text = (ROOT / "docs" / "papers.md").read_text()
    _, _, rest = text.partition(f"Settings of `{algo}`")
    section = rest.partition("\n#")[0]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \|$", section, re.MULTILINE)
    assert all(source.strip() for _, _, source in rows)
    return {name: default for name, default, _ in rows}


def same(written: str, value: object) -> bool:
    if isinstance(value, float):
        return float(Fraction(written)) == value
    return written == str(value)


def defaults(kind: type[AlgoConfig]) -> dict[str, object]:
    return {f.name: getattr(kind(), f.name) for f in fields(kind) if f.name != "name"}


def settings(config: type[AlgoConfig]) -> dict[str, object]:
    """The defaults that a config does not share with what it is a kind of."""
    if config is AlgoConfig:
        return defaults(config)
    family = issubclass(config, FamilyConfig) and config is not FamilyConfig
    shared = defaults(FamilyConfig if family else AlgoConfig)
    return {name: value for name, value in defaults(config).items() if shared.get(name, ...) != value}


KINDS = {"AlgoConfig": AlgoConfig, "FamilyConfig": FamilyConfig, **ALGO_CONFIGS}


@pytest.mark.parametrize("name", KINDS)
def test_every_default_is_documented_as_it_is(name: str) -> None:
    config, table = KINDS[name], documented(name)
    assert not settings(config).keys() - table.keys(), "a setting without its source in docs/papers.md"
    wrong = [n for n, written in table.items() if not same(written, getattr(config(), n))]
    assert not wrong, "a default that is not the code's"


def test_a_default_without_its_source_would_be_noticed() -> None:
    assert settings(ALGO_CONFIGS["gspo"]).keys() == {"importance_sampling_level", "epsilon", "epsilon_high"}
    assert settings(ALGO_CONFIGS["grpo"]) == {} == documented("grpo")
    assert len(settings(FamilyConfig)) == len(fields(FamilyConfig)) - len(fields(AlgoConfig))


@pytest.mark.parametrize("name", ALGO_CONFIGS)
def test_every_algorithm_has_its_paper_and_a_command(name: str) -> None:
    text, config = (ROOT / "docs" / "papers.md").read_text(), ALGO_CONFIGS[name]
    assert f"`--algo {name}`" in text and config.source in text
    assert set(re.findall(r"arXiv:[\d.]+\d", config.__doc__ or "")) <= {config.source}
    assert f"--algo {name} " in " ".join(commands_in(ROOT / "docs" / "papers.md"))


def test_the_sections_that_the_code_names_are_there() -> None:
    text = (ROOT / "docs" / "papers.md").read_text()
    rooms = [ROOT / "rlkit", ROOT / "rewards", ROOT / "samplers", ROOT / "analysis", ROOT / "tests"]
    files = [path for room in rooms for path in room.rglob("*.py")]
    named = {s for path in files for s in re.findall(r"papers\.md (\d+(?:\.\d+)?)", path.read_text())}
    assert named and not [s for s in named if not re.search(rf"^##+ {re.escape(s)}\.? ", text, re.MULTILINE)]
