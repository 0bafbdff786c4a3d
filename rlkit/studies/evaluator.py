"""Who goes on from a partial answer: a local model, or one behind an OpenAI-compatible server (`rlkit analyze implicit`).

What an evaluator reads was written by another model. It is asked for a continuation and nothing else: its reply is text that a
verifier judges, so the worst that a partial answer can talk it into is a wrong answer.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.analysis.store import encodable
from rlkit.analysis.study_store import Row
from rlkit.analyze_config import ImplicitConfig
from rlkit.errors import ConfigError, RolloutError
from rlkit.types import Prompt

from .lab import Key, Lab, Tick

if TYPE_CHECKING:
    from rlkit.templates import Template

TEMPLATE = """A problem, and the beginning of a solution that somebody else wrote.

Problem:
{problem}

Beginning of the solution:
{segment}

Go on from exactly where the beginning stops, even in the middle of a line. Write only what comes next: do not start again, do not
repeat what is there, do not comment on it. End with the final answer in the form that the problem asks for, else in \\boxed{}."""

_FIELD = re.compile(r"\{(problem|segment)\}")
RETRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """The beginning of a right answer."""

    prompt: Prompt
    ids: tuple[int, ...]
    """In the tokens of the model that wrote it."""
    text: str


Success = dict[tuple[str, str], list[float]]
"""(problem, partial text) -> rewards of the evaluator's continuations; nan: nobody could judge."""


def read_template(path: Path | None) -> str:
    """Raises ConfigError for a file without its two fields."""
    if path is None:
        return TEMPLATE
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"--template {path}: {error.strerror or error}") from error
    missing = [field for field in ("{problem}", "{segment}") if field not in text]
    if missing:
        raise ConfigError(f"--template {path}: has no {' and no '.join(missing)}")
    return text


def asked(template: str, problem: str, segment: str) -> str:
    """One pass: a field in what a model wrote is text, not a field.

    >>> asked("{problem} | {segment}", "1+1?", "{problem} is")
    '1+1? | {problem} is'
    """
    fields = {"problem": problem, "segment": segment}
    return _FIELD.sub(lambda found: fields[found[1]], template)


# -- a local model -----------------------------------------------------------------------------------------------------


def local(
    lab: Lab,
    cfg: ImplicitConfig,
    partials: Sequence[Partial],
    same_tokens: bool,
    tokenizer: Any,
    template: "Template",
    progress: Tick,
) -> Success:
    """Continuations by the model of `lab`. same_tokens: it reads the tokens of the model that wrote, so nothing is re-tokenised."""
    keys: dict[Key, Partial] = {}
    heads: dict[Key, list[int]] = {}
    for partial in partials:
        ids = partial.ids
        if not same_tokens:
            ids = tuple(tokenizer.encode(partial.text, add_special_tokens=False))
        key = Key(partial.prompt.id, ids, "implicit")
        if cfg.template is not None:
            words = asked(read_template(cfg.template), partial.prompt.question, partial.text)
            heads[key] = template.tokens([template.render([{"role": "user", "content": words}])])[0]
        keys[key] = partial
    draws = lab.continuations(dict.fromkeys(keys, cfg.continuations), progress, heads)
    return {(p.prompt.id, p.text): draws[key].scores for key, p in keys.items()}


# -- a server ----------------------------------------------------------------------------------------------------------


def remote(lab: Lab, cfg: ImplicitConfig, partials: Sequence[Partial], progress: Tick) -> Success:
    """Continuations by the server's model; the verdicts are the lab's. What was answered once is not asked again."""
    name = f"{cfg.evaluator.name} at {cfg.endpoint}"
    known: Success = {}
    for row in lab.store.read("draws"):
        if row["model"] == encodable(name):
            known[row["prompt_id"], row["kind"]] = row["scores"]
    left = [p for p in partials if _stored(p) not in known]
    total = len(partials) * cfg.continuations
    done = total - len(left) * cfg.continuations
    progress(done, total)
    for start in range(0, len(left), cfg.concurrency):  # a part is small: what a kill loses was paid for
        part = left[start : start + cfg.concurrency]
        replies = asyncio.run(_ask_all(cfg, part, lab.longest))
        items = [(p.prompt, p.text + reply) for p, own in zip(part, replies, strict=True) for reply in own]
        scores = iter(lab.judge(items))
        rows: list[Row] = [
            {
                "model": encodable(name),
                "prompt_id": encodable(p.prompt.id),
                "kind": encodable(p.text),
                "prefix": [],
                "first": 0,
                "scores": [float("nan") if (s := next(scores)) is None else s for _ in own],
                "tokens": [],
                "finals": own,
            }
            for p, own in zip(part, [list(map(encodable, r)) for r in replies], strict=True)
        ]
        lab.store.write("draws", rows)
        known |= {(row["prompt_id"], row["kind"]): row["scores"] for row in rows}
        done += len(part) * cfg.continuations
        progress(done, total)
    return {(p.prompt.id, p.text): known[_stored(p)] for p in partials}


def _stored(partial: Partial) -> tuple[str, str]:
    return encodable(partial.prompt.id), encodable(partial.text)


async def _ask_all(cfg: ImplicitConfig, part: Sequence[Partial], longest: int) -> list[list[str]]:
    gate = asyncio.Semaphore(cfg.concurrency)
    template = read_template(cfg.template)

    async def one(partial: Partial) -> str:
        async with gate:
            return await _ask(cfg, asked(template, partial.prompt.question, partial.text), longest)

    async def several(partial: Partial) -> list[str]:
        return list(await asyncio.gather(*(one(partial) for _ in range(cfg.continuations))))

    return list(await asyncio.gather(*(several(partial) for partial in part)))


async def _ask(cfg: ImplicitConfig, content: str, longest: int) -> str:
    from rlkit.rewards.web import post_json

    payload = {
        "model": cfg.evaluator.name,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": longest,
        "temperature": cfg.sampler.temperature,
    }
    url = f"{(cfg.endpoint or '').rstrip('/')}/chat/completions"
    said = await post_json(url, payload, key=cfg.key, timeout=cfg.timeout, retries=RETRIES)
    return read_reply(said, url)


def read_reply(said: Any, url: str) -> str:
    """The text of a chat completion; an empty one when the model stopped at once. Raises RolloutError when it is none.

    >>> read_reply({"choices": [{"message": {"content": "= 4"}}]}, "")
    '= 4'
    """
    try:
        message = said["choices"][0]["message"]
        content = message["content"] if isinstance(message, Mapping) else 0
    except (KeyError, IndexError, TypeError):
        content = 0
    if content is None:
        return ""
    if not isinstance(content, str):
        raise RolloutError(f"{url}: expected a chat completion, but got {str(said)[:200]!r}")
    return content
