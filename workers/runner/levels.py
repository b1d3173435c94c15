"""The levels of isolation: what each wants of the machine, and how an attempt is brought there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from writ.schemas.policy import Isolation

from . import kernel, places


def lacking(level: Isolation) -> str | None:
    """What this machine lacks for a level, and what to do; None where it lacks nothing."""
    if level is Isolation.NONE:
        return None
    if sys.platform != "linux":
        return f"isolation {level} is for Linux, and this is {sys.platform}"
    if level is Isolation.PLAIN:
        return None
    if not kernel.knows_machine():
        return f"isolation {level} is for x86-64 and arm64, and this is {os.uname().machine}"
    abi = kernel.landlock_abi()
    if abi < kernel.ABI_WANTED:
        has = f"Landlock ABI {abi}" if abi else "no Landlock"
        return (
            f"isolation {level} wants Landlock ABI {kernel.ABI_WANTED}, and this kernel has {has}: use Linux "
            "6.12 or newer with landlock in its lsm= list, or --isolate plain"
        )
    return _lacks_bubblewrap() if level is Isolation.BUBBLEWRAP else None


def _lacks_bubblewrap() -> str | None:
    program = shutil.which("bwrap")
    if program is None:
        return "isolation bubblewrap wants the program bwrap: apt install bubblewrap, or --isolate landlock"
    tried = subprocess.run(
        [program, "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        said = tried.stderr.strip() or f"it ended with {tried.returncode}"
        return (
            f"isolation bubblewrap does not work here: {said}; allow user namespaces, or --isolate landlock"
        )
    return None


def confine(
    level: Isolation, folder: str, readable: Sequence[str], listable: Sequence[str], *, network: bool
) -> None:
    """Brings this process, of one thread, to a level, for good. Raises OSError."""
    if level in (Isolation.NONE, Isolation.PLAIN):
        return
    kernel.drop_capabilities()
    reads = (*places.SYSTEM, *places.ETC, *readable, "/proc/self", "/sys/devices/system/cpu")
    kernel.landlock(
        [
            *[(path, kernel.READ) for path in reads],
            *[(path, kernel.READ_DIR) for path in listable],
            *[(path, kernel.READ_FILE | kernel.WRITE_FILE) for path in places.DEVICES],
            (folder, kernel.READ_WRITE),
        ],
        network=network,
    )
    kernel.refuse_calls(network=network)


def sandbox(folder: str, readable: Sequence[str], *, network: bool) -> list[str]:
    """The command line, up to the program, that starts one in a sandbox with one folder to write to."""
    program = shutil.which("bwrap")
    assert program is not None, "lacking() was asked before"
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if network:
        command.append("--share-net")
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - of the sandbox
    for path in (*places.SYSTEM, *places.ETC, *readable):
        command += ["--ro-bind-try", path, path]
    return [*command, "--bind", folder, folder, "--chdir", folder, "--"]
