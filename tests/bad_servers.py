"""Rows of tests/bad_inputs.py about servers."""

from tests.bad_files import Bad

SERVERS = [
    Bad(
        "addresses for a sampler that asks no server",
        "rlkit train --sampler vllm --sampler.urls http://127.0.0.1:8000",
        "sampler.urls = 'http://127.0.0.1:8000': expected none without --sampler vllm-server",
    ),
    Bad(
        "address that is none",
        "rlkit train --sampler vllm-server --sampler.urls 127.0.0.1:8000",
        "sampler.urls = '127.0.0.1:8000': expected http://HOST:PORT, several with commas, or @FILE",
    ),
    Bad(
        "servers on all networks",
        "rlkit serve --host 0.0.0.0",
        "host = '0.0.0.0': the servers would listen on every network of this machine, and who reaches them can have them run code; name one private address",
    ),
    Bad(
        "servers on a network without a key",
        "rlkit serve --host 10.0.0.7",
        "host = '10.0.0.7': servers on a network need a key that the learner knows; set RLKIT_SERVER_KEY here and there (...), or share a file with --announce",
    ),
]
