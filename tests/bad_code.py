"""What rlkit says of code that users bring, as a reward, as data, as an algorithm: rows of tests/bad_inputs.py."""

from tests.bad_files import SMALL, Bad

YOURS = [
    Bad(
        "no such file",
        "rlkit train --reward my_rewards.py:score",
        "--reward my_rewards.py:score: no file my_rewards.py (looked from FOLDER)",
    ),
    Bad(
        "nothing of that name in it",
        "rlkit train --reward my_reward.py:scores",
        "--reward my_reward.py:scores: my_reward.py has no 'scores'; did you mean 'score'? It defines: score, words, fails, one_argument, close, seven, Half",
    ),
    Bad(
        "it raises when imported",
        "rlkit train --reward raises_at_import.py:score",
        "--reward raises_at_import.py:score: importing raises_at_import.py failed: ZeroDivisionError: division by zero at FOLDER/raises_at_import.py:1",
    ),
    Bad(
        "it exits when imported",
        "rlkit train --reward exits_at_import.py:score",
        "--reward exits_at_import.py:score: importing exits_at_import.py failed: SystemExit: no licence at FOLDER/exits_at_import.py:3",
    ),
    Bad(
        "it imports what is not there",
        "rlkit train --reward needs_more.py:score",
        "--reward needs_more.py:score: cannot import needs_more.py (No module named 'a_package_nobody_has')",
    ),
    Bad(
        "it takes other arguments",
        "rlkit train --reward my_reward.py:one_argument",
        "--reward my_reward.py:one_argument: expected to be called with (prompt, text) (too many positional arguments)",
    ),
    Bad(
        "it could be of two projects",
        "rlkit train --reward my_reward.py:close",
        "--reward my_reward.py:close: its signature fits TRL's (prompts, completions, **columns) and verifiers' (prompt, completion, answer, info, state, ...), plural for a group; say which: my_reward.py:close(style=trl) or my_reward.py:close(style=verifiers)",
    ),
    Bad(
        "it returns no number",
        f"rlkit train {SMALL} --reward my_reward.py:words --output-dir runs/words",
        "2 of 2 verdicts are errors, more than --reward.max-error-share 0.2. The first: prompt chain-test-0, answer '...': words returned \"'good'\" (str), expected a finite number",
        3,
    ),
    Bad(
        "it raises",
        f"rlkit train {SMALL} --reward my_reward.py:fails --output-dir runs/fails",
        "2 of 2 verdicts are errors, more than --reward.max-error-share 0.2. The first: prompt chain-test-0, answer '...': ValueError: math domain error at FOLDER/my_reward.py:13",
        3,
    ),
    Bad(
        "data that is no rows",
        "rlkit train --data my_reward.py:seven",
        "--data my_reward.py:seven: expected rows, or a function without arguments that gives rows; TypeError: 'int' object is not iterable",
    ),
    Bad(
        "algorithm that is none",
        "rlkit train --algo my_reward.py:Half",
        "--algo my_reward.py:Half: <class 'my_reward.Half'> has no credit, loss; expected a class with collect, credit and loss, as in rlkit/algos/base.py",
    ),
]
