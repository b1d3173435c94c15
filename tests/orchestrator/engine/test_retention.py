"""Snapshots and the archive on the in-memory twin: whatever is read from them is what the log told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from writ.broker.archive import Archive, ArchiveDamaged, ArchivedLog
from writ.broker.ports import Stored
from writ.orchestrator.retention import Kept, Retention, Sizes
from writ.orchestrator.snapshots import Snapshots, recover
from writ.orchestrator.state import Partition
from writ.schemas.subjects import log_subject

if TYPE_CHECKING:
    from .conftest import Tools, Twin
else:
    Tools = Twin = Any

SMALL = Sizes(segment_max=20, segment_min=5, snapshot_every=10)
HOUR_US = 3_600_000_000


class Shelf:
    """A twin's archive and snapshots."""

    def __init__(self, twin: Twin, tools: Tools) -> None:
        self.twin = twin
        self.segments, self.states = tools.objects(), tools.objects()

    @property
    def log(self) -> ArchivedLog:
        """As another process sees it, which knows of no segment yet."""
        return ArchivedLog(self.twin.log.inner, Archive(self.segments, 0))

    @property
    def snapshots(self) -> Snapshots:
        return Snapshots(self.states, 0)

    async def tend(self, later_us: int = HOUR_US) -> Kept:
        now = self.twin.clocks[""].wall_us() + later_us
        return await Retention(self.log, self.snapshots, SMALL).run(now)

    async def read(self, start: int = 1, *subjects: str) -> list[Stored]:
        return [m async for part in self.log.read(start, subjects) for m in part]


async def work(twin: Twin, count: int, queue: str = "mail") -> None:
    """So many jobs, of which one fails and is retried, and the last stays pending."""
    for index in range(count):
        await twin.submit({"task": "send", "id": f"{queue}{index}", "input": {"n": index}}, queue)
    await twin.settled()
    leases = (await twin.ask("acquire", queue, worker="w", count=count - 1, wait_s=0))["leases"]
    reports = [{"id": one["id"], "token": one["token"], "output": {"sent": True}} for one in leases]
    failed = {"id": reports[0]["id"], "token": reports[0]["token"], "class": "application", "type": "Bad"}
    await twin.ask("fail", queue, worker="w", reports=[failed])
    await twin.ask("complete", queue, worker="w", reports=reports[1:])
    await twin.settled()


async def end_all(twin: Twin, *queues: str) -> None:
    for queue in queues:
        await twin.ask("plan", queue, verb="terminate", reason="end", filter={})
    await twin.settled()


@pytest.fixture
async def shelf(twin: Twin, tools: Tools) -> Shelf:
    """A twin with some thirty records of jobs."""
    await work(twin, 8)
    return Shelf(twin, tools)


async def test_a_queue_without_the_policy_keeps_its_history_in_the_log(twin: Twin, shelf: Shelf) -> None:
    await end_all(twin, "mail")
    kept = await shelf.tend()
    assert (kept.archived, kept.trimmed, kept.log_first) == (0, 0, 1)
    assert kept.held_back is not None
    assert kept.held_back.reason == "neither queue mail nor its tenant has archive_after_s"


async def test_what_is_moved_is_read_as_before(
    twin: Twin, shelf: Shelf, snapshot: Callable[[Partition], dict[str, Any]]
) -> None:
    await twin.ask("declare", policy={"archive_after_s": 60})
    await end_all(twin, "mail")
    before = await shelf.read()
    own = log_subject(0, "default", "job", "mail~mail3")
    told, beats = await shelf.read(1, own), await shelf.read(1, "writ.log.0.*.partition.*")
    state = snapshot(await twin.folded())
    kept = await shelf.tend()
    assert kept.segments >= 2
    assert kept.archived == kept.trimmed == kept.archive_last > 25
    assert await twin.log.inner.first_seq() == kept.archive_last + 1
    assert await shelf.read() == before
    for start in (1, 2, kept.archive_last, kept.archive_last + 1, len(before)):
        assert await shelf.read(start) == before[start - 1 :]
    assert await shelf.read(1, own) == told != []
    assert await shelf.read(1, "writ.log.0.*.partition.*") == beats != []
    for snapshots in (None, shelf.snapshots):
        found, at = await recover(shelf.log, snapshots)
        assert snapshot(found) == state
        assert at.seq == len(before)


async def test_history_goes_only_when_its_job_ended_long_enough_ago(twin: Twin, shelf: Shelf) -> None:
    await twin.ask("declare", policy={"archive_after_s": 60})
    held = (await shelf.tend()).held_back
    assert held is not None
    assert "is retrying" in held.reason or "is pending" in held.reason
    await end_all(twin, "mail")
    held = (await shelf.tend(later_us=0)).held_back
    assert held is not None
    assert "ended less than 60 s ago" in held.reason
    assert held.until is not None
    now = twin.clocks[""].wall_us()
    assert (await shelf.tend(held.until - now - 1)).archived == 0
    assert (await shelf.tend(held.until - now + 1_000_000)).archived > 0


@pytest.mark.parametrize("room", range(9))
async def test_a_pass_that_is_cut_off_loses_nothing(twin: Twin, shelf: Shelf, room: int) -> None:
    """After each object that it puts: the next pass ends what it began."""
    await twin.ask("declare", policy={"archive_after_s": 60})
    await end_all(twin, "mail")
    before = await shelf.read()
    shelf.segments.room = shelf.states.room = room
    try:
        await shelf.tend()
    except OSError:
        assert room < 8
    assert await shelf.read() == before
    shelf.segments.room = shelf.states.room = 100
    kept = await shelf.tend()
    assert kept.log_first == kept.archive_last + 1 > 25
    assert await shelf.read() == before


async def test_a_leader_starts_from_a_snapshot_and_decides_the_same(twin: Twin, shelf: Shelf) -> None:
    await shelf.tend()
    await work(twin, 4, "post")
    await twin.stop()
    before = len(await shelf.read())
    (title,) = await shelf.snapshots.titles()
    read_from: list[int] = []
    inner = twin.log.inner
    whole = inner.read

    def watched(start: int = 1, subjects: Any = (), *, follow: bool = False) -> Any:
        read_from.append(start)
        return whole(start, subjects, follow=follow)

    inner.read = watched  # type: ignore[method-assign]
    twin.snapshots = shelf.snapshots
    await twin.start()
    assert read_from[:2] == [title.seq, title.seq + 1]
    inner.read = whole  # type: ignore[method-assign]
    assert before > title.seq
    await twin.check()
    await work(twin, 4, "late")
    await twin.check()


@pytest.mark.parametrize("harm", ["byte", "cut", "other log", "shape", "ahead"])
async def test_a_snapshot_that_does_not_fit_is_not_trusted(
    twin: Twin, shelf: Shelf, snapshot: Callable[[Partition], dict[str, Any]], harm: str
) -> None:
    await shelf.tend()
    objects = shelf.states.kept
    (title,) = [name for name in objects if name.endswith(".json")]
    (state,) = [name for name in objects if name.endswith(".state")]
    if harm == "byte":
        objects[state] = objects[state][:99] + bytes([objects[state][99] ^ 1]) + objects[state][100:]
    elif harm == "cut":
        objects[state] = objects[state][:-20]
    elif harm == "shape":
        objects[title] = objects[title].replace(b'"fold":"fold 2', b'"fold":"fold 3')
    elif harm == "other log":
        objects[title] = objects[title].replace(b'"digest":"', b'"digest":"f')
    else:
        objects[title] = objects[title].replace(b'"seq":', b'"seq":9')
    found, _ = await recover(shelf.log, shelf.snapshots)
    assert snapshot(found) == snapshot(await twin.folded())
    assert await shelf.snapshots.newest(shelf.log) is None


async def test_a_log_that_is_cut_while_it_is_read_is_named_at_the_start(
    twin: Twin, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that restarts in the middle, and has fewer records than it told of: the reading ends there."""
    last = await twin.log.last_seq()
    whole = twin.log.inner.read

    async def cut(start: int = 1, subjects: Any = (), *, follow: bool = False) -> Any:
        async for part in whole(start, subjects, follow=follow):
            yield [message for message in part if message.seq <= last - 3]

    await recover(shelf.log)
    assert not caplog.records
    twin.log.inner.read = cut  # type: ignore[method-assign]
    _, at = await recover(shelf.log)
    assert at.seq == last - 3
    assert f"ends at record {last - 3}, and its broker told of record {last} when" in caplog.text


async def test_a_harmed_archive_is_told_of_and_nothing_is_trimmed(twin: Twin, shelf: Shelf) -> None:
    await twin.ask("declare", policy={"archive_after_s": 60})
    await end_all(twin, "mail")
    put = shelf.segments.put

    async def harmed(name: str, parts: Any) -> None:
        await put(name, [b"".join(parts)[:-1] + b"x"])

    shelf.segments.put = harmed  # type: ignore[method-assign]
    with pytest.raises(ArchiveDamaged, match="holds other bytes"):
        await shelf.tend()
    assert await twin.log.inner.first_seq() == 1


async def test_an_archive_that_lacks_a_segment_is_no_history(twin: Twin, shelf: Shelf) -> None:
    await twin.ask("declare", policy={"archive_after_s": 60})
    await end_all(twin, "mail")
    await shelf.tend()
    del shelf.segments.kept[min(shelf.segments.kept)]
    with pytest.raises(ArchiveDamaged, match="begins at record"):
        await shelf.read()
    shelf.segments.kept.clear()
    with pytest.raises(ArchiveDamaged, match="its archive ends at record 0"):
        await shelf.read()


@pytest.mark.parametrize("subjects", [(), ("writ.log.0.default.job.*",)])
async def test_what_is_trimmed_under_a_reader_comes_from_the_archive(
    twin: Twin, shelf: Shelf, subjects: tuple[str, ...]
) -> None:
    """The broker goes on behind the gap without a word."""
    await twin.ask("declare", policy={"archive_after_s": 60})
    await end_all(twin, "mail")
    before = await shelf.read(1, *subjects)
    inner, log = twin.log.inner, shelf.log
    whole = inner.read

    async def in_threes(start: int = 1, subjects: Any = (), *, follow: bool = False) -> Any:
        while found := [part async for part in whole(start, subjects)]:
            yield found[0][:3]
            start = found[0][:3][-1].seq + 1

    inner.read = in_threes  # type: ignore[method-assign]
    reader = log.read(1, subjects)
    got = await anext(reader)
    inner.read = whole  # type: ignore[method-assign]
    assert (await shelf.tend()).trimmed > 25
    await work(twin, 2, "post")
    inner.read = in_threes  # type: ignore[method-assign]
    async for part in reader:
        got += part
    assert got == before


async def test_what_another_reader_finds_in_the_archive_is_not_passed_over(twin: Twin, shelf: Shelf) -> None:
    """Readers share what they know of the archive, and each has its own place in it."""
    for queue in ("mail", "post"):
        await twin.ask("declare", queue, policy={"archive_after_s": 60})
    await end_all(twin, "mail")
    first = await shelf.tend()
    await work(twin, 8, "post")
    await end_all(twin, "post")
    before = await shelf.read()
    log = shelf.log
    reader = log.read()
    got = await anext(reader)
    assert got[-1].seq < first.archive_last, "it stands within the archive"
    assert (await shelf.tend()).archive_last > first.archive_last
    other = [m async for part in log.read(first.archive_last + 1) for m in part]
    assert other == before[first.archive_last :]
    async for part in reader:
        got += part
    assert got == before
