"""Batches that are not committed yet are kept in memory, and what is stored does not depend on it."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from writ.broker import staging as module
from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.log import JetStreamLog
from writ.broker.ports import Message
from writ.broker.staging import MEMORY, Staging

pytestmark = pytest.mark.skipif(not MEMORY.is_mount(), reason="no file system in memory here")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory of this test's own."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """The folder of a stream, as nats-server lays it."""
    folder = tmp_path / "jetstream" / "WRIT" / "streams" / "WRIT_LOG_0"
    folder.mkdir(parents=True)
    return folder


def batch(after: int, count: int) -> list[Message]:
    numbers = range(after + 1, after + count + 1)
    return [Message(f"writ.log.0.default.job.q~{number}", b"%d" % number) for number in numbers]


def staged_in(directory: Path) -> Path:
    """The link of the log's stream."""
    (link,) = directory.glob("jetstream/*/*/streams/WRIT_LOG_0/batches")
    return link


async def test_a_batch_goes_by_memory_and_outlives_a_kill_of_the_broker(tmp_path: Path) -> None:
    broker = await EmbeddedBroker.start(tmp_path)
    link = await connect(Target(broker.url, broker.key_path("log")), "test", inbox_prefix="_INBOX")
    log = await JetStreamLog.open(link)
    broker.staging.tend()
    staged = staged_in(tmp_path)
    inside = staged.readlink()
    assert inside.is_relative_to(MEMORY)
    made = inside.stat().st_mtime_ns
    await log.append(batch(0, 50), 0, whole=True)
    assert inside.stat().st_mtime_ns > made, "the broker made its store of the batch there"
    await link.close()
    await broker.kill()
    assert not inside.exists()
    assert not staged.is_symlink()

    async with await EmbeddedBroker.start(tmp_path) as broker:
        link = await connect(Target(broker.url, broker.key_path("log")), "test", inbox_prefix="_INBOX")
        log = JetStreamLog(link, 0, 1)
        assert [m.body async for part in log.read() for m in part] == [b"%d" % n for n in range(1, 51)]
        await log.append(batch(50, 50), 50, whole=True)
        assert await log.last_seq() == 100
        await link.close()


async def test_a_folder_that_somebody_cleaned_away_is_made_anew(tmp_path: Path) -> None:
    async with await EmbeddedBroker.start(tmp_path) as broker:
        link = await connect(Target(broker.url, broker.key_path("log")), "test", inbox_prefix="_INBOX")
        log = await JetStreamLog.open(link)
        broker.staging.tend()
        staged = staged_in(tmp_path)
        await log.append(batch(0, 10), 0, whole=True)
        shutil.rmtree(staged.readlink())
        async with asyncio.timeout(30):
            while not staged.exists():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
        await log.append(batch(10, 10), 10, whole=True)
        assert await log.last_seq() == 20
        await link.close()


def test_what_an_earlier_run_left_is_cleared(stream: Path, tmp_path: Path, memory: Path) -> None:
    left = Staging(tmp_path, memory)
    left.tend()
    folder = (stream / "batches").readlink()
    assert folder.is_dir()
    Staging(tmp_path, memory).clear()
    assert not (stream / "batches").is_symlink()
    assert not list(memory.iterdir())


def test_a_link_that_is_somebody_elses_loses_nothing(stream: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs" / "batches"
    theirs.mkdir(parents=True)
    (stream / "batches").symlink_to(theirs)
    Staging(tmp_path, None).clear()
    assert theirs.is_dir()


def test_a_folder_of_the_brokers_is_left_alone(stream: Path, tmp_path: Path, memory: Path) -> None:
    theirs = stream / "batches"
    theirs.mkdir()
    Staging(tmp_path, memory).tend()
    assert theirs.is_dir()
    assert not theirs.is_symlink()


def test_batches_go_to_the_disk_where_memory_is_short(
    stream: Path, tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = Staging(tmp_path, memory)
    staging.tend()
    state = os.statvfs(memory)
    monkeypatch.setattr(module, "ROOM_BYTES", state.f_blocks * state.f_frsize + 1)
    staging.tend()
    assert not (stream / "batches").is_symlink()
    staging.tend()
    assert not (stream / "batches").is_symlink()


def test_without_memory_nothing_is_changed(stream: Path, tmp_path: Path) -> None:
    staging = Staging(tmp_path, None)
    staging.tend()
    assert not list(stream.iterdir())
