"""Processes and their releases: what points where, what was proved of each, and how it came to be so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from writ.cli.releases import aliases_of, standing_of
from writ.http.problems import Fault
from writ.orchestrator.replay.releasing import about, check_lines, release_words
from writ.schemas.codec import decode
from writ.schemas.events import type_names
from writ.schemas.queries import LogQuery, RecordsPage

from .telling import Event
from .visit import Denied, Page, Visit, part

if TYPE_CHECKING:
    from writ.schemas.processes import Process, Release

RELEASES: Final = 50
PROCESSES: Final = 50
_RECORDS: Final = 200


class Row(NamedTuple):
    """A release: the aliases that point at it, whether it may run, and what was proved, in words."""

    release: Release
    aliases: list[str]
    standing: str
    proved: list[tuple[str, str]]


class Said(NamedTuple):
    """An event about a release, in words, with the checks of its gates."""

    seq: int
    at: int
    event: str
    words: str
    checks: list[str]


def rows(process: Process, releases: Iterable[Release]) -> list[Row]:
    return [
        Row(each, aliases_of(process, each.digest), standing_of(process, each), _proved(each))
        for each in releases
    ]


def _proved(release: Release) -> list[tuple[str, str]]:
    """The outcome of each evaluation, drill and policy check, and its name."""
    found = [(each.verdict.outcome.value, each.data) for each in release.evaluations]
    found += [(each.outcome.value, each.drill) for each in release.drills]
    return found + [(each.outcome.value, each.check) for each in release.checks]


def newest(process: Process, most: int, before: int | None = None) -> list[Release]:
    """The releases that were published last, before a record."""
    found = [each for each in process.releases.values() if before is None or each.seq < before]
    return sorted(found, key=lambda each: -each.seq)[:most]


async def releases(visit: Visit) -> Page:
    """Every process with what live and candidate are, and its newest releases."""
    after = visit.one("cursor") or ""
    found = [each for each in await visit.client.processes() if each.name > after]
    shown = sorted(found, key=lambda each: each.name)[: PROCESSES + 1]
    more = shown[PROCESSES - 1].name if len(shown) > PROCESSES else None
    listed = [(each, rows(each, newest(each, 3))) for each in shown[:PROCESSES]]
    return Page("releases.html", {"listed": listed, "next": more})


async def process(visit: Visit) -> Page:
    name, cursor = visit.path["process"], visit.one("cursor")
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise Fault(422, f"cursor is the sequence of a record; {cursor[:40]!r} is not", "cursor")
    found, gates, may = await asyncio.gather(
        visit.client.process(name),
        part(visit.client.gates()),
        visit.may(("rollback_release", "freeze_release", "unfreeze_release")),
    )
    shown = newest(found, RELEASES + 1, None if cursor is None else int(cursor))
    held: Any = gates
    if not isinstance(gates, Denied):
        held = [
            (gate_name, gate)
            for gate_name, gate in sorted(gates.items())
            if gate.spec is not None and gate.spec.process in ("*", name)
        ]
    stop = "freeze_release" if found.frozen is None else "unfreeze_release"
    live = found.pointer("live", "*")
    back = ["rollback_release"] if live is not None and live.before else []
    return Page(
        "process.html",
        {
            "process": found,
            "rows": rows(found, shown[:RELEASES]),
            "next": shown[RELEASES - 1].seq if len(shown) > RELEASES else None,
            "gates": held,
            "actions": [verb for verb in (*back, stop) if verb in may],
            "done": await _just_done(visit, name),
        },
    )


async def release(visit: Visit) -> Page:
    """One release: what was proved, who said yes, and each event about it, from the log."""
    name, ref = visit.path["process"], visit.path["release"]
    of = await visit.client.process(name)
    found = of.find(ref)
    if found is None:
        raise Fault(404, f"{name} has no release {ref[:80]}")
    history, may = await asyncio.gather(
        part(_history(visit, name, found)), visit.may(("freeze_release", "unfreeze_release"))
    )
    stop = "freeze_release" if found.frozen is None else "unfreeze_release"
    actions = [] if found.revoked is not None else [verb for verb in (stop,) if verb in may]
    (row,) = rows(of, [found])
    said, after = ((), None) if isinstance(history, Denied) else history
    return Page(
        "release.html",
        {
            "process": of,
            "row": row,
            "release": found,
            "history": history if isinstance(history, Denied) else said,
            "next": after,
            "actions": actions,
            "done": await _just_done(visit, name),
        },
    )


async def _just_done(visit: Visit, name: str) -> dict[str, list[Event]] | None:
    """What the record tells that whoever looks comes from, as far as they may read the log."""
    seen = visit.one("seen") or ""
    if not (seen.isascii() and seen.isdigit() and 0 < len(seen) < 19 and int(seen)):
        return None
    query = LogQuery(kind="process", queue=name, after=int(seen) - 1, limit=1)
    page = await part(visit.client.ask(query))
    if isinstance(page, Denied):
        return None
    records = [decode(bytes(view.record)) for view in page.records if str(view.seq) == seen]
    return {
        "events": [
            Event(type_names[type(event)], release_words(event, record.actor))
            for record in records
            for event in record.events
        ]
    }


async def _history(visit: Visit, name: str, release: Release) -> tuple[list[Said], int | None]:
    """What the process's records say of a release, so many of them, and where the next ones begin."""
    cursor = visit.one("cursor") or ""
    after = int(cursor) if cursor.isascii() and cursor.isdigit() and len(cursor) < 19 else release.seq - 1
    page = await visit.client.ask(LogQuery(kind="process", queue=name, after=after, limit=_RECORDS))
    assert isinstance(page, RecordsPage)
    found: list[Said] = []
    for view in page.records:
        record = decode(bytes(view.record))
        found += [
            Said(
                record.seq,
                record.at,
                type_names[type(event)],
                release_words(event, record.actor),
                list(check_lines(getattr(event, "checks", ()))),
            )
            for event in record.events
            if about(event, release.digest)
        ]
    return found, page.records[-1].seq if page.more and page.records else None
