"""Real signals to this process, and what they do to the step it is in."""

import os
import signal
import time

import pytest

from rlkit.log_config import LogConfig
from rlkit.stopping import GaveUp, Stop

BOTH = LogConfig().signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # python runs handlers between two instructions


def until_told(stop_at: float = 20.0) -> None:
    """Work without end, as far as a test may have one."""
    until = time.monotonic() + stop_at
    while time.monotonic() < until:
        time.sleep(0.01)


def test_ctrl_c_asks_once_and_ends_at_the_second() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Stop(said.append) as stop:
        send(signal.SIGINT)
        assert stop.asked and "Ctrl-C again: at once, without" in said[0]
        send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before and len(said) == 1


@pytest.mark.parametrize("number", BOTH)
def test_a_scheduler_gives_the_step_half_its_grace(number: signal.Signals) -> None:
    said: list[str] = []
    with Stop(said.append, BOTH, grace=0.2) as stop:
        with pytest.raises(GaveUp), stop.may_give_up():
            send(number)
            until_told()
        assert stop.asked
        with pytest.raises(GaveUp), stop.may_give_up():  # too late for the next, as well
            raise AssertionError("it began")
    assert said == [
        f"{number.name}: stopping after this step, with a checkpoint; if its update has not begun in 0.1 s, without it"
    ]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_has_begun_to_change_weights_is_not_given_up() -> None:
    with Stop(lambda s: None, BOTH, grace=0.02) as stop:
        send(signal.SIGUSR1)
        until_told(0.1)
        assert stop.asked


def test_schedulers_send_several_signals() -> None:
    said: list[str] = []
    with Stop(said.append, BOTH, grace=60) as stop:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            send(number)
        assert stop.asked and len(said) == 1
        with stop.may_give_up():
            pass


def test_where_saving_is_slow_the_step_has_less() -> None:
    assert Stop(print, BOTH, grace=30, save_seconds=lambda: 1.0).step_seconds == 15
    assert Stop(print, BOTH, grace=30, save_seconds=lambda: 10.0).step_seconds == 10
    assert Stop(print, BOTH, grace=30, save_seconds=lambda: 60.0).step_seconds == 0.01


def test_several_ranks_wait_for_the_step() -> None:
    said: list[str] = []
    with Stop(said.append, BOTH, grace=0.01, may_give_up=False) as stop, stop.may_give_up():
        send(signal.SIGTERM)
        until_told(0.1)
    assert said == ["SIGTERM: stopping after this step, with a checkpoint"]
