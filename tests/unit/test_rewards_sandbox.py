"""The sandbox: what a program can see and do, what becomes of one that means harm, and the bytes that cross its wall.

Real programs in the real sandbox. Where bubblewrap cannot be had, what needs it is skipped, and says so.
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlkit.errors import ConfigError, RolloutError
from rlkit.rewards import CodeVerifier, VerifierPool, make_verifier
from rlkit.rewards.inside import wire
from rlkit.rewards.sandbox import Kind, Limits, require_sandbox, run
from rlkit.rewards.seccomp import DENIED
from rlkit.types import Prompt
from tests.hostile_programs import (
    CHEATS,
    HOSTILE,
    ROW,
    Hostile,
    adopt_orphans,
    children,
    judge_cheat,
    let_loose,
    parent,
    refusal,
)

sandboxed = pytest.mark.skipif(bool(refusal()), reason=f"NO SANDBOX HERE: {refusal()}")
linux = pytest.mark.skipif(sys.platform != "linux", reason="programs are run on Linux only")


ADD = "```python\ndef add(a, b): return a + b\n```"
QUESTION = Prompt(id="p", token_ids=[], row=ROW)


# -- the sandbox -------------------------------------------------------------------------------------------------------


@linux
def test_a_sandbox_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bwrap of another kind: it says what a kernel without user namespaces makes the real one say."""
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    code = (
        "from rlkit.rewards import CodeVerifier, judge; from rlkit.types import Prompt\n"
        f"print(judge(CodeVerifier(), Prompt(id='p', token_ids=[], row={ROW!r}), 'x = 1'))"
    )
    env = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout
    assert "value=None" in said and "error=True" in said
    assert (
        "did not start: bwrap: No permissions to create a new namespace" in said
        and "sandbox=" in said
        and "apparmor" in said
    )


@linux
def test_without_bubblewrap_the_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    require_sandbox.cache_clear()
    try:
        with pytest.raises(
            ConfigError, match=r"not installed: install bubblewrap .*apt-get install bubblewrap.*rlimits"
        ):
            CodeVerifier().warm_up()
        with (
            pytest.raises(RolloutError, match="bubblewrap"),
            VerifierPool(CodeVerifier(), workers=1, timeout=60.0) as pool,
        ):
            pool.score([(QUESTION, ADD)])
    finally:
        require_sandbox.cache_clear()


def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    require_sandbox.cache_clear()
    with pytest.raises(ConfigError, match="Linux container"):
        CodeVerifier(sandbox="rlimits").warm_up()


@sandboxed
def test_the_program_sees_an_empty_world() -> None:
    show = "import os\nprint(sorted(os.environ), sorted(os.listdir('/')), os.listdir('.'), sorted(os.listdir('/dev')), os.getpid())"
    ran = run(show, b"", Limits())
    said = ran.stdout.decode()
    assert "['LC_CTYPE', 'PWD', 'PYTHONHASHSEED']" in said  # the last two are bubblewrap's and Python's own
    assert "[] ['null', 'random', 'urandom', 'zero'] 1" in said
    assert not {"home", "proc", "sys", "var"} & set(
        json.loads(said.split("] [")[1].join(["[", "]"]).replace("'", '"'))
    )


@sandboxed
def test_a_run_is_described() -> None:
    ran = run("import sys\nprint(input())\nprint('e', file=sys.stderr)\nsys.exit(3)", b"hello\n", Limits())
    assert (ran.stdout, ran.stderr, ran.ended, ran.code, ran.signal) == (b"hello\n", b"e\n", "exit", 3, None)
    assert 0 < ran.seconds < 10 and 5 < ran.memory


@sandboxed
def test_threads_and_deep_recursion_are_allowed() -> None:
    program = "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nt = threading.Thread(target=lambda: print(f(50000)))\nt.start()\nt.join()"
    assert run(program, b"", Limits()).stdout == b"50000\n"


@sandboxed
@pytest.mark.skipif(os.geteuid() == 0, reason="the kernel does not count root's threads")
def test_threads_are_counted() -> None:
    program = "import threading, time\nn = 0\ntry:\n    while True:\n        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n        n += 1\nexcept RuntimeError:\n    print(n)"
    assert run(program, b"", Limits(threads=8)).stdout == b"7\n"  # and the first one


@sandboxed
def test_the_same_program_prints_the_same() -> None:
    outputs = {run("print({'a', 'b', 'c', 'd', 'e', 'f'})", b"", Limits()).stdout for _ in range(3)}
    assert len(outputs) == 1


@sandboxed
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers below are those of x86_64")
def test_every_call_on_the_list_is_denied() -> None:
    numbers = {name: pair[0] for name, pair in DENIED.items()}
    program = f"import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nfor name, n in {numbers!r}.items():\n    if c.syscall(n, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1: print(name)"
    ran = run(program, b"", Limits())
    assert (ran.stdout, ran.ended) == (b"", "ok")


def test_the_numbers_are_the_kernel_s() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("NO KERNEL HEADERS HERE: package linux-libc-dev")
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    assert {name: int(known[name]) for name in DENIED if name in known} == {
        name: pair[0] for name, pair in DENIED.items() if name in known
    }


@linux
def test_the_sandbox_without_namespaces_must_be_asked_for() -> None:
    verifier = make_verifier('code(sandbox="rlimits")')
    assert verifier == CodeVerifier(sandbox="rlimits")
    assert verifier(QUESTION, ADD).value == 1.0  # type: ignore[operator]


# -- harm --------------------------------------------------------------------------------------------------------------

SAMPLE = (
    *("one large string", "malloc through ctypes", "fork", "clone, by its number", "shell", "kill the parent", "kill everything"),
    *("segmentation fault", "another program in its place", "write to ", "write to @FOLDER@", "read the parent's folder"),
    *("read the parent's memory", "mount", "TCP", "abstract Unix socket", "100 MB on standard output", "broken UTF-8"),
    *("the ready pipe forged", "many files", "import the repository", "the secret of the environment"),
)  # fmt: skip
SAMPLE_CHEATS = (
    *(
        "sys.exit(0)",
        "os._exit in the function",
        "equal to everything",
        "int equal to everything",
        "builtins overridden",
    ),
    *(
        "verdict forged on every descriptor",
        "stack searched for what is expected",
        "memory searched for the tests",
    ),
    *("harness's own answers", "right, then gone", "an exception of every kind"),
)


def test_the_hostile_set_is_large() -> None:
    names = [one.name for one in HOSTILE]
    assert len(names) + len(CHEATS) >= 200 and len(set(names)) == len(names)


@sandboxed
def test_harm_is_held_and_leaves_nothing() -> None:
    adopt_orphans()
    with parent() as here:
        for one in HOSTILE:
            if one.name in SAMPLE:
                assert (one.name, let_loose(one, here)[1]) == (one.name, [])
    assert children() == []


@linux
def test_the_limits_alone_hold_what_they_promise() -> None:
    with parent() as here:
        for one in HOSTILE:
            if one.bare and one.name in SAMPLE and one.name != "the secret of the environment":
                assert (one.name, let_loose(one, here, "rlimits")[1]) == (one.name, [])


@sandboxed
@pytest.mark.parametrize("name", SAMPLE_CHEATS)
def test_a_program_cannot_write_its_verdict(name: str) -> None:
    assert judge_cheat(CHEATS[name]).value == 0.0


@sandboxed
@pytest.mark.slow
@pytest.mark.parametrize("one", HOSTILE, ids=lambda one: one.name)
def test_all_harm_is_held(one: Hostile) -> None:
    adopt_orphans()
    with parent() as here:
        assert let_loose(one, here)[1] == []
    assert children() == []


@linux
@pytest.mark.slow
@pytest.mark.parametrize("one", [one for one in HOSTILE if one.bare], ids=lambda one: one.name)
def test_all_harm_that_limits_hold_is_held_by_them(one: Hostile) -> None:
    with parent() as here:
        assert let_loose(one, here, "rlimits")[1] == []


@sandboxed
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bwrap", "rlimits"])
@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes(name: str, kind: Kind) -> None:
    score = judge_cheat(CHEATS[name], kind)
    assert (score.outcome, score.value) == ("score", 0.0)


@sandboxed
def test_a_killed_parent_takes_its_programs_along() -> None:
    code = "from rlkit.rewards.sandbox import run, Limits\nprint('go', flush=True)\nrun('import time; time.sleep(1000)', b'', Limits(wall=1000.0))"
    adopt_orphans()
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert owner.stdout is not None and owner.stdout.readline() == b"go\n"
    time.sleep(1.0)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 10
    while (left := [c for c in children() if c]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


# -- the wire ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"i3:12", b"l9:N", b"s2:\xff\xff", b"l1:" * 200 + b"N", b"d1:N", b"S1:l0:", b"h1:7", b"n4:open", b"i999999999999999999999999:1", b"NN"],
)  # fmt: skip
def test_bytes_that_are_no_value_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        wire.decode(data, wire.no_object)


def test_subclasses_cross_as_what_they_are_made_of() -> None:
    class Odd(int):
        def __eq__(self, other: object) -> bool:
            return True

    back = wire.decode(wire.encode([Odd(3), True], wire.no_handle), wire.no_object)
    assert [type(item) for item in back] == [int, bool] and back == [3, True]
