"""What rlkit says of run folders and checkpoints: rows of the table in tests/bad_inputs.py."""

from tests.bad_files import SMALL, Bad

RUNS = [
    Bad(
        "output folder holds a run",
        f"rlkit train {SMALL} --output-dir runs/done",
        "runs/done: holds a run already; continue it with `rlkit train --resume runs/done`, or choose another --output-dir",
    ),
    Bad(
        "output folder in use",
        f"rlkit train {SMALL} --output-dir runs/busy",
        "runs/busy: another rlkit process is writing there; choose another --output-dir",
    ),
    Bad(
        "output folder that cannot be",
        f"rlkit train {SMALL} --output-dir notes.txt/run",
        "notes.txt/run: cannot write a run here (Not a directory); choose another --output-dir",
    ),
    Bad(
        "--resume of no folder",
        "rlkit train --resume runs/dune",
        "--resume runs/dune: no such folder (looked from FOLDER); expected a run folder, as runs/NAME",
    ),
    Bad(
        "--resume of no run",
        "rlkit train --resume runs",
        "--resume runs: not a run folder, since it has no config.toml; expected a folder that a run wrote",
    ),
    Bad(
        "--resume of a checkpoint",
        "rlkit train --resume runs/done/checkpoints/step-000002",
        "--resume runs/done/checkpoints/step-000002: a checkpoint; pass the run folder it lies in, runs/done",
    ),
    Bad(
        "--resume with other settings",
        "rlkit train --resume runs/done --learning-rate 1 --seed 7",
        "--resume: learner.learning_rate = 1.0 (it was 1e-06), seed = 7 (it was 0) would make it another run; add --allow-changes if you want that one, or start a new run",
    ),
    Bad(
        "--resume with another algorithm",
        "rlkit train --resume runs/done --algo dapo --allow-changes",
        "--resume: algo.name = 'dapo' (it was 'grpo') cannot change in a run, since the checkpoint's state belongs to it; start a new run, from its weights with --model RUN/checkpoints/latest",
    ),
    Bad(
        "--resume of an edited config.toml",
        "rlkit train --resume runs/edited-config",
        "--resume: seed = 3 (it was 0) would make it another run; add --allow-changes if you want that one, or start a new run",
    ),
    Bad(
        "signal that no scheduler sends",
        "rlkit train --save-on-signal SIGKILL",
        "log.save_on_signal = 'SIGKILL': expected of SIGTERM, SIGUSR1, SIGUSR2, SIGHUP, SIGXCPU, separated by commas",
    ),
    Bad(
        "--resume on other data",
        "rlkit train --resume runs/other-data --steps 3",
        "chain (train): the checkpoint was trained on other prompts (the data, its limit, the template or --max-prompt-length changed); resume with what the run's config.toml names",
    ),
    Bad(
        "unreadable checkpoint",
        "rlkit train --resume runs/unreadable --steps 3",
        "runs/unreadable/checkpoints: no checkpoint can be used (step-000002: rlkit/state.json cannot be read (JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1))). Put a copy of one back, or delete the folder runs/unreadable/checkpoints to go on from the beginning",
    ),
    Bad(
        "damaged checkpoint",
        "rlkit train --resume runs/cut --steps 3",
        "runs/cut/checkpoints: no checkpoint can be used (step-000002: rlkit/optimizer.safetensors is not what was written: its checksum differs). Put a copy of one back, or delete the folder runs/cut/checkpoints to go on from the beginning",
    ),
    Bad(
        "checkpoint of an rlkit to come",
        "rlkit train --resume runs/newer --steps 3",
        "runs/newer/checkpoints/step-000002/rlkit/state.json: format 9, this rlkit reads format 3; end the run with the rlkit that began it, or begin a new one from its weights (--model runs/newer/checkpoints/step-000002)",
    ),
    Bad(
        "doctor of no folder",
        "rlkit doctor runs/dune",
        "runs/dune: not a run folder, since it has no metrics.jsonl (looked from FOLDER); expected a folder that `rlkit train` wrote, as runs/NAME",
    ),
    Bad(
        "doctor of a model",
        "rlkit doctor model",
        "model: not a run folder, since it has no metrics.jsonl (looked from FOLDER); expected a folder that `rlkit train` wrote, as runs/NAME",
    ),
    Bad(
        "doctor of nothing",
        "rlkit doctor",
        "rlkit doctor takes one run folder, as runs/NAME, but got none",
    ),
    Bad(
        "doctor with an unknown flag",
        "rlkit doctor runs/done --jsn",
        "doctor: flag --jsn is not known; did you mean --json? Add --help for all of them",
    ),
    Bad(
        "doctor of edited metrics",
        "rlkit doctor runs/edited",
        "runs/edited/metrics.jsonl: holds a line that is not JSON (...); was it edited?",
    ),
    Bad(
        "full disk",
        f"rlkit train {SMALL} --output-dir runs/full",
        "runs/full/checkpoints/step-000002: the checkpoint could not be written (...); is the disk full? Earlier checkpoints are untouched; --resume continues from them",
    ),
    Bad(
        "full disk for what is printed",
        "rlkit tasks > /dev/full",
        "output: cannot be written (No space left on device); make room",
    ),
]
