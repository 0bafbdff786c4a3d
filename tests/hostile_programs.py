"""Programs that mean harm, and what is to become of each: more than 100 ways to hang, flood, break out, spy and cheat.

`HOSTILE` are run as they are, and end as they should within their limits. `CHEATS` answer a question wrongly and try to
be called right. In their text @MARK@ is part of every file name they write, @FOLDER@ a folder of the parent with a secret
in it, @PID@ the parent's process, @PORT@ where it listens.

    python -m tests.hostile_programs        run all of them in the sandbox; one line each
"""

import ctypes
import os
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rlkit.errors import ConfigError
from rlkit.rewards.code_verifier import CodeVerifier
from rlkit.rewards.sandbox import Kind, Limits, Ran, require_sandbox, run
from rlkit.types import Prompt, Score


def refusal() -> str:
    """Why no program can be run here; "": they can."""
    try:
        require_sandbox("bwrap")
    except ConfigError as error:
        return str(error)
    return ""


LIMITS = Limits(wall=6.0, cpu=2, memory=256, threads=32, output=1 << 20, files=4)
SLACK = 5.0
"""Seconds above the wall limit, for a machine that is busy."""


@dataclass(frozen=True)
class Hostile:
    """One program. `ended`: how it may end; `shows`: what it must print, as proof that it was refused."""

    name: str
    program: str
    ended: tuple[str, ...]
    shows: str = ""
    stdin: bytes = b""
    bare: bool = True
    """Whether the limits alone, without namespaces, hold it, too."""


TIME = ("cpu", "wall")
MEMORY = ("memory", "signal", "exit")  # by what Python makes of a refused allocation
ANY_END = ("ok", "exit", "signal", "memory")


def _refused(name: str, action: str, *, bare: bool = True) -> Hostile:
    """A program that does `action` and says which OSError it got; doing it prints DONE."""
    lines = "\n".join("    " + line for line in action.strip().split("\n"))
    program = f"try:\n{lines}\n    print('DONE')\nexcept (OSError, ImportError, ValueError) as e:\n    print('REFUSED', type(e).__name__)\n"
    return Hostile(name, program, ("ok",), "REFUSED", bare=bare)


ENDLESS = [
    Hostile("loop", "while True: pass", TIME),
    Hostile("loop that catches everything", "while True:\n    try:\n        while True: pass\n    except BaseException: pass", TIME),
    Hostile("power of powers, in C", "print(10**10**10)", (*TIME, *MEMORY)),
    Hostile("long division, in C", "x = 7**2000000\nwhile True: x % (7**1999999 + 2)", TIME),
    Hostile("str of a huge int", "import sys\nsys.set_int_max_str_digits(0)\nstr(3**30000000)", (*TIME, *MEMORY)),
    Hostile("regex that backtracks", "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')", TIME),
    Hostile("regex in a thread", "import re, threading\nthreading.Thread(target=re.match, args=(r'(a|a)*$', 'a' * 40 + 'b')).start()", TIME),
    Hostile("sum of a huge range", "sum(range(10**18))", TIME),
    Hostile("search without end", "import itertools\n-1 in itertools.count()", TIME),
    Hostile("deque without end", "import collections, itertools\ncollections.deque(itertools.count(), maxlen=0)", TIME),
    Hostile("sleep", "import time\ntime.sleep(10**6)", ("wall",)),
    Hostile("sleep again and again", "import time\nwhile True:\n    try: time.sleep(1)\n    except BaseException: pass", ("wall",)),
    Hostile("signals ignored", "import signal\nfor s in signal.valid_signals():\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass", TIME),
    Hostile("alarm handler that goes on", "import signal\nsignal.signal(signal.SIGALRM, lambda *a: signal.alarm(1))\nsignal.alarm(1)\nwhile True: pass", TIME),
    Hostile("CPU limit raised", "import resource\ntry: resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\nexcept (OSError, ValueError): print('REFUSED', flush=True)\nwhile True: pass", TIME, "REFUSED"),
    Hostile("lock held for ever", "import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()", ("wall",)),
    Hostile("pipe that nobody writes to", "import os\nr, w = os.pipe()\nos.read(r, 1)", ("wall",)),
    Hostile("select without end", "import os, select\nr, w = os.pipe()\nselect.select([r], [], [])", ("wall",)),
    Hostile("fifo that nobody opens", "import os\nos.mkfifo('rlkit-@MARK@')\nopen('rlkit-@MARK@').read()", ("wall",)),
    Hostile("thread that outlives the program", "import threading, time\nthreading.Thread(target=time.sleep, args=(10**6,)).start()", ("wall",)),
    Hostile("atexit without end", "import atexit, time\natexit.register(time.sleep, 10**6)", ("wall",)),
    Hostile("__del__ without end", "class A:\n    def __del__(self):\n        while True: pass\na = A()", TIME),
    Hostile("event loop without end", "import asyncio\nasyncio.run(asyncio.sleep(10**6))", ("wall",)),
    Hostile("generator of generators", "def g():\n    while True: yield from iter([])\nlist(g())", TIME),
    Hostile("hash collisions", "class A(int):\n    __hash__ = lambda s: 1\n    __eq__ = lambda s, o: False\n{A(i) for i in range(10**6)}", TIME),
    Hostile("compiler kept busy", "exec('x = ' + ' + '.join(['1'] * 10**7))", (*TIME, *MEMORY)),
]  # fmt: skip

MEMORY_BOMBS = [
    Hostile("one large string", "x = 'a' * 10**12", MEMORY),
    Hostile("one large bytearray", "x = bytearray(2 * 10**9)", MEMORY),
    Hostile("list that grows", "x = []\nwhile True: x.append('a' * 10**6)", MEMORY),
    Hostile("list that doubles", "x = [0]\nwhile True: x += x", MEMORY),
    Hostile("dictionary that grows", "x = {}\nwhile True: x[len(x)] = bytes(1000)", (*MEMORY, *TIME)),
    Hostile("memory errors caught", "x = []\nwhile True:\n    try: x.append(bytes(10**6))\n    except MemoryError: pass", (*TIME, *MEMORY)),
    Hostile("mmap", "import mmap\nx = []\nwhile True:\n    x.append(mmap.mmap(-1, 10**8)); x[-1].write(b'a' * 10**8)", MEMORY),
    Hostile("shared mmap", "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 10**7, mmap.MAP_SHARED)); x[-1][:] = bytes(10**7)", MEMORY),
    Hostile("malloc through ctypes", "import ctypes\nc = ctypes.CDLL(None)\nc.calloc.restype = ctypes.c_void_p\nn = 0\nwhile c.calloc(1, ctypes.c_size_t(10**7)): n += 1\nprint('REFUSED' if n < 100 else 'DONE', n)", ("ok",), "REFUSED"),
    Hostile("list of lists", "x = [[[0] * 1000] * 1000] * 1000\nimport copy\ncopy.deepcopy(x)\n[[list(z) for z in y] for y in x]", (*MEMORY, *TIME)),
    Hostile("zip bomb in memory", "import zlib\nc = zlib.compressobj()\nb = b''.join(c.compress(bytes(10**7)) for _ in range(100)) + c.flush()\nzlib.decompress(b)", (*MEMORY, *TIME)),
    Hostile("format width", "x = f'{1:>{10**10}}'", MEMORY),
    Hostile("deep recursion", "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", (*MEMORY, *TIME)),
    Hostile("deep recursion in C", "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)", (*MEMORY, *TIME)),
    Hostile("memory limit raised", "import resource\ntry: resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nexcept (OSError, ValueError): print('REFUSED', flush=True)\nx = bytearray(10**9)", MEMORY, "REFUSED"),
    Hostile("descriptors without end", "import os\nx = []\nwhile True: x.append(os.pipe())", ("exit",)),
    _refused("memory file", "import os\nos.memfd_create('x')"),
    Hostile("System V memory", "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nprint('REFUSED' if c.shmget(0, 10**8, 0o1600) == -1 else 'DONE')", ("ok",), "REFUSED"),
    Hostile("large exception message", "raise ValueError('a' * 10**7)", ("output", "exit")),
]  # fmt: skip

PROCESSES = [
    _refused("fork", "import os\nos.fork()"),
    Hostile("fork bomb", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", TIME),
    Hostile("fork through ctypes", "import ctypes\nprint('REFUSED' if ctypes.CDLL(None).fork() == -1 else 'DONE')", ("ok",), "REFUSED"),
    Hostile("vfork, by its number", "import ctypes, platform\nc = ctypes.CDLL(None)\nprint('REFUSED' if platform.machine() != 'x86_64' or c.syscall(58) == -1 else 'DONE')", ("ok",), "REFUSED"),
    Hostile("clone, by its number", "import ctypes, platform\nc = ctypes.CDLL(None)\nprint('REFUSED' if c.syscall(56 if platform.machine() == 'x86_64' else 220, 17, 0, 0, 0, 0) == -1 else 'DONE')", ("ok",), "REFUSED"),
    Hostile("clone3, by its number", "import ctypes\nprint('REFUSED' if ctypes.CDLL(None).syscall(435, bytes(88), 88) == -1 else 'DONE')", ("ok",), "REFUSED"),
    _refused("subprocess", "import subprocess\nsubprocess.run(['/bin/true'])"),
    _refused("posix_spawn", "import os\nos.posix_spawn('/bin/true', ['true'], {})"),
    Hostile("shell", "import os\nprint('REFUSED' if os.system('echo DO''NE') != 0 else 'DONE')", ("ok",), "REFUSED"),
    _refused("daemon by double fork", "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(1000)"),
    _refused("multiprocessing", "import multiprocessing as m\nm.get_context('fork').Process(target=print).start()"),
    Hostile("threads without end", "import threading, time\nwhile True:\n    try: threading.Thread(target=time.sleep, args=(1000,)).start()\n    except RuntimeError: pass", TIME),
    Hostile("threads with small stacks", "import threading, time\nthreading.stack_size(32768)\nwhile True:\n    try: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n    except (RuntimeError, MemoryError): pass", TIME),
    Hostile("threads that spin", "import threading\ndef f():\n    while True: pass\nfor _ in range(8): threading.Thread(target=f).start()", TIME),
    _refused("kill the parent", "import os\nos.kill(@PID@, 9)"),
    _refused("kill everything", "import os\nos.kill(-1, 9)"),
    _refused("kill the first process", "import os\nos.kill(1, 9)\nos.kill(os.getppid(), 9)"),
    _refused("kill the group", "import os\nos.killpg(0, 9)"),
    Hostile("tgkill, by its number", "import ctypes, platform\nprint('REFUSED' if ctypes.CDLL(None).syscall(234 if platform.machine() == 'x86_64' else 131, @PID@, @PID@, 9) == -1 else 'DONE')", ("ok",), "REFUSED"),
    _refused("a signal by fcntl", "import fcntl, os\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, @PID@)"),
    _refused("a signal by ioctl", "import fcntl, socket\nfcntl.ioctl(socket.socketpair()[0], 0x8901, (@PID@).to_bytes(4, 'little'))"),
    _refused("pidfd", "import os\nos.pidfd_open(@PID@)"),
    Hostile("ptrace", "import ctypes, os\nprint('REFUSED' if ctypes.CDLL(None).ptrace(16, @PID@, 0, 0) == -1 and ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == -1 else 'DONE')", ("ok",), "REFUSED"),
    Hostile("process_vm_readv", "import ctypes\nprint('REFUSED' if ctypes.CDLL(None).process_vm_readv(@PID@, 0, 0, 0, 0, 0) == -1 else 'DONE')", ("ok",), "REFUSED"),
    Hostile("another program in its place", "import os\nos.execv('/bin/sh', ['sh', '-c', 'while :; do :; done'])", (*TIME, "exit")),
    Hostile("a session of its own", "import os\ntry: os.setsid()\nexcept OSError: pass\nwhile True: pass", TIME),
    Hostile("all descriptors closed", "import os\nos.closerange(0, 1000)\nwhile True: pass", TIME),
    Hostile("all descriptors closed, and away", "import os\nos.closerange(0, 1000)\nos._exit(0)", ("ok",)),
    Hostile("niceness", "import os\nos.nice(19)\nwhile True: pass", TIME),
    Hostile("abort", "import os\nos.abort()", ("signal",)),
    Hostile("segmentation fault", "import ctypes\nctypes.string_at(0)", ("signal",)),
    Hostile("interpreter's memory overwritten", "import ctypes\nctypes.memset(id(None), 0xff, 64)\nNone + 1", ANY_END),
    Hostile("parent's death signal cleared", "import ctypes\nctypes.CDLL(None).prctl(1, 0)\nwhile True: pass", TIME),
    Hostile("KeyboardInterrupt", "raise KeyboardInterrupt", ("exit", "signal")),
    Hostile("exit code 137", "import sys\nsys.exit(137)", ("exit", "signal")),
    Hostile("exit with a text", "import sys\nsys.exit('no')", ("exit",)),
    Hostile("exit with a huge number", "import sys\nsys.exit(2**40)", ANY_END),
]  # fmt: skip

FILES = [
    *(
        _refused(f"write to {where}", f"open('{where}/rlkit-@MARK@', 'w').write('x')", bare=False)
        for where in ("", "/etc", "/usr", "/usr/bin", "/bin", "/lib", "/dev", "/var/tmp", "/root", "/home", "/proc", "/sys", "@FOLDER@")
    ),
    _refused("write into the standard library", "import os\nopen(os.__file__, 'a').write('x')", bare=False),
    _refused("write into what runs inside", "import inside.wire\nopen(inside.wire.__file__, 'a').write('x')", bare=False),
    _refused("write to shared memory", "open('/dev/shm/rlkit-@MARK@', 'w').write('x')", bare=False),
    _refused("read the shadow file", "print(open('/etc/shadow').read())", bare=False),
    _refused("read the users", "print(open('/etc/passwd').read())", bare=False),
    _refused("read the parent's folder", "print(open('@FOLDER@/secret').read())", bare=False),
    _refused("read the parent's environment", "print(open('/proc/@PID@/environ').read())", bare=False),
    _refused("read the first process's environment", "print(open('/proc/1/environ').read())", bare=False),
    _refused("read the parent's memory", "print(open('/proc/@PID@/mem', 'rb').read(1))", bare=False),
    _refused("read its own memory map", "print(open('/proc/self/maps').read())", bare=False),
    _refused("link to the parent's folder", "import os\nos.symlink('@FOLDER@/secret', 'rlkit-@MARK@')\nprint(open('rlkit-@MARK@').read())", bare=False),
    _refused("hard link to the system", "import os\nos.link('/usr/bin/env', '/tmp/rlkit-@MARK@')", bare=False),
    _refused("out by dots", "print(open('../../../../..' + '@FOLDER@/secret').read())", bare=False),
    _refused("directory renamed over a system's", "import os\nos.mkdir('/tmp/rlkit-@MARK@')\nos.rename('/tmp/rlkit-@MARK@', '/usr')", bare=False),
    _refused("chmod of the system", "import os\nos.chmod('/usr', 0o777)", bare=False),
    _refused("chown to root", "import os\nopen('rlkit-@MARK@', 'w').close()\nos.chown('rlkit-@MARK@', 12345, 12345)", bare=False),
    _refused("delete the system", "import os\nos.unlink('/usr/bin/env')", bare=False),
    _refused("setuid root", "import os\nos.setuid(0)", bare=False),
    _refused("device", "import os\nos.mknod('rlkit-@MARK@', 0o60666, os.makedev(8, 0))", bare=False),
    _refused("disk", "open('/dev/sda', 'rb').read(1)", bare=False),
    _refused("kernel memory", "open('/dev/mem', 'rb').read(1)", bare=False),
    _refused("terminal", "open('/dev/tty', 'w').write('x')"),
    _refused("import the repository", "import rlkit"),
    _refused("import a library of the parent", "import torch"),
    _refused("chroot", "import os\nos.chroot('/tmp')"),
    Hostile("mount", "import ctypes\nprint('REFUSED' if ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, 0) == -1 else 'DONE')", ("ok",), "REFUSED"),
    Hostile("unmount", "import ctypes\nprint('REFUSED' if ctypes.CDLL(None).umount2(b'/usr', 2) == -1 else 'DONE')", ("ok",), "REFUSED"),
    Hostile("namespaces of its own", "import ctypes\nprint('REFUSED' if ctypes.CDLL(None).unshare(0x10000000) == -1 else 'DONE')", ("ok",), "REFUSED"),
    Hostile("inotify", "import ctypes\nprint('REFUSED' if ctypes.CDLL(None).inotify_init() == -1 else 'DONE')", ("ok",), "REFUSED"),
    Hostile("keyring", "import ctypes, platform\nprint('REFUSED' if ctypes.CDLL(None).syscall(248 if platform.machine() == 'x86_64' else 217, b'user', b'x', b'y', 1, -3) == -1 else 'DONE')", ("ok",), "REFUSED"),
    Hostile("io_uring", "import ctypes\nprint('REFUSED' if ctypes.CDLL(None).syscall(425, 8, bytes(120)) == -1 else 'DONE')", ("ok",), "REFUSED"),
    Hostile("one large file", "open('rlkit-@MARK@', 'wb').write(bytes(10**8))", ("exit", "signal")),
    Hostile("many files", "i = 0\nwhile True:\n    i += 1\n    open(f'rlkit-@MARK@-{i}', 'wb').write(bytes(10**6))", ("exit",), bare=False),
    Hostile("zip bomb in /tmp", "import zipfile\nwith zipfile.ZipFile('rlkit-@MARK@.zip', 'w', zipfile.ZIP_DEFLATED) as z:\n    for i in range(50): z.writestr(str(i), bytes(10**6))\nzipfile.ZipFile('rlkit-@MARK@.zip').extractall('rlkit-@MARK@')", ("exit",), bare=False),
    Hostile("sparse file", "f = open('rlkit-@MARK@', 'wb')\nf.truncate(10**15)", ("exit", "signal")),
    Hostile("link to itself", "import os\nos.symlink('rlkit-@MARK@', 'rlkit-@MARK@')\nopen('rlkit-@MARK@')", ("exit",)),
    Hostile("deep folders", "import os\nwhile True:\n    os.mkdir('rlkit-@MARK@')\n    os.chdir('rlkit-@MARK@')", (*TIME, "exit"), bare=False),
    Hostile("files with hostile names", "import os\nfor name in (b'-rf', b'a\\nb', b'\\xff\\xfe', b'\\x1b[2J'): open(b'rlkit-@MARK@' + name, 'w').close()\nprint('REFUSED')", ("ok",), "REFUSED"),
    Hostile("its input overwritten", "import os\ntry: os.write(0, b'x' * 1000)\nexcept OSError: print('REFUSED')", ("ok",), "REFUSED", stdin=b"input"),
    Hostile("the secret of the environment", "import os\nprint(os.environ)\nprint('REFUSED' if not any('HOSTILE' in k for k in os.environ) else 'DONE')", ("ok",), "REFUSED"),
]  # fmt: skip

NETWORK = [
    _refused("TCP", "import socket\nsocket.create_connection(('127.0.0.1', @PORT@), timeout=2)"),
    _refused("TCP over IPv6", "import socket\nsocket.create_connection(('::1', @PORT@), timeout=2)"),
    _refused("UDP", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @PORT@))"),
    _refused("Unix socket", "import socket\nsocket.socket(socket.AF_UNIX).connect('@FOLDER@/socket')"),
    _refused("abstract Unix socket", "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0rlkit-@MARK@')"),
    _refused("raw socket", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"),
    _refused("netlink", "import socket\nsocket.socket(16, socket.SOCK_RAW, 0)"),
    _refused("kernel crypto socket", "import socket\nsocket.socket(38, socket.SOCK_SEQPACKET)"),
    _refused("HTTP", "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:@PORT@/', timeout=2)"),
    _refused("a server of its own", "import socket\nsocket.create_server(('127.0.0.1', 0))"),
]  # fmt: skip

OUTPUT = [
    Hostile("100 MB on standard output", "import sys\nfor _ in range(100): sys.stdout.write('a' * 10**6)", ("output",)),
    Hostile("100 MB on standard error", "import sys\nfor _ in range(100): sys.stderr.write('a' * 10**6)", ("output",)),
    Hostile("100 MB at once", "import os\nb = b'a' * 10**7\nfor _ in range(10): os.write(1, b)", ("output",)),
    Hostile("output without end", "while True: print('y')", ("output",)),
    Hostile("output without end, unbuffered", "import os\nwhile True: os.write(1, b'y')", ("output", *TIME)),
    Hostile("warnings without end", "import warnings\nwarnings.simplefilter('always')\nwhile True: warnings.warn('x' * 1000)", ("output",)),
    Hostile("exceptions without end", "import traceback\nwhile True:\n    try: 1 / 0\n    except ZeroDivisionError: traceback.print_exc()", ("output",)),
    Hostile("NUL and control characters", "import sys\nsys.stdout.write(''.join(map(chr, range(32))) * 10)", ("ok",), "\x01\x02"),
    Hostile("broken UTF-8", "import sys\nsys.stdout.buffer.write(b'\\xff\\xfe\\x80' * 10)", ("ok",)),
    Hostile("lone surrogates", "print('\\ud800')", ("exit",)),
    Hostile("terminal escapes", "print('\\x1b]0;x\\x07\\x1b[2J\\x1b[31m')", ("ok",)),
    Hostile("right-to-left override", "print('\\u202e42\\u202c')", ("ok",)),
    Hostile("output closed", "import os\nos.close(1)\nprint('x')", ("ok", "exit")),
    Hostile("the ready pipe forged", "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'R1:+.')\n    except OSError: pass\nprint('over')", ("ok",), "over"),
    Hostile("waits for input", "print(repr(input()))", ("exit",)),
    Hostile("reads input for ever", "import sys\nwhile True: sys.stdin.read()", TIME),
    Hostile("NUL in the program", "print(1)\0", ("exit",)),
    Hostile("a megabyte of braces", "x = " + "[" * 10**6, ("exit", "memory", "signal", "cpu")),
    Hostile("nested too deep to compile", "x = " + "(" * 5000 + ")" * 5000, ("exit", "memory", "signal")),
    Hostile("no program at all", "The answer is 42.", ("exit",)),
]  # fmt: skip

HOSTILE: list[Hostile] = [*ENDLESS, *MEMORY_BOMBS, *PROCESSES, *FILES, *NETWORK, *OUTPUT]

ROW = {"tests": ["assert add(2, 3) == 5", "assert add(-1, 1) == 0", "assert add(10, 20) == 30"]}
"""The question that the cheats answer."""
_WRONG = "def add(a, b): return 41\n"

CHEATS: dict[str, str] = {
    "sys.exit(0)": "import sys\nsys.exit(0)",
    "os._exit(0)": "import os\nos._exit(0)",
    "exit in the function": "import sys\ndef add(a, b): sys.exit(0)",
    "os._exit in the function": "import os\ndef add(a, b): os._exit(0)",
    "exit() of site": _WRONG + "exit()",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\n" + _WRONG,
    "equal to everything": "class E:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n    __hash__ = None\ndef add(a, b): return E()",
    "int equal to everything": "class E(int):\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n    __hash__ = int.__hash__\ndef add(a, b): return E(41)",
    "str equal to everything": "class E(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\ndef add(a, b): return E('5')",
    "list equal to everything": "class E(list):\n    def __eq__(self, other): return True\ndef add(a, b): return E()",
    "mock": "from unittest import mock\nadd = mock.MagicMock()\nadd.return_value.__eq__ = lambda s, o: True",
    "ANY": "from unittest.mock import ANY\ndef add(a, b): return ANY",
    "builtins overridden": "import builtins\nfor n in ('abs', 'len', 'all', 'any', 'sorted', 'isinstance', 'set'):\n    setattr(builtins, n, lambda *a, **k: True)\n" + _WRONG,
    "AssertionError made harmless": "import builtins\nclass Quiet(Exception): pass\nbuiltins.AssertionError = Quiet\n" + _WRONG,
    "excepthook": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\n" + _WRONG,
    "trace that skips lines": "import sys\ndef t(frame, event, arg):\n    try: frame.f_lineno = 10**6\n    except Exception: pass\n    return t\nsys.settrace(t)\n" + _WRONG,
    "profile that exits": "import sys, os\n" + _WRONG + "sys.setprofile(lambda *a: os._exit(0))",
    "answers forged on every descriptor": "import os\nframe = (60).to_bytes(8, 'big') + b't3:s5:valueT' + b'd0:' * 16\nfor fd in range(1, 64):\n    try: os.write(fd, frame)\n    except OSError: pass\n" + _WRONG,
    "verdict forged on every descriptor": "import os\nfor fd in range(1, 64):\n    try: os.write(fd, b'R3:+++.t2:s6:judgeds0:')\n    except OSError: pass\nos._exit(0)",
    "descriptors closed": "import os\nos.closerange(0, 100)\n" + _WRONG,
    "the marker printed": _WRONG + "print('passed 3 of 3 tests')\nprint('R3:+++.')\nimport sys\nsys.exit(0)",
    "stack searched for what is expected": "import sys\ndef add(a, b):\n    f = sys._getframe()\n    while f:\n        for v in list(f.f_locals.values()) + list(f.f_globals.values()):\n            if isinstance(v, str) and 'assert add' in v:\n                for line in v.split('\\n'):\n                    if f'add({a}, {b})' in line: return int(line.split('==')[1])\n        f = f.f_back\n    return 41",
    "memory searched for the tests": "import gc\ndef add(a, b):\n    for o in gc.get_objects():\n        s = repr(o)[:10**5] if isinstance(o, (list, dict, tuple)) else ''\n        k = f'assert add({a}, {b}) == '\n        if k in s: return int(s.split(k)[1].split(\"'\")[0])\n    return 41",
    "descriptors searched for the tests": "import os\ndef add(a, b):\n    for fd in range(3, 64):\n        try:\n            t = os.pread(fd, 10**6, 0).decode('utf-8', 'replace')\n            return int(t.split(f'assert add({a}, {b}) == ')[1].split()[0])\n        except Exception: pass\n    return 41",
    "harness rewritten": "import sys\nfor m in list(sys.modules.values()):\n    for n in ('encode', 'answer', 'write_frame'):\n        if hasattr(m, n): setattr(m, n, lambda *a, **k: b'T')\n" + _WRONG,
    "harness's own answers": "import inside.subject as s, inside.wire as w\ns.Subject.answer = lambda self, r: w.encode(('value', True, {}), w.no_handle)\ns.Subject._call = lambda self, f, r: w.encode(('value', True, {}), w.no_handle)\n" + _WRONG,
    "the tester's class": "import inside.tester as t\nt.Report.test = lambda self, ok, why: None\nt.same = lambda *a: True\n" + _WRONG,
    "arguments changed": "def add(a, b):\n    import ctypes\n    try: ctypes.memmove(id(5) + 24, id(41) + 24, 4)\n    except Exception: pass\n    return 41",
    "an exception that ends tests": "def add(a, b): raise StopIteration",
    "an exception of every kind": "class Stop(BaseException): pass\ndef add(a, b): raise Stop",
    "GeneratorExit": "def add(a, b): raise GeneratorExit",
    "KeyboardInterrupt": "def add(a, b): raise KeyboardInterrupt",
    "an answer of 100 MB": "def add(a, b): return 'a' * 10**8",
    "an answer nested deep": "def add(a, b):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "an answer that holds itself": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "an answer that prints without end": "class E:\n    def __str__(self):\n        while True: pass\n    __repr__ = __bool__ = __len__ = __iter__ = __str__\ndef add(a, b): return E()",
    "not a number": "def add(a, b): return float('nan')",
    "True for one": "def add(a, b): return a == 2",
    "a function instead": "def add(a, b): return add",
    "no function": "print(5)",
    "another function": "def sub(a, b): return a + b",
    "a class that answers": "class add:\n    def __new__(cls, a, b): return super().__new__(cls)\n    def __eq__(self, other): return True",
    "hangs at the second call": "n = []\ndef add(a, b):\n    n.append(1)\n    while len(n) > 1: pass\n    return a + b",
    "right, then gone": "import os\nn = []\ndef add(a, b):\n    n.append(1)\n    if len(n) > 2: os._exit(0)\n    return a + b",
    "crashes": "import ctypes\ndef add(a, b): return ctypes.string_at(0)",
    "prints what it should return": "def add(a, b): print(a + b)",
    "syntax error": "def add(a, b) return a + b",
    "floods": "def add(a, b):\n    while True: print('y' * 1000)",
    "memory": "def add(a, b): return [0] * 10**10",
}  # fmt: skip


@dataclass
class Parent:
    """What the programs are let loose on: a secret in the environment and in a folder, listening sockets, a process."""

    folder: Path
    port: int
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    secret: str = field(default_factory=lambda: uuid.uuid4().hex)
    listening: list[socket.socket] = field(default_factory=list)

    def fill(self, program: str) -> str:
        for name, value in (
            ("MARK", self.mark),
            ("FOLDER", self.folder),
            ("PID", os.getpid()),
            ("PORT", self.port),
        ):
            program = program.replace(f"@{name}@", str(value))
        return program

    def complaints(self) -> list[str]:
        """What has been left behind or has got through."""
        found = [f"left the file {path}" for place in PLACES for path in _named(place, self.mark)]
        found += [f"reached the socket {s.getsockname()!r}" for s in self.listening if _was_reached(s)]
        return found


PLACES = (
    Path("/tmp"),
    Path("/var/tmp"),
    Path("/dev/shm"),
    Path.home(),
    Path("/etc"),
    Path("/usr"),
    Path("/"),
    Path.cwd(),
)


def _named(place: Path, mark: str) -> list[Path]:
    return [path for path in place.glob("*") if mark in path.name] if place.is_dir() else []


def _was_reached(listening: socket.socket) -> bool:
    try:
        listening.recv(1) if listening.type == socket.SOCK_DGRAM else listening.accept()
    except BlockingIOError:
        return False
    return True


@contextmanager
def parent() -> Iterator[Parent]:
    with tempfile.TemporaryDirectory() as folder:
        tcp = socket.create_server(("127.0.0.1", 0))
        here = Parent(Path(folder), tcp.getsockname()[1], listening=[tcp])
        for family, kind, address in (
            (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", here.port)),
            (socket.AF_UNIX, socket.SOCK_STREAM, f"{folder}/socket"),
            (socket.AF_UNIX, socket.SOCK_STREAM, f"\0rlkit-{here.mark}"),
        ):
            one = socket.socket(family, kind)
            one.bind(address)
            if kind == socket.SOCK_STREAM:
                one.listen()
            here.listening.append(one)
        for one in here.listening:
            one.setblocking(False)
        (here.folder / "secret").write_text(here.secret)
        os.environ["RLKIT_HOSTILE_SECRET"] = here.secret
        try:
            yield here
        finally:
            del os.environ["RLKIT_HOSTILE_SECRET"]
            for one in here.listening:
                one.close()


def let_loose(hostile: Hostile, here: Parent, kind: Kind = "bwrap") -> tuple[Ran, list[str]]:
    """Run one; what became of it, and what is wrong with that."""
    began = time.monotonic()
    ran = run(here.fill(hostile.program), hostile.stdin, LIMITS, kind)
    took = time.monotonic() - began
    wrong = here.complaints()
    if ran.ended not in hostile.ended:
        wrong.append(f"ended by {ran.ended}, expected {' or '.join(hostile.ended)}: {ran.stderr[-200:]!r}")
    if took > LIMITS.wall + SLACK:
        wrong.append(f"took {took:.1f} s, expected at most {LIMITS.wall + SLACK:.0f}")
    if hostile.shows and hostile.shows.encode() not in ran.stdout:
        wrong.append(f"printed {ran.stdout[:200]!r}, expected {hostile.shows!r}")
    if here.secret.encode() in ran.stdout + ran.stderr:
        wrong.append("read the secret")
    if len(ran.stdout) > LIMITS.output or len(ran.stderr) > LIMITS.output:
        wrong.append("more output was kept than its limit")
    return ran, wrong


def judge_cheat(program: str, kind: Kind = "bwrap") -> Score:
    verifier = CodeVerifier(timeout=6.0, memory=256, output=1, sandbox=kind)
    return verifier(Prompt(id="cheat", token_ids=[], row=ROW), f"```python\n{program}\n```")


def adopt_orphans() -> None:
    """From now on what a dying process leaves behind becomes a child of this one, where `children` sees it."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def children() -> list[str]:
    """Command lines of the processes that this one has started, or adopted, and that are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent_pid = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent_pid == os.getpid():
                found.append((stat.parent / "cmdline").read_text().replace("\0", " ")[:200])
        except OSError:  # it ended meanwhile
            continue
    return found


def main(hostile: Sequence[Hostile] = HOSTILE) -> int:
    adopt_orphans()
    failed = 0
    with parent() as here:
        for one in hostile:
            ran, wrong = let_loose(one, here)
            failed += bool(wrong)
            print(f"{one.name:45} {ran.ended:8} {ran.seconds:5.2f} s  {'; '.join(wrong)}", flush=True)
    for name, program in CHEATS.items():
        score = judge_cheat(program)
        failed += score.value != 0.0
        print(f"{name:45} {score.value} {score.reason[:100]!r}", flush=True)
    print(f"{len(hostile)} programs and {len(CHEATS)} cheats, {failed} failed; left behind: {children()}")
    return 1 if failed or children() else 0


if __name__ == "__main__":
    sys.exit(main())
