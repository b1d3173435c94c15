"""Wrong clocks: one process is told another time than the rest of the machine.

A program reads the clock by a function that the kernel maps into every process (the vDSO): those of Go,
which no preloaded library reaches, as those of Python. `jump` has its entry lead to a few instructions of our
own: they ask the kernel, and add whole seconds to what `CLOCK_REALTIME` says. The monotonic clock stays, as
where somebody sets a machine's clock. What a process starts later has the right time.
"""

from __future__ import annotations

import os
import platform
import signal
import struct
import time
from pathlib import Path
from typing import Final, NamedTuple

_ENTRY: Final = b"__vdso_clock_gettime"
_JUMP: Final = struct.Struct("<Bi")
_SECONDS: Final = struct.Struct("<q")
_ASKED: Final = bytes.fromhex(
    "b8e4000000"  # mov eax, 228, which is clock_gettime
    "0f05"  # syscall
    "85ff"  # test edi, edi: CLOCK_REALTIME is 0
    "750d"  # jnz to the ret
    "48b9"  # mov rcx, the eight bytes that come next
)
_TOLD: Final = bytes.fromhex("48010ec3")  # add [rsi], rcx; ret
_STUB_BYTES: Final = len(_ASKED) + _SECONDS.size + len(_TOLD)
_DYNSYM: Final = 11
_STOP_S: Final = 10.0


class _Image(NamedTuple):
    """The kernel's code in every process: where the entry is, and where nothing is."""

    entry: int
    room: int


def missing() -> str | None:
    """Why no clock can be set wrong here; None where one can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"it is done on Linux and x86_64, and this is {platform.system()} on {platform.machine()}"
    try:
        _image()
        os.close(os.open("/proc/self/mem", os.O_RDWR))
    except (OSError, ValueError) as error:
        return f"the clock of a process cannot be reached: {error}"
    return None


def jump(pid: int, by_s: int) -> None:
    """Sets the wall clock of a process so many seconds off the machine's; 0 sets it right.

    Raises OSError where the process has ended, or is not ours.
    """
    image, base = _image(), _mapped(pid)[0]
    stub = _ASKED + _SECONDS.pack(by_s) + _TOLD
    leap = _JUMP.pack(0xE9, image.room - image.entry - _JUMP.size)
    os.kill(pid, signal.SIGSTOP)
    try:
        _stand_still(pid, base + image.entry)
        memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
        try:
            os.pwrite(memory, stub, base + image.room)
            os.pwrite(memory, leap, base + image.entry)
        finally:
            os.close(memory)
    finally:
        os.kill(pid, signal.SIGCONT)


def _stand_still(pid: int, entry: int) -> None:
    """Returns when all threads are stopped, none of them within the bytes that are to be written over."""
    until = time.monotonic() + _STOP_S
    while True:
        told = [task.joinpath("syscall").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
        if all(each[0] != "running" for each in told):
            if not any(entry < int(each[-1], 16) < entry + _JUMP.size for each in told):
                return
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGSTOP)
        if time.monotonic() > until:
            raise OSError(f"process {pid} does not stand still: {told}")
        time.sleep(0.001)


def _mapped(pid: int) -> tuple[int, int]:
    """From which address to which the kernel's code is in a process."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if line.endswith("[vdso]"):
            begin, end = line.split()[0].split("-")
            return int(begin, 16), int(end, 16)
    raise OSError(f"process {pid} has none of the kernel's code")


def _image() -> _Image:
    """Read from this very process: it is the same in all. Raises ValueError where it is not as expected."""
    begin, end = _mapped(os.getpid())
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(begin)
        code = memory.read(end - begin)
    room = (len(code.rstrip(b"\0")) + 15) // 16 * 16
    if room + _STUB_BYTES > len(code):
        raise ValueError(f"there is no room behind the kernel's code, which has {len(code)} bytes")
    return _Image(_symbol(code, _ENTRY), room)


def _symbol(code: bytes, name: bytes) -> int:
    """Where a function begins in an ELF image of 64 bits."""
    (sections,) = struct.unpack_from("<Q", code, 0x28)
    size, count = struct.unpack_from("<HH", code, 0x3A)
    found = [struct.unpack_from("<IIQQQQIIQQ", code, sections + number * size) for number in range(count)]
    for section in found:
        if section[1] == _DYNSYM:
            strings = found[section[6]][4]
            for at in range(section[4], section[4] + section[5], section[9]):
                named, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", code, at)
                if code[strings + named :].startswith(name + b"\0"):
                    return int(value)
    raise ValueError(f"the kernel's code has no {name.decode()}")
