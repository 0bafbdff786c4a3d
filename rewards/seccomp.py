"""A filter of system calls: what a program that only computes never asks for, and what would reach out of its sandbox.

Without a second process, a process's own limits of memory and CPU time are limits of everything that the program does;
without memory that belongs to no address space (memfd, System V, message queues), its address space is all it can fill.
Threads are allowed: recursive programs ask for one with a larger stack. Written in classic BPF by hand: bubblewrap takes
the compiled form, and every Python binding of libseccomp wants that library installed on the machine first.
"""

import platform
import struct

from rlkit.errors import ConfigError

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> its AUDIT_ARCH (linux/audit.h), and its column below."""

DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "fork": (57, None),
    "vfork": (58, None),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    # the network, and everything else that a socket reaches
    "socket": (41, 198),
    # memory that no address space counts
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    # large, old or young parts of the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
}
"""System call -> its number on x86_64 and on aarch64 (the kernel's asm/unistd_64.h and asm-generic/unistd.h)."""
_EXECVE = (59, 221)
_SIGNALLING = (((72, 25), (8, 10, 15)), ((16, 29), (0x8901, 0x8902)))
"""fcntl and ioctl, and the requests that have the kernel send a signal of choice: F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP."""
_CLONE, _CLONE3 = (56, 220), 435
_CLONE_THREAD = 0x10000
_X32_CALLS = 0x40000000

_EPERM, _ENOSYS = 0x00050001, 0x00050026  # SECCOMP_RET_ERRNO with the error number
_ALLOW = 0x7FFF0000
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT, _SECOND_ARGUMENT_AT = (
    0,
    4,
    16,
    24,
)  # in struct seccomp_data; little-endian


def call_filter(*, may_exec: bool) -> bytes:
    """The compiled filter for this machine: denied calls fail with EPERM.

    may_exec: it is set before the interpreter starts, so one `execve` is still to come
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise ConfigError(
            f"the sandbox knows the system calls of {' and '.join(_ARCHITECTURES)}, and this machine is {machine}"
        )
    architecture, column = _ARCHITECTURES[machine]
    numbers = [number for pair in DENIED.values() if (number := pair[column]) is not None]
    if not may_exec:
        numbers.append(_EXECVE[column])
    code = [
        _op(_LOAD, _ARCHITECTURE_AT),
        _op(_IF_EQUAL, architecture, then=1),
        _op(_RETURN, _EPERM),
        _op(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        code += [_op(_IF_AT_LEAST, _X32_CALLS, otherwise=1), _op(_RETURN, _EPERM)]
    for number in numbers:
        code += [_op(_IF_EQUAL, number, otherwise=1), _op(_RETURN, _EPERM)]
    for pair, requests in _SIGNALLING:
        code += [
            _op(_IF_EQUAL, pair[column], otherwise=2 + 2 * len(requests)),
            _op(_LOAD, _SECOND_ARGUMENT_AT),
        ]
        for request in requests:
            code += [_op(_IF_EQUAL, request, otherwise=1), _op(_RETURN, _EPERM)]
        code.append(_op(_RETURN, _ALLOW))
    # The C library falls back to clone, whose flags can be read here; those of clone3 lie behind a pointer.
    code += [_op(_IF_EQUAL, _CLONE3, otherwise=1), _op(_RETURN, _ENOSYS)]
    code += [
        _op(_IF_EQUAL, _CLONE[column], otherwise=3),
        _op(_LOAD, _FIRST_ARGUMENT_AT),
        _op(_IF_ANY_BIT, _CLONE_THREAD, then=1),
        _op(_RETURN, _EPERM),
        _op(_RETURN, _ALLOW),
    ]
    return b"".join(code)


def _op(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One BPF instruction; `then` and `otherwise` are the instructions to skip."""
    return struct.pack("=HBBI", code, then, otherwise, value)
