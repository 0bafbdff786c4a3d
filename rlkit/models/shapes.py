"""The sizes of a model: a table of the families the papers use, so that memory can be told before anything is downloaded, or a config.json."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a Llama-like decoder (Llama, Qwen2, Qwen3) that fix its parameters and its memory.

    >>> SHAPES["Qwen2.5-0.5B"].parameters
    494032768
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    """Width of the gated MLP (config.json: intermediate_size)."""
    vocab: int
    """Rows of the embedding, padding rows included."""
    tied: bool
    """Whether the output layer is the embedding."""
    positions: int
    """Longest sequence, in tokens (config.json: max_position_embeddings)."""
    qkv_bias: bool = False
    qk_norm: bool = False

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Every trained number, exactly; a tied embedding counts once."""
        h, q, kv = self.hidden, self.q_width, self.kv_width
        attention = h * q + 2 * h * kv + q * h
        attention += (q + 2 * kv) * self.qkv_bias + 2 * self.head_dim * self.qk_norm
        layer = attention + 3 * h * self.mlp + 2 * h
        return self.vocab * h * (1 if self.tied else 2) + self.layers * layer + h


def _known_shapes() -> dict[str, ModelShape]:
    """Short name -> shape, from the models' config.json files."""
    shapes: dict[str, ModelShape] = {}

    def add(positions: Mapping[str, int], sizes: tuple[int, ...], tied: bool, bias: bool, norm: bool) -> None:
        h, layers, heads, kv, head_dim, mlp, vocab = sizes
        widths = {"hidden": h, "layers": layers, "heads": heads, "kv_heads": kv, "head_dim": head_dim}
        for name, length in positions.items():
            shapes[name] = ModelShape(
                **widths, mlp=mlp, vocab=vocab, tied=tied, positions=length, qkv_bias=bias, qk_norm=norm
            )

    # size, hidden, layers, heads, kv heads, head_dim, MLP, vocabulary, positions of the base, of -Instruct, of -Math (0: none)
    for size, *sizes, base, instruct, math in (
        ("0.5B", 896, 24, 14, 2, 64, 4864, 151_936, 32_768, 32_768, 0),
        ("1.5B", 1536, 28, 12, 2, 128, 8960, 151_936, 131_072, 32_768, 4096),
        ("3B", 2048, 36, 16, 2, 128, 11_008, 151_936, 32_768, 32_768, 0),
        ("7B", 3584, 28, 28, 4, 128, 18_944, 152_064, 131_072, 32_768, 4096),
        ("14B", 5120, 48, 40, 8, 128, 13_824, 152_064, 131_072, 32_768, 0),
        ("32B", 5120, 64, 40, 8, 128, 27_648, 152_064, 131_072, 32_768, 0),
        ("72B", 8192, 80, 64, 8, 128, 29_568, 152_064, 131_072, 32_768, 4096),
    ):
        names = {f"Qwen2.5-{size}": base, f"Qwen2.5-{size}-Instruct": instruct}
        if math:
            names |= {f"Qwen2.5-Math-{size}": math, f"Qwen2.5-Math-{size}-Instruct": math}
        add(names, tuple(sizes), tied=size in ("0.5B", "1.5B", "3B"), bias=True, norm=False)
    for size, *sizes in (
        ("0.6B", 1024, 28, 16, 8, 128, 3072, 151_936),
        ("1.7B", 2048, 28, 16, 8, 128, 6144, 151_936),
        ("4B", 2560, 36, 32, 8, 128, 9728, 151_936),
        ("8B", 4096, 36, 32, 8, 128, 12_288, 151_936),
        ("14B", 5120, 40, 40, 8, 128, 17_408, 151_936),
        ("32B", 5120, 64, 64, 8, 128, 25_600, 151_936),
    ):
        names = {f"Qwen3-{size}": 40_960}
        if size != "32B":  # its base was not published
            names[f"Qwen3-{size}-Base"] = 32_768
        add(names, tuple(sizes), tied=size in ("0.6B", "1.7B", "4B"), bias=False, norm=True)
    for size, *sizes in (
        ("3.2-1B", 2048, 16, 32, 8, 64, 8192, 128_256),
        ("3.2-3B", 3072, 28, 24, 8, 128, 8192, 128_256),
        ("3.1-8B", 4096, 32, 32, 8, 128, 14_336, 128_256),
        ("3.1-70B", 8192, 80, 64, 8, 128, 28_672, 128_256),
    ):
        names = {f"Llama-{size}": 131_072, f"Llama-{size}-Instruct": 131_072}
        if size == "3.1-70B":
            names["Llama-3.3-70B-Instruct"] = 131_072
        add(names, tuple(sizes), tied=size.startswith("3.2"), bias=False, norm=False)
    return shapes


SHAPES = _known_shapes()


def shape_from_config(config: Mapping[str, object]) -> ModelShape | None:
    """The shape in a config.json; None when its family is not Llama-like or a size is missing."""
    family = config.get("model_type")
    if family not in ("llama", "qwen2", "qwen3"):
        return None

    def size(key: str, default: int = 0) -> int:
        value = config.get(key)
        return value if isinstance(value, int) and value > 0 else default

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    # Defaults are those of transformers' config classes: what a config.json may leave out.
    shape = ModelShape(
        hidden=hidden,
        layers=size("num_hidden_layers"),
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", 128 if family == "qwen3" else hidden // max(heads, 1)),
        mlp=size("intermediate_size"),
        vocab=size("vocab_size"),
        tied=config.get("tie_word_embeddings") is True,
        positions=size("max_position_embeddings", 32_768 if family != "llama" else 2048),
        qkv_bias=family == "qwen2" or config.get("attention_bias") is True,
        qk_norm=family == "qwen3",
    )
    needed = (shape.hidden, shape.layers, shape.heads, shape.head_dim, shape.mlp, shape.vocab)
    return shape if all(needed) else None
