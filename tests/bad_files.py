"""What the table of tests/bad_inputs.py is made of: its rows, and the files that they name."""

from dataclasses import dataclass

SMALL = (
    "--model model --data task:chain --sampler hf --dtype float32 --prompts-per-step 2 --num-generations 2 "
    "--max-completion-length 8 --eval-prompts 2 --workers 1 --steps 2 --no-tensorboard"
)
"""Flags of a run of a second; `model` is a random model of 0.1 M parameters."""


@dataclass(frozen=True)
class Bad:
    """One bad input; `...` in the message stands for what differs between machines, FOLDER for the working folder."""

    what: str
    command: str
    message: str
    code: int = 2


FILES = {
    "train.jsonl": '{"question": "What is 1 + 1?", "answer": "2"}\n',
    "empty.jsonl": "",
    "outputs.jsonl": '{"answer": "2", "response": "It is 2."}\n{"answer": null, "response": "It is 4."}\n',
    "notes.txt": "question,answer\n",
    "unnamed.jsonl": '{"q": "What is 1 + 1?", "a": "2"}\n',
    "no_answer.jsonl": '{"question": "What is 1 + 1?"}\n',
    "broken.jsonl": '{"question": "1 + 1", "answer": "2"}\n{"question": "2 + 2, "answer": "4"}\n',
    "gap.jsonl": '{"question": "1 + 1", "answer": "2"}\n{"question": "2 + 2", "answer": ""}\n',
    "odd.jsonl": '{"question": "What is 1 + 1?", "answer": "{2"}\n',
    "broken.toml": "steps = \n",
    "key.toml": '[algo]\nname = "grpo"\nepsilom = 0.3\n',
    "type.toml": 'steps = "many"\n',
    "switch.toml": '[data]\nshuffle = "yes"\n',
    "no-settings/study.json": "[]\n",
    "my_reward.py": (
        "import math\n\n\n"
        "def score(prompt, text):\n    return float(prompt.reference in text)\n\n\n"
        "def words(prompt, text):\n    return 'good'\n\n\n"
        "def fails(prompt, text):\n    return math.log(0)\n\n\n"
        "def one_argument(text):\n    return 1.0\n\n\n"
        "def close(completions, answers, **kwargs):\n    return [1.0 for _ in answers]\n\n\n"
        "def seven():\n    return 7\n\n\n"
        "class Half:\n    def collect(self, prompts, sample, seed): ...\n"
    ),
    "raises_at_import.py": "limit = 1 / 0\n",
    "exits_at_import.py": "import sys\n\nsys.exit('no licence')\n",
    "needs_more.py": "import a_package_nobody_has\n",
}
