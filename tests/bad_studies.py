"""Bad inputs of `rlkit analyze` and `rlkit simulate`: rows of tests/bad_inputs.py."""

from tests.bad_files import Bad

STUDIES = [
    Bad(
        "unknown study",
        "rlkit analyze credit tiny",
        "study 'credit' is not known; did you mean 'mc-credit'? Known: implicit, mc-credit, skip; see `rlkit analyze --help`",
    ),
    Bad(
        "nothing to study",
        "rlkit analyze skip",
        "rlkit analyze skip takes one subject, as runs/NAME, a model folder or tiny, but got none",
    ),
    Bad(
        "truth from too few continuations",
        "rlkit analyze mc-credit tiny --k 512 --deep-groups 0",
        "k = '512': expected at most half of 128 continuations: an estimate is held against those it has not seen",
    ),
    Bad(
        "greedy continuations",
        "rlkit analyze skip tiny --temperature 0",
        "sampler.temperature = 0.0: expected more than 0: greedy continuations of one prefix are all the same",
    ),
    Bad(
        "a key without a server",
        "rlkit analyze implicit tiny --key OPENAI_API_KEY",
        "key = 'OPENAI_API_KEY': expected none without --endpoint: a local model needs no key",
    ),
    Bad(
        "a study whose settings are none",
        "rlkit analyze skip model --data task:chain --sampler hf --output-dir no-settings",
        "no-settings/study.json: holds a list, expected a JSON object of settings; was it edited? Choose another --output-dir",
    ),
]
SIMULATED = [
    Bad(
        "probabilities that do not sum to 1",
        "rlkit simulate --p0 .45,.05,.4",
        "p0 = 0.45,0.05,0.4: sums to 0.9, expected 1",
    ),
    Bad(
        "more probabilities than rewards",
        "rlkit simulate --rewards 1,0",
        "p0 has 3 numbers (0.45,0.05,0.5) and rewards 2 (1,0): expected one probability for each action",
    ),
    Bad(
        "no numbers",
        "rlkit simulate --rewards 1,x,0",
        "--rewards '1,x,0': expected numbers separated by commas, as 1,2,3",
    ),
    Bad(
        "algorithm without a bandit",
        "rlkit simulate --algo skpo",
        "--algo skpo: not of GRPO's family, so there is no bandit of it; expected one that `rlkit algos` lists with signs, as grpo, "
        "grpo_n, nsr or w_reinforce",
    ),
    Bad(
        "figure of another kind",
        "rlkit simulate --figure page.png",
        "--figure page.png: expected a name that ends in .html",
    ),
]
