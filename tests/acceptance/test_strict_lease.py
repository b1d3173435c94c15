"""A worker out of the broker's reach: what it runs goes on, but for the jobs of strict queues."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Place

TASKS = """
import asyncio
import time
from pathlib import Path

from writ import Context, task


def beat(ctx: Context, folder: str) -> bool:
    with Path(folder, ctx.queue).open("a") as beats:
        print(time.time(), file=beats)
    return not Path(folder, "go").exists()


@task
async def listens(ctx: Context, folder: str) -> int:
    while ctx.attempt == 1 and beat(ctx, folder):
        await asyncio.sleep(0.02)
    return ctx.attempt


@task
def spins(ctx: Context, folder: str) -> int:
    while ctx.attempt == 1 and beat(ctx, folder):
        time.sleep(0.02)
    return ctx.attempt
"""
POLICY = """
[queues.strict]
strict_lease = true
limits = {lease_s = 5}

[queues.loose]
limits = {lease_s = 5}
"""


class Cable:
    """Carries a worker's connections to the broker, until it is `cut`: then no byte goes either way."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._whole = threading.Event()
        self._whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def close(self) -> None:
        self.mend()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._to)
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(65_536):
                self._whole.wait()
                sink.sendall(part)
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def cable(place: Place) -> Generator[Cable]:
    made = Cable(int(place.json("env")["NATS_URL"].rpartition(":")[2]))
    try:
        yield made
    finally:
        made.close()


def last_beat(folder: Path, queue: str) -> float:
    return float((folder / queue).read_text().rstrip().rpartition("\n")[2])


def events(place: Place, job: str) -> list[tuple[str, float]]:
    """Types of a job's events, in order, each with its time."""
    return [
        (event["type"], stored["record"]["at"] / 1_000_000)
        for stored in place.json("job", job)["records"]
        for event in stored["record"]["events"]
    ]


def granted_again(place: Place, job: str) -> float | None:
    """When the job was given to another worker."""
    times = [at for kind, at in events(place, job) if kind == "lease_granted"]
    return times[1] if len(times) > 1 else None


def refused(place: Place, job: str) -> list[str]:
    """The reports about a job that came too late."""
    return [each["verb"] for each in place.json("audit", "--refused", "--job", job)]


@pytest.mark.parametrize(
    ("task", "isolate"), [("listens", ()), ("spins", ("--isolate", "plain"))], ids=["none", "plain"]
)
def test_a_strict_job_has_stopped_before_another_worker_has_it(
    own_place: Place, task: str, isolate: tuple[str, ...]
) -> None:
    """Must hold: a worker out of the broker's reach goes on and lets the fence decide; `strict_lease` queues
    stop at the local monotonic deadline.
    """
    place, folder, log = own_place, own_place.root / "beats", own_place.root / "worker.log"
    folder.mkdir()
    (place.root / "work.py").write_text(TASKS)
    (place.root / "writ.toml").write_text(POLICY)
    place.writ("apply", "writ.toml")
    key = place.json("env")["NATS_NKEY"]
    queues = ("--queue", "strict", "--queue", "loose")
    with cable(place) as wire:
        reach = ("--url", wire.url, "--creds", key)
        with place.worker("work", *queues, "--name", "far", *isolate, *reach):
            for queue in ("strict", "loose"):
                place.writ("submit", queue, task, f'{{"folder": "{folder}"}}', "--id", queue)
                place.until((folder / queue).exists)
            with place.worker("work", *queues, "--name", "near"):
                wire.cut()
                place.until(lambda: all(granted_again(place, each) for each in ("strict", "loose")))
            again: dict[str, Any] = {each: granted_again(place, each) for each in ("strict", "loose")}
            assert last_beat(folder, "strict") < again["strict"]
            place.until(lambda: last_beat(folder, "loose") > again["loose"])
            (folder / "go").touch()
            place.until(lambda: "a report of complete in queue loose is repeated" in log.read_text())
            wire.mend()
            place.until(lambda: "complete" in refused(place, "loose"))
    told = log.read_text()
    assert "job strict in queue strict is stopped: its lease of 5 s was not renewed in time" in told
    assert "job loose in queue loose is stopped" not in told
    assert "complete" not in refused(place, "strict")
    for queue in ("strict", "loose"):
        assert place.json("job", queue)["output"] == 2
        assert [kind for kind, _ in events(place, queue)].count("job_completed") == 1
    assert place.writ("replay", "--verify").returncode == 0
