"""The search view against looking through every job by hand."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.broker.memory import MemoryIntake
from writ.projections import paging, search
from writ.projections.feed import Batch
from writ.projections.folded import Folded
from writ.projections.queries import Queries
from writ.projections.reading import JobsReader
from writ.projections.search import SearchView, matches
from writ.schemas.chain import Position
from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import AttemptFailed, Fact, JobEdited, JobSubmitted, LeaseGranted
from writ.schemas.ids import fencing_token
from writ.schemas.queries import JobsPage, JobsQuery
from writ.schemas.records import GENESIS, Record
from writ.schemas.sealed import Sealed, seal

if TYPE_CHECKING:
    from tests.histories.builder import Histories
    from tests.projections.conftest import Running

SECRET = "zebra"
WORDS = ("invoice", "torn", "scan", "Straße", "größe", "2026-117", "page", "total", "a", "OR", "NEAR(", "*")


def told(jobs: int = 60) -> Iterator[Record]:
    """Jobs of two tenants with words in inputs and errors; each fifth is sealed, each seventh edited."""
    seq = 0

    def record(tenant: str, key: str, *events: Fact) -> Record:
        nonlocal seq
        seq += 1
        return Record(1, seq, tenant, "job", key, seq, "owner", events)

    for number in range(jobs):
        tenant, key = ("acme", "default")[number % 3 > 0], f"mail~j{number}"
        said = [WORDS[(number * step) % len(WORDS)] for step in (1, 3, 5)]
        content = seal(msgspec.json.encode({"says": said, "of": {"nested": number}}))
        if number % 5 == 0:
            content = Sealed("k1", "d", cipher=SECRET.encode())
        yield record(tenant, key, JobSubmitted("mail.send", content))
        if number % 7 == 0 and number % 5:
            yield record(
                tenant, key, JobEdited("mended", input=seal(msgspec.json.encode([said[0], "edited"])))
            )
        if number % 4 == 0:
            yield record(tenant, key, LeaseGranted("w", 1))
            text = (
                Sealed("k1", "d", cipher=SECRET.encode())
                if number % 5 == 0
                else seal(b'"the scan\\nis torn"')
            )
            error = AttemptError(ErrorClass.APPLICATION, "ValueError", text)
            yield record(tenant, key, AttemptFailed(1, fencing_token(1, seq), error))


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def by_hand(records: Sequence[Record], tenant: str, *terms: str) -> list[int]:
    """The jobs in which all the words are, newest first."""
    opened: dict[str, int] = {}
    says: dict[str, dict[str, str]] = {}
    for record in records:
        for event in record.events:
            mine = says.setdefault(record.key, {})
            if isinstance(event, JobSubmitted):
                opened[record.key] = record.seq
            if isinstance(event, JobSubmitted | JobEdited) and event.input is not None:
                mine["input"] = bytes(event.input.plain).decode()
            if isinstance(event, AttemptFailed) and event.error.text is not None:
                text = bytes(event.error.text.plain)
                mine["error"] = f"{event.error.type} {msgspec.json.decode(text)}" if text else ""
    ours = {record.key for record in records if record.tenant == tenant}
    found: list[int] = []
    for key in ours:
        runs = [" ".join(["", *words_of(text), ""]) for text in says[key].values()]
        wanted = [" ".join(["", *words_of(term), ""]) for term in terms]
        if says[key]["input"] and all(any(term in run for run in runs) for term in wanted):
            found.append(opened[key])
    return sorted(found, reverse=True)


async def build(path: Path, records: list[Record], size: int) -> None:
    folded = await Folded.open(path, SearchView())
    for start in range(0, len(records), size):
        part = records[start : start + size]
        assert await folded.apply(Batch(part, Position(1, part[-1].seq, GENESIS))) is None
    await folded.close()


@pytest.mark.parametrize("size", [1, 7, 1_000])
async def test_jobs_are_found_by_the_words_that_they_say(size: int, tmp_path: Path) -> None:
    records = list(told())
    path = tmp_path / "search.db"
    await build(path, records, size)
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO words (words) VALUES ('integrity-check')")  # raises where the index is wrong

        def found(tenant: str, text: str) -> list[int]:
            return matches(db, tenant, text, 0, paging.END)[0]

        some = 0
        asked = ("invoice", "TORN", "strasse", "Straße", "größe", "2026-117", "edited", "valueerror", "or")
        for word in asked:
            for tenant in ("default", "acme", "nobody"):
                assert found(tenant, word) == by_hand(records, tenant, word), (tenant, word)
                some += len(found(tenant, word))
        assert some > 60
        assert found("default", "scan torn") == by_hand(records, "default", "scan", "torn") != []
        assert found("default", '"scan is torn"') == by_hand(records, "default", "scan is torn") != []
        assert found("default", '"torn scan is"') == []
        for nothing in ("* -- !", '"', "input:torn)", "tenant", "t64656661756c74"):
            same = by_hand(records, "default", nothing) if words_of(nothing) else []
            assert found("default", nothing) == same, nothing
        assert found("default", SECRET) == []
    kept = b"".join([file.read_bytes() for file in tmp_path.iterdir()])  # noqa: ASYNC240 - nobody waits
    assert b"invoice" in kept
    assert SECRET.encode() not in kept, "what is sealed leaves nothing here"


async def test_words_go_with_every_other_filter_in_pages(
    history: Histories, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is short, as most of what was found does not match, has a next one."""
    log = history.wander(5, 300, 40).log()
    async with AsyncExitStack() as parts:
        jobs = await parts.enter_async_context(running(log))
        words = await parts.enter_async_context(running(log, "search.db", make=SearchView))
        queries = Queries([jobs, words], log, MemoryIntake(), "0")
        parts.push_async_callback(queries.close)

        async def ask(**question: Any) -> JobsPage:
            answer = await queries.answer("writ.query.default.owner.jobs", msgspec.json.encode(question))
            return msgspec.json.decode(answer, type=JobsPage)

        async def everything(**question: Any) -> list[str]:
            found: list[str] = []
            cursor: str | None = None
            while True:
                page = await ask(**question, limit=7, cursor=cursor)
                assert page.error is None
                found += [job.id for job in page.jobs]
                cursor = page.next
                if cursor is None:
                    return found

        every = (await ask(limit=500)).jobs
        often_in = Counter(word for job in every for word in set(words_of(bytes(job.input).decode())))
        said, often = often_in.most_common(1)[0]
        assert often > 2
        for scanned in (2_000, 2):
            monkeypatch.setattr(search, "SCANNED_MAX", scanned)
            for equal in ({}, {"states": ["completed"]}, {"queue": every[0].queue}):
                same = [
                    job.id
                    for job in (await ask(limit=500, **equal)).jobs
                    if said.lower() in words_of(bytes(job.input).decode() + _said(job))
                ]
                assert await everything(search=said, **equal) == same
        assert await everything(search=said)


def _said(job: Any) -> str:
    return "" if job.error is None else f" {job.error.type} {job.error.text}"


async def test_what_the_jobs_view_has_not_read_yet_is_not_shown(history: Histories, running: Running) -> None:
    async with running(history.wander(5, 30).log()) as runner:
        assert await runner.wait_for(30, 30)
        reader = JobsReader(runner.path)
        (newest, *_) = (await reader.page("default", JobsQuery())).rows
        found = await reader.page("default", JobsQuery(), [newest.opened, 10_000])
        await reader.close()
    assert [row.opened for row in found.rows] == [newest.opened]


async def test_a_node_without_the_index_says_so(history: Histories, running: Running) -> None:
    log = history.wander(5, 30).log()
    async with running(log) as runner:
        queries = Queries([runner], log, MemoryIntake(), "0")
        answer = await queries.answer("writ.query.default.owner.jobs", b'{"search": "torn"}')
        refused = msgspec.json.decode(answer, type=JobsPage).error
        await queries.close()
    assert refused is not None
    assert (refused.field, "writ up --search" in refused.reason) == ("search", True)
