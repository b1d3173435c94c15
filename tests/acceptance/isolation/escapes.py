"""Attempts to get out. Each returns where it got something, and raises or returns False where not."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from writ import task

Aim = dict[str, Any]
ESCAPES: dict[str, Callable[[Aim], object]] = {}
libc = ctypes.CDLL(None, use_errno=True)


def escape(function: Callable[[Aim], object]) -> Callable[[Aim], object]:
    ESCAPES[function.__name__] = function
    return function


@task
def try_all(aim: Aim) -> dict[str, str]:
    """What came of each attempt: `out`, or how it was refused."""
    came: dict[str, str] = {}
    for name, attempt in ESCAPES.items():
        try:
            came[name] = "out" if attempt(aim) is not False else "refused: it got nothing"
        except Exception as error:
            came[name] = f"refused: {type(error).__name__}: {error}"
    return came


@task
def look_around() -> dict[str, Any]:
    """What an attempt finds in its own hands."""
    own = Path("/proc/self")
    handed = {
        "environ": own.joinpath("environ").read_bytes().decode(),
        "now": str(dict(os.environ)),
        "cmdline": own.joinpath("cmdline").read_bytes().decode(),
        "open": str(
            [
                os.readlink(f"/proc/self/fd/{fd}")
                for fd in os.listdir("/proc/self/fd")
                if int(fd) < 64 and os.path.lexists(f"/proc/self/fd/{fd}")
            ]
        ),
    }
    return handed


def called(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


def gone_through(program: str) -> bool:
    return (
        subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, check=False).returncode
        == 0
    )


# --- reading ------------------------------------------------------------------------------------------------


@escape
def read_the_file_of_another_job(aim: Aim) -> object:
    return Path(aim["folder"], "treasure").read_text()


@escape
def list_the_folder_of_another_job(aim: Aim) -> object:
    return os.listdir(str(aim["folder"]))


@escape
def list_all_folders_of_jobs(aim: Aim) -> object:
    return aim["folder"].rpartition("/")[2] in os.listdir(Path(aim["folder"]).parent)


@escape
def read_home(aim: Aim) -> object:
    return Path(aim["home"], "diary.txt").read_text()


@escape
def read_hidden_of_home(aim: Aim) -> object:
    return Path(aim["home"], ".ssh", "id").read_text()


@escape
def list_home(aim: Aim) -> object:
    return "diary.txt" in os.listdir(aim["home"])


@escape
def read_the_key_of_the_broker(aim: Aim) -> object:
    return Path(aim["key"]).read_text()


@escape
def read_the_key_in_another_program(aim: Aim) -> object:
    return gone_through(f"open({aim['key']!r}).read()")


@escape
def read_the_node_file(aim: Aim) -> object:
    return Path(aim["node"]).read_text()


@escape
def read_secrets_beside_the_module(aim: Aim) -> object:
    return Path(aim["project"], ".env").read_text()


@escape
def read_by_a_symbolic_link(aim: Aim) -> object:
    os.symlink(aim["key"], "key")
    return Path("key").read_text()


@escape
def read_by_a_hard_link(aim: Aim) -> object:
    os.link(Path(aim["folder"], "treasure"), "treasure")
    return Path("treasure").read_text()


@escape
def read_by_a_copy(aim: Aim) -> object:
    return shutil.copyfile(aim["key"], "copied")


@escape
def read_by_the_root_of_the_worker(aim: Aim) -> object:
    return Path(f"/proc/{aim['worker']}/root{aim['key']}").read_text()


# --- other processes ----------------------------------------------------------------------------------------


@escape
def read_the_environment_of_the_worker(aim: Aim) -> object:
    return "WRIT_CANARY" in Path(f"/proc/{aim['worker']}/environ").read_text()


@escape
def read_the_environment_of_another_job(aim: Aim) -> object:
    return bool(Path(f"/proc/{aim['other']}/environ").read_text())


@escape
def read_the_environment_of_the_parent(aim: Aim) -> object:
    return bool(Path(f"/proc/{os.getppid()}/environ").read_text())


@escape
def read_the_arguments_of_the_worker(aim: Aim) -> object:
    return bool(Path(f"/proc/{aim['worker']}/cmdline").read_text())


@escape
def open_the_memory_of_the_worker(aim: Aim) -> object:
    with open(f"/proc/{aim['worker']}/mem", "rb"):
        return True


@escape
def list_the_files_of_the_worker(aim: Aim) -> object:
    return os.listdir(f"/proc/{aim['worker']}/fd")


@escape
def read_the_maps_of_another_job(aim: Aim) -> object:
    return bool(Path(f"/proc/{aim['other']}/maps").read_text())


@escape
def trace_another_job(aim: Aim) -> object:
    seize, detach = 0x4206, 17
    called(libc.ptrace(seize, aim["other"], None, None))
    return libc.ptrace(detach, aim["other"], None, None)


@escape
def read_the_memory_of_another_job(aim: Aim) -> object:
    with open(f"/proc/{aim['other']}/maps") as maps:
        start = int(maps.readline().split("-")[0], 16)
    buffer = ctypes.create_string_buffer(16)

    class Part(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))

    mine, theirs = Part(ctypes.addressof(buffer), 16), Part(start, 16)
    return called(libc.process_vm_readv(aim["other"], ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0))


@escape
def signal_the_parent(aim: Aim) -> None:
    os.kill(os.getppid(), signal.SIGCONT)


@escape
def signal_the_worker(aim: Aim) -> None:
    os.kill(aim["worker"], signal.SIGCONT)


@escape
def signal_another_job(aim: Aim) -> None:
    os.kill(aim["other"], signal.SIGCONT)


@escape
def signal_the_group_of_another_job(aim: Aim) -> None:
    os.killpg(aim["other"], signal.SIGCONT)


@escape
def signal_by_another_program(aim: Aim) -> object:
    return gone_through(f"import os; os.kill({aim['worker']}, 18)")


# --- writing ------------------------------------------------------------------------------------------------


@escape
def write_to_the_folder_of_another_job(aim: Aim) -> object:
    return Path(aim["folder"], "planted").write_text("x")


@escape
def append_to_the_file_of_another_job(aim: Aim) -> object:
    with open(Path(aim["folder"], "treasure"), "a") as file:
        return file.write("x")


@escape
def write_to_home(aim: Aim) -> object:
    return Path(aim["home"], "planted").write_text("x")


@escape
def write_beside_the_module(aim: Aim) -> object:
    return Path(aim["project"], "planted.py").write_text("x")


@escape
def change_the_module(aim: Aim) -> object:
    with open(Path(aim["project"], "bystander.py"), "a") as file:
        return file.write("x")


@escape
def make_a_folder_outside(aim: Aim) -> None:
    Path(aim["outside"], "planted").mkdir()


@escape
def delete_a_file_outside(aim: Aim) -> None:
    Path(aim["outside"], "to-delete").unlink()


@escape
def rename_a_file_outside(aim: Aim) -> object:
    return Path(aim["outside"], "to-rename").rename(Path(aim["outside"], "renamed"))


@escape
def cut_a_file_outside(aim: Aim) -> None:
    os.truncate(Path(aim["outside"], "to-cut"), 0)


# --- the network --------------------------------------------------------------------------------------------


@escape
def connect_by_tcp(aim: Aim) -> object:
    with socket.create_connection(("127.0.0.1", aim["tcp"]), 2):
        return True


@escape
def send_by_udp(aim: Aim) -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"x", ("127.0.0.1", aim["udp"]))
        return True


@escape
def connect_in_another_program(aim: Aim) -> object:
    return gone_through(f"import socket; socket.create_connection(('127.0.0.1', {aim['tcp']}), 2)")


@escape
def listen(aim: Aim) -> object:
    with socket.create_server(("127.0.0.1", 0)):
        return True


@escape
def connect_by_a_socket_file(aim: Aim) -> object:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(aim["unix"])
        return True


@escape
def connect_by_an_abstract_socket(aim: Aim) -> object:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect("\0" + aim["abstract"])
        return True
