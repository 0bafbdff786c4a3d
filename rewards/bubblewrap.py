"""The command line that builds a sandbox with bubblewrap: what a program sees, and nothing else."""

import functools
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
"""The folder that holds `inside`, the only part of rlkit that a program can read."""


@functools.cache
def interpreter() -> str:
    """The interpreter behind a virtual environment."""
    major, minor = sys.version_info[:2]
    base = Path(sys.base_exec_prefix, "bin", f"python{major}.{minor}")
    return str(base) if base.exists() else os.path.realpath(sys.executable)


@functools.cache
def bubblewrap(files: int) -> list[str]:
    """The command line that builds the sandbox; `files`: MiB of its /tmp."""
    command = [
        *(
            shutil.which("bwrap") or "bwrap",
            "--unshare-user",
            "--unshare-pid",
            "--unshare-net",
            "--unshare-ipc",
        ),
        *("--unshare-uts", "--unshare-cgroup-try", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
        *("--cap-drop", "ALL", "--new-session", "--die-with-parent"),
        "--as-pid-1",  # so that bubblewrap, and we, learn what it used, and that nothing is left when it ends
        *("--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"),
    ]
    for name in ("/bin", "/lib", "/lib32", "/lib64"):  # links into /usr on most systems
        if os.path.islink(name):
            command += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            command += ["--ro-bind", name, name]
    prefix = Path(sys.base_prefix)
    if not prefix.is_relative_to("/usr"):
        command += ["--ro-bind", interpreter(), interpreter()]
        for library in {prefix / "lib", prefix / sys.platlibdir}:
            if library.is_dir():
                command += ["--ro-bind", str(library), str(library)]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = prefix / sys.platlibdir / version / "site-packages"
    if packages.is_dir():  # installed packages are nobody's business, rlkit among them
        command += ["--tmpfs", str(packages), "--remount-ro", str(packages)]
    command += ["--ro-bind", str(HERE / "inside"), "/rlkit/inside"]
    for device in ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"):
        command += ["--dev-bind", device, device]
    command += ["--size", str(files << 20), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    return [*command, "--remount-ro", "/"]
