"""What verifiers print: shown to people up to a limit, then dropped; one that prints without end fills neither terminal nor pipe."""

import fcntl
import os
import sys

from rlkit.printable import printable

MAX_SHOWN = 20_000
"""Bytes shown in a pool's life."""
_PIPE = _CHUNK = 1 << 20
_TURN = 8
"""Chunks read in one go at most."""


class Output:
    """A pipe whose one end all processes of a pool print to.

    fd: the end to read;  sink: the end to print to
    """

    def __init__(self, whose: str) -> None:
        self.fd, self.sink = os.pipe()
        os.set_blocking(self.fd, False)
        if sys.platform == "linux":  # one that prints a lot waits less often for this process
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, _PIPE)
        self._whose = whose
        self._shown = 0

    def pump(self, events: int = 0) -> None:
        """Show what has been printed since, on stderr: stdout may be for programs."""
        for _ in range(_TURN):
            try:
                chunk = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                return
            self._show(chunk)

    def close(self) -> None:
        self.pump()
        os.close(self.fd)
        os.close(self.sink)

    def _show(self, chunk: bytes) -> None:
        if self._shown > MAX_SHOWN:
            return
        text = printable(chunk[: MAX_SHOWN - self._shown].decode("utf-8", "replace"))
        self._shown += len(chunk)
        if self._shown > MAX_SHOWN:
            text += f"\n[{self._whose} has printed {MAX_SHOWN:,} bytes; what else it prints is not shown]\n"
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, or none: then nobody wants to read it
