"""The first code in the sandbox: sets the limits, says that it is ready, and becomes what the job asks for.

What happens before the word "ready" is the sandbox's fault; whatever happens after it is the program's.
"""

import os
import resource
import sys

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """argv: the descriptors of the job, of the status pipe, and of the pipes from and to the other sandbox (-1: none)."""
    job_fd, status_fd, from_fd, to_fd = map(int, sys.argv[-4:])
    sys.argv[:] = ["program.py"]
    with open(job_fd, "rb") as stream:
        job = wire.decode(stream.read(), wire.no_object)
    kept = sorted(fd for fd in (2, status_fd, from_fd, to_fd, 1 << 20) if fd >= 0)
    for low, high in zip(kept, kept[1:], strict=False):
        os.closerange(low + 1, high)
    if "filter" in job:  # bubblewrap has set it already, where there is bubblewrap
        _install_filter(job["filter"])
    for name, value in job["limits"].items():
        _limit(getattr(resource, f"RLIMIT_{name}"), value)
    if job["kind"] == "tester":
        from . import tester

        tester.serve(job, status_fd, from_fd, to_fd)
        return
    os.write(status_fd, b"R")
    os.close(status_fd)
    if job["kind"] == "subject":
        from . import subject

        subject.serve(job["sources"], from_fd, to_fd)
    else:
        run_program(job["sources"])


def _limit(which: int, value: int) -> None:
    """Lower a limit for good; one that is lower already stays."""
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _install_filter(program: bytes) -> None:
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, 9)  # PDEATHSIG, SIGKILL: it ends with who started it, as bubblewrap's do
    code = Program(len(program) // 8, program)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(
        22, 2, ctypes.byref(code), 0, 0
    ):  # NO_NEW_PRIVS; SECCOMP, FILTER
        raise OSError(ctypes.get_errno(), "the kernel refuses the system call filter")


def new_main() -> "dict[str, Any]":
    """The namespace of a fresh `__main__`; with `exit` and `quit`, which -S leaves out."""
    import builtins

    module = type(sys)("__main__")
    module.__dict__["__builtins__"] = builtins
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    sys.modules["__main__"] = module
    return module.__dict__


def compiled(sources: "list[str]") -> "Any":
    """The first of these texts that is Python, compiled. Raises the SyntaxError of the first when none is."""
    first: Exception | None = None
    for source in sources:
        try:
            return compile(source, "program.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:  # ValueError: a NUL character
            first = first or error
    assert first is not None
    raise first


def run_program(sources: "list[str]") -> None:
    code = compiled(sources)
    exec(code, new_main())
