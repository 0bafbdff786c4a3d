"""From a question to token ids: the tokenizer's chat template, or a plain text.

The text that a template renders is tokenised as it stands (a chat template writes its own special tokens); a plain text
gets the tokenizer's begin token, if it has that habit. The room for a segment (SKPO's [s, q]) is found in the rendered
TEXT, by a marker in the segment's place, and both sides are tokenised apart, so that token ids can be put in between.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlkit.columns import Message
from rlkit.config import DataConfig
from rlkit.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEGMENT = "@@segment@@"
"""Stands where a segment will be; made longer when a question contains it."""
SEGMENT_END = "\n\n"
"""Between a segment and the question (papers.md 1.2, format A)."""


class Template:
    """How questions are rendered and tokenised for one model."""

    def __init__(self, cfg: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        self.system = cfg.system
        has_chat = bool(tokenizer.chat_template)
        if cfg.template == "chat" and not has_chat:
            raise ConfigError(
                "--data.template chat: this tokenizer has no chat template; use plain, or a text with {question}"
            )
        self.is_chat = cfg.template == "chat" or (cfg.template == "auto" and has_chat)
        if self.system is not None and not self.is_chat:
            raise ConfigError(
                "--data.system needs a chat template; write it into --data.template 'system words {question}' instead"
            )
        self.pattern = cfg.template if "{question}" in cfg.template else "{question}"

    def __str__(self) -> str:
        if self.is_chat:
            return "the tokenizer's chat template" + (
                "" if self.system is None else f", system {self.system!r}"
            )
        return "plain" if self.pattern == "{question}" else f"plain, {self.pattern!r}"

    def render(self, messages: Sequence[Message]) -> str:
        """The text the policy continues, for messages that end with the user's."""
        if not self.is_chat:
            return self.pattern.replace("{question}", "\n\n".join(m["content"] for m in messages))
        turns = list(messages)
        if self.system is not None:
            turns = [{"role": "system", "content": self.system}, *(m for m in turns if m["role"] != "system")]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except (
            Exception
        ) as error:  # a template is a jinja program of the model's author: it may raise anything
            roles = ", ".join(m["role"] for m in turns)
            raise ModelError(
                f"the tokenizer's chat template failed on messages of {roles} ({type(error).__name__}: {error}); "
                "try --data.template plain"
            ) from error
        return str(text)

    def render_around(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The rendered text before and after the room for a segment, which stands before the question."""
        question = messages[-1]["content"]
        marker = SEGMENT
        while any(marker in m["content"] for m in messages) or marker in (self.system or "") + self.pattern:
            marker = f"@{marker}@"
        content = f"{marker}{SEGMENT_END}{question}"
        parts = self.render([*messages[:-1], {"role": "user", "content": content}]).split(marker)
        if len(parts) != 2:
            raise ModelError(
                f"the chat template writes the question {len(parts) - 1} times, so there is no one place for a segment; "
                "use --data.template plain, or --algo.skip-format raw"
            )
        return parts[0], parts[1]

    def tokens(self, texts: Sequence[str], *, begins: bool = True) -> list[list[int]]:
        """Token ids of rendered texts. `begins`: they open the prompt, so a plain one takes the begin token."""
        if not texts:
            return []
        # verbose: no warning about texts over the model's length, which are dropped later anyway
        ids = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        begin = self._begin() if begins and not self.is_chat else []
        return [[*begin, *i] if i[:1] != begin else list(i) for i in ids]

    def _begin(self) -> list[int]:
        """The begin token, if the tokenizer puts one before a plain text of its own accord."""
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and bos in self.tokenizer("")["input_ids"][:1] else []
