"""A server as a child of this process, that never outlives it: started through `keeper.py`, its words kept in a file."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

KEEPER = Path(__file__).with_name("keeper.py")
GRACE_SECONDS = 10.0
"""For a server to end by itself; a little more than the keeper gives it."""


class ServerProcess:
    """One command with all that it starts. `kill` ends it now, `stop` lets it end by itself first."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as words:
            self._keeper = subprocess.Popen(
                [sys.executable, str(KEEPER), str(os.getpid()), *command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The keeper's, which is also the number of the process group."""
        return self._keeper.pid

    def alive(self) -> bool:
        return self._keeper.poll() is None

    def last_words(self, lines: int = 50) -> str:
        """The end of what it printed."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def kill(self) -> None:
        """End it and all that it started, at once; frozen processes too."""
        self._end(signal.SIGUSR1)

    def stop(self) -> None:
        """Let it end by itself, then end what is left."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.alive():
            self._keeper.send_signal(how)
        try:
            self._keeper.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        try:  # what is left when the keeper itself was killed, or frozen
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._keeper.wait()
