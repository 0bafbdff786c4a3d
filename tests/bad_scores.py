"""Bad inputs of `rlkit score` and `rlkit rewards`: rows of tests/bad_inputs.py."""

from tests.bad_files import Bad

SCORES = [
    Bad(
        "score: missing file",
        "rlkit score output.jsonl --reward math",
        "output.jsonl: no such file; did you mean outputs.jsonl?",
    ),
    Bad(
        "score: nothing",
        "rlkit score --reward math",
        "rlkit score takes one file or folder of completions, or - for stdin, but got none",
    ),
    Bad(
        "score: empty file", "rlkit score empty.jsonl", "empty.jsonl: it is empty; expected at least one row"
    ),
    Bad(
        "score: no completion column",
        "rlkit score unnamed.jsonl --reward math",
        "unnamed.jsonl: no column is recognised as the completion. Columns: q, a; name one with --completion",
    ),
    Bad(
        "score: wrong column",
        "rlkit score outputs.jsonl --gold ansver",
        "outputs.jsonl: --gold: column 'ansver' is not known; did you mean 'answer'? Known: answer, response",
    ),
    Bad(
        "score: malformed row",
        "rlkit score broken.jsonl --completion question",
        'broken.jsonl, row 2: broken JSON (Expecting \',\' delimiter: line 1 column 23 (char 22)): \'{"question": "2 + 2, "answer": "4"}\'; expected one JSON object per line (--on-bad-row skip leaves such rows out)',
    ),
    Bad(
        "score: row without a completion",
        "rlkit score outputs.jsonl --completion answer --on-bad-row error",
        "outputs.jsonl, row 2: the completion is missing; expected a text or a list of texts in column 'answer' (--on-bad-row skip leaves such rows out)",
    ),
    Bad(
        "score: unknown reward",
        "rlkit score outputs.jsonl --reward mat",
        "reward 'mat' is not known; did you mean 'math'? Known: ...; or your own file.py:attr or pkg.mod:attr; or a sum, as in math+0.1*format",
    ),
    Bad(
        "score: output of another kind",
        "rlkit score outputs.jsonl --out verdicts.csv",
        "out = 'verdicts.csv': expected a name that ends in .jsonl or .parquet, or - for stdout",
    ),
    Bad(
        "score: output that is there",
        "rlkit score outputs.jsonl --out train.jsonl",
        "--out train.jsonl: is there already; choose another name, or add --overwrite",
    ),
    Bad(
        "score: output in no folder",
        "rlkit score outputs.jsonl --out verdicts/o.jsonl",
        "--out verdicts/o.jsonl: no folder verdicts (looked from FOLDER); make it, or choose another",
    ),
    Bad(
        "score: disagreements without labels",
        "rlkit score outputs.jsonl --disagreements d.jsonl",
        "disagreements = 'd.jsonl': expected a label column beside it (--label COLUMN) to disagree with",
    ),
    Bad(
        "score: too many errors",
        "rlkit score outputs.jsonl --reward my_reward.py:fails",
        "2 of 2 verdicts are errors, more than --reward.max-error-share 0.2. The first of the commonest: outputs-1: ValueError: math domain error at FOLDER/my_reward.py:13",
        1,
    ),
    Bad(
        "score: nothing judged",
        "rlkit score no_answer.jsonl --completion question --reward math",
        "none of 1 completions could be judged (no_answer-1: no gold answer); check --reward and --gold",
        1,
    ),
]
REWARDS = [
    Bad(
        "rewards: unknown verifier",
        "rlkit rewards mth",
        "reward 'mth' is not known; did you mean 'math'? Known: ...",
    ),
    Bad(
        "rewards: wrong use",
        "rlkit rewards math --json",
        "rlkit rewards takes nothing, a NAME, or `check REWARD --data DATA`, but got math --json",
    ),
    Bad(
        "rewards: check of no data",
        "rlkit rewards check math",
        "rlkit rewards check: which gold answers? Name the data with --data train.jsonl",
    ),
    Bad(
        "rewards: check of a missing file",
        "rlkit rewards check math --data trian.jsonl",
        "trian.jsonl: no such file; did you mean train.jsonl?",
    ),
    Bad(
        "rewards: check with a wrong column",
        "rlkit rewards check math --data train.jsonl --gold ansver",
        "train.jsonl: --gold: column 'ansver' is not known; did you mean 'answer'? Known: answer, question",
    ),
]
