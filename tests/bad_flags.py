"""Bad flags and TOML files: rows of tests/bad_inputs.py."""

from tests.bad_files import Bad

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
        "updates in the middle of nothing",
        "rlkit train --sampler ray --sampler.in-flight-updates",
        "sampler.in_flight_updates = True: expected off without --async-steps: no answer is being written when new weights come",
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
