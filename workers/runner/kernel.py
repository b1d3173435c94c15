"""What Python does not offer of Linux: Landlock, seccomp, capabilities, reaping of orphans.

All of it holds for the calling thread and what it starts, for good.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable
from typing import Any, Final

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_SET_NO_NEW_PRIVS, _SET_CHILD_SUBREAPER, _CAPBSET_DROP, _SET_SECCOMP = 38, 36, 24, 22
_SECCOMP_MODE_FILTER: Final = 2
_VERSION: Final = 1
_PATH_BENEATH: Final = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_ALL_FILES: Final = (1 << 16) - 1
"""Every right of files and folders up to ABI 5: from executing (bit 0) to ioctl on devices (bit 15)."""

_OF_A_FILE: Final = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15
_BIND_AND_CONNECT_TCP: Final = 3
_SCOPES: Final = 3
"""Abstract Unix sockets and signals stay within."""

ABI_WANTED: Final = 6

READ: Final = EXECUTE | READ_FILE | READ_DIR
READ_WRITE: Final = _ALL_FILES

_DENIED: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "mount": 165, "umount2": 166,
        "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308, "bpf": 321, "keyctl": 250,
        "add_key": 248, "request_key": 249, "perf_event_open": 298, "userfaultfd": 323,
        "open_by_handle_at": 304, "kexec_load": 246, "init_module": 175, "finit_module": 313,
        "delete_module": 176, "reboot": 169, "swapon": 167, "socket": 41,
    },
    "aarch64": {
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "mount": 40, "umount2": 39,
        "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268, "bpf": 280, "keyctl": 219,
        "add_key": 217, "request_key": 218, "perf_event_open": 241, "userfaultfd": 282,
        "open_by_handle_at": 265, "kexec_load": 104, "init_module": 105, "finit_module": 273,
        "delete_module": 106, "reboot": 142, "swapon": 224, "socket": 198,
    },
}  # fmt: skip
"""System calls that an attempt is refused; `socket` only without a network."""

_DENIED_EVERYWHERE: Final = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "pidfd_getfd": 438,
    "mount_setattr": 442,
}  # fmt: skip
_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32: Final = 0x40000000

_libc: Final[Any] = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> int:
    """Raises OSError, named after the call."""
    answer = int(getattr(_libc, name)(*arguments))
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments[:2]}: {os.strerror(number)}")
    return answer


def _prctl(what: int, *arguments: Any) -> None:
    padded = [*arguments, 0, 0, 0, 0][:4]
    _call("prctl", what, *[a if not isinstance(a, int) else ctypes.c_ulong(a) for a in padded])


def landlock_abi() -> int:
    """The version of Landlock that this kernel has; 0 where it has none, or has it switched off."""
    try:
        return _call("syscall", _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION))
    except OSError:
        return 0


def knows_machine() -> bool:
    """Whether the system calls of this processor are known here."""
    return platform.machine() in _DENIED


def adopt_orphans() -> None:
    """Makes this process the parent of whatever its descendants leave behind."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def drop_capabilities() -> None:
    """Gives up what the superuser may do beyond others, and ever getting it again."""
    _prctl(_SET_NO_NEW_PRIVS, 1)
    for capability in range(64):
        try:
            _prctl(_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EPERM):
                break  # the last one was passed, or there is none to drop
            raise
    header = struct.pack("Ii", 0x20080522, 0)
    _call("capset", header, bytes(24))


def landlock(paths: Iterable[tuple[str, int]], *, network: bool) -> None:
    """Leaves of the files those beneath `paths`, each with its rights. Raises OSError."""
    ports = 0 if network else _BIND_AND_CONNECT_TCP
    attributes = struct.pack("QQQ", _ALL_FILES, ports, _SCOPES)
    size = ctypes.c_size_t(len(attributes))
    ruleset = _call("syscall", _CREATE_RULESET, attributes, size, ctypes.c_uint(0))
    try:
        for path, rights in paths:
            try:
                beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except (FileNotFoundError, PermissionError):
                continue  # what cannot be opened need not be allowed
            try:
                held = rights if os.path.isdir(path) else rights & _OF_A_FILE
                rule = struct.pack("=Qi", held, beneath)
                _call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, rule, ctypes.c_uint(0))
            finally:
                os.close(beneath)
        _call("syscall", _RESTRICT_SELF, ruleset, ctypes.c_uint(0))
    finally:
        os.close(ruleset)


def refuse_calls(*, network: bool) -> None:
    """Has the kernel refuse system calls that lead out: EPERM. Raises OSError."""
    machine = platform.machine()
    refused = {**_DENIED[machine], **_DENIED_EVERYWHERE}
    if network:
        del refused["socket"]
    numbers = sorted(refused.values())
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    program = [
        (load, 0, 0, 4),  # the architecture of the call
        (equal, 1, 0, _AUDIT_ARCH[machine]),
        (answer, 0, 0, kill),
        (load, 0, 0, 0),  # its number
        (at_least, len(numbers) + 1, 0, _X32),  # those of another convention go to the refusal
        *[(equal, len(numbers) - place, 0, number) for place, number in enumerate(numbers)],
        (answer, 0, 0, allow),
        (answer, 0, 0, refuse),
    ]
    code = b"".join(struct.pack("HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    _prctl(_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_)
