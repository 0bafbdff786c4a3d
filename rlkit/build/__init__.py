"""The composition root: names in, objects out. The only room that knows all others.

Every import of a room stands inside the function that needs it, so that `rlkit --help` loads neither torch nor vLLM.
"""

from .algorithms import algo_config, algorithm_class, make_algorithm, step_ends
from .embedded import imitate, tiny_folder
from .idle import idle_settings
from .judging import make_judge, make_pool, make_verifier
from .policy import (
    find_model,
    find_tokenizer,
    learning_rates,
    load_model,
    model_folder,
    pad_id,
    wants_bfloat16,
)
from .prompts import file_examples, held_out_prompts, load_training_rows, make_data, make_task
from .quiet import quiet_transformers
from .reporting import make_reporters, require_reporters
from .samplers import SLACK_TOKENS, is_fleet, make_sampler, sampler_name, server_spec, share_sampler
from .watching import make_tracker, style_tokens

__all__ = [
    "SLACK_TOKENS",
    "algo_config",
    "algorithm_class",
    "file_examples",
    "find_model",
    "find_tokenizer",
    "held_out_prompts",
    "idle_settings",
    "imitate",
    "is_fleet",
    "learning_rates",
    "load_model",
    "load_training_rows",
    "make_algorithm",
    "make_data",
    "make_judge",
    "make_pool",
    "make_reporters",
    "make_sampler",
    "make_task",
    "make_tracker",
    "make_verifier",
    "model_folder",
    "pad_id",
    "quiet_transformers",
    "require_reporters",
    "sampler_name",
    "server_spec",
    "share_sampler",
    "step_ends",
    "style_tokens",
    "tiny_folder",
    "wants_bfloat16",
]
