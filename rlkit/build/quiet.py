"""What transformers is asked not to print."""


def quiet_transformers() -> None:
    """No bars for files that load in a blink; what transformers would warn of, rlkit raises."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
