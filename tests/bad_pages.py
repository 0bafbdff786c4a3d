"""Bad inputs of `rlkit dash` and of --report-to: rows of tests/bad_inputs.py."""

from tests.bad_files import SMALL, Bad

PAGES = [
    Bad(
        "dashboard of no folder",
        "rlkit dash runs/dune",
        "runs/dune: no such folder (looked from FOLDER); expected a run folder, as runs/NAME, or a folder of runs",
    ),
    Bad(
        "dashboard into another kind of file",
        "rlkit dash runs/done --export page.pdf",
        "--export page.pdf: expected a name that ends in .html",
    ),
    Bad(
        "numbers to nobody known",
        f"rlkit train {SMALL} --report-to wandbb",
        "log.report_to = 'wandbb': expected tensorboard, wandb, trackio, mlflow, separated by commas, or none",
    ),
]
