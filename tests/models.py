"""Tiny random models in a folder, as transformers and vLLM load them; for every test that needs a real one."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SPECIAL_TOKENS = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
PAD_ID, END_ID = 0, 1

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Four special tokens (0 to 3), then one token for each of the 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(SPECIAL_TOKENS + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_model(
    *, seed: int, tied: bool = False, hidden_size: int = 64, num_layers: int = 2, intermediate_size: int = 128
) -> Qwen2ForCausalLM:
    """A random Qwen2 in float32 with heads of 32, the smallest that vLLM's CPU attention knows.

    Its weights are wider than a fresh model's: at the usual 0.02 every distribution is nearly uniform, and neither a
    stale weight nor a wrong position would show.
    """
    torch.manual_seed(seed)
    heads = hidden_size // 32
    config = Qwen2Config(
        vocab_size=len(SPECIAL_TOKENS) + 256,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )
    model = Qwen2ForCausalLM(config)
    model.float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
            else:  # norms too, so that every weight matters
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def save_tiny_model(folder: Path, *, seed: int, tied: bool = False) -> Path:
    """`tiny_model` and its tokenizer in `folder`."""
    tiny_model(seed=seed, tied=tied).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
