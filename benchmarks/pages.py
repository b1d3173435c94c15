"""Measures pages of every list over views of a million jobs. Exits 1 where one takes 50 ms or longer.

    python -m benchmarks.pages [--jobs 1000000] [--directory DIR] [--times 5] [--only jobs,traffic]

The views are folded from a made history (`population.py`) with no broker before them. Then every list is
asked over a real broker for what its filters find, alone and in pairs: names that most rows have, names of
one row far away, and names of none; from the newest, from the middle and near the end; short pages and the
longest. What counts is the median of so many askings, from the request to its answer. With `--directory` the
views are kept there, and asked again without being filled.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.hardened import HardenedClient
from writ.broker.memory import MemoryIntake, MemoryLog
from writ.broker.queries import serve_queries
from writ.projections.feed import Batch, Feeds
from writ.projections.folded import BATCH_MAX_RECORDS, Folded, reached_in
from writ.projections.queries import Queries
from writ.projections.registry import VIEWS
from writ.projections.runner import Runner
from writ.schemas.chain import Position
from writ.schemas.ids import job_key
from writ.schemas.queries import NodeStatus
from writ.schemas.records import GENESIS, Record
from writ.schemas.subjects import query_subject

from .population import ACTORS, MODELS, QUEUES, RARE, SPAN_US, START_US, TENANT, TOOLS, Population

PAGE_MAX_MS: Final = 50.0
_FEW, _MANY = QUEUES[-1], QUEUES[0]
_NEVER: Final = "never"

Question = dict[str, Any]
Filters = dict[str, list[Any]]


class Paged(msgspec.Struct):
    """What all answers have in common."""

    error: Any = None
    next: str | None = None


class Timed(NamedTuple):
    """The median of a question's times, and the mean of the processor time of views and asker together."""

    ms: float
    cpu_ms: float
    verb: str
    question: Question


def lists(last: int) -> dict[str, Filters]:
    """What is asked for, by list and filter, of a history of so many records.

    Each filter comes alone and with every other one.
    """
    days = SPAN_US // 86_400_000_000
    middle, late = _day(days // 2), _day(days - 1)
    span: Filters = {"since": [middle, late], "until": [middle, _day(0)]}
    newest: Filters = {**span, "limit": [1, 500], "cursor": [str(last // 2), str(min(last, 9_000))]}
    shifted: Filters = {**newest, "cursor": [str(last // 2 << 16), str(min(last, 9_000) << 16)]}
    keyed: Filters = {"cursor": [f"{QUEUES[60]}~zzz", _NEVER], "limit": [1, 500]}
    queue: Filters = {"queue": [_MANY, _FEW, _NEVER]}
    job: Filters = {"job": [f"{_MANY}-{7_919 * 3:08}", _NEVER]}
    errors: Filters = {"error_class": ["application", "poison", "cancelled"]}
    actors: Filters = {"actor": [ACTORS[0], RARE, _NEVER]}
    return {
        "jobs": {
            **{"states": [["dead"], ["suspended"], ["pending", "running"], ["retrying"]], **queue},
            **{"task": [f"{_MANY}.send", f"{_FEW}.send", RARE, _NEVER], **errors, **actors},
            **{"tags": [{"env": "prod"}, {"env": "prod", "customer": "c7"}, {"only": RARE}, {"no": "tag"}]},
            **{"batch": ["everything", "b3", RARE, _NEVER], "cause": [_NEVER]},
            **{"parent": [job_key(_MANY, _NEVER)], "schedule": ["s15", _NEVER]},
            **{"operation": [_NEVER], **newest},
        },
        "dead": {**queue, "task": [f"{_MANY}.send", RARE, _NEVER], "cause": [_NEVER], **keyed},
        "queues": {**queue, "history": [True], "cursor": [QUEUES[60]], "limit": [1, 500]},
        "schedules": {
            **{**queue, "name": ["s1", _NEVER], "times": [0, 100], "deleted": [True], "history": [True]},
            **keyed,
        },
        "operations": {**queue, "id": [_NEVER], **keyed},
        "batches": {**queue, "batch": ["everything", _NEVER], "history": [True], **keyed},
        "holds": {**queue, "name": ["case-1", _NEVER], "lifted": [True], **keyed},
        "attempts": {
            **{**job, **queue, "worker": ["w0-1", RARE, _NEVER], **errors},
            **{"outcome": ["live", "completed", "snoozed"], **newest},
        },
        "workers": {
            **{"worker": ["w0-1", _NEVER], "since": [_day(0), middle, _day(days + 9)]},
            **{"cursor": ["w5", "x"], "limit": [1, 500]},
        },
        "traffic": {**queue, "since": [_day(0), middle, late], "cursor": [QUEUES[60]], "limit": [1, 500]},
        "cost": {
            **{"by": [[], ["day"], ["day", "queue", "task", "model", "release"]], **queue, **span},
            **{"task": [f"{_MANY}.send", _NEVER], "model": [MODELS[0], _NEVER], "limit": [1, 500]},
        },
        "tools": {
            **{"tool": [TOOLS[0], RARE], "since": [_day(0), middle]},
            **{"cursor": [TOOLS[30]], "limit": [1, 500]},
        },
        "tool_calls": {
            **{"tool": [TOOLS[0], RARE, _NEVER], **queue, **job},
            **{"outcome": ["done", "denied"], **shifted},
        },
        "audit": {
            **{**actors, **queue, **job, "verb": ["submit", "cancel", _NEVER], "refused": [True, False]},
            **shifted,
        },
    }


def questions(filters: Filters) -> Iterator[Question]:
    """No filter, each alone, and every two of them."""
    single = [(name, value) for name, values in filters.items() for value in values]
    yield {}
    for name, value in single:
        yield {name: value}
    for one, other in itertools.combinations(single, 2):
        if one[0] != other[0]:
            yield dict((one, other))


def _day(number: int) -> str:
    begun = datetime.datetime.fromtimestamp(START_US / 1e6, datetime.UTC)
    return (begun + datetime.timedelta(days=number)).isoformat()


async def fill(directory: Path, jobs: int) -> int:
    """Folds the history into a file for each view; the number of its records."""
    folded = [await Folded.open(directory / f"{make().name}.db", make()) for make in VIEWS]
    part: list[Record] = []
    seq = 0

    async def store() -> None:
        batch = Batch(part, Position(1, part[-1].seq, GENESIS))
        for each in folded:
            fault = await each.apply(batch)
            assert fault is None, fault

    for record in Population(jobs).records():
        part.append(record)
        seq = record.seq
        if len(part) == BATCH_MAX_RECORDS:
            await store()
            part = []
    if part:
        await store()
    for each in folded:
        await each.close()
    return seq


class Shelf:
    """Filled views behind a broker, as the process of the views serves them, and a connection that asks."""

    def __init__(self, queries: Queries, link: HardenedClient, target: Target) -> None:
        self.queries = queries
        self.target = target
        self._link = link

    @classmethod
    async def open(cls, directory: Path, views: Path, parts: AsyncExitStack) -> Shelf:
        """Closed with `parts`. Nothing is written: the log behind the views is one that brings no more."""
        broker = await EmbeddedBroker.start(directory / "broker")
        parts.push_async_callback(broker.stop)
        links: list[HardenedClient] = []
        for key, inbox in (("answer", "_INBOX"), (f"{TENANT}.owner", None)):
            target = Target(broker.url, broker.key_path(key))
            links.append(await connect(target, "bench", inbox_prefix=inbox))
            parts.push_async_callback(links[-1].close)
        log = MemoryLog()
        feeds = Feeds(log)
        parts.push_async_callback(feeds.close)
        runners = [Runner(views / f"{make().name}.db", feeds, make) for make in VIEWS]
        for runner in runners:
            parts.push_async_callback(runner.close)
            await runner.open()
            assert not runner.outdated, f"the view {runner.name} in {views} is of another version"
        queries = Queries(runners, log, MemoryIntake(), "0")
        parts.push_async_callback(queries.close)
        await serve_queries(links[0], queries.answer)
        await links[0].flush()
        owner = Target(broker.url, broker.key_path(f"{TENANT}.owner"), TENANT, "owner")
        return cls(queries, links[1], owner)

    async def ask(self, verb: str, question: Question) -> Paged:
        """Raises AssertionError where it is refused."""
        subject = query_subject(TENANT, "owner", verb)
        answer = await self._link.request(subject, msgspec.json.encode(question), timeout=60)
        page = msgspec.json.decode(answer.data, type=Paged)
        assert page.error is None, (verb, question, page.error)
        return page

    async def time(self, verb: str, question: Question, times: int) -> Timed:
        took: list[float] = []
        cpu_s = time.process_time()
        for _ in range(times):
            begun = time.perf_counter()
            await self.ask(verb, question)
            took.append((time.perf_counter() - begun) * 1e3)
        cpu_ms = (time.process_time() - cpu_s) * 1e3 / times
        return Timed(sorted(took)[times // 2], cpu_ms, verb, question)


async def measure(shelf: Shelf, asked: dict[str, Filters], times: int) -> list[Timed]:
    """Every question of every list, and a line for each list."""
    found: list[Timed] = []
    print(f"  {'list':<11}{'questions':>10}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'max CPU':>9}  slowest")
    for verb, filters in asked.items():
        timed = sorted([await shelf.time(verb, question, times) for question in questions(filters)], key=_ms)
        p50, p99, most = timed[len(timed) // 2], timed[len(timed) * 99 // 100], timed[-1]
        figures = (p50.ms, p99.ms, most.ms, max([each.cpu_ms for each in timed]))
        row = "".join([f"{each:>9.1f}" for each in figures])
        print(f"  {verb:<11}{len(timed):>10}{row}  {msgspec.json.encode(most.question).decode()}", flush=True)
        found += timed
    return found


def _ms(timed: Timed) -> float:
    return timed.ms


async def filled(directory: Path, jobs: int) -> Path:
    """The folder with the views, whole: those that are there already, or new ones."""
    views = directory / "views"
    if not views.exists():
        filling = directory / "filling"
        shutil.rmtree(filling, ignore_errors=True)  # of a run that was ended
        filling.mkdir(parents=True)
        begun = time.monotonic()
        last = await fill(filling, jobs)
        size = sum(file.stat().st_size for file in filling.iterdir()) / 1e6
        took_s = time.monotonic() - begun
        print(f"  {jobs:,} jobs, {last:,} records, folded in {took_s:,.0f} s: {size:,.0f} MB of views")
        filling.rename(views)
    return views


async def main(jobs: int, kept: Path | None, times: int, only: list[str]) -> int:
    """The exit code."""
    async with AsyncExitStack() as parts:
        directory = kept or Path(parts.enter_context(tempfile.TemporaryDirectory()))
        views = await filled(directory, jobs)
        last = reached_in(views / "jobs.db").position.seq
        asked = lists(last)
        shelf = await Shelf.open(directory, views, parts)
        status = await shelf.queries.answer(query_subject(TENANT, "owner", "status"), b"")
        held = sum(msgspec.json.decode(status, type=NodeStatus).jobs.values())
        timed = await measure(shelf, {verb: asked[verb] for verb in only or asked}, times)
    slow = [each for each in timed if each.ms >= PAGE_MAX_MS]
    for each in sorted(slow, key=_ms, reverse=True)[:20]:
        print(f"  {each.ms:.0f} ms: {each.verb} {msgspec.json.encode(each.question).decode()}")
    most = max(timed, key=_ms)
    print(
        f"pages: {len(timed) - len(slow):,} of {len(timed):,} questions answered in under {PAGE_MAX_MS:g} ms"
        f" over {held:,} jobs of a tenant, {last:,} records; {most.ms:.1f} ms at most ({most.verb}),"
        f" {max([each.cpu_ms for each in timed]):.1f} ms of CPU;"
        f" load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    return 1 if slow else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, help="where the views are kept")
    parser.add_argument("--times", type=int, default=5, help="each question is asked")
    parser.add_argument("--only", default="", help="these lists, by commas")
    given = parser.parse_args()
    some = [verb for verb in given.only.split(",") if verb]
    sys.exit(asyncio.run(main(given.jobs, given.directory, given.times, some)))
