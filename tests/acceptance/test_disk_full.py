"""A disk without room: what is refused, what goes on, and that all continues when there is room again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from writ import Client, SubmitRefused, Target
from writ.schemas.ids import shard_of
from writ.schemas.links import partition_of

if TYPE_CHECKING:
    from types import ModuleType

    from .conftest import Place

MB = 1_000_000
QUEUES = "bills", "agents", "mail", "work"
TASKS = """
from pathlib import Path
from writ import Context, task

@task
async def scan(n: int, go: str, ctx: Context):
    import asyncio
    while n >= 10 and not Path(go).exists():
        await asyncio.sleep(0.02)
    return {"n": n, "page": "x" * 20_000}
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB."""
    at = tmp_path / "disk"
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", at], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"not run: no file system may be mounted here: {mounted.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def fill(path: Path, left: int) -> None:
    """Takes all room of a disk but so many bytes."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - left))


async def test_a_full_disk_refuses_submits_and_all_continues_when_space_returns(
    small_disk: Path, tmp_path: Path, raw: ModuleType
) -> None:
    """Must hold: disk full: submits are refused with a reason, running work finishes or waits, and all
    continues when space returns. Nothing is tried a second time, no process has ended but the broker.
    """
    from .conftest import Place

    place, ballast, more, go = Place(small_disk, raw), small_disk / "a", small_disk / "b", tmp_path / "go"
    (small_disk / "tasks.py").write_text(TASKS)
    try:
        place.up("--disk-reserve", "4", "--http-port", "off")
        node = (small_disk / ".writ" / "node.json").read_bytes()
        env = place.json("env")
        async with Client(Target(env["NATS_URL"], Path(env["NATS_NKEY"]))) as client:
            with place.worker("tasks.py", "--queue", "scans", "--concurrency", "60") as worker:
                jobs = [{"task": "scan", "input": {"n": n, "go": str(go)}, "id": f"s{n}"} for n in range(60)]
                taken = await client.submit_many("scans", jobs)
                for handle in taken[:10]:
                    await client.result(handle, timeout_s=30)
                fill(ballast, left=2 * MB)
                await refused(client, go)
                fill(more, left=0)
                go.touch()  # fifty results of 20 KB come at once, for which there is no room
                place.until(lambda: b"no space left" in (small_disk / ".writ" / "broker.log").read_bytes())
                more.unlink()
                ballast.unlink()
                for handle in taken:
                    told = await client.result(handle, timeout_s=60)
                    assert told["n"] == int(handle.id[1:])
                    assert (await client.job(handle.id, "scans")).attempt == 1
                place.until(lambda: accepts(place))
                assert worker.poll() is None
        assert (small_disk / ".writ" / "node.json").read_bytes() == node, "the node was started again"
        place.writ("audit", "verify")
        place.writ("replay", "--verify")
    finally:
        place.down()


async def test_every_partition_of_a_node_keeps_the_reserve(small_disk: Path, raw: ModuleType) -> None:
    """Must hold: disk full: submits are refused with a reason, whichever partition they are for."""
    from .conftest import Place

    place = Place(small_disk, raw)
    queues = [next(q for q in QUEUES if partition_of(shard_of("default", q), 2) == n) for n in (0, 1)]
    try:
        place.up("--disk-reserve", "4", "--http-port", "off", "--partitions", "2")
        env = place.json("env")
        async with Client(Target(env["NATS_URL"], Path(env["NATS_NKEY"]))) as client:
            fill(small_disk / "a", left=2 * MB)
            for queue in queues:
                await refused(client, small_disk / "go", queue)
            (small_disk / "a").unlink()
            for queue in queues:
                place.until(partial(taken_in, place, queue))
    finally:
        place.down()


async def refused(client: Client, go: Path, queue: str = "scans") -> None:
    """Submits until one is refused, for want of room; the watch looks twice a second."""
    said = "nothing"
    for n in range(100):
        handle = await client.submit(queue, "scan", {"n": 100 + n, "go": str(go)}, id=f"r{n}")
        try:
            await client.result(handle, timeout_s=0.3)
        except TimeoutError:
            continue
        except SubmitRefused as why:
            said = str(why)
            break
    assert "the disk of the node has" in said


def taken_in(place: Place, queue: str) -> bool:
    """Whether a submit becomes a job."""
    place.writ("submit", queue, "scan", "--id", "again")
    return place.writ("job", "again", "--queue", queue, check=False).returncode == 0


def accepts(place: Place) -> bool:
    """Whether a submit is done."""
    words = ("submit", "scans", "scan", '{"n": 1, "go": ""}', "--wait")
    return place.writ(*words, check=False).returncode == 0
