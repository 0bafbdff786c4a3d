"""A checkpoint: everything that decides the next step, all or nothing, checksummed, and nothing pickled.

    step-000100/                 a model folder, as transformers and vLLM load it
      config.json  model.safetensors (or model-00001-of-00003.safetensors, ...)  tokenizer...
      rlkit/SHA256SUMS           of every file; `sha256sum -c rlkit/SHA256SUMS` reads it too
      rlkit/state.json           step, updates, sampled tokens, data position, algorithm state, versions, format
      rlkit/config.toml          the run's settings when it was written
      rlkit/algo.safetensors     the tensors of the algorithm's state, each named by its path as a JSON list
      rlkit/ahead.json, ahead.safetensors   with --async-steps: rollouts that wait for their step
      rlkit/optimizer.safetensors   or its shards
      rlkit/random.safetensors   every rank's global generators
      adapter/                   with adapters: they alone, as peft loads them (the model folder has them merged)
      reference/                 a reference model that has been moved, a model folder too
    latest -> step-000100        a link for people and commands; a resume looks at the folders themselves

    snapshot    live objects -> host memory: the only part that a step waits for
    write       a snapshot -> a draft, checksummed, fsynced, renamed, linked; then the oldest go
    saver       write, here or in a thread beside the following steps
    read        which checkpoint to go on from, and its parts

A name `step-...` that exists is whole, also after a power cut; whether it still is what was written, its checksums tell.
"""

from .read import Found, choose, config_of, put_back, random_states, read_position, restore_optimizer
from .saver import Saver
from .snapshot import About, Keeper, Position
from .write import folder_of, steps_in

__all__ = [
    "About",
    "Found",
    "Keeper",
    "Position",
    "Saver",
    "choose",
    "config_of",
    "folder_of",
    "put_back",
    "random_states",
    "read_position",
    "restore_optimizer",
    "steps_in",
]
