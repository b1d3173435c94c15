"""Tasks that do their worst, and one that wants nothing but to be left alone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from writ import Context, task

MIB = 1024 * 1024


@task
async def blocks(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point


@task
async def blocks_long(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point


@task
def spins() -> None:
    while True:
        pass


@task
def eats() -> None:
    eaten: list[bytearray] = []
    while True:
        eaten.append(bytearray(4 * MIB))


@task
def forks(count: int) -> None:
    for _ in range(count):
        if os.fork() == 0:
            os.setsid()  # out of the group, so that nobody finds it there
            time.sleep(600)
            os._exit(0)
    time.sleep(600)


@task
def writes(mib: int) -> None:
    with open("large", "wb") as file:
        for _ in range(mib):
            file.write(bytes(MIB))


@task
def fills_the_disk() -> None:
    with open("/dev/full", "w") as disk:
        disk.write("one byte too many")


@task
def is_deaf() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(600)


@task
def closes_its_stdout() -> str:
    os.close(1)
    os.close(2)
    return "done"


@task
def prints(mib: int) -> str:
    line = "x" * 1023 + "\n"
    for _ in range(mib * 1024):
        sys.stdout.write(line)
    return "done"


@task
def returns(mib: int) -> str:
    return "x" * (mib * MIB)


@task
def returns_no_json() -> object:
    return object()


@task
def raises(mib: int) -> None:
    raise ValueError("y" * (mib * MIB))


@task
async def leaves() -> None:
    raise SystemExit(3)


@task
def imports() -> None:
    import nothing_that_is_there  # type: ignore[import-not-found]  # noqa: F401


@task
def exits(code: int) -> None:
    os._exit(code)


@task
def segfaults() -> None:
    ctypes.string_at(0)


@task
def babbles() -> None:
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"\xff" * 64)
        except OSError:
            continue
    time.sleep(600)


def slowly(number: int) -> int:
    time.sleep(0.1)
    return number


@task
async def steady(ctx: Context) -> int:
    """Steps one by one, while the others die."""
    total = 0
    for number in range(20):
        total += await ctx.step(f"step {number}", slowly, number)
    return total


@task
def keeps(seconds: float) -> None:
    """Has something that others would like to read, and a child that hides."""
    with open("treasure", "w") as file:
        file.write("gold")
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    time.sleep(seconds)
