"""The embedded model: a Qwen2 of 0.8 million parameters and a byte-level tokenizer, made from nothing but a seed.

head_dim is 32, because vLLM's CPU attention has kernels for 32 and 64 but not for less. The tokenizer has one token per
byte and one for each marker that `rlkit.tasks` writes, so that the first token of an answer names its style.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|user|>", "<|assistant|>", "<|system|>")
MARKERS = ("<now>", "<steps>", "<check>", "\\boxed{")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def cache_folder() -> Path:
    """Where warm-started models are kept: $RLKIT_CACHE, else $XDG_CACHE_HOME/rlkit, else ~/.cache/rlkit."""
    own = os.environ.get("RLKIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlkit"


def make_tokenizer() -> "PreTrainedTokenizerFast":
    """256 bytes, pad, end, three roles and four markers: 265 tokens, and every text can be written."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = (PAD, END, *ROLES)
    vocab = {token: i for i, token in enumerate((*special, *MARKERS, *alphabet))}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    core.add_tokens([AddedToken(t, normalized=False) for t in MARKERS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=END)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: "PreTrainedTokenizerFast", seed: int) -> "Qwen2ForCausalLM":
    """A fresh model of `make_config`'s shape, float32."""
    import torch
    from transformers import Qwen2ForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Qwen2ForCausalLM = Qwen2ForCausalLM(make_config(tokenizer)).float()
    return model


def make_config(tokenizer: "PreTrainedTokenizerFast") -> "Qwen2Config":
    """hidden 128, 4 layers, 4 heads, 2 key-value heads, MLP 384, tied embeddings."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.08,  # about 1 / sqrt(hidden); a model this narrow starts slowly from the usual 0.02
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
