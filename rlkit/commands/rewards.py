"""`rlkit rewards`: the verifiers that --reward knows, one of them explained, and one held against a data set's gold answers."""

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit import build
from rlkit.config import DataConfig, RewardConfig
from rlkit.errors import RunError
from rlkit.printable import printable
from rlkit.score_config import CheckConfig
from rlkit.types import Prompt, Task

from .progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.scoring.check import Checked, Trouble

AUTO = "The task's own verifier; math where the data is no task."
TROUBLES: dict["Trouble", str] = {
    "fails": "are not right by themselves",
    "no gold": "have no gold answer",
    "unjudged": "cannot be read: the same words are right, and any other answer is a skip",
    "suspicious": "are right for another row: one answer in two forms, or the verifier accepts too much",
}
SHOWN = 10
"""Findings that are printed; --out has all."""
TASK_ROWS = 256
"""Questions of a task that are checked, without --limit."""


def list_rewards() -> int:
    """`rlkit rewards`"""
    from rlkit.rewards.spec import VERIFIERS, explain

    kinds = {name: explain(name).summary for name in VERIFIERS}
    kinds["auto"] = AUTO
    _print_pairs(kinds)
    print(
        "\nexplained, with options:  rlkit rewards NAME\n"
        "with options, summed:     --reward 'format(max_tail=20)', --reward 'math+0.1*format'\n"
        "your own:                 --reward file.py:attr or pkg.mod:attr (docs/verifiers.md)\n"
        "on your gold answers:     rlkit rewards check NAME --data train.jsonl\n"
        "on completions:           rlkit score outputs.jsonl --reward NAME"
    )
    return 0


def explain_reward(name: str) -> int:
    """`rlkit rewards NAME`. Raises ConfigError for a name that is not known."""
    from rlkit.rewards.contract import knows_gold, value_range
    from rlkit.rewards.spec import VERIFIERS, explain, make_verifier

    if name == "auto":
        print(f"--reward auto\n\n{AUTO}")
        return 0
    kind = explain(name)
    about = (inspect.getdoc(VERIFIERS[name]) or "").strip()
    print(f"--reward {name}\n\n{about}\n")
    required = [option for option in kind.options if option.default is None]
    if not required:
        verifier = make_verifier(name)
        declared = value_range(verifier)
        told = {"range": "not declared" if declared is None else f"{declared[0]:g} to {declared[1]:g}"}
        own = "its own way, which `rlkit rewards check` shows for every row that fails"
        told["right"] = own if knows_gold(verifier) else "\\boxed{GOLD}"
        told["gold"] = (
            "where it reads one: the data's gold answer (--data.answer-column in training, --gold here)"
        )
        _print_pairs(told)
        print()
    if kind.options:
        print("options")
        for option in kind.options:
            default = "required" if option.default is None else f"default {option.default}"
            print(f"  {option.name}  {option.type}, {default}\n      {option.meaning}")
        print()
    written = f"{name}({', '.join(f'{o.name}=...' for o in required)})" if required else name
    print(
        f"rlkit rewards check '{written}' --data train.jsonl\n"
        f"rlkit score outputs.jsonl --reward '{written}'\n"
        f"rlkit train --data train.jsonl --reward '{written}'"
    )
    return 0


def _print_pairs(pairs: dict[str, str]) -> None:
    width = max(map(len, pairs))
    for name, words in pairs.items():
        print(f"{name:<{width}}  {words}")


# -- check -------------------------------------------------------------------------------------------------------------


def check(reward: str, cfg: CheckConfig, console: "Console", *, as_json: bool) -> int:
    """`rlkit rewards check`: 1 when more gold answers fail than --max-failures allows."""
    from rlkit.rewards import VerifierPool
    from rlkit.rewards.contract import full_marks
    from rlkit.scoring.check import check_gold

    task = build.make_task(cfg.data)
    verifier = build.make_verifier(RewardConfig(name=reward), task)
    prompts = _prompts(cfg, task, console)
    most = full_marks(verifier) if cfg.right_at is None else cfg.right_at
    with VerifierPool(verifier, cfg.workers, cfg.timeout) as pool:
        with Progress("checked", 2 * len(prompts), console) as progress:
            checked = check_gold(
                prompts,
                pool.gold_text,
                pool,
                right_at=1.0 if most is None else most,
                seed=cfg.seed,
                progress=progress,
            )
    told = _told(checked, reward, cfg)
    if cfg.out is not None:
        _write(Path(cfg.out), checked)
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        print(_table(checked, told), end="")
    return int(checked.failure_share > cfg.max_failures)


def _prompts(cfg: CheckConfig, task: Task | None, console: "Console") -> list[Prompt]:
    """The rows whose gold answers are checked; says where they come from."""
    from rlkit.rows import load_rows, task_rows
    from rlkit.scoring.check import read_gold
    from rlkit.sources import find_files, is_local, read_files

    if task is None and is_local(cfg.data):
        raw = read_files(cfg.data, find_files(cfg.data))
        prompts, columns = read_gold("stdin" if cfg.data == "-" else cfg.data, raw, cfg)
        words = f"{cfg.data}: {len(prompts):,} rows, {columns}"
    else:
        if task is not None:
            rows = task_rows(task, "train", cfg.limit or TASK_ROWS)
        else:
            data = DataConfig(
                name=cfg.data,
                split=cfg.split,
                prompt_column=cfg.prompt,
                answer_column=cfg.gold,
                limit=cfg.limit,
                on_bad_row=cfg.on_bad_row,
            )
            rows = load_rows(data, need_answer=False)
        prompts = [
            Prompt(
                id=e.id, token_ids=[], text=e.question, question=e.question, reference=e.reference, row=e.row
            )
            for e in rows.examples
        ]
        words = f"{rows.source}: {len(prompts):,} rows, {rows.columns}"
    console.print(printable(words), soft_wrap=True, highlight=False, markup=False)
    return prompts


def _told(checked: "Checked", reward: str, cfg: CheckConfig) -> dict[str, Any]:
    return {
        "data": cfg.data,
        "reward": reward,
        "rows": checked.rows,
        "right": checked.right,
        "fails": checked.count("fails"),
        "no_gold": checked.count("no gold"),
        "failure_share": checked.failure_share,
        "pairs": checked.pairs,
        "unjudged": checked.count("unjudged"),
        "suspicious": checked.count("suspicious"),
        "reasons": {
            trouble: [{"reason": words, "count": count} for words, count in checked.reasons(trouble)]
            for trouble in TROUBLES
            if checked.count(trouble)
        },
        "out": cfg.out,
        "findings": [finding.told() for finding in checked.findings] if cfg.out is None else None,
    }


def _write(path: Path, checked: "Checked") -> None:
    from rlkit.scoring.verdicts import json_line

    try:
        path.write_bytes(b"".join(json_line(finding.told()) for finding in checked.findings))
    except OSError as error:
        raise RunError(f"--out {path}: cannot be written ({error.strerror or error})") from error


def _table(checked: "Checked", told: dict[str, Any]) -> str:
    from .tables import lines_of, say, table

    def show(console: "Console") -> None:
        rows = f"{checked.right:,} of {checked.rows:,} gold answers are right by themselves"
        say(console, f"{rows} ({checked.right / max(1, checked.rows):.2%})")
        wrong = checked.pairs - told["suspicious"] - told["unjudged"]
        say(console, f"{wrong:,} of {checked.pairs:,} are wrong for another row, as they should be")
        for trouble, words in TROUBLES.items():
            found = [f for f in checked.findings if f.trouble == trouble]
            if not found:
                continue
            say(console, f"\n{len(found):,} {words}")
            table(console, ("", "why"), [(f"{n:,}", why) for why, n in checked.reasons(trouble)], numbers=1)
            listed = [(f.id, *map(_short, (f.gold, f.answer, f.score.reason))) for f in found[:SHOWN]]
            table(console, ("id", "gold", "answer", "reason"), listed)
            if len(found) > SHOWN:
                more = f"and {len(found) - SHOWN:,} more"
                say(console, more if told["out"] else f"{more}; --out FILE lists them")
        if told["out"]:
            say(console, f"all of them: {told['out']}")

    return lines_of(show)


def _short(text: str | None) -> str:
    words = "" if text is None else " ".join(text.split())
    return words if len(words) <= 40 else words[:37] + "..."
