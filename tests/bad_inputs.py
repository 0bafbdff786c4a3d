"""Bad inputs, and what rlkit says to each: the table behind docs/errors.md and tests/e2e/test_bad_inputs.py.

python -m tests.bad_inputs > docs/errors.md
"""

from tests.bad_code import YOURS
from tests.bad_data import DATA, MODEL
from tests.bad_files import SMALL, Bad
from tests.bad_flags import FLAGS
from tests.bad_pages import PAGES
from tests.bad_runs import RUNS
from tests.bad_scores import REWARDS, SCORES
from tests.bad_servers import SERVERS
from tests.bad_studies import SIMULATED, STUDIES

TABLE = {
    "Flags and TOML": FLAGS,
    "Data": DATA,
    "Model and sampler": MODEL,
    "Your own code": YOURS,
    "Run folders": RUNS,
    "Simulation": SIMULATED,
    "The dashboard": PAGES,
    "Studies": STUDIES,
    "rlkit score": SCORES,
    "rlkit rewards": REWARDS,
    "Servers": SERVERS,
}
STOPS = [
    Bad(
        "once, in a step",
        "rlkit train ...",
        "stopped after step ...; continue with `rlkit train --resume runs/...`",
        130,
    ),
    Bad(
        "twice, after a checkpoint",
        "rlkit train ...",
        "stopped at once by Ctrl-C; continue from the last checkpoint with `rlkit train --resume runs/...`",
        130,
    ),
    Bad(
        "before the first step",
        "rlkit train ...",
        "stopped at once by Ctrl-C; continue from its beginning with `rlkit train --resume runs/...`",
        130,
    ),
    Bad("while it starts", "rlkit train ...", "stopped by Ctrl-C", 130),
]
"""Ctrl-C and SIGTERM; test_ctrl_c.py sends them."""
OUTSIDE = {"vLLM not installed", "output folder in use", "full disk", "full disk for what is printed"}
"""Need a process of their own; the others run in this one, through the same `main`."""


def documentation() -> str:
    lines = [
        "# What rlkit says when something is wrong",
        "",
        "Each message is one sentence on stderr: where, what came, what was expected, what to do. Exit codes: 0 all went well;",
        "1 a command that examines (doctor, score) found what it should not;",
        "2 an input that cannot be used (flags, config, data, model, folders); 3 a sampler or verifier that broke its contract or",
        "failed more often than allowed; 130 stopped by Ctrl-C or SIGTERM. Anything else, with a traceback, is a defect of rlkit:",
        "please report it.",
        "",
        "The first Ctrl-C (or SIGTERM) ends a run after its step, with a checkpoint, and says how to continue; the second ends it",
        "at once. This page is written by `python -m tests.bad_inputs` and every row is run by a test. `...` stands for what",
        "differs between machines, FOLDER for the working folder, SMALL for",
        "",
        f"    {SMALL}",
    ]
    for title, rows in (TABLE | {"Ctrl-C and SIGTERM": STOPS}).items():
        lines += ["", f"## {title}", "", "| | command | message | exit |", "| --- | --- | --- | --- |"]
        for bad in rows:
            command = bad.command.replace(SMALL, "SMALL")
            lines.append(f"| {bad.what} | `{command}` | {_code(bad.message)} | {bad.code} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """As code in a table, where a message has backticks of its own."""
    return f"`` {text} ``".replace("|", "\\|") if "`" in text else f"`{text}`".replace("|", "\\|")


if __name__ == "__main__":
    print(documentation(), end="")
